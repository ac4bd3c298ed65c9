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
#[cfg(target_arch = "x86_64")]
use super::planes;
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

/// What is left of both sides' values as they are multiplied. Sums are in single precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Precision {
    /// All of them.
    #[default]
    Single,
    /// The sum of two bf16, which has 16 bits; on tiles alone, as what follows: elsewhere that gains nothing.
    Bf16x2,
    /// Rounded to bf16.
    Bf16,
}

impl Precision {
    /// bf16 that a value is the sum of, on tiles.
    pub(crate) fn planes(self) -> usize {
        match self {
            Self::Single => 3,
            Self::Bf16x2 => 2,
            Self::Bf16 => 1,
        }
    }
}

/// One summand of a product.
#[derive(Debug, Clone)]
pub(crate) struct Term<'a> {
    pub(crate) left: &'a Left,
    /// The part of the left side's `k` that this is over.
    pub(crate) k: Range<usize>,
    /// [k, columns].
    pub(crate) right: Right<'a>,
    pub(crate) precision: Precision,
}

impl<'a> Term<'a> {
    /// Over all of the left side.
    pub(crate) fn new(left: &'a Left, right: Right<'a>) -> Self {
        Self::part(left, 0..left.k, right)
    }

    /// Over a stretch of the left side's `k`, in the precision that it was packed for.
    pub(crate) fn part(left: &'a Left, k: Range<usize>, right: Right<'a>) -> Self {
        Self { left, k, right, precision: left.precision }
    }

    /// Planes of both sides.
    #[cfg(target_arch = "x86_64")]
    fn count(&self) -> planes::Count {
        planes::Count::new(self.left.precision, self.precision, self.right.values)
    }

    /// Of the right side, as the set packs it.
    fn planes(&self, set: InstructionSet) -> usize {
        #[cfg(target_arch = "x86_64")]
        if set == InstructionSet::Amx {
            return self.count().right;
        }
        let _ = set;
        1
    }

    /// With another precision.
    pub(crate) fn at(self, precision: Precision) -> Self {
        Self { precision, ..self }
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

/// Values of the right side that are packed at once: they share a second-level cache with a tile of rows. Each block
/// reads all rows, which tiles use up so fast that they would come too slowly for many small ones; they hold a value in
/// half the bytes, and a processor that has them has a larger cache.
fn block_size(set: InstructionSet) -> usize {
    if set == InstructionSet::Amx { 384 << 10 } else { 96 << 10 }
}

/// Blocks that each thread gets at least, where a product is wide enough.
fn blocks_a_thread(set: InstructionSet) -> usize {
    if set == InstructionSet::Amx { 2 } else { 3 }
}

/// `k` at whose multiples a sum on tiles may be cut.
#[cfg(target_arch = "x86_64")]
const DEPTH: usize = planes::DEPTH;
/// As above, where there are no tiles.
#[cfg(not(target_arch = "x86_64"))]
const DEPTH: usize = 1;

/// The longest sum that one pass over a block takes; longer ones add to the target again.
const PASS: usize = 2048;

/// Runs products over all rows of their left sides into `c`, whose rows are `stride` values apart.
pub(crate) fn products(c: &mut [f32], stride: usize, jobs: &[Job<'_>], threads: Threads) {
    let float = |job: &Job<'_>| job.terms.first().map(|term| (term.left.tiles, term.left.set));
    let integer = |job: &Job<'_>| job.integer.first().map(|term| (term.left.tiles, term.left.set));
    let Some((tiles, set)) = jobs.iter().find_map(float).or_else(|| jobs.iter().find_map(integer)) else { return };
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
            assert!(term.precision.planes() <= term.left.precision.planes(), "the left side has the term's planes");
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
        unsafe { block.run(&jobs[block.job], c, stride, set) };
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

    /// Values that one pass packs for a column; on tiles, planes.
    fn packed(&self, set: InstructionSet) -> usize {
        let (length, values) = (self.length(), self.terms.iter().map(|term| term.k.len() * term.planes(set)));
        let integer: usize = self.integer.iter().map(|term| term.left.k / 2).sum();
        (integer + values.sum::<usize>()) * length.min(PASS) / length.max(1)
    }

    /// The sum in stretches of at most [`PASS`]: which term, and which part of it. A term is cut at multiples of `unit`.
    fn passes(&self, unit: usize) -> Vec<Vec<(usize, Range<usize>)>> {
        let mut passes: Vec<Vec<(usize, Range<usize>)>> = Vec::new();
        let mut room = 0;
        for (index, term) in self.terms.iter().enumerate() {
            let mut k = term.k.clone();
            while !k.is_empty() {
                let reach = |room: usize| if k.len() <= room { k.end } else { (k.start + room) / unit * unit };
                if reach(room) <= k.start {
                    passes.push(Vec::new());
                    room = PASS;
                }
                let end = reach(room);
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
    /// Which part of the rows' tiles, of how many.
    band: (usize, usize),
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
        let most = (block_size(set) / (job.packed(set).max(1) * panel)).max(1);
        let mut cuts = panels.div_ceil(most);
        let mut bands = 1;
        if threads > 1 {
            if panels >= threads {
                // A few blocks for each thread, so that one that is held up does not hold up the others.
                cuts = cuts.max(blocks_a_thread(set) * threads).next_multiple_of(threads).min(panels);
            } else {
                bands = threads.div_ceil(panels).min(tiles.count);
            }
        }
        for cut in 0..cuts {
            let columns = (cut * panels / cuts) * panel..((cut + 1) * panels / cuts * panel).min(n);
            for band in 0..bands {
                blocks.push(Block { job: index, columns: columns.clone(), band: (band, bands) });
            }
        }
    }
    blocks
}

/// What a block writes to, and how.
#[derive(Debug, Clone, Copy)]
struct Output {
    c: Shared,
    /// What sums are added to; null where it is 0.
    base: *const f32,
    stride: usize,
}

impl Block {
    /// # Safety
    /// The job's parts were checked, the target reaches as far as they do, and no other block writes here.
    unsafe fn run(&self, job: &Job<'_>, c: Shared, stride: usize, set: InstructionSet) {
        let panels: Vec<Panel> = Panel::cut(self.columns.len(), set.tile().lanes).collect();
        let base = match job.write {
            Write::Set => std::ptr::null(),
            Write::Add => c.get().cast_const(),
            Write::Onto(base) => base.as_ptr(),
        };
        let mut output = Output { c, base, stride };
        for term in &job.integer {
            // SAFETY: as the caller says.
            unsafe { self.run_integers(job, term, &panels, output, set) };
            output.base = c.get().cast_const();
        }
        let unit = if set == InstructionSet::Amx { DEPTH } else { 1 };
        for parts in job.passes(unit) {
            // SAFETY: as above.
            unsafe {
                match set {
                    #[cfg(target_arch = "x86_64")]
                    InstructionSet::Amx => self.run_planes(job, &parts, &panels, output, set),
                    _ => self.run_vectors(job, &parts, &panels, output, set),
                }
            }
            output.base = c.get().cast_const();
        }
    }

    /// # Safety
    /// As of [`Self::run`], here and below.
    unsafe fn run_integers(
        &self,
        job: &Job<'_>,
        IntegerTerm { left, right }: &IntegerTerm<'_>,
        panels: &[Panel],
        output: Output,
        set: InstructionSet,
    ) {
        let lanes = set.tile().lanes;
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
        for tile in self.tiles(left.tiles) {
            for (panel, packed) in panels.iter().zip(&packed) {
                let target = self.target(job, left.tiles.place(tile), panel, output);
                // SAFETY: packed just before over the same `k` in the same format.
                unsafe { multiply_tile(left, tile, panel.vectors, *packed, target) };
            }
        }
    }

    /// One pass in single precision on vectors.
    unsafe fn run_vectors(
        &self,
        job: &Job<'_>,
        parts: &[(usize, Range<usize>)],
        panels: &[Panel],
        output: Output,
        set: InstructionSet,
    ) {
        let lanes = set.tile().lanes;
        let Some(tiles) = job.terms.first().map(|term| term.left.tiles) else { return };
        let own = self.tiles(tiles);
        // A right side that lies as a panel does is read in place where few rows would not repay a copy.
        let few = own.len() <= 2;
        let width: usize = panels.iter().map(|panel| panel.vectors * lanes).sum();
        let mut scratch = Scratch::new(parts.iter().map(|(_, k)| k.len()).sum::<usize>() * width);
        let mut room = scratch.as_mut_ptr();
        let mut runs: Vec<Vec<Run>> = Vec::with_capacity(panels.len());
        for panel in panels {
            let wide = panel.vectors * lanes;
            let mut of_panel = Vec::with_capacity(parts.len());
            for (term, k) in parts {
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
        for tile in own {
            let (row, height) = tiles.place(tile);
            for (panel, runs) in panels.iter().zip(&mut runs) {
                for (run, (term, k)) in runs.iter_mut().zip(parts) {
                    run.a = job.terms[*term].left.values(row).wrapping_add(k.start * height);
                }
                // SAFETY: packed above for this set.
                unsafe { set.multiply_tile(panel.vectors, runs, self.target(job, (row, height), panel, output)) };
            }
        }
    }

    /// One pass in single precision on tiles.
    #[cfg(target_arch = "x86_64")]
    unsafe fn run_planes(
        &self,
        job: &Job<'_>,
        parts: &[(usize, Range<usize>)],
        panels: &[Panel],
        output: Output,
        set: InstructionSet,
    ) {
        use planes::{PlaneRun, RightPart};
        let Some(tiles) = job.terms.first().map(|term| term.left.tiles) else { return };
        let count = |term: usize| job.terms[term].count();
        let size = |panel: &Panel, term: usize, k: &Range<usize>| planes::right_size(count(term), panel.vectors, k);
        let sizes = panels.iter().flat_map(|panel| parts.iter().map(move |(term, k)| size(panel, *term, k)));
        let mut scratch = Scratch::new(sizes.sum());
        let mut room = scratch.as_mut_ptr();
        let mut runs: Vec<Vec<PlaneRun>> = Vec::with_capacity(panels.len());
        for panel in panels {
            let of_panel = parts.iter().map(|(term, k)| {
                let Term { k: whole, right, .. } = &job.terms[*term];
                let rows = k.start - whole.start..k.end - whole.start;
                let (columns, halves, count) = (self.of(panel), panel.vectors, count(*term));
                let part = RightPart { right, rows, k: k.clone(), columns, halves, count };
                let place = room.cast::<u16>();
                room = room.wrapping_add(size(panel, *term, k));
                // SAFETY: the right side was checked to hold these columns, and the scratch holds every part.
                unsafe { part.pack(set, place) };
                PlaneRun::new(place, count, k)
            });
            runs.push(of_panel.collect());
        }
        // SAFETY: the set is current, so that the machine has tiles.
        let registers = unsafe { planes::Registers::configure() };
        for tile in self.tiles(tiles) {
            for (panel, runs) in panels.iter().zip(&mut runs) {
                for (run, (term, k)) in runs.iter_mut().zip(parts) {
                    run.a = job.terms[*term].left.planes(tile, k.start);
                }
                let target = self.target(job, tiles.place(tile), panel, output);
                // SAFETY: packed above.
                unsafe { planes::multiply_tile(&registers, panel.vectors, runs, target) };
            }
        }
    }

    /// Which of a left side's tiles are the block's.
    fn tiles(&self, tiles: Tiles) -> Range<usize> {
        let (band, bands) = self.band;
        band * tiles.count / bands..(band + 1) * tiles.count / bands
    }

    /// Where a tile of rows meets a panel.
    fn target(&self, job: &Job<'_>, (row, height): (usize, usize), panel: &Panel, output: Output) -> Target {
        let place = row * output.stride + job.columns.start + self.of(panel).start;
        // Within the target and the base, as the caller of `run` says.
        let base = if output.base.is_null() { output.base } else { output.base.wrapping_add(place) };
        Target { c: output.c.get().wrapping_add(place), base, stride: output.stride, height, columns: panel.count }
    }

    /// A panel's columns within the job.
    fn of(&self, panel: &Panel) -> Range<usize> {
        self.columns.start + panel.start..self.columns.start + panel.start + panel.count
    }
}

#[cfg(test)]
mod tests;
