//! Examples of datasets that are read while they are trained on, block by block.
//!
//! A block is the next `shuffle_buffer` records of all datasets together, each dataset with the share that it has
//! of all records, so that they end at about the same time. It is tokenised, shuffled and packed by itself. So a
//! place is the number of a block and of a row in it, and going on there reads one block, not all before it; and
//! the order is a pure function of the seed, the epoch and the block.
//!
//! Nobody has looked at all of the data before, so that the checks look at each block when its turn comes: what a
//! check would have refused is never trained on.

use crate::error::DataError;
use crate::example::{Example, Gathering, TokenizeConfig, check_template};
use crate::examples::Examples;
use crate::loader::LoaderConfig;
use crate::order::{Purpose, shuffle, stream};
use crate::packing::pack;
use crate::proof::{HeldOut, ProofConfig, ProofInput, prove};
use crate::records::{RecordReader, Records};
use crate::remark::Remark;
use crate::store::is_rendered;
use crate::tokenizer::TextTokenizer;

/// What a stream reads, and how it makes examples of it.
#[derive(Debug)]
pub struct StreamSource {
    /// In the order of the recipe.
    pub datasets: Vec<Records>,
    /// Text to tokens.
    pub tokenizer: TextTokenizer,
    /// Longest example and what is trained.
    pub tokenize: TokenizeConfig,
    /// Records of a block, which are shuffled and packed together. They are in memory at the same time.
    pub shuffle_buffer: usize,
    /// Examples of the first records, made before, for who looks at data before it is trained on.
    pub first: Examples,
    /// What each block is asked before it is trained on.
    pub checks: ProofConfig,
    /// What must not be in any block.
    pub held_out: HeldOut,
}

/// A stream at some block.
#[derive(Debug)]
pub(crate) struct Stream {
    source: StreamSource,
    /// Records of each dataset in a block.
    shares: Vec<usize>,
    /// Blocks of an epoch, about.
    blocks: f64,
    readers: Option<Readers>,
    block: Option<Block>,
}

/// Where each dataset is read.
#[derive(Debug)]
struct Readers {
    epoch: usize,
    /// The block that comes next.
    block: usize,
    readers: Vec<RecordReader>,
}

#[derive(Debug)]
struct Block {
    epoch: usize,
    number: usize,
    rows: Vec<Vec<Example>>,
    /// There was nothing left to read.
    end: bool,
}

impl Stream {
    pub(crate) fn new(source: StreamSource) -> Result<Self, DataError> {
        if source.datasets.iter().any(|records| is_rendered(records.record_type())) {
            check_template(&source.tokenizer)?;
        }
        let sizes = source.datasets.iter().map(Records::estimate).collect::<Result<Vec<_>, _>>()?;
        let all = sizes.iter().sum::<usize>().max(1) as f64;
        let buffer = source.shuffle_buffer.max(1);
        let share = |size: &usize| ((*size as f64 / all * buffer as f64).round() as usize).max(1);
        let shares: Vec<usize> = sizes.iter().map(share).collect();
        let blocks = sizes.iter().zip(&shares).map(|(size, share)| size.div_ceil(*share)).max().unwrap_or(1);
        Ok(Self { shares, blocks: blocks as f64, source, readers: None, block: None })
    }

    pub(crate) fn first(&self) -> &Examples {
        &self.source.first
    }

    /// The rows of a block, and whether the epoch ended before it. A block may be without rows where none of its
    /// records has anything to train on.
    pub(crate) fn rows(
        &mut self,
        epoch: usize,
        number: usize,
        config: &LoaderConfig,
    ) -> Result<(&[Vec<Example>], bool), DataError> {
        if !self.block.as_ref().is_some_and(|block| block.epoch == epoch && block.number == number) {
            self.block = Some(self.read(epoch, number, config)?);
        }
        Ok(self.block.as_ref().map_or((&[], true), |block| (&block.rows, block.end)))
    }

    /// How much of an epoch is done at a place, about.
    pub(crate) fn share_done(&self, number: usize, row: usize) -> f64 {
        let rows = self.block.as_ref().map_or(0, |block| block.rows.len()).max(1);
        ((number as f64 + row as f64 / rows as f64) / self.blocks).clamp(0.0, 1.0)
    }

    fn read(&mut self, epoch: usize, number: usize, config: &LoaderConfig) -> Result<Block, DataError> {
        let mut readers = match self.readers.take() {
            Some(readers) if readers.epoch == epoch && readers.block == number => readers,
            _ => self.readers_at(epoch, number, config)?,
        };
        let (mut examples, mut remarks) = (Vec::new(), Vec::new());
        let mut gathering = Gathering::new(self.source.tokenize);
        let mut end = true;
        for ((dataset, reader), share) in (0u32..).zip(&mut readers.readers).zip(&self.shares) {
            let (mut left, mut at) = (*share, number.saturating_mul(*share));
            while left > 0
                && let Some(batch) = reader.next_batch(left)?
            {
                let count = batch.len();
                let made = gathering.add_batch(batch, (dataset, at), &self.source.tokenizer);
                examples.extend(made.examples);
                remarks.extend(made.remarks);
                (left, at, end) = (left - count, at + count, false);
            }
        }
        let records = gathering.finish()?.records;
        let examples = self.proven(examples, &remarks, records)?;
        readers.block += 1;
        self.readers = Some(readers);
        Ok(Block { epoch, number, rows: arranged(examples, epoch, number, config), end })
    }

    /// The examples of a block, if no check stops them.
    fn proven(&self, examples: Vec<Example>, remarks: &[Remark], records: usize) -> Result<Vec<Example>, DataError> {
        let StreamSource { held_out, tokenizer, checks, .. } = &self.source;
        let (train, validation) = (Examples::from(examples), Examples::default());
        let input = ProofInput { train: &train, validation: &validation, held_out, remarks, records, tokenizer };
        let proof = prove(&input, checks)?;
        match proof.holds() {
            true => train.into_memory(),
            false => Err(DataError::Checks(proof)),
        }
    }

    fn readers_at(&self, epoch: usize, number: usize, config: &LoaderConfig) -> Result<Readers, DataError> {
        let mut readers = Vec::with_capacity(self.shares.len());
        for (index, (records, share)) in self.source.datasets.iter().zip(&self.shares).enumerate() {
            let mut reader = match config.shuffle {
                true => records.shuffled(&mut stream(config.seed, epoch, Purpose::Files, index)).read(),
                false => records.read(),
            };
            reader.skip(number.saturating_mul(*share))?;
            readers.push(reader);
        }
        Ok(Readers { epoch, block: number, readers })
    }
}

/// The rows that the examples of a block make.
fn arranged(examples: Vec<Example>, epoch: usize, number: usize, config: &LoaderConfig) -> Vec<Vec<Example>> {
    let mut random = stream(config.seed, epoch, Purpose::Block, number);
    let mut order: Vec<u32> = (0u32..).take(examples.len()).collect();
    if config.shuffle {
        shuffle(&mut order, &mut random);
    }
    let mut rows: Vec<Vec<u32>> = match config.packing {
        true => {
            let lengths: Vec<usize> = examples.iter().map(|example| example.input_ids.len()).collect();
            pack(&order, &lengths, config.max_seq_len)
        }
        false => order.into_iter().map(|example| vec![example]).collect(),
    };
    if config.shuffle && config.packing {
        shuffle(&mut rows, &mut random);
    }
    let mut examples: Vec<Option<Example>> = examples.into_iter().map(Some).collect();
    rows.into_iter().map(|row| row.into_iter().filter_map(|index| examples[index as usize].take()).collect()).collect()
}
