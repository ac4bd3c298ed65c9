//! The one product of a merge: a tall matrix of rank r times a wide one, added to a block of rows.

use std::ops::Range;

use gemm::Parallelism;

/// Values seen as a matrix, row by row or column by column.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// `values` [rows, columns], row by row.
    ///
    /// # Panics
    /// Where there are not as many values.
    pub(crate) fn new(values: &'a [f32], rows: usize, columns: usize) -> Self {
        assert_eq!(values.len(), rows * columns, "values of a [{rows}, {columns}] matrix");
        Self { values, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// The same values with rows and columns exchanged.
    pub(crate) fn transposed(self) -> Self {
        let Self { values, rows, columns, row_stride, column_stride } = self;
        Self { values, rows: columns, columns: rows, row_stride: column_stride, column_stride: row_stride }
    }

    /// Some of its rows.
    ///
    /// # Panics
    /// Where it does not have them.
    pub(crate) fn rows(self, rows: Range<usize>) -> Self {
        assert!(rows.start < rows.end && rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        Self { values: self.values.get(rows.start * self.row_stride..).unwrap_or_default(), rows: rows.len(), ..self }
    }

    /// Whether every place of the matrix is one of `values`.
    fn is_inside(&self) -> bool {
        match (self.rows.checked_sub(1), self.columns.checked_sub(1)) {
            (Some(row), Some(column)) => row * self.row_stride + column * self.column_stride < self.values.len(),
            _ => true,
        }
    }
}

/// `block += scale * left * right`, on this thread: the caller divides the rows.
///
/// # Shapes
/// `block` [n, m] row by row, `left` [n, r], `right` [r, m].
///
/// # Panics
/// Where the shapes do not fit.
#[allow(unsafe_code)]
pub(crate) fn add_product(block: &mut [f32], left: Matrix<'_>, right: Matrix<'_>, scale: f32) {
    assert_eq!(left.columns, right.rows, "the rank of both factors");
    assert_eq!(block.len(), left.rows * right.columns, "values of the block");
    assert!(left.is_inside() && right.is_inside(), "a factor of another size");
    // SAFETY: the three assertions above: each pointer is to as many values as its sizes and strides reach. The block is
    // borrowed mutably, so neither factor overlaps it.
    unsafe {
        gemm::gemm(
            left.rows,
            right.columns,
            left.columns,
            block.as_mut_ptr(),
            1,
            right.columns as isize,
            true,
            left.values.as_ptr(),
            left.column_stride as isize,
            left.row_stride as isize,
            right.values.as_ptr(),
            right.column_stride as isize,
            right.row_stride as isize,
            1.0,
            scale,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let number = |i: u32| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 8) as f32 / 8_388_608.0 - 1.0;
        (0..count as u32).map(number).collect()
    }

    fn transpose(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
        (0..columns).flat_map(|c| (0..rows).map(move |r| (r, c))).map(|(r, c)| values[r * columns + c]).collect()
    }

    #[test]
    fn equals_the_triple_loop_in_every_layout() {
        for (n, m, r) in [(1, 1, 1), (3, 7, 2), (4, 8, 4), (37, 33, 16), (70, 100, 5), (300, 257, 64), (2, 3, 0)] {
            let (block, left, right) = (numbers(n * m, 1), numbers(n * r, 2), numbers(r * m, 3));
            let expected: Vec<f64> = (0..n * m)
                .map(|i| {
                    let product = |k: usize| f64::from(left[i / m * r + k]) * f64::from(right[k * m + i % m]);
                    f64::from(block[i]) + 2.5 * (0..r).map(product).sum::<f64>()
                })
                .collect();
            let (left_t, right_t) = (transpose(&left, n, r), transpose(&right, r, m));
            let lefts = [Matrix::new(&left, n, r), Matrix::new(&left_t, r, n).transposed()];
            let rights = [Matrix::new(&right, r, m), Matrix::new(&right_t, m, r).transposed()];
            for (left, right) in lefts.into_iter().flat_map(|left| rights.map(|right| (left, right))) {
                let mut found = block.clone();
                // In two blocks of rows, as a merge does it.
                let half = n.div_ceil(2);
                let (first, second) = found.split_at_mut(half * m);
                add_product(first, left.rows(0..half), right, 2.5);
                if half < n {
                    add_product(second, left.rows(half..n), right, 2.5);
                }
                for (found, expected) in found.iter().zip(&expected) {
                    assert!((f64::from(*found) - expected).abs() < 3e-5, "[{n}, {m}] of {r}: {found} {expected}");
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "values of the block")]
    fn sizes_are_checked_before_any_pointer_is() {
        let values = [0.0; 6];
        add_product(&mut [0.0; 8], Matrix::new(&values, 3, 2), Matrix::new(&values, 2, 3), 1.0);
    }
}
