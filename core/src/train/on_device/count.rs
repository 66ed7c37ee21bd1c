//! The counts of which latents fire together, on a device: those of [`Cofire`], to the bit.
//!
//! The rows of a step are counted from its lists, which stay on the device until the next step: it begins with this, so that the host
//! does not wait.

use super::super::cofire::{Cofire, Sums};
use super::level::BySlots;
use super::{Newest, OnDevice};
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
    fn new(device: &Device, of: &Cofire) -> Result<Self> {
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
}

impl OnDevice {
    /// Counts the last step, which observed ungated pre-activations and stands for `steps` steps.
    pub fn count(&mut self, cofire: &mut Cofire, decay: f64, steps: u64) -> Result<()> {
        self.flush_counts()?;
        if self.counts.is_none() {
            self.counts = Some(Counts::new(&self.device, cofire)?);
        }
        let Some(on) = &mut self.counts else { return Ok(()) };
        if on.newest == Newest::Host {
            let Sums { parent, child, energy, both } = cofire.sums();
            on.parent.all().put(parent)?;
            on.child.all().put(child)?;
            on.energy.all().put(energy)?;
            on.both.all().put(both)?;
        }
        let (w, fades) = cofire.weigh(self.n, decay, steps);
        on.pending = Some((Counted { fades, tokens: steps as u32, w }, cofire.rescaling()));
        on.newest = Newest::Device;
        Ok(())
    }

    /// Starts to count the last step, if that is still to be done.
    pub(super) fn flush_counts(&mut self) -> Result<()> {
        let Self { device, arch, levels, by, counts, n, .. } = self;
        let (Some(on), [one, two]) = (counts, &levels[..]) else { return Ok(()) };
        let Some((counted, rescale)) = on.pending.take() else { return Ok(()) };
        let ([f1, f2], energy) = (arch.latents(), two.squares.of(*n));
        let (rows, z) = by[0].last(f1, one.most);
        count_parents(rows, z, energy, counted.w, [on.parent.all(), on.energy.all()])?;
        let rows = on.by.rows(device, f2, two.open.lists.of(*n, two.open.room), two.open.total.max(1))?;
        count_children(counted, rows, one.kept.of(*n, one.room), on.child.all(), on.both.all())?;
        if let Some(by) = rescale {
            for sums in [&on.parent, &on.child, &on.energy] {
                scale_sums(by, sums.all())?;
            }
        }
        Ok(())
    }

    /// Copies the counts to the host.
    pub fn fetch_counts(&mut self, cofire: &mut Cofire) -> Result<()> {
        self.flush_counts()?;
        let Some(on) = self.counts.as_mut().filter(|on| on.newest == Newest::Device) else { return Ok(()) };
        cofire.set_sums(
            on.parent.all().to_vec()?,
            on.child.all().to_vec()?,
            on.energy.all().to_vec()?,
            on.both.all().to_vec()?,
        );
        on.newest = Newest::Both;
        Ok(())
    }

    /// Says that the host has changed the counts.
    pub fn counts_changed(&mut self) {
        if let Some(on) = &mut self.counts {
            on.newest = Newest::Host;
        }
    }

    /// Returns whether the host has the counts as they are.
    pub fn has_fetched_counts(&self) -> bool {
        self.counts.as_ref().is_none_or(|on| on.newest != Newest::Device)
    }
}
