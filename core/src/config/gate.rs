//! The settings of the gate between the levels.

use crate::choice::choices;
use crate::gate::GateKind;
use crate::setting::settings;

choices! {
    /// Where the families of a hard gate come from.
    Parents {
        /// Co-firing statistics of training: the parent of highest expected log-lift.
        Cofire = "cofire",
        /// Parents drawn at random before the first step, as in Tree SAE: a baseline.
        Random = "random",
    }
}

settings! {
    /// The gate between the levels, and the families of a hard gate.
    GateConfig {
        /// How level 1 acts on level 2.
        kind: GateKind = GateKind::Hard;
        /// Hard gates: share of the steps after which the gate acts; 0: from the first step.
        start: f64 = 2.0 / 3.0, in 0.0..=1.0;
        /// Hard gates: where the families come from.
        parents: Parents = Parents::Cofire;
        /// Hard gates: permute the parents at random among the children that have one when the gate starts, and leave
        /// them so. Such a run is the control of the same run without: its families have the same sizes and mean
        /// nothing.
        shuffle: bool = false;
        /// A child whose best parent fires on less than this share of the child's tokens goes to ROOT; 0: no ROOT.
        root_below: f64 = 0.5, in 0.0..=1.0;
        /// A child that was seen on fewer tokens than this (a decayed count) goes to ROOT.
        min_count: f64 = 30.0, in 0.0..=1e12;
        /// Steps between re-assignments of the families once the gate acts; 0: never.
        reassign_every: u64 = 250;
        /// A child that is alive changes its parent only if the new one contains it by this much more.
        hysteresis: f64 = 0.2, in 0.0..=1.0;
        /// Share of the steps after which the families are frozen.
        freeze: f64 = 0.9, in 0.0..=1.0;
        /// A family has at most this many times `level2.latents / level1.latents` children.
        family_cap: f64 = 4.0, in 1.0..=1e12;
        /// Factor by which the co-firing statistics decay per step.
        decay: f64 = 0.998, in 0.5..=1.0;
    }
}
