//! The share of level 2's firings that the gate removes.

use alloc::vec;
use alloc::vec::Vec;

use super::sparsity::ALIVE_TOKENS;
use super::{check_parents, defined_mean};
use crate::gate::ROOT;
use crate::model::CodesView;
use crate::{Error, Result};

/// Streaming counts of where the children would fire without a gate. Behind a hard gate every child fires only with its
/// parent by construction; this measures whether the children have also learned to.
///
/// Integer counts: merged parts equal the whole to the bit. Cost: `O(L0_1 + L0_2)` per token.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Leak {
    parent: Vec<u32>,
    tokens: u64,
    /// `[f2]`: tokens on which the child would fire, and on which its parent does too.
    fires: Vec<[u64; 2]>,
    /// `[f1]`: which latents of level 1 fire on the current token, all false between tokens.
    on: Vec<bool>,
}

/// One latent of level 2.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct ChildLeak {
    /// Its parent in level 1, [`ROOT`] for none.
    pub parent: u32,
    /// Tokens on which it would fire without a gate.
    pub fires: u64,
    /// `1 - P(parent | it would fire)`. 0 to 1, lower is better; NaN for [`ROOT`], or if it never would.
    pub leak: f64,
}

/// The firings that the gate removes. Children of [`ROOT`] are left out.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct LeakReport {
    /// Tokens seen.
    pub tokens: u64,
    /// Children under [`ROOT`].
    pub root_children: usize,
    /// Children with a parent that would fire on fewer than [`ALIVE_TOKENS`] tokens, which are left out of the mean.
    pub edges_not_alive: usize,
    /// Mean `leak` of the edges that are alive. 0 to 1, lower is better; NaN if none is.
    pub leak: f64,
    /// Share of the firings without a gate, of all children with a parent, on tokens where the parent is off. 0 to 1,
    /// lower is better; NaN without firings.
    pub leaked_firings: f64,
    /// `[f2]`.
    pub child: Vec<ChildLeak>,
}

impl Leak {
    /// Makes an empty accumulator. `parent` has an entry for each latent of level 2.
    ///
    /// # Errors
    /// [`Error::Index`] for a parent that is neither below `f1` nor [`ROOT`].
    pub fn new(f1: usize, parent: &[u32]) -> Result<Self> {
        check_parents("learned parents", parent, f1)?;
        Ok(Self { parent: parent.to_vec(), tokens: 0, fires: vec![[0; 2]; parent.len()], on: vec![false; f1] })
    }

    /// Adds a block: the codes of level 1, and those that level 2 would have without its gate
    /// ([`crate::Encoder::encode_open_par`]).
    ///
    /// # Errors
    /// [`Error::Shape`] where sizes disagree; nothing is added then.
    pub fn add(&mut self, codes1: &CodesView<'_>, open2: &CodesView<'_>) -> Result<()> {
        let n = codes1.tokens();
        for (what, expected, got) in [
            ("latents of the codes of level 1", self.on.len(), codes1.latents()),
            ("latents of the codes of level 2", self.parent.len(), open2.latents()),
            ("tokens of the codes of level 2", n, open2.tokens()),
        ] {
            if expected != got {
                return Err(Error::Shape { what, expected, got });
            }
        }
        for t in 0..n {
            codes1.active(t).for_each(|(i, _)| self.on[i] = true);
            for (j, _) in open2.active(t) {
                self.fires[j][0] += 1;
                self.fires[j][1] += u64::from(self.parent[j] != ROOT && self.on[self.parent[j] as usize]);
            }
            codes1.active(t).for_each(|(i, _)| self.on[i] = false);
        }
        self.tokens += n as u64;
        Ok(())
    }

    /// Adds the tokens of `other`.
    ///
    /// # Panics
    /// If the levels or parents differ.
    pub fn merge(&mut self, other: &Self) {
        let same = self.on.len() == other.on.len() && self.parent == other.parent;
        assert!(same, "merged accumulators must be of one tree");
        self.tokens += other.tokens;
        self.fires.iter_mut().zip(&other.fires).for_each(|(a, b)| (a[0], a[1]) = (a[0] + b[0], a[1] + b[1]));
    }

    /// Returns the scores of all tokens added.
    pub fn report(&self) -> LeakReport {
        let leak = |fires: u64, inside: u64| (fires - inside) as f64 / fires as f64;
        let child: Vec<ChildLeak> = (self.parent.iter().zip(&self.fires))
            .map(|(&parent, &[fires, inside])| {
                let leak = if parent == ROOT { f64::NAN } else { leak(fires, inside) };
                ChildLeak { parent, fires, leak }
            })
            .collect();
        let edges = || child.iter().zip(&self.fires).filter(|(c, _)| c.parent != ROOT);
        let alive = || edges().filter(|(c, _)| c.fires >= ALIVE_TOKENS);
        let all = edges().fold([0; 2], |[a, b], (_, f)| [a + f[0], b + f[1]]);
        LeakReport {
            tokens: self.tokens,
            root_children: child.len() - edges().count(),
            edges_not_alive: edges().count() - alive().count(),
            leak: defined_mean(alive().map(|(c, _)| c.leak)),
            leaked_firings: leak(all[0], all[1]),
            child,
        }
    }
}
