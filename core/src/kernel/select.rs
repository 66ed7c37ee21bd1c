//! Selection of active latents: the k largest of a row, or those above a threshold.
//!
//! All functions append to `index` and `value` in ascending order of the index, and skip NaN.

use alloc::vec::Vec;

use fearless_simd::prelude::*;

use super::{Isa, LANES, Vector, load};

/// Calls `hit(i, a[i])` for the `i` where `a[i] > threshold`, ascending; `hit` returns the threshold from the next
/// block of entries on.
#[inline(always)]
pub(super) fn scan<S: Simd>(simd: S, a: &[f32], mut threshold: f32, mut hit: impl FnMut(usize, f32) -> f32) {
    let (vectors, tail) = a.as_chunks::<LANES>();
    let (blocks, rest) = vectors.as_chunks::<4>();
    let mut limit = Vector::splat(simd, threshold);
    for (b, block) in blocks.iter().enumerate() {
        let m0 = load(simd, &block[0]).simd_gt(limit);
        let m1 = load(simd, &block[1]).simd_gt(limit);
        let m2 = load(simd, &block[2]).simd_gt(limit);
        let m3 = load(simd, &block[3]).simd_gt(limit);
        if !((m0 | m1) | (m2 | m3)).any_true() {
            continue;
        }
        let mut bits = m0.to_bitmask() | m1.to_bitmask() << 16 | m2.to_bitmask() << 32 | m3.to_bitmask() << 48;
        while bits != 0 {
            let lane = bits.trailing_zeros() as usize;
            bits &= bits - 1;
            threshold = hit(b * 4 * LANES + lane, block.as_flattened()[lane]);
        }
        limit = Vector::splat(simd, threshold);
    }
    let start = a.len() - rest.len() * LANES - tail.len();
    for i in start..a.len() {
        if a[i] > threshold {
            threshold = hit(i, a[i]);
        }
    }
}

/// Appends the `k` largest positive entries of `scores`; of equal ones, those with the lower index.
///
/// | argument | shape | layout |
/// |---|---|---|
/// | `scores` | `[f]` | |
/// | `out_index`, `out_value` | `[.. + min(k, positive)]` | appended to, ascending index |
///
/// Exact, and the same on every [`Isa`]. Fewer than `k` entries are appended when fewer are positive.
/// Cost: one pass that compares with a running threshold, and O(k) work for each k entries that pass it. The two
/// vectors also serve as scratch: capacity for at most `2 k + 128` indices and twice as many values is reserved in
/// them.
pub fn topk_row(isa: Isa, scores: &[f32], k: usize, out_index: &mut Vec<u32>, out_value: &mut Vec<f32>) {
    assert_eq!(out_index.len(), out_value.len(), "topk_row: the lists differ in length");
    if k == 0 {
        return;
    }
    let start = out_index.len();
    let most = k.saturating_add(k.max(64));
    let full = start.saturating_add(most);
    // One block of 64 may pass before the list is reduced, and reducing needs a copy of the values.
    let room = scores.len().min(most.saturating_add(64));
    out_index.reserve(room);
    out_value.reserve(2 * room);
    dispatch!(isa, simd => {
        let mut threshold = 0.0;
        scan(simd, scores, 0.0, #[inline(always)] |i, value| {
            out_index.push(i as u32);
            out_value.push(value);
            if out_index.len() >= full {
                threshold = keep_largest(start, k, out_index, out_value);
            }
            threshold
        })
    });
    if out_index.len() - start > k {
        keep_largest(start, k, out_index, out_value);
    }
}

/// Keeps the `k` largest of the entries from `start`, the earlier one of equals; returns the smallest value kept.
#[inline(never)]
pub(crate) fn keep_largest(start: usize, k: usize, index: &mut Vec<u32>, value: &mut Vec<f32>) -> f32 {
    let end = value.len();
    value.extend_from_within(start..);
    let least = kth_largest(&mut value[end..], k);
    value.truncate(end);
    let greater = value[start..].iter().filter(|&&v| v > least).count();
    let mut ties = k - greater;
    let mut to = start;
    for from in start..end {
        let v = value[from];
        let tie = v == least && ties > 0;
        ties -= usize::from(tie);
        if tie || v > least {
            (index[to], value[to]) = (index[from], v);
            to += 1;
        }
    }
    index.truncate(to);
    value.truncate(to);
    least
}

/// Appends the entries with `scores[i] > threshold`, strictly.
///
/// | argument | shape | layout |
/// |---|---|---|
/// | `scores` | `[f]` | |
/// | `out_index`, `out_value` | `[.. + active]` | appended to, ascending index |
pub fn above(isa: Isa, scores: &[f32], threshold: f32, out_index: &mut Vec<u32>, out_value: &mut Vec<f32>) {
    dispatch!(isa, simd => scan(simd, scores, threshold, #[inline(always)] |i, value| {
        out_index.push(i as u32);
        out_value.push(value);
        threshold
    }))
}

/// Appends the entries with `scores[i] > thresholds[i]`, strictly.
///
/// | argument | shape | layout |
/// |---|---|---|
/// | `scores`, `thresholds` | `[f]` | |
/// | `out_index`, `out_value` | `[.. + active]` | appended to, ascending index |
///
/// # Panics
/// If the lengths differ.
pub fn above_each(isa: Isa, scores: &[f32], thresholds: &[f32], out_index: &mut Vec<u32>, out_value: &mut Vec<f32>) {
    assert_eq!(scores.len(), thresholds.len(), "above_each: the lengths differ");
    dispatch!(isa, simd => above_each_body(simd, scores, thresholds, out_index, out_value));
}

#[inline(always)]
pub(super) fn above_each_body<S: Simd>(simd: S, a: &[f32], limits: &[f32], index: &mut Vec<u32>, value: &mut Vec<f32>) {
    let (vectors, tail) = a.as_chunks::<LANES>();
    let (limit_vectors, limit_tail) = limits.as_chunks::<LANES>();
    for (b, (v, limit)) in vectors.iter().zip(limit_vectors).enumerate() {
        let mut bits = load(simd, v).simd_gt(load(simd, limit)).to_bitmask();
        while bits != 0 {
            let lane = bits.trailing_zeros() as usize;
            bits &= bits - 1;
            index.push((b * LANES + lane) as u32);
            value.push(v[lane % LANES]);
        }
    }
    for (i, (v, limit)) in tail.iter().zip(limit_tail).enumerate() {
        if v > limit {
            index.push((vectors.len() * LANES + i) as u32);
            value.push(*v);
        }
    }
}

/// Returns the `k`-th largest of `values`, counting from 1 and counting equals; permutes `values`.
///
/// Cost: O(len), no allocation. `-0.0` counts as less than `0.0`; NaN must not occur.
///
/// # Panics
/// If `k` is not in `1..=values.len()`.
pub fn kth_largest(values: &mut [f32], k: usize) -> f32 {
    assert!((1..=values.len()).contains(&k), "kth_largest: k is not in 1..={}", values.len());
    *values.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1
}
