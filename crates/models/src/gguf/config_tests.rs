use super::*;
use crate::gguf::test_file::TestFile;

/// A Llama without `skipped`.
fn llama(skipped: &str) -> TestFile {
    let numbers = [
        ("llama.block_count", 2),
        ("llama.context_length", 64),
        ("llama.embedding_length", 32),
        ("llama.feed_forward_length", 48),
        ("llama.attention.head_count", 4),
        ("llama.attention.head_count_kv", 2),
    ];
    let kept = numbers.into_iter().filter(|(key, _)| *key != skipped);
    let file = kept.fold(TestFile::new(), |file, (key, number)| file.number(key, number));
    let file = if skipped == "general.architecture" { file } else { file.text("general.architecture", "llama") };
    file.float("llama.attention.layer_norm_rms_epsilon", 1e-5).tensor("token_embd.weight", &[8, 1], 0, &[0; 32])
}

fn read(file: &TestFile, factors: Option<&[f32]>) -> Result<Map<String, Json>, String> {
    let header = Header::read(&file.bytes()).unwrap();
    config(&header, &RopeFactors(factors)).map_err(|faults| faults.join("\n"))
}

#[test]
fn what_is_missing_is_all_named() {
    assert!(read(&llama(""), None).is_ok());
    assert_eq!(
        read(&llama("general.architecture"), None).unwrap_err(),
        "`general.architecture` is missing: llama, qwen2 or qwen3 is expected"
    );
    for key in ["block_count", "embedding_length", "feed_forward_length", "attention.head_count"] {
        let key = format!("llama.{key}");
        assert!(
            read(&llama(&key), None).unwrap_err().contains(&format!("`{key}` is missing: a whole number is expected"))
        );
    }
    let text = read(&TestFile::new().text("general.architecture", "llama"), None).unwrap_err();
    for key in [
        "block_count",
        "embedding_length",
        "feed_forward_length",
        "attention.head_count",
        "layer_norm_rms_epsilon",
        "token_embd.weight",
    ] {
        assert!(text.contains(key), "{key}: {text}");
    }
    let text = read(&TestFile::new().text("general.architecture", "gemma3"), None).unwrap_err();
    assert!(text.contains("`gemma3`, which is not supported: one of llama, qwen2, qwen3"), "{text}");
}

#[test]
fn what_would_change_the_arithmetic_is_refused() {
    let cases = [
        (llama("").number("llama.expert_count", 8), "a mixture of 8 experts"),
        (
            llama("").number("llama.rope.dimension_count", 4),
            "`llama.rope.dimension_count` is 4, and the width of a head is 8",
        ),
        (llama("").number("llama.attention.value_length", 4), "`llama.attention.value_length` is 4"),
        (llama("").text("llama.rope.scaling.type", "yarn"), "`llama.rope.scaling.type` is `yarn`"),
        (llama("").text("llama.rope.scaling.type", "linear"), "`llama.rope.scaling.factor` is missing"),
        (llama("").float("llama.attention.scale", 0.5), "`llama.attention.scale` is 0.5, which is not supported"),
        (llama("").flag("llama.attention.causal", false), "only causal models"),
        (
            llama("llama.attention.head_count_kv").numbers("llama.attention.head_count_kv", &[2, 4]),
            "differs from layer to layer",
        ),
        (
            llama("llama.attention.head_count").number("llama.attention.head_count", 0),
            "`llama.attention.head_count` is 0",
        ),
        (
            llama("llama.block_count").text("llama.block_count", "2"),
            "`llama.block_count` is \"2\": a whole number is expected",
        ),
    ];
    for (file, expected) in cases {
        let text = read(&file, None).unwrap_err();
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let same = llama("llama.attention.head_count_kv").numbers("llama.attention.head_count_kv", &[2, 2]);
    assert_eq!(read(&same, None).unwrap()["num_key_value_heads"], 2);
}

#[test]
fn scaling_is_that_of_config_json() {
    let linear = llama("").text("llama.rope.scaling.type", "linear").float("llama.rope.scaling.factor", 4.0);
    assert_eq!(read(&linear, None).unwrap()["rope_scaling"], json!({"rope_type": "linear", "factor": 4.0}));
    let old = llama("").float("llama.rope.scale_linear", 2.0);
    assert_eq!(read(&old, None).unwrap()["rope_scaling"]["factor"], 2.0);
    let none = llama("").text("llama.rope.scaling.type", "none").float("llama.rope.scaling.factor", 4.0);
    assert!(!read(&none, None).unwrap().contains_key("rope_scaling"));
}

#[test]
fn llama_3_factors_become_what_they_were_computed_from() {
    // Llama 3.2 1B.
    let scaling = |original| RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: original,
    };
    let theta = 500_000.0;
    let plain = RopeConfig { theta, scaling: RopeScaling::Default }.frequencies(8 * 8);
    let file = || {
        llama("llama.embedding_length")
            .number("llama.embedding_length", 256)
            .float("llama.rope.freq_base", theta as f32)
    };
    for original in [8192.0, 4096.0] {
        let scaled = RopeConfig { theta, scaling: scaling(original) }.frequencies(8 * 8);
        let mut factors: Vec<f32> = plain.iter().zip(&scaled).map(|(plain, scaled)| plain / scaled).collect();
        let found = read(&file(), Some(&factors)).unwrap();
        assert_eq!(
            found["rope_scaling"],
            json!({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                   "original_max_position_embeddings": original as u64})
        );
        factors[20] *= 1.01;
        assert!(read(&file(), Some(&factors)).unwrap_err().contains("does not follow Llama 3.1's rule"));
        factors[20] = f32::NAN;
        assert!(read(&file(), Some(&factors)).unwrap_err().contains("no divisors"));
        assert!(read(&file(), Some(&factors[..3])).unwrap_err().contains("has 3 values"));
    }
    assert!(!read(&file(), Some(&[1.0; 32])).unwrap().contains_key("rope_scaling"));
}
