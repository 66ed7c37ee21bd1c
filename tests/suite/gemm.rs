//! The dense kernel compared with matrixmultiply, a product of matrices that shares no code with it.

use proptest::prelude::*;
use strata_core::kernel::dense::affine;
use strata_core::{Isa, Philox};

/// `out[i, j] = sum_c x[i, c] * w[j, c]` by matrixmultiply: `x` is `[n, d]`, `w` `[f, d]`, row-major.
#[allow(unsafe_code, reason = "matrixmultiply takes pointers")]
fn oracle(x: &[f32], w: &[f32], [n, d, f]: [usize; 3]) -> Vec<f32> {
    let mut out = vec![0.0; n * f];
    assert_eq!([x.len(), w.len()], [n * d, f * d], "lengths of x and w");
    let row = d as isize;
    // SAFETY: the strides walk `[n, d]`, `[d, f]` and `[n, f]`, which are the lengths of the three slices.
    unsafe {
        let (x, w, out) = (x.as_ptr(), w.as_ptr(), out.as_mut_ptr());
        matrixmultiply::sgemm(n, d, f, 1.0, x, row, 1, w, 1, row, 0.0, out, f as isize, 1);
    }
    out
}

/// Compares every product, at every instruction set of the machine.
///
/// The bound is the a-priori one of two sums of `d` products in any order: each is within `d u / (1 - d u)` of the exact
/// value, relative to the sum of magnitudes, so they are within twice that of each other.
fn check(seed: u64, [n, d, f]: [usize; 3]) {
    let mut rng = Philox::new(seed, 0);
    let mut normal = |len: usize| (0..len).map(|_| rng.normal_f32()).collect::<Vec<f32>>();
    let (x, w) = (normal(n * d), normal(f * d));
    let expected = oracle(&x, &w, [n, d, f]);
    let unit = f64::from(f32::EPSILON) / 2.0;
    let relative = 2.0 * d as f64 * unit / (1.0 - d as f64 * unit);
    for isa in Isa::all_available() {
        let mut out = vec![f32::NAN; n * f];
        affine(isa, &x, &w, d, None, &mut out);
        for (at, (got, want)) in out.iter().zip(&expected).enumerate() {
            let (i, j) = (at / f, at % f);
            let terms = x[i * d..][..d].iter().zip(&w[j * d..][..d]);
            let magnitude: f64 = terms.map(|(a, b)| f64::from(*a).abs() * f64::from(*b).abs()).sum();
            let difference = (f64::from(*got) - f64::from(*want)).abs();
            assert!(
                difference <= relative * magnitude,
                "{isa:?} [{n}, {d}] x [{f}, {d}]: [{i}, {j}] is {got:e}, expected {want:e} within {:e}",
                relative * magnitude
            );
        }
    }
}

#[test]
fn the_dense_product_is_that_of_matrixmultiply() {
    for (seed, sizes) in
        [[1, 1, 1], [3, 17, 5], [64, 64, 64], [13, 131, 300], [65, 384, 97], [2, 2304, 33]].iter().enumerate()
    {
        check(seed as u64, *sizes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn dense_products_of_any_shape_are_those_of_matrixmultiply(seed: u64, n in 1..40_usize, d in 1..200_usize, f in 1..80_usize) {
        check(seed, [n, d, f]);
    }
}
