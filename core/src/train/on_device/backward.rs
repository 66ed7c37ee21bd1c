//! Gradients of a step on a device.

use super::super::step::StepSettings;
use super::collect::FEW;
use super::level::Seen;
use super::{CHUNK, OnDevice, encoder, own, weights};
use crate::device::sums;
use crate::device::training::{self, Contain, DecoderJob};
use crate::device::verdict::{AUX, CONSISTENCY, GATED, SPARSITY, Terms};
use crate::error::Result;

impl OnDevice {
    /// Queues every gradient, and the losses that are known then.
    pub(super) fn backward(&mut self, n: usize, settings: &StepSettings) -> Result<()> {
        let Self { device, config, arch, over, tensors, levels, rows, source, families, bias, by, out, .. } = self;
        let (d, two, latents) = (arch.d, levels.len() == 2, arch.latents());
        let unit = 1.0 / (n as f64 * f64::from(settings.variance));
        let recon = [0, 1].map(|l| (2.0 * f64::from(settings.w[l]) * unit) as f32);
        let gated_weight = (2.0 * config.loss.gated_aux * unit) as f32;
        let own_only = config.train.balance.drops_through();
        let is_cumulative = arch.decoder.is_cumulative();
        let contains = two && config.loss.consistency.needs().ungated && families.is_some();
        let own = [0, 1].map(|l| (l < levels.len()).then(|| own(tensors, l)));
        let (xt, f1) = (rows.xt.of(n * d), latents[0]);

        // What the auxiliary reconstructions lack, and the losses by row.
        for l in 0..levels.len() {
            let (before, level) = levels.split_at_mut(l);
            let (level, Some(own)) = (&mut level[0], own[l]) else { continue };
            level.begin_auxiliary(device, n, d)?;
            if let Some(picks) = level.picks(n) {
                let of = over.addends(device, "auxk", (n, d), picks, own.decoder)?;
                level.aux_rows((n, d), of, own, out.weight(l))?;
                let squares = level.aux.lacking.squares.of(n);
                // The weight is the number that the kernel before has written.
                out.weighed(device, squares, l, CHUNK, AUX + l)?;
            }
            let base = before.last().filter(|_| is_cumulative).map_or(xt, |one| one.r.of(n * d));
            if let Some(lists) = level.pre_activations(n) {
                let of = over.addends(device, "gated", (n, d), lists, own.decoder)?;
                level.gated_rows((n, d), of, own, base)?;
                let terms = Terms::Times(level.gated.squares.of(n), 0.5 * f64::from(gated_weight));
                out.sum(device, terms, CHUNK, 1.0, GATED + l)?;
            }
            if !over.is_solo() {
                if let Some(sum) = over.penalty(n, latents[l], level)? {
                    out.number(SPARSITY + l).put(&[sum])?;
                }
                // The exchange of the next sums is not repeated for lack of room.
                let counts = level.entries(n).lists.count.to_vec()?;
                level.most = level.most.max(counts.iter().map(|count| *count as usize).sum());
            } else if let Some(sums) = level.penalty(device, n, latents[l])? {
                out.sum(device, Terms::Wide(sums), 1, 1.0, SPARSITY + l)?;
            }
            level.most = level.most.max(n * FEW);
            level.begin_gradients(device, n, two && l == 0, contains && l == 0)?;
        }
        let (one, level2) = (&levels[0], levels.get(1));
        let ([by1, by2], Some(own1)) = (by, own[0]) else { return Ok(()) };

        // Gradients of entries: level 2 first, through which some reach level 1.
        let (mut ds, mut r2) = (None, None);
        if let (Some(level2), Some(own2)) = (level2, own[1]) {
            let alone = Seen { r2: (None, 0.0), ds: None, through: false, own_only, starts: false, d };
            level2.entry_gradients(n, own2, (recon[1], out.weight(1), gated_weight), alone)?;
            if contains {
                let loss = &config.loss;
                let by = Contain {
                    down: loss.contain_down as f32,
                    up: loss.contain_up as f32,
                    margin: loss.contain_margin as f32,
                    scale: loss.consistency_weight as f32 / n as f32,
                };
                let du = [one.gradients(n, true).du, level2.gradients(n, false).du];
                let levels = [(one.entries(n), du[0]), (level2.entries(n), du[1])];
                let sums = source.contain.room(device, n)?;
                training::contain(by, level2.open.of(n), levels, sums)?;
                out.sum(device, Terms::Wide(sums), CHUNK, 1.0, CONSISTENCY)?;
            }
            if arch.source.reaches_decoder1(config.source_detach) {
                let out = source.ds.room(device, n * d)?;
                let (lists, du) = (level2.entries(n).lists, level2.gradients(n, false).du);
                sums::sum_rows(weights(tensors, 1, d).w, d, lists, du, out)?;
                ds = Some(out);
            }
            r2 = Some(level2.r.of(n * d)).filter(|_| is_cumulative);
        }
        let seen = Seen { r2: (r2, recon[1]), ds, through: two, own_only, starts: contains, d };
        one.entry_gradients(n, own1, (recon[0], out.weight(0), gated_weight), seen)?;

        // Gradients of the parameters, by latent.
        let grad = |l: usize, at: usize| tensors[encoder(tensors, l) + at].g.all();
        let r1 = one.r.of(n * d);
        if let (Some(level2), Some(own2)) = (level2, own[1]) {
            let most = out.entries(1, level2.most);
            let list = by2.transpose(device, latents[1], level2.entries(n), level2.gradients(n, false), most)?;
            let job = DecoderJob {
                r: level2.r.of(n * d),
                recon: recon[1],
                e: level2.lit(n * d, out.weight(1)),
                two: false,
                r2: None,
                through: 0.0,
                ds: None,
                own_only,
                shrink: level2.numbers.shrink(own2, latents[1]),
                d,
            };
            training::decoder_gradients(job, list, grad(1, 2), None)?;
            let reads = if arch.source.is_parallel() { xt } else { r1 };
            training::encoder_gradients(reads, d, own_only, list, grad(1, 0), grad(1, 1), None)?;
            for (i, values) in list.own.into_iter().flatten().enumerate() {
                training::latent_sums(list.offsets, values, grad(1, 3 + i))?;
            }
        }
        let most = out.entries(0, one.most);
        let list = by1.transpose(device, f1, one.entries(n), one.gradients(n, two), most)?;
        let job = DecoderJob {
            r: r1,
            recon: recon[0],
            e: one.lit(n * d, out.weight(0)),
            two,
            r2,
            through: recon[1],
            ds,
            own_only,
            shrink: one.numbers.shrink(own1, f1),
            d,
        };
        let stats = bias.stats.room(device, 3 * f1)?;
        training::decoder_gradients(job, list, grad(0, 2), Some(stats))?;
        let through2 = if two { Some(bias.through2.room(device, f1)?) } else { None };
        training::encoder_gradients(xt, d, own_only, list, grad(0, 0), grad(0, 1), through2)?;
        for (i, values) in list.own.into_iter().flatten().enumerate() {
            training::latent_sums(list.offsets, values, grad(0, 3 + i))?;
        }

        // The decoder bias.
        let columns = bias.columns.room(device, n.div_ceil(CHUNK) * d)?;
        let groups = latents.map(|f| f.div_ceil(256) * d);
        let sums = bias.sums.room(device, groups[0].max(groups[1]))?;
        let (own, b, w1) = (tensors[0].g.all(), grad(0, 1), weights(tensors, 0, d).w);
        training::chunk_columns(r1, d, columns)?;
        training::bias_start(columns, recon[0], own)?;
        let mut take_out = |grad_b, w, l: usize, from| {
            training::bias_groups(grad_b, w, d, sums.part(0..groups[l]))?;
            training::bias_add(over.groups(device, sums.part(0..groups[l]))?, from)
        };
        take_out(b, w1, 0, own)?;
        if let (Some(through2), Some(level2)) = (through2, level2) {
            let through = bias.through.room(device, d)?;
            training::chunk_columns(level2.r.of(n * d), d, columns)?;
            training::bias_start(columns, recon[1], through)?;
            take_out(through2, w1, 0, through)?;
            take_out(grad(1, 1), weights(tensors, 1, d).w, 1, through)?;
            training::mix_into(through, own_only, own)?;
            if !own_only {
                training::mix_into(through2, false, b)?;
            }
        }
        Ok(())
    }
}
