//! Examples in the order of training: mixed, shuffled, packed, in global batches, from any place on.

use serde::{Deserialize, Serialize};

use crate::batch::Batch;
use crate::error::DataError;
use crate::example::Example;
use crate::examples::Examples;
use crate::order::{Purpose, shuffle, stream};
use crate::packing::pack;
use crate::stream::{Stream, StreamSource};

/// How examples become batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoaderConfig {
    /// Rows of a micro-batch.
    pub micro_batch_size: usize,
    /// Micro-batches of an optimizer step.
    pub gradient_accumulation_steps: usize,
    /// Tokens of a packed row.
    pub max_seq_len: usize,
    /// Several documents to a row.
    pub packing: bool,
    /// A new order for each epoch; otherwise that of the data.
    pub shuffle: bool,
    /// Of the order, and of what a weight below 1 leaves out.
    pub seed: u64,
    /// Fills rows up.
    pub pad_id: u32,
}

/// A place in the data. Together with the seed it says every batch that is still to come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cursor {
    /// Epochs that are done.
    pub epoch: usize,
    /// Global batches of this epoch that are done.
    pub step: usize,
    /// Where a stream is read; nothing for its start, and for examples that are all there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<StreamPlace>,
}

/// A place in an epoch of a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StreamPlace {
    /// Blocks that are done.
    pub block: usize,
    /// Rows of the next block that are done.
    pub row: usize,
}

/// What one optimizer step trains on.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GlobalBatch {
    /// The epoch it belongs to, from 0.
    pub epoch: usize,
    /// One after another through the model; the last ones of an epoch may be fewer or smaller.
    pub micro_batches: Vec<Batch>,
    /// Over all micro-batches: what the summed loss is divided by, once.
    pub trained_tokens: usize,
    /// Epochs that are done when this batch is: 1.5 in the middle of the second.
    pub epoch_fraction: f64,
}

/// The rows of one epoch, as indices of examples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochPlan {
    /// Documents of each row.
    pub rows: Vec<Vec<u32>>,
}

/// Gives global batches for ever, epoch after epoch. The order of an epoch is a pure function of the seed and
/// the epoch's number.
#[derive(Debug)]
pub struct Loader {
    source: Source,
    config: LoaderConfig,
    cursor: Cursor,
    fault: Option<DataError>,
}

#[derive(Debug)]
enum Source {
    /// Examples that are all there, in an order over all of them.
    Planned { examples: Examples, lengths: Vec<usize>, weights: Vec<f64>, planned: Option<(usize, EpochPlan)> },
    /// Examples that are made as they are asked for.
    Stream(Box<Stream>),
}

impl Loader {
    /// `weights` has one for each dataset: how often its examples are seen in an epoch. A missing one is 1.
    pub fn new(examples: impl Into<Examples>, weights: Vec<f64>, config: LoaderConfig) -> Self {
        let examples = examples.into();
        let lengths = (0..examples.len()).map(|index| examples.tokens_of(index)).collect();
        Self::of(Source::Planned { examples, lengths, weights, planned: None }, config)
    }

    /// Reads and tokenises datasets while they are trained on. How many batches an epoch has is not known.
    ///
    /// # Errors
    /// A file that cannot be read, or conversations without a template.
    pub fn streaming(source: StreamSource, config: LoaderConfig) -> Result<Self, DataError> {
        Ok(Self::of(Source::Stream(Box::new(Stream::new(source)?)), config))
    }

    fn of(source: Source, config: LoaderConfig) -> Self {
        let config = LoaderConfig {
            micro_batch_size: config.micro_batch_size.max(1),
            gradient_accumulation_steps: config.gradient_accumulation_steps.max(1),
            ..config
        };
        Self { source, config, cursor: Cursor::default(), fault: None }
    }

    /// The examples in the order of the data; of a stream its first ones.
    pub fn examples(&self) -> &Examples {
        match &self.source {
            Source::Planned { examples, .. } => examples,
            Source::Stream(stream) => stream.first(),
        }
    }

    /// Whether the data is read while it is trained on.
    pub fn is_stream(&self) -> bool {
        matches!(self.source, Source::Stream(_))
    }

    /// How examples become batches.
    pub fn config(&self) -> &LoaderConfig {
        &self.config
    }

    /// Global batches of an epoch, which of a stream are not known. With packing or weights it differs a little
    /// from epoch to epoch.
    pub fn steps_in_epoch(&self, epoch: usize) -> usize {
        let rows = match &self.source {
            Source::Planned { planned: Some((planned, plan)), .. } if *planned == epoch => plan.rows.len(),
            _ => self.plan_epoch(epoch).rows.len(),
        };
        rows.div_ceil(self.rows_in_step())
    }

    /// The rows of an epoch, in order; of a stream, none.
    pub fn plan_epoch(&self, epoch: usize) -> EpochPlan {
        self.plan_rows(epoch, self.config.packing)
    }

    /// The rows that an epoch would have with or without packing.
    pub(crate) fn plan_rows(&self, epoch: usize, packing: bool) -> EpochPlan {
        let Source::Planned { examples, lengths, weights, .. } = &self.source else {
            return EpochPlan { rows: Vec::new() };
        };
        let mut order = chosen(examples, weights, self.config.seed, epoch);
        if self.config.shuffle {
            shuffle(&mut order, &mut stream(self.config.seed, epoch, Purpose::Examples, 0));
        }
        if !packing {
            return EpochPlan { rows: order.into_iter().map(|example| vec![example]).collect() };
        }
        let mut rows = pack(&order, lengths, self.config.max_seq_len);
        if self.config.shuffle {
            // Packing leaves full rows of long examples first and the odd short ones last.
            shuffle(&mut rows, &mut stream(self.config.seed, epoch, Purpose::Rows, 0));
        }
        EpochPlan { rows }
    }

    /// The next global batch; after the last of an epoch, the first of the next. It is empty without examples, and
    /// where reading failed: [`take_fault`](Self::take_fault) says why.
    #[allow(clippy::should_implement_trait, reason = "it never ends, so it is no iterator to collect from")]
    pub fn next(&mut self) -> GlobalBatch {
        match self.try_next() {
            Ok(batch) => batch,
            Err(fault) => {
                self.fault = Some(fault);
                GlobalBatch { epoch: self.cursor.epoch, ..GlobalBatch::default() }
            }
        }
    }

    /// Why the last batch is empty, if reading failed: of examples in memory it never does.
    pub fn take_fault(&mut self) -> Option<DataError> {
        self.fault.take()
    }

    /// Where the next batch begins. At the end of an epoch that is the start of the next.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Goes on from `cursor`, as if everything before it had been taken.
    pub fn seek(&mut self, cursor: Cursor) {
        self.cursor = cursor;
    }

    fn rows_in_step(&self) -> usize {
        self.config.micro_batch_size * self.config.gradient_accumulation_steps
    }

    fn try_next(&mut self) -> Result<GlobalBatch, DataError> {
        match &self.source {
            Source::Planned { .. } => self.next_planned(),
            Source::Stream(_) => self.next_of_stream(),
        }
    }

    fn next_planned(&mut self) -> Result<GlobalBatch, DataError> {
        loop {
            let epoch = self.cursor.epoch;
            let planned_already =
                matches!(&self.source, Source::Planned { planned: Some((of, _)), .. } if *of == epoch);
            let new = (!planned_already).then(|| self.plan_epoch(epoch));
            let rows_in_step = self.rows_in_step();
            let Source::Planned { examples, planned, .. } = &mut self.source else { break };
            if let Some(plan) = new {
                *planned = Some((epoch, plan));
            }
            let rows = planned.as_ref().map_or(&[][..], |(_, plan)| &plan.rows);
            let steps = rows.len().div_ceil(rows_in_step);
            if steps == 0 {
                break;
            }
            if self.cursor.step >= steps {
                self.cursor = Cursor { epoch: epoch + 1, ..Cursor::default() };
                continue;
            }
            let start = self.cursor.step * rows_in_step;
            let rows = &rows[start..rows.len().min(start + rows_in_step)];
            let rows = rows
                .iter()
                .map(|row| row.iter().map(|index| examples.get(*index as usize)).collect())
                .collect::<Result<Vec<Vec<_>>, _>>()?;
            let rows: Vec<Vec<&Example>> = rows.iter().map(|row| row.iter().map(AsRef::as_ref).collect()).collect();
            let micro_batches = micro_batches(&rows, &self.config);
            let done = self.cursor.step + 1;
            self.cursor = match done == steps {
                true => Cursor { epoch: epoch + 1, ..Cursor::default() },
                false => Cursor { step: done, ..self.cursor },
            };
            return Ok(GlobalBatch::of(epoch, micro_batches, epoch as f64 + done as f64 / steps as f64));
        }
        Ok(GlobalBatch { epoch: self.cursor.epoch, ..GlobalBatch::default() })
    }

    fn next_of_stream(&mut self) -> Result<GlobalBatch, DataError> {
        let (config, wanted) = (self.config, self.rows_in_step());
        let Source::Stream(source) = &mut self.source else { return Ok(GlobalBatch::default()) };
        let Cursor { mut epoch, step, stream: place } = self.cursor;
        let mut place = place.unwrap_or_default();
        let mut rows: Vec<Vec<Example>> = Vec::new();
        let ended = loop {
            let (block, end) = match source.rows(epoch, place.block, &config) {
                Ok(found) => found,
                // What was read before is trained on; the next batch says what is wrong.
                Err(_) if rows.len() == wanted => break false,
                Err(fault) => return Err(fault),
            };
            if !end && place.row < block.len() {
                if rows.len() == wanted {
                    break false;
                }
                let last = block.len().min(place.row + wanted - rows.len());
                rows.extend_from_slice(&block[place.row..last]);
                place.row = last;
            } else if !end {
                place = StreamPlace { block: place.block + 1, row: 0 };
            } else if rows.is_empty() && place.block > 0 {
                // A cursor beyond the end, as of other data: the next epoch begins.
                epoch += 1;
                place = StreamPlace::default();
            } else {
                break true;
            }
        };
        if rows.is_empty() {
            return Ok(GlobalBatch { epoch, ..GlobalBatch::default() });
        }
        let step = if epoch == self.cursor.epoch { step + 1 } else { 1 };
        let share = if ended { 1.0 } else { source.share_done(place.block, place.row) };
        self.cursor = match ended {
            true => Cursor { epoch: epoch + 1, ..Cursor::default() },
            false => Cursor { epoch, step, stream: Some(place) },
        };
        let rows: Vec<Vec<&Example>> = rows.iter().map(|row| row.iter().collect()).collect();
        Ok(GlobalBatch::of(epoch, micro_batches(&rows, &config), epoch as f64 + share))
    }
}

impl GlobalBatch {
    fn of(epoch: usize, micro_batches: Vec<Batch>, epoch_fraction: f64) -> Self {
        let trained_tokens = micro_batches.iter().map(Batch::trained_tokens).sum();
        Self { epoch, trained_tokens, micro_batches, epoch_fraction }
    }
}

fn micro_batches(rows: &[Vec<&Example>], config: &LoaderConfig) -> Vec<Batch> {
    rows.chunks(config.micro_batch_size).map(|rows| Batch::from_examples(rows, config.pad_id)).collect()
}

/// The examples of an epoch in the order of the data: each as often as its dataset's weight says in whole
/// numbers, and of the rest of the weight that share of the dataset, another one each epoch.
fn chosen(examples: &Examples, weights: &[f64], seed: u64, epoch: usize) -> Vec<u32> {
    if weights.iter().all(|weight| *weight == 1.0) {
        return (0..examples.len() as u32).collect();
    }
    let of = |index: u32| examples.dataset_of(index as usize) as usize;
    let datasets = (0..examples.len() as u32).map(|index| of(index) + 1).max().unwrap_or_default();
    let mut members: Vec<Vec<u32>> = vec![Vec::new(); datasets];
    for index in 0..examples.len() as u32 {
        members[of(index)].push(index);
    }
    let mut order = Vec::with_capacity(examples.len());
    for (dataset, members) in members.into_iter().enumerate() {
        let weight = weights.get(dataset).copied().unwrap_or(1.0).max(0.0);
        let whole = weight.floor();
        for _ in 0..whole as usize {
            order.extend(&members);
        }
        let mut share = ((weight - whole) * members.len() as f64).round() as usize;
        if share == 0 && whole == 0.0 && weight > 0.0 {
            share = 1;
        }
        let mut sample = members;
        shuffle(&mut sample, &mut stream(seed, epoch, Purpose::Sample, dataset));
        sample.truncate(share);
        sample.sort_unstable();
        order.extend(sample);
    }
    order
}
