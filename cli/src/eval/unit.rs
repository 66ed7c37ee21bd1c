//! The unit of an evaluation, chosen so that no score depends on the unit of the activations.

/// A power of two near the size of the rows. Rows, codes and reconstructions are divided by it when they are read or
/// computed, which changes no digit of them, and results in units of the activations are multiplied by it at the end: a
/// dump times `2^k` gives the same bits in between. Constants such as the shortest norm that has a direction, and the
/// resolution of sums in fixed point, are then relative to the rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Unit(f64);

impl Unit {
    /// The unit of the activations themselves.
    pub const ONE: Self = Self(1.0);

    /// Returns the largest power of two that is not above the root of the total variance `E||x - mean x||^2` of `rows`,
    /// `(n, d)`; of their mean square where they do not vary; 1 for zeros.
    pub fn of(rows: &[f32], d: usize) -> Self {
        let n = (rows.len() / d).max(1) as f64;
        let mut mean = vec![0.0f64; d];
        rows.chunks_exact(d).for_each(|row| mean.iter_mut().zip(row).for_each(|(m, x)| *m += f64::from(*x)));
        mean.iter_mut().for_each(|m| *m /= n);
        let squares = |about: &[f64]| -> f64 {
            rows.chunks_exact(d).flat_map(|row| row.iter().zip(about)).map(|(x, m)| (f64::from(*x) - m).powi(2)).sum()
        };
        let (about_mean, all) = (squares(&mean), squares(&vec![0.0; d]));
        // Below this the variance is rounding error.
        let square = if about_mean > 1e-12 * all { about_mean } else { all };
        let size = (square / n).sqrt();
        Self(if size.is_normal() { size.log2().floor().exp2().clamp(2f64.powi(-120), 2f64.powi(120)) } else { 1.0 })
    }

    /// Divides values of the activations.
    pub fn divide(self, values: &mut [f32]) {
        if self.0 != 1.0 {
            let inverse = (1.0 / self.0) as f32;
            values.iter_mut().for_each(|v| *v *= inverse);
        }
    }

    /// Returns a number in units of the activations from one of the evaluation.
    pub fn up(self, value: f64) -> f64 {
        value * self.0
    }

    /// Returns a number in squared units of the activations from one of the evaluation.
    pub fn up_squared(self, value: f64) -> f64 {
        value * self.0 * self.0
    }
}

#[cfg(test)]
mod tests {
    use super::Unit;

    #[test]
    fn the_unit_goes_with_the_rows_and_not_with_their_mean() {
        let rows: Vec<f32> = (0..40).map(|i| 1000.0 + (i % 7) as f32).collect();
        let unit = Unit::of(&rows, 4);
        assert!((2.0..=4.0).contains(&unit.up(1.0)), "{unit:?}");
        for k in [-100, -40, -1, 1, 40, 100] {
            let scaled: Vec<f32> = rows.iter().map(|v| v * 2f32.powi(k)).collect();
            assert_eq!(Unit::of(&scaled, 4).up(1.0), unit.up(2f64.powi(k)));
            let (mut a, mut b) = (rows.clone(), scaled.clone());
            unit.divide(&mut a);
            Unit::of(&scaled, 4).divide(&mut b);
            assert_eq!(a, b);
        }
        assert_eq!(Unit::of(&[0.0; 8], 4).up(1.0), 1.0);
        assert_eq!(Unit::of(&[3.0; 8], 4).up_squared(1.0), 16.0);
    }
}
