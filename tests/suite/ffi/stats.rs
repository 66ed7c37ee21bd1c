//! Statistics, compared with the metrics of the core.

use strata::*;
use strata_core::metrics::fidelity::Fidelity;
use strata_core::metrics::sparsity::Sparsity;

use super::buffers::f32_rows;
use super::fixture::{Ctx, D, F1, models, stats, values};

/// Rows whose sums are added as one block, for any number of threads.
const TOGETHER: usize = 32;

#[test]
fn statistics_equal_the_metrics_of_the_core() {
    for (model, n_threads) in models().iter().flat_map(|m| [(m, 0), (m, 3)]) {
        let ctx = Ctx::new(model, n_threads);
        let empty = stats(ctx.ctx);
        assert!(empty.rows == 0 && empty.fvu1.is_nan() && empty.dead1 == F1 as u64);
        let (mut fidelity, f2) = (Fidelity::new(D), model.arch.level[1].latents);
        let mut sparsity = [Sparsity::new(F1), Sparsity::new(f2)];
        let all = values(300 * D);
        for part in [&all[..130 * D], &all[130 * D..131 * D], &all[131 * D..]] {
            let x = f32_rows(part);
            assert_eq!(unsafe { strata_stats_update(ctx.ctx, &x.rows()) }, STRATA_STATUS_OK);
            for block in part.chunks(TOGETHER * D) {
                let (codes1, codes2) = ctx.expected(block);
                let (mut hat1, mut hat2) = (vec![0.0; block.len()], vec![0.0; block.len()]);
                ctx.core.decode(&codes1, &codes2, &mut hat1, &mut hat2).unwrap();
                fidelity.add(block, &hat1, &hat2).unwrap();
                sparsity[0].add(&codes1.view(F1).unwrap()).unwrap();
                sparsity[1].add(&codes2.view(f2).unwrap()).unwrap();
            }
        }
        let (got, report) = (stats(ctx.ctx), fidelity.report());
        assert_eq!((got.rows, got.fvu1, got.fvu2), (300, report.level1.fvu, report.level2.fvu));
        let levels = [(got.l0_1, got.dead1), (got.l0_2, got.dead2)];
        for ((l0, dead), sparsity) in levels.into_iter().zip(&sparsity) {
            assert_eq!(l0, sparsity.report().l0_mean);
            assert_eq!(dead, sparsity.fires().iter().filter(|n| **n == 0).count() as u64);
        }
    }
}
