use super::*;

fn parse(text: &str) -> Result<AdapterConfig, AdapterFileError> {
    AdapterConfig::parse(text, Path::new("adapter_config.json"))
}

fn with(extra: &str) -> String {
    format!(r#"{{"peft_type":"LORA","r":4,"lora_alpha":12,"target_modules":["q_proj"]{extra}}}"#)
}

fn golden_configs() -> Vec<(std::path::PathBuf, String)> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/models");
    let cases = std::fs::read_dir(root).unwrap();
    let mut found: Vec<_> = cases
        .map(|case| case.unwrap().path().join("adapter").join(CONFIG_FILE))
        .filter_map(|path| std::fs::read_to_string(&path).ok().map(|text| (path, text)))
        .collect();
    found.sort();
    assert!(found.len() >= 18, "the goldens are there");
    found
}

#[test]
fn pefts_own_files_come_back_to_the_byte() {
    for (path, text) in golden_configs() {
        let config = AdapterConfig::parse(&text, &path).unwrap();
        assert_eq!(config.to_json(), text, "{}", path.display());
        assert!(config.unknown_keys.is_empty());
    }
}

#[test]
fn a_recipes_adapter_survives_the_file() {
    let lora = LoraConfig {
        r: 6,
        alpha: 9.5,
        dropout: 0.05,
        target_modules: TargetModules::Names(vec!["q_proj".into(), "down_proj".into()]),
        exclude_modules: Some(TargetModules::Pattern(r".*\.1\..*".into())),
        use_rslora: true,
        rank_pattern: [("q_proj".into(), 3)].into(),
        alpha_pattern: [("down_proj".into(), 2.5)].into(),
        layers_to_transform: Some(vec![0, 2]),
        modules_to_save: vec!["lm_head".into()],
        init: LoraInit::Gaussian,
    };
    let config = AdapterConfig::from_lora(&lora, AdapterKind::Dora, Some("org/base"), Some("main"), &[]).unwrap();
    let read = parse(&config.to_json()).unwrap();
    assert_eq!(read, config);
    assert_eq!(read.to_lora(), (lora, AdapterKind::Dora));
    assert_eq!(read.base_model_name_or_path.as_deref(), Some("org/base"));
}

#[test]
fn all_linear_is_written_as_names() {
    let modules = ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj", "model.layers.0.mlp.up_proj"];
    let modules = modules.map(str::to_owned);
    let config = AdapterConfig::from_lora(&LoraConfig::default(), AdapterKind::Lora, None, None, &modules).unwrap();
    assert_eq!(config.target_modules, TargetModules::Names(vec!["q_proj".into(), "up_proj".into()]));
    assert!(config.to_json().contains("\"lora_alpha\": 32,"), "an integer");
    assert!(AdapterConfig::from_lora(&LoraConfig::default(), AdapterKind::Full, None, None, &[]).is_err());
}

#[test]
fn what_is_not_said_has_pefts_default() {
    let config = parse(&with("")).unwrap();
    assert_eq!((config.r, config.lora_alpha, config.lora_dropout), (4, 12.0, 0.0));
    assert_eq!(config.init_lora_weights, InitLoraWeights::Default);
    let config =
        parse(&with(r#","layers_to_transform":1,"layers_pattern":"layers","future":{"x":1},"other":null"#)).unwrap();
    assert_eq!(config.layers_to_transform, Some(vec![1]));
    assert_eq!(config.unknown_keys, ["future"]);
}

#[test]
fn what_would_compute_something_else_is_refused_by_name() {
    for (extra, part) in [
        (r#","bias":"all""#, "bias"),
        (r#","fan_in_fan_out":true"#, "fan_in_fan_out"),
        (r#","lora_bias":true"#, "lora_bias"),
        (r#","use_qalora":true"#, "use_qalora"),
        (r#","layer_replication":[[0,4],[2,5]]"#, "layer_replication"),
        (r#","target_parameters":["x"]"#, "target_parameters"),
        (r#","trainable_token_indices":[1]"#, "trainable_token_indices"),
        (r#","megatron_config":{"a":1}"#, "megatron_config"),
        (r#","alora_invocation_tokens":[1]"#, "alora_invocation_tokens"),
        (r#","use_bdlora":{"a":1}"#, "use_bdlora"),
        (r#","layers_pattern":"h""#, "layers_pattern"),
        (r#","init_lora_weights":"pissa_niter_4""#, "pissa_niter_4"),
        (r#","init_lora_weights":"olora""#, "olora"),
        (r#","init_lora_weights":"corda""#, "corda"),
        (r#","init_lora_weights":"loftq""#, "loftq"),
        (r#","init_lora_weights":"new""#, "\"new\""),
        (r#","init_lora_weights":3"#, "init_lora_weights"),
        (r#","use_dora":"yes""#, "use_dora"),
        (r#","exclude_modules":"(?=x)""#, "(?=x)"),
        (r#","rank_pattern":{"q_proj":-1}"#, "rank_pattern"),
        (r#","alpha_pattern":[]"#, "alpha_pattern"),
    ] {
        let text = parse(&with(extra)).unwrap_err().to_string();
        assert!(text.contains(part), "{extra}: {text}");
    }
    for extra in ["gaussian", "eva", "orthogonal", "mica"] {
        parse(&with(&format!(r#","init_lora_weights":"{extra}""#))).unwrap();
    }
}

#[test]
fn every_fault_is_listed() {
    let text =
        parse(r#"{"peft_type":"IA3","r":"8","lora_alpha":null,"bias":"all","target_modules":null}"#).unwrap_err();
    let text = text.to_string();
    for part in ["IA3", "`r`", "`lora_alpha`", "`bias`", "`target_modules`"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(parse("[]").unwrap_err().to_string().contains("adapter_config.json"));
}
