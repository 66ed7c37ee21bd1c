//! Vectors in `f64`.

/// Returns `a . b` by eight partial sums, so that the order of additions is fixed and still vectorises.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f64 = a8.remainder().iter().zip(b8.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a8.zip(b8) {
        for l in 0..8 {
            sums[l] += a[l] * b[l];
        }
    }
    sums.iter().sum::<f64>() + tail
}

/// Divides `row` by its norm.
pub(super) fn unit(row: &mut [f64]) {
    let norm = libm::sqrt(dot(row, row));
    row.iter_mut().for_each(|x| *x /= norm);
}
