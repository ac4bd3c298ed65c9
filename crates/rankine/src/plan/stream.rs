//! The plan's data, where it is read while it is trained on.

use rankine_data::proof::HeldOut;
use rankine_data::{Examples, Loader, LoaderConfig, StreamSource};

use super::Plan;
use super::prepare::{DatasetForecast, data_failure, open_all};
use crate::base;
use crate::fault::Failure;

impl Plan {
    /// Opens the datasets without reading them, but for their `first` records, and what must not be among them;
    /// `forecasts`, of which the first ones are theirs, are told how many records they have, about.
    pub(super) fn stream(
        &self,
        buffer: usize,
        (first, held_out): (Examples, HeldOut),
        config: LoaderConfig,
        forecasts: &mut [DatasetForecast],
    ) -> Result<Loader, Failure> {
        let datasets = open_all(&self.data.datasets)?;
        for (records, forecast) in datasets.iter().zip(forecasts) {
            forecast.records = records.estimate().map_err(data_failure)?;
        }
        let source = StreamSource {
            datasets,
            tokenizer: base::tokenizer(&self.model.folder, self.data.chat_template.as_deref())?,
            tokenize: self.tokenize_config(),
            shuffle_buffer: buffer,
            first,
            checks: self.proof_config(),
            held_out,
        };
        Loader::streaming(source, config).map_err(data_failure)
    }
}
