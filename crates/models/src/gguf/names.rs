//! The names of tensors: those of llama.cpp (`tensor_mapping.py` of its Python package) and those of checkpoints.

/// Modules beside the layers, each with a weight alone.
const WHOLE: [(&str, &str); 3] =
    [("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

/// Modules of a layer.
const LAYER: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// `blk.3.attn_q.weight` is `model.layers.3.self_attn.q_proj.weight`; `None` for a name that is not known.
pub(super) fn checkpoint_name(name: &str) -> Option<String> {
    renamed(name, "blk.", "model.layers.", |(ours, theirs)| (ours, theirs))
}

/// `model.layers.3.self_attn.q_proj.weight` is `blk.3.attn_q.weight` in a GGUF file; `None` for a name that is not known.
pub fn gguf_name(name: &str) -> Option<String> {
    renamed(name, "model.layers.", "blk.", |(ours, theirs)| (theirs, ours))
}

type Pair = (&'static str, &'static str);

fn renamed(name: &str, from: &str, to: &str, order: impl Fn(Pair) -> Pair) -> Option<String> {
    let (module, kind) = name.rsplit_once('.')?;
    let found = |names: &[Pair], module: &str| names.iter().map(|pair| order(*pair)).find(|(from, _)| *from == module);
    if let Some((_, to)) = found(&WHOLE, module) {
        return (kind == "weight").then(|| format!("{to}.weight"));
    }
    let (index, part) = module.strip_prefix(from)?.split_once('.')?;
    let (_, part) = found(&LAYER, part)?;
    let plain = !index.is_empty() && index.bytes().all(|byte| byte.is_ascii_digit());
    (plain && matches!(kind, "weight" | "bias")).then(|| format!("{to}{index}.{part}.{kind}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_checkpoints_and_back() {
        for (ours, theirs) in [
            ("blk.12.ffn_down.weight", "model.layers.12.mlp.down_proj.weight"),
            ("blk.0.attn_q.bias", "model.layers.0.self_attn.q_proj.bias"),
            ("blk.1.attn_k_norm.weight", "model.layers.1.self_attn.k_norm.weight"),
            ("output.weight", "lm_head.weight"),
            ("output_norm.weight", "model.norm.weight"),
            ("token_embd.weight", "model.embed_tokens.weight"),
        ] {
            assert_eq!(checkpoint_name(ours).as_deref(), Some(theirs));
            assert_eq!(gguf_name(theirs).as_deref(), Some(ours));
        }
        for unknown in [
            "blk.x.attn_q.weight",
            "blk.1.ffn_gate_exps.weight",
            "blk.1.attn_q.scale",
            "v.blk.0.a",
            "blk..attn_q.weight",
            "output.bias",
        ] {
            assert_eq!(checkpoint_name(unknown), None);
        }
        assert_eq!(gguf_name("model.layers.0.self_attn.rotary_emb.inv_freq"), None);
    }
}
