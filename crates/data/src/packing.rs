//! Best-fit decreasing: examples of unequal length into rows of one length, with little left over.

use std::collections::BTreeSet;

/// Examples that are packed together. Within one window the packing is n log n and nearly full; over the whole
/// epoch it would group examples by length and undo the shuffle.
const WINDOW: usize = 2048;

/// Rows of indices into `lengths`, each row's lengths adding up to at most `row_length`; an example that is
/// longer has a row of its own. `order` says which examples, and in which order they come.
pub(crate) fn pack(order: &[u32], lengths: &[usize], row_length: usize) -> Vec<Vec<u32>> {
    order.chunks(WINDOW).flat_map(|window| pack_window(window, lengths, row_length)).collect()
}

fn pack_window(window: &[u32], lengths: &[usize], row_length: usize) -> Vec<Vec<u32>> {
    let length = |place: usize| lengths[window[place] as usize];
    let mut longest_first: Vec<usize> = (0..window.len()).collect();
    longest_first.sort_by_key(|place| (std::cmp::Reverse(length(*place)), *place));
    let mut rows: Vec<Vec<usize>> = Vec::new();
    // (space left, row): the first entry that is large enough is the best fit.
    let mut open: BTreeSet<(usize, usize)> = BTreeSet::new();
    for place in longest_first {
        let needed = length(place);
        let fit = open.range((needed, 0)..).next().copied();
        let (row, left) = match fit {
            Some((space, row)) => {
                open.remove(&(space, row));
                (row, space - needed)
            }
            None => {
                rows.push(Vec::new());
                (rows.len() - 1, row_length.saturating_sub(needed))
            }
        };
        rows[row].push(place);
        if left > 0 {
            open.insert((left, row));
        }
    }
    // Back to the order of the epoch: within rows, and rows by their first example.
    for row in &mut rows {
        row.sort_unstable();
    }
    rows.sort_unstable_by_key(|row| row[0]);
    rows.into_iter().map(|row| row.into_iter().map(|place| window[place]).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_is_in_one_row_and_rows_are_nearly_full() {
        for seed in 0..20u64 {
            let count = 5000 + seed as usize * 7;
            let lengths: Vec<usize> = (0..count)
                .map(|index| 1 + (index as u64 * 2_654_435_761 + seed * 97).wrapping_mul(40_503) as usize % 400)
                .collect();
            let order: Vec<u32> = (0..count as u32).rev().collect();
            let rows = pack(&order, &lengths, 1024);
            let mut seen: Vec<u32> = rows.iter().flatten().copied().collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..count as u32).collect::<Vec<_>>());
            assert!(rows.iter().all(|row| row.iter().map(|i| lengths[*i as usize]).sum::<usize>() <= 1024));
            let fill = lengths.iter().sum::<usize>() as f64 / (rows.len() * 1024) as f64;
            assert!(fill > 0.97, "{fill}");
        }
    }

    #[test]
    fn an_example_that_is_too_long_stands_alone() {
        assert_eq!(pack(&[0, 1, 2], &[2, 9, 3], 5), vec![vec![0, 2], vec![1]]);
        assert!(pack(&[], &[], 5).is_empty());
    }
}
