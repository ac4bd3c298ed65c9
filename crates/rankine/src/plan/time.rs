//! How long a run will take, after a short calibration.

use rankine_data::Loader;
use rankine_models::model::Model;
use rankine_train::pace::{Pace, PaceInputs};

use super::{Fit, Plan, data_failure};
use crate::fault::{Failure, Fault, chain};

/// Steps whose sizes stand for those of the run.
const SAMPLED: usize = 4;

/// Layers that are timed, and the rest counted by.
const LAYERS: usize = 2;

impl Plan {
    /// Times a pass through the first layers of the model, over the first records. `None` on another device than the
    /// CPU, and where nothing is trained on. The loader is left a few steps on.
    ///
    /// # Errors
    /// A model or records that cannot be read.
    pub(crate) fn pace(&self, loader: &mut Loader, fit: &Fit) -> Result<Option<Pace>, Failure> {
        if !self.model.device.is_cpu() {
            return Ok(None);
        }
        let batches: Vec<_> = (0..SAMPLED).map(|_| loader.next()).collect();
        if let Some(fault) = loader.take_fault() {
            return Err(data_failure(fault));
        }
        let layers = self.model.config.num_hidden_layers;
        let form = self.model.form(fit.residency);
        let device = self.model.device.open();
        let device = device.map_err(|(what, help)| Failure::bad_input(Fault::new(what).help(help)))?;
        let read = Model::load_first(&self.model.folder, form, &device, LAYERS.min(layers));
        let mut model = read.map_err(|error| Failure::bad_input(Fault::new(chain(&error))))?;
        let layout = &self.adapter.layout;
        model.attach(&layout.of_depth(&model.config), self.training.seed);
        model.set_compute(self.model.base_compute.into());
        let again = (0..layers.saturating_sub(1)).filter(|layer| fit.gradient_checkpointing.again(*layer)).count();
        let inputs = PaceInputs {
            batches: &batches,
            piece_tokens: self.model.device.piece_tokens(),
            optimizer: &self.training.optimizer,
            layers,
            below: layout.lowest_layer().unwrap_or(layers).min(layers),
            again,
        };
        Ok(Pace::forecast(&mut model, &inputs))
    }
}
