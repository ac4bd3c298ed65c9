//! What becomes of each tensor of the base, decided and checked before any value is read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rankine_models::adapter_file::{AdapterFile, AdapterKey};
use rankine_models::model::{BaseForm, is_layer_linear};
use rankine_models::weights::{StoredDtype, StoredTensor, WeightFiles};

use crate::error::{ExportError, MergeFault};
use crate::{ExportConfig, ExportInputs, Onto};

/// The embedding table.
const EMBEDDING: &str = "model.embed_tokens.weight";
/// The head.
const HEAD: &str = "lm_head.weight";

/// Every tensor of the merged model, in the order of the base's files.
#[derive(Debug)]
pub(crate) struct MergePlan<'a> {
    pub(crate) outputs: Vec<Output<'a>>,
    /// Head and embedding were one tensor in the base and are two here.
    pub(crate) untied: bool,
}

/// One tensor of the merged model.
#[derive(Debug, Clone)]
pub(crate) struct Output<'a> {
    pub(crate) name: String,
    pub(crate) base: StoredTensor<'a>,
    /// The base's, but for a vocabulary that was extended.
    pub(crate) shape: Vec<usize>,
    pub(crate) change: Change<'a>,
    pub(crate) dtype: StoredDtype,
    /// The base's values are rounded to the bits in which they were trained against.
    pub(crate) held: Option<BaseForm>,
}

/// What the adapter does to a tensor.
#[derive(Debug, Clone)]
pub(crate) enum Change<'a> {
    /// Nothing.
    Kept,
    /// `modules_to_save`.
    Replaced(StoredTensor<'a>),
    /// LoRA or DoRA.
    LowRank(Box<LowRank<'a>>),
}

/// `W + s B A`, with DoRA's magnitudes where there are any.
#[derive(Debug, Clone)]
pub(crate) struct LowRank<'a> {
    pub(crate) layout: Layout,
    pub(crate) a: StoredTensor<'a>,
    pub(crate) b: StoredTensor<'a>,
    pub(crate) magnitude: Option<StoredTensor<'a>>,
    /// The adapter's own copy of `W`, which peft saves with heads and embeddings.
    pub(crate) base_layer: Option<StoredTensor<'a>>,
    pub(crate) scale: f32,
}

/// How the factors lie to the weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// `W [out, in]`, `A [r, in]`, `B [out, r]`: `W + s B A`.
    Linear,
    /// `W [vocab, hidden]`, `A [r, vocab]`, `B [hidden, r]`: `W + s (B A)^T`.
    Embedding,
}

impl<'a> MergePlan<'a> {
    /// As [`Self::new`], with the folders of an export in the error.
    pub(crate) fn of(
        inputs: &ExportInputs<'_>,
        base: &'a WeightFiles,
        adapter: Option<&'a AdapterFile>,
        tied: Option<bool>,
        dtype: Option<StoredDtype>,
    ) -> Result<Self, ExportError> {
        Self::new(base, adapter, tied, dtype).map_err(|faults| ExportError::Mismatch {
            adapter: inputs.adapter.map(Path::to_owned).unwrap_or_default(),
            base: inputs.base.to_owned(),
            faults,
        })
    }

    /// Places every tensor of `adapter` over `base`, or lists all that cannot be placed. `tied` is the base's
    /// `tie_word_embeddings` where its config says so; `dtype` is that of the whole model, or each tensor's own.
    pub(crate) fn new(
        base: &'a WeightFiles,
        adapter: Option<&'a AdapterFile>,
        tied: Option<bool>,
        dtype: Option<StoredDtype>,
    ) -> Result<Self, Vec<MergeFault>> {
        let tied = base.get(EMBEDDING).is_some() && (base.get(HEAD).is_none() || tied == Some(true));
        let mut faults = Vec::new();
        let mut changes = match adapter {
            Some(adapter) => changes(base, adapter, tied, &mut faults),
            None => BTreeMap::new(),
        };
        if !faults.is_empty() {
            return Err(faults);
        }
        let mut untied = false;
        if tied {
            let ensured = adapter.is_some_and(|adapter| adapter.config.ensure_weight_tying);
            let embedding = changes.get(EMBEDDING);
            let head = changes.get(HEAD);
            untied = match (embedding, head) {
                (None, None) => false,
                (Some(one), Some(other)) => !one.same_as(other),
                (Some(_), None) | (None, Some(_)) => !ensured,
            };
            if !untied && let Some(change) = embedding.or(head).cloned() {
                changes.insert(EMBEDDING.to_owned(), change.clone());
                changes.insert(HEAD.to_owned(), change);
            }
        }
        let mut outputs = Vec::new();
        let mut place = |name: &str, base: StoredTensor<'a>| {
            let change = changes.remove(name).unwrap_or(Change::Kept);
            let shape = match &change {
                Change::Replaced(saved) => saved.shape.clone(),
                Change::Kept | Change::LowRank(_) => base.shape.clone(),
            };
            outputs.push(Output {
                name: name.to_owned(),
                dtype: dtype.unwrap_or(base.dtype),
                base,
                shape,
                change,
                held: None,
            });
        };
        for shard in base.shards() {
            for name in shard.names() {
                // A tied head that is stored all the same is the embedding.
                let from = if tied && name == HEAD { EMBEDDING } else { name };
                if let Some(tensor) = base.get(from) {
                    place(name, tensor);
                }
            }
        }
        if let Some(embedding) = base.get(EMBEDDING).filter(|_| untied && base.get(HEAD).is_none()) {
            place(HEAD, embedding);
        }
        let plan = Self { outputs, untied };
        match plan.parted_vocabularies() {
            Some(fault) => Err(vec![fault]),
            None => Ok(plan),
        }
    }

    /// Rows of the embedding, where the adapter brings one with more than the base has.
    pub(crate) fn extended_vocabulary(&self) -> Option<usize> {
        let embedding = self.outputs.iter().find(|output| output.name == EMBEDDING)?;
        (embedding.shape != embedding.base.shape).then(|| embedding.shape[0])
    }

    /// Embedding and head of different vocabularies: an adapter that extends one of the two.
    fn parted_vocabularies(&self) -> Option<MergeFault> {
        let find = |name: &str| self.outputs.iter().find(|output| output.name == name);
        let (embedding, head) = (find(EMBEDDING)?, find(HEAD)?);
        let (rows, head_rows) = (embedding.shape.first()?, head.shape.first()?);
        let extended = embedding.shape != embedding.base.shape || head.shape != head.base.shape;
        (extended && rows != head_rows).then_some(MergeFault::Vocabulary { embedding: *rows, head: *head_rows })
    }

    /// The same onto the base as it was held in training, where that is asked for.
    pub(crate) fn onto(mut self, config: &ExportConfig) -> Self {
        let held = config.held.filter(|_| config.onto == Onto::Quantised);
        self.outputs.iter_mut().filter(|output| output.follows_base()).for_each(|output| output.held = held);
        self
    }

    /// Tensors that are not the base's.
    pub(crate) fn changed(&self) -> usize {
        self.outputs.iter().filter(|output| !matches!(output.change, Change::Kept) || output.held.is_some()).count()
    }
}

impl Output<'_> {
    /// Whether it depends on how the base's linear layers are held.
    pub(crate) fn follows_base(&self) -> bool {
        is_layer_linear(&self.name)
            && match &self.change {
                Change::Kept => true,
                Change::Replaced(_) => false,
                Change::LowRank(change) => change.base_layer.is_none(),
            }
    }
}

/// What the adapter does, by the base's tensor.
fn changes<'a>(
    base: &'a WeightFiles,
    adapter: &'a AdapterFile,
    tied: bool,
    faults: &mut Vec<MergeFault>,
) -> BTreeMap<String, Change<'a>> {
    let mut changes = BTreeMap::new();
    for key in adapter.keys() {
        let change = match key {
            AdapterKey::Saved { .. } => adapter.get(key).map(Change::Replaced),
            AdapterKey::LoraA { module } => {
                LowRank::of(adapter, module, Layout::Linear).map(|change| Change::LowRank(Box::new(change)))
            }
            AdapterKey::EmbeddingA { module } => {
                LowRank::of(adapter, module, Layout::Embedding).map(|change| Change::LowRank(Box::new(change)))
            }
            // Taken along by the `A` beside it; opening the adapter made sure that there is one.
            AdapterKey::LoraB { .. }
            | AdapterKey::EmbeddingB { .. }
            | AdapterKey::Magnitude { .. }
            | AdapterKey::BaseLayer { .. } => None,
        };
        let Some(change) = change else { continue };
        let name = key.base_tensor();
        let tensor = base.get(&name).or_else(|| base.get(EMBEDDING).filter(|_| tied && name == HEAD));
        match tensor {
            Some(tensor) => {
                faults.extend(change.misfits(key, &name, &tensor.shape));
                changes.insert(name, change);
            }
            None => faults.push(MergeFault::NoBaseTensor { key: key.to_string(), tensor: name }),
        }
    }
    faults.extend(missing(base, adapter, &changes));
    changes
}

/// Modules that `adapter_config.json` names and the adapter does not hold: a file that lost tensors.
fn missing(base: &WeightFiles, adapter: &AdapterFile, changes: &BTreeMap<String, Change<'_>>) -> Vec<MergeFault> {
    let adapted: BTreeSet<&str> = changes.keys().map(String::as_str).collect();
    let matcher = adapter.matcher();
    let mut faults = Vec::new();
    for name in base.names().filter(|name| !adapted.contains(name)) {
        let (module, kind) = name.rsplit_once('.').unwrap_or(("", name));
        let ends = module.match_indices('.').map(|(end, _)| end).chain([module.len()]);
        if ends.into_iter().any(|end| matcher.saves(&module[..end])) {
            faults.push(MergeFault::MissingSaved { tensor: name.to_owned() });
        } else if kind == "weight" && matcher.matches(module) && base.get(name).is_some_and(|t| t.shape.len() == 2) {
            faults.push(MergeFault::MissingAdapter { module: module.to_owned() });
        }
    }
    faults
}

impl Change<'_> {
    /// Whether both do the same to a tied tensor: equal copies, or one adapter seen from both of its sides.
    fn same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Replaced(one), Self::Replaced(other)) => {
                one.shape == other.shape && one.dtype == other.dtype && one.bytes() == other.bytes()
            }
            (Self::LowRank(embedding), Self::LowRank(head)) => {
                (embedding.layout, head.layout) == (Layout::Embedding, Layout::Linear)
                    && embedding.scale == head.scale
                    && embedding.magnitude.is_none()
                    && head.magnitude.is_none()
                    && transposed(&head.a, &embedding.b)
                    && transposed(&head.b, &embedding.a)
            }
            _ => false,
        }
    }

    /// Shapes that do not fit the base's.
    fn misfits(&self, key: &AdapterKey, tensor: &str, shape: &[usize]) -> Vec<MergeFault> {
        let different = |key: &str, found: &StoredTensor<'_>, expected: Vec<usize>| {
            (found.shape != expected).then(|| MergeFault::Shape {
                key: key.to_owned(),
                expected,
                found: found.shape.clone(),
            })
        };
        let change = match self {
            Self::Kept => return Vec::new(),
            Self::Replaced(saved) if extends(tensor, &saved.shape, shape) => return Vec::new(),
            Self::Replaced(saved) => return different(&key.to_string(), saved, shape.to_vec()).into_iter().collect(),
            Self::LowRank(change) => change,
        };
        let &[rows, columns] = shape else {
            let (key, tensor, shape) = (key.to_string(), tensor.to_owned(), shape.to_vec());
            return vec![MergeFault::NotMatrix { key, tensor, shape }];
        };
        // The ranks agree with each other, or the adapter would not have been opened.
        let rank = change.a.shape[0];
        let (a, b) = match change.layout {
            Layout::Linear => (vec![rank, columns], vec![rows, rank]),
            Layout::Embedding => (vec![rank, rows], vec![columns, rank]),
        };
        let mut faults: Vec<MergeFault> =
            [different(change.a.name, &change.a, a), different(change.b.name, &change.b, b)]
                .into_iter()
                .flatten()
                .collect();
        let own = change.base_layer.as_ref();
        faults.extend(own.and_then(|own| different(own.name, own, shape.to_vec())));
        faults
    }
}

impl<'a> LowRank<'a> {
    fn of(adapter: &'a AdapterFile, module: &str, layout: Layout) -> Option<Self> {
        let module = || module.to_owned();
        let (a, b) = match layout {
            Layout::Linear => (AdapterKey::LoraA { module: module() }, AdapterKey::LoraB { module: module() }),
            Layout::Embedding => {
                (AdapterKey::EmbeddingA { module: module() }, AdapterKey::EmbeddingB { module: module() })
            }
        };
        Some(Self {
            layout,
            a: adapter.get(&a)?,
            b: adapter.get(&b)?,
            magnitude: adapter.get(&AdapterKey::Magnitude { module: module() }),
            base_layer: adapter.get(&AdapterKey::BaseLayer { module: module() }),
            scale: adapter.scale(&module()) as f32,
        })
    }
}

/// Whether a saved embedding or head has the base's width and tokens besides the base's.
fn extends(tensor: &str, saved: &[usize], base: &[usize]) -> bool {
    let ([saved_rows, saved_width], [rows, width]) = (saved, base) else { return false };
    [EMBEDDING, HEAD].contains(&tensor) && saved_width == width && saved_rows > rows
}

fn transposed(one: &StoredTensor<'_>, other: &StoredTensor<'_>) -> bool {
    let (&[rows, columns], &[other_rows, other_columns]) = (one.shape.as_slice(), other.shape.as_slice()) else {
        return false;
    };
    if (rows, columns) != (other_columns, other_rows) {
        return false;
    }
    let (one, other) = (one.to_f32(), other.to_f32());
    (0..rows).all(|row| (0..columns).all(|column| one[row * columns + column] == other[column * rows + row]))
}
