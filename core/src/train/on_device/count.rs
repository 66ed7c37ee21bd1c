//! The counts of which latents fire together, on a device: those of [`Cofire`], to the bit.
//!
//! The rows of a step are counted from its lists, which stay on the device until the next step: it begins with this, so that the host
//! does not wait.

use super::super::cofire::{Cofire, Sums};
use super::level::{BySlots, Level};
use super::newest::Newest;
use crate::device::cofire::{Counted, HEAD, count_children, count_parents, scale_sums};
use crate::device::{Buffer, Device};
use crate::error::Result;
use crate::model::Arch;

/// The counts and their working memory.
#[derive(Debug)]
pub(super) struct Counts {
    parent: Buffer<f64>,
    child: Buffer<f64>,
    energy: Buffer<f64>,
    both: Buffer<u16>,
    /// Children by latent.
    by: BySlots,
    /// How the last step is to be counted, and by what all sums are then multiplied.
    pending: Option<(Counted, Option<f64>)>,
    newest: Newest,
}

/// Returns the bytes that the counts of a model take.
pub(super) fn bytes(arch: &Arch) -> usize {
    let [f1, f2] = arch.latents();
    if arch.n_levels() == 2 && arch.gate.has_families() { 2 * f2 * (HEAD + f1) + 8 * (2 * f1 + f2) } else { 0 }
}

impl Counts {
    /// Takes the memory of counts like those.
    pub fn new(device: &Device, of: &Cofire) -> Result<Self> {
        let Sums { parent, child, energy, both } = of.sums();
        Ok(Self {
            parent: device.alloc(parent.len())?,
            child: device.alloc(child.len())?,
            energy: device.alloc(energy.len())?,
            both: device.alloc(both.len())?,
            by: BySlots::default(),
            pending: None,
            newest: Newest::Host,
        })
    }

    /// Counts the last step, of `n` rows, which observed ungated pre-activations and stands for `steps` steps: from [`Counts::flush`]
    /// on.
    pub fn add(&mut self, cofire: &mut Cofire, n: usize, decay: f64, steps: u64) -> Result<()> {
        if self.newest == Newest::Host {
            let Sums { parent, child, energy, both } = cofire.sums();
            self.parent.all().put(parent)?;
            self.child.all().put(child)?;
            self.energy.all().put(energy)?;
            self.both.all().put(both)?;
        }
        let (w, fades) = cofire.weigh(n, decay, steps);
        self.pending = Some((Counted { fades, tokens: steps as u32, w }, cofire.rescaling()));
        self.newest = Newest::Device;
        Ok(())
    }

    /// Starts to count the last step, of `n` rows, if that is still to be done; `by` are the entries of level 1 by latent.
    pub fn flush(&mut self, device: &Device, arch: &Arch, levels: &[Level], by: &BySlots, n: usize) -> Result<()> {
        let [one, two] = levels else { return Ok(()) };
        let Some((counted, rescale)) = self.pending.take() else { return Ok(()) };
        let ([f1, f2], energy) = (arch.latents(), two.squares.of(n));
        let (rows, z) = by.last(f1, one.most);
        count_parents(rows, z, energy, counted.w, [self.parent.all(), self.energy.all()])?;
        let rows = self.by.rows(device, f2, two.open.lists.of(n, two.open.room), two.open.total.max(1))?;
        count_children(counted, rows, one.kept.of(n, one.room), self.child.all(), self.both.all())?;
        if let Some(by) = rescale {
            for sums in [&self.parent, &self.child, &self.energy] {
                scale_sums(by, sums.all())?;
            }
        }
        Ok(())
    }

    /// Copies the counts to the host.
    pub fn fetch(&mut self, cofire: &mut Cofire) -> Result<()> {
        if self.newest == Newest::Device {
            let [parent, child, energy] = [&self.parent, &self.child, &self.energy].map(|sums| sums.all().to_vec());
            cofire.set_sums(parent?, child?, energy?, self.both.all().to_vec()?);
            self.newest = Newest::Both;
        }
        Ok(())
    }

    /// Says that the host has changed the counts.
    pub fn changed(&mut self) {
        self.newest = Newest::Host;
    }

    /// Returns whether the host has the counts as they are.
    pub fn is_fetched(&self) -> bool {
        self.newest != Newest::Device
    }
}
