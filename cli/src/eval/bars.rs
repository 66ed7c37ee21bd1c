//! Histogram of the activations of a latent, in equal bars: one pass, bounded memory, exact counts.

use serde::{Deserialize, Serialize};

/// Most bars.
const BARS: usize = 64;

/// Counts of activations in bars of equal width that start at 0.
///
/// The width is a power of two times the unit of the values: the smallest for which the largest value fits. A larger
/// value doubles it, and bars are merged in pairs, with the same result as counting with the wide bars from the start.
/// So the order of the values does not matter. Memory: 512 bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bars {
    /// Width of a bar, 0 if nothing was counted: bar `i` covers `i width` to below `(i + 1) width`.
    pub width: f64,
    /// Counts of each bar, up to the last one that is not empty.
    pub counts: Vec<u64>,
}

impl Bars {
    /// Counts a value above 0; others are ignored.
    pub fn add(&mut self, value: f32) {
        let value = f64::from(value);
        if !(value > 0.0 && value.is_finite()) {
            return;
        }
        if self.width == 0.0 {
            // The exponent of the number itself: every f32 is normal as an f64.
            let exponent = (value.to_bits() >> 52) as i32 - 1023;
            self.width = 2f64.powi(exponent + 1) / BARS as f64;
        }
        while value >= self.width * BARS as f64 {
            self.counts = self.counts.chunks(2).map(|pair| pair.iter().sum()).collect();
            self.width *= 2.0;
        }
        let bar = (value / self.width) as usize;
        if self.counts.len() <= bar {
            self.counts.resize(bar + 1, 0);
        }
        self.counts[bar] += 1;
    }

    /// Returns the share of the counted values below `value`, with the values of a bar spread evenly over it.
    pub fn share_below(&self, value: f64) -> f64 {
        let total: u64 = self.counts.iter().sum();
        if total == 0 {
            return 0.0;
        }
        let at = value / self.width;
        let bar = (at.max(0.0) as usize).min(self.counts.len() - 1);
        let below: u64 = self.counts[..bar].iter().sum();
        (below as f64 + self.counts[bar] as f64 * (at - bar as f64).clamp(0.0, 1.0)) / total as f64
    }
}

#[cfg(test)]
mod tests {
    use super::{BARS, Bars};

    fn of(values: &[f32]) -> Bars {
        let mut bars = Bars::default();
        values.iter().for_each(|v| bars.add(*v));
        bars
    }

    #[test]
    fn the_order_of_values_does_not_matter_and_every_value_is_in_its_bar() {
        let values: Vec<f32> = (1..500).map(|i| (i as f32 * 0.37) % 11.0 * 2f32.powi(i % 9 - 6)).collect();
        let forward = of(&values);
        let (mut back, mut sorted) = (values.clone(), values.clone());
        back.reverse();
        sorted.sort_by(f32::total_cmp);
        assert_eq!(forward, of(&back));
        assert_eq!(forward, of(&sorted));
        let largest = f64::from(sorted[sorted.len() - 1]);
        assert!(largest < forward.width * BARS as f64 && largest >= forward.width * BARS as f64 / 2.0);
        for (bar, count) in forward.counts.iter().enumerate() {
            let inside = |v: &&f32| (f64::from(**v) / forward.width) as usize == bar;
            assert_eq!(*count, values.iter().filter(inside).count() as u64, "bar {bar}");
        }
        assert_ne!(forward.counts.last(), Some(&0));
    }

    #[test]
    fn bars_go_with_the_unit_and_hold_every_size() {
        let values: Vec<f32> = (1..200).map(|i| (i % 37) as f32 + 0.5).collect();
        for k in [-140, -40, 40, 120] {
            let scaled: Vec<f32> = values.iter().map(|v| (f64::from(*v) * 2f64.powi(k)) as f32).collect();
            if k > -126 {
                assert_eq!(of(&scaled).counts, of(&values).counts);
                assert_eq!(of(&scaled).width, of(&values).width * 2f64.powi(k));
            }
            assert_eq!(of(&scaled).counts.iter().sum::<u64>(), 199);
        }
        assert_eq!(of(&[0.0, -1.0, f32::NAN, f32::INFINITY]), Bars::default());
    }

    #[test]
    fn shares_are_counted_from_below() {
        let bars = of(&[1.0, 2.0, 3.0, 4.0]);
        assert_eq!((bars.share_below(0.5), bars.share_below(2.5), bars.share_below(9.0)), (0.0, 0.5, 1.0));
        assert_eq!(Bars::default().share_below(1.0), 0.0);
    }
}
