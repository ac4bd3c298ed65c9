//! Causal attention over contiguous key ranges, a tile of queries at a time.
//!
//! Forward keeps the output and each row's log-sum-exp; backward recomputes the probabilities from it
//! ([Dao et al. 2022](https://arxiv.org/abs/2205.14135)). Blocked keys outside a tile's range are never touched.

use rayon::prelude::*;

use super::math::{add, dot, exp_and_sum, maximum, scale as multiply, vectorised};
use super::matrix::{Into, Threads, View, product};
use crate::layout::Attended;

/// Queries of one tile.
const TILE: usize = 64;

/// What the backward pass needs.
pub(super) struct Saved<'a> {
    pub(super) q: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
    pub(super) y: &'a [f32],
    /// [b, h, t].
    pub(super) lse: &'a [f32],
}

/// The places of one head's tile of queries and of the keys that any of them sees.
struct Tile<'a> {
    attended: &'a Attended,
    row: usize,
    head: usize,
    start: usize,
    count: usize,
    keys: std::ops::Range<usize>,
    e: usize,
}

impl Tile<'_> {
    /// This tile's part of a buffer [b * t, h * e].
    fn queries(&self) -> View {
        let width = self.attended.heads * self.e;
        let token = self.row * self.attended.queries + self.start;
        View {
            offset: token * width + self.head * self.e,
            rows: self.count,
            columns: self.e,
            row_stride: width,
            column_stride: 1,
        }
    }

    /// Its keys' part of a buffer [b * s, k * e].
    fn keys(&self) -> View {
        let width = self.attended.groups * self.e;
        let group = self.head * self.attended.groups / self.attended.heads;
        let token = self.row * self.attended.keys + self.keys.start;
        View {
            offset: token * width + group * self.e,
            rows: self.keys.len(),
            columns: self.e,
            row_stride: width,
            column_stride: 1,
        }
    }

    /// Its keys' part of a buffer [s, e] of this head alone.
    fn own_keys(&self) -> View {
        View { offset: self.keys.start * self.e, ..View::whole(self.keys.len(), self.e) }
    }

    /// The tile's scores.
    fn scores(&self) -> View {
        View::whole(self.count, self.keys.len())
    }

    /// The keys of the tile's query `index`, counted from the tile's first key.
    fn seen(&self, index: usize) -> std::ops::Range<usize> {
        let range = self.attended.range(self.row, self.start + index);
        range.start - self.keys.start..range.end - self.keys.start
    }
}

fn tiles<'a>(attended: &'a Attended, row: usize, head: usize, e: usize) -> impl Iterator<Item = Tile<'a>> {
    (0..attended.queries).step_by(TILE).map(move |start| {
        let count = TILE.min(attended.queries - start);
        // The first key of a query never falls as queries go on.
        let keys = attended.range(row, start).start..attended.range(row, start + count - 1).end;
        Tile { attended, row, head, start, count, keys, e }
    })
}

/// The output [b * t, h * e] and the log-sum-exps [b, h, t].
pub(super) fn forward(q: &[f32], k: &[f32], v: &[f32], attended: &Attended) -> (Vec<f32>, Vec<f32>) {
    let Attended { rows, queries, heads, .. } = *attended;
    let e = q.len() / (rows * queries * heads);
    let factor = attended.scale(e) as f32;
    let per_head: Vec<(Vec<f32>, Vec<f32>)> = (0..rows * heads)
        .into_par_iter()
        .map(|index| {
            let (mut y, mut lse) = (vec![0.0; queries * e], vec![0.0; queries]);
            let mut scores = Vec::new();
            for tile in tiles(attended, index / heads, index % heads, e) {
                let view = tile.scores();
                scores.resize(view.rows * view.columns, 0.0);
                product(&mut scores, view, q, tile.queries(), k, tile.keys().t(), 1.0, Into::Set, Threads::One);
                for (i, line) in scores.chunks_exact_mut(view.columns).enumerate() {
                    let seen = tile.seen(i);
                    line[..seen.start].fill(0.0);
                    line[seen.end..].fill(0.0);
                    let line = &mut line[seen];
                    let top = maximum(line) * factor;
                    let total = exp_and_sum(line, factor, top);
                    multiply(line, 1.0 / total);
                    lse[tile.start + i] = total.ln() + top;
                }
                let target = View { offset: tile.start * e, ..View::whole(tile.count, e) };
                product(&mut y, target, &scores, view, v, tile.keys(), 1.0, Into::Set, Threads::One);
            }
            (y, lse)
        })
        .collect();
    let mut y = vec![0.0; q.len()];
    let mut lse = Vec::with_capacity(rows * heads * queries);
    for (index, (head, head_lse)) in per_head.iter().enumerate() {
        scatter(&mut y, head, index / heads * queries, index % heads, heads, e);
        lse.extend_from_slice(head_lse);
    }
    (y, lse)
}

/// `dq`, `dk` and `dv`: with `p = exp(s - lse)`, `ds = p (dy v^T - sum(dy y)) / sqrt(e)`, `dq = ds k`, `dk = ds^T q`,
/// `dv = p^T dy`.
pub(super) fn backward(saved: &Saved<'_>, dy: &[f32], attended: &Attended) -> [Vec<f32>; 3] {
    let Attended { rows, queries, keys, heads, groups, .. } = *attended;
    let e = saved.q.len() / (rows * queries * heads);
    let per_head: Vec<[Vec<f32>; 3]> =
        (0..rows * heads).into_par_iter().map(|index| head_backward(saved, dy, attended, index, e)).collect();
    let mut dq = vec![0.0; saved.q.len()];
    let mut dk = vec![0.0; saved.k.len()];
    let mut dv = vec![0.0; saved.v.len()];
    // In head order: the sums of a group do not depend on the threads.
    for (index, [head_dq, head_dk, head_dv]) in per_head.iter().enumerate() {
        let (row, head) = (index / heads, index % heads);
        scatter(&mut dq, head_dq, row * queries, head, heads, e);
        let group = head * groups / heads;
        scatter(&mut dk, head_dk, row * keys, group, groups, e);
        scatter(&mut dv, head_dv, row * keys, group, groups, e);
    }
    [dq, dk, dv]
}

/// One head's gradients: `dq` [t, e], `dk` and `dv` [s, e].
fn head_backward(saved: &Saved<'_>, dy: &[f32], attended: &Attended, index: usize, e: usize) -> [Vec<f32>; 3] {
    let Attended { queries, keys, heads, .. } = *attended;
    let (row, head) = (index / heads, index % heads);
    let factor = attended.scale(e) as f32;
    let (mut dq, mut dk, mut dv) = (vec![0.0; queries * e], vec![0.0; keys * e], vec![0.0; keys * e]);
    let (mut p, mut ds) = (Vec::new(), Vec::new());
    for tile in tiles(attended, row, head, e) {
        let view = tile.scores();
        p.resize(view.rows * view.columns, 0.0);
        ds.resize(view.rows * view.columns, 0.0);
        let (q_view, k_view) = (tile.queries(), tile.keys());
        product(&mut p, view, saved.q, q_view, saved.k, k_view.t(), 1.0, Into::Set, Threads::One);
        product(&mut ds, view, dy, q_view, saved.v, k_view.t(), 1.0, Into::Set, Threads::One);
        for (i, (p, ds)) in p.chunks_exact_mut(view.columns).zip(ds.chunks_exact_mut(view.columns)).enumerate() {
            let seen = tile.seen(i);
            for line in [&mut *p, &mut *ds] {
                line[..seen.start].fill(0.0);
                line[seen.end..].fill(0.0);
            }
            let place = q_view.offset + i * q_view.row_stride;
            let along = dot(&dy[place..place + e], &saved.y[place..place + e]);
            exp_and_sum(&mut p[seen.clone()], factor, saved.lse[index * queries + tile.start + i]);
            softmax_backward(&mut ds[seen.clone()], &p[seen], along, factor);
        }
        let target = View { offset: tile.start * e, ..View::whole(tile.count, e) };
        product(&mut dq, target, &ds, view, saved.k, k_view, 1.0, Into::Set, Threads::One);
        product(&mut dk, tile.own_keys(), &ds, view.t(), saved.q, q_view, 1.0, Into::Add, Threads::One);
        product(&mut dv, tile.own_keys(), &p, view.t(), dy, q_view, 1.0, Into::Add, Threads::One);
    }
    [dq, dk, dv]
}

vectorised! {
    fn softmax_backward(ds: &mut [f32], p: &[f32], along: f32, factor: f32) {
        for (ds, p) in ds.iter_mut().zip(p) {
            *ds = p * (*ds - along) * factor;
        }
    }
}

/// Adds one head's [tokens, e] to its columns of a buffer of `heads` heads, from token `first` on.
fn scatter(into: &mut [f32], head: &[f32], first: usize, place: usize, heads: usize, e: usize) {
    for (token, values) in head.chunks_exact(e).enumerate() {
        let start = ((first + token) * heads + place) * e;
        add(&mut into[start..start + e], values);
    }
}
