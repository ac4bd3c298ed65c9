//! An adapter on disk: `adapter_config.json` and `adapter_model.safetensors` in peft's format, read and written.

mod check;
mod config;
mod fault;
mod fields;
mod key;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rankine_nn::target::TargetMatcher;

pub use config::{AdapterConfig, CONFIG_FILE, InitLoraWeights};
pub use fault::{AdapterFileError, ConfigFault, TensorFault};
pub use key::{AdapterKey, KEY_PREFIX, KeyFault};

use crate::weights::{PlannedTensor, StoredDtype, StoredTensor, TensorFile, sync_folder, write_aside, write_tensors};

/// The name of the file of the tensors.
pub const TENSORS_FILE: &str = "adapter_model.safetensors";
/// Larger than any adapter's configuration.
const CONFIG_LIMIT: u64 = 10_000_000;

/// A tensor in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Its shape, as PyTorch has it.
    pub shape: Vec<usize>,
    /// Its values, row by row.
    pub data: Vec<f32>,
}

/// An adapter folder, opened: configuration and tensors are there and fit each other. The tensors stay on disk.
#[derive(Debug)]
pub struct AdapterFile {
    /// The configuration.
    pub config: AdapterConfig,
    matcher: TargetMatcher,
    tensors: TensorFile,
    /// The spelling in the file, by meaning.
    keys: BTreeMap<AdapterKey, String>,
}

/// An adapter in memory.
#[derive(Debug, Clone)]
pub struct Adapter {
    /// The configuration.
    pub config: AdapterConfig,
    /// Every tensor, in f32.
    pub tensors: BTreeMap<AdapterKey, HostTensor>,
}

/// Reads the adapter in `dir`, checked as [`AdapterFile::open`] does.
pub fn read_adapter(dir: &Path) -> Result<Adapter, AdapterFileError> {
    let file = AdapterFile::open(dir)?;
    let read = |key: &AdapterKey| file.get(key).map(|t| (key.clone(), HostTensor { data: t.to_f32(), shape: t.shape }));
    let tensors = file.keys().filter_map(read).collect();
    Ok(Adapter { tensors, config: file.config })
}

/// Writes an adapter into `dir` as peft does: F32, under the keys of `adapter_model.safetensors` (those of
/// [`AdapterKey`]). The configuration is renamed into place last, so a folder that has it is whole.
pub fn write_adapter(
    dir: &Path,
    config: &AdapterConfig,
    tensors: &BTreeMap<String, HostTensor>,
) -> Result<(), AdapterFileError> {
    let file = dir.join(TENSORS_FILE);
    let config_file = dir.join(CONFIG_FILE);
    let matcher = config.matcher().map_err(|error| AdapterFileError::Config {
        file: config_file.clone(),
        faults: error.faults.into_iter().map(ConfigFault::Rule).collect(),
    })?;
    let (shapes, mut faults) =
        check::typed(tensors.iter().map(|(key, tensor)| (key.as_str(), tensor.shape.as_slice())));
    faults.extend(tensors.iter().filter(|(_, t)| !t.is_full()).map(|(key, t)| TensorFault::Length {
        key: key.clone(),
        shape: t.shape.clone(),
        found: t.data.len(),
    }));
    faults.extend(check::faults(config, &matcher, &shapes));
    if !faults.is_empty() {
        return Err(AdapterFileError::Tensors { file, faults });
    }
    let io = |action, file: &Path| {
        let file = file.to_owned();
        move |source| AdapterFileError::Weights(crate::weights::WeightsError::Io { file, action, source })
    };
    fs::create_dir_all(dir).map_err(io("create", dir))?;
    // From here until the end the folder is no adapter: the old configuration must never meet the new tensors.
    match fs::remove_file(&config_file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io("replace", &config_file)(error)),
        _ => {}
    }
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let planned = tensors.iter().map(|(name, tensor)| {
        let plan = PlannedTensor { name: name.clone(), dtype: StoredDtype::F32, shape: tensor.shape.clone() };
        (plan, tensor.data.as_slice())
    });
    write_tensors(&file, &metadata, planned)?;
    write_aside(&config_file, config.to_json().as_bytes())?;
    Ok(sync_folder(dir)?)
}

impl HostTensor {
    fn is_full(&self) -> bool {
        let places = self.shape.iter().try_fold(1_usize, |product, d| product.checked_mul(*d));
        places == Some(self.data.len())
    }
}

impl AdapterFile {
    /// Opens the adapter in `dir` and checks its tensors against its configuration; every fault is listed.
    pub fn open(dir: &Path) -> Result<Self, AdapterFileError> {
        let config = read_config(dir)?;
        let file = dir.join(TENSORS_FILE);
        if !file.exists() {
            let pickle = dir.join("adapter_model.bin");
            return Err(match pickle.exists() {
                true => AdapterFileError::Pickle { file: pickle },
                false => AdapterFileError::NoTensors { folder: dir.to_owned() },
            });
        }
        let matcher = config.matcher().map_err(|error| AdapterFileError::Config {
            file: dir.join(CONFIG_FILE),
            faults: error.faults.into_iter().map(ConfigFault::Rule).collect(),
        })?;
        let tensors = TensorFile::open(&file)?;
        let shaped: Vec<(&str, Vec<usize>)> =
            tensors.names().filter_map(|name| tensors.get(name).map(|tensor| (name, tensor.shape))).collect();
        let (shapes, mut faults) = check::typed(shaped.iter().map(|(name, shape)| (*name, shape.as_slice())));
        faults.extend(check::faults(&config, &matcher, &shapes));
        if !faults.is_empty() {
            return Err(AdapterFileError::Tensors { file, faults });
        }
        let keys =
            shaped.iter().filter_map(|(name, _)| Some((AdapterKey::parse(name).ok()?, (*name).to_owned()))).collect();
        Ok(Self { config, matcher, tensors, keys })
    }

    /// The file of the tensors.
    pub fn path(&self) -> &Path {
        self.tensors.path()
    }

    /// The `__metadata__` of the file of the tensors.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        self.tensors.metadata()
    }

    /// Every tensor's key, sorted by kind and module.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &AdapterKey> {
        self.keys.keys()
    }

    /// The tensor of that key.
    pub fn get(&self, key: &AdapterKey) -> Option<StoredTensor<'_>> {
        self.tensors.get(self.keys.get(key)?)
    }

    /// Which modules carry the adapter.
    pub fn matcher(&self) -> &TargetMatcher {
        &self.matcher
    }

    /// Factor of the update at `module`.
    pub fn scale(&self, module: &str) -> f64 {
        self.matcher.scale(module)
    }

    /// Rank of the update at `module`.
    pub fn rank(&self, module: &str) -> usize {
        self.matcher.rank(module)
    }
}

/// Reads `dir/adapter_config.json`.
pub fn read_config(dir: &Path) -> Result<AdapterConfig, AdapterFileError> {
    let file: PathBuf = dir.join(CONFIG_FILE);
    let unreadable = |source| AdapterFileError::Unreadable { file: file.clone(), source };
    let about = match fs::metadata(&file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(AdapterFileError::NoConfig { folder: dir.to_owned() });
        }
        other => other.map_err(unreadable)?,
    };
    if !about.is_file() || about.len() > CONFIG_LIMIT {
        let reason = format!("{} bytes of a regular file at most are expected", CONFIG_LIMIT);
        return Err(AdapterFileError::NotJson { file, reason });
    }
    let text = fs::read_to_string(&file).map_err(unreadable)?;
    AdapterConfig::parse(&text, &file)
}

#[cfg(test)]
mod tests;
