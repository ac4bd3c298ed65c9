//! Matrix products over parts of row-major buffers.

use gemm::Parallelism;

/// A matrix within a buffer: rows and columns with their strides, from an offset on.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    pub(super) offset: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) row_stride: usize,
    pub(super) column_stride: usize,
}

impl View {
    /// A whole row-major matrix.
    pub(super) fn whole(rows: usize, columns: usize) -> Self {
        Self { offset: 0, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// The transpose.
    pub(super) fn t(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    fn end(&self) -> usize {
        match self.rows * self.columns {
            0 => self.offset,
            _ => self.offset + (self.rows - 1) * self.row_stride + (self.columns - 1) * self.column_stride + 1,
        }
    }
}

/// What the product does to the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Into {
    /// `c = factor a b`; what was there is not read.
    Set,
    /// `c = c + factor a b`.
    Add,
}

/// How many threads a product may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Threads {
    /// The caller's, inside a parallel loop.
    One,
    /// All of the pool where the product is large enough.
    All,
}

/// `c = [c +] factor a b`.
#[expect(clippy::too_many_arguments, reason = "three buffers with their views, and how")]
pub(super) fn product(
    c: &mut [f32],
    c_view: View,
    a: &[f32],
    a_view: View,
    b: &[f32],
    b_view: View,
    factor: f32,
    into: Into,
    threads: Threads,
) {
    let (m, n, k) = (c_view.rows, c_view.columns, a_view.columns);
    assert!(a_view.rows == m && b_view.columns == n && b_view.rows == k, "shapes of a product");
    assert!(c_view.end() <= c.len() && a_view.end() <= a.len() && b_view.end() <= b.len(), "bounds of a product");
    let large = m.saturating_mul(n).saturating_mul(k) >= 1 << 19;
    let parallelism = match threads {
        Threads::All if large => Parallelism::Rayon(0),
        _ => Parallelism::None,
    };
    // SAFETY: the views were checked to lie within their buffers; `c` is borrowed alone, so it overlaps neither.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr().add(c_view.offset),
            c_view.column_stride as isize,
            c_view.row_stride as isize,
            into == Into::Add,
            a.as_ptr().add(a_view.offset),
            a_view.column_stride as isize,
            a_view.row_stride as isize,
            b.as_ptr().add(b_view.offset),
            b_view.column_stride as isize,
            b_view.row_stride as isize,
            1.0,
            factor,
            false,
            false,
            false,
            parallelism,
        );
    }
}
