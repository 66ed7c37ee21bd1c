use proptest::prelude::*;
use strata_core::RowOrder;

fn epoch_rows(order: &RowOrder, epoch: u64) -> Vec<u64> {
    (0..order.n_rows()).map(|i| order.row(epoch, i)).collect()
}

fn assert_is_a_bijection(rows: &[u64]) {
    let mut seen = vec![false; rows.len()];
    for &row in rows {
        assert!(!std::mem::replace(&mut seen[row as usize], true), "row {row} twice");
    }
}

/// Asserts that the positions of each window have the rows of whole blocks, and that no block is in two windows.
fn assert_windows_hold_whole_blocks(rows: &[u64], block: u64, window_blocks: u64) {
    let n_blocks = (rows.len() as u64).div_ceil(block.min(rows.len().max(1) as u64)) as usize;
    let size = |b: u64| block.min(rows.len() as u64 - b * block);
    let (mut at, mut used) = (0, vec![false; n_blocks]);
    while at < rows.len() {
        // A window ends as soon as it has `window_blocks` whole blocks.
        let (mut blocks, mut end) = (std::collections::BTreeSet::new(), at);
        let mut total = 0;
        loop {
            while (end as u64) < at as u64 + total {
                if blocks.insert(rows[end] / block) {
                    total += size(rows[end] / block);
                }
                end += 1;
            }
            if end == rows.len() || blocks.len() as u64 >= window_blocks {
                break;
            }
            // By chance all blocks so far are whole before the window is full: continue with the next row.
            if blocks.insert(rows[end] / block) {
                total += size(rows[end] / block);
            }
        }
        assert!(blocks.len() as u64 <= window_blocks, "a window of {} blocks at place {at}", blocks.len());
        for &b in &blocks {
            assert!(!std::mem::replace(&mut used[b as usize], true), "block {b} is in two windows");
        }
        at = end;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn every_epoch_is_a_bijection_in_whole_windows(
        seed: u64, n in 0_u64..700, block in 1_u64..90, window in 1_u64..20, epoch: u64,
    ) {
        let order = RowOrder::new(seed, n, block, window);
        let rows = epoch_rows(&order, epoch);
        assert_is_a_bijection(&rows);
        assert_windows_hold_whole_blocks(&rows, block, window);
    }

    #[test]
    fn fill_equals_single_calls_across_epochs(
        seed: u64, n in 1_u64..300, block in 1_u64..40, window in 1_u64..9, pos in 0_u64..2000, len in 0_usize..700,
    ) {
        let order = RowOrder::new(seed, n, block, window);
        let mut rows = vec![0; len];
        order.fill(pos, &mut rows);
        for (k, row) in rows.iter().enumerate() {
            let at = pos + k as u64;
            prop_assert_eq!(*row, order.row(at / n, at % n));
        }
    }
}

#[test]
fn every_small_size_is_a_bijection() {
    for n in 0..40 {
        for block in [1, 2, 3, 7, 8, 39, 40, u64::MAX] {
            for window in [1, 2, 3, u64::MAX] {
                let order = RowOrder::new(n ^ block, n, block, window);
                for epoch in [0, 1, u64::MAX] {
                    assert_is_a_bijection(&epoch_rows(&order, epoch));
                }
            }
        }
    }
}

#[test]
fn epochs_and_seeds_have_different_orders() {
    let orders: Vec<Vec<u64>> =
        (0..3).flat_map(|seed| (0..3).map(move |epoch| epoch_rows(&RowOrder::new(seed, 5000, 64, 8), epoch))).collect();
    for (i, a) in orders.iter().enumerate() {
        for b in &orders[..i] {
            // Two random orders have the same row at one position on average.
            let same = a.iter().zip(b).filter(|(a, b)| a == b).count();
            assert!(same < 10, "{same} places are the same");
        }
    }
}

#[test]
fn a_window_touches_only_its_blocks_at_any_size_of_the_dump() {
    let order = RowOrder::new(3, 1_000_000_000_007, 4096, 16);
    for pos in [0, 123_456_789_012, 999_999_990_000] {
        let mut rows = vec![0; 3000];
        order.fill(pos, &mut rows);
        let mut blocks: Vec<u64> = rows.iter().map(|r| r / 4096).collect();
        blocks.sort_unstable();
        blocks.dedup();
        assert!(blocks.len() <= 32, "{} blocks in two windows at most", blocks.len());
        assert!(rows.iter().all(|&r| r < order.n_rows()));
    }
}

/// The means and correlations of a uniformly random permutation have known standard deviations; the bound is five of
/// them.
#[test]
fn rows_are_mixed_well() {
    let n = 20_000_u64;
    for (block, window) in [(1, 1), (1, 1000), (n, 1), (16, 10_000)] {
        for seed in 0..8 {
            let rows = epoch_rows(&RowOrder::new(seed, n, block, window), seed);
            let centre = (n as f64 - 1.0) / 2.0;
            let variance = ((n * n) as f64 - 1.0) / 12.0;
            let corr = |lag: usize| {
                let pairs = rows.iter().zip(&rows[lag..]).map(|(&a, &b)| (a as f64 - centre) * (b as f64 - centre));
                pairs.sum::<f64>() / (n as f64 * variance)
            };
            let with_place = rows.iter().enumerate().map(|(i, &r)| (i as f64 - centre) * (r as f64 - centre));
            let with_place = with_place.sum::<f64>() / (n as f64 * variance);
            let bound = 5.0 / (n as f64).sqrt();
            assert!(with_place.abs() < bound, "block {block}, window {window}: {with_place} with the place");
            for lag in [1, 2, 16] {
                assert!(corr(lag).abs() < bound, "block {block}, window {window}, lag {lag}: {}", corr(lag));
            }
            // The number of neighbours in the file that are also neighbours in the order has a Poisson distribution
            // with mean 1.
            let runs = rows.windows(2).filter(|w| w[1] == w[0] + 1).count();
            assert!(runs <= 9, "block {block}, window {window}: {runs} pairs stay together");
            // A 16 x 16 table of positions and rows: chi square with 15 * 15 degrees of freedom, 225 +- 21.
            let mut table = [[0.0_f64; 16]; 16];
            for (i, &r) in rows.iter().enumerate() {
                table[i * 16 / n as usize][(r * 16 / n) as usize] += 1.0;
            }
            let mean = n as f64 / 256.0;
            let chi2: f64 = table.iter().flatten().map(|c| (c - mean).powi(2) / mean).sum();
            assert!((130.0..340.0).contains(&chi2), "block {block}, window {window}: chi square {chi2}");
        }
    }
}

/// The order must never change, since a checkpoint continues on the same rows in every later version.
#[test]
fn an_order_is_pinned() {
    assert_eq!(epoch_rows(&RowOrder::new(42, 20, 4, 2), 1), PINNED);
}

const PINNED: [u64; 20] = [2, 16, 17, 1, 0, 3, 19, 18, 7, 8, 11, 9, 4, 6, 10, 5, 13, 15, 14, 12];
