//! Matrix products `c = [c +] sum of a b`, blocked for the caches.
//!
//! The left side is packed once, in tiles of rows; the right side is packed in f32 a block of columns at a time, from
//! whatever it is held in. A block stays in the second-level cache while all rows pass over it, a tile of rows in the
//! first. Each value of the result is one chain of multiply-adds in the order of the terms and of `k`, so that it does
//! not depend on threads or blocks.

use std::ops::Range;

use super::integer::{IntegerLeft, IntegerPanels, multiply_tile, pack_panel, panel_size};
use super::isa::InstructionSet;
use super::pack::{Left, Order, Panel, Right, Tiles, Values};
use super::scratch::Scratch;
use super::tile::{Run, Target};
use super::{Shared, Threads};

/// What a product does to its target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Write<'a> {
    /// `c = a b`; what was there is not read.
    Set,
    /// `c = c + a b`.
    Add,
    /// `c = base + a b`, the base laid out as the target; what was there is not read.
    Onto(&'a [f32]),
}

/// One summand of a product.
#[derive(Debug, Clone)]
pub(crate) struct Term<'a> {
    pub(crate) left: &'a Left,
    /// The part of the left side's `k` that this is over.
    pub(crate) k: Range<usize>,
    /// [k, columns].
    pub(crate) right: Right<'a>,
}

impl<'a> Term<'a> {
    /// Over all of the left side.
    pub(crate) fn new(left: &'a Left, right: Right<'a>) -> Self {
        Self { left, k: 0..left.k, right }
    }
}

/// One summand in block fixed point.
#[derive(Debug, Clone)]
pub(crate) struct IntegerTerm<'a> {
    pub(crate) left: &'a IntegerLeft,
    /// [k, columns].
    pub(crate) right: IntegerRight<'a>,
}

/// The right side of a product in block fixed point.
#[derive(Debug, Clone, Copy)]
pub(crate) enum IntegerRight<'a> {
    /// To be rounded.
    Values(Right<'a>),
    /// Rounded before: a part of it, from `k` and `column` on.
    Panels { panels: &'a IntegerPanels, k: usize, column: usize },
}

impl IntegerRight<'_> {
    fn holds(&self, k: usize, columns: usize) -> bool {
        match self {
            Self::Values(right) => right.holds(k, columns),
            Self::Panels { panels, k: start, column } => panels.holds(*start..start + k, *column..column + columns),
        }
    }
}

/// A product into some columns of the target.
#[derive(Debug, Clone)]
pub(crate) struct Job<'a> {
    /// The target's columns.
    pub(crate) columns: Range<usize>,
    /// Summed first, in this order.
    pub(crate) integer: Vec<IntegerTerm<'a>>,
    /// Summed in this order.
    pub(crate) terms: Vec<Term<'a>>,
    /// What happens to what is there.
    pub(crate) write: Write<'a>,
}

/// Values of the right side that are packed at once: they share a second-level cache with a tile of rows.
const BLOCK: usize = 96 << 10;

/// Blocks that each thread gets at least, where a product is wide enough.
const BLOCKS_A_THREAD: usize = 3;

/// The longest sum that one pass over a block takes; longer ones add to the target again.
const PASS: usize = 2048;

/// Runs products over all rows of their left sides into `c`, whose rows are `stride` values apart.
pub(crate) fn products(c: &mut [f32], stride: usize, jobs: &[Job<'_>], threads: Threads) {
    let float = |job: &Job<'_>| job.terms.first().map(|term| (term.left.tiles, term.left.set));
    let integer = |job: &Job<'_>| job.integer.first().map(|term| (term.left.tiles, term.left.set));
    let Some((tiles, set)) = jobs.iter().find_map(|job| float(job).or_else(|| integer(job))) else { return };
    let rows = tiles.rows();
    if rows == 0 {
        return;
    }
    for job in jobs {
        assert!(job.columns.end <= stride, "the columns lie within a row of the target");
        let end = (rows - 1) * stride + job.columns.end;
        assert!(end <= c.len(), "the target holds all rows");
        assert!(!matches!(job.write, Write::Onto(base) if end > base.len()), "the base holds all rows");
        for term in &job.terms {
            assert!(term.left.tiles == tiles && term.left.set == set, "terms of one product have the same rows");
            assert!(term.k.end <= term.left.k, "a term's stretch lies within its left side");
            assert!(term.right.holds(term.k.len(), job.columns.len()), "the right side holds the product's columns");
        }
        for term in &job.integer {
            assert!(term.left.tiles == tiles && term.left.set == set, "terms of one product have the same rows");
            assert!(term.right.holds(term.left.k, job.columns.len()), "the right side holds the product's columns");
            let fits = |right| !matches!(right, IntegerRight::Panels { panels, .. } if !panels.fits(term.left));
            assert!(fits(term.right), "both sides are integers of one kind");
        }
    }
    let work = jobs.iter().map(|job| rows * job.columns.len() * job.length()).sum::<usize>() / 8;
    let count = threads.count(work);
    let blocks = blocks(jobs, set, tiles, count);
    let c = Shared(c.as_mut_ptr());
    threads.each(blocks.len(), work, |index| {
        let block = &blocks[index];
        // SAFETY: the bounds were checked above, and each block writes rows and columns of its own.
        unsafe { block.run(&jobs[block.job], c, stride, tiles, set) };
    });
}

impl<'a> Job<'a> {
    /// In single precision alone.
    pub(crate) fn float(columns: Range<usize>, terms: Vec<Term<'a>>, write: Write<'a>) -> Self {
        Self { columns, integer: Vec::new(), terms, write }
    }

    /// One product in block fixed point.
    pub(crate) fn integer(columns: Range<usize>, term: IntegerTerm<'a>, write: Write<'a>) -> Self {
        Self { columns, integer: vec![term], terms: Vec::new(), write }
    }

    /// Of the whole sum.
    fn length(&self) -> usize {
        let integer: usize = self.integer.iter().map(|term| term.left.k / 2).sum();
        integer + self.terms.iter().map(|term| term.k.len()).sum::<usize>()
    }

    /// The sum in stretches of at most [`PASS`]: which term, and which part of it.
    fn passes(&self) -> Vec<Vec<(usize, Range<usize>)>> {
        let mut passes: Vec<Vec<(usize, Range<usize>)>> = Vec::new();
        let mut room = 0;
        for (index, term) in self.terms.iter().enumerate() {
            let mut k = term.k.clone();
            while !k.is_empty() {
                if room == 0 {
                    passes.push(Vec::new());
                    room = PASS;
                }
                let end = k.end.min(k.start + room);
                room -= end - k.start;
                if let Some(pass) = passes.last_mut() {
                    pass.push((index, k.start..end));
                }
                k.start = end;
            }
        }
        passes
    }
}

/// A part of a job for one thread.
#[derive(Debug)]
struct Block {
    job: usize,
    /// Within the job.
    columns: Range<usize>,
    tiles: Range<usize>,
}

/// Cuts the jobs into blocks: as wide as the cache takes, as many as keep the threads evenly busy.
fn blocks(jobs: &[Job<'_>], set: InstructionSet, tiles: Tiles, threads: usize) -> Vec<Block> {
    let lanes = set.tile().lanes;
    let mut blocks = Vec::new();
    for (index, job) in jobs.iter().enumerate() {
        let n = job.columns.len();
        if n == 0 {
            continue;
        }
        let panel = 2 * lanes;
        let panels = n.div_ceil(panel);
        let most = (BLOCK / (job.length().clamp(1, PASS) * panel)).max(1);
        let mut cuts = panels.div_ceil(most);
        let mut bands = 1;
        if threads > 1 {
            if panels >= threads {
                // A few blocks for each thread, so that one that is held up does not hold up the others.
                cuts = cuts.max(BLOCKS_A_THREAD * threads).next_multiple_of(threads).min(panels);
            } else {
                bands = threads.div_ceil(panels).min(tiles.count);
            }
        }
        for cut in 0..cuts {
            let columns = (cut * panels / cuts) * panel..((cut + 1) * panels / cuts * panel).min(n);
            for band in 0..bands {
                let tiles = band * tiles.count / bands..(band + 1) * tiles.count / bands;
                blocks.push(Block { job: index, columns: columns.clone(), tiles });
            }
        }
    }
    blocks
}

impl Block {
    /// # Safety
    /// The job's parts were checked, the target reaches as far as they do, and no other block writes here.
    unsafe fn run(&self, job: &Job<'_>, c: Shared, stride: usize, tiles: Tiles, set: InstructionSet) {
        let lanes = set.tile().lanes;
        let panels: Vec<Panel> = Panel::cut(self.columns.len(), lanes).collect();
        let target = |tile: usize, panel: &Panel, base: *const f32| {
            let (row, height) = tiles.place(tile);
            let place = row * stride + job.columns.start + self.columns.start + panel.start;
            // Within the target and the base, as the caller says.
            let base = if base.is_null() { base } else { base.wrapping_add(place) };
            Target { c: c.get().wrapping_add(place), base, stride, height, columns: panel.count }
        };
        let mut base = match job.write {
            Write::Set => std::ptr::null(),
            Write::Add => c.get().cast_const(),
            Write::Onto(base) => base.as_ptr(),
        };
        for IntegerTerm { left, right } in &job.integer {
            let size = |panel: &Panel| match right {
                IntegerRight::Values(_) => panel_size(left.format, left.k, panel.vectors * lanes),
                IntegerRight::Panels { .. } => 0,
            };
            let mut scratch = Scratch::new(panels.iter().map(size).sum());
            let mut room = scratch.as_mut_ptr();
            let pack = |panel: &Panel| match right {
                IntegerRight::Values(right) => {
                    let place = room;
                    room = room.wrapping_add(size(panel));
                    let columns = self.of(panel);
                    // SAFETY: the right side was checked to hold these columns, and the scratch holds every panel.
                    unsafe { pack_panel(right, left.format, set, left.k, columns, place, panel.vectors * lanes) }
                }
                IntegerRight::Panels { panels, k, column } => panels.panel(column + self.of(panel).start, *k),
            };
            let packed: Vec<_> = panels.iter().map(pack).collect();
            for tile in self.tiles.clone() {
                for (panel, packed) in panels.iter().zip(&packed) {
                    // SAFETY: packed just before over the same `k` in the same format.
                    unsafe { multiply_tile(left, tile, panel.vectors, *packed, target(tile, panel, base)) };
                }
            }
            base = c.get().cast_const();
        }
        for parts in job.passes() {
            let width: usize = panels.iter().map(|panel| panel.vectors * lanes).sum();
            // A right side that lies as a panel does is read in place where few rows would not repay a copy.
            let few = self.tiles.len() <= 2;
            let mut scratch = Scratch::new(parts.iter().map(|(_, k)| k.len()).sum::<usize>() * width);
            let mut room = scratch.as_mut_ptr();
            let mut runs: Vec<Vec<Run>> = Vec::with_capacity(panels.len());
            for panel in &panels {
                let wide = panel.vectors * lanes;
                let mut of_panel = Vec::with_capacity(parts.len());
                for (term, k) in &parts {
                    let Term { k: whole, right, .. } = &job.terms[*term];
                    let k = k.start - whole.start..k.end - whole.start;
                    let columns = self.of(panel);
                    let (b, b_stride) = match (right.values, right.order) {
                        (Values::F32(values), Order::AcrossColumns) if few && panel.count == wide => {
                            // SAFETY: the right side holds these columns of every `k`.
                            (unsafe { values.as_ptr().add(k.start * right.stride + columns.start) }, right.stride)
                        }
                        _ => {
                            // SAFETY: the part was checked; the scratch has `wide` values for each `k`.
                            unsafe { right.pack(set, k.clone(), columns, room, wide) };
                            let place = room.cast_const();
                            room = room.wrapping_add(k.len() * wide);
                            (place, wide)
                        }
                    };
                    of_panel.push(Run { a: std::ptr::null(), b, b_stride, k: k.len() });
                }
                runs.push(of_panel);
            }
            for tile in self.tiles.clone() {
                let (row, height) = tiles.place(tile);
                for (panel, runs) in panels.iter().zip(&mut runs) {
                    for (run, (term, k)) in runs.iter_mut().zip(&parts) {
                        run.a = job.terms[*term].left.values(row).wrapping_add(k.start * height);
                    }
                    // SAFETY: packed above for this set.
                    unsafe { set.multiply_tile(panel.vectors, runs, target(tile, panel, base)) };
                }
            }
            base = c.get().cast_const();
        }
    }

    /// A panel's columns within the job.
    fn of(&self, panel: &Panel) -> Range<usize> {
        self.columns.start + panel.start..self.columns.start + panel.start + panel.count
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::super::pack::LeftSource;
    use super::*;

    fn values(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| bf16::from_f32(((i * 37 + seed * 101) as f32 * 0.618).sin()).to_f32()).collect()
    }

    /// Every order of the right side, every way to hold it, odd shapes, several terms; against sums in f64.
    #[test]
    fn products_are_sums_of_products() {
        for set in InstructionSet::available() {
            for (m, n, k) in [(1, 1, 1), (1, 33, 5), (15, 16, 17), (29, 70, 40), (64, 200, 130), (3, 5, 5000)] {
                check(set, m, n, k);
            }
        }
    }

    fn check(set: InstructionSet, m: usize, n: usize, k: usize) {
        let (a, b) = (values(m * k, 1), values(k * n, 2));
        let (a2, b2) = (values(m * 3, 3), values(3 * n, 4));
        let transposed = |x: &[f32], rows: usize, columns: usize| -> Vec<f32> {
            (0..rows * columns).map(|i| x[(i % rows) * columns + i / rows]).collect()
        };
        let (at, bt) = (transposed(&a, m, k), transposed(&b, k, n));
        let half: Vec<bf16> = bt.iter().map(|v| bf16::from_f32(*v)).collect();
        let across: Vec<f16> = b.iter().map(|v| f16::from_f32(*v)).collect();
        let rounded: Vec<f32> = across.iter().map(|v| v.to_f32()).collect();
        let expected = |b: &[f32], i: usize, j: usize| -> f64 {
            let dot = |a: &[f32], b: &[f32], k: usize| -> f64 {
                (0..k).map(|p| f64::from(a[i * k + p]) * f64::from(b[p * n + j])).sum()
            };
            dot(&a, b, k) + dot(&a2, &b2, 3)
        };
        let stride = n + 3;
        let mut first: Option<Vec<u32>> = None;
        for threads in [Threads::One, Threads::All] {
            for (name, left, right, reference) in [
                ("plain", LeftSource::new(&a, k), Right::new(Values::F32(&b), Order::AcrossColumns, n), &b),
                ("left transposed", LeftSource::transposed(&at, m), Right::new(Values::F32(&bt), Order::AlongK, k), &b),
                ("bf16", LeftSource::new(&a, k), Right::new(Values::Bf16(&half), Order::AlongK, k), &b),
                ("f16", LeftSource::new(&a, k), Right::new(Values::F16(&across), Order::AcrossColumns, n), &rounded),
            ] {
                let left = Left::pack(set, left, m, k, threads);
                let left_2 = Left::pack(set, LeftSource::new(&a2, 3), m, 3, threads);
                let terms = vec![
                    Term::new(&left, right),
                    Term::new(&left_2, Right::new(Values::F32(&b2), Order::AcrossColumns, n)),
                ];
                let two = vec![2.0; m * stride];
                for (write, start) in [(Write::Set, f32::NAN), (Write::Add, 2.0), (Write::Onto(&two), f32::NAN)] {
                    let mut c = vec![start; m * stride];
                    products(&mut c, stride, &[Job::float(2..n + 2, terms.clone(), write)], threads);
                    for i in 0..m {
                        for j in 0..n {
                            let found = f64::from(c[i * stride + 2 + j]);
                            let expected = expected(reference, i, j) + if write == Write::Set { 0.0 } else { 2.0 };
                            assert!(
                                (found - expected).abs() < 1e-6 * (k as f64).max(4.0),
                                "{set} {name} {m}x{n}x{k} [{i},{j}]: {found}, {expected} expected"
                            );
                        }
                        let outside = [c[i * stride], c[i * stride + 1], c[i * stride + n + 2]];
                        assert!(outside.iter().all(|v| v.to_bits() == start.to_bits()), "columns outside stay");
                    }
                    // Bit by bit the same for any threads and any way to hold the right side.
                    if write == Write::Set && name != "f16" {
                        let bits: Vec<u32> = c.iter().map(|v| v.to_bits()).collect();
                        assert_eq!(first.get_or_insert_with(|| bits.clone()), &bits, "{set} {name} {m}x{n}x{k}");
                    }
                }
            }
        }
    }
}
