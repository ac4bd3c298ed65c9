//! Rules of Amazon Bedrock's Custom Model Import.

use std::io::Read;

use rankine_models::companions::{CONFIG_FILE, GENERATION_FILE, TEMPLATE_FILES};
use rankine_models::weights::{INDEX_FILE, SINGLE_FILE};
use serde_json::{Map, Value, json};

use super::Limits;
use super::finding::Rule;
use super::folder::Folder;
use super::tokenizer::TOKENIZER_CONFIG;
use crate::deploy;
use crate::transformers4::{TOKENIZERS, VERSION, is_allowed_tokenizer, later_spellings};

/// What an import takes, by the class in `architectures`. Of most, the documentation names the family and not the class.
const ARCHITECTURES: [&str; 12] = [
    "LlamaForCausalLM",
    "MllamaForConditionalGeneration",
    "MistralForCausalLM",
    "MixtralForCausalLM",
    "T5ForConditionalGeneration",
    "GPTBigCodeForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen2VLForConditionalGeneration",
    "Qwen2_5_VLForConditionalGeneration",
    "Qwen3ForCausalLM",
    "Qwen3MoeForCausalLM",
    "GptOssForCausalLM",
];
/// Where GPT-OSS ends a turn.
const GPT_OSS_STOPS: [u64; 3] = [200_002, 199_999, 200_012];

pub(super) fn check(folder: &mut Folder, limits: &Limits) {
    check_files(folder, limits);
    if let Some(config) = folder.json(CONFIG_FILE).object() {
        check_config(folder, &config, limits);
    }
    check_tokenizer(folder);
}

fn check_files(folder: &mut Folder, limits: &Limits) {
    let weights: Vec<(String, u64)> =
        folder.files.iter().filter(|(name, _)| name.ends_with(".safetensors")).map(|(n, s)| (n.clone(), *s)).collect();
    let total: u64 = weights.iter().map(|(_, bytes)| bytes).sum();
    if total >= limits.total {
        let what = format!("the weights have {total} bytes, and an import takes less than {}", limits.total);
        folder.error(Rule::TotalSize, CONFIG_FILE, what, "export a smaller model, or in bf16");
    }
    for (name, bytes) in &weights {
        if *bytes > limits.shard {
            let what = format!("it has {bytes} bytes, and {} are taken", limits.shard);
            folder.error(Rule::ShardSize, name, what, "export anew: shards of 5 GB are the default");
        }
        if header_bytes(folder, name).is_some_and(|header| header > limits.header) {
            let what = format!("its header has more than {} bytes", limits.header);
            folder.error(Rule::HeaderSize, name, what, "export in more shards, or with shorter metadata");
        }
        if !is_weight_name(name, folder.has(INDEX_FILE)) {
            let what =
                format!("weights are {SINGLE_FILE}, or shards like model-00001-of-00002.safetensors with {INDEX_FILE}");
            folder.error(
                Rule::ShardName,
                name,
                what,
                "export the model anew, or rename the files and the index's entries",
            );
        }
        let types = quantised_types(folder, name);
        if !types.is_empty() {
            let what = format!("it holds tensors of {}", types.join(", "));
            folder.error(Rule::WeightsType, name, what, "export with dtype bf16, f16 or f32");
        }
    }
    for nested in folder.folders.clone().into_iter().filter(|name| name != deploy::FOLDER) {
        let entries = std::fs::read_dir(folder.path.join(&nested)).into_iter().flatten().flatten();
        let belongs = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).find(|name| {
            name.ends_with(".safetensors") || [CONFIG_FILE, TOKENIZER_CONFIG, "tokenizer.json"].contains(&name.as_str())
        });
        if let Some(name) = belongs {
            let what = "an import looks at the top of the prefix only";
            folder.error(
                Rule::FilesNested,
                &format!("{nested}/{name}"),
                what,
                "move the files up, or give this folder",
            );
        }
    }
}

/// The length that a safetensors file begins with.
fn header_bytes(folder: &Folder, name: &str) -> Option<u64> {
    let mut length = [0; 8];
    std::fs::File::open(folder.path.join(name)).ok()?.read_exact(&mut length).ok()?;
    Some(u64::from_le_bytes(length))
}

/// Types of a file's tensors that no import takes, read from its header alone: nothing else here reads such a file.
fn quantised_types(folder: &Folder, name: &str) -> Vec<String> {
    let Some(length) = header_bytes(folder, name).filter(|length| *length <= 100_000_000) else { return Vec::new() };
    let mut text = Vec::new();
    let read =
        std::fs::File::open(folder.path.join(name)).and_then(|file| file.take(8 + length).read_to_end(&mut text));
    let header: Map<String, Value> = match read.map(|_| serde_json::from_slice(text.get(8..).unwrap_or_default())) {
        Ok(Ok(header)) => header,
        _ => return Vec::new(),
    };
    let types = header.iter().filter(|(name, _)| *name != "__metadata__").filter_map(|(_, t)| t["dtype"].as_str());
    let mut others: Vec<String> =
        types.filter(|dtype| !["BF16", "F16", "F32"].contains(dtype)).map(str::to_owned).collect();
    others.sort();
    others.dedup();
    others
}

fn is_weight_name(name: &str, has_index: bool) -> bool {
    if name == SINGLE_FILE {
        return true;
    }
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let middle = name.strip_prefix("model-").and_then(|rest| rest.strip_suffix(".safetensors"));
    has_index && middle.and_then(|middle| middle.split_once("-of-")).is_some_and(|(i, n)| digits(i) && digits(n))
}

fn check_config(folder: &mut Folder, config: &Map<String, Value>, limits: &Limits) {
    let class = config.get("architectures").and_then(|classes| classes[0].as_str());
    match class {
        Some(class) if ARCHITECTURES.contains(&class) => {}
        class => {
            let what = class.map_or("`architectures` is missing".to_owned(), |class| {
                format!("`{class}` is not imported (Gemma, Phi, Falcon, GPT-2 and Qwen3-VL are not, either)")
            });
            let fix = format!("take a base of one of {}, or another target", ARCHITECTURES.join(", "));
            folder.error(Rule::Architecture, CONFIG_FILE, what, fix);
        }
    }
    if let Some(context) = config.get("max_position_embeddings").and_then(Value::as_u64)
        && context > limits.context
    {
        let what = format!("`max_position_embeddings` is {context}, and at most {} are taken", limits.context);
        let fix = format!("set it to {}, if no longer texts are asked", limits.context);
        folder.error(Rule::Context, CONFIG_FILE, what, fix);
    }
    if config.get("quantization_config").is_some_and(|value| !value.is_null()) {
        let what = "`quantization_config` says that the weights are quantised";
        folder.error(Rule::Quantised, CONFIG_FILE, what, "export from the unquantised base");
    }
    for key in later_spellings(config) {
        let instead = if key == "dtype" { "torch_dtype" } else { "rope_theta and rope_scaling" };
        let what = format!("`{key}` is unknown to transformers {VERSION}, which takes its own default without a word");
        folder.error(Rule::LaterSpelling, CONFIG_FILE, what, format!("write {instead}, as `--target bedrock` does"));
    }
    if config.get("model_type").is_some_and(|kind| kind == "gpt_oss") {
        let eos = folder.json(GENERATION_FILE).object().and_then(|settings| settings.get("eos_token_id").cloned());
        if eos != Some(json!(GPT_OSS_STOPS)) {
            let what = "GPT-OSS never ends an answer with other stop tokens";
            let fix = "set `eos_token_id` to [200002, 199999, 200012]";
            folder.error(Rule::GptOssStop, GENERATION_FILE, what, fix);
        }
    }
    warn_of_rope(folder, config);
}

fn warn_of_rope(folder: &mut Folder, config: &Map<String, Value>) {
    let Some(rope) = config.get("rope_scaling").or_else(|| config.get("rope_parameters")) else { return };
    if rope["rope_type"] != "llama3" && rope["type"] != "llama3" {
        return;
    }
    let forced = [
        ("factor", 8.0),
        ("low_freq_factor", 1.0),
        ("high_freq_factor", 4.0),
        ("original_max_position_embeddings", 8192.0),
    ];
    let others: Vec<String> = forced
        .into_iter()
        .filter(|(key, value)| rope[*key].as_f64() != Some(*value))
        .map(|(key, value)| format!("{key} is {} and becomes {value}", rope[key]))
        .collect();
    if !others.is_empty() {
        let what = format!(
            "Bedrock replaces llama3's `rope_scaling`: {}; positions are then not those of training",
            others.join(", ")
        );
        let fix = "ask with and without the import and compare, or take a base with factor 8 (Llama 3.1 8B), or another target";
        folder.warn(Rule::RopeOverride, CONFIG_FILE, what, fix);
    }
}

fn check_tokenizer(folder: &mut Folder) {
    if !folder.has("special_tokens_map.json") {
        let what = "it is missing";
        let fix = "write the special tokens of tokenizer_config.json into it";
        folder.warn(Rule::SpecialTokensMapMissing, "special_tokens_map.json", what, fix);
    }
    let Some(config) = folder.json(TOKENIZER_CONFIG).object() else {
        if !folder.has(TOKENIZER_CONFIG) {
            let fix = "copy the base's; `tokenizer_class` and `chat_template` are in it";
            folder.error(Rule::TokenizerConfigMissing, TOKENIZER_CONFIG, "it is missing", fix);
        }
        return;
    };
    let class = config.get("tokenizer_class").and_then(Value::as_str).unwrap_or_default();
    if !is_allowed_tokenizer(class) {
        let what = format!("`tokenizer_class` is `{class}`");
        let fix = format!(
            "take PreTrainedTokenizerFast, which reads tokenizer.json, or one of {} with Tokenizer or TokenizerFast",
            TOKENIZERS.join(", ")
        );
        folder.error(Rule::TokenizerClass, TOKENIZER_CONFIG, what, fix);
    }
    if config.get("extra_special_tokens").is_some_and(Value::is_array) {
        let what = "`extra_special_tokens` is a list";
        folder.error(Rule::SpecialTokensList, TOKENIZER_CONFIG, what, "call it `additional_special_tokens`");
    }
    let embedded = config.get("chat_template").filter(|value| !value.is_null());
    let beside = TEMPLATE_FILES.into_iter().find(|name| folder.has(name));
    match (embedded, beside) {
        (Some(template), _) if !template.is_string() => {
            let what = "`chat_template` is a list of named templates";
            folder.error(Rule::TemplateEmbedded, TOKENIZER_CONFIG, what, "keep the one called default, as a text");
        }
        (None, Some(file)) => {
            let what = "the chat template is in a file of its own";
            folder.error(Rule::TemplateEmbedded, file, what, "put it into tokenizer_config.json as `chat_template`");
        }
        _ => {}
    }
}
