//! The main kernels in plain loops: the oracle of the tests, and the shortest definition of the bits that the fast
//! kernels compute. Slow.

/// Returns `a * b + c` with one rounding.
///
/// The product is exact in `f64`; the sum is rounded there to odd, so that rounding it once more to `f32` is correct
/// (Boldo and Melquiond, Emulation of FMA and correctly rounded sums, theorem 3). It needs no hardware support.
pub fn fma(a: f32, b: f32, c: f32) -> f32 {
    let (p, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let s = p + c;
    let t = s - p;
    let error = (p - (s - t)) + (c - t);
    if error == 0.0 || !error.is_finite() || s.to_bits() & 1 == 1 {
        return s as f32;
    }
    let away = (error > 0.0) == (s > 0.0);
    f64::from_bits(if away { s.to_bits() + 1 } else { s.to_bits() - 1 }) as f32
}

/// `sum_c x[c] * w[c]` in the order of [`dense`](super::dense).
///
/// Element `c` joins the chain `c mod 16`, both vectors being padded with zeros to a multiple of 16. Of the 16 chains the
/// upper half is added to the lower one, then neighbours are added until one is left.
pub fn product(x: &[f32], w: &[f32]) -> f32 {
    let mut chains = [0.0; 16];
    for c in 0..x.len().next_multiple_of(16) {
        let (x, w) = if c < x.len() { (x[c], w[c]) } else { (0.0, 0.0) };
        chains[c % 16] = fma(x, w, chains[c % 16]);
    }
    for l in 0..8 {
        chains[l] += chains[8 + l];
    }
    for half in [4, 2, 1] {
        for l in 0..half {
            chains[l] = chains[2 * l] + chains[2 * l + 1];
        }
    }
    chains[0]
}

/// `out[i, j] = bias[j] + x_i . w_j`: the twin of [`affine`](super::dense::affine).
///
/// | argument | shape | layout |
/// |---|---|---|
/// | `x` | `[n, d]` | row-major |
/// | `w` | `[f, d]` | row-major |
/// | `bias` | `[f]` | nothing is added if `None` |
/// | `out` | `[n, f]` | written, never read |
pub fn affine(x: &[f32], w: &[f32], bias: Option<&[f32]>, f: usize, d: usize, out: &mut [f32]) {
    for (at, o) in out.iter_mut().enumerate() {
        let (i, j) = (at / f, at % f);
        let sum = product(&x[i * d..(i + 1) * d], &w[j * d..(j + 1) * d]);
        *o = bias.map_or(sum, |b| sum + b[j]);
    }
}

/// `sum_c a[c] * b[c]`: the twin of [`dot`](super::reduce::dot).
///
/// Element `c` joins the chain `c mod 64`, both vectors being padded with zeros to a multiple of 16; the 64 chains are
/// then added by [`tree`].
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut chains = [0.0; 64];
    for c in 0..a.len().next_multiple_of(16) {
        let (a, b) = if c < a.len() { (a[c], b[c]) } else { (0.0, 0.0) };
        chains[c % 64] = fma(a, b, chains[c % 64]);
    }
    tree(&chains)
}

/// Returns the sum of 64 chains: with the four accumulators `A0..A3` of 16 lanes, `(A0 + A1) + (A2 + A3)`, then the
/// upper half of the lanes is added to the lower one until one is left.
pub fn tree(chains: &[f32; 64]) -> f32 {
    let mut lanes = [0.0; 16];
    for l in 0..16 {
        lanes[l] = (chains[l] + chains[16 + l]) + (chains[32 + l] + chains[48 + l]);
    }
    for half in [8, 4, 2, 1] {
        for l in 0..half {
            lanes[l] += lanes[half + l];
        }
    }
    lanes[0]
}

/// `out[c] += sum_e coef[e] * rows[index[e], c]`: the twin of [`accumulate_rows`](super::sparse::accumulate_rows).
pub fn accumulate_rows(index: &[u32], coef: &[f32], rows: &[f32], d: usize, out: &mut [f32]) {
    for (e, &i) in index.iter().enumerate() {
        for c in 0..d {
            out[c] = fma(coef[e], rows[i as usize * d + c], out[c]);
        }
    }
}
