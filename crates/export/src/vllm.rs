//! `target: vllm`: the adapter in the portable form, and the command that serves it beside its base.
//!
//! Rules of `vllm/lora/peft_helper.py`: no `modules_to_save`, no DoRA, no bias, and a rank up to `--max-lora-rank`.

use rankine_models::adapter_file::read_config;

use crate::deploy;
use crate::error::ExportError;
use crate::peft::{self, Placed};
use crate::{Draft, Made};

/// The ranks that `--max-lora-rank` takes.
pub(crate) const MAX_RANKS: [usize; 9] = [1, 8, 16, 32, 64, 128, 256, 320, 512];

pub(crate) fn write(draft: &Draft<'_>) -> Result<Made, ExportError> {
    let Draft { inputs, folder, name, .. } = *draft;
    let placed = Placed::open(inputs)?;
    let mut card = peft::write_portable(draft, &placed, folder)?;
    let rank = read_config(folder)?.r;
    let base = placed.base_model.as_deref().unwrap_or("path/to/the/base");
    let arguments = arguments(rank, name, "\"$here\"");
    let script = deploy::filled(
        include_str!("../templates/vllm/serve.sh"),
        &[("BASE", &quoted(base)), ("NAME", name), ("ARGUMENTS", &arguments)],
    );
    deploy::write(folder, "serve.sh", &script)?;
    card.used_by(format!(
        "```sh\n./{}/serve.sh                # vllm serve {base} --enable-lora ...\n\
         curl localhost:8000/v1/completions -H 'Content-Type: application/json' \\\n    \
         -d '{{\"model\": \"{name}\", \"prompt\": \"...\", \"max_tokens\": 64}}'\n```\n\n\
         Into a server that runs with `VLLM_ALLOW_RUNTIME_LORA_UPDATING=True`:\n\n```sh\n\
         curl localhost:8000/v1/load_lora_adapter -H 'Content-Type: application/json' \\\n    \
         -d '{{\"lora_name\": \"{name}\", \"lora_path\": \"/path/to/this/folder\"}}'\n```\n",
        deploy::FOLDER
    ));
    Ok(placed.made(card))
}

/// The smallest rank that vLLM can be started with for this one; `None` above the largest.
pub(crate) fn max_rank(rank: usize) -> Option<usize> {
    MAX_RANKS.into_iter().find(|max| *max >= rank)
}

/// What vLLM is started with besides the base's name.
pub(crate) fn arguments(rank: usize, name: &str, place: &str) -> String {
    let max = max_rank(rank).unwrap_or(rank);
    format!("--enable-lora --max-lora-rank {max} --lora-modules {name}={place}")
}

/// A word of a shell's command line.
pub(crate) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_rank_that_holds_it_is_asked_for() {
        assert_eq!([1, 4, 16, 17, 300, 512].map(max_rank), [1, 8, 16, 32, 320, 512].map(Some));
        assert_eq!(max_rank(513), None);
        assert_eq!(quoted("a'b"), r"'a'\''b'");
    }
}
