//! The files beside a model's weights without which it cannot be used.

/// Everything that a tokenizer may consist of.
pub const TOKENIZER_FILES: [&str; 7] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
];

/// Where transformers looks for the chat template before `tokenizer_config.json`, newest first.
pub const TEMPLATE_FILES: [&str; 2] = ["chat_template.jinja", "chat_template.json"];

/// Settings for generation: the stop tokens among them.
pub const GENERATION_FILE: &str = "generation_config.json";

/// The shape of the model.
pub const CONFIG_FILE: &str = "config.json";
