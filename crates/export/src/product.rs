//! The one product of a merge: a tall matrix of rank r times a wide one, added to a block of rows.

use rayon::prelude::*;

/// Columns of a panel: eight accumulators of four rows fill the registers of the smallest x86-64.
const WIDTH: usize = 8;
/// Rows taken together.
const HEIGHT: usize = 4;
/// Rows that one task takes.
const TASK_ROWS: usize = 32;

/// The wide factor `[r, columns]`, packed into panels so that the inner loop reads it in order.
#[derive(Debug)]
pub(crate) struct Panels {
    /// Panel by panel, `[r][WIDTH]` each; the last one is filled up with zeros.
    data: Vec<f32>,
    rank: usize,
    columns: usize,
}

impl Panels {
    /// Packs a factor given row by row, `[rank, columns]`.
    pub(crate) fn from_rows(rows: &[f32], rank: usize, columns: usize) -> Self {
        Self::pack(rank, columns, |k, column| rows[k * columns + column])
    }

    /// Packs a factor given as its transpose, `[columns, rank]`.
    pub(crate) fn from_columns(transposed: &[f32], rank: usize, columns: usize) -> Self {
        Self::pack(rank, columns, |k, column| transposed[column * rank + k])
    }

    fn pack(rank: usize, columns: usize, at: impl Fn(usize, usize) -> f32) -> Self {
        let mut data = vec![0.0; columns.div_ceil(WIDTH) * WIDTH * rank];
        for (panel, slots) in data.chunks_mut((rank * WIDTH).max(1)).enumerate() {
            for (i, slot) in slots.iter_mut().enumerate() {
                let (k, column) = (i / WIDTH, panel * WIDTH + i % WIDTH);
                if column < columns {
                    *slot = at(k, column);
                }
            }
        }
        Self { data, rank, columns }
    }

    /// `block += scale * left * self`, on all cores.
    ///
    /// # Shapes
    /// `block` [n, columns], `left` [n, r].
    pub(crate) fn add_product(&self, block: &mut [f32], left: &[f32], scale: f32) {
        if self.rank == 0 || self.columns == 0 {
            return;
        }
        block
            .par_chunks_mut(TASK_ROWS * self.columns)
            .zip(left.par_chunks(TASK_ROWS * self.rank))
            .for_each(|(rows, left)| self.add_rows(rows, left, scale));
    }

    fn add_rows(&self, rows: &mut [f32], left: &[f32], scale: f32) {
        for (p, panel) in self.data.chunks_exact(self.rank * WIDTH).enumerate() {
            let first = p * WIDTH;
            let width = WIDTH.min(self.columns - first);
            let groups = rows.chunks_mut(HEIGHT * self.columns).zip(left.chunks(HEIGHT * self.rank));
            for (rows, left) in groups {
                let sums = match left.chunks_exact(self.rank).len() {
                    HEIGHT => dot::<HEIGHT>(panel, left, self.rank),
                    // The last rows of a matrix, one by one.
                    count => {
                        let mut sums = [[0.0; WIDTH]; HEIGHT];
                        for (i, left) in left.chunks_exact(self.rank).take(count).enumerate() {
                            [sums[i]] = dot::<1>(panel, left, self.rank);
                        }
                        sums
                    }
                };
                for (row, sums) in rows.chunks_exact_mut(self.columns).zip(&sums) {
                    row[first..first + width].iter_mut().zip(sums).for_each(|(w, sum)| *w += scale * sum);
                }
            }
        }
    }
}

/// `left [N, r] * panel [r, WIDTH]`.
fn dot<const N: usize>(panel: &[f32], left: &[f32], rank: usize) -> [[f32; WIDTH]; N] {
    let mut sums = [[0.0_f32; WIDTH]; N];
    let mut left_rows = [&left[..0]; N];
    left_rows.iter_mut().zip(left.chunks_exact(rank)).for_each(|(slot, row)| *slot = row);
    let (panel, _) = panel.as_chunks::<WIDTH>();
    for (k, right) in panel.iter().enumerate() {
        for (sums, left) in sums.iter_mut().zip(&left_rows) {
            let factor = left[k];
            sums.iter_mut().zip(right).for_each(|(sum, right)| *sum += factor * right);
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        (0..count as u32)
            .map(|i| ((i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 8) as f32 / 8_388_608.0) - 1.0)
            .collect()
    }

    #[test]
    fn equals_the_triple_loop_at_every_edge() {
        for (rows, columns, rank) in
            [(1, 1, 1), (3, 7, 2), (4, 8, 4), (5, 9, 3), (37, 33, 16), (70, 100, 5), (2, 3, 0), (0, 4, 2)]
        {
            let (block, left, right) =
                (numbers(rows * columns, 1), numbers(rows * rank, 2), numbers(rank * columns, 3));
            let transposed: Vec<f32> =
                (0..columns).flat_map(|c| (0..rank).map(|k| right[k * columns + c]).collect::<Vec<_>>()).collect();
            let expected: Vec<f64> = (0..rows * columns)
                .map(|i| {
                    let (row, column) = (i / columns, i % columns);
                    let product = |k: usize| f64::from(left[row * rank + k]) * f64::from(right[k * columns + column]);
                    f64::from(block[i]) + 2.5 * (0..rank).map(product).sum::<f64>()
                })
                .collect();
            for panels in [Panels::from_rows(&right, rank, columns), Panels::from_columns(&transposed, rank, columns)] {
                let mut found = block.clone();
                panels.add_product(&mut found, &left, 2.5);
                for (found, expected) in found.iter().zip(&expected) {
                    assert!(
                        (f64::from(*found) - expected).abs() < 1e-5,
                        "{rows}x{columns} rank {rank}: {found} {expected}"
                    );
                }
            }
        }
    }
}
