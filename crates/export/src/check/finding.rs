//! What a rule found.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::target::Target;

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

/// Declares the rules with their codes, the targets that they are of, and their sentences, once.
macro_rules! rules {
    ($($name:ident $code:literal $targets:ident $sentence:literal)*) => {
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

            /// The targets whose folders it is asked of.
            pub fn targets(self) -> &'static [Target] {
                match self { $(Self::$name => $targets,)* }
            }
        }
    };
}

const MODELS: &[Target] = &[Target::Merged, Target::Bedrock, Target::HfEndpoint, Target::Sagemaker];
/// Where an adapter is not what the folder may be instead.
const MODELS_ALONE: &[Target] = &[Target::Merged, Target::Bedrock, Target::Sagemaker];
const BEDROCK: &[Target] = &[Target::Bedrock];
const ADAPTERS: &[Target] = &[Target::Peft, Target::HfEndpoint, Target::Sagemaker, Target::Vllm];
/// What vLLM serves, on each of its platforms.
const VLLM: &[Target] = &[Target::HfEndpoint, Target::Sagemaker, Target::Vllm];
const MLX: &[Target] = &[Target::Mlx];
const ENDPOINT: &[Target] = &[Target::HfEndpoint];
const SAGEMAKER: &[Target] = &[Target::Sagemaker];
const GGUF: &[Target] = &[Target::Gguf, Target::Ollama];
const OLLAMA: &[Target] = &[Target::Ollama];

rules! {
    ConfigMissing "config-missing" MODELS "A model has a `config.json`."
    ConfigInvalid "config-invalid" MODELS "`config.json` is a JSON object."
    WeightsMissing "weights-missing" MODELS "A model's weights are safetensors files in the folder itself."
    WeightsPickled "weights-pickled" MODELS "There are no pickle files, which run code when they are loaded."
    WeightsUnreadable "weights-unreadable" MODELS "Every safetensors file is whole, and the index names what is there."
    WeightsIncomplete "weights-incomplete" MODELS "The tensors are those that `config.json` calls for."
    WeightsFormat "weights-format" MODELS "The metadata of each safetensors file say `format: pt`, or transformers 4 refuses it."
    IndexSize "index-size" MODELS "The index's `total_size` is the size of the tensors."
    TiedHead "tied-head" MODELS "A model whose head is its embedding stores no head besides."
    NotMerged "not-merged" MODELS_ALONE "A merged model's folder holds no adapter beside it."
    TokenizerMissing "tokenizer-missing" MODELS "A model has its tokenizer: `tokenizer.json` or `tokenizer.model`."
    TokenizerInvalid "tokenizer-invalid" MODELS "The tokenizer's JSON files are JSON objects."
    TokenizerTooLarge "tokenizer-too-large" MODELS "The tokenizer makes no token that the model has no row for."
    StopToken "stop-token" MODELS "A text ends at a token that the model has."
    GenerationConfigMissing "generation-config-missing" MODELS "`generation_config.json` says at which tokens an answer ends."
    TemplateMissing "template-missing" MODELS "A model that is asked in conversations has a chat template."
    TemplateTwice "template-twice" MODELS "There is one chat template: a file of its own overrides the one in `tokenizer_config.json`."
    Architecture "architecture" BEDROCK "The architecture is one that Bedrock imports."
    Context "context" BEDROCK "`max_position_embeddings` is at most 131,072."
    TotalSize "total-size" BEDROCK "All weights together have less than 200 GB."
    ShardSize "shard-size" BEDROCK "A file of weights has at most 5 GiB."
    ShardName "shard-name" BEDROCK "Shards are `model-00001-of-0000N.safetensors`, with `model.safetensors.index.json`."
    HeaderSize "header-size" BEDROCK "A safetensors file's header has at most 100,000,000 bytes."
    Quantised "quantised" BEDROCK "The weights are not quantised."
    WeightsType "weights-type" BEDROCK "The weights are BF16, F16 or F32."
    LaterSpelling "later-spelling" BEDROCK "`config.json` is spelled as transformers 4.51.3 reads it: other spellings are passed over in silence."
    TokenizerConfigMissing "tokenizer-config-missing" BEDROCK "`tokenizer_config.json` is there."
    TokenizerClass "tokenizer-class" BEDROCK "`tokenizer_class` is one that Bedrock has."
    SpecialTokensList "special-tokens-list" BEDROCK "Further special tokens are `additional_special_tokens`: a list of `extra_special_tokens` fails in transformers 4.51.3."
    SpecialTokensMapMissing "special-tokens-map-missing" BEDROCK "`special_tokens_map.json` is there."
    TemplateEmbedded "template-embedded" BEDROCK "The chat template is in `tokenizer_config.json`, and is one text."
    FilesNested "files-nested" BEDROCK "The model's files lie in the folder itself."
    RopeOverride "rope-override" BEDROCK "Bedrock sets Llama 3's `rope_scaling` itself: factor 8, low 1, high 4, original 8192."
    GptOssStop "gpt-oss-stop" BEDROCK "GPT-OSS stops at 200002, 199999 and 200012."
    AdapterMissing "adapter-missing" ADAPTERS "An adapter has `adapter_config.json` and `adapter_model.safetensors`."
    AdapterUnreadable "adapter-unreadable" ADAPTERS "The adapter's tensors are those that its configuration calls for."
    AdapterBase "adapter-base" ADAPTERS "`adapter_config.json` names the base model."
    AdapterFields "adapter-fields" VLLM "`adapter_config.json` has `r`, `lora_alpha` and `target_modules`."
    SavedModules "saved-modules" VLLM "vLLM takes no modules that were trained in full."
    Dora "dora" VLLM "vLLM takes no DoRA."
    Bias "bias" VLLM "vLLM takes no trained biases."
    OneScale "one-scale" VLLM "The reader has one rank and one scale: patterns would be passed over in silence."
    RankTooLarge "rank-too-large" VLLM "vLLM takes ranks up to 512."
    MlxConfig "mlx-config" MLX "`adapter_config.json` has `fine_tune_type`, `num_layers` and `lora_parameters` with `rank`, `scale`, `dropout`."
    MlxTensors "mlx-tensors" MLX "`adapters.safetensors` is there and whole."
    MlxKeys "mlx-keys" MLX "Every tensor is `PATH.lora_a`, `PATH.lora_b` or `PATH.m`, of a path that `keys` names, and none is alone."
    MlxShapes "mlx-shapes" MLX "Every `lora_a` is [in, rank] and every `lora_b` [rank, out]."
    MlxLayers "mlx-layers" MLX "`num_layers` covers every adapted layer, counted from the last."
    CardMissing "card-missing" ENDPOINT "A repository has a card: `README.md` with front matter."
    CardTask "card-task" ENDPOINT "The card names the library and the task, by which an endpoint is made."
    CardBase "card-base" ENDPOINT "The card names the base model."
    HandlerClass "handler-class" ENDPOINT "`handler.py` has a class `EndpointHandler` with `__init__(self, path)` and `__call__(self, data)`."
    HandlerRequirements "handler-requirements" ENDPOINT "`requirements.txt` lies beside `handler.py`."
    PropertiesMissing "properties-missing" SAGEMAKER "`serving.properties` names the base of the adapters."
    GgufMissing "gguf-missing" GGUF "There is one GGUF file, and it can be read."
    GgufTensors "gguf-tensors" GGUF "A GGUF model's tensors are those that its metadata call for."
    GgufTokenizer "gguf-tokenizer" GGUF "A GGUF model's metadata hold a tokenizer that can be read."
    GgufTemplate "gguf-template" GGUF "A GGUF model that is asked in conversations has its chat template in the metadata."
    ModelfileMissing "modelfile-missing" OLLAMA "There is a `Modelfile` whose `FROM` is a file of the folder."
    ModelfileTemplate "modelfile-template" OLLAMA "The `Modelfile` has a `TEMPLATE`: Ollama does not read the one in the GGUF file."
    LoraOff "lora-off" SAGEMAKER "`serving.properties` turns LoRA on, with a rank that holds every adapter."
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}
