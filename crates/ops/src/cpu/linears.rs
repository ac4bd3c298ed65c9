//! Linear layers that share their input, side by side: `y_i = x W_i^T + bias_i + s_i (x A_i^T) B_i^T`.

use super::frozen::FrozenProduct;
use crate::kernel::{
    InstructionSet, IntegerLeft, Job, Left, LeftSource, Order, Precision, Right, Term, Threads, Values, Write, fresh,
    math, products, thin, transposed,
};

/// One layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layer<'a> {
    /// `W` [out, in].
    pub(crate) weight: Values<'a>,
    /// `[out]`.
    pub(crate) bias: Option<Values<'a>>,
    /// The low-rank update.
    pub(crate) update: Option<Update<'a>>,
    /// How the product with `W` is computed.
    pub(crate) product: &'a FrozenProduct,
    pub(crate) out: usize,
}

/// A low-rank update.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Update<'a> {
    /// [r, in].
    pub(crate) a: &'a [f32],
    /// [out, r].
    pub(crate) b: &'a [f32],
    /// `s`.
    pub(crate) scale: f32,
    pub(crate) r: usize,
}

/// The gradients of a layer's update: `dA` [r, in] and `dB` [out, r].
pub(crate) type UpdateGradient = Option<(Vec<f32>, Vec<f32>)>;

/// Rows up to which a product is a few dot products with every row of the weight.
const THIN: usize = 4;

/// Layers with the widths of what they share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Linears<'a> {
    pub(crate) layers: &'a [Layer<'a>],
    pub(crate) input: usize,
    pub(crate) set: InstructionSet,
}

/// Each layer with its first column in the outputs and in the low-rank parts.
struct Place<'a> {
    layer: &'a Layer<'a>,
    column: usize,
    part: usize,
}

impl Linears<'_> {
    /// The sum of the layers' `out`.
    pub(crate) fn width(&self) -> usize {
        self.layers.iter().map(|layer| layer.out).sum()
    }

    /// The sum of the layers' `r`.
    fn rank(&self) -> usize {
        self.layers.iter().filter_map(|layer| layer.update).map(|update| update.r).sum()
    }

    fn places(&self) -> impl Iterator<Item = Place<'_>> {
        let (mut column, mut part) = (0, 0);
        self.layers.iter().map(move |layer| {
            let place = Place { layer, column, part };
            column += layer.out;
            part += layer.update.map_or(0, |update| update.r);
            place
        })
    }

    /// The outputs side by side, [n, sum of out], on top of `residual` if there is one, and the low-rank parts
    /// `s x A^T` side by side, [n, sum of r].
    pub(crate) fn forward(&self, x: &[f32], residual: Option<&[f32]>) -> (Vec<f32>, Vec<f32>) {
        let Self { input, set, .. } = *self;
        let (n, width, rank) = (x.len() / input, self.width(), self.rank());
        // SAFETY: every value is set, here or by the products below, whose columns are all of them.
        let mut y = unsafe { fresh(n * width) };
        let mut write = residual.map_or(Write::Set, Write::Onto);
        if self.layers.iter().any(|layer| layer.bias.is_some()) {
            self.start_from_biases(&mut y, residual);
            write = Write::Add;
        }
        if n <= THIN {
            let parts = self.thin_forward(x, n, &mut y, write);
            return (y, parts);
        }
        let float =
            self.layers.iter().any(|layer| layer.product.compute().format(set).is_none() || layer.update.is_some());
        let left = float.then(|| self.left(LeftSource::new(x, input), n, input));
        let rounded = self.rounded(LeftSource::new(x, input), n, input);
        let parts = left.as_ref().map_or_else(Vec::new, |left| self.parts_of(left, n));
        let packed_parts = (rank > 0).then(|| self.low_rank_left(LeftSource::new(&parts, rank), n, rank));
        let jobs = self.places().map(|Place { layer, column, part }| {
            let mut job = Job::float(column..column + layer.out, Vec::new(), write);
            match (&rounded, &left) {
                (Some(rounded), _) if layer.product.compute().format(set).is_some() => {
                    job.integer.push(layer.product.forward_integers(rounded, layer.weight, input, 0));
                }
                (_, Some(left)) => job.terms.push(layer.product.forward(left, layer.weight, input, 0)),
                _ => unreachable!("packed in the way that some layer needs"),
            }
            if let (Some(Update { b, r, .. }), Some(parts)) = (layer.update, &packed_parts) {
                let right = Right::new(Values::F32(b), Order::AlongK, r);
                job.terms.push(Term::part(parts, part..part + r, right));
            }
            job
        });
        products(&mut y, width, &jobs.collect::<Vec<_>>(), Threads::All);
        (y, parts)
    }

    /// The low-rank parts alone, to the bit as [`Self::forward`] gives them.
    pub(crate) fn parts(&self, x: &[f32]) -> Vec<f32> {
        let Self { input, .. } = *self;
        let n = x.len() / input;
        if self.rank() == 0 {
            return Vec::new();
        }
        if n <= THIN {
            let mut parts = vec![0.0; n * self.rank()];
            self.places().for_each(|place| self.thin_part(x, &place, &mut parts));
            return parts;
        }
        self.parts_of(&self.low_rank_left(LeftSource::new(x, input), n, input), n)
    }

    /// `s x A^T` of each layer side by side, [n, sum of r].
    fn parts_of(&self, left: &Left, n: usize) -> Vec<f32> {
        let rank = self.rank();
        // SAFETY: every layer with an update sets its columns, and no other has any.
        let mut parts = unsafe { fresh(n * rank) };
        let jobs = self.places().filter_map(|Place { layer, part, .. }| {
            let Update { a, r, .. } = layer.update?;
            let right = Right::new(Values::F32(a), Order::AlongK, self.input);
            let term = Term::new(left, right);
            Some(Job::float(part..part + r, vec![term], Write::Set))
        });
        products(&mut parts, rank, &jobs.collect::<Vec<_>>(), Threads::All);
        self.scale_parts(&mut parts, rank);
        parts
    }

    /// One layer's part of a few rows.
    fn thin_part(&self, x: &[f32], place: &Place<'_>, parts: &mut [f32]) {
        let (rank, part) = (self.rank(), place.part);
        let Some(Update { a, scale, r, .. }) = place.layer.update else { return };
        thin(self.set, x, self.input, Values::F32(a), r, &mut parts[part..], rank, Write::Set);
        for row in 0..x.len() / self.input {
            parts[row * rank + part..][..r].iter_mut().for_each(|value| *value *= scale);
        }
    }

    /// Rows of biases, on top of `residual`.
    fn start_from_biases(&self, y: &mut [f32], residual: Option<&[f32]>) {
        let mut biases = vec![0.0; self.width()];
        for Place { layer, column, .. } in self.places() {
            if let Some(bias) = layer.bias {
                bias.widen(self.set, &mut biases[column..column + layer.out]);
            }
        }
        for (row, line) in y.chunks_exact_mut(biases.len()).enumerate() {
            line.copy_from_slice(&biases);
            if let Some(residual) = residual {
                math::add(self.set, line, &residual[row * biases.len()..][..biases.len()]);
            }
        }
    }

    /// `dx` if `dx` says how to write it, and each update's gradients, from the input, the low-rank parts that the
    /// forward pass kept, and the outputs' gradient: `dh = s dy B`, `dx = dy W + dh A`, `dA = dh^T x`,
    /// `dB = dy^T (s x A^T)`. `dW` is never formed.
    pub(crate) fn backward(
        &self,
        x: &[f32],
        parts: &[f32],
        dy: &[f32],
        dx: Option<(&mut [f32], Write<'_>)>,
    ) -> Vec<UpdateGradient> {
        let Self { input, set, .. } = *self;
        let (n, width, rank) = (dy.len() / self.width(), self.width(), self.rank());
        let left = self.left(LeftSource::new(dy, width), n, width);
        // SAFETY: every layer with an update sets its columns, and no other has any.
        let mut dh = unsafe { fresh(n * rank) };
        let jobs = self.places().filter_map(|Place { layer, column, part }| {
            let Update { b, r, .. } = layer.update?;
            let right = Right::new(Values::F32(b), Order::AcrossColumns, r);
            let term = Term::part(&left, column..column + layer.out, right);
            Some(Job::float(part..part + r, vec![term], Write::Set))
        });
        products(&mut dh, rank, &jobs.collect::<Vec<_>>(), Threads::All);
        self.scale_parts(&mut dh, rank);
        if let Some((dx, write)) = dx {
            let packed_dh = (rank > 0).then(|| self.low_rank_left(LeftSource::new(&dh, rank), n, rank));
            let rounded: Vec<Option<IntegerLeft>> = self
                .places()
                .map(|Place { layer, column, .. }| {
                    let format = layer.product.compute().format(set)?;
                    let source = LeftSource::new(&dy[column..], width);
                    Some(IntegerLeft::pack(set, format, source, n, layer.out, Threads::All))
                })
                .collect();
            let mut job = Job::float(0..input, Vec::new(), write);
            for (Place { layer, column, part }, rounded) in self.places().zip(&rounded) {
                match rounded {
                    Some(rounded) => {
                        job.integer.push(layer.product.backward_integers(rounded, layer.weight, input, 0));
                    }
                    None => {
                        let k = column..column + layer.out;
                        job.terms.push(layer.product.backward(&left, k, layer.weight, input, 0));
                    }
                }
                if let (Some(Update { a, r, .. }), Some(dh)) = (layer.update, &packed_dh) {
                    let right = Right::new(Values::F32(a), Order::AcrossColumns, input);
                    job.terms.push(Term::part(dh, part..part + r, right));
                }
            }
            products(dx, input, &[job], Threads::All);
        }
        self.update_gradients(x, parts, dy, &dh, n)
    }

    fn update_gradients(&self, x: &[f32], parts: &[f32], dy: &[f32], dh: &[f32], n: usize) -> Vec<UpdateGradient> {
        let Self { input, set, .. } = *self;
        let (width, rank) = (self.width(), self.rank());
        if rank == 0 {
            return vec![None; self.layers.len()];
        }
        // All `dA` at once: the parts of all layers are rows of one product.
        // SAFETY: the product sets every row.
        let mut da = unsafe { fresh(rank * input) };
        let left = self.low_rank_left(LeftSource::transposed(dh, rank), rank, n);
        let term = Term::new(&left, Right::new(Values::F32(x), Order::AcrossColumns, input));
        products(&mut da, input, &[Job::float(0..input, vec![term], Write::Set)], Threads::All);
        let gradients = self.places().map(|Place { layer, column, part }| {
            let Update { r, .. } = layer.update?;
            let own = da[part * input..(part + r) * input].to_vec();
            let left = self.low_rank_left(LeftSource::transposed(&parts[part..], rank), r, n);
            let right = Right::new(Values::F32(&dy[column..]), Order::AcrossColumns, width);
            let term = Term::new(&left, right);
            // SAFETY: the product sets every row.
            let mut db = unsafe { fresh(r * layer.out) };
            let job = Job::float(0..layer.out, vec![term], Write::Set);
            products(&mut db, layer.out, &[job], Threads::All);
            Some((own, transposed(set, &db, r, layer.out)))
        });
        gradients.collect()
    }

    /// Of the products with `A` and `B`: single, but beside frozen ones in bf16 the sum of two bf16, which has twice their
    /// bits.
    fn low_rank(&self) -> Precision {
        let bf16 = |layer: &Layer<'_>| layer.product.compute().precision(self.set) == Precision::Bf16;
        if self.layers.iter().all(bf16) { Precision::Bf16x2 } else { Precision::Single }
    }

    fn low_rank_left(&self, source: LeftSource<'_>, n: usize, k: usize) -> Left {
        Left::pack_at(self.low_rank(), self.set, source, n, k, Threads::All)
    }

    /// A left side for the frozen products, and for those with `A` or `B` if there are any.
    fn left(&self, source: LeftSource<'_>, n: usize, k: usize) -> Left {
        if self.rank() > 0 {
            return self.low_rank_left(source, n, k);
        }
        let frozen = self.layers.iter().map(|layer| layer.product.compute().precision(self.set));
        let most = frozen.max_by_key(|precision| precision.planes()).unwrap_or_default();
        Left::pack_at(most, self.set, source, n, k, Threads::All)
    }

    /// The left side in the integers that a layer asks for; layers that share an input share their way to compute.
    fn rounded(&self, source: LeftSource<'_>, n: usize, k: usize) -> Option<IntegerLeft> {
        let format = self.layers.iter().find_map(|layer| layer.product.compute().format(self.set))?;
        Some(IntegerLeft::pack(self.set, format, source, n, k, Threads::All))
    }

    fn scale_parts(&self, parts: &mut [f32], rank: usize) {
        if rank == 0 {
            return;
        }
        for line in parts.chunks_exact_mut(rank) {
            for Place { layer, part, .. } in self.places() {
                if let Some(Update { r, scale, .. }) = layer.update {
                    line[part..part + r].iter_mut().for_each(|value| *value *= scale);
                }
            }
        }
    }

    /// A few rows: the weight is read once, as it is held.
    fn thin_forward(&self, x: &[f32], n: usize, y: &mut [f32], write: Write<'_>) -> Vec<f32> {
        let Self { input, set, .. } = *self;
        let (width, rank) = (self.width(), self.rank());
        let mut parts = vec![0.0; n * rank];
        for place in self.places() {
            let Place { layer, column, part } = place;
            let write = match write {
                Write::Onto(base) => Write::Onto(&base[column..]),
                other => other,
            };
            thin(set, x, input, layer.weight, layer.out, &mut y[column..], width, write);
            self.thin_part(x, &place, &mut parts);
            if let Some(Update { b, r, .. }) = layer.update {
                for row in 0..n {
                    let own = &parts[row * rank + part..][..r];
                    let line = &mut y[row * width + column..];
                    thin(set, own, r, Values::F32(b), layer.out, line, width, Write::Add);
                }
            }
        }
        parts
    }
}
