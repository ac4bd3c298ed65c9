//! What a rule found.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// It will be refused, or be wrong.
    Error,
    /// It may be otherwise than one would think.
    Warning,
}

/// One thing that a rule found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The rule.
    #[serde(rename = "code")]
    pub rule: Rule,
    /// How bad it is.
    pub level: Level,
    /// The file, by its path in the folder.
    pub file: String,
    /// What is wrong, in a sentence.
    pub what: String,
    /// What to do.
    pub fix: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}; {}", self.file, self.rule, self.what, self.fix)
    }
}

/// Declares the rules with their codes and sentences, once.
macro_rules! rules {
    ($($name:ident $code:literal $sentence:literal)*) => {
        /// A rule, by its code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Rule {
            $(#[doc = $sentence] #[serde(rename = $code)] $name,)*
        }

        impl Rule {
            /// Every rule.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// As it is printed.
            pub fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// What it asks for.
            pub fn sentence(self) -> &'static str {
                match self { $(Self::$name => $sentence,)* }
            }
        }
    };
}

rules! {
    ConfigMissing "config-missing" "A model has a `config.json`."
    ConfigInvalid "config-invalid" "`config.json` is a JSON object."
    WeightsMissing "weights-missing" "A model's weights are safetensors files in the folder itself."
    WeightsPickled "weights-pickled" "There are no pickle files, which run code when they are loaded."
    WeightsUnreadable "weights-unreadable" "Every safetensors file is whole, and the index names what is there."
    WeightsIncomplete "weights-incomplete" "The tensors are those that `config.json` calls for."
    WeightsFormat "weights-format" "The metadata of each safetensors file say `format: pt`, or transformers 4 refuses it."
    IndexSize "index-size" "The index's `total_size` is the size of the tensors."
    TiedHead "tied-head" "A model whose head is its embedding stores no head besides."
    NotMerged "not-merged" "A merged model's folder holds no adapter beside it."
    TokenizerMissing "tokenizer-missing" "A model has its tokenizer: `tokenizer.json` or `tokenizer.model`."
    TokenizerInvalid "tokenizer-invalid" "The tokenizer's JSON files are JSON objects."
    TokenizerTooLarge "tokenizer-too-large" "The tokenizer makes no token that the model has no row for."
    StopToken "stop-token" "A text ends at a token that the model has."
    GenerationConfigMissing "generation-config-missing" "`generation_config.json` says at which tokens an answer ends."
    TemplateMissing "template-missing" "A model that is asked in conversations has a chat template."
    TemplateTwice "template-twice" "There is one chat template: a file of its own overrides the one in `tokenizer_config.json`."
    Architecture "architecture" "The architecture is one that Bedrock imports."
    Context "context" "`max_position_embeddings` is at most 131,072."
    TotalSize "total-size" "All weights together have less than 200 GB."
    ShardSize "shard-size" "A file of weights has at most 5 GiB."
    ShardName "shard-name" "Shards are `model-00001-of-0000N.safetensors`, with `model.safetensors.index.json`."
    HeaderSize "header-size" "A safetensors file's header has at most 100,000,000 bytes."
    Quantised "quantised" "The weights are not quantised."
    WeightsType "weights-type" "The weights are BF16, F16 or F32."
    LaterSpelling "later-spelling" "`config.json` is spelled as transformers 4.51.3 reads it: other spellings are passed over in silence."
    TokenizerConfigMissing "tokenizer-config-missing" "`tokenizer_config.json` is there."
    TokenizerClass "tokenizer-class" "`tokenizer_class` is one that Bedrock has."
    SpecialTokensList "special-tokens-list" "Further special tokens are `additional_special_tokens`: a list of `extra_special_tokens` fails in transformers 4.51.3."
    SpecialTokensMapMissing "special-tokens-map-missing" "`special_tokens_map.json` is there."
    TemplateEmbedded "template-embedded" "The chat template is in `tokenizer_config.json`, and is one text."
    FilesNested "files-nested" "The model's files lie in the folder itself."
    RopeOverride "rope-override" "Bedrock sets Llama 3's `rope_scaling` itself: factor 8, low 1, high 4, original 8192."
    GptOssStop "gpt-oss-stop" "GPT-OSS stops at 200002, 199999 and 200012."
    AdapterMissing "adapter-missing" "An adapter has `adapter_config.json` and `adapter_model.safetensors`."
    AdapterUnreadable "adapter-unreadable" "The adapter's tensors are those that its configuration calls for."
    AdapterBase "adapter-base" "`adapter_config.json` names the base model."
    AdapterFields "adapter-fields" "`adapter_config.json` has `r`, `lora_alpha` and `target_modules`."
    SavedModules "saved-modules" "vLLM takes no modules that were trained in full."
    Dora "dora" "vLLM takes no DoRA."
    Bias "bias" "vLLM takes no trained biases."
    OneScale "one-scale" "The reader has one rank and one scale: patterns would be passed over in silence."
    RankTooLarge "rank-too-large" "vLLM takes ranks up to 512."
    MlxConfig "mlx-config" "`adapter_config.json` has `fine_tune_type`, `num_layers` and `lora_parameters` with `rank`, `scale`, `dropout`."
    MlxTensors "mlx-tensors" "`adapters.safetensors` is there and whole."
    MlxKeys "mlx-keys" "Every tensor is `PATH.lora_a`, `PATH.lora_b` or `PATH.m`, of a path that `keys` names, and none is alone."
    MlxShapes "mlx-shapes" "Every `lora_a` is [in, rank] and every `lora_b` [rank, out]."
    MlxLayers "mlx-layers" "`num_layers` covers every adapted layer, counted from the last."
    CardMissing "card-missing" "A repository has a card: `README.md` with front matter."
    CardTask "card-task" "The card names the library and the task, by which an endpoint is made."
    CardBase "card-base" "The card names the base model."
    HandlerClass "handler-class" "`handler.py` has a class `EndpointHandler` with `__init__(self, path)` and `__call__(self, data)`."
    HandlerRequirements "handler-requirements" "`requirements.txt` lies beside `handler.py`."
    PropertiesMissing "properties-missing" "`serving.properties` names the base of the adapters."
    GgufMissing "gguf-missing" "There is one GGUF file, and it can be read."
    GgufTensors "gguf-tensors" "A GGUF model's tensors are those that its metadata call for."
    GgufTokenizer "gguf-tokenizer" "A GGUF model's metadata hold a tokenizer that can be read."
    GgufTemplate "gguf-template" "A GGUF model that is asked in conversations has its chat template in the metadata."
    ModelfileMissing "modelfile-missing" "There is a `Modelfile` whose `FROM` is a file of the folder."
    ModelfileTemplate "modelfile-template" "The `Modelfile` has a `TEMPLATE`: Ollama does not read the one in the GGUF file."
    LoraOff "lora-off" "`serving.properties` turns LoRA on, with a rank that holds every adapter."
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}
