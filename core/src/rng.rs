//! The one source of random numbers: Philox4x32-10, a pure function of (seed, stream, counter).
//!
//! J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, *Parallel random numbers: as easy as 1, 2, 3*, SC 2011.
//! The numbers of a stream never change: goldens, checkpoints and published runs depend on them.

const M0: u32 = 0xD251_1F53;
const M1: u32 = 0xCD9E_8D57;
const W0: u32 = 0x9E37_79B9;
const W1: u32 = 0xBB67_AE85;

/// `philox(counter, key)`: ten rounds of Philox4x32 on a 128-bit counter and a 64-bit key, least significant word
/// first.
///
/// Equal to `philox4x32` with `R = 10` of the Random123 library, word by word.
#[must_use]
pub const fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let ([mut c0, mut c1, mut c2, mut c3], [mut k0, mut k1]) = (counter, key);
    let mut round = 0;
    while round < 10 {
        let (p0, p1) = (M0 as u64 * c0 as u64, M1 as u64 * c2 as u64);
        (c0, c1, c2, c3) = ((p1 >> 32) as u32 ^ c1 ^ k0, p1 as u32, (p0 >> 32) as u32 ^ c3 ^ k1, p0 as u32);
        k0 = k0.wrapping_add(W0);
        k1 = k1.wrapping_add(W1);
        round += 1;
    }
    [c0, c1, c2, c3]
}

/// Returns a number whose bits all depend on all bits of `x`: the finaliser of SplitMix64 (G. Steele, D. Lea, C. Flood,
/// 2014), a permutation of the 64-bit numbers.
pub(crate) const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// A seeded stream of random numbers: word `p` is `philox4x32_10((p / 4, stream), seed)[p % 4]`.
///
/// The whole state is [`Philox::position`], the number of 32-bit words drawn, so a checkpoint keeps one `u64` and
/// [`Philox::seek`] continues to the bit. Streams of one seed are independent of each other. Every result has the same
/// bits on every platform; functions that go through `libm` say so.
#[derive(Clone, Debug)]
pub struct Philox {
    key: [u32; 2],
    stream: [u32; 2],
    position: u64,
    /// Block `position / 4`, valid where `position % 4 != 0`.
    words: [u32; 4],
}

const fn halves(x: u64) -> [u32; 2] {
    [x as u32, (x >> 32) as u32]
}

impl Philox {
    /// Returns the stream `stream` of `seed`, at position 0.
    #[must_use]
    pub const fn new(seed: u64, stream: u64) -> Self {
        Self { key: halves(seed), stream: halves(stream), position: 0, words: [0; 4] }
    }

    /// Returns words `4 * counter .. 4 * counter + 4` of the stream, independently of the position, which does not
    /// change.
    #[must_use]
    pub const fn block(&self, counter: u64) -> [u32; 4] {
        let ([lo, hi], [s0, s1]) = (halves(counter), self.stream);
        philox4x32_10([lo, hi, s0, s1], self.key)
    }

    /// Returns the number of 32-bit words drawn so far.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// Continues as if exactly `position` words had been drawn.
    pub const fn seek(&mut self, position: u64) {
        self.position = position;
        self.words = self.block(position / 4);
    }

    /// Draws the next word, uniform over all of `u32`.
    pub const fn next_u32(&mut self) -> u32 {
        let lane = (self.position % 4) as usize;
        if lane == 0 {
            self.words = self.block(self.position / 4);
        }
        self.position = self.position.wrapping_add(1);
        self.words[lane]
    }

    /// Draws the next two words, the first as the low half.
    pub const fn next_u64(&mut self) -> u64 {
        let lo = self.next_u32() as u64;
        lo | (self.next_u32() as u64) << 32
    }

    /// Draws `k * 2^-24` with `k` uniform in `0..2^24`: in `[0, 1)`. Uses one word.
    pub fn uniform_f32(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    /// Draws `k * 2^-53` with `k` uniform in `0..2^53`: in `[0, 1)`. Uses two words.
    pub fn uniform_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / 9_007_199_254_740_992.0)
    }

    /// Draws a number uniform in `0..n`, without bias (D. Lemire, *Fast random integer generation in an interval*,
    /// 2019).
    ///
    /// Uses two words, and two more with a probability below `n / 2^64`.
    ///
    /// # Panics
    /// If `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "below(0): the range is empty");
        let mut product = u128::from(self.next_u64()) * u128::from(n);
        if (product as u64) < n {
            let threshold = n.wrapping_neg() % n; // 2^64 mod n
            while (product as u64) < threshold {
                product = u128::from(self.next_u64()) * u128::from(n);
            }
        }
        (product >> 64) as u64
    }

    /// Draws `sqrt(-2 ln u) cos(2 pi v)`: standard normal (Box-Muller). Uses two words.
    ///
    /// `u` and `v` have 32 bits, so that the result is within 6.8 of 0. Computed in `f64` with `libm`, then rounded.
    pub fn normal_f32(&mut self) -> f32 {
        const UNIT: f64 = 1.0 / 4_294_967_296.0;
        let u = (f64::from(self.next_u32()) + 0.5) * UNIT;
        let v = f64::from(self.next_u32()) * UNIT;
        box_muller(u, v) as f32
    }

    /// Draws `sqrt(-2 ln u) cos(2 pi v)`: standard normal (Box-Muller), with 53 bits in `u` and `v`. Uses four words.
    pub fn normal_f64(&mut self) -> f64 {
        let u = 1.0 - self.uniform_f64(); // in (0, 1]
        box_muller(u, self.uniform_f64())
    }

    /// Permutes `items` uniformly at random (Fisher-Yates, from the end).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

/// Only the cosine is used: with one value per call the position remains the whole state.
fn box_muller(u: f64, v: f64) -> f64 {
    libm::sqrt(-2.0 * libm::log(u)) * libm::cos(core::f64::consts::TAU * v)
}
