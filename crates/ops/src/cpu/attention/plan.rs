//! How attention is cut into parts, and how what was computed of them is put together.

use std::ops::Range;

use super::{Heads, Inputs};
use crate::kernel::math::add;
use crate::kernel::{InstructionSet, Left, LeftSource, Order, Right, Threads, Values};
use crate::layout::Attended;

/// Rows of a tile that repay packing the keys: its queries in all heads that share them.
const ROWS: usize = 128;

/// Queries of a tile, at most: above the diagonal half of them are computed for nothing.
const QUERIES: usize = 64;

/// Keys that a tile meets at once: their scores stay in the second-level cache.
const KEYS: usize = 512;

/// Parts of an operation, at least, that keep as many threads as a machine may have busy, and a few of them evenly. Each
/// takes memory for its `dk` and `dv`.
const PARTS: usize = 24;

/// How an operation is cut into parts: by its shape alone, so that no sum depends on the threads.
pub(super) struct Plan<'a> {
    pub(super) set: InstructionSet,
    pub(super) inputs: &'a Inputs<'a>,
    pub(super) attended: &'a Attended,
    /// Heads that share keys.
    pub(super) shared: usize,
    /// Queries of a tile.
    tile: usize,
    /// Queries of a part: whole tiles.
    span: usize,
}

/// Some queries of a row in the heads that share keys, and the keys that any of them sees.
pub(super) struct Part {
    pub(super) row: usize,
    pub(super) group: usize,
    pub(super) queries: Range<usize>,
    pub(super) keys: Range<usize>,
}

impl<'a> Plan<'a> {
    pub(super) fn new(set: InstructionSet, inputs: &'a Inputs<'a>, attended: &'a Attended) -> Self {
        let Attended { rows, queries, heads, groups, .. } = *attended;
        let shared = heads / groups;
        let tile = (ROWS / shared).next_multiple_of(16).min(QUERIES);
        let spans = PARTS.div_ceil((rows * groups).max(1));
        let span = queries.div_ceil(tile).div_ceil(spans).max(1) * tile;
        Self { set, inputs, attended, shared, tile, span }
    }

    /// Parts of one row and group.
    fn spans(&self) -> usize {
        self.attended.queries.div_ceil(self.span)
    }

    fn count(&self) -> usize {
        self.spans() * self.attended.rows * self.attended.groups
    }

    /// Later queries see more keys: their parts come first, so that the threads end together.
    fn part(&self, index: usize) -> Part {
        let of_a_span = self.attended.rows * self.attended.groups;
        let (span, rest) = (self.spans() - 1 - index / of_a_span, index % of_a_span);
        self.part_at(rest / self.attended.groups, rest % self.attended.groups, span)
    }

    fn part_at(&self, row: usize, group: usize, span: usize) -> Part {
        let queries = span * self.span..self.attended.queries.min((span + 1) * self.span);
        Part { row, group, keys: self.keys(row, &queries), queries }
    }

    /// Where [`Self::part`] has it.
    fn index(&self, row: usize, group: usize, span: usize) -> usize {
        ((self.spans() - 1 - span) * self.attended.rows + row) * self.attended.groups + group
    }

    /// The keys that some of the queries see: the first key of a query never falls as queries go on.
    fn keys(&self, row: usize, queries: &Range<usize>) -> Range<usize> {
        self.attended.range(row, queries.start).start..self.attended.range(row, queries.end - 1).end
    }

    /// Work of the whole operation, in multiply-adds.
    fn work(&self) -> usize {
        let Attended { rows, queries, keys, heads, .. } = *self.attended;
        rows * queries * keys * heads * self.inputs.e
    }

    /// All parts, in the order of [`Self::index`].
    pub(super) fn parts(&self) -> Vec<Part> {
        (0..self.count()).map(|index| self.part(index)).collect()
    }

    /// `f` of each part with its stretches of the buffers. Those are the caller's, for all parts: the allocator keeps
    /// what one thread has asked for and another gives back.
    pub(super) fn each<const N: usize>(
        &self,
        parts: &[Part],
        stretches: &mut [Vec<&mut [f32]>; N],
        f: impl Fn(&Part, [&mut [f32]; N]) + Send + Sync,
    ) {
        let mut of_buffers = stretches.each_mut().map(|one| one.iter_mut());
        let next = |part| (part, of_buffers.each_mut().map(|one| one.next().map(|one| &mut **one).unwrap_or_default()));
        let mut work: Vec<(&Part, [&mut [f32]; N])> = parts.iter().map(next).collect();
        Threads::All.chunks(&mut work, 1, self.work(), |_, work| {
            for (part, stretches) in work {
                f(part, stretches.each_mut().map(|one| &mut **one));
            }
        });
    }

    pub(super) fn tiles(&self, part: &Part) -> impl Iterator<Item = Tile> {
        let (row, group, end) = (part.row, part.group, part.queries.end);
        part.queries.clone().step_by(self.tile).map(move |start| {
            let queries = start..end.min(start + self.tile);
            Tile { row, group, keys: self.keys(row, &queries), queries }
        })
    }

    /// Which part has a head's query, and which of the part's rows it is: they go [tile, head, query].
    pub(super) fn place(&self, row: usize, head: usize, query: usize) -> (usize, usize) {
        let (group, span) = (head / self.shared, query / self.span);
        let part = self.part_at(row, group, span);
        let first = query / self.tile * self.tile;
        let count = self.tile.min(part.queries.end - first);
        let before = (first - part.queries.start) * self.shared;
        (self.index(row, group, span), before + head % self.shared * count + query - first)
    }

    /// The tile's rows of its heads one below the other, [head, query, e].
    pub(super) fn stacked(&self, of: Heads<'_>, tile: &Tile) -> Vec<f32> {
        let e = self.inputs.e;
        let mut rows = Vec::with_capacity(self.shared * tile.queries.len() * e);
        for head in tile.group * self.shared..(tile.group + 1) * self.shared {
            for query in tile.queries.clone() {
                rows.extend_from_slice(&of.at(tile.row * self.attended.queries + query, head, e)[..e]);
            }
        }
        rows
    }

    /// Keys or values as a right side.
    pub(super) fn right(&self, of: Heads<'a>, tile: &Tile, keys: &Range<usize>, order: Order) -> Right<'a> {
        let values = of.at(tile.row * self.attended.keys + keys.start, tile.group, self.inputs.e);
        Right::new(Values::F32(values), order, of.stride)
    }

    /// The keys among `keys` that query `query` sees, counted from the first of them.
    pub(super) fn seen(&self, tile: &Tile, query: usize, keys: &Range<usize>) -> Range<usize> {
        let range = self.attended.range(tile.row, query);
        let start = range.start.clamp(keys.start, keys.end);
        start - keys.start..range.end.clamp(start, keys.end) - keys.start
    }

    /// The most scores that a tile of the part has at once.
    pub(super) fn scores(&self, part: &Part) -> usize {
        self.shared * self.tile.min(part.queries.len()) * KEYS.min(part.keys.len())
    }

    /// A packed left side on this thread.
    pub(super) fn left(&self, source: LeftSource<'_>, rows: usize, k: usize) -> Left {
        Left::pack(self.set, source, rows, k, Threads::One)
    }
}

/// Queries of a part that go together, and the keys that any of them sees.
pub(super) struct Tile {
    pub(super) row: usize,
    pub(super) group: usize,
    pub(super) queries: Range<usize>,
    pub(super) keys: Range<usize>,
}

impl Tile {
    /// Its keys, as many at once as scores are held of.
    pub(super) fn blocks(&self) -> impl Iterator<Item = Range<usize>> {
        let end = self.keys.end;
        self.keys.clone().step_by(KEYS).map(move |start| start..end.min(start + KEYS))
    }
}

/// Columns of a buffer from `first` on, and what of all parts goes there.
pub(super) struct Columns<'a> {
    pub(super) first: usize,
    pub(super) of: Of<'a>,
}

#[derive(Clone, Copy)]
pub(super) enum Of<'a> {
    /// Each head's own rows, as [`Plan::place`] has them.
    Queries(&'a [&'a mut [f32]]),
    /// The sum of a group's parts, in the order of their queries.
    Keys(&'a [&'a mut [f32]]),
}

/// A buffer cut at the parts' sizes.
pub(super) fn stretches<'a>(
    buffer: &'a mut [f32],
    parts: &[Part],
    size: impl Fn(&Part) -> usize,
) -> Vec<&'a mut [f32]> {
    let mut rest = buffer;
    let cut = |part| rest.split_off_mut(..size(part)).unwrap_or_default();
    parts.iter().map(cut).collect()
}

impl Plan<'_> {
    /// Puts heads side by side into rows of `width` values; each row of the batch has `tokens` of them.
    pub(super) fn gather(&self, into: &mut [f32], width: usize, tokens: usize, columns: &[Columns<'_>]) {
        const TOKENS: usize = 32;
        let work = into.len();
        Threads::All.chunks(into, TOKENS * width, work, |chunk, lines| {
            for (line, values) in lines.chunks_exact_mut(width).enumerate() {
                let (row, token) = ((chunk * TOKENS + line) / tokens, (chunk * TOKENS + line) % tokens);
                for Columns { first, of } in columns {
                    let own = &mut values[*first..];
                    match of {
                        Of::Queries(parts) => self.gather_query(own, row, token, parts),
                        Of::Keys(parts) => self.gather_key(own, row, token, parts),
                    }
                }
            }
        });
    }

    fn gather_query(&self, into: &mut [f32], row: usize, query: usize, parts: &[&mut [f32]]) {
        let e = self.inputs.e;
        for (head, own) in into.chunks_exact_mut(e).take(self.attended.heads).enumerate() {
            let (part, place) = self.place(row, head, query);
            own.copy_from_slice(&parts[part][place * e..(place + 1) * e]);
        }
    }

    fn gather_key(&self, into: &mut [f32], row: usize, key: usize, parts: &[&mut [f32]]) {
        let e = self.inputs.e;
        for (group, own) in into.chunks_exact_mut(e).take(self.attended.groups).enumerate() {
            own.fill(0.0);
            for span in 0..self.spans() {
                let Part { keys, .. } = self.part_at(row, group, span);
                if keys.contains(&key) {
                    let place = (key - keys.start) * e;
                    add(self.set, own, &parts[self.index(row, group, span)][place..place + e]);
                }
            }
        }
    }
}
