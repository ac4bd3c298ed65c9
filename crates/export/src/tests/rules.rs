//! One broken folder for each rule.

use std::collections::{BTreeSet, HashSet};

use serde_json::{Value, json as value};

use super::*;
use crate::check::{Limits, Rule, check_within};

/// A folder that no rule speaks against.
fn good(config: &ExportConfig) -> Place {
    let mut place = Place::new();
    place.facts.base_model = Some("org/base".into());
    let base = chat_base("llama-untied");
    place.export(config, base.path(), Some(&golden("llama-untied").join("adapter"))).unwrap();
    place
}

fn edit(name: &str, change: impl FnOnce(&mut Value)) -> impl FnOnce(&Path) {
    let name = name.to_owned();
    move |folder: &Path| {
        let mut fields = json(&folder.join(&name));
        change(&mut fields);
        fs::write(folder.join(&name), fields.to_string()).unwrap();
    }
}

fn set(name: &str, key: &str, to: Value) -> impl FnOnce(&Path) {
    let key = key.to_owned();
    edit(name, move |fields| fields[key] = to)
}

fn drop_key(name: &str, key: &str) -> impl FnOnce(&Path) {
    let key = key.to_owned();
    edit(name, move |fields| _ = fields.as_object_mut().unwrap().shift_remove(&key))
}

fn remove(name: &'static str) -> impl FnOnce(&Path) {
    move |folder: &Path| fs::remove_file(folder.join(name)).unwrap()
}

fn put(name: &'static str, text: &'static str) -> impl FnOnce(&Path) {
    move |folder: &Path| fs::write(folder.join(name), text).unwrap()
}

/// The weights written anew, in shards of this size, with this metadata.
fn rewrite(metadata: &[(&str, &str)], shard: u64, with_head: bool) -> impl FnOnce(&Path) {
    let metadata = metadata.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    move |folder: &Path| {
        let aside = tempfile::tempdir().unwrap();
        fs::rename(folder.join("model.safetensors"), aside.path().join("model.safetensors")).unwrap();
        let files = WeightFiles::open(aside.path()).unwrap();
        let kept = files.names().filter(|name| with_head || *name != "lm_head.weight");
        let plan = kept.map(|name| {
            let tensor = files.get(name).unwrap();
            PlannedTensor { name: name.to_owned(), dtype: tensor.dtype, shape: tensor.shape }
        });
        let writer = WeightWriter::plan(folder, plan.collect(), shard).unwrap().with_metadata(metadata);
        let written: Result<(), ExportError> =
            writer.write(|tensor, sink| Ok(sink.put(&files.get(&tensor.name).unwrap().bytes())?));
        written.unwrap();
    }
}

/// Tensors of mlx-lm's file, changed.
fn mlx_tensors(change: impl FnOnce(&mut BTreeMap<String, HostTensor>)) -> impl FnOnce(&Path) {
    move |folder: &Path| {
        let path = folder.join("adapters.safetensors");
        let mut tensors = {
            let file = rankine_models::weights::TensorFile::open(&path).unwrap();
            let read = |name: &str| {
                let tensor = file.get(name).unwrap();
                (name.to_owned(), HostTensor { data: tensor.to_f32(), shape: tensor.shape })
            };
            file.names().map(read).collect::<BTreeMap<_, _>>()
        };
        change(&mut tensors);
        let planned = tensors.iter().map(|(name, tensor)| {
            let plan = PlannedTensor { name: name.clone(), dtype: StoredDtype::F32, shape: tensor.shape.clone() };
            (plan, tensor.data.as_slice())
        });
        rankine_models::weights::write_tensors(&path, &BTreeMap::new(), planned).unwrap();
    }
}

type Change = Box<dyn FnOnce(&Path)>;

/// What breaks a folder with a GGUF file.
fn gguf_folders() -> Vec<(Rule, Target, Change)> {
    // The shape of a model, and neither its tensors nor its tokenizer.
    let hollow = || -> Change {
        Box::new(|folder: &Path| {
            let config = rankine_models::config::DecoderConfig::from_folder(&golden("llama-untied")).unwrap();
            let metadata = rankine_models::gguf::describe(&config).unwrap();
            let written: Result<(), ExportError> =
                rankine_models::gguf::write_gguf(&folder.join("model.gguf"), &metadata, &[], |_, _| Ok(()));
            written.unwrap();
        })
    };
    vec![
        (Rule::GgufMissing, Target::Gguf, Box::new(remove("model.gguf"))),
        (Rule::GgufMissing, Target::Gguf, Box::new(put("adapter.gguf", "GGUF"))),
        (Rule::GgufTensors, Target::Gguf, hollow()),
        (Rule::GgufTokenizer, Target::Gguf, hollow()),
        (Rule::GgufTemplate, Target::Gguf, Box::new(|_| ())),
        (Rule::ModelfileMissing, Target::Ollama, Box::new(remove("Modelfile"))),
        (Rule::ModelfileMissing, Target::Ollama, Box::new(put("Modelfile", "FROM ./other.gguf\nTEMPLATE x\n"))),
        (Rule::ModelfileTemplate, Target::Ollama, Box::new(put("Modelfile", "FROM ./model.gguf\n"))),
    ]
}

#[test]
fn each_rule_is_broken_by_one_folder_and_found() {
    let mut broken = BTreeSet::new();
    let mut asked = HashSet::new();
    let mut tried = |config: &ExportConfig, rule: Rule, change: Box<dyn FnOnce(&Path)>| {
        let place = good(config);
        let before: Vec<Rule> = codes(&place.out(), config.target, &Limits::BEDROCK);
        assert_eq!(before, [], "{config:?}");
        change(&place.out());
        let found = codes(&place.out(), config.target, &Limits::BEDROCK);
        assert!(found.contains(&rule), "{rule}: {found:?}");
        broken.insert(rule);
        asked.extend(asked_of(&place));
    };
    let bedrock = ExportConfig::new(Target::Bedrock);
    let mut model = |rule, change: Box<dyn FnOnce(&Path)>| tried(&bedrock, rule, change);
    let (config, tokenizer) = ("config.json", "tokenizer_config.json");
    model(Rule::ConfigMissing, Box::new(remove(config)));
    model(Rule::ConfigInvalid, Box::new(put(config, "[1]")));
    model(Rule::WeightsMissing, Box::new(remove("model.safetensors")));
    model(Rule::WeightsPickled, Box::new(put("pytorch_model.bin", "")));
    model(Rule::WeightsUnreadable, Box::new(put("model.safetensors", "short")));
    model(Rule::WeightsIncomplete, Box::new(set(config, "hidden_size", 64.into())));
    model(Rule::WeightsFormat, Box::new(rewrite(&[], u64::MAX, true)));
    let index = "model.safetensors.index.json";
    let sharded = rewrite(&[("format", "pt")], 20_000, true);
    model(
        Rule::IndexSize,
        Box::new(move |folder| {
            sharded(folder);
            edit(index, |fields| fields["metadata"]["total_size"] = 1.into())(folder);
        }),
    );
    model(Rule::TiedHead, Box::new(set(config, "tie_word_embeddings", true.into())));
    model(Rule::NotMerged, Box::new(put("adapter_config.json", "{}")));
    model(Rule::TokenizerMissing, Box::new(remove("tokenizer.json")));
    model(Rule::TokenizerInvalid, Box::new(put("tokenizer.json", "{")));
    model(Rule::TokenizerTooLarge, Box::new(set("tokenizer.json", "added_tokens", value!([{"id": 96}]))));
    model(Rule::StopToken, Box::new(set("generation_config.json", "eos_token_id", value!([2, 96]))));
    model(Rule::GenerationConfigMissing, Box::new(remove("generation_config.json")));
    model(Rule::TemplateMissing, Box::new(drop_key(tokenizer, "chat_template")));
    model(Rule::TemplateTwice, Box::new(put("chat_template.jinja", "x")));
    model(Rule::Architecture, Box::new(set(config, "architectures", value!(["Phi3ForCausalLM"]))));
    model(Rule::Context, Box::new(set(config, "max_position_embeddings", 131_073.into())));
    model(Rule::Quantised, Box::new(set(config, "quantization_config", value!({"bits": 4}))));
    model(
        Rule::WeightsType,
        Box::new(|folder| {
            let header = br#"{"a":{"dtype":"I8","shape":[4],"data_offsets":[0,4]}}"#;
            let file = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 4]].concat();
            fs::write(folder.join("model.safetensors"), file).unwrap();
        }),
    );
    model(Rule::LaterSpelling, Box::new(set(config, "rope_parameters", value!({"rope_theta": 1e6}))));
    model(Rule::TokenizerConfigMissing, Box::new(remove(tokenizer)));
    model(Rule::TokenizerClass, Box::new(set(tokenizer, "tokenizer_class", "TokenizersBackend".into())));
    model(Rule::SpecialTokensList, Box::new(set(tokenizer, "extra_special_tokens", value!(["<a>"]))));
    model(Rule::SpecialTokensMapMissing, Box::new(remove("special_tokens_map.json")));
    let named = value!([{"name": "default", "template": "x"}]);
    model(Rule::TemplateEmbedded, Box::new(set(tokenizer, "chat_template", named)));
    model(
        Rule::FilesNested,
        Box::new(|folder| {
            fs::create_dir(folder.join("model")).unwrap();
            fs::write(folder.join("model/config.json"), "{}").unwrap();
        }),
    );
    let rope = value!({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192});
    model(Rule::RopeOverride, Box::new(set(config, "rope_scaling", rope)));
    model(Rule::GptOssStop, Box::new(set(config, "model_type", "gpt_oss".into())));
    model(
        Rule::ShardName,
        Box::new(|folder| fs::rename(folder.join("model.safetensors"), folder.join("weights.safetensors")).unwrap()),
    );

    let vllm = ExportConfig::new(Target::Vllm);
    let mut adapter = |rule, change: Box<dyn FnOnce(&Path)>| tried(&vllm, rule, change);
    let config = "adapter_config.json";
    adapter(Rule::AdapterMissing, Box::new(remove("adapter_model.safetensors")));
    adapter(Rule::AdapterUnreadable, Box::new(set(config, "r", 5.into())));
    adapter(Rule::AdapterBase, Box::new(set(config, "base_model_name_or_path", Value::Null)));
    adapter(Rule::AdapterFields, Box::new(drop_key(config, "lora_alpha")));
    adapter(Rule::SavedModules, Box::new(set(config, "modules_to_save", value!(["lm_head"]))));
    adapter(Rule::Dora, Box::new(set(config, "use_dora", true.into())));
    adapter(Rule::Bias, Box::new(set(config, "bias", "all".into())));
    adapter(Rule::OneScale, Box::new(set(config, "alpha_pattern", value!({"q_proj": 3}))));
    adapter(Rule::RankTooLarge, Box::new(set(config, "r", 513.into())));

    let mlx = ExportConfig::new(Target::Mlx);
    let mut mlx = |rule, change: Box<dyn FnOnce(&Path)>| tried(&mlx, rule, change);
    mlx(
        Rule::MlxConfig,
        Box::new(edit(config, |f| f["lora_parameters"] = value!({"rank": 4, "alpha": 8, "dropout": 0.0}))),
    );
    mlx(Rule::MlxTensors, Box::new(put("adapters.safetensors", "")));
    mlx(Rule::MlxKeys, Box::new(edit(config, |f| f["lora_parameters"]["keys"] = value!(["self_attn.q_proj"]))));
    mlx(Rule::MlxKeys, Box::new(mlx_tensors(|tensors| _ = tensors.remove("model.layers.0.self_attn.q_proj.lora_b"))));
    mlx(Rule::MlxShapes, Box::new(edit(config, |f| f["lora_parameters"]["rank"] = 5.into())));
    mlx(Rule::MlxLayers, Box::new(set(config, "num_layers", 1.into())));

    let endpoint = ExportConfig { handler: true, ..ExportConfig::new(Target::HfEndpoint) };
    let mut endpoint = |rule, change: Box<dyn FnOnce(&Path)>| tried(&endpoint, rule, change);
    endpoint(Rule::CardMissing, Box::new(put("README.md", "# A model\n")));
    endpoint(Rule::CardTask, Box::new(put("README.md", "---\nbase_model: a/b\nlibrary_name: peft\n---\n")));
    let matter = "---\nlibrary_name: peft\npipeline_tag: text-generation\n---\n";
    endpoint(Rule::CardBase, Box::new(put("README.md", matter)));
    endpoint(Rule::HandlerClass, Box::new(put("handler.py", "class Handler: pass\n")));
    endpoint(Rule::HandlerRequirements, Box::new(remove("requirements.txt")));

    let sagemaker = ExportConfig { weights: Weights::Adapter, ..ExportConfig::new(Target::Sagemaker) };
    let mut sagemaker = |rule, change: Box<dyn FnOnce(&Path)>| tried(&sagemaker, rule, change);
    sagemaker(Rule::PropertiesMissing, Box::new(remove("serving.properties")));
    let properties = "option.model_id=a/b\noption.enable_lora=true\noption.max_lora_rank=2\n";
    sagemaker(Rule::LoraOff, Box::new(put("serving.properties", properties)));

    for (rule, target, change) in gguf_folders() {
        let chat = (rule != Rule::GgufTemplate).then_some("{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}");
        let place = super::gguf::exported(target, chat);
        if chat.is_some() {
            assert_eq!(codes(&place.out(), target, &Limits::BEDROCK), []);
        }
        change(&place.out());
        let found = codes(&place.out(), target, &Limits::BEDROCK);
        assert!(found.contains(&rule), "{rule}: {found:?}");
        broken.insert(rule);
        asked.extend(asked_of(&place));
    }

    // Sizes, with small limits.
    let place = good(&bedrock);
    let bytes = fs::metadata(place.out().join("model.safetensors")).unwrap().len();
    for (rule, limits) in [
        (Rule::TotalSize, Limits { total: bytes, ..Limits::BEDROCK }),
        (Rule::ShardSize, Limits { shard: bytes - 1, ..Limits::BEDROCK }),
        (Rule::HeaderSize, Limits { header: 100, ..Limits::BEDROCK }),
    ] {
        assert_eq!(codes(&place.out(), Target::Bedrock, &limits), [rule]);
        broken.insert(rule);
        asked.insert((rule, Target::Bedrock));
    }
    let all: BTreeSet<Rule> = Rule::ALL.iter().copied().collect();
    let missing: Vec<&Rule> = all.difference(&broken).collect();
    assert!(missing.is_empty(), "no broken folder for {missing:?}");
    let said: HashSet<(Rule, Target)> =
        all.iter().flat_map(|rule| rule.targets().iter().map(|target| (*rule, *target))).collect();
    let never: Vec<_> = said.difference(&asked).collect();
    let unsaid: Vec<_> = asked.difference(&said).collect();
    assert!(
        never.is_empty() && unsaid.is_empty(),
        "listed and never asked: {never:?}; asked and not listed: {unsaid:?}"
    );
}

/// What is found in the folder as any target's, and as an adapter among those of a container.
fn asked_of(place: &Place) -> Vec<(Rule, Target)> {
    let found =
        |target: Target| codes(&place.out(), target, &Limits::BEDROCK).into_iter().map(move |rule| (rule, target));
    let mut found: Vec<_> = Target::ALL.into_iter().flat_map(found).collect();
    if place.out().join(CONFIG_FILE).is_file() {
        let container = place.dir.path().join("container");
        fs::create_dir_all(container.join("adapters")).unwrap();
        fs::rename(place.out(), container.join("adapters/one")).unwrap();
        let rules = codes(&container, Target::Sagemaker, &Limits::BEDROCK);
        found.extend(rules.into_iter().map(|rule| (rule, Target::Sagemaker)));
    }
    found
}

fn codes(folder: &Path, target: Target, limits: &Limits) -> Vec<Rule> {
    let findings = check_within(folder, target, limits).unwrap();
    assert!(findings.iter().all(|finding| !finding.file.is_empty() && !finding.fix.is_empty()));
    findings.iter().map(|finding| finding.rule).collect()
}

#[test]
fn a_rule_has_one_code_and_one_sentence() {
    let codes: BTreeSet<&str> = Rule::ALL.iter().map(|rule| rule.code()).collect();
    assert_eq!(codes.len(), Rule::ALL.len());
    for rule in Rule::ALL {
        assert!(rule.sentence().ends_with('.') && serde_json::to_value(rule).unwrap() == rule.code(), "{rule}");
    }
}
