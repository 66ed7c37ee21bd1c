//! The assignment compared with every permutation, and with scipy.

use proptest::prelude::*;
use safetensors::SafeTensors;
use strata_core::Error;
use strata_core::error::At;
use strata_core::metrics::matching::{Goal, assign};

fn total(matrix: &[f64], cols: usize, column: &[Option<usize>]) -> f64 {
    column.iter().enumerate().filter_map(|(i, j)| j.map(|j| matrix[i * cols + j])).sum()
}

fn is_full_matching(column: &[Option<usize>], cols: usize) -> bool {
    let mut used: Vec<usize> = column.iter().flatten().copied().collect();
    used.sort_unstable();
    used.dedup();
    used.len() == column.len().min(cols) && column.iter().flatten().count() == used.len()
}

/// Returns the best sum over all ways to assign distinct columns to the rows from `i` on, with `spare` rows left out.
fn best(matrix: &[f64], cols: usize, i: usize, used: u32, spare: usize, sign: f64) -> f64 {
    if i * cols == matrix.len() {
        return 0.0;
    }
    let mut top = f64::NEG_INFINITY;
    if spare > 0 {
        top = best(matrix, cols, i + 1, used, spare - 1, sign);
    }
    for j in (0..cols).filter(|j| used >> j & 1 == 0) {
        top = top.max(sign * matrix[i * cols + j] + best(matrix, cols, i + 1, used | 1 << j, spare, sign));
    }
    top
}

proptest! {
    #[test]
    fn assignment_is_as_good_as_the_best_permutation(
        (rows, cols, matrix) in (1usize..7, 1usize..7).prop_flat_map(|(n, m)| {
            // Small integers, so that ties are common and sums are exact.
            (Just(n), Just(m), prop::collection::vec((-4i32..5).prop_map(f64::from), n * m))
        })
    ) {
        for (goal, sign) in [(Goal::Minimise, -1.0), (Goal::Maximise, 1.0)] {
            let column = assign(&matrix, rows, cols, goal).unwrap();
            prop_assert!(is_full_matching(&column, cols));
            let expected = sign * best(&matrix, cols, 0, 0, rows.saturating_sub(cols), sign);
            prop_assert_eq!(total(&matrix, cols, &column), expected);
        }
    }

    #[test]
    fn assignment_follows_a_permutation_of_the_columns(
        (n, matrix, shift) in (2usize..12).prop_flat_map(|n| {
            (Just(n), prop::collection::vec(-1.0f64..1.0, n * n), 1..n)
        })
    ) {
        let turned: Vec<f64> = (0..n * n).map(|e| matrix[e / n * n + (e % n + shift) % n]).collect();
        let (a, b) = (assign(&matrix, n, n, Goal::Maximise).unwrap(), assign(&turned, n, n, Goal::Maximise).unwrap());
        let back: Vec<_> = b.iter().map(|j| j.map(|j| (j + shift) % n)).collect();
        prop_assert_eq!(a, back);
    }
}

#[test]
fn assignment_equals_scipy() {
    let bytes = include_bytes!("../golden/matching.safetensors");
    let golden = SafeTensors::deserialize(bytes).unwrap();
    for name in ["tiny", "square", "wide", "tall"] {
        let matrix = golden.tensor(name).unwrap();
        let (rows, cols) = (matrix.shape()[0], matrix.shape()[1]);
        let values: Vec<f64> = matrix.data().as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect();
        for (goal, suffix) in [(Goal::Minimise, "min"), (Goal::Maximise, "max")] {
            let expected = golden.tensor(&format!("{name}.{suffix}")).unwrap();
            let expected: Vec<_> =
                expected.data().as_chunks().0.iter().map(|b| usize::try_from(i32::from_le_bytes(*b)).ok()).collect();
            assert_eq!(assign(&values, rows, cols, goal).unwrap(), expected, "{name}, {goal:?}");
        }
    }
}

#[test]
fn assignment_of_a_constant_matrix_is_complete_and_the_same_each_time() {
    for (rows, cols) in [(1, 1), (5, 5), (3, 8), (8, 3)] {
        let matrix = vec![0.25; rows * cols];
        let column = assign(&matrix, rows, cols, Goal::Maximise).unwrap();
        assert!(is_full_matching(&column, cols));
        assert_eq!(column, assign(&matrix, rows, cols, Goal::Maximise).unwrap());
    }
}

#[test]
fn assignment_of_nothing_is_empty() {
    assert_eq!(assign(&[], 0, 5, Goal::Minimise).unwrap(), []);
    assert_eq!(assign(&[], 3, 0, Goal::Minimise).unwrap(), [None; 3]);
}

#[test]
fn assignment_refuses_nan_and_wrong_sizes() {
    let err = assign(&[1.0, 2.0, f64::NAN, 0.0], 2, 2, Goal::Minimise).unwrap_err();
    assert!(matches!(err, Error::NotFinite { at: At::Row(1), .. }), "{err}");
    let err = assign(&[1.0; 5], 2, 3, Goal::Minimise).unwrap_err();
    assert!(matches!(err, Error::Shape { expected: 6, got: 5, .. }), "{err}");
}
