//! The fused encoder and exact screening in 8 bits, compared with a selection from all pre-activations.

use proptest::prelude::*;
use strata_core::kernel::dense::{Matrix, Pick, affine};
use strata_core::kernel::fire::{Limit, RowLists, Scratch, Search, fire};
use strata_core::kernel::{Screen, screen, select};
use strata_core::rng::Philox;
use strata_core::{Compute, Isa, Par};

/// Rows, weights and biases of one scale, or (`wild`) of scales that differ by orders of magnitude.
struct Case {
    n: usize,
    d: usize,
    f: usize,
    x: Vec<f32>,
    w: Vec<f32>,
    bias: Vec<f32>,
}

impl Case {
    fn new(n: usize, d: usize, f: usize, wild: bool, seed: u64) -> Self {
        let mut rng = Philox::new(seed, 3);
        let mut values = |rows: usize, width: usize, scale: f32| -> Vec<f32> {
            (0..rows)
                .flat_map(|_| {
                    // One scale per row: rows and latents differ by orders of magnitude, and some are out of range.
                    let own = match rng.below(12) {
                        0 if wild => 0.0,
                        1 if wild => 1e-30,
                        2 if wild => 1e20,
                        3 if wild => 1e-17,
                        _ => (0.3 * rng.normal_f32()).exp(),
                    };
                    let outlier = rng.below(width as u64 + 1) as usize;
                    (0..width)
                        .map(|c| own * scale * rng.normal_f32() * if wild && c == outlier { 60.0 } else { 1.0 })
                        .collect::<Vec<f32>>()
                })
                .collect()
        };
        let (x, w, bias) = (values(n, d, 1.0), values(f, d, 0.3), values(f, 1, 0.1));
        Self { n, d, f, x, w, bias }
    }

    fn pre_activations(&self, isa: Isa) -> Vec<f32> {
        let mut u = vec![0.0; self.n * self.f];
        affine(isa, &self.x, &self.w, self.d, Some(&self.bias), &mut u);
        u
    }

    /// Returns the latents of a row that fire, and their values, by the definition, among the latents `rows` only.
    fn wanted(&self, isa: Isa, u: &[f32], rows: &[u32], limit: Limit<'_>) -> (Vec<u32>, Vec<f32>) {
        let u: Vec<f32> = rows.iter().map(|j| u[*j as usize]).collect();
        let (mut index, mut value) = (Vec::new(), Vec::new());
        match limit {
            Limit::Above(t) => select::above(isa, &u, t, &mut index, &mut value),
            Limit::AboveEach(t) => {
                let t: Vec<f32> = rows.iter().map(|j| t[*j as usize]).collect();
                select::above_each(isa, &u, &t, &mut index, &mut value);
            }
            Limit::Topk(k) => select::topk_row(isa, &u, k, &mut index, &mut value),
        }
        (index.iter().map(|at| rows[*at as usize]).collect(), value)
    }

    fn check(&self, isa: Isa, limit: Limit<'_>, some: bool) {
        let all: Vec<u32> = (0..self.f as u32).collect();
        let every_third: Vec<u32> = (0..self.f as u32).step_by(3).collect();
        let (rows, pick) = if some { (&every_third, Pick::List(&every_third)) } else { (&all, Pick::Range(0, self.f)) };
        let w = Matrix::all(&self.w, self.d).only(pick);
        let mut screen = Screen::new(rows.len(), self.d);
        screen.quantise(Compute::new(isa, Par::Seq), w, &self.bias);
        let u = self.pre_activations(isa);
        let (mut t, mut lists) = (Scratch::default(), RowLists::default());
        for screen in [None, Some(&screen), None] {
            fire(isa, Search { x: &self.x, w, bias: &self.bias, limit }, screen, &mut t, &mut lists);
            assert_eq!(lists.n(), self.n, "one list per row");
            for i in 0..self.n {
                let (index, value) = lists.row(i);
                let want = self.wanted(isa, &u[i * self.f..(i + 1) * self.f], rows, limit);
                let what = format!("{isa:?} {limit:?} screen {} row {i}", screen.is_some());
                assert_eq!(index, want.0, "{what}");
                let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
                assert_eq!(bits(value), bits(&want.1), "{what}");
            }
        }
    }
}

#[test]
fn what_fires_is_what_the_whole_product_selects() {
    for isa in Isa::all_available() {
        for (n, d, f) in [(0, 8, 40), (1, 5, 3), (1, 96, 600), (7, 33, 129), (13, 100, 300), (70, 64, 97), (6, 16, 0)] {
            for wild in [false, true] {
                let case = Case::new(n, d, f, wild, (n * d + f) as u64);
                let thresholds: Vec<f32> = (0..f).map(|j| 0.2 * (j % 7) as f32 - 0.1).collect();
                for some in [false, true] {
                    for k in [0, 1, 5, 32, f, f + 1] {
                        case.check(isa, Limit::Topk(k), some);
                    }
                    for t in [-1.0, 0.0, 0.5, 4.0, f32::INFINITY] {
                        case.check(isa, Limit::Above(t), some);
                    }
                    case.check(isa, Limit::AboveEach(&thresholds), some);
                }
            }
        }
    }
}

#[test]
fn ties_go_to_the_lower_latent_with_a_screen_too() {
    let mut case = Case::new(3, 96, 700, false, 1);
    // The latents are many copies of four.
    for j in 4..case.f {
        case.w.copy_within(j % 4 * 96..(j % 4 + 1) * 96, j * 96);
        case.bias[j] = case.bias[j % 4];
    }
    for isa in Isa::all_available() {
        case.check(isa, Limit::Topk(50), false);
    }
}

#[test]
fn a_row_that_is_not_finite_is_screened_like_any_other() {
    let mut case = Case::new(8, 96, 600, false, 2);
    case.x[2 * 96 + 5] = f32::NAN;
    case.x[5 * 96] = f32::INFINITY;
    for isa in Isa::all_available() {
        case.check(isa, Limit::Topk(8), false);
        case.check(isa, Limit::Above(1.0), false);
    }
}

#[test]
fn the_screen_leaves_few_of_many() {
    // A bound that keeps every latent would be correct and pass every other test, but it would save no work.
    let case = Case::new(4, 768, 4096, false, 3);
    let isa = Isa::detect();
    let mut screen = Screen::new(case.f, case.d);
    screen.quantise(Compute::new(isa, Par::Seq), Matrix::all(&case.w, case.d), &case.bias);
    let u = case.pre_activations(isa);
    let bounds = screen::bounds(&screen, isa, &case.x);
    for i in 0..case.n {
        let row = i * case.f..(i + 1) * case.f;
        let mut sorted = u[row.clone()].to_vec();
        let least = select::kth_largest(&mut sorted, 32);
        let left = bounds[row].iter().filter(|[upper, _]| *upper >= least).count();
        assert!(left < case.f / 10, "{left} of {} latents are left in row {i}", case.f);
    }
}

#[test]
fn an_outlier_among_many_rows_is_screened_like_any_other() {
    // There are enough rows for the screen to guess their limits. A row whose bound is infinite is searched again, and
    // its latents must not be stored twice. The second round reuses the scratch of the first.
    let mut case = Case::new(64, 128, 2048, false, 4);
    case.x[9 * 128..10 * 128].iter_mut().for_each(|x| *x = x.signum() * 1.5e37);
    case.x[20 * 128..21 * 128].iter_mut().for_each(|x| *x *= 1e-3);
    case.x[30 * 128] = f32::NAN;
    case.x[31 * 128 + 7] = f32::INFINITY;
    for isa in Isa::all_available() {
        for k in [1, 8, 40] {
            case.check(isa, Limit::Topk(k), false);
        }
        case.check(isa, Limit::Above(0.7), false);
    }
}

#[test]
fn a_scratch_that_saw_other_sizes_changes_nothing() {
    let isa = Isa::detect();
    let cases = [Case::new(70, 96, 900, false, 5), Case::new(50, 128, 700, false, 6), Case::new(3, 96, 900, true, 7)];
    let (mut t, mut lists) = (Scratch::default(), RowLists::default());
    for round in 0..3 {
        for (i, case) in cases.iter().enumerate() {
            let w = Matrix::all(&case.w, case.d);
            let mut screen = Screen::new(case.f, case.d);
            screen.quantise(Compute::new(isa, Par::Seq), w, &case.bias);
            for k in [8, 33] {
                let limit = Limit::Topk(k);
                fire(isa, Search { x: &case.x, w, bias: &case.bias, limit }, Some(&screen), &mut t, &mut lists);
                let (u, all) = (case.pre_activations(isa), (0..case.f as u32).collect::<Vec<u32>>());
                for row in 0..case.n {
                    let want = case.wanted(isa, &u[row * case.f..(row + 1) * case.f], &all, limit);
                    let got = lists.row(row);
                    assert_eq!((got.0.to_vec(), got.1.to_vec()), want, "round {round} case {i} k {k} row {row}");
                }
            }
        }
    }
}

#[test]
fn weights_that_are_no_numbers_prove_nothing() {
    let mut case = Case::new(8, 96, 600, false, 8);
    for j in 0..8 {
        case.w[j * 96..(j + 1) * 96].fill(0.0);
        case.w[j * 96] = f32::NAN;
        case.bias[j] = 100.0;
    }
    for isa in Isa::all_available() {
        case.check(isa, Limit::Topk(8), false);
    }
}

#[test]
fn rows_may_be_wider_than_a_cache() {
    let case = Case::new(2, 70_000, 5, false, 9);
    let isa = Isa::detect();
    let (mut t, mut lists) = (Scratch::default(), RowLists::default());
    let w = Matrix::all(&case.w, case.d);
    fire(isa, Search { x: &case.x, w, bias: &case.bias, limit: Limit::Topk(3) }, None, &mut t, &mut lists);
    let u = case.pre_activations(isa);
    let want = case.wanted(isa, &u[..5], &[0, 1, 2, 3, 4], Limit::Topk(3));
    assert_eq!((lists.row(0).0.to_vec(), lists.row(0).1.to_vec()), want);
}

proptest! {
    #[test]
    fn every_pre_activation_lies_within_its_bounds(n in 1usize..6, d in 1usize..200, f in 1usize..80, wild: bool, seed: u64) {
        let case = Case::new(n, d, f, wild, seed);
        for isa in Isa::all_available() {
            let mut screen = Screen::new(f, d);
            screen.quantise(Compute::new(isa, Par::Seq), Matrix::all(&case.w, d), &case.bias);
            for (u, [upper, lower]) in case.pre_activations(isa).iter().zip(screen::bounds(&screen, isa, &case.x)) {
                let outside = *u > upper || *u < lower;
                prop_assert!(!outside, "{u} is not in [{lower}, {upper}] ({isa:?})");
            }
        }
    }

    #[test]
    fn a_screen_never_changes_what_fires(n in 0usize..80, d in 1usize..150, f in 0usize..400, wild: bool, k in 0usize..70, seed: u64) {
        let case = Case::new(n, d, f, wild, seed);
        for isa in Isa::all_available() {
            case.check(isa, Limit::Topk(k), seed % 2 == 0);
            case.check(isa, Limit::Above(k as f32 * 0.05), seed % 2 == 0);
        }
    }
}

#[test]
fn rows_that_become_zero_when_they_are_rotated_are_screened_like_any_other() {
    let (d, f) = (1024, 600);
    for (x, w, b) in [(1e-45, 1e32, 1e-18), (1e-45, 1e35, 1e-9), (1e33, 1e-45, 1e-12)] {
        let mut case = Case { n: 3, d, f, x: vec![x; 3 * d], w: vec![0.0; f * d], bias: vec![-1.0; f] };
        case.w[..d].fill(w);
        case.bias[0] = 0.0;
        case.bias[f - 10..].fill(b);
        for isa in Isa::all_available() {
            case.check(isa, Limit::Topk(5), false);
            case.check(isa, Limit::Topk(f), false);
            case.check(isa, Limit::Above(b * 0.5), false);
            case.check(isa, Limit::Above(1e-10), false);
        }
    }
}
