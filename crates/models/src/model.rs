//! The decoder: a base model loaded onto a device, and its forward pass.

mod build;
#[cfg(test)]
mod tests;

use std::path::Path;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rankine_nn::cache::LayerCache;
use rankine_nn::decoder_layer::{Attention, DecoderLayer, Mlp};
use rankine_nn::embedding::{Embedding, Table};
use rankine_nn::linear::{Linear, LinearWeight, standard_normal};
use rankine_nn::norm::RmsNorm;
use rankine_nn::parameter::{Parameter, ParameterMut, Parameters, Pass};
use rankine_ops::{
    self as ops, Angles, Attended, Compute, FrozenProduct, Keep, Projection, QuantFormat, QuantWeight, StreamedWeight,
    Weight,
};
use thiserror::Error;

use self::build::{Builder, Held, Source};
use crate::config::{ConfigError, DecoderConfig, TensorSpec};
use crate::weights::{StoredDtype, StoredTensor, WeightFiles, WeightsError};

/// A causal language model with whatever adapter was attached to it.
#[derive(Debug, Clone)]
pub struct Model {
    /// Its shape.
    pub config: DecoderConfig,
    /// Everything below the head, under the checkpoint's prefix `model`.
    pub model: Decoder,
    /// The head; `None` where it is the embedding table.
    pub lm_head: Option<Linear>,
    /// How products with a tied head are computed on the CPU.
    tied_product: FrozenProduct,
    frequencies: Vec<f32>,
    device: Device,
}

/// Embeddings, layers and the last norm.
#[derive(Debug, Clone)]
pub struct Decoder {
    /// [v, d].
    pub embed_tokens: Embedding,
    /// In order.
    pub layers: Vec<DecoderLayer>,
    /// After the last layer.
    pub norm: RmsNorm,
}

/// Tokens laid out in rows, as a batch of one or more documents each.
#[derive(Debug, Clone, Copy)]
pub struct Tokens<'a> {
    /// Rows `b`.
    pub rows: usize,
    /// [b * t].
    pub input_ids: &'a [u32],
    /// [b * t], from 0 in each document.
    pub position_ids: &'a [u32],
    /// [b * t]: the document of each token within its row; 0 is padding.
    pub segment_ids: &'a [u32],
}

/// Keys and values of every layer, for one sequence.
#[derive(Debug, Clone)]
pub struct Cache {
    layers: Vec<LayerCache>,
}

/// How the frozen base is held. Adapters, norms, the residual stream and the loss are always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseForm {
    /// Of what is not quantised.
    pub dtype: StoredDtype,
    /// The decoder layers' linear weights in 4 or 8 bits; embeddings, norms and the head never are.
    pub quantize: Option<QuantFormat>,
    /// Where those weights are, if not in fewer bits.
    pub residency: Residency,
}

/// Where the decoder layers' linear weights are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Residency {
    /// In memory.
    #[default]
    Memory,
    /// In their files, as they are stored there: read one layer ahead of its use, and given back after it.
    Stream,
}

impl From<StoredDtype> for BaseForm {
    fn from(dtype: StoredDtype) -> Self {
        Self { dtype, quantize: None, residency: Residency::Memory }
    }
}

impl BaseForm {
    /// A stored tensor as it is held in fewer bits, where it is.
    pub fn quantised(&self, stored: &StoredTensor<'_>) -> Option<QuantWeight> {
        let (format, &[out, input]) = (self.quantize?, stored.shape.as_slice()) else { return None };
        let values = || Source::read(stored, self.dtype).into_f32();
        is_layer_linear(stored.name).then(|| QuantWeight::quantise(format, &values(), [out, input]))
    }

    /// The tensor `name` of files that were checked to have it.
    fn hold(&self, files: &WeightFiles, name: &str) -> Held {
        let Some(stored) = files.get(name) else { unreachable!("check_tensors found {name} in the files") };
        if let Some(weight) = self.quantised(&stored) {
            return Held::Quantised(weight);
        }
        if self.residency == Residency::Stream
            && let Some(weight) = streamed(files, name)
        {
            let [before, after] = neighbours(name).map(|name| name.and_then(|name| streamed(files, &name)));
            return Held::Streamed(weight.between(before.as_ref(), after.as_ref()));
        }
        let dtype = if stored.shape.len() == 1 { StoredDtype::F32 } else { self.dtype };
        Held::Values(Source::read(&stored, dtype))
    }
}

fn streamed(files: &WeightFiles, name: &str) -> Option<StreamedWeight> {
    files.get(name).filter(|stored| is_layer_linear(stored.name))?.streamed()
}

/// The same weight of the layer before and of the layer after.
fn neighbours(name: &str) -> [Option<String>; 2] {
    let parts = || {
        let (index, rest) = name.strip_prefix(LAYERS)?.split_once('.')?;
        Some((index.parse::<usize>().ok()?, rest))
    };
    let Some((index, rest)) = parts() else { return [None, None] };
    [index.checked_sub(1), Some(index + 1)].map(|index| index.map(|index| format!("{LAYERS}{index}.{rest}")))
}

/// What the names of the decoder layers' tensors begin with.
const LAYERS: &str = "model.layers.";

/// Whether a tensor is the weight of a decoder layer's linear layer: what a form holds otherwise than the rest.
pub fn is_layer_linear(name: &str) -> bool {
    name.starts_with(LAYERS) && name.ends_with("_proj.weight")
}

impl Model {
    /// Loads a model: a folder with `config.json` beside one or more safetensors files, or a GGUF file.
    ///
    /// # Errors
    /// A config that is not supported, weight files that cannot be read, and every missing, surplus or misshapen
    /// tensor, before any is read.
    ///
    /// Weights that are quantised are so one by one: no more than one of them is there in f32 at a time.
    pub fn load(folder: &Path, form: impl Into<BaseForm>, device: &Device) -> Result<Self, ModelError> {
        Self::load_first(folder, form, device, usize::MAX)
    }

    /// As [`Self::load`], with no more than the first `layers` decoder layers.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_first(
        folder: &Path,
        form: impl Into<BaseForm>,
        device: &Device,
        layers: usize,
    ) -> Result<Self, ModelError> {
        let form = form.into();
        let mut config = DecoderConfig::from_folder(folder)?;
        let files = WeightFiles::open(folder)?;
        check_tensors(folder, &config, &files)?;
        if form.residency == Residency::Stream
            && let Some(reason) = files.not_streamable(form.dtype)
        {
            return Err(ModelError::NotStreamable { reason });
        }
        config.num_hidden_layers = config.num_hidden_layers.min(layers);
        Ok(Self::build(config, device, ops::max_tensor_bytes(device), &mut |spec| form.hold(&files, &spec.name)))
    }

    /// A new model for pretraining: `N(0, initializer_range^2)`, norms 1, biases 0, as transformers starts one.
    pub fn random(config: DecoderConfig, seed: u64, device: &Device) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let deviation = config.initializer_range as f32;
        Self::build(config, device, ops::max_tensor_bytes(device), &mut |spec| {
            let count = spec.shape.iter().product();
            let values = match spec.shape.len() {
                1 if spec.name.ends_with(".bias") => vec![0.0; count],
                1 => vec![1.0; count],
                _ => (0..count).map(|_| deviation * standard_normal(&mut rng)).collect(),
            };
            Held::Values(Source::F32(values))
        })
    }

    /// A frozen matrix of more than `most` bytes is held as several.
    fn build(
        config: DecoderConfig,
        device: &Device,
        most: Option<u64>,
        hold: &mut dyn FnMut(&TensorSpec) -> Held,
    ) -> Self {
        let mut build = Builder { device, most, hold };
        let d = config.hidden_size;
        let weight = build.table("model.embed_tokens.weight", [config.vocab_size, d]);
        let embed_tokens = Embedding { weight, adapter: None };
        let mut linears = Vec::with_capacity(7 * config.num_hidden_layers + 1);
        for module in config.linear_modules() {
            if module.path == "lm_head" && config.tie_word_embeddings {
                continue;
            }
            let weight = build.linear(&module.path, [module.out_features, module.in_features]);
            let bias = config
                .has_bias(&module.path)
                .then(|| build.vector(&format!("{}.bias", module.path), module.out_features));
            linears.push(Linear::frozen(weight, bias));
        }
        let mut linears = linears.into_iter();
        let mut next = || linears.next().unwrap_or_else(|| unreachable!("one linear layer for each module"));
        let eps = config.rms_norm_eps;
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for index in 0..config.num_hidden_layers {
            let mut norm = |name: &str, width: usize| RmsNorm {
                weight: Parameter::Frozen(build.vector(&format!("model.layers.{index}.{name}.weight"), width)),
                eps,
            };
            layers.push(DecoderLayer {
                input_layernorm: norm("input_layernorm", d),
                post_attention_layernorm: norm("post_attention_layernorm", d),
                self_attn: Attention {
                    q_proj: next(),
                    k_proj: next(),
                    v_proj: next(),
                    o_proj: next(),
                    q_norm: config.qk_norm.then(|| norm("self_attn.q_norm", config.head_dim)),
                    k_norm: config.qk_norm.then(|| norm("self_attn.k_norm", config.head_dim)),
                    head_dim: config.head_dim,
                },
                mlp: Mlp { gate_proj: next(), up_proj: next(), down_proj: next() },
                keep: Keep::default(),
            });
        }
        let norm = RmsNorm { weight: Parameter::Frozen(build.vector("model.norm.weight", d)), eps };
        let lm_head = (!config.tie_word_embeddings).then(next);
        let frequencies = config.rope.frequencies(config.head_dim);
        Self {
            config,
            model: Decoder { embed_tokens, layers, norm },
            lm_head,
            tied_product: FrozenProduct::default(),
            frequencies,
            device: device.clone(),
        }
    }

    /// The hidden states after the last norm.
    ///
    /// # Shapes
    /// Returns [b * t, d] in f32.
    pub fn hidden(&self, tokens: &Tokens<'_>, pass: &mut Pass) -> Tensor<2> {
        self.hidden_with(tokens, pass, &mut |_, _| {}, None)
    }

    /// As [`Self::hidden`]; `noise` [b * t, d] is added to the embeddings (NEFTune), and `seen` is shown the
    /// embeddings (0) and each layer's output (1 and on).
    pub fn hidden_with(
        &self,
        tokens: &Tokens<'_>,
        pass: &mut Pass,
        seen: &mut dyn FnMut(usize, &Tensor<2>),
        noise: Option<Tensor<2>>,
    ) -> Tensor<2> {
        let mut x = self.embed(tokens.input_ids, pass);
        if let Some(noise) = noise {
            x = x + noise;
        }
        seen(0, &x);
        let angles = Angles::new(&self.frequencies, tokens.position_ids);
        let (heads, groups) = (self.config.num_attention_heads, self.config.num_key_value_heads);
        let mut seen_keys: Vec<(Option<usize>, Attended)> = Vec::new();
        for (index, layer) in self.model.layers.iter().enumerate() {
            let window = self.config.sliding_window[index];
            let attended = match seen_keys.iter().find(|(held, _)| *held == window) {
                Some((_, attended)) => attended.clone(),
                None => {
                    let attended = Attended::from_segments(tokens.segment_ids, tokens.rows, window, heads, groups);
                    seen_keys.push((window, attended.clone()));
                    attended
                }
            };
            x = layer.forward(x, &angles, &attended, None, pass);
            seen(index + 1, &x);
        }
        self.model.norm.forward(x, pass)
    }

    /// The hidden states of new tokens of one sequence, after those that `cache` holds.
    ///
    /// # Shapes
    /// Returns [t, d] in f32.
    pub fn extend(&self, input_ids: &[u32], cache: &mut Cache) -> Tensor<2> {
        let mut pass = Pass::Infer;
        let past = cache.len();
        let position_ids: Vec<u32> = (past as u32..(past + input_ids.len()) as u32).collect();
        let mut x = self.embed(input_ids, &pass);
        let angles = Angles::new(&self.frequencies, &position_ids);
        let (heads, groups) = (self.config.num_attention_heads, self.config.num_key_value_heads);
        for (index, layer) in self.model.layers.iter().enumerate() {
            let window = self.config.sliding_window[index];
            let attended = Attended::after_cache(past, input_ids.len(), window, heads, groups);
            x = layer.forward(x, &angles, &attended, Some(&mut cache.layers[index]), &mut pass);
        }
        self.model.norm.forward(x, &pass)
    }

    /// The logits of hidden states.
    ///
    /// # Shapes
    /// `hidden` [n, d]; returns [n, v] in f32.
    pub fn logits(&self, hidden: Tensor<2>, pass: &mut Pass) -> Tensor<2> {
        match &self.lm_head {
            Some(head) => head.forward(hidden, pass),
            None => {
                let weight = self.model.embed_tokens.weight.value(pass);
                let product = self.tied_product.clone();
                ops::linears(hidden, None, &[Projection { product, ..Projection::plain(weight) }], None)
            }
        }
    }

    /// The head's weight [v, d] where nothing of the head is trained, so that the loss needs no logits in the graph.
    pub fn frozen_head(&self) -> Option<Weight> {
        match &self.lm_head {
            Some(Linear { weight: LinearWeight::Dense(Parameter::Trained(_)), .. }) => None,
            Some(Linear { adapter: None, bias: None, weight, .. }) => Some(weight.value(&Pass::Infer)),
            Some(_) => None,
            None if self.model.embed_tokens.weight.is_trained() => None,
            None => Some(self.model.embed_tokens.weight.value(&Pass::Infer)),
        }
    }

    /// How products with the head are computed on the CPU.
    pub fn head_product(&self) -> &FrozenProduct {
        self.lm_head.as_ref().map_or(&self.tied_product, |head| &head.product)
    }

    /// Has products with the frozen base computed in another way on the CPU, from here on.
    pub fn set_compute(&mut self, compute: Compute) {
        let product = |weight: &Parameter<2>| match weight {
            Parameter::Frozen(weight) => FrozenProduct::new(weight, compute),
            Parameter::Trained(_) => FrozenProduct::default(),
        };
        if let (None, Table::Whole(weight)) = (&self.lm_head, &self.model.embed_tokens.weight) {
            self.tied_product = product(weight);
        }
        self.for_each_linear(&mut |_, linear| {
            linear.product = match &linear.weight {
                LinearWeight::Dense(weight) => product(weight),
                LinearWeight::Quantised(_) | LinearWeight::Streamed(_) | LinearWeight::Split(_) => {
                    FrozenProduct::as_read(compute)
                }
            };
        });
    }

    /// Has layer `index` keep its inputs alone for the backward pass where `again(index)` says so. The last layer's
    /// backward pass comes right after its forward pass, and nothing would be saved.
    pub fn set_gradient_checkpointing(&mut self, again: impl Fn(usize) -> bool) {
        let last = self.model.layers.len().saturating_sub(1);
        for (index, layer) in self.model.layers.iter_mut().enumerate() {
            layer.keep = if index < last && again(index) { Keep::Input } else { Keep::Intermediates };
        }
    }

    /// An empty cache for one sequence.
    pub fn cache(&self) -> Cache {
        Cache { layers: vec![LayerCache::default(); self.model.layers.len()] }
    }

    /// Where it lives, outside the graph.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Calls `f` on every linear layer with its path, the head included where it is not tied.
    pub fn for_each_linear(&mut self, f: &mut dyn FnMut(&str, &mut Linear)) {
        for (index, layer) in self.model.layers.iter_mut().enumerate() {
            for (name, linear) in layer.linears_mut() {
                f(&format!("model.layers.{index}.{name}"), linear);
            }
        }
        if let Some(head) = &mut self.lm_head {
            f("lm_head", head);
        }
    }

    /// The trained tensors, by name, copied to the host.
    pub fn trained_tensors(&self) -> Vec<(String, Vec<usize>, Vec<f32>)> {
        self.host_tensors(true)
    }

    /// Every tensor, by name, copied to the host.
    pub fn all_tensors(&self) -> Vec<(String, Vec<usize>, Vec<f32>)> {
        self.host_tensors(false)
    }

    fn host_tensors(&self, trained_only: bool) -> Vec<(String, Vec<usize>, Vec<f32>)> {
        let mut tensors = Vec::new();
        // Tensors are handles: the clone shares every weight.
        self.clone().visit("", &mut |name, parameter| {
            if trained_only && !parameter.is_trained() {
                return;
            }
            let (shape, values) = match parameter {
                ParameterMut::Vector(parameter) => host(parameter.plain()),
                ParameterMut::Matrix(parameter) => host(parameter.plain()),
            };
            tensors.push((name.to_owned(), shape, values));
        });
        tensors
    }

    fn embed(&self, input_ids: &[u32], pass: &Pass) -> Tensor<2> {
        let ids: Vec<i64> = input_ids.iter().map(|&id| i64::from(id)).collect();
        let ids = Tensor::<1, Int>::from_data(TensorData::new(ids, [input_ids.len()]), &self.device);
        self.model.embed_tokens.forward(ids, pass)
    }
}

impl Cache {
    /// Tokens held.
    pub fn len(&self) -> usize {
        self.layers.first().map_or(0, LayerCache::len)
    }

    /// Whether nothing was seen yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Parameters for Model {
    /// `prefix` is empty for a checkpoint's own names.
    fn visit(&mut self, prefix: &str, f: &mut dyn FnMut(&str, ParameterMut<'_>)) {
        let dot = if prefix.is_empty() { "" } else { "." };
        let base = format!("{prefix}{dot}model");
        self.model.embed_tokens.visit(&format!("{base}.embed_tokens"), f);
        for (index, layer) in self.model.layers.iter_mut().enumerate() {
            layer.visit(&format!("{base}.layers.{index}"), f);
        }
        self.model.norm.visit(&format!("{base}.norm"), f);
        if let Some(head) = &mut self.lm_head {
            head.visit(&format!("{prefix}{dot}lm_head"), f);
        }
    }
}

fn host<const D: usize>(tensor: Tensor<D>) -> (Vec<usize>, Vec<f32>) {
    (tensor.dims().to_vec(), to_host(tensor))
}

/// A tensor's values in row-major order, as f32.
pub fn to_host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    let data = tensor.cast(DType::F32).into_data();
    data.try_into_vec().unwrap_or_else(|_| unreachable!("cast to f32 just before"))
}

/// A model that cannot be loaded.
#[derive(Debug, Error)]
pub enum ModelError {
    /// `config.json`.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The weight files.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Weights that were to stay in their files and cannot be used there.
    #[error("the base's weights cannot stay in their files: {reason}")]
    NotStreamable {
        /// Which, and why.
        reason: String,
    },
    /// Tensors that are not what `config.json` calls for.
    #[error("{folder}: the weights do not fit config.json:\n  {}", faults.join("\n  "))]
    Tensors {
        /// The model folder.
        folder: String,
        /// A sentence for each tensor.
        faults: Vec<String>,
    },
}

/// Compares what `config.json` calls for with what the files hold.
fn check_tensors(folder: &Path, config: &DecoderConfig, files: &WeightFiles) -> Result<(), ModelError> {
    let specs = config.tensors();
    let mut faults = Vec::new();
    for spec in &specs {
        match files.get(&spec.name) {
            None => faults.push(format!("{}: missing; shape {:?} is expected", spec.name, spec.shape)),
            Some(stored) if stored.shape != spec.shape => {
                faults.push(format!("{}: shape {:?} is expected, {:?} was found", spec.name, spec.shape, stored.shape));
            }
            Some(_) => {}
        }
    }
    let known: std::collections::HashSet<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    for name in files.names().filter(|name| !known.contains(name)) {
        // Older checkpoints carry the rotary table, and some tied ones a second copy of the head.
        let harmless =
            name.ends_with("rotary_emb.inv_freq") || (name == "lm_head.weight" && config.tie_word_embeddings);
        if !harmless {
            faults.push(format!("{name}: not a tensor of this architecture ({})", config.model_type));
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    const SHOWN: usize = 20;
    if faults.len() > SHOWN {
        let more = faults.len() - SHOWN;
        faults.truncate(SHOWN);
        faults.push(format!("and {more} more"));
    }
    Err(ModelError::Tensors { folder: folder.display().to_string(), faults })
}
