//! Causal attention over contiguous key ranges, a tile of queries at a time.
//!
//! Forward keeps the output and each row's log-sum-exp; backward recomputes the probabilities from it
//! ([Dao et al. 2022](https://arxiv.org/abs/2205.14135)). Blocked keys outside a tile's range are never touched.

use crate::kernel::math::{add, dot, exp_and_sum, maximum, scale as multiply, vectorised};
use crate::kernel::{
    InstructionSet, Job, Left, LeftSource, Order, Right, Term, Threads, Values, Write, fresh, products,
};
use crate::layout::Attended;

/// Queries of one tile.
const TILE: usize = 64;

/// Queries, keys and values side by side in a row, or apart; each [tokens, heads * e].
#[derive(Debug, Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) q: Heads<'a>,
    pub(super) k: Heads<'a>,
    pub(super) v: Heads<'a>,
    pub(super) e: usize,
}

/// Some heads of each token: `values[token * stride + head * e..]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads<'a> {
    pub(super) values: &'a [f32],
    pub(super) stride: usize,
}

impl<'a> Inputs<'a> {
    /// From rows `[q | k | v]`.
    pub(super) fn side_by_side(qkv: &'a [f32], attended: &Attended, e: usize) -> Self {
        let (heads, groups) = (attended.heads, attended.groups);
        let stride = (heads + 2 * groups) * e;
        let heads_at = |column: usize| Heads { values: &qkv[column..], stride };
        Self { q: heads_at(0), k: heads_at(heads * e), v: heads_at((heads + groups) * e), e }
    }
}

impl<'a> Heads<'a> {
    /// From token `token` on, head `head`.
    fn at(&self, token: usize, head: usize, e: usize) -> &'a [f32] {
        &self.values[token * self.stride + head * e..]
    }
}

/// A head's tile of queries and the keys that any of them sees.
struct Tile {
    start: usize,
    count: usize,
    keys: std::ops::Range<usize>,
}

fn tiles(attended: &Attended, row: usize) -> impl Iterator<Item = Tile> {
    (0..attended.queries).step_by(TILE).map(move |start| {
        let count = TILE.min(attended.queries - start);
        // The first key of a query never falls as queries go on.
        let keys = attended.range(row, start).start..attended.range(row, start + count - 1).end;
        Tile { start, count, keys }
    })
}

/// One head of one row: where its tokens are, and what its products run on.
struct Head<'a> {
    set: InstructionSet,
    inputs: &'a Inputs<'a>,
    attended: &'a Attended,
    row: usize,
    head: usize,
    group: usize,
}

impl<'a> Head<'a> {
    fn new(set: InstructionSet, inputs: &'a Inputs<'a>, attended: &'a Attended, index: usize) -> Self {
        let (row, head) = (index / attended.heads, index % attended.heads);
        Self { set, inputs, attended, row, head, group: head * attended.groups / attended.heads }
    }

    fn queries(&self, tile: &Tile) -> LeftSource<'a> {
        let Heads { stride, .. } = self.inputs.q;
        LeftSource::new(
            self.inputs.q.at(self.row * self.attended.queries + tile.start, self.head, self.inputs.e),
            stride,
        )
    }

    fn keys(&self, of: Heads<'a>, tile: &Tile, order: Order) -> Right<'a> {
        let values = of.at(self.row * self.attended.keys + tile.keys.start, self.group, self.inputs.e);
        Right::new(Values::F32(values), order, of.stride)
    }

    /// The keys of the tile's query `index`, counted from the tile's first key.
    fn seen(&self, tile: &Tile, index: usize) -> std::ops::Range<usize> {
        let range = self.attended.range(self.row, tile.start + index);
        range.start - tile.keys.start..range.end - tile.keys.start
    }

    /// `c = [c +] a b` with `rows` x `k` on the left.
    #[expect(clippy::too_many_arguments, reason = "three matrices and what is done to one")]
    fn multiply(
        &self,
        c: &mut [f32],
        columns: usize,
        left: LeftSource<'_>,
        rows: usize,
        k: usize,
        right: Right<'_>,
        write: Write<'_>,
    ) {
        let left = Left::pack(self.set, left, rows, k, Threads::One);
        products(c, columns, &[Job::float(0..columns, vec![Term::new(&left, right)], write)], Threads::One);
    }
}

/// The output [b * t, h * e] and the log-sum-exps [b, h, t].
pub(super) fn forward(set: InstructionSet, inputs: &Inputs<'_>, attended: &Attended) -> (Vec<f32>, Vec<f32>) {
    let Attended { rows, queries, heads, .. } = *attended;
    let e = inputs.e;
    let per_head = |index: usize| {
        let head = Head::new(set, inputs, attended, index);
        if queries < FEW { head.few_queries() } else { head.forward() }
    };
    let work = queries * attended.keys * heads * rows * e;
    let (outputs, lse): (Vec<Vec<f32>>, Vec<Vec<f32>>) =
        Threads::All.map(rows * heads, work, per_head).into_iter().unzip();
    // SAFETY: every head sets its columns.
    let mut y = unsafe { fresh(rows * queries * heads * e) };
    gather(set, &mut y, heads * e, queries, e, &[Part { column: 0, heads: &outputs, count: heads, shared: 1 }]);
    (y, lse.concat())
}

/// Queries below which each is taken by itself: packing the keys would cost more than the products.
const FEW: usize = 8;

impl Head<'_> {
    fn forward(&self) -> (Vec<f32>, Vec<f32>) {
        let (queries, e) = (self.attended.queries, self.inputs.e);
        let factor = self.attended.scale(e) as f32;
        let (mut y, mut lse) = (vec![0.0; queries * e], vec![0.0; queries]);
        let mut scores = Vec::new();
        for tile in tiles(self.attended, self.row) {
            let width = tile.keys.len();
            scores.resize(tile.count * width, 0.0);
            let keys = self.keys(self.inputs.k, &tile, Order::AlongK);
            self.multiply(&mut scores, width, self.queries(&tile), tile.count, e, keys, Write::Set);
            for (i, line) in scores.chunks_exact_mut(width).enumerate() {
                let seen = self.seen(&tile, i);
                line[..seen.start].fill(0.0);
                line[seen.end..].fill(0.0);
                lse[tile.start + i] = softmax(self.set, &mut line[seen], factor);
            }
            let target = &mut y[tile.start * e..(tile.start + tile.count) * e];
            let values = self.keys(self.inputs.v, &tile, Order::AcrossColumns);
            self.multiply(target, e, LeftSource::new(&scores, width), tile.count, width, values, Write::Set);
        }
        (y, lse)
    }

    /// A few queries after cached keys, each by dot products.
    fn few_queries(&self) -> (Vec<f32>, Vec<f32>) {
        let Attended { queries, keys, .. } = *self.attended;
        let (set, e) = (self.set, self.inputs.e);
        let factor = self.attended.scale(e) as f32;
        let (mut y, mut lse) = (vec![0.0; queries * e], vec![0.0; queries]);
        for query in 0..queries {
            let seen = self.attended.range(self.row, query);
            let q = &self.inputs.q.at(self.row * queries + query, self.head, e)[..e];
            let first = self.row * keys + seen.start;
            let Heads { stride, .. } = self.inputs.k;
            let mut scores = vec![0.0; seen.len()];
            dots(set, q, self.inputs.k.at(first, self.group, e), stride, &mut scores);
            lse[query] = softmax(set, &mut scores, factor);
            let target = &mut y[query * e..(query + 1) * e];
            weighted_sum(set, target, &scores, self.inputs.v.at(first, self.group, e), self.inputs.v.stride);
        }
        (y, lse)
    }
}

/// Turns scores into `softmax(factor * scores)` and returns the log-sum-exp.
fn softmax(set: InstructionSet, scores: &mut [f32], factor: f32) -> f32 {
    let top = maximum(set, scores) * factor;
    let total = exp_and_sum(set, scores, factor, top);
    multiply(set, scores, 1.0 / total);
    total.ln() + top
}

/// What the backward pass needs beside the inputs.
pub(super) struct Saved<'a> {
    /// [b * t, h * e].
    pub(super) y: &'a [f32],
    /// [b, h, t].
    pub(super) lse: &'a [f32],
}

/// `dq`, `dk` and `dv`: with `p = exp(s - lse)`, `ds = p (dy v^T - sum(dy y)) / sqrt(e)`, `dq = ds k`, `dk = ds^T q`,
/// `dv = p^T dy`. In one buffer of rows `[dq | dk | dv]`, or in three.
pub(super) fn backward(
    set: InstructionSet,
    inputs: &Inputs<'_>,
    saved: &Saved<'_>,
    dy: &[f32],
    attended: &Attended,
    layout: GradientLayout,
) -> Vec<Vec<f32>> {
    let Attended { rows, queries, keys, heads, groups, .. } = *attended;
    let e = inputs.e;
    let per_head = |index: usize| Head::new(set, inputs, attended, index).backward(saved, dy, index);
    let per_head: Vec<[Vec<f32>; 3]> = Threads::All.map(rows * heads, queries * keys * heads * rows * e, per_head);
    let [mut dq, mut dk, mut dv] = [(); 3].map(|()| Vec::with_capacity(rows * heads));
    for [q, k, v] in per_head {
        dq.push(q);
        dk.push(k);
        dv.push(v);
    }
    let shared = heads / groups;
    fn part(column: usize, heads: &[Vec<f32>], count: usize, shared: usize) -> Part<'_> {
        Part { column, heads, count, shared }
    }
    // SAFETY: every head sets its columns.
    let buffer = |tokens: usize, heads: usize| unsafe { fresh(rows * tokens * heads * e) };
    match layout {
        GradientLayout::SideBySide => {
            let width = (heads + 2 * groups) * e;
            let mut all = buffer(queries, heads + 2 * groups);
            let parts = [
                part(0, &dq, heads, 1),
                part(heads * e, &dk, groups, shared),
                part((heads + groups) * e, &dv, groups, shared),
            ];
            gather(set, &mut all, width, queries, e, &parts);
            vec![all]
        }
        GradientLayout::Apart => {
            let one = |from: &[Vec<f32>], tokens: usize, count: usize, shared: usize| {
                let mut buffer = buffer(tokens, count);
                gather(set, &mut buffer, count * e, tokens, e, &[part(0, from, count, shared)]);
                buffer
            };
            vec![one(&dq, queries, heads, 1), one(&dk, keys, groups, shared), one(&dv, keys, groups, shared)]
        }
    }
}

/// How the gradients are laid out: as the inputs were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GradientLayout {
    SideBySide,
    Apart,
}

impl Head<'_> {
    /// `dq` [t, e], `dk` and `dv` [s, e].
    fn backward(&self, saved: &Saved<'_>, dy: &[f32], index: usize) -> [Vec<f32>; 3] {
        let Attended { queries, keys, heads, .. } = *self.attended;
        let (set, e) = (self.set, self.inputs.e);
        let factor = self.attended.scale(e) as f32;
        let (mut dq, mut dk, mut dv) = (vec![0.0; queries * e], vec![0.0; keys * e], vec![0.0; keys * e]);
        let (mut p, mut ds) = (Vec::new(), Vec::new());
        for tile in tiles(self.attended, self.row) {
            let width = tile.keys.len();
            p.resize(tile.count * width, 0.0);
            ds.resize(tile.count * width, 0.0);
            let first = (self.row * queries + tile.start) * heads * e + self.head * e;
            let dy_here = &dy[first..];
            let (q, dy_left) = (self.queries(&tile), LeftSource::new(dy_here, heads * e));
            let (k, v) = (self.inputs.k, self.inputs.v);
            self.multiply(&mut p, width, q, tile.count, e, self.keys(k, &tile, Order::AlongK), Write::Set);
            self.multiply(&mut ds, width, dy_left, tile.count, e, self.keys(v, &tile, Order::AlongK), Write::Set);
            for (i, (p, ds)) in p.chunks_exact_mut(width).zip(ds.chunks_exact_mut(width)).enumerate() {
                let seen = self.seen(&tile, i);
                for line in [&mut *p, &mut *ds] {
                    line[..seen.start].fill(0.0);
                    line[seen.end..].fill(0.0);
                }
                let place = first + i * heads * e;
                let along = dot(&dy[place..place + e], &saved.y[place..place + e]);
                exp_and_sum(set, &mut p[seen.clone()], factor, saved.lse[index * queries + tile.start + i]);
                softmax_backward(set, &mut ds[seen.clone()], &p[seen], along, factor);
            }
            let target = &mut dq[tile.start * e..(tile.start + tile.count) * e];
            let left = LeftSource::new(&ds, width);
            self.multiply(target, e, left, tile.count, width, self.keys(k, &tile, Order::AcrossColumns), Write::Set);
            let own = tile.keys.start * e..tile.keys.end * e;
            let q = Right::new(Values::F32(q.values), Order::AcrossColumns, q.stride);
            let left = LeftSource::transposed(&ds, width);
            self.multiply(&mut dk[own.clone()], e, left, width, tile.count, q, Write::Add);
            let dy_right = Right::new(Values::F32(dy_here), Order::AcrossColumns, heads * e);
            let left = LeftSource::transposed(&p, width);
            self.multiply(&mut dv[own], e, left, width, tile.count, dy_right, Write::Add);
        }
        [dq, dk, dv]
    }
}

vectorised! {
    fn softmax_backward(ds: &mut [f32], p: &[f32], along: f32, factor: f32) {
        for (ds, p) in ds.iter_mut().zip(p) {
            *ds = p * (*ds - along) * factor;
        }
    }
}

vectorised! {
    /// `scores[i] = q . k[i]`, the rows of `k` `stride` apart.
    fn dots(q: &[f32], k: &[f32], stride: usize, scores: &mut [f32]) {
        for (k, score) in k.chunks(stride).zip(scores) {
            *score = dot(q, &k[..q.len()]);
        }
    }
}

vectorised! {
    /// `y = sum of weights[i] * v[i]`, the rows of `v` `stride` apart.
    fn weighted_sum(y: &mut [f32], weights: &[f32], v: &[f32], stride: usize) {
        for (v, weight) in v.chunks(stride).zip(weights) {
            for (y, v) in y.iter_mut().zip(v) {
                *y += weight * v;
            }
        }
    }
}

/// Some columns of a buffer: `count` groups of `shared` heads each, whose [tokens, e] are added up in head order, so
/// that the sums do not depend on the threads.
struct Part<'a> {
    column: usize,
    heads: &'a [Vec<f32>],
    count: usize,
    shared: usize,
}

/// Puts heads side by side into rows of `width` values; each row of the batch has `tokens` of them.
fn gather(set: InstructionSet, into: &mut [f32], width: usize, tokens: usize, e: usize, parts: &[Part<'_>]) {
    const TOKENS: usize = 32;
    let work = into.len();
    Threads::All.chunks(into, TOKENS * width, work, |chunk, lines| {
        for (line, values) in lines.chunks_exact_mut(width).enumerate() {
            let (row, token) = ((chunk * TOKENS + line) / tokens, (chunk * TOKENS + line) % tokens);
            for Part { column, heads, count, shared } in parts {
                for group in 0..*count {
                    let own = &mut values[column + group * e..column + (group + 1) * e];
                    let first = (row * count + group) * shared;
                    own.copy_from_slice(&heads[first][token * e..(token + 1) * e]);
                    for head in &heads[first + 1..first + shared] {
                        add(set, own, &head[token * e..(token + 1) * e]);
                    }
                }
            }
        }
    });
}
