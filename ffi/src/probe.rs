//! Probes of a model, and what is kept of their scores.

use crate::boundary::Guarded;
use crate::failure::{Failure, Outcome};
use crate::files::read_up_to;
use crate::handle::strata_model;
use crate::memory::check_memory;
use crate::params::{
    STRATA_HEAD_LATENTS, STRATA_HEAD_ROW, params, strata_head_info, strata_probe_reading, strata_probe_state_params,
};
use crate::status::{STRATA_STATUS_INDEX, STRATA_STATUS_PARAMS};
use std::ffi::CString;
use std::path::Path;
use std::sync::Arc;
use strata_core::format::heads;
use strata_core::heads::{Heads, Hysteresis, Reads, Running};
use strata_core::model::Watch;

/// Most bytes of a file of heads: a thousand heads on rows of 4,096 numbers have 50 MB.
const MOST_BYTES: u64 = 256 << 20;

/// Linear heads on the rows or codes of a model. Immutable: any number of threads may use it at the same time.
pub struct strata_probe(pub(crate) Arc<Probe>);

/// The contents of a probe.
pub(crate) struct Probe {
    pub heads: Heads,
    /// The latents of all heads; none if every head reads rows.
    pub watch: Option<Watch>,
    names: Vec<CString>,
}

impl strata_probe {
    pub(crate) fn load(path: &Path, model: &strata_model) -> Outcome<Self> {
        let bytes = read_up_to(path, MOST_BYTES)?;
        // The numbers, the lists of latents, and the watch-list with its families.
        let [f1, f2] = model.encoder().model().arch.latents();
        check_memory(bytes.len().saturating_mul(4).saturating_add(16 * (f1 + f2)))?;
        let heads = heads::read(&bytes).map_err(Failure::reading)?;
        let watch = heads.watch(model.encoder())?;
        let name = |name: &str| CString::new(name.replace('\0', " ")).unwrap_or_default();
        let names = heads.heads.iter().map(|head| name(&head.name)).collect();
        Ok(Self(Arc::new(Probe { heads, watch, names })))
    }

    pub(crate) fn n_heads(&self) -> usize {
        self.0.heads.heads.len()
    }

    pub(crate) fn head(&self, head: usize) -> Outcome<strata_head_info> {
        let Some(of) = self.0.heads.heads.get(head) else {
            return Err(Failure::found(STRATA_STATUS_INDEX, "head: expected a number below strata_probe_heads", head));
        };
        let reads = if of.reads == Reads::Row { STRATA_HEAD_ROW } else { STRATA_HEAD_LATENTS };
        let name = self.0.names[head].as_ptr();
        Ok(strata_head_info { struct_size: 0, name, n: of.weight.len(), reads, reserved: 0 })
    }
}

/// What is kept of the scores of a probe per sequence. One thread at a time may use it, any thread.
pub struct strata_probe_state(pub(crate) Guarded<State>);

/// The contents of a state.
pub(crate) struct State {
    probe: Arc<Probe>,
    n_sequences: usize,
    /// For each head.
    at: Vec<Hysteresis>,
    /// `[n_sequences, heads]`
    running: Vec<Running>,
}

impl State {
    /// Makes a state; `on` and `off` are empty for their defaults.
    pub fn new(probe: &strata_probe, settings: &strata_probe_state_params, on: &[f64], off: &[f64]) -> Outcome<Self> {
        let (n, n_sequences) = (probe.n_heads(), settings.n_sequences);
        if n_sequences == 0 {
            let expected = "params: n_sequences: expected at least 1";
            return Err(Failure::found(STRATA_STATUS_PARAMS, expected, n_sequences));
        }
        let places = n.checked_mul(n_sequences);
        check_memory(places.and_then(|n| n.checked_mul(2 * size_of::<Running>())).unwrap_or(usize::MAX))?;
        let at: Vec<Hysteresis> = (0..n)
            .map(|h| {
                let on = on.get(h).copied().unwrap_or(0.0);
                Hysteresis { on, off: off.get(h).copied().unwrap_or(on) }
            })
            .collect();
        // NaN is in no order.
        if !at.iter().all(|at| at.off <= at.on) {
            return Err(params("params: off: expected thresholds that are numbers, at most those of on"));
        }
        let running = vec![Running::default(); n * n_sequences];
        Ok(Self { probe: probe.0.clone(), n_sequences, at, running })
    }

    /// Checks that rows of these sequences can be added; all rows are of sequence 0 if there are none.
    pub fn check(&self, probe: &strata_probe, sequences: &[u32]) -> Outcome {
        if !Arc::ptr_eq(&self.probe, &probe.0) {
            return Err(params("state: it was made for another probe"));
        }
        match sequences.iter().find(|s| **s as usize >= self.n_sequences) {
            None => Ok(()),
            Some(s) => Err(no_such_sequence(u64::from(*s))),
        }
    }

    /// Adds the scores of the next row of a sequence.
    pub fn add(&mut self, sequence: u32, scores: &[f64]) {
        let from = sequence as usize * self.at.len();
        for ((running, at), score) in self.running[from..].iter_mut().zip(&self.at).zip(scores) {
            running.add(*score, *at);
        }
    }

    pub fn reset(&mut self, sequence: u32) -> Outcome {
        let n = self.at.len();
        let own = self.running.chunks_exact_mut(n).nth(sequence as usize);
        own.ok_or_else(|| no_such_sequence(sequence.into()))?.fill(Running::default());
        Ok(())
    }

    pub fn reading(&self, sequence: u32, head: usize) -> Outcome<strata_probe_reading> {
        let own = self.running.chunks_exact(self.at.len()).nth(sequence as usize);
        let own = own.ok_or_else(|| no_such_sequence(sequence.into()))?;
        let Some(running) = own.get(head) else {
            return Err(Failure::found(STRATA_STATUS_INDEX, "head: expected a number below strata_probe_heads", head));
        };
        let or_nan = |value: f64| if running.rows == 0 { f64::NAN } else { value };
        Ok(strata_probe_reading {
            struct_size: 0,
            rows: running.rows,
            last: or_nan(running.last),
            max: or_nan(running.max),
            mean: running.mean(),
            max_row: running.max_row,
            alarms: running.alarms,
            is_on: running.is_on.into(),
            reserved: 0,
        })
    }

    /// Returns whether there is an alarm, per sequence and head.
    pub fn alarms(&self) -> impl ExactSizeIterator<Item = bool> + '_ {
        self.running.iter().map(|running| running.is_on)
    }
}

#[cold]
fn no_such_sequence(sequence: u64) -> Failure {
    Failure::found(STRATA_STATUS_INDEX, "sequence: expected a number below n_sequences of the state", sequence)
}
