//! Histograms of the activations of each latent of a level, in equal bars. Two passes: first the ends, then the counts.

/// Bars per latent, as in SAEDashboard.
pub const BARS: usize = 50;

/// Bars from the smallest to the largest activation of each latent. Memory: 408 bytes per latent.
pub struct Histograms {
    ends: Vec<[f32; 2]>,
    counts: Vec<u64>,
}

impl Histograms {
    /// Makes empty histograms of `latents` latents.
    pub fn new(latents: usize) -> Self {
        Self { ends: vec![[f32::INFINITY, f32::NEG_INFINITY]; latents], counts: vec![0; latents * BARS] }
    }

    /// First pass: extends the range of a latent.
    pub fn widen(&mut self, latent: usize, value: f32) {
        let [low, high] = &mut self.ends[latent];
        *low = low.min(value);
        *high = high.max(value);
    }

    /// Second pass: counts an activation. A value between two bars belongs to the upper one.
    pub fn count(&mut self, latent: usize, value: f32) {
        let [low, high] = self.ends[latent].map(f64::from);
        let share = if high > low { (f64::from(value) - low) / (high - low) } else { 0.0 };
        let bar = ((share * BARS as f64) as usize).min(BARS - 1);
        self.counts[latent * BARS + bar] += 1;
    }

    /// Returns the middle of each bar and its count, the smallest activations first; none for a latent that never
    /// fires, and one bar for a latent that always fires with the same value.
    pub fn bars(&self, latent: usize) -> (Vec<f32>, Vec<u64>) {
        let [low, high] = self.ends[latent].map(f64::from);
        let counts = &self.counts[latent * BARS..(latent + 1) * BARS];
        if low > high {
            return (Vec::new(), Vec::new());
        }
        if low == high {
            return (vec![low as f32], vec![counts[0]]);
        }
        let middle = |bar: usize| (low + (high - low) * (bar as f64 + 0.5) / BARS as f64) as f32;
        ((0..BARS).map(middle).collect(), counts.to_vec())
    }
}
