//! What a run trains, and how it is laid down and taken up again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rankine_models::adapter_file::{
    AdapterConfig, AdapterFileError, HostTensor, KEY_PREFIX, read_adapter, write_adapter,
};
use rankine_models::attach::{AdapterLayout, EMBEDDING, HEAD, LayoutError};
use rankine_models::companions::{CONFIG_FILE, Companions, GENERATION_FILE, TEMPLATE_FILES, TOKENIZER_FILES};
use rankine_models::model::Model;
use rankine_models::weights::{
    DEFAULT_MAX_SHARD_BYTES, PlannedTensor, StoredDtype, WeightFiles, WeightWriter, WeightsError, encode,
};
use rankine_nn::lora::AdapterKind;
use thiserror::Error;

/// What a run trains: an adapter in PEFT format, or all of a model.
#[derive(Debug, Clone)]
pub struct Artifact {
    layout: AdapterLayout,
    /// `adapter_config.json`; none where the whole model is trained.
    config: Option<AdapterConfig>,
    base: PathBuf,
    /// The head is the embedding table, and that is trained: peft reads it under both names.
    tied_table: bool,
}

impl Artifact {
    /// What the layout trains over the model in the folder `base`, which the recipe calls `base_model`.
    ///
    /// # Errors
    /// A layout that has no `adapter_config.json`.
    pub fn new(
        model: &Model,
        layout: &AdapterLayout,
        base: &Path,
        base_model: &str,
        revision: Option<&str>,
    ) -> Result<Self, ArtifactError> {
        let tied_table = layout.trains_tied_table(&model.config);
        let config = match layout.kind {
            AdapterKind::Full => None,
            kind => {
                let modules: Vec<String> = layout.modules.iter().map(|module| module.path.clone()).collect();
                let mut config = AdapterConfig::from_lora(&layout.lora, kind, Some(base_model), revision, &modules)?;
                config.ensure_weight_tying = tied_table;
                Some(config)
            }
        };
        Ok(Self { layout: layout.clone(), config, base: base.to_owned(), tied_table })
    }

    /// `adapter` or `model`: the folder's name within a run or a checkpoint.
    pub fn name(&self) -> &'static str {
        if self.config.is_some() { "adapter" } else { "model" }
    }

    /// Trained numbers.
    pub fn trained_parameters(&self) -> usize {
        self.layout.trained_parameters()
    }

    /// Writes the trained tensors into `folder`, in f32.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, folder: &Path, model: &Model) -> Result<(), ArtifactError> {
        match &self.config {
            Some(config) => Ok(write_adapter(folder, config, &self.adapter_tensors(model))?),
            None => self.write_model(folder, model, StoredDtype::F32),
        }
    }

    /// Writes what a finished run leaves: beside the target and renamed, replacing what an earlier run left there.
    /// A whole model is stored in the dtype of its base.
    ///
    /// # Errors
    /// A file that cannot be written; what was there is still there then.
    pub fn write_final(&self, folder: &Path, model: &Model) -> Result<(), ArtifactError> {
        let aside = |suffix: &str| folder.with_file_name(format!("{}.{suffix}", self.name()));
        let (part, old) = (aside("part"), aside("old"));
        remove(&part)?;
        remove(&old)?;
        let written = match &self.config {
            Some(_) => self.write(&part, model),
            None => self.base_dtype().and_then(|dtype| self.write_model(&part, model, dtype)),
        };
        let written = written.and_then(|()| {
            if folder.exists() {
                rename(folder, &old)?;
            }
            rename(&part, folder)
        });
        if let Err(error) = written {
            // The error that is reported is the first one.
            let _ = fs::remove_dir_all(&part);
            if !folder.exists() {
                let _ = fs::rename(&old, folder);
            }
            return Err(error);
        }
        remove(&old)
    }

    /// Puts the tensors of `folder` into a model that the layout is attached to.
    ///
    /// # Errors
    /// Files that cannot be read, or tensors that do not fit.
    pub fn read(&self, folder: &Path, model: &mut Model) -> Result<(), ArtifactError> {
        let set = if self.config.is_some() {
            let adapter = read_adapter(folder)?;
            let tensors: BTreeMap<String, HostTensor> =
                adapter.tensors.into_iter().map(|(key, tensor)| (key.to_string(), tensor)).collect();
            model.set_trained(&|name| tensors.get(&format!("{KEY_PREFIX}{name}")).cloned())
        } else {
            let files = WeightFiles::open(folder)?;
            model.set_trained(&|name| {
                files.get(name).map(|stored| HostTensor { shape: stored.shape.clone(), data: stored.to_f32() })
            })
        };
        set.map_err(|source| ArtifactError::Layout { folder: folder.to_owned(), source })
    }

    fn adapter_tensors(&self, model: &Model) -> BTreeMap<String, HostTensor> {
        let mut tensors: BTreeMap<String, HostTensor> = model
            .trained_tensors()
            .into_iter()
            .map(|(name, shape, data)| (format!("{KEY_PREFIX}{name}"), HostTensor { shape, data }))
            .collect();
        let table = tensors.get(&format!("{KEY_PREFIX}{EMBEDDING}.weight")).cloned();
        if let Some(table) = table.filter(|_| self.tied_table) {
            tensors.insert(format!("{KEY_PREFIX}{HEAD}.weight"), table);
        }
        tensors
    }

    fn write_model(&self, folder: &Path, model: &Model, dtype: StoredDtype) -> Result<(), ArtifactError> {
        fs::create_dir_all(folder).map_err(|source| ArtifactError::io(folder, source))?;
        let files = [CONFIG_FILE, GENERATION_FILE].into_iter().chain(TOKENIZER_FILES).chain(TEMPLATE_FILES);
        let base = Companions::of(&self.base).map_err(WeightsError::from)?;
        for name in files {
            if let Some(bytes) = base.read(name).map_err(WeightsError::from)? {
                let file = folder.join(name);
                fs::write(&file, bytes).map_err(|error| ArtifactError::io(&file, error))?;
            }
        }
        let tensors = model.all_tensors();
        let plan = |(name, shape, _): &(String, Vec<usize>, Vec<f32>)| PlannedTensor {
            name: name.clone(),
            dtype,
            shape: shape.clone(),
        };
        let planned = tensors.iter().map(plan).collect();
        let by_name: BTreeMap<&str, &Vec<f32>> =
            tensors.iter().map(|(name, _, values)| (name.as_str(), values)).collect();
        WeightWriter::plan(folder, planned, DEFAULT_MAX_SHARD_BYTES)?.write(|planned, sink| {
            let values = by_name.get(planned.name.as_str()).map(|values| values.as_slice()).unwrap_or_default();
            // In pieces, so that the encoded copy stays small.
            values.chunks(1 << 20).try_for_each(|piece| sink.put(&encode(dtype, piece))).map_err(ArtifactError::from)
        })
    }

    fn base_dtype(&self) -> Result<StoredDtype, ArtifactError> {
        let files = WeightFiles::open(&self.base)?;
        Ok(files.get(&format!("{EMBEDDING}.weight")).map_or(StoredDtype::F32, |stored| stored.dtype))
    }
}

fn remove(folder: &Path) -> Result<(), ArtifactError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(ArtifactError::io(folder, error)),
        _ => Ok(()),
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), ArtifactError> {
    fs::rename(from, to).map_err(|source| ArtifactError::io(to, source))
}

/// What was trained cannot be written or read.
#[derive(Debug, Error)]
pub enum ArtifactError {
    /// An adapter folder.
    #[error(transparent)]
    Adapter(#[from] AdapterFileError),
    /// Weight files.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Tensors that do not fit the model.
    #[error("{}: {source}", folder.display())]
    Layout {
        /// The adapter's or model's folder.
        folder: PathBuf,
        /// What does not fit.
        source: LayoutError,
    },
    /// A file.
    #[error("{}: {source}", file.display())]
    Io {
        /// Which.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl ArtifactError {
    fn io(file: &Path, source: std::io::Error) -> Self {
        Self::Io { file: file.to_owned(), source }
    }
}
