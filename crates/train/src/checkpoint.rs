//! A run's state on disk, whole or not there.
//!
//! `checkpoints/step-000120/` holds the adapter in PEFT format (or the whole model where all of it is trained),
//! `optimizer.safetensors` and `state.json`. It is written beside under a name that ends in `.part`, flushed, and
//! renamed: a crash leaves the last whole one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rankine_data::Cursor;
use rankine_models::model::Model;
use rankine_models::weights::{PlannedTensor, StoredDtype, TensorFile, WeightsError, sync_folder, write_tensors};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::artifact::{Artifact, ArtifactError};
use crate::evaluate::Evaluation;
use crate::optimizer::{HostState, Optimizer};

/// Where a run stands, beside its tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// Of this file's layout.
    pub version: u32,
    /// Optimizer steps done.
    pub step: usize,
    /// Global batches done.
    pub cursor: Cursor,
    /// Seed of every random number: each is made from (seed, step, micro-batch), so that this is the random state.
    pub seed: u64,
    /// What must be the same for a resume to be the same run.
    pub identity: serde_json::Value,
    /// The lowest evaluation loss so far.
    pub best: Option<Best>,
    /// Evaluations since then.
    pub evaluations_since_best: usize,
    /// The evaluation before the first step.
    pub baseline: Option<Evaluation>,
    /// Steps that the optimizer has done.
    pub optimizer_steps: usize,
}

/// The lowest evaluation loss so far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Optimizer steps done then.
    pub step: usize,
    /// What was measured.
    pub evaluation: Evaluation,
}

/// A checkpoint's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// `checkpoints/step-000120`.
    pub path: PathBuf,
    /// 120.
    pub step: usize,
}

const VERSION: u32 = 1;
const STATE: &str = "state.json";
const OPTIMIZER: &str = "optimizer.safetensors";

impl RunState {
    /// The state before the first step.
    pub fn start(seed: u64, identity: serde_json::Value) -> Self {
        Self {
            version: VERSION,
            step: 0,
            cursor: Cursor::default(),
            seed,
            identity,
            best: None,
            evaluations_since_best: 0,
            baseline: None,
            optimizer_steps: 0,
        }
    }
}

impl Checkpoint {
    /// Writes one, aside and renamed.
    ///
    /// # Errors
    /// A file that cannot be written; nothing is left under the final name then.
    pub fn write(
        run: &Path,
        state: &RunState,
        model: &Model,
        optimizer: &Optimizer,
        artifact: &Artifact,
    ) -> Result<Self, CheckpointError> {
        let folder = folder(run);
        let path = folder.join(format!("step-{:06}", state.step));
        let part = folder.join(format!("step-{:06}.part", state.step));
        let written = write_parts(&part, state, model, optimizer, artifact).and_then(|()| {
            if path.exists() {
                fs::remove_dir_all(&path).map_err(|source| CheckpointError::io(&path, source))?;
            }
            fs::rename(&part, &path).map_err(|source| CheckpointError::io(&path, source))?;
            sync_folder(&folder).map_err(CheckpointError::from)
        });
        if let Err(error) = written {
            // The error that is reported is the first one.
            let _ = fs::remove_dir_all(&part);
            return Err(error);
        }
        Ok(Self { path, step: state.step })
    }

    /// The whole checkpoints of a run, oldest first.
    pub fn list(run: &Path) -> Vec<Self> {
        let entries = fs::read_dir(folder(run)).into_iter().flatten().flatten();
        let mut found: Vec<Self> = entries
            .filter_map(|entry| {
                let step = entry.file_name().to_str()?.strip_prefix("step-")?.parse().ok()?;
                let path = entry.path();
                path.join(STATE).is_file().then_some(Self { path, step })
            })
            .collect();
        found.sort_by_key(|checkpoint| checkpoint.step);
        found
    }

    /// Reads `state.json`.
    ///
    /// # Errors
    /// A file that cannot be read or is not a state of this version.
    pub fn state(&self) -> Result<RunState, CheckpointError> {
        let file = self.path.join(STATE);
        let text = fs::read_to_string(&file).map_err(|source| CheckpointError::io(&file, source))?;
        let state: RunState =
            serde_json::from_str(&text).map_err(|source| CheckpointError::State { file: file.clone(), source })?;
        match state.version {
            VERSION => Ok(state),
            version => Err(CheckpointError::Version { file, version }),
        }
    }

    /// Puts the tensors of the checkpoint into a model that the same layout is attached to, and into the optimizer.
    ///
    /// # Errors
    /// Files that cannot be read, or tensors that do not fit.
    pub fn restore(
        &self,
        state: &RunState,
        model: &mut Model,
        optimizer: &mut Optimizer,
        artifact: &Artifact,
    ) -> Result<(), CheckpointError> {
        self.restore_model(model, artifact)?;
        let file = self.path.join(OPTIMIZER);
        let mut tensors: Vec<HostState> = Vec::new();
        if file.is_file() {
            let stored = TensorFile::open(&file)?;
            for name in stored.names() {
                let Some(stored) = stored.get(name) else { continue };
                let [rows, columns] = stored.shape[..] else {
                    return Err(CheckpointError::Optimizer { file, key: name.to_owned() });
                };
                tensors.push((name.to_owned(), [rows, columns], stored.to_f32()));
            }
        }
        let device = model.device().clone();
        optimizer
            .restore(state.optimizer_steps, tensors, &device)
            .map_err(|key| CheckpointError::Optimizer { file, key })
    }

    /// Puts only the trained tensors into a model.
    ///
    /// # Errors
    /// As [`Self::restore`].
    pub fn restore_model(&self, model: &mut Model, artifact: &Artifact) -> Result<(), CheckpointError> {
        Ok(artifact.read(&self.path.join(artifact.name()), model)?)
    }

    /// Removes the oldest checkpoints but `limit`, and never `kept`.
    ///
    /// # Errors
    /// A folder that cannot be removed.
    pub fn prune(run: &Path, limit: usize, kept: Option<usize>) -> Result<(), CheckpointError> {
        let all = Self::list(run);
        let surplus = all.len().saturating_sub(limit.max(1));
        for checkpoint in all.iter().filter(|checkpoint| Some(checkpoint.step) != kept).take(surplus) {
            // Without its state it is no checkpoint: a crash halfway leaves nothing that looks whole.
            let state = checkpoint.path.join(STATE);
            fs::remove_file(&state).map_err(|source| CheckpointError::io(&state, source))?;
            fs::remove_dir_all(&checkpoint.path).map_err(|source| CheckpointError::io(&checkpoint.path, source))?;
        }
        Ok(())
    }
}

/// Where a run's checkpoints lie.
pub fn folder(run: &Path) -> PathBuf {
    run.join("checkpoints")
}

fn write_parts(
    part: &Path,
    state: &RunState,
    model: &Model,
    optimizer: &Optimizer,
    artifact: &Artifact,
) -> Result<(), CheckpointError> {
    if part.exists() {
        fs::remove_dir_all(part).map_err(|source| CheckpointError::io(part, source))?;
    }
    fs::create_dir_all(part).map_err(|source| CheckpointError::io(part, source))?;
    artifact.write(&part.join(artifact.name()), model)?;
    let (optimizer_steps, tensors) = optimizer.state();
    if !tensors.is_empty() {
        let planned = tensors.iter().map(|(key, shape, values)| {
            let plan = PlannedTensor { name: key.clone(), dtype: StoredDtype::F32, shape: shape.to_vec() };
            (plan, values.as_slice())
        });
        write_tensors(&part.join(OPTIMIZER), &BTreeMap::new(), planned)?;
    }
    let state = RunState { optimizer_steps, ..state.clone() };
    let file = part.join(STATE);
    let text =
        serde_json::to_string_pretty(&state).map_err(|source| CheckpointError::State { file: file.clone(), source })?;
    fs::write(&file, text + "\n").map_err(|source| CheckpointError::io(&file, source))?;
    sync_folder(part)?;
    Ok(())
}

/// A checkpoint that cannot be written or read.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// A file.
    #[error("{}: {source}", file.display())]
    Io {
        /// Which.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A `state.json` that is not one.
    #[error("{}: not the state of a run: {source}; remove this checkpoint's folder to go on from the one before", file.display())]
    State {
        /// Which.
        file: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// Of another version.
    #[error("{}: version {version} was found, {VERSION} is expected; finish the run with the rankine that began it", file.display())]
    Version {
        /// Which.
        file: PathBuf,
        /// Found.
        version: u32,
    },
    /// Optimizer tensors.
    #[error("{}: `{key}` is not a tensor of an optimizer's state", file.display())]
    Optimizer {
        /// Which.
        file: PathBuf,
        /// The tensor.
        key: String,
    },
    /// What was trained.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// Weight files.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

impl CheckpointError {
    pub(crate) fn io(file: &Path, source: std::io::Error) -> Self {
        Self::Io { file: file.to_owned(), source }
    }
}
