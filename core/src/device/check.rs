//! Compares every kernel of a device with the CPU, to the bit: at sizes around those that the kernels work in, and at those of real
//! models. It runs on GPUs (`strata device --check`) and on the emulator of the tests.

use super::kernels::{self, Bar, Bytes, ROUNDED, Values, WEIGHED, Weights, width};
use super::lists::{FamiliesOn, Gate, ListSlots, Lists};
use super::packing::{Packed, Packing};
use super::search::{Guess, Limit, Search, Work};
use super::sums;
use super::{Buffer, Device, Slot};
use crate::compute::Compute;
use crate::entry::CodeRow;
use crate::error::{Error, Result};
use crate::gate::{self, Families, ROOT};
use crate::kernel::dense::{Matrix, affine};
use crate::kernel::{Screen, fire, screen, select};
use crate::rng::Philox;
use crate::rows::{Dtype, Rows};
use crate::source::Source;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

/// Numbers of rows, latents and columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows.
    pub n: usize,
    /// Latents.
    pub f: usize,
    /// Width.
    pub d: usize,
}

/// Shapes around the sizes that the kernels work in: tiles of 32 rows and 64 latents, stages of 64 columns, vectors of 16, fragments
/// of 128 rows and 128 latents.
pub const BOUNDARY: [Shape; 9] = [
    Shape { n: 1, f: 1, d: 1 },
    Shape { n: 33, f: 65, d: 16 },
    Shape { n: 31, f: 63, d: 15 },
    Shape { n: 70, f: 130, d: 100 },
    Shape { n: 40, f: 200, d: 320 },
    Shape { n: 5, f: 67, d: 257 },
    Shape { n: 129, f: 128, d: 64 },
    Shape { n: 128, f: 129, d: 65 },
    Shape { n: 20, f: 513, d: 96 },
];

/// Shapes of real models.
pub const FULL: [Shape; 3] = [
    Shape { n: 4096, f: 24_576, d: 768 },
    Shape { n: 1024, f: 65_536, d: 2304 },
    Shape { n: 512, f: 131_072, d: 4096 },
];

/// A comparison.
type Check = fn(&Case) -> Result<()>;

/// Numbers on both sides.
struct Case {
    device: Device,
    compute: Compute,
    shape: Shape,
    x: Vec<f32>,
    w: Vec<f32>,
    bias: Vec<f32>,
    x_on: Buffer<f32>,
    w_on: Buffer<f32>,
    bias_on: Buffer<f32>,
}

/// Lists of the host.
#[derive(Clone, Debug, Default)]
struct Wanted {
    offsets: Vec<u32>,
    index: Vec<u32>,
    value: Vec<f32>,
}

impl Wanted {
    fn new() -> Self {
        Self { offsets: vec![0], ..Self::default() }
    }

    fn end_row(&mut self) {
        self.offsets.push(self.index.len() as u32);
    }

    fn of(lists: &fire::RowLists) -> Self {
        let mut all = Self::new();
        for i in 0..lists.n() {
            let (index, value) = lists.row(i);
            all.index.extend_from_slice(index);
            all.value.extend_from_slice(value);
            all.end_row();
        }
        all
    }

    fn row(&self, i: usize) -> CodeRow<'_> {
        let row = self.offsets[i] as usize..self.offsets[i + 1] as usize;
        CodeRow { index: &self.index[row.clone()], value: &self.value[row] }
    }
}

/// Compares all kernels at a shape, and calls `done` with the name of each comparison.
///
/// # Errors
/// [`Error::Device`] at the first number that differs, naming the kernels, the place, both words and the shape; and whatever the
/// driver reports.
pub fn run(device: &Device, compute: Compute, shape: Shape, mut done: impl FnMut(&'static str)) -> Result<()> {
    let case = Case::new(device, compute, shape)?;
    let checks: [(&'static str, Check); 8] = [
        ("rows_in", Case::centred),
        ("product_above, rows_in_order, scan, pack_rows", Case::products),
        ("round_rows, start_bars, screen", Case::screened),
        ("exact_above", Case::exact),
        ("raise_bars, keep_largest, gather_rows, gather_words, scatter_lists", Case::largest),
        ("activate, mark_active, leave_over", Case::between),
        ("largest_children", Case::families),
        ("most_found", Case::most),
    ];
    for (name, check) in checks {
        check(&case)?;
        done(name);
    }
    Ok(())
}

impl Case {
    fn new(device: &Device, compute: Compute, shape: Shape) -> Result<Self> {
        let Shape { n, f, d } = shape;
        let mut rng = Philox::new(7, (n * 1000 + d) as u64);
        // Log-normal in size, some zeros, subnormal numbers and large ones; every fifth row is there twice, so that there are ties.
        let mut wild = |len: usize| -> Vec<f32> {
            let draw = |rng: &mut Philox| match rng.below(40) {
                0 => 0.0,
                1 => 1e-40,
                2 => -3.0e4,
                _ => rng.normal_f32() * libm::expf(1.5 * rng.normal_f32()),
            };
            (0..len).map(|_| draw(&mut rng)).collect()
        };
        let (mut x, mut w, bias) = (wild(n * d), wild(f * d), wild(f));
        for (values, rows) in [(&mut x, n), (&mut w, f)] {
            (1..rows).filter(|i| i % 5 == 0).for_each(|i| values.copy_within((i - 1) * d..i * d, i * d));
        }
        let (x_on, w_on, bias_on) = (device.upload(&x)?, device.upload(&w)?, device.upload(&bias)?);
        Ok(Self { device: device.clone(), compute, shape, x, w, bias, x_on, w_on, bias_on })
    }

    fn weights(&self) -> Weights<'_> {
        Weights { w: self.w_on.all(), bias: self.bias_on.all(), d: self.shape.d }
    }

    fn differs(&self, what: &str, at: String, found: u32, wanted: u32) -> Error {
        let Shape { n, f, d } = self.shape;
        let what = format!("{what}, n {n} f {f} d {d}: {at} is {found:08x} on the device, {wanted:08x} on the CPU");
        Error::Device { what }
    }

    fn same(&self, what: &str, found: &[f32], wanted: &[f32]) -> Result<()> {
        let bits = |v: &f32| v.to_bits();
        let words = |v: &[f32]| v.iter().map(bits).collect::<Vec<_>>();
        self.same_words(what, &words(found), &words(wanted))
    }

    fn same_words(&self, what: &str, found: &[u32], wanted: &[u32]) -> Result<()> {
        if found.len() != wanted.len() {
            return Err(self.differs(what, "the number of entries".into(), found.len() as u32, wanted.len() as u32));
        }
        match (0..found.len()).find(|i| found[*i] != wanted[*i]) {
            Some(i) => Err(self.differs(what, format!("number {i}"), found[i], wanted[i])),
            None => Ok(()),
        }
    }

    fn same_lists(&self, what: &str, lists: Lists<'_>, wanted: &Wanted) -> Result<()> {
        let mut found = Packed::default();
        Packing::default().download(lists, &mut found)?;
        self.same_words(what, &found.offsets, &wanted.offsets)?;
        self.same_words(what, &found.index, &wanted.index)?;
        self.same(what, &found.value, &wanted.value)
    }

    /// Returns what the CPU finds.
    fn fire(&self, limit: fire::Limit<'_>) -> Wanted {
        let mut lists = fire::RowLists::default();
        let w = Matrix::all(&self.w, self.shape.d);
        let search = fire::Search { x: &self.x, w, bias: &self.bias, limit };
        fire::fire(self.compute.isa, search, None, &mut fire::Scratch::default(), &mut lists);
        Wanted::of(&lists)
    }

    /// Returns a search without a screen.
    fn search<'b>(&'b self, limit: Limit<'b>) -> Search<'b> {
        Search { x: self.x_on.all(), weights: self.weights(), screen: None, limit, gate: None, largest_of: None }
    }

    fn found(&self, what: &str, search: Search<'_>, guess: &mut Guess, wanted: &Wanted) -> Result<()> {
        let mut out = ListSlots::default();
        let room = search.run(guess, &mut Work::default(), &mut out)?;
        self.same_lists(what, out.of(self.shape.n, room), wanted)
    }

    fn centred(&self) -> Result<()> {
        let (d, xt) = (self.shape.d, self.device.alloc(self.x.len())?);
        let (b_dec, bytes) = (&self.x[..d], self.x_on.all().bytes());
        let on = self.device.upload(b_dec)?;
        kernels::rows_in((bytes, Dtype::F32), None, Some(on.all()), d, xt.all())?;
        let wanted: Vec<f32> = self.x.iter().enumerate().map(|(at, x)| x - b_dec[at % d]).collect();
        self.same("rows_in", &xt.all().to_vec()?, &wanted)?;
        kernels::rows_in((bytes, Dtype::F32), None, None, d, xt.all())?;
        self.same("rows_in", &xt.all().to_vec()?, &self.x)?;
        // Rows as they lie in files, normalised.
        let (scale, mean) = (1.7f32, &self.w[..d]);
        let mean_on = self.device.upload(mean)?;
        for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
            let mut narrow = Vec::new();
            dtype.narrow(&self.x, &mut narrow);
            let mut wanted = vec![0.0; self.x.len()];
            Rows::new(&narrow, self.shape.n, d, d * dtype.size_bytes(), dtype)?.widen(0..self.shape.n, &mut wanted);
            let raw = self.device.upload(&narrow)?;
            kernels::rows_in((raw.all(), dtype), None, None, d, xt.all())?;
            self.same("rows_in", &xt.all().to_vec()?, &wanted)?;
            wanted.iter_mut().enumerate().for_each(|(at, x)| *x = (*x - mean[at % d]) * scale - b_dec[at % d]);
            kernels::rows_in((raw.all(), dtype), Some((mean_on.all(), scale)), Some(on.all()), d, xt.all())?;
            self.same("rows_in", &xt.all().to_vec()?, &wanted)?;
        }
        Ok(())
    }

    /// Limits of latents, some below 0.
    fn limits(&self) -> Vec<f32> {
        self.bias.iter().enumerate().map(|(j, b)| b.abs() * (j % 4) as f32 - 0.5).collect()
    }

    fn products(&self) -> Result<()> {
        let what = "product_above, rows_in_order, scan, pack_rows";
        for limit in [0.5, 0.0, -1.0] {
            let wanted = self.fire(fire::Limit::Above(limit));
            self.found(what, self.search(Limit::Above(limit)), &mut Guess::default(), &wanted)?;
        }
        let limits = self.limits();
        let on = self.device.upload(&limits)?;
        let wanted = self.fire(fire::Limit::AboveEach(&limits));
        self.found(what, self.search(Limit::Each(on.all())), &mut Guess::default(), &wanted)
    }

    /// Rounds rows and latents on the device.
    fn round<'b>(&self, slots: &'b mut Rounded, limits: Option<&Buffer<f32>>) -> Result<[Bytes<'b>; 2]> {
        let Shape { n, f, d } = self.shape;
        let Rounded { p, rows, q, latents } = slots;
        let on = &self.device;
        let rows = Bytes { bytes: p.room(on, n * width(d))?, known: rows.room(on, n * ROUNDED)? };
        let latents = Bytes { bytes: q.room(on, f * width(d))?, known: latents.room(on, f * WEIGHED)? };
        kernels::round_rows(self.x_on.all(), d, rows)?;
        kernels::round_weights(self.weights(), limits.map(Buffer::all), latents)?;
        Ok([rows, latents])
    }

    /// The screen must leave exactly what its bound says, in terms of the CPU's own numbers.
    fn screened(&self) -> Result<()> {
        let Shape { n, f, d } = self.shape;
        let what = "round_rows, start_bars, screen";
        let mut slots = Rounded::default();
        let [rows, latents] = self.round(&mut slots, None)?;
        let device = &self.device;
        let (bar, found) = (device.alloc(n)?, device.upload(&vec![0u32; n])?);
        let (index, upper, likely) = (device.alloc::<u32>(n * f)?, device.alloc(n * f)?, device.alloc(n * f)?);
        let hits =
            kernels::Hits { room: f, found: found.all(), index: index.all(), upper: upper.all(), likely: likely.all() };
        let limit = 0.5;
        kernels::start_bars(rows.known, 0.0, limit, bar.all())?;
        kernels::screen(rows, latents, d, bar.all(), 0.0, None, hits)?;
        let mut screen = Screen::new(f, d);
        screen.quantise(self.compute, Matrix::all(&self.w, d), &self.bias);
        // A whole table of bounds would not fit for many rows and latents: some rows stand for the others.
        let (found, index, upper) = (found.all().to_vec()?, index.all(), upper.all());
        for i in (0..n).step_by((n / 32).max(1)) {
            let bounds = screen::bounds(&screen, self.compute.isa, &self.x[i * d..(i + 1) * d]);
            let row = i * f..i * f + found[i] as usize;
            let mut left: Vec<(u32, u32)> = index
                .part(row.clone())
                .to_vec()?
                .into_iter()
                .zip(upper.part(row).to_vec()?.into_iter().map(f32::to_bits))
                .collect();
            left.sort_unstable();
            let (found, upper): (Vec<u32>, Vec<u32>) = left.into_iter().unzip();
            let wanted = (0..f).filter(|j| bounds[*j][0].is_nan() || bounds[*j][0] > limit).map(|j| j as u32);
            let wanted: Vec<u32> = wanted.collect();
            self.same_words(what, &found, &wanted)?;
            let ends: Vec<u32> = wanted.iter().map(|j| bounds[*j as usize][0].to_bits()).collect();
            self.same_words(what, &upper, &ends)?;
        }
        Ok(())
    }

    fn exact(&self) -> Result<()> {
        let mut slots = Rounded::default();
        let screen = Some(self.round(&mut slots, None)?);
        for limit in [0.5, 20.0] {
            let wanted = self.fire(fire::Limit::Above(limit));
            let search = Search { screen, ..self.search(Limit::Above(limit)) };
            self.found("exact_above", search, &mut Guess::default(), &wanted)?;
        }
        let limits = self.limits();
        let on = self.device.upload(&limits)?;
        let screen = Some(self.round(&mut slots, Some(&on))?);
        let wanted = self.fire(fire::Limit::AboveEach(&limits));
        let search = Search { screen, ..self.search(Limit::Each(on.all())) };
        self.found("exact_above", search, &mut Guess::default(), &wanted)
    }

    /// The largest of each row, without a screen, with one, and with a guess that is too high for every row; behind a gate too.
    fn largest(&self) -> Result<()> {
        let Shape { n, f, .. } = self.shape;
        let what = "raise_bars, keep_largest, gather_rows, gather_words, scatter_lists";
        let mut slots = Rounded::default();
        let screen = self.round(&mut slots, None)?;
        for k in [1, 5.min(f), f.min(40)] {
            let wanted = self.fire(fire::Limit::Topk(k));
            let search = self.search(Limit::Topk(k));
            // At the full sizes all pre-activations of all rows are too many to be looked at twice.
            if n * f <= 1 << 20 {
                self.found(what, search, &mut Guess::default(), &wanted)?;
                let high = &mut Guess::starting_at(1e3);
                self.found(what, Search { screen: Some(screen), ..search }, high, &wanted)?;
            }
            let mut guess = Guess::default();
            // The second time from what the first has learnt.
            for _ in 0..2 {
                self.found(what, Search { screen: Some(screen), ..search }, &mut guess, &wanted)?;
            }
        }
        let (families, active) = self.hierarchy();
        let (words, on) = (families.n_parents().div_ceil(32) as usize, FamiliesOn::new(&self.device, &families)?);
        let mut bits = vec![0u32; n * words];
        (0..n).flat_map(|i| active.row(i).index.iter().map(move |p| (i, *p))).for_each(|(i, p)| {
            bits[i * words + p as usize / 32] |= 1 << (p % 32);
        });
        let bits = self.device.upload(&bits)?;
        let gate = Some(Gate { parents: on.parents.all(), active: bits.all(), words });
        let k = 3.min(f);
        let wanted = self.behind(&families, &active, false, |u, index, value| {
            select::topk_row(self.compute.isa, u, k, index, value);
        });
        for ratio in [0.0, 1e3] {
            let search = Search { screen: Some(screen), gate, ..self.search(Limit::Topk(k)) };
            self.found(what, search, &mut Guess::starting_at(ratio), &wanted)?;
        }
        let search = Search { gate, ..self.search(Limit::Topk(k)) };
        self.found(what, search, &mut Guess::default(), &wanted)
    }

    /// Families of a few sizes, which parents are active, and their values.
    fn hierarchy(&self) -> (Families, Wanted) {
        let Shape { n, f, .. } = self.shape;
        let (mut rng, f1) = (Philox::new(9, 9), (f / 7).max(1));
        let parents = (0..f).map(|_| if rng.below(5) == 0 { ROOT } else { rng.below(f1 as u64) as u32 }).collect();
        let mut active = Wanted::new();
        for _ in 0..n {
            let mut own: Vec<u32> = (0..4).map(|_| rng.below(f1 as u64) as u32).collect();
            own.sort_unstable();
            own.dedup();
            active.value.extend(own.iter().map(|_| rng.uniform_f64() as f32 + 0.1));
            active.index.extend(own);
            active.end_row();
        }
        (Families::new(parents, f1), active)
    }

    /// Copies lists to the device.
    fn upload<'b>(&self, slots: &'b mut ListSlots, of: &Wanted, room: usize) -> Result<Lists<'b>> {
        let n = of.offsets.len() - 1;
        let lists = slots.room(&self.device, n, room)?;
        let (mut count, mut index, mut value) = (Vec::new(), vec![0u32; n * room], vec![0.0f32; n * room]);
        for i in 0..n {
            let row = of.row(i);
            count.push(row.index.len() as u32);
            index[i * room..][..row.index.len()].copy_from_slice(row.index);
            value[i * room..][..row.index.len()].copy_from_slice(row.value);
        }
        lists.count.put(&count)?;
        lists.index.put(&index)?;
        lists.value.put(&value)?;
        Ok(lists)
    }

    /// Returns what the CPU selects behind a gate, from every pre-activation.
    fn behind(
        &self,
        families: &Families,
        active: &Wanted,
        largest_only: bool,
        mut select: impl FnMut(&[f32], &mut Vec<u32>, &mut Vec<f32>),
    ) -> Wanted {
        let Shape { n, f, d } = self.shape;
        let (mut a, mut u, mut wanted) = (vec![0.0; f], vec![0.0; f], Wanted::new());
        for i in 0..n {
            affine(self.compute.isa, &self.x[i * d..(i + 1) * d], &self.w, d, Some(&self.bias), &mut a);
            gate::hard(families, active.row(i).active(), largest_only, &a, &mut u);
            select(&u, &mut wanted.index, &mut wanted.value);
            wanted.end_row();
        }
        wanted
    }

    fn between(&self) -> Result<()> {
        let Shape { n, f, d } = self.shape;
        let fires = self.fire(fire::Limit::Topk(9.min(f)));
        let (mut slots, mut out) = (ListSlots::default(), ListSlots::default());
        let room = 9.min(f) + 3;
        let lists = self.upload(&mut slots, &fires, room)?;
        // Slopes and offsets for which some do not fire.
        let slope: Vec<f32> = self.bias.iter().map(|b| libm::expf(0.1 * b.clamp(-3.0, 3.0))).collect();
        let offset: Vec<f32> = self.bias.iter().map(|b| if *b < 0.0 { f32::NEG_INFINITY } else { *b }).collect();
        let (on, offsets) = (self.device.upload(&slope)?, self.device.upload(&offset)?);
        let z = self.device.alloc(n * room)?;
        let by = Values::Gated(on.all(), offsets.all());
        kernels::activate(by, false, lists, Some(z.all()), out.room(&self.device, n, room)?)?;
        let mut wanted = Wanted::new();
        for i in 0..n {
            let row = fires.row(i);
            for (&j, u) in row.index.iter().zip(row.value) {
                let z = (slope[j as usize] * u + offset[j as usize]).max(0.0);
                if z > 0.0 {
                    wanted.index.push(j);
                    wanted.value.push(z);
                }
            }
            wanted.end_row();
        }
        self.same_lists("activate", out.of(n, room), &wanted)?;
        let words = f.div_ceil(32);
        let active = self.device.alloc(n * words)?;
        kernels::mark_active(out.of(n, room), words, active.all())?;
        let mut bits = vec![0u32; n * words];
        for i in 0..n {
            wanted.row(i).active().for_each(|j| bits[i * words + j as usize / 32] |= 1 << (j % 32));
        }
        self.same_words("mark_active", &active.all().to_vec()?, &bits)?;
        let rest = self.device.alloc(n * d)?;
        sums::leave_over(self.x_on.all(), self.w_on.all(), d, out.of(n, room), rest.all())?;
        let mut s = vec![0.0; n * d];
        Source::Res.fill(self.compute.isa, &self.w, &self.x, d, |i| wanted.row(i), &mut s);
        self.same("leave_over", &rest.all().to_vec()?, &s)
    }

    fn families(&self) -> Result<()> {
        let n = self.shape.n;
        let (families, active) = self.hierarchy();
        let on = FamiliesOn::new(&self.device, &families)?;
        let (mut slots, mut raw, mut sorted) = (ListSlots::default(), ListSlots::default(), ListSlots::default());
        let (parents, room) = (self.upload(&mut slots, &active, 4)?, self.shape.f);
        let lists = raw.room(&self.device, n, room)?;
        lists.count.zero()?;
        let limits = self.limits();
        let bars = self.device.upload(&limits)?;
        kernels::largest_children(self.x_on.all(), self.weights(), Bar::Each(bars.all()), &on, parents, lists)?;
        kernels::rows_in_order(self.shape.f, lists, sorted.room(&self.device, n, room)?)?;
        let wanted = self.behind(&families, &active, true, |u, index, value| {
            select::above_each(self.compute.isa, u, &limits, index, value);
        });
        self.same_lists("largest_children", sorted.of(n, room), &wanted)
    }

    /// The largest of some counts in every lane of a warp, and as the last of all.
    fn most(&self) -> Result<()> {
        let n = self.shape.n;
        for at in (0..n.min(64)).chain([n - 1]) {
            let mut counts: Vec<u32> = (0..n).map(|i| (i % 7) as u32).collect();
            counts[at] = 9;
            let (found, out) = (self.device.upload(&counts)?, self.device.upload(&[0u32; 2])?);
            for (room, is_bad) in [(9, false), (8, true)] {
                out.all().zero()?;
                kernels::most_found(found.all(), room, out.part(0..1), out.part(1..2))?;
                let mut words = out.all().to_vec()?;
                words[1] = u32::from(words[1] != 0);
                self.same_words("most_found", &words, &[9, u32::from(is_bad)])?;
            }
        }
        Ok(())
    }
}

/// Rows and latents in 8 bits.
#[derive(Debug, Default)]
struct Rounded {
    p: Slot<i8>,
    rows: Slot<f32>,
    q: Slot<i8>,
    latents: Slot<f32>,
}
