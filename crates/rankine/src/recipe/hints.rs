//! What a person probably meant by a key that a recipe does not have.

use super::schema::{Key, Shape, all_keys};
use crate::fault::Fault;

/// The fault of a key that its section does not have.
pub(crate) fn unknown_key(section: &str, key: &str, keys: &[Key], root: &Shape) -> Fault {
    let place = if section.is_empty() { "a recipe".to_owned() } else { format!("`{section}`") };
    let fault = Fault::new(format!("`{key}` is not a key of {place}")).label("unknown key");
    let known = keys.iter().map(|key| key.name.as_str());
    if let Some(hint) = foreign(section, key) {
        return fault.help(hint);
    }
    if let Some(near) = nearest(key, known.clone()) {
        return fault.help(format!("did you mean `{near}`?"));
    }
    if let Some(path) = elsewhere(key, root) {
        return fault.help(format!("did you mean `{path}`?"));
    }
    fault.help(format!(
        "the keys are {}; `rankine schema --markdown` says what each is for",
        known.collect::<Vec<_>>().join(", ")
    ))
}

/// The nearest of some words, if one is near enough to be meant.
pub(crate) fn nearest<'w>(word: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    let plain = |text: &str| text.to_ascii_lowercase().replace('-', "_");
    let wanted = plain(word);
    let distance = |known: &str| strsim::damerau_levenshtein(&wanted, &plain(known));
    let near = words.map(|known| (distance(known), known)).min_by_key(|(distance, _)| *distance)?;
    let allowed = (word.chars().count() / 3).clamp(1, 3);
    (near.0 <= allowed).then_some(near.1)
}

/// What to say of a value that is no word of its key, where it is a word of another tool.
pub(crate) fn value_hint(value: &str) -> Option<&'static str> {
    Some(match value.to_ascii_lowercase().as_str() {
        "qlora" => "a quantised base is not supported yet; `lora` trains the same adapter over a plain base",
        "adamw_torch" | "adamw_torch_fused" | "adamw_hf" | "adam" | "adamw_8bit" | "adamw_bnb_8bit"
        | "paged_adamw_8bit" | "paged_adamw_32bit" => "`adamw` is the one AdamW here",
        "none" | "full_finetune" | "freeze" => "`full` trains every weight",
        "bfloat16" | "bfp16" => "`bf16`",
        "float16" | "half" | "fp16" => "`f16`",
        "float32" | "fp32" | "float" => "`f32`",
        "gpu" => "`cuda`, `vulkan`, `metal` or `wgpu`, in a build with that feature",
        "mps" => "`metal`",
        "cosine_with_min_lr" => "`cosine-with-min`",
        "warmup_stable_decay" => "`wsd`",
        "constant_with_warmup" => "`constant`, with `warmup_steps`",
        "safetensors" | "adapter" => "`peft`",
        _ => return None,
    })
}

/// The same name in another section of the recipe.
fn elsewhere(key: &str, root: &Shape) -> Option<String> {
    let keys = all_keys(root);
    let names = || keys.iter().map(|known| known.key.name.as_str());
    let near = nearest(key, names())?;
    keys.iter().find(|known| known.key.name == near).map(|known| known.path.clone())
}

/// The other tools' spelling: axolotl, LLaMA-Factory, torchtune, mlx-lm, Hugging Face's trainer, Unsloth.
fn foreign(section: &str, key: &str) -> Option<String> {
    let lower = key.to_ascii_lowercase().replace('-', "_");
    let ours = SPELLINGS.iter().find(|(_, theirs)| theirs.contains(&lower.as_str()));
    if let Some((path, _)) = ours {
        // A section's own key under another name is found by its short form, as `rank` in `lora`.
        return Some(format!("here it is `{path}`"));
    }
    let short = SECTION_SPELLINGS
        .iter()
        .find(|(place, theirs, _)| section.starts_with(place) && theirs.contains(&lower.as_str()));
    if let Some((_, _, path)) = short {
        return Some(format!("here it is `{path}`"));
    }
    let note = NOTES.iter().find(|(theirs, _)| theirs.iter().any(|name| matches_name(name, &lower)));
    note.map(|(_, note)| (*note).to_owned())
}

/// A name, or a prefix where it ends in `*`.
fn matches_name(name: &str, key: &str) -> bool {
    match name.strip_suffix('*') {
        Some(prefix) => key.starts_with(prefix),
        None => name == key,
    }
}

/// Our key, and what other tools call it.
const SPELLINGS: &[(&str, &[&str])] = &[
    ("base_model", &["model", "model_name_or_path", "base_model_name_or_path", "model_name", "model_path", "model_id"]),
    ("revision", &["model_revision", "revision_of_model", "base_model_revision"]),
    ("adapter", &["finetuning_type", "fine_tune_type", "peft_type", "train_type", "method"]),
    ("adapter: dora", &["use_dora", "peft_use_dora"]),
    ("adapter_path", &["lora_model_dir", "adapter_name_or_path", "resume_adapter_file", "peft_model"]),
    ("lora.r", &["lora_r", "lora_rank"]),
    ("lora.alpha", &["lora_alpha"]),
    ("lora.dropout", &["lora_dropout"]),
    ("lora.target_modules", &["lora_target_modules", "lora_target", "lora_attn_modules", "target_modules"]),
    ("lora.target_modules: all-linear", &["lora_target_linear", "apply_lora_to_mlp", "apply_lora_to_output"]),
    ("lora.exclude_modules", &["lora_exclude_modules"]),
    ("lora.modules_to_save", &["lora_modules_to_save", "additional_target", "modules_to_save"]),
    ("lora.use_rslora", &["use_rslora", "peft_use_rslora"]),
    ("lora.layers_to_transform", &["peft_layers_to_transform", "lora_layers", "layers_to_transform"]),
    ("lora.init", &["init_lora_weights", "peft_init_lora_weights"]),
    ("lora", &["lora_parameters", "lora_config", "peft_config", "peft"]),
    ("datasets", &["dataset", "data", "train_file", "train_data", "train_dataset", "data_path", "training_file"]),
    (
        "val_datasets",
        &["test_datasets", "eval_dataset", "validation_file", "val_dataset", "valid_dataset", "eval_file"],
    ),
    ("val_size", &["val_set_size", "validation_split", "validation_split_percentage", "eval_size", "test_size"]),
    (
        "max_seq_len",
        &["sequence_len", "cutoff_len", "max_seq_length", "max_length", "model_max_length", "block_size", "seq_len"],
    ),
    ("packing", &["sample_packing", "packed", "neat_packing", "pack"]),
    (
        "train_on",
        &[
            "train_on_inputs",
            "roles_to_train",
            "train_on_prompt",
            "train_on_input",
            "mask_prompt",
            "completion_only_loss",
            "assistant_only_loss",
        ],
    ),
    ("chat_template", &["template", "prompt_template", "prompt_style"]),
    ("shuffle", &["shuffle_dataset", "shuffle_data"]),
    ("epochs", &["num_epochs", "num_train_epochs", "n_epochs", "max_epochs", "epoch"]),
    (
        "max_steps",
        &["iters", "max_iters", "num_steps", "max_train_steps", "total_steps", "steps", "max_steps_per_epoch"],
    ),
    ("micro_batch_size", &["per_device_train_batch_size", "batch_size", "train_batch_size", "per_device_batch_size"]),
    (
        "gradient_accumulation_steps",
        &["grad_accumulation_steps", "accumulate_grad_batches", "gradient_accumulation", "grad_accum"],
    ),
    ("learning_rate", &["lr", "peak_learning_rate", "max_lr"]),
    ("lr_scheduler", &["lr_scheduler_type", "scheduler", "lr_schedule", "scheduler_type"]),
    ("lr_scheduler: cosine-with-min", &["cosine_min_lr_ratio", "min_lr", "min_lr_rate"]),
    ("warmup_steps", &["warmup", "num_warmup_steps", "lr_warmup_steps"]),
    ("warmup_ratio", &["warmup_fraction"]),
    ("optimizer", &["optim", "optimizer_type"]),
    ("betas", &["adam_beta1", "adam_beta2", "beta1", "beta2", "momentum"]),
    ("eps", &["adam_epsilon", "epsilon", "adam_eps"]),
    ("weight_decay", &["wd", "l2"]),
    ("max_grad_norm", &["clip_grad_norm", "gradient_clipping", "grad_clip", "max_gradient_norm", "gradient_clip_val"]),
    ("loraplus_lr_ratio", &["lora_plus_lr_ratio", "loraplus_ratio"]),
    ("neftune_alpha", &["neftune_noise_alpha", "noisy_embedding_alpha"]),
    ("dtype", &["bf16", "fp16", "bfloat16", "float16", "pure_bf16", "precision", "torch_dtype", "mixed_precision"]),
    ("device", &["device_map", "device_type", "accelerator"]),
    ("seed", &["random_seed", "data_seed"]),
    (
        "eval_steps",
        &[
            "steps_per_eval",
            "eval_every",
            "run_val_every_n_steps",
            "val_check_interval",
            "evals_per_epoch",
            "eval_interval",
        ],
    ),
    ("save_steps", &["save_every", "saves_per_epoch", "checkpoint_interval", "save_every_n_steps"]),
    ("save_total_limit", &["keep_last", "max_checkpoints", "keep_last_n_checkpoints"]),
    ("early_stopping_patience", &["patience", "early_stopping"]),
    ("load_best", &["load_best_model_at_end"]),
    ("sample_prompts", &["sample_prompt", "eval_prompts", "generation_prompts"]),
    ("output_dir", &["output", "save_dir", "out_dir", "save_path", "output_path"]),
    ("resume", &["resume_from_checkpoint", "auto_resume_from_checkpoints"]),
];

/// Short names that mean something only inside a section.
const SECTION_SPELLINGS: &[(&str, &[&str], &str)] = &[
    ("lora", &["rank"], "lora.r"),
    ("lora", &["scale"], "lora.alpha` (the scale is alpha / r), not `lora.scale"),
    ("lora", &["keys", "modules"], "lora.target_modules"),
    ("lora", &["rslora"], "lora.use_rslora"),
    ("lora", &["dora"], "adapter: dora"),
    ("lora", &["layers"], "lora.layers_to_transform"),
    ("datasets", &["file", "files", "data_files", "dataset_name", "file_name"], "path"),
    ("datasets", &["format", "formatting", "conversation", "prompt_strategy"], "type"),
    (
        "datasets",
        &["columns", "field_names", "column_map", "field_messages", "field", "field_instruction", "field_output"],
        "fields",
    ),
    ("datasets", &["max_samples", "num_samples", "limit"], "max_records"),
    ("datasets", &["interleave_probs", "probability", "ratio"], "weight"),
    ("val_datasets", &["file", "files", "data_files"], "path"),
    ("val_datasets", &["format", "formatting", "conversation"], "type"),
    ("export", &["format", "type", "kind"], "target"),
    ("export", &["path", "output", "dir", "output_dir"], "out"),
    ("export", &["torch_dtype", "precision"], "dtype"),
];

/// Keys of other tools that need no key here, or cannot be had yet.
const NOTES: &[(&[&str], &str)] = &[
    (
        &["load_in_4bit", "load_in_8bit", "quantization_bit", "bnb_*", "quantization*", "gptq", "qlora"],
        "a base in 4 or 8 bits is `quantize: nf4`, `int4` or `int8`",
    ),
    (
        &[
            "gradient_checkpointing_*",
            "enable_activation_*",
            "grad_checkpoint",
            "disable_gradient_checkpointing",
            "use_gradient_checkpointing",
            "activation_checkpointing",
        ],
        "computing activations again is `gradient_checkpointing: block`",
    ),
    (
        &[
            "flash_attention",
            "flash_attn",
            "attn_implementation",
            "sdp_attention",
            "xformers*",
            "sage_attention",
            "eager_attention",
        ],
        "leave it out: the attention that is right for the device is chosen by itself",
    ),
    (
        &["deepspeed*", "fsdp*", "ddp*", "tensor_parallel*", "context_parallel*", "num_gpus"],
        "training runs on one device for now",
    ),
    (
        &[
            "logging_steps",
            "log_every_n_steps",
            "steps_per_report",
            "logging_dir",
            "logging_strategy",
            "log_peak_memory_stats",
        ],
        "leave it out: `metrics.jsonl` in `output_dir` holds every step",
    ),
    (
        &["report_to", "wandb*", "mlflow*", "swanlab*", "comet*", "use_tensorboard", "trackio*"],
        "`train --json` prints every event for other trackers",
    ),
    (
        &[
            "preprocessing_num_workers",
            "dataset_processes",
            "dataset_num_proc",
            "num_workers",
            "dataloader_*",
            "dataset_prepared_path",
            "overwrite_cache",
            "group_by_length",
            "tokenized_path",
        ],
        "leave it out: tokenising uses every core and its result is kept",
    ),
    (
        &["push_to_hub", "hub_*", "push_dataset_to_hub"],
        "`rankine push RUN org/name` uploads what a run left, once it is done",
    ),
    (
        &["save_strategy", "save_only_model", "save_safetensors"],
        "`save_steps` says how often; checkpoints are whole and in safetensors",
    ),
    (
        &["eval_strategy", "evaluation_strategy", "do_eval"],
        "`eval_steps` says how often; there is an evaluation where there is validation data",
    ),
    (
        &["do_train", "stage", "task_type", "finetuning_task"],
        "leave it out: supervised training of a causal model is what `train` does",
    ),
    (
        &["metric_for_best_model", "greater_is_better", "early_stopping_threshold"],
        "leave it out: the best checkpoint has the lowest validation loss",
    ),
    (&["overwrite_output_dir"], "`rankine train --overwrite` starts over in a folder that holds a run"),
    (&["trust_remote_code"], "leave it out: no code of a model's repository is ever run"),
    (
        &["per_device_eval_batch_size", "eval_batch_size", "val_batch_size"],
        "leave it out: evaluation uses `micro_batch_size`",
    ),
    (
        &["pad_to_sequence_len", "pad_to_multiple_of", "padding", "remove_unused_columns", "eval_sample_packing"],
        "leave it out: padding is chosen by itself and never changes a result",
    ),
    (
        &["special_tokens", "tokens", "tokenizer_type", "tokenizer", "tokenizer_name", "model_type", "resize_*"],
        "leave it out: it is read from `base_model`",
    ),
    (
        &[
            "strict",
            "gc_steps",
            "local_rank",
            "tf32",
            "torch_compile*",
            "compile",
            "use_cache",
            "low_cpu_mem_usage",
            "liger_*",
            "use_liger*",
            "unsloth*",
            "cut_cross_entropy",
            "num_layers",
        ],
        "leave it out: it has no counterpart here",
    ),
    (&["rl", "rl_beta", "dpo_beta", "pref_*", "reward_model"], "preference training is not supported yet"),
    (&["merge_lora", "export_dir", "fuse", "merge"], "`export: [{target: merged}]`, or `rankine merge` afterwards"),
    (
        &["include", "defaults", "extends", "_component_"],
        "a recipe is one file; `--set key=value` changes it from the command line",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_leads_to_a_key_that_exists() {
        let known: Vec<String> = all_keys(&Shape::recipe()).into_iter().map(|key| key.path).collect();
        for (path, theirs) in SPELLINGS {
            let key = path.split(':').next().unwrap_or_default();
            assert!(known.iter().any(|known| known == key), "{path} (for {theirs:?}) is not a key");
        }
    }

    #[test]
    fn no_key_of_ours_is_taken_for_another_tools() {
        for key in all_keys(&Shape::recipe()) {
            let (section, name) = key.path.rsplit_once('.').unwrap_or(("", &key.path));
            assert_eq!(foreign(section, name).filter(|_| section.is_empty()), None, "{}", key.path);
        }
    }

    #[test]
    fn near_is_near() {
        let words = ["epochs", "eps", "export"];
        assert_eq!(nearest("epoch", words.into_iter()), Some("epochs"));
        assert_eq!(nearest("Epochs", words.into_iter()), Some("epochs"));
        assert_eq!(nearest("banana", words.into_iter()), None);
    }
}
