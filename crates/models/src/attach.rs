//! Which tensors an adapter trains, decided from `config.json` alone, and its attachment to a loaded model.

use std::collections::HashMap;

use burn::tensor::{Device, Tensor, TensorData};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rankine_nn::embedding::{LoraEmbedding, Table};
use rankine_nn::linear::{Adapter, Dora, Linear, LinearWeight, Lora, initial_a, standard_normal};
use rankine_nn::lora::{AdapterKind, LoraConfig, TargetModules};
use rankine_nn::parameter::{Parameter, ParameterMut, Parameters};
use rankine_nn::target::{TargetError, TargetMatcher};
use thiserror::Error;

use crate::adapter_file::{Adapter as AdapterFolder, AdapterKey, HostTensor, KEY_PREFIX};
use crate::config::{DecoderConfig, TensorSpec};
use crate::model::Model;

/// The embedding table's module path.
pub const EMBEDDING: &str = "model.embed_tokens";
/// The head's module path.
pub const HEAD: &str = "lm_head";

/// What happens to a tied head when the embedding table is trained in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tying {
    /// The two stay one tensor (peft's `ensure_weight_tying`). What a new adapter does.
    #[default]
    Kept,
    /// Each is its own from here on: peft's default, met in adapters that peft made.
    Parted,
}

/// An adapter laid out over a model: every tensor that it trains.
#[derive(Debug, Clone)]
pub struct AdapterLayout {
    /// The method.
    pub kind: AdapterKind,
    /// What the recipe, or the adapter's file, says.
    pub lora: LoraConfig,
    /// Layers that carry a low-rank update.
    pub modules: Vec<AdaptedModule>,
    /// Modules trained in full beside it, by path.
    pub saved: Vec<String>,
    /// Whether a tied head stays tied.
    pub tying: Tying,
    /// Every trained tensor under its name in the model, which is its name in the adapter's file without the prefix
    /// `base_model.model.`. In the order in which the model lists its parameters.
    pub trained: Vec<TensorSpec>,
}

/// One layer that carries a low-rank update.
#[derive(Debug, Clone, PartialEq)]
pub struct AdaptedModule {
    /// `model.layers.0.self_attn.q_proj`.
    pub path: String,
    /// [out, in] of the weight (an embedding's is [v, d]).
    pub shape: [usize; 2],
    /// Rank.
    pub rank: usize,
    /// Factor of the update.
    pub scale: f64,
}

impl AdapterLayout {
    /// Lays the adapter over the model that `config` describes.
    ///
    /// # Errors
    /// Every name, layer or pattern that the model does not have, all at once, with what it has.
    pub fn resolve(
        config: &DecoderConfig,
        kind: AdapterKind,
        lora: &LoraConfig,
        tying: Tying,
    ) -> Result<Self, LayoutError> {
        if kind == AdapterKind::Full {
            let trained = config.tensors();
            let (lora, modules, saved) = (lora.clone(), Vec::new(), Vec::new());
            return Ok(Self { kind, lora, modules, saved, tying, trained });
        }
        let matcher = TargetMatcher::new(lora)?;
        let candidates = candidates(config);
        let mut faults = unmatched(config, &candidates, lora);
        let modules: Vec<AdaptedModule> = candidates
            .iter()
            .filter(|(path, _)| matcher.matches(path))
            .map(|(path, shape)| AdaptedModule {
                path: path.clone(),
                shape: *shape,
                rank: matcher.rank(path),
                scale: matcher.scale(path),
            })
            .collect();
        if modules.is_empty() && lora.modules_to_save.is_empty() && faults.is_empty() {
            faults.push("no layer is left to carry an adapter after exclude_modules and layers_to_transform".into());
        }
        if kind == AdapterKind::Dora && modules.iter().any(|module| module.path == EMBEDDING) {
            faults.push(
                "adapter: dora does not apply to embed_tokens: leave it out, or list it in modules_to_save".into(),
            );
        }
        for module in &modules {
            if let Some([a, b]) = matcher.ambiguity(&module.path) {
                faults.push(format!(
                    "rank_pattern or alpha_pattern: `{a}` and `{b}` both match {} and disagree",
                    module.path
                ));
            }
        }
        if !faults.is_empty() {
            return Err(LayoutError::Unmatched { faults });
        }
        let mut layout = Self { kind, lora: lora.clone(), modules, saved: Vec::new(), tying, trained: Vec::new() };
        layout.saved = saved_modules(config, &matcher, tying);
        layout.trained = layout.trained_tensors(config);
        Ok(layout)
    }

    /// Trained numbers.
    pub fn trained_parameters(&self) -> usize {
        self.trained.iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum()
    }

    /// Weights that are one tensor on every device, with their bytes in f32: what is trained, and what DoRA takes the
    /// norm of. Other frozen ones are split where a device holds none so large.
    pub fn undivided(&self) -> impl Iterator<Item = (u64, String)> {
        let bytes = |values: usize| 4 * values as u64;
        let trained = self.trained.iter().map(move |spec| (bytes(spec.shape.iter().product()), spec.name.clone()));
        let normed = self.modules.iter().filter(|_| self.kind == AdapterKind::Dora);
        trained
            .chain(normed.map(move |module| (bytes(module.shape.iter().product()), format!("{}.weight", module.path))))
    }

    /// Whether the embedding table is trained in full and is the head, too.
    pub fn trains_tied_table(&self, config: &DecoderConfig) -> bool {
        config.tie_word_embeddings && self.tying == Tying::Kept && self.saved.iter().any(|path| path == EMBEDDING)
    }

    /// The lowest decoder layer in which anything is trained; 0 where the embeddings are.
    pub fn lowest_layer(&self) -> Option<usize> {
        let all = self.trained.iter().map(|spec| spec.name.as_str());
        all.filter_map(|name| if name.starts_with(EMBEDDING) { Some(0) } else { layer_of(name) }).min()
    }

    /// The same over a model of the `config`'s depth: each of its layers carries what the first layer that carries
    /// anything does here.
    pub fn of_depth(&self, config: &DecoderConfig) -> Self {
        let paths = self.modules.iter().map(|module| &module.path).chain(&self.saved);
        let first = paths.filter_map(|path| layer_of(path)).min();
        let placed = |path: &String| -> Vec<String> {
            match layer_of(path) {
                None => vec![path.clone()],
                Some(index) if Some(index) == first => {
                    let at = |layer| path.replacen(&format!("layers.{index}."), &format!("layers.{layer}."), 1);
                    (0..config.num_hidden_layers).map(at).collect()
                }
                Some(_) => Vec::new(),
            }
        };
        let module = |module: &AdaptedModule| -> Vec<AdaptedModule> {
            placed(&module.path).into_iter().map(|path| AdaptedModule { path, ..module.clone() }).collect()
        };
        let mut layout = Self {
            modules: self.modules.iter().flat_map(module).collect(),
            saved: self.saved.iter().flat_map(placed).collect(),
            ..self.clone()
        };
        layout.trained = if self.kind == AdapterKind::Full { config.tensors() } else { layout.trained_tensors(config) };
        layout
    }

    fn trained_tensors(&self, config: &DecoderConfig) -> Vec<TensorSpec> {
        let mut trained = Vec::new();
        let mut add = |path: &str, name: &str, shape: Vec<usize>| {
            trained.push(TensorSpec { name: format!("{path}.{name}"), shape });
        };
        for AdaptedModule { path, shape: [out, input], rank, .. } in &self.modules {
            if path == EMBEDDING {
                add(path, "lora_embedding_A", vec![*rank, *out]);
                add(path, "lora_embedding_B", vec![*input, *rank]);
                continue;
            }
            add(path, "lora_A.weight", vec![*rank, *input]);
            add(path, "lora_B.weight", vec![*out, *rank]);
            if self.kind == AdapterKind::Dora {
                add(path, "lora_magnitude_vector", vec![*out]);
            }
        }
        let mut tensors = config.tensors();
        if config.tie_word_embeddings && self.saved.iter().any(|path| path == HEAD) {
            let shape = vec![config.vocab_size, config.hidden_size];
            tensors.push(TensorSpec { name: format!("{HEAD}.weight"), shape });
        }
        trained
            .extend(tensors.into_iter().filter(|tensor| self.saved.iter().any(|path| module_of(&tensor.name) == path)));
        trained
    }
}

impl Model {
    /// Attaches a new adapter: `A` drawn from `seed`, `B` zero, so that the logits stay as they are.
    pub fn attach(&mut self, layout: &AdapterLayout, seed: u64) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let device = self.device().clone();
        if layout.kind == AdapterKind::Full {
            self.join(&|_| true);
            self.visit("", &mut |_, parameter| train(parameter));
            return;
        }
        self.part_head(layout);
        let find = |path: &str| layout.modules.iter().find(|module| module.path == path);
        self.for_each_linear(&mut |path, linear| {
            let Some(module) = find(path) else { return };
            let a = initial_a(module.rank, module.shape[1], layout.lora.init, &mut rng);
            let lora = Lora::new(linear, module.rank, module.scale, layout.lora.dropout, a, &device);
            linear.adapter = Some(match layout.kind {
                AdapterKind::Dora => Adapter::Dora(Box::new(Dora::new(linear, lora))),
                AdapterKind::Lora | AdapterKind::Full => Adapter::Lora(Box::new(lora)),
            });
        });
        if let Some(AdaptedModule { shape: [vocab, width], rank, scale, .. }) = find(EMBEDDING) {
            let b: Vec<f32> = (0..width * rank).map(|_| standard_normal(&mut rng)).collect();
            self.model.embed_tokens.adapter = Some(LoraEmbedding {
                lora_embedding_a: Parameter::trained(Tensor::zeros([*rank, *vocab], &device)),
                lora_embedding_b: Parameter::trained(Tensor::from_data(TensorData::new(b, [*width, *rank]), &device)),
                scale: *scale,
            });
        }
        self.join(&|path| layout.saved.iter().any(|saved| saved == path));
        self.visit("", &mut |name, parameter| {
            if layout.saved.iter().any(|path| module_of(name) == path) {
                train(parameter);
            }
        });
    }

    /// Attaches an adapter that was read from a folder.
    ///
    /// # Errors
    /// An adapter of another model: modules or tensors that do not fit, all at once.
    pub fn attach_file(&mut self, adapter: &AdapterFolder) -> Result<AdapterLayout, LayoutError> {
        let (lora, kind) = adapter.config.to_lora();
        let tying = if adapter.config.ensure_weight_tying { Tying::Kept } else { Tying::Parted };
        if let Some(rows) = extended_vocabulary(&self.config, adapter) {
            self.extend_vocabulary(rows);
        }
        let layout = AdapterLayout::resolve(&self.config, kind, &lora, tying)?;
        let by_name: HashMap<String, &HostTensor> =
            adapter.tensors.iter().map(|(key, tensor)| (key.to_string(), tensor)).collect();
        let most = rankine_ops::max_tensor_bytes(self.device()).unwrap_or(u64::MAX);
        let too_large = |(bytes, name): (u64, String)| {
            (bytes > most).then(|| format!("{name}: {bytes} bytes in one tensor, and the device's largest has {most}"))
        };
        let faults: Vec<String> = layout.undivided().filter_map(too_large).collect();
        if !faults.is_empty() {
            return Err(LayoutError::Tensors { faults });
        }
        self.attach(&layout, 0);
        self.set_trained(&|name| {
            let tensor = by_name.get(&format!("{KEY_PREFIX}{name}"))?;
            Some(HostTensor::clone(tensor))
        })?;
        Ok(layout)
    }

    /// Replaces trained tensors by name, as a checkpoint or an adapter's file holds them.
    ///
    /// # Errors
    /// Every trained tensor that `values` lacks, every surplus one, and every one of another shape; then nothing
    /// was replaced.
    pub fn set_trained(&mut self, values: &dyn Fn(&str) -> Option<HostTensor>) -> Result<(), LayoutError> {
        let device = self.device().clone();
        let mut found = Vec::new();
        let mut faults = Vec::new();
        self.clone().visit("", &mut |name, parameter| {
            if !parameter.is_trained() {
                return;
            }
            let expected = match &parameter {
                ParameterMut::Vector(parameter) => parameter.plain().dims().to_vec(),
                ParameterMut::Matrix(parameter) => parameter.plain().dims().to_vec(),
            };
            match values(name) {
                None => faults.push(format!("{name}: missing; shape {expected:?} is expected")),
                Some(tensor) if tensor.shape != expected => {
                    faults.push(format!("{name}: shape {expected:?} is expected, {:?} was found", tensor.shape));
                }
                Some(tensor) => found.push(tensor.data),
            }
        });
        if !faults.is_empty() {
            return Err(LayoutError::Tensors { faults });
        }
        let mut found = found.into_iter();
        self.visit("", &mut |_, parameter| {
            if !parameter.is_trained() {
                return;
            }
            let values = found.next().unwrap_or_default();
            match parameter {
                ParameterMut::Vector(parameter) => *parameter = Parameter::trained(upload(values, parameter, &device)),
                ParameterMut::Matrix(parameter) => *parameter = Parameter::trained(upload(values, parameter, &device)),
            }
        });
        Ok(())
    }

    /// Makes room for an adapter that was trained with more tokens than the base has; the new rows are zero until its own
    /// take their place.
    fn extend_vocabulary(&mut self, rows: usize) {
        let extended = |weight: Tensor<2>| {
            let [own, width] = weight.dims();
            let zeros = Tensor::<2>::zeros([rows - own, width], &weight.device()).cast(weight.dtype());
            Parameter::Frozen(Tensor::cat(vec![weight, zeros], 0))
        };
        self.model.embed_tokens.weight = Table::Whole(extended(self.model.embed_tokens.weight.plain()));
        let device = self.device().clone();
        if let Some(head) = &mut self.lm_head {
            head.weight = LinearWeight::Dense(extended(head.weight.dense(&device)));
        }
        self.config.vocab_size = rows;
    }

    /// Holds the weights of `modules` as one tensor each: what is trained in full is held in no other way.
    fn join(&mut self, modules: &dyn Fn(&str) -> bool) {
        let device = self.device().clone();
        let table = &mut self.model.embed_tokens.weight;
        if modules(EMBEDDING) && matches!(table, Table::Split(_)) {
            *table = Table::Whole(Parameter::Frozen(table.plain()));
        }
        self.for_each_linear(&mut |path, linear| {
            if modules(path) && !matches!(linear.weight, LinearWeight::Dense(_)) {
                linear.weight = linear.weight.dense(&device).into();
            }
        });
    }

    /// Gives a tied head a weight of its own where the adapter treats the two apart.
    fn part_head(&mut self, layout: &AdapterLayout) {
        let adapted = layout.modules.iter().any(|module| module.path == HEAD);
        let embedding = |path: &String| path == EMBEDDING || path == HEAD;
        let parted = layout.tying == Tying::Parted && layout.saved.iter().any(embedding);
        if self.lm_head.is_none() && (adapted || parted) {
            self.lm_head = Some(Linear::frozen(self.model.embed_tokens.weight.clone(), None));
        }
    }
}

/// Tokens of an adapter that holds embedding and head in full, and more rows of them than the base has.
fn extended_vocabulary(config: &DecoderConfig, adapter: &AdapterFolder) -> Option<usize> {
    let rows = |module: &str| {
        let tensor = adapter.tensors.get(&AdapterKey::Saved { name: format!("{module}.weight") })?;
        (tensor.shape.len() == 2 && tensor.shape[1] == config.hidden_size).then(|| tensor.shape[0])
    };
    let embedding = rows(EMBEDDING)?;
    let head = match rows(HEAD) {
        Some(head) => head == embedding,
        // One tensor with the embedding, and it stays so.
        None => config.tie_word_embeddings && adapter.config.ensure_weight_tying,
    };
    (head && embedding > config.vocab_size).then_some(embedding)
}

/// The decoder layer that a path is in.
fn layer_of(path: &str) -> Option<usize> {
    path.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()
}

/// The module that a tensor belongs to: its name without the last part.
fn module_of(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(module, _)| module)
}

fn train(parameter: ParameterMut<'_>) {
    use burn::tensor::DType::F32;
    match parameter {
        ParameterMut::Vector(parameter) => *parameter = Parameter::trained(parameter.plain().cast(F32)),
        ParameterMut::Matrix(parameter) => *parameter = Parameter::trained(parameter.plain().cast(F32)),
    }
}

fn upload<const D: usize>(values: Vec<f32>, like: &Parameter<D>, device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, like.plain().dims()), device)
}

/// Modules that can carry a low-rank update: linear layers, the head, and the embedding table.
fn candidates(config: &DecoderConfig) -> Vec<(String, [usize; 2])> {
    let linear =
        config.linear_modules().into_iter().map(|module| (module.path, [module.out_features, module.in_features]));
    let embedding = (EMBEDDING.to_owned(), [config.vocab_size, config.hidden_size]);
    linear.chain([embedding]).collect()
}

/// Modules trained in full, by path. A tied pair that stays tied is the embedding's.
fn saved_modules(config: &DecoderConfig, matcher: &TargetMatcher, tying: Tying) -> Vec<String> {
    let mut paths: Vec<String> = Vec::new();
    let tied = config.tie_word_embeddings;
    let mut names: Vec<String> = config.tensors().into_iter().map(|tensor| tensor.name).collect();
    if tied {
        names.push(format!("{HEAD}.weight"));
    }
    for name in &names {
        // A name may stand for a whole subtree (`layers.1`), so every ancestor is asked.
        let module = module_of(name);
        let ends = module.match_indices('.').map(|(end, _)| end).chain([module.len()]);
        if ends.into_iter().any(|end| matcher.saves(&module[..end])) && !paths.iter().any(|path| path == module) {
            paths.push(module.to_owned());
        }
    }
    if tied && tying == Tying::Kept && paths.iter().any(|path| path == HEAD) {
        paths.retain(|path| path != HEAD && path != EMBEDDING);
        paths.insert(0, EMBEDDING.to_owned());
    }
    paths
}

/// A sentence for each name, layer and pattern that matches nothing of the model.
fn unmatched(config: &DecoderConfig, candidates: &[(String, [usize; 2])], lora: &LoraConfig) -> Vec<String> {
    let mut faults = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    for (path, _) in candidates {
        let name = path.rsplit('.').next().unwrap_or(path);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let has = names.join(", ");
    let any = |change: &dyn Fn(&mut LoraConfig), holds: &dyn Fn(&TargetMatcher, &str) -> bool| {
        let mut probe = LoraConfig { r: 1, ..LoraConfig::default() };
        change(&mut probe);
        // A pattern that does not compile was reported before.
        TargetMatcher::new(&probe).map_or(true, |matcher| candidates.iter().any(|(path, _)| holds(&matcher, path)))
    };
    let mut targets = |field: &str, modules: &TargetModules| {
        let each: Vec<TargetModules> = match modules {
            TargetModules::Pattern(pattern) => vec![TargetModules::Pattern(pattern.clone())],
            TargetModules::Names(names) => {
                if names.is_empty() && field == "target_modules" && lora.modules_to_save.is_empty() {
                    faults.push(format!("{field} is empty: name at least one of {has}, or write all-linear"));
                }
                names.iter().map(|name| TargetModules::Names(vec![name.clone()])).collect()
            }
        };
        for target in each {
            if !any(&|probe| probe.target_modules = target.clone(), &|matcher, path| matcher.matches(path)) {
                let written = match &target {
                    TargetModules::Names(names) => names.join(", "),
                    TargetModules::Pattern(pattern) => pattern.clone(),
                };
                faults.push(format!("{field}: `{written}` matches no module of this model, which has {has}"));
            }
        }
    };
    targets("target_modules", &lora.target_modules);
    if let Some(excluded) = &lora.exclude_modules {
        targets("exclude_modules", excluded);
    }
    let ranks = lora.rank_pattern.keys().map(|key| ("rank_pattern", key));
    for (field, key) in ranks.chain(lora.alpha_pattern.keys().map(|key| ("alpha_pattern", key))) {
        if !any(&|probe| _ = probe.rank_pattern.insert(key.clone(), 2), &|matcher, path| matcher.rank(path) == 2) {
            faults.push(format!("{field}: `{key}` matches no module of this model, which has {has}"));
        }
    }
    for layer in lora.layers_to_transform.iter().flatten() {
        if *layer >= config.num_hidden_layers {
            faults.push(format!(
                "layers_to_transform: layer {layer} does not exist: this model has layers 0 to {}",
                config.num_hidden_layers - 1
            ));
        }
    }
    for name in &lora.modules_to_save {
        let probe = LoraConfig { modules_to_save: vec![name.clone()], ..LoraConfig::default() };
        let found = TargetMatcher::new(&probe)
            .map_or(true, |matcher| !saved_modules(config, &matcher, Tying::Parted).is_empty());
        if !found {
            faults.push(format!("modules_to_save: `{name}` matches no module of this model, which has {has}, norm"));
        }
    }
    faults
}

/// An adapter that does not fit the model.
#[derive(Debug, Error)]
pub enum LayoutError {
    /// Patterns that cannot be used.
    #[error(transparent)]
    Rules(#[from] TargetError),
    /// Names, layers and patterns that the model does not have.
    #[error("{}", faults.join("\n"))]
    Unmatched {
        /// A sentence each.
        faults: Vec<String>,
    },
    /// Tensors that are not what the layout calls for.
    #[error("the adapter does not fit the model:\n  {}", faults.join("\n  "))]
    Tensors {
        /// A sentence each.
        faults: Vec<String>,
    },
}
