//! Every activation, in forward order, against transformers and peft.

use rankine_models::drift::logits;
use rankine_models::generate::{GenerateConfig, generate};
use rankine_models::model::{Model, Tokens, to_host};
use rankine_models::sampling::Sampling;
use rankine_nn::parameter::Pass;

use super::golden::{CASES, F32, Golden, apart};

/// Batch rows and their length in every golden file.
const ROWS: usize = 2;

pub(crate) struct Padded {
    pub(crate) input_ids: Vec<u32>,
    pub(crate) position_ids: Vec<u32>,
    pub(crate) segment_ids: Vec<u32>,
}

impl Padded {
    pub(crate) fn new(golden: &Golden) -> Self {
        let input_ids: Vec<u32> = golden.integers("input_ids").iter().map(|id| *id as u32).collect();
        let length = input_ids.len() / ROWS;
        let segment_ids = golden.integers("attention_mask").iter().map(|seen| *seen as u32).collect();
        Self { position_ids: (0..input_ids.len()).map(|i| (i % length) as u32).collect(), input_ids, segment_ids }
    }

    pub(crate) fn tokens(&self) -> Tokens<'_> {
        Tokens {
            rows: ROWS,
            input_ids: &self.input_ids,
            position_ids: &self.position_ids,
            segment_ids: &self.segment_ids,
        }
    }
}

fn compare(case: &str, golden: &Golden, model: &Model, prefix: &str) {
    let batch = Padded::new(golden);
    let keep = |row: usize| batch.segment_ids[row] != 0;
    let mut pass = Pass::Infer;
    let check = |name: String, found: Vec<f32>| {
        let expected = golden.values(&name);
        let width = expected.len() / batch.input_ids.len();
        let apart = apart(&found, &expected, &keep, width);
        assert!(apart <= F32, "{case}: {name}: relative difference {apart:.2e} above {F32:.0e}");
    };
    let hidden = model.hidden_with(
        &batch.tokens(),
        &mut pass,
        &mut |layer, x| {
            let name = if layer == 0 { format!("{prefix}.embed") } else { format!("{prefix}.layer.{}", layer - 1) };
            check(name, to_host(x.clone()));
        },
        None,
    );
    check(format!("{prefix}.norm"), to_host(hidden.clone()));
    check(format!("{prefix}.logits"), to_host(model.logits(hidden, &mut pass)));
}

#[test]
fn every_layer_of_every_family_equals_transformers() {
    for case in CASES {
        let golden = Golden::open(case);
        compare(case, &golden, &golden.base(), "base");
    }
}

#[test]
fn every_layer_with_every_adapter_equals_peft() {
    for case in CASES {
        let golden = Golden::open(case);
        compare(case, &golden, &golden.adapted(), "adapter");
    }
}

#[test]
fn rotary_frequencies_equal_transformers() {
    for case in CASES {
        let golden = Golden::open(case);
        let config = golden.base().config;
        let found = config.rope.frequencies(config.head_dim);
        super::golden::assert_close(case, &found, &golden.values("base.inv_freq"), 1e-6);
    }
}

#[test]
fn both_spellings_of_config_json_are_the_same_model() {
    use rankine_models::config::DecoderConfig;
    let folder = Golden::open("llama3-rope").folder;
    let five = DecoderConfig::from_file(&folder.join("config.json")).unwrap();
    let four = DecoderConfig::from_file(&folder.join("config.transformers4.json")).unwrap();
    assert_eq!(five, four);
}

#[test]
fn greedy_generation_with_a_cache_equals_transformers() {
    let mut tokenizer = tokenizers::Tokenizer::new(tokenizers::models::bpe::BPE::default());
    tokenizer.with_decoder(Some(tokenizers::decoders::byte_level::ByteLevel::default()));
    for case in CASES {
        let golden = Golden::open(case);
        for (which, model) in [("base", golden.base()), ("adapter", golden.adapted())] {
            let prompt = golden.json["greedy"]["prompt_tokens"].as_u64().unwrap() as usize;
            let expected: Vec<u32> = serde_json::from_value(golden.json["greedy"][which]["tokens"].clone()).unwrap();
            let ids = &Padded::new(&golden).input_ids[..prompt];
            let config = GenerateConfig {
                max_new_tokens: expected.len(),
                sampling: Sampling::default(),
                stop: vec![],
                eos_token_ids: vec![],
            };
            let found =
                generate(&model, &tokenizer, ids, &config, &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
            assert_eq!(found.ids, expected, "{case} {which}");
        }
    }
}

#[test]
fn a_cache_computes_what_one_pass_computes() {
    for case in ["mistral", "qwen3", "lora-dora"] {
        let golden = Golden::open(case);
        let model = golden.adapted();
        let ids = &Padded::new(&golden).input_ids[..12];
        let whole = logits(&model, ids);
        let mut cache = model.cache();
        let mut pieces = Vec::new();
        for piece in [&ids[..5], &ids[5..6], &ids[6..9], &ids[9..]] {
            let hidden = model.extend(piece, &mut cache);
            pieces.extend(to_host(model.logits(hidden, &mut Pass::Infer)));
        }
        super::golden::assert_close(case, &pieces, &whole, F32);
    }
}

#[test]
fn padding_and_other_documents_change_nothing() {
    for case in ["llama-untied", "mistral", "qwen3"] {
        let golden = Golden::open(case);
        let model = golden.adapted();
        let ids = &Padded::new(&golden).input_ids[..12];
        let (first, second) = ids.split_at(7);
        let alone: Vec<f32> = [first, second].iter().flat_map(|part| logits(&model, part)).collect();
        // Both documents and two tokens of padding in one row.
        let input_ids: Vec<u32> = ids.iter().copied().chain([3, 3]).collect();
        let position_ids: Vec<u32> = (0..7).chain(0..5).chain(0..2).collect();
        let segment_ids: Vec<u32> = [[1; 7].as_slice(), &[2; 5], &[0; 2]].concat();
        let tokens = Tokens { rows: 1, input_ids: &input_ids, position_ids: &position_ids, segment_ids: &segment_ids };
        let mut pass = Pass::Infer;
        let packed = to_host(model.logits(model.hidden(&tokens, &mut pass), &mut pass));
        super::golden::assert_close(case, &packed[..alone.len()], &alone, F32);
    }
}

#[test]
fn a_new_adapter_leaves_every_logit_as_it_is() {
    use rankine_models::attach::{AdapterLayout, Tying};
    use rankine_nn::lora::{AdapterKind, LoraConfig, TargetModules};
    for case in ["llama-untied", "llama-tied", "qwen2"] {
        for kind in [AdapterKind::Lora, AdapterKind::Dora] {
            let golden = Golden::open(case);
            let mut model = golden.base();
            let ids = &Padded::new(&golden).input_ids[..12];
            let before = logits(&model, ids);
            let names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"];
            let lora = LoraConfig {
                r: 4,
                target_modules: TargetModules::Names(names.map(str::to_owned).to_vec()),
                modules_to_save: vec!["norm".into()],
                ..LoraConfig::default()
            };
            let layout = AdapterLayout::resolve(&model.config, kind, &lora, Tying::Kept).unwrap();
            model.attach(&layout, 1);
            let named: Vec<_> = model.trained_tensors().into_iter().map(|(name, shape, _)| (name, shape)).collect();
            let mut planned: Vec<_> = layout.trained.iter().map(|t| (t.name.clone(), t.shape.clone())).collect();
            let mut sorted = named.clone();
            planned.sort();
            sorted.sort();
            assert_eq!(sorted, planned, "{case}: what is trained is what was planned");
            let tolerance = if kind == AdapterKind::Lora { 0.0 } else { F32 };
            super::golden::assert_close(case, &logits(&model, ids), &before, tolerance);
        }
    }
}

#[test]
fn the_frozen_base_is_outside_the_graph() {
    use rankine_nn::parameter::{Parameter, ParameterMut, Parameters};
    for case in CASES {
        let golden = Golden::open(case);
        let trained: Vec<String> = golden.adapted().trained_tensors().into_iter().map(|(name, ..)| name).collect();
        golden.adapted().visit("", &mut |name, parameter| {
            let (in_graph, frozen) = match parameter {
                ParameterMut::Matrix(Parameter::Frozen(tensor)) => (tensor.is_autodiff(), true),
                ParameterMut::Vector(Parameter::Frozen(tensor)) => (tensor.is_autodiff(), true),
                ParameterMut::Matrix(Parameter::Trained(tensor)) => (tensor.is_require_grad(), false),
                ParameterMut::Vector(Parameter::Trained(tensor)) => (tensor.is_require_grad(), false),
            };
            assert_eq!(in_graph, !frozen, "{case}: {name}");
            assert_eq!(trained.iter().any(|trained| trained == name), !frozen, "{case}: {name}");
        });
    }
}

#[test]
fn parameters_have_the_names_of_the_checkpoint() {
    use rankine_models::weights::WeightFiles;
    for case in ["llama-untied", "llama-tied", "llama-mha-bias", "qwen2", "qwen3"] {
        let golden = Golden::open(case);
        let files = WeightFiles::open(&golden.folder).unwrap();
        let mut found: Vec<String> = golden.base().all_tensors().into_iter().map(|(name, ..)| name).collect();
        found.sort();
        assert_eq!(found, files.names().collect::<Vec<_>>(), "{case}");
    }
}
