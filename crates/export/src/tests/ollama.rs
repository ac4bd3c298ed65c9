use rankine_data::{ChatTemplate, SpecialTokens};

use super::*;
use crate::ollama::chat_format::{ChatFormat, System};
use crate::ollama::go_template;

fn goldens(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(path)
}

/// The golden templates that constant text around messages says, with BOS put there by the tokenizer.
const TRANSLATED: [&str; 13] = [
    "chatml",
    "gemma2",
    "gemma3",
    "llama2",
    "llama3",
    "llama3_1",
    "llama3_2",
    "phi3",
    "phi3_5",
    "qwen2_5",
    "qwen3",
    "qwen3_instruct_2507",
    "smollm2",
];

fn format_of(name: &str) -> Result<ChatFormat, String> {
    let golden = json(&goldens(&format!("templates/{name}.json")));
    let text = |key: &str| golden[key].as_str().map(str::to_owned);
    let special = SpecialTokens { bos: text("bos_token"), eos: text("eos_token"), ..SpecialTokens::default() };
    let template = ChatTemplate::new(golden["template"].as_str().unwrap(), &special).unwrap();
    ChatFormat::of(&template, special.bos.as_deref())
}

/// `tests/golden/ollama/NAME.gotmpl` is what is written for the template NAME; `prove.py` beside them renders each with
/// Go's own package and compares with what transformers renders.
#[test]
fn templates_are_translated_as_goldens_prove() {
    for name in TRANSLATED {
        let source = go_template::source(&format_of(name).unwrap()).unwrap();
        let expected = fs::read_to_string(goldens(&format!("ollama/{name}.gotmpl"))).unwrap();
        assert_eq!(source, expected, "{name}");
    }
}

#[test]
#[ignore = "writes the golden files anew"]
fn write_the_golden_translations() {
    for name in TRANSLATED {
        let source = go_template::source(&format_of(name).unwrap_or_else(|error| panic!("{name}: {error}"))).unwrap();
        fs::write(goldens(&format!("ollama/{name}.gotmpl")), source).unwrap();
    }
}

#[test]
fn what_is_no_constant_text_is_refused() {
    let refused = format_of("mistral-nemo");
    assert!(refused.is_err(), "{refused:?}");
    let template = "{% for m in messages %}{{ loop.index }}: {{ m.content }}\n{% endfor %}";
    let template = ChatTemplate::new(template, &SpecialTokens::default()).unwrap();
    assert!(ChatFormat::of(&template, None).is_err());
}

#[test]
fn the_parts_of_a_format_are_read_off() {
    let format = format_of("llama3").unwrap();
    assert_eq!(format.begin, "<|begin_of_text|>");
    assert_eq!(format.user.before, "<|start_header_id|>user<|end_header_id|>\n\n");
    assert_eq!((format.user.after.as_str(), format.answer_end()), ("<|eot_id|>", "<|eot_id|>"));
    assert_eq!(format.prompt, "<|start_header_id|>assistant<|end_header_id|>\n\n");
    match format_of("smollm2").unwrap().system {
        System::Message { default, .. } => assert!(default.contains("You are a helpful AI assistant named SmolLM")),
        other => panic!("{other:?}"),
    }
    assert!(matches!(format_of("llama2").unwrap().system, System::InFirstQuestion(_)));
    assert_eq!(format_of("gemma2").unwrap().system, System::Refused);
}

#[test]
fn a_folder_for_ollama_has_a_modelfile() {
    let place = Place::new();
    let chatml = json(&goldens("templates/chatml.json"))["template"].as_str().unwrap().to_owned();
    let tokenizer = super::gguf::tokenizer(Some(&chatml));
    let (base, adapter) = (golden("llama-tied"), golden("llama-tied").join("adapter"));
    let inputs = ExportInputs {
        base: &base,
        adapter: Some(&adapter),
        tokenizer: Some(tokenizer.path()),
        chat_template: None,
        facts: &place.facts,
    };
    let config = ExportConfig { quantize: Some(GgufQuantize::Q8_0), ..ExportConfig::new(Target::Ollama) };
    export(&config, &inputs, &place.out(), &mut |_| ()).unwrap();
    assert_eq!(listing(&place.out()), ["Modelfile", "README.md", "export.json", "model.gguf"]);
    let text = fs::read_to_string(place.out().join("Modelfile")).unwrap();
    let template = fs::read_to_string(goldens("ollama/chatml.gotmpl")).unwrap();
    let expected = format!(
        "FROM ./model.gguf\n\nTEMPLATE \"\"\"{template}\"\"\"\n\nPARAMETER stop \"<|im_end|>\"\nPARAMETER num_ctx 64\n"
    );
    assert_eq!(text, expected);
    // Without a chat there is nothing that Ollama could do with it.
    let bare = super::gguf::tokenizer(None);
    let inputs = ExportInputs { tokenizer: Some(bare.path()), ..inputs };
    let text = export(&config, &inputs, &place.dir.path().join("other"), &mut |_| ()).unwrap_err().to_string();
    assert!(text.contains("there is no chat template: train with one"), "{text}");
}
