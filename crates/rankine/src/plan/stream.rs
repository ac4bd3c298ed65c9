//! The plan's data, where it is read while it is trained on.

use std::path::Path;

use rankine_data::{Example, Loader, Records, StreamSource};

use super::Plan;
use super::prepare::{DatasetForecast, data_failure};
use crate::base;
use crate::fault::Failure;

impl Plan {
    /// Opens the datasets without reading them, but for their `first` records; `forecasts`, of which the first ones are theirs, are told how many
    /// records they have, about.
    pub(super) fn stream(
        &self,
        buffer: usize,
        first: Vec<Example>,
        pad_id: u32,
        forecasts: &mut [DatasetForecast],
    ) -> Result<Loader, Failure> {
        let mut datasets = Vec::new();
        for (config, forecast) in self.data.datasets.iter().zip(forecasts) {
            let records = Records::open(config, Path::new(".")).map_err(data_failure)?;
            forecast.records = records.estimate().map_err(data_failure)?;
            datasets.push(records);
        }
        let source = StreamSource {
            datasets,
            tokenizer: base::tokenizer(&self.model.folder, self.data.chat_template.as_deref())?,
            tokenize: self.tokenize_config(),
            shuffle_buffer: buffer,
            first,
        };
        Loader::streaming(source, self.loader_config(pad_id)).map_err(data_failure)
    }
}
