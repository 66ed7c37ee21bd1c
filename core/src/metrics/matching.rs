//! The rectangular linear sum assignment problem: pairs rows with columns so that the sum of the chosen entries is
//! best.
//!
//! It is solved by shortest augmenting paths with dual potentials (Jonker and Volgenant 1987, in the form of Crouse
//! 2016).

use alloc::vec;
use alloc::vec::Vec;

use crate::error::At;
use crate::{Error, Result};

/// The sum to optimise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// The smallest sum, for costs.
    Minimise,
    /// The largest sum, for similarities.
    Maximise,
}

/// Pairs rows with columns: `argbest_sigma sum_i matrix[i, sigma(i)]` over injective `sigma` of the smaller side.
///
/// | argument | shape | layout |
/// |---|---|---|
/// | `matrix` | `[rows, cols]` | row-major, finite |
/// | result | `[rows]` | the column of each row; `None` for the `rows - cols` rows left over |
///
/// Every one of the `min(rows, cols)` rows or columns of the smaller side gets a partner. One thread, `f64`, a fixed
/// order: the same matrix gives the same pairs everywhere, also where several assignments are equally good.
/// Cost: `O(min(rows, cols)^2 * max(rows, cols))` time, the potentials and (if `rows > cols`) a transposed copy.
///
/// # Errors
/// [`Error::Shape`] if `matrix` does not have `rows * cols` entries; [`Error::NotFinite`] (with the row) if
/// an entry is NaN or infinite.
pub fn assign(matrix: &[f64], rows: usize, cols: usize, goal: Goal) -> Result<Vec<Option<usize>>> {
    let size = rows.saturating_mul(cols);
    if matrix.len() != size {
        return Err(Error::Shape { what: "entries of the matrix to assign", expected: size, got: matrix.len() });
    }
    if let Some(at) = matrix.iter().position(|v| !v.is_finite()) {
        return Err(Error::NotFinite { what: "the matrix to assign".into(), at: At::Row((at / cols) as u64) });
    }
    let sign = match goal {
        Goal::Minimise => 1.0,
        Goal::Maximise => -1.0,
    };
    if rows <= cols {
        let cost: Vec<f64> = matrix.iter().map(|v| sign * v).collect();
        Ok(augment(&cost, rows, cols).into_iter().map(Some).collect())
    } else {
        let mut cost = Vec::with_capacity(size);
        for j in 0..cols {
            cost.extend((0..rows).map(|i| sign * matrix[i * cols + j]));
        }
        let mut column = vec![None; rows];
        for (j, i) in augment(&cost, cols, rows).into_iter().enumerate() {
            column[i] = Some(j);
        }
        Ok(column)
    }
}

/// Returns the column of every row in the cheapest assignment, for `n <= m`.
fn augment(cost: &[f64], n: usize, m: usize) -> Vec<usize> {
    const FREE: usize = usize::MAX;
    let (mut u, mut v) = (vec![0.0f64; n], vec![0.0f64; m]);
    let (mut col_of, mut row_of) = (vec![FREE; n], vec![FREE; m]);
    let mut came_from = vec![FREE; m];
    let mut dist = vec![0.0f64; m];
    let mut remaining: Vec<usize> = Vec::with_capacity(m);
    let mut settled: Vec<usize> = Vec::with_capacity(m);
    for start in 0..n {
        // Dijkstra over reduced costs from `start` to the nearest free column.
        dist.fill(f64::INFINITY);
        remaining.clear();
        remaining.extend((0..m).rev());
        settled.clear();
        let (mut i, mut reached) = (start, 0.0f64);
        let sink = loop {
            let row = &cost[i * m..(i + 1) * m];
            let (mut lowest, mut best) = (f64::INFINITY, 0);
            for (at, &j) in remaining.iter().enumerate() {
                let d = reached + row[j] - u[i] - v[j];
                if d < dist[j] {
                    dist[j] = d;
                    came_from[j] = i;
                }
                if dist[j] < lowest || (dist[j] == lowest && row_of[j] == FREE) {
                    lowest = dist[j];
                    best = at;
                }
            }
            reached = lowest;
            let j = remaining.swap_remove(best);
            if row_of[j] == FREE {
                break j;
            }
            settled.push(j);
            i = row_of[j];
        };
        u[start] += reached;
        for &j in &settled {
            u[row_of[j]] += reached - dist[j];
            v[j] -= reached - dist[j];
        }
        let mut j = sink;
        loop {
            let i = came_from[j];
            row_of[j] = i;
            core::mem::swap(&mut col_of[i], &mut j);
            if i == start {
                break;
            }
        }
    }
    col_of
}
