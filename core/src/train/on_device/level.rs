//! Working memory of one level on a device: its entries, and their gradients.

use super::super::step::StepSettings;
use crate::activation::{Parameter, Parameters, Rule};
use crate::config::Config;
use crate::device::kernels::{self, Most, Values};
use crate::device::lists::{ListSlots, Lists};
use crate::device::search::Guess;
use crate::device::sums::{self, Addends};
use crate::device::training::{self, Activation, ByLatent, Entries, EntryGradients, EntryJob, Open, Penalised, Picks};
use crate::device::{Buffer, Device, Part, Slot};
use crate::error::Result;
use crate::model::LevelArch;
use alloc::vec::Vec;

/// Working memory of one level.
#[derive(Debug, Default)]
pub(super) struct Level {
    /// The encoder in 8 bits, where that pays.
    pub bytes: Option<(Buffer<i8>, Buffer<f32>)>,
    /// For candidates, for the first floor, and without the gate.
    pub guesses: [Guess; 3],
    pub numbers: Numbers,
    /// What may fire, and the values of all of these where not every one fires with its pre-activation; `room` places per row.
    pub candidates: ListSlots,
    pub z: Slot<f32>,
    /// What fires, with as many places.
    pub kept: ListSlots,
    pub room: usize,
    /// What fires of all shards, where there are several.
    pub fires: Fires,
    /// The smallest of the `k` largest of each row.
    pub least: Slot<f32>,
    pub codes: CodeSlots,
    /// Most entries of a batch that there are places for by latent.
    pub most: usize,
    pub open: OpenSlots,
    pub aux: Aux,
    settled: ListSlots,
    u: Slot<f32>,
    v: Slot<f32>,
    /// Places per row of `settled`; none where the candidates are all entries.
    settled_room: Option<usize>,
    pub r: Slot<f32>,
    pub squares: Slot<f32>,
    /// The auxiliary reconstruction of a gated level.
    pub gated: Lacking,
    pub du: Slot<f32>,
    pub through: Slot<f32>,
    own: [Slot<f32>; 2],
    penalties: Slot<f64>,
}

/// The numbers of the activation of a level in a step.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    /// Lower ends of the bands of a jumprelu level.
    pub band: Slot<f32>,
    /// Slopes of a gated level.
    slope: Slot<f32>,
    /// Norms of decoder rows, where the penalty needs them.
    norms: Slot<f32>,
    is_gated: bool,
    has_thresholds: bool,
    has_norms: bool,
    latents: usize,
    penalty: f32,
    bandwidth: f32,
}

/// The codes of a batch, one row behind the other.
#[derive(Debug, Default)]
pub(super) struct CodeSlots {
    pub offsets: Slot<u32>,
    pub index: Slot<u32>,
    pub value: Slot<f32>,
    /// Most entries that there are places for.
    pub most: usize,
}

/// What fires at a level, of all shards.
#[derive(Debug, Default)]
pub(super) struct Fires {
    pub lists: ListSlots,
    pub room: Option<usize>,
}

/// Ungated pre-activations above their threshold, and where the entries of these latents and of their parents are.
#[derive(Debug, Default)]
pub(super) struct OpenSlots {
    pub raw: ListSlots,
    pub lists: ListSlots,
    pub room: usize,
    pub offsets: Slot<u32>,
    /// How many there are in all, where they are counted.
    pub total: usize,
    child_at: Slot<u32>,
    parent_at: Slot<u32>,
    /// Those of all shards where there are several, in a step that needs their parents: with their names in the whole level, and with
    /// those that they have in this shard.
    pub all: ListSlots,
    pub own: ListSlots,
    pub all_room: Option<usize>,
    /// The pre-activations of their parents.
    known: Slot<f32>,
}

/// What a reconstruction lacks, with its weight, and its sums of squares.
#[derive(Debug, Default)]
pub(super) struct Lacking {
    pub e: Slot<f32>,
    pub squares: Slot<f32>,
}

/// AuxK of one level.
#[derive(Debug, Default)]
pub(super) struct Aux {
    /// Whether it acts in this step, and how many places a row of picks has.
    pub room: Option<usize>,
    pub n_dead: usize,
    pub dead: Slot<u32>,
    pub w: Slot<f32>,
    pub bias: Slot<f32>,
    pub parents: Slot<u32>,
    pub found: ListSlots,
    pub guess: Guess,
    pub least: Slot<f32>,
    pub picks: ListSlots,
    pub picked: Slot<u32>,
    pub lacking: Lacking,
}

/// Entries by latent.
#[derive(Debug, Default)]
pub(super) struct BySlots {
    counts: Slot<u32>,
    offsets: Slot<u32>,
    next: Slot<u32>,
    row_at: Slot<u32>,
    entry_at: Slot<u32>,
    rows: Slot<u32>,
    z: Slot<f32>,
    v: Slot<f32>,
    g0: Slot<f32>,
    g1: Slot<f32>,
    own: [Slot<f32>; 2],
}

/// Tensors of a level on the device that its activation reads.
#[derive(Clone, Copy)]
pub(super) struct Own<'a> {
    /// Thresholds, or logarithms of slopes, or none.
    pub first: Option<Part<'a, f32>>,
    /// Offsets of a gated level.
    pub second: Option<Part<'a, f32>>,
    /// `(f, d)`.
    pub decoder: Part<'a, f32>,
}

impl OpenSlots {
    /// Returns how many places a row has.
    pub fn reach(&self) -> usize {
        self.all_room.unwrap_or(self.room)
    }

    /// Takes memory for what is known of each.
    pub fn places(&mut self, device: &Device, n: usize) -> Result<()> {
        let all = n * self.reach();
        self.child_at.room(device, all)?;
        self.parent_at.room(device, all)?;
        if self.all_room.is_some() {
            self.known.room(device, all)?;
        }
        Ok(())
    }

    pub fn of(&self, n: usize) -> Open<'_> {
        let (room, all) = (self.reach(), n * self.reach());
        Open {
            lists: if self.all_room.is_some() { self.all.of(n, room) } else { self.lists.of(n, room) },
            child_at: self.child_at.of(all),
            parent_at: self.parent_at.of(all),
            known: self.all_room.map(|_| self.known.of(all)),
        }
    }

    /// Returns the same with the names that the children have in this shard.
    pub fn children(&self, n: usize) -> Open<'_> {
        let open = self.of(n);
        Open { lists: self.all_room.map_or(open.lists, |room| self.own.of(n, room)), ..open }
    }
}

impl Numbers {
    /// Brings the numbers of a step of `n` rows to the device.
    pub fn update(
        &mut self,
        device: &Device,
        config: &Config,
        (l, level): (usize, LevelArch),
        settings: &StepSettings,
        own: Own<'_>,
        n: usize,
    ) -> Result<()> {
        let parameters = level.activation.parameters();
        self.has_thresholds = parameters.contains(&Parameter::Threshold);
        self.is_gated = parameters.contains(&Parameter::RMag);
        self.penalty = (f64::from(settings.lambda[l]) / n as f64) as f32;
        self.bandwidth = config.level(l).bandwidth as f32;
        if let Some(first) = own.first {
            // Exponentials and the ends of bands are computed by the host, as everywhere.
            let (first, mut band) = (first.to_vec()?, Vec::new());
            let (threshold, r_mag): (&[f32], &[f32]) = if self.is_gated { (&[], &first) } else { (&first, &[]) };
            let offsets = own.second.map(Part::to_vec).transpose()?.unwrap_or_default();
            let rule = Rule::new(level.activation, 0.0, 0.0, Parameters { threshold, r_mag, b_mag: &offsets });
            rule.bands(self.bandwidth, &mut band);
            // A shard without latents has bands too, which are empty.
            if self.has_thresholds {
                self.band.room(device, band.len())?.put(&band)?;
            }
            if let Some((slope, _)) = rule.magnitudes() {
                self.slope.room(device, slope.len())?.put(&slope)?;
            }
        }
        self.has_norms = self.penalty != 0.0 && level.activation.penalises_decoder_norms();
        self.latents = level.latents;
        Ok(())
    }

    /// Starts to compute the norms of decoder rows where the penalty needs them.
    pub fn measure(&mut self, device: &Device, own: Own<'_>) -> Result<()> {
        if self.has_norms {
            let norms = self.norms.room(device, self.latents)?;
            training::row_squares(own.decoder, own.decoder.len() / self.latents.max(1), true, norms)?;
        }
        Ok(())
    }

    /// Returns whether the level has thresholds with a gradient.
    pub fn has_thresholds(&self) -> bool {
        self.has_thresholds
    }

    /// Returns how values follow from pre-activations, where not every candidate fires with its own.
    pub fn values<'a>(&'a self, own: Own<'a>) -> Option<Values<'a>> {
        match (own.first, own.second) {
            (Some(r_mag), Some(offset)) => Some(Values::Gated(self.slope.of(r_mag.len()), offset)),
            (Some(threshold), None) => Some(Values::Above(threshold)),
            (None, _) => None,
        }
    }

    /// Returns what the activation adds to the gradients of entries.
    fn activation<'a>(&'a self, own: Own<'a>, f: usize) -> Activation<'a> {
        Activation {
            slope: self.is_gated.then(|| self.slope.of(f)),
            threshold: own.first.filter(|_| self.has_thresholds),
            norms: self.has_norms.then(|| self.norms.of(f)),
            penalty: self.penalty,
            bandwidth: self.bandwidth,
        }
    }

    /// Returns the penalty on decoder rows, where there is one.
    pub fn shrink<'a>(&'a self, own: Own<'a>, f: usize) -> Option<(f32, Part<'a, f32>, Part<'a, f32>)> {
        self.has_norms.then(|| (self.penalty, self.norms.of(f), own.decoder))
    }
}

impl Level {
    /// Returns what fires, of all shards.
    pub fn firing(&self, n: usize) -> Lists<'_> {
        match self.fires.room {
            Some(room) => self.fires.lists.of(n, room),
            None => self.kept.of(n, self.room),
        }
    }

    /// Returns the candidates with their pre-activations, and the values of these.
    fn source(&self, n: usize) -> (Lists<'_>, Part<'_, f32>) {
        if self.numbers.is_gated || self.numbers.has_thresholds {
            (self.candidates.of(n, self.room), self.z.of(n * self.room))
        } else {
            let kept = self.kept.of(n, self.room);
            (kept, kept.value)
        }
    }

    /// Makes the entries of the rows, with room for `more` per row.
    pub fn settle(&mut self, device: &Device, n: usize, more: usize) -> Result<()> {
        let picks = self.aux.room;
        self.settled_room = None;
        if picks.is_none() && more == 0 {
            return Ok(());
        }
        let room = self.room + picks.unwrap_or(0) + more;
        self.settled.room(device, n, room)?;
        self.u.room(device, n * room)?;
        if let Some(picks) = picks {
            self.v.room(device, n * room)?;
            self.aux.picked.room(device, n * picks)?;
        }
        self.settled_room = Some(room);
        let (candidates, z) = self.source(n);
        let picks = picks.map(|room| Picks {
            dead: self.aux.dead.of(self.aux.n_dead),
            lists: self.aux.picks.of(n, room),
            picked: self.aux.picked.of(n * room),
        });
        training::settle(candidates, z, picks, self.entries(n))
    }

    /// Returns the entries of the rows.
    pub fn entries(&self, n: usize) -> Entries<'_> {
        match self.settled_room {
            Some(room) => Entries {
                lists: self.settled.of(n, room),
                u: self.u.of(n * room),
                v: self.aux.room.map(|_| self.v.of(n * room)),
            },
            None => {
                let (from, z) = self.source(n);
                Entries { lists: Lists { value: z, ..from }, u: from.value, v: None }
            }
        }
    }

    /// Returns how many entries of each row are candidates.
    pub fn first(&self, n: usize) -> Part<'_, u32> {
        self.source(n).0.count
    }

    /// Returns the penalty on sparsity, and what it is on; none without one.
    pub fn penalised(&self, f: usize) -> Option<(f32, Penalised<'_>)> {
        let Numbers { is_gated, has_norms, penalty, ref norms, .. } = self.numbers;
        let of = match (has_norms, is_gated) {
            (true, _) => Penalised::Norms(norms.of(f)),
            (false, true) => Penalised::Pre,
            (false, false) => Penalised::Counts,
        };
        (penalty != 0.0).then_some((penalty, of))
    }

    /// Writes the penalty on sparsity of each chunk of rows; none without one.
    pub fn penalty(&mut self, device: &Device, n: usize, f: usize) -> Result<Option<Part<'_, f64>>> {
        self.penalties.room(device, n.div_ceil(64))?;
        let Some((penalty, of)) = self.penalised(f) else { return Ok(None) };
        let sums = self.penalties.of(n.div_ceil(64));
        training::penalties(penalty, of, self.entries(n), sums)?;
        Ok(Some(sums))
    }

    /// Takes memory for what the auxiliary reconstructions lack.
    pub fn begin_auxiliary(&mut self, device: &Device, n: usize, d: usize) -> Result<()> {
        let Self { aux, gated, numbers, .. } = self;
        for (lacking, acts) in [(&mut aux.lacking, aux.room.is_some()), (gated, numbers.is_gated)] {
            if acts {
                lacking.e.room(device, n * d)?;
                lacking.squares.room(device, n)?;
            }
        }
        Ok(())
    }

    /// Returns AuxK's picks with their values, where it has picked latents.
    pub fn picks(&self, n: usize) -> Option<Lists<'_>> {
        let Aux { room, picked, picks, .. } = &self.aux;
        room.map(|room| Lists { index: picked.of(n * room), ..picks.of(n, room) })
    }

    /// Writes what AuxK lacks, with its weight, of the sum `of`.
    pub fn aux_rows(&self, (n, d): (usize, usize), of: Addends<'_>, own: Own<'_>, weight: Part<'_, f32>) -> Result<()> {
        let Lacking { e, squares } = &self.aux.lacking;
        sums::aux_rows(self.r.of(n * d), own.decoder, Some(weight), d, of, e.of(n * d), squares.of(n))
    }

    /// Returns the entries with their pre-activations, of a gated level.
    pub fn pre_activations(&self, n: usize) -> Option<Lists<'_>> {
        let Entries { lists, u, .. } = self.entries(n);
        self.numbers.is_gated.then_some(Lists { value: u, ..lists })
    }

    /// Writes what the auxiliary reconstruction of `base` from the positive pre-activations lacks, for a gated level: the sum `of`.
    pub fn gated_rows(&self, (n, d): (usize, usize), of: Addends<'_>, own: Own<'_>, base: Part<'_, f32>) -> Result<()> {
        let Lacking { e, squares } = &self.gated;
        sums::aux_rows(base, own.decoder, None, d, of, e.of(n * d), squares.of(n))
    }

    /// Returns what AuxK lacks, `len` numbers, with its weight, where it has picked latents.
    pub fn lit<'a>(&'a self, len: usize, weight: Part<'a, f32>) -> Option<(Part<'a, f32>, Part<'a, f32>)> {
        self.aux.room.map(|_| (self.aux.lacking.e.of(len), weight))
    }

    /// Takes memory for the gradients of the entries, with zeros in `du` where a sum starts from there.
    pub fn begin_gradients(&mut self, device: &Device, n: usize, through: bool, starts: bool) -> Result<()> {
        let all = self.entries(n).lists.index.len();
        let du = self.du.room(device, all)?;
        if starts {
            du.zero()?;
        }
        if through {
            self.through.room(device, all)?;
        }
        if self.numbers.is_gated || self.numbers.has_thresholds {
            self.own[0].room(device, all)?;
            self.own[1].room(device, all)?;
        }
        Ok(())
    }

    /// Returns the gradients of the entries.
    pub fn gradients(&self, n: usize, through: bool) -> EntryGradients<'_> {
        let all = self.entries(n).lists.index.len();
        let Numbers { is_gated, has_thresholds, .. } = self.numbers;
        EntryGradients {
            du: self.du.of(all),
            through: through.then(|| self.through.of(all)),
            own: [(is_gated || has_thresholds).then(|| self.own[0].of(all)), is_gated.then(|| self.own[1].of(all))],
        }
    }

    /// Writes the gradients of the entries: `job` without what belongs to this level.
    pub fn entry_gradients(
        &self,
        n: usize,
        own: Own<'_>,
        (recon, aux_weight, gated_weight): (f32, Part<'_, f32>, f32),
        job: Seen<'_>,
    ) -> Result<()> {
        let Seen { r2, ds, through, own_only, starts, d } = job;
        let f = own.decoder.len() / d;
        let job = EntryJob {
            r: (self.r.of(n * d), recon),
            r2,
            ds,
            e: self.lit(n * d, aux_weight),
            gated: (self.numbers.is_gated.then(|| self.gated.e.of(n * d)), gated_weight),
            decoder: own.decoder,
            activation: self.numbers.activation(own, f),
            own_only,
            starts,
            d,
        };
        training::entry_gradients(job, self.entries(n), self.gradients(n, through))
    }
}

/// What the gradients of the entries of a level see of the other level.
#[derive(Clone, Copy)]
pub(super) struct Seen<'a> {
    /// The residual of level 2, where it takes part, and its factor.
    pub r2: (Option<Part<'a, f32>>, f32),
    /// The gradient of what level 2 reads, where that depends on level 1.
    pub ds: Option<Part<'a, f32>>,
    /// Whether there is a part that comes through level 2.
    pub through: bool,
    /// Whether level 1 sees its own part only.
    pub own_only: bool,
    /// Whether sums start from what is in `du`.
    pub starts: bool,
    pub d: usize,
}

impl BySlots {
    /// Transposes the entries of a level of `f` latents with their gradients, and with the values of AuxK where it has picked latents.
    pub fn transpose(
        &mut self,
        device: &Device,
        f: usize,
        entries: Entries<'_>,
        by_row: EntryGradients<'_>,
        most: Most<'_>,
    ) -> Result<ByLatent<'_>> {
        let (m, with_aux) = (most.most, entries.v.is_some());
        let counts = self.counts.room(device, f)?;
        counts.zero()?;
        training::count_latents(entries.lists, counts)?;
        let (offsets, next) = (self.offsets.room(device, f + 1)?, self.next.room(device, f)?);
        kernels::scan(counts, offsets, Some(next), Some(most))?;
        let placed = (self.row_at.room(device, m)?, self.entry_at.room(device, m)?);
        training::place_entries(entries.lists, next, placed.0, placed.1)?;
        let v = if with_aux { Some(self.v.room(device, m)?) } else { None };
        let g1 = if by_row.through.is_some() { Some(self.g1.room(device, m)?) } else { None };
        let [own0, own1] = &mut self.own;
        let p0 = if by_row.own[0].is_some() { Some(own0.room(device, m)?) } else { None };
        let p1 = if by_row.own[1].is_some() { Some(own1.room(device, m)?) } else { None };
        let (rows, z, g0) = (self.rows.room(device, m)?, self.z.room(device, m)?, self.g0.room(device, m)?);
        let list = ByLatent { offsets, rows, z, v, g0, g1, own: [p0, p1] };
        training::order_entries(entries, placed, by_row, list)?;
        Ok(list)
    }

    /// Transposes lists of `f` latents: returns where the rows of each begin, and the rows. There are `m` entries.
    pub fn rows(&mut self, device: &Device, f: usize, lists: Lists<'_>, m: usize) -> Result<[Part<'_, u32>; 2]> {
        let counts = self.counts.room(device, f)?;
        counts.zero()?;
        training::count_latents(lists, counts)?;
        let (offsets, next) = (self.offsets.room(device, f + 1)?, self.next.room(device, f)?);
        kernels::scan(counts, offsets, Some(next), None)?;
        let placed = (self.row_at.room(device, m)?, self.entry_at.room(device, m)?);
        training::place_entries(lists, next, placed.0, placed.1)?;
        let rows = self.rows.room(device, m)?;
        training::order_rows(lists, offsets, placed, rows)?;
        Ok([offsets, rows])
    }

    /// Returns the rows of each of `f` latents that were transposed last, with room for `m` entries, and their values.
    pub fn last(&self, f: usize, m: usize) -> ([Part<'_, u32>; 2], Part<'_, f32>) {
        ([self.offsets.of(f + 1), self.rows.of(m)], self.z.of(m))
    }
}
