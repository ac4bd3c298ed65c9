//! Causal attention over contiguous key ranges, a tile of queries at a time.
//!
//! Forward keeps the output and each row's log-sum-exp; backward recomputes the probabilities from it
//! ([Dao et al. 2022](https://arxiv.org/abs/2205.14135)). Keys outside a tile's range are never touched. The heads that
//! share keys ([Ainslie et al. 2023](https://arxiv.org/abs/2305.13245)) go together, one below the other, so that keys
//! are packed once for all of them.

mod plan;

use std::ops::Range;

use self::plan::{Columns, Of, Part, Plan, stretches};
use crate::kernel::math::{dot, exp, exp_and_sum, maximum, scale as multiply, vectorised};
use crate::kernel::{
    InstructionSet, Job, Left, LeftSource, Order, Right, Term, Threads, Values, Write, fresh, products,
};
use crate::layout::Attended;

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

/// The output [b * t, h * e] and the log-sum-exps [b, h, t].
pub(super) fn forward(set: InstructionSet, inputs: &Inputs<'_>, attended: &Attended) -> (Vec<f32>, Vec<f32>) {
    let Attended { rows, queries, heads, .. } = *attended;
    if queries < FEW {
        return few_queries(set, inputs, attended);
    }
    let plan = Plan::new(set, inputs, attended);
    let (parts, e) = (plan.parts(), inputs.e);
    // SAFETY: each part sets its rows, and they are all; each head then sets its columns.
    let [mut outputs, mut sums, mut y] = unsafe { [e, 1, e].map(|width| fresh(rows * queries * heads * width)) };
    let mut found = [(&mut outputs, e), (&mut sums, 1)]
        .map(|(buffer, width)| stretches(buffer, &parts, |part| part.queries.len() * plan.shared * width));
    plan.each(&parts, &mut found, |part, [y, lse]| plan.forward(part, y, lse));
    let [outputs, sums] = &found;
    plan.gather(&mut y, heads * e, queries, &[Columns { first: 0, of: Of::Queries(outputs) }]);
    let mut lse = vec![0.0; rows * heads * queries];
    for (row, lse) in lse.chunks_exact_mut(heads * queries).enumerate() {
        for (head, lse) in lse.chunks_exact_mut(queries).enumerate() {
            for (query, lse) in lse.iter_mut().enumerate() {
                let (part, place) = plan.place(row, head, query);
                *lse = sums[part][place];
            }
        }
    }
    (y, lse)
}

/// Queries below which each is taken by itself: packing the keys would cost more than the products.
const FEW: usize = 8;

/// A few queries after cached keys, each by dot products.
fn few_queries(set: InstructionSet, inputs: &Inputs<'_>, attended: &Attended) -> (Vec<f32>, Vec<f32>) {
    let Attended { rows, queries, keys, heads, groups, .. } = *attended;
    let e = inputs.e;
    let factor = attended.scale(e) as f32;
    let per_head = |index: usize| {
        let (row, head) = (index / heads, index % heads);
        let group = head * groups / heads;
        let (mut y, mut lse) = (vec![0.0; queries * e], vec![0.0; queries]);
        for (query, (y, lse)) in y.chunks_exact_mut(e).zip(&mut lse).enumerate() {
            let seen = attended.range(row, query);
            let first = row * keys + seen.start;
            let mut scores = vec![0.0; seen.len()];
            let q = &inputs.q.at(row * queries + query, head, e)[..e];
            dots(set, q, inputs.k.at(first, group, e), inputs.k.stride, &mut scores);
            let top = maximum(set, &scores) * factor;
            let total = exp_and_sum(set, &mut scores, factor, top);
            weighted_sum(set, y, &scores, inputs.v.at(first, group, e), inputs.v.stride);
            multiply(set, y, 1.0 / total);
            *lse = total.ln() + top;
        }
        (y, lse)
    };
    let (outputs, lse): (Vec<Vec<f32>>, Vec<Vec<f32>>) =
        Threads::All.map(rows * heads, rows * queries * keys * heads * e, per_head).into_iter().unzip();
    let mut y = vec![0.0; rows * queries * heads * e];
    for (token, line) in y.chunks_exact_mut(heads * e).enumerate() {
        let (row, query) = (token / queries, token % queries);
        for (own, head) in line.chunks_exact_mut(e).zip(&outputs[row * heads..]) {
            own.copy_from_slice(&head[query * e..(query + 1) * e]);
        }
    }
    (y, lse.concat())
}

impl Plan<'_> {
    /// Sets the part's outputs and log-sum-exps, as [`Self::place`] has them. Over blocks of keys the sums are scaled to
    /// the highest score so far ([Milakov & Gimelshein 2018](https://arxiv.org/abs/1805.02867)).
    fn forward(&self, part: &Part, mut y: &mut [f32], mut lse: &mut [f32]) {
        let e = self.inputs.e;
        let factor = self.attended.scale(e) as f32;
        // SAFETY: each product sets the part that is read.
        let mut scores = unsafe { fresh(self.scores(part)) };
        for tile in self.tiles(part) {
            let count = self.shared * tile.queries.len();
            let q = self.left(LeftSource::new(&self.stacked(self.inputs.q, &tile), e), count, e);
            let target = y.split_off_mut(..count * e).unwrap_or_default();
            let (mut tops, mut totals) = (vec![f32::NEG_INFINITY; count], vec![0.0; count]);
            for block in tile.blocks() {
                let width = block.len();
                let scores = &mut scores[..count * width];
                let keys = self.right(self.inputs.k, &tile, &block, Order::AlongK);
                product(scores, width, &q, keys, Write::Set);
                let first = block.start == tile.keys.start;
                for (i, line) in scores.chunks_exact_mut(width).enumerate() {
                    let seen = self.seen(&tile, tile.queries.start + i % tile.queries.len(), &block);
                    clear_unseen(line, &seen);
                    if seen.is_empty() {
                        continue;
                    }
                    let (top, total) = (&mut tops[i], &mut totals[i]);
                    let highest = top.max(maximum(self.set, &line[seen.clone()]) * factor);
                    if !first {
                        let less = exp(*top - highest);
                        *total *= less;
                        multiply(self.set, &mut target[i * e..(i + 1) * e], less);
                    }
                    *total += exp_and_sum(self.set, &mut line[seen], factor, highest);
                    *top = highest;
                }
                let values = self.right(self.inputs.v, &tile, &block, Order::AcrossColumns);
                let write = if first { Write::Set } else { Write::Add };
                product(target, e, &self.left(LeftSource::new(scores, width), count, width), values, write);
            }
            let lse = lse.split_off_mut(..count).unwrap_or_default();
            for (i, (line, lse)) in target.chunks_exact_mut(e).zip(lse).enumerate() {
                multiply(self.set, line, 1.0 / totals[i]);
                *lse = totals[i].ln() + tops[i];
            }
        }
    }
}

/// What the backward pass needs beside the inputs.
pub(super) struct Saved<'a> {
    /// [b * t, h * e].
    pub(super) y: &'a [f32],
    /// [b, h, t].
    pub(super) lse: &'a [f32],
}

/// How the gradients are laid out: as the inputs were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GradientLayout {
    SideBySide,
    Apart,
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
    let plan = Plan::new(set, inputs, attended);
    let parts = plan.parts();
    // SAFETY: each part sets its rows.
    let mut dq = unsafe { fresh(rows * queries * heads * e) };
    let seen: usize = parts.iter().map(|part| part.keys.len()).sum();
    let [mut dk, mut dv] = [(); 2].map(|()| vec![0.0; seen * e]);
    let of_keys = |part: &Part| part.keys.len() * e;
    let mut found = [
        stretches(&mut dq, &parts, |part| part.queries.len() * plan.shared * e),
        stretches(&mut dk, &parts, of_keys),
        stretches(&mut dv, &parts, of_keys),
    ];
    plan.each(&parts, &mut found, |part, gradients| plan.backward(part, saved, dy, gradients));
    let gathered = |tokens: usize, heads: usize, columns: &[Columns<'_>]| {
        // SAFETY: every head sets its columns.
        let mut all = unsafe { fresh(rows * tokens * heads * e) };
        plan.gather(&mut all, heads * e, tokens, columns);
        all
    };
    let [dq, dk, dv] = &found;
    let (dq, dk, dv) = (Of::Queries(dq), Of::Keys(dk), Of::Keys(dv));
    let at = |first: usize, of| Columns { first: first * e, of };
    match layout {
        GradientLayout::SideBySide => {
            vec![gathered(queries, heads + 2 * groups, &[at(0, dq), at(heads, dk), at(heads + groups, dv)])]
        }
        GradientLayout::Apart => vec![
            gathered(queries, heads, &[at(0, dq)]),
            gathered(keys, groups, &[at(0, dk)]),
            gathered(keys, groups, &[at(0, dv)]),
        ],
    }
}

impl Plan<'_> {
    /// Sets the part's `dq`, as [`Self::place`] has it, and adds its share of `dk` and `dv`, [keys, e].
    fn backward(&self, part: &Part, saved: &Saved<'_>, dy: &[f32], [mut dq, dk, dv]: [&mut [f32]; 3]) {
        let Attended { queries, heads, .. } = *self.attended;
        let (set, e) = (self.set, self.inputs.e);
        let factor = self.attended.scale(e) as f32;
        let (k, v) = (self.inputs.k, self.inputs.v);
        // SAFETY: each product sets the part that is read.
        let [mut p, mut ds] = [(); 2].map(|()| unsafe { fresh(self.scores(part)) });
        for tile in self.tiles(part) {
            let count = self.shared * tile.queries.len();
            let target = dq.split_off_mut(..count * e).unwrap_or_default();
            let of_outputs = |values| Heads { values, stride: heads * e };
            let (q, dy) = (self.stacked(self.inputs.q, &tile), self.stacked(of_outputs(dy), &tile));
            let y = self.stacked(of_outputs(saved.y), &tile);
            let along: Vec<f32> = dy.chunks_exact(e).zip(y.chunks_exact(e)).map(|(dy, y)| dot(dy, y)).collect();
            let q_left = self.left(LeftSource::new(&q, e), count, e);
            let dy_left = self.left(LeftSource::new(&dy, e), count, e);
            for block in tile.blocks() {
                let width = block.len();
                let (p, ds) = (&mut p[..count * width], &mut ds[..count * width]);
                product(p, width, &q_left, self.right(k, &tile, &block, Order::AlongK), Write::Set);
                product(ds, width, &dy_left, self.right(v, &tile, &block, Order::AlongK), Write::Set);
                for (i, (p, ds)) in p.chunks_exact_mut(width).zip(ds.chunks_exact_mut(width)).enumerate() {
                    let (head, query) = (i / tile.queries.len(), tile.queries.start + i % tile.queries.len());
                    let seen = self.seen(&tile, query, &block);
                    clear_unseen(p, &seen);
                    clear_unseen(ds, &seen);
                    let lse = saved.lse[(tile.row * heads + tile.group * self.shared + head) * queries + query];
                    exp_and_sum(set, &mut p[seen.clone()], factor, lse);
                    softmax_backward(set, &mut ds[seen.clone()], &p[seen], along[i], factor);
                }
                let write = if block.start == tile.keys.start { Write::Set } else { Write::Add };
                let keys = self.right(k, &tile, &block, Order::AcrossColumns);
                product(target, e, &self.left(LeftSource::new(ds, width), count, width), keys, write);
                let own = (block.start - part.keys.start) * e..(block.end - part.keys.start) * e;
                for (gradient, left, right) in [(&mut *dk, &*ds, &q), (&mut *dv, &*p, &dy)] {
                    let left = self.left(LeftSource::transposed(left, width), width, count);
                    let right = Right::new(Values::F32(right), Order::AcrossColumns, e);
                    product(&mut gradient[own.clone()], e, &left, right, Write::Add);
                }
            }
        }
    }
}

/// `c = [c +] a b` over all of the left side.
fn product(c: &mut [f32], columns: usize, left: &Left, right: Right<'_>, write: Write<'_>) {
    products(c, columns, &[Job::float(0..columns, vec![Term::new(left, right)], write)], Threads::One);
}

/// Zeroes what lies outside of `seen`.
fn clear_unseen(line: &mut [f32], seen: &Range<usize>) {
    line[..seen.start].fill(0.0);
    line[seen.end..].fill(0.0);
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
