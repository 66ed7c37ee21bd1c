//! Latents with a strength, as they are typed.

use std::str::FromStr;

/// A latent, and how much of its decoder direction is added, in units of the rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Addend {
    /// 1 or 2.
    pub level: u32,
    /// The latent within its level.
    pub latent: u32,
    /// The strength.
    pub strength: f32,
}

impl FromStr for Addend {
    type Err = String;

    /// Reads `1:109+6` or `2:33-4`.
    fn from_str(word: &str) -> Result<Self, String> {
        let wrong = || format!("expected a latent and a strength, as 1:109+6 or 2:33-4, found {word}");
        let (level, rest) = word.split_once(':').ok_or_else(wrong)?;
        let at = rest.find(['+', '-']).ok_or_else(wrong)?;
        let (latent, strength) = rest.split_at(at);
        let level: u32 = level.parse().map_err(|_| wrong())?;
        let latent: u32 = latent.parse().map_err(|_| wrong())?;
        let strength: f32 = strength.parse().map_err(|_| wrong())?;
        if !matches!(level, 1 | 2) || !strength.is_finite() {
            return Err(wrong());
        }
        Ok(Self { level, latent, strength })
    }
}
