//! Examples in the order of training: mixed, shuffled, packed, in global batches, from any place on.

use serde::{Deserialize, Serialize};

use crate::batch::Batch;
use crate::example::Example;
use crate::order::{Purpose, shuffle, stream};
use crate::packing::pack;

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
    examples: Vec<Example>,
    lengths: Vec<usize>,
    weights: Vec<f64>,
    config: LoaderConfig,
    cursor: Cursor,
    planned: Option<(usize, EpochPlan)>,
}

impl Loader {
    /// `weights` has one for each dataset: how often its examples are seen in an epoch. A missing one is 1.
    pub fn new(examples: Vec<Example>, weights: Vec<f64>, config: LoaderConfig) -> Self {
        Self {
            lengths: examples.iter().map(|example| example.input_ids.len()).collect(),
            examples,
            weights,
            config: LoaderConfig {
                micro_batch_size: config.micro_batch_size.max(1),
                gradient_accumulation_steps: config.gradient_accumulation_steps.max(1),
                ..config
            },
            cursor: Cursor::default(),
            planned: None,
        }
    }

    /// The examples, in the order of the data.
    pub fn examples(&self) -> &[Example] {
        &self.examples
    }

    /// How examples become batches.
    pub fn config(&self) -> &LoaderConfig {
        &self.config
    }

    /// Global batches of an epoch. With packing or weights it differs a little from epoch to epoch.
    pub fn steps_in_epoch(&self, epoch: usize) -> usize {
        let rows = match &self.planned {
            Some((planned, plan)) if *planned == epoch => plan.rows.len(),
            _ => self.plan_epoch(epoch).rows.len(),
        };
        rows.div_ceil(self.rows_in_step())
    }

    /// The rows of an epoch, in order.
    pub fn plan_epoch(&self, epoch: usize) -> EpochPlan {
        self.plan_rows(epoch, self.config.packing)
    }

    /// The rows that an epoch would have with or without packing.
    pub(crate) fn plan_rows(&self, epoch: usize, packing: bool) -> EpochPlan {
        let mut order = self.chosen(epoch);
        if self.config.shuffle {
            shuffle(&mut order, &mut stream(self.config.seed, epoch, Purpose::Examples, 0));
        }
        if !packing {
            return EpochPlan { rows: order.into_iter().map(|example| vec![example]).collect() };
        }
        let mut rows = pack(&order, &self.lengths, self.config.max_seq_len);
        if self.config.shuffle {
            // Packing leaves full rows of long examples first and the odd short ones last.
            shuffle(&mut rows, &mut stream(self.config.seed, epoch, Purpose::Rows, 0));
        }
        EpochPlan { rows }
    }

    /// The next global batch; after the last of an epoch, the first of the next. Without examples it is empty.
    #[allow(clippy::should_implement_trait, reason = "it never ends, so it is no iterator to collect from")]
    pub fn next(&mut self) -> GlobalBatch {
        let epoch = self.cursor.epoch;
        if self.planned.as_ref().is_none_or(|(planned, _)| *planned != epoch) {
            self.planned = Some((epoch, self.plan_epoch(epoch)));
        }
        let rows = self.planned.as_ref().map_or(&[][..], |(_, plan)| &plan.rows);
        let steps = rows.len().div_ceil(self.rows_in_step());
        if self.cursor.step >= steps {
            if steps == 0 {
                return GlobalBatch { epoch, ..GlobalBatch::default() };
            }
            self.cursor = Cursor { epoch: epoch + 1, step: 0 };
            return self.next();
        }
        let start = self.cursor.step * self.rows_in_step();
        let end = rows.len().min(start + self.rows_in_step());
        let micro_batches: Vec<Batch> = rows[start..end]
            .chunks(self.config.micro_batch_size)
            .map(|rows| {
                let rows: Vec<Vec<&Example>> =
                    rows.iter().map(|row| row.iter().map(|index| &self.examples[*index as usize]).collect()).collect();
                Batch::from_examples(&rows, self.config.pad_id)
            })
            .collect();
        let done = self.cursor.step + 1;
        self.cursor = if done == steps { Cursor { epoch: epoch + 1, step: 0 } } else { Cursor { epoch, step: done } };
        GlobalBatch {
            epoch,
            trained_tokens: micro_batches.iter().map(Batch::trained_tokens).sum(),
            micro_batches,
            epoch_fraction: epoch as f64 + done as f64 / steps as f64,
        }
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

    /// The examples of an epoch in the order of the data: each as often as its dataset's weight says in whole
    /// numbers, and of the rest of the weight that share of the dataset, another one each epoch.
    fn chosen(&self, epoch: usize) -> Vec<u32> {
        if self.weights.iter().all(|weight| *weight == 1.0) {
            return (0..self.examples.len() as u32).collect();
        }
        let datasets = self.examples.iter().map(|example| example.dataset as usize + 1).max().unwrap_or_default();
        let mut members: Vec<Vec<u32>> = vec![Vec::new(); datasets];
        for (index, example) in (0u32..).zip(&self.examples) {
            members[example.dataset as usize].push(index);
        }
        let mut order = Vec::with_capacity(self.examples.len());
        for (dataset, members) in members.into_iter().enumerate() {
            let weight = self.weights.get(dataset).copied().unwrap_or(1.0).max(0.0);
            let whole = weight.floor();
            for _ in 0..whole as usize {
                order.extend(&members);
            }
            let mut share = ((weight - whole) * members.len() as f64).round() as usize;
            if share == 0 && whole == 0.0 && weight > 0.0 {
                share = 1;
            }
            let mut sample = members;
            shuffle(&mut sample, &mut stream(self.config.seed, epoch, Purpose::Sample, dataset));
            sample.truncate(share);
            sample.sort_unstable();
            order.extend(sample);
        }
        order
    }
}
