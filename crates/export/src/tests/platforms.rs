//! What each platform's folder holds.

use super::*;

fn export_chat(config: &ExportConfig, case: &str) -> (Place, TempDir, ExportReport) {
    let (mut place, base) = (Place::new(), chat_base(case));
    place.facts.base_model = Some("org/base".into());
    let report = place.export(config, base.path(), Some(&golden(case).join("adapter"))).unwrap();
    (place, base, report)
}

#[test]
fn bedrock_has_the_spellings_of_transformers_4_and_all_that_an_import_needs() {
    let config = ExportConfig { name: Some("tickets".into()), ..ExportConfig::new(Target::Bedrock) };
    let (place, _base, report) = export_chat(&config, "llama3-rope");
    let out = place.out();
    assert_eq!(
        listing(&out),
        [
            "README.md",
            "config.json",
            "deploy",
            "export.json",
            "generation_config.json",
            "model.safetensors",
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer_config.json"
        ]
    );
    assert_eq!(
        listing(&out.join("deploy")),
        ["cost.md", "create-model-import-job.json", "import.sh", "invoke.py", "s3-policy.json", "trust-policy.json"]
    );
    let config = json(&out.join("config.json"));
    // What transformers 4 wrote for the same model.
    let expected = json(&golden("llama3-rope").join("config.transformers4.json"));
    for key in ["rope_theta", "rope_scaling", "architectures", "max_position_embeddings"] {
        assert_eq!(config[key], expected[key], "{key}");
    }
    assert_eq!((&config["torch_dtype"], &config["transformers_version"]), (&"bfloat16".into(), &"4.51.3".into()));
    assert!(config.get("rope_parameters").is_none() && config.get("dtype").is_none());
    let tokenizer = json(&out.join("tokenizer_config.json"));
    assert_eq!(tokenizer["tokenizer_class"], "PreTrainedTokenizerFast");
    assert_eq!(tokenizer["additional_special_tokens"][0], "a");
    assert_eq!(tokenizer["chat_template"], "{{ messages }}");
    assert_eq!(json(&out.join("special_tokens_map.json"))["eos_token"], "</s>");
    assert_eq!(json(&out.join("generation_config.json"))["eos_token_id"], 2);
    assert_eq!(json(&out.join("deploy/create-model-import-job.json"))["importedModelName"], "tickets");
    assert!(fs::read_to_string(out.join("deploy/invoke.py")).unwrap().contains("CHAT = True"));
    assert!(report.files.contains_key("deploy/import.sh"));
    // Factor 8 is what Bedrock sets itself; this model's is another.
    let codes: Vec<&str> = report.warnings.iter().map(|finding| finding.rule.code()).collect();
    assert_eq!(codes, ["rope-override"]);
    for script in ["deploy/import.sh", "deploy/invoke.py"] {
        let text = fs::read_to_string(out.join(script)).unwrap();
        assert!(!text.contains('@') || !text.contains("@NAME@") && !text.contains("@CHAT@"), "{script}");
    }
}

#[test]
fn a_template_that_was_trained_with_is_the_one_that_is_embedded() {
    let (place, base) = (Place::new(), chat_base("llama-untied"));
    fs::write(base.path().join("chat_template.jinja"), "beside").unwrap();
    let adapter = golden("llama-untied").join("adapter");
    let template = |chat_template: Option<&str>| {
        let inputs = ExportInputs {
            base: base.path(),
            adapter: Some(&adapter),
            tokenizer: None,
            chat_template,
            facts: &place.facts,
        };
        export(&ExportConfig::new(Target::Bedrock), &inputs, &place.out(), &mut |_| ()).unwrap();
        assert!(!place.out().join("chat_template.jinja").exists());
        json(&place.out().join("tokenizer_config.json"))["chat_template"].as_str().unwrap().to_owned()
    };
    assert_eq!(template(Some("trained")), "trained");
    // As transformers looks for it: a file of its own before the tokenizer's.
    assert_eq!(template(None), "beside");
}

#[test]
fn a_model_that_the_platform_would_refuse_is_not_made() {
    let refused = |change: &dyn Fn(&Path)| {
        let base = chat_base("llama-untied");
        change(base.path());
        let adapter = golden("llama-untied").join("adapter");
        Place::new().refused(&ExportConfig::new(Target::Bedrock), base.path(), Some(&adapter))
    };
    let edit = |name: &'static str, key: &'static str, value: serde_json::Value| {
        move |base: &Path| {
            let mut fields = json(&base.join(name));
            fields[key] = value.clone();
            fs::write(base.join(name), fields.to_string()).unwrap();
        }
    };
    let text = refused(&edit("config.json", "architectures", serde_json::json!(["GemmaForCausalLM"])));
    assert!(text.contains("architecture: `GemmaForCausalLM` is not imported"), "{text}");
    let text = refused(&edit("config.json", "max_position_embeddings", 262_144.into()));
    assert!(text.contains("context: `max_position_embeddings` is 262144"), "{text}");
    let text = refused(&|base| fs::remove_file(base.join("tokenizer.json")).unwrap());
    assert!(text.contains("tokenizer-missing") && text.contains("tokenizer-class"), "{text}");
    let windows = serde_json::json!(["full_attention", "sliding_attention"]);
    let adapter = golden("mistral").join("adapter");
    let base = chat_base("mistral");
    edit("config.json", "layer_types", windows)(base.path());
    let text = Place::new().refused(&ExportConfig::new(Target::Bedrock), base.path(), Some(&adapter));
    assert!(text.contains("attention windows (`layer_types`) cannot be said"), "{text}");
}

#[test]
fn endpoints_get_a_card_and_a_handler_where_it_is_asked_for() {
    let config = ExportConfig { handler: true, ..ExportConfig::new(Target::HfEndpoint) };
    let (place, _base, _) = export_chat(&config, "llama-untied");
    let card = |place: &Place| fs::read_to_string(place.out().join("README.md")).unwrap();
    assert!(card(&place).contains("base_model_relation: finetune") && card(&place).contains("runs `handler.py`"));
    assert!(fs::read_to_string(place.out().join("handler.py")).unwrap().contains("AutoModelForCausalLM"));
    assert!(!fs::read_to_string(place.out().join("requirements.txt")).unwrap().contains("peft"));

    let adapter = ExportConfig {
        weights: Weights::Adapter,
        name: Some("me/tickets".into()),
        ..ExportConfig::new(Target::HfEndpoint)
    };
    let (place, _base, _) = export_chat(&adapter, "lora-patterns");
    let expected = "--enable-lora --max-lora-rank 8 --lora-modules tickets=me/tickets";
    assert!(card(&place).contains(expected), "{}", card(&place));
    assert!(card(&place).contains("base_model_relation: adapter") && !place.out().join("handler.py").exists());

    // With peft in the handler, everything that peft can is possible.
    let handled = ExportConfig { handler: true, ..adapter };
    let (place, _base, _) = export_chat(&handled, "lora-dora");
    assert!(fs::read_to_string(place.out().join("requirements.txt")).unwrap().contains("peft"));
    assert!(read_adapter(&place.out()).unwrap().config.use_dora);
}

#[test]
fn sagemaker_mounts_a_model_or_finds_adapters_beside_its_properties() {
    let (place, _base, _) = export_chat(&ExportConfig::new(Target::Sagemaker), "llama-untied");
    let environment = json(&place.out().join("deploy/environment.json"));
    assert_eq!((&environment["HF_MODEL_ID"], &environment["OPTION_DTYPE"]), (&"/opt/ml/model".into(), &"bf16".into()));
    let model = json(&place.out().join("deploy/create-model.json"));
    assert_eq!(model["PrimaryContainer"]["Environment"], environment);
    assert_eq!(model["PrimaryContainer"]["ModelDataSource"]["S3DataSource"]["CompressionType"], "None");

    let config = ExportConfig {
        weights: Weights::Adapter,
        name: Some("tickets".into()),
        ..ExportConfig::new(Target::Sagemaker)
    };
    let (place, _base, report) = export_chat(&config, "lora-patterns");
    let properties = fs::read_to_string(place.out().join("serving.properties")).unwrap();
    for line in ["option.model_id=org/base", "option.enable_lora=true", "option.max_lora_rank=8"] {
        assert!(properties.lines().any(|found| found == line), "{line} in\n{properties}");
    }
    assert!(report.files.contains_key("adapters/tickets/adapter_model.safetensors"));
    read_adapter(&place.out().join("adapters/tickets")).unwrap();
}

#[test]
fn vllm_is_started_with_the_smallest_rank_that_fits() {
    let config = ExportConfig { name: Some("tickets".into()), ..ExportConfig::new(Target::Vllm) };
    let (place, _base, _) = export_chat(&config, "lora-patterns");
    let script = fs::read_to_string(place.out().join("deploy/serve.sh")).unwrap();
    let expected = "vllm serve 'org/base' --enable-lora --max-lora-rank 8 --lora-modules tickets=\"$here\" \"$@\"";
    assert!(script.contains(expected), "{script}");
}

#[test]
fn how_far_it_is_from_what_was_trained_stands_in_card_and_report() {
    let (place, base) = (Place::new(), chat_base("llama-untied"));
    let adapter = golden("llama-untied").join("adapter");
    let inputs = ExportInputs {
        base: base.path(),
        adapter: Some(&adapter),
        tokenizer: None,
        chat_template: None,
        facts: &place.facts,
    };
    let drift =
        Drift { max_abs: 0.000123, max_logit: 45.6, same_argmax: 99, positions: 100, kl_mean: 0.0, kl_p99: 0.0 };
    let written = write(&merged(), &inputs, &place.out(), &mut |_| ()).unwrap();
    written.publish(Some(drift)).unwrap();
    let card = fs::read_to_string(place.out().join("README.md")).unwrap();
    assert!(card.contains("no logit differs by more than 1.23e-4 (the largest is 45.6), and 99 of 100"), "{card}");
    let report = json(&place.out().join("export.json"));
    assert_eq!(report["drift"]["same_argmax"], 99);
    assert_eq!(report["files"]["README.md"], card.len());
}
