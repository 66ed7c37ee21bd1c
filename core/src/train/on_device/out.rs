//! What a step says to the host: everything at its end, so that the host waits once.

use crate::device::kernels::Most;
use crate::device::search::{NEEDS, Needs};
use crate::device::selection::CUT;
use crate::device::verdict::{self, OUT, Terms};
use crate::device::{Buffer, Device, Part, Slot};
use crate::error::Result;
use alloc::vec::Vec;

/// What the step lacks; whether it counts.
const BAD: usize = 0;
const OK: usize = 1;
/// Of each search: candidates of both levels, ungated pre-activations, and all children that compete with dead ones.
const FOUND: usize = 2;
pub(super) const OPEN: usize = 2;
pub(super) const CHILDREN: usize = 3;
/// Numbers of entries and of codes of both levels, and of ungated pre-activations.
const ENTRIES: usize = FOUND + 4 * NEEDS;
const CODES: usize = ENTRIES + 2;
const UNGATED: usize = CODES + 2;
/// The state of the selection of each level.
const CUTS: usize = UNGATED + 1;
const WORDS: usize = CUTS + 2 * CUT;

/// The memory of what a step says.
#[derive(Debug)]
pub(super) struct Out {
    words: Buffer<u32>,
    numbers: Buffer<f64>,
    /// The weights of AuxK's gradients at both levels, and the factor by which the gradient is clipped.
    factors: Buffer<f32>,
    chunks: Slot<f64>,
}

/// What a step has said.
#[derive(Debug)]
pub(super) struct Said {
    words: Vec<u32>,
    pub numbers: Vec<f64>,
}

impl Said {
    /// Returns whether the weights were updated.
    pub fn is_ok(&self) -> bool {
        self.words[OK] > 0
    }

    /// Returns why lists were not complete or not enough was collected; 0 where nothing was lacking.
    pub fn bad(&self) -> u32 {
        self.words[BAD]
    }

    /// Returns what a search has found.
    pub fn found(&self, search: usize) -> [u32; NEEDS] {
        [0, 1].map(|i| self.words[FOUND + NEEDS * search + i])
    }

    /// Returns the state at the end of a selection.
    pub fn cut(&self, level: usize) -> &[u32] {
        &self.words[CUTS + CUT * level..][..CUT]
    }

    /// Returns the number of entries of a level.
    pub fn entries(&self, level: usize) -> usize {
        self.words[ENTRIES + level] as usize
    }

    /// Returns the number of codes of a level.
    pub fn codes(&self, level: usize) -> usize {
        self.words[CODES + level] as usize
    }

    /// Returns the number of ungated pre-activations.
    pub fn ungated(&self) -> usize {
        self.words[UNGATED] as usize
    }
}

impl Out {
    /// Takes the memory.
    pub fn new(device: &Device) -> Result<Self> {
        let (words, numbers, factors) = (device.alloc(WORDS)?, device.alloc(OUT)?, device.alloc(3)?);
        Ok(Self { words, numbers, factors, chunks: Slot::default() })
    }

    /// Sets everything to zero.
    pub fn begin(&self) -> Result<()> {
        self.words.all().zero()?;
        self.numbers.all().zero()?;
        self.factors.all().zero()
    }

    /// Waits for the device, and returns what the step has said.
    pub fn read(&self) -> Result<Said> {
        Ok(Said { words: self.words.all().to_vec()?, numbers: self.numbers.all().to_vec()? })
    }

    fn word(&self, at: usize) -> Part<'_, u32> {
        self.words.part(at..at + 1)
    }

    pub fn bad(&self) -> Part<'_, u32> {
        self.word(BAD)
    }

    pub fn ok(&self) -> Part<'_, u32> {
        self.word(OK)
    }

    pub fn needs(&self, search: usize) -> Needs<'_> {
        let first = FOUND + NEEDS * search;
        Needs { bad: self.bad(), found: self.words.part(first..first + NEEDS) }
    }

    pub fn cut(&self, level: usize) -> Part<'_, u32> {
        self.words.part(CUTS + CUT * level..CUTS + CUT * (level + 1))
    }

    pub fn entries(&self, level: usize, most: usize) -> Most<'_> {
        Most { most, total: self.word(ENTRIES + level), bad: self.bad() }
    }

    pub fn codes(&self, level: usize, most: usize) -> Most<'_> {
        Most { most, total: self.word(CODES + level), bad: self.bad() }
    }

    pub fn ungated(&self) -> Most<'_> {
        Most { most: u32::MAX as usize, total: self.word(UNGATED), bad: self.bad() }
    }

    pub fn number(&self, at: usize) -> Part<'_, f64> {
        self.numbers.part(at..at + 1)
    }

    pub fn numbers(&self) -> Part<'_, f64> {
        self.numbers.all()
    }

    /// Returns the weight of AuxK's gradient at a level.
    pub fn weight(&self, level: usize) -> Part<'_, f32> {
        self.factors.part(level..level + 1)
    }

    /// Returns the factor by which the gradient is clipped.
    pub fn clip(&self) -> Part<'_, f32> {
        self.factors.part(2..3)
    }

    /// Adds terms times half of the weight of AuxK's gradient at a level: see [`Out::sum`].
    pub fn weighed(
        &mut self,
        device: &Device,
        terms: Part<'_, f32>,
        level: usize,
        chunk: usize,
        at: usize,
    ) -> Result<()> {
        let chunks = self.chunks.room(device, terms.len().div_ceil(chunk))?;
        let terms = Terms::Weighed(terms, self.factors.part(level..level + 1));
        verdict::ordered_sum(terms, chunk, 1.0, chunks, self.numbers.part(at..at + 1))
    }

    /// Adds terms in chunks, in order, to the number `at`, over a divisor.
    pub fn sum(&mut self, device: &Device, terms: Terms<'_>, chunk: usize, divisor: f64, at: usize) -> Result<()> {
        let chunks = self.chunks.room(device, terms.len().div_ceil(chunk))?;
        verdict::ordered_sum(terms, chunk, divisor, chunks, self.numbers.part(at..at + 1))
    }
}
