//! Which weights of the dictionary stay at their random start: every decision about a [`Freeze`].

use crate::choice::choices;

choices! {
    /// Which weights of the dictionary stay at their random start, as baselines that have learned less than an SAE (arXiv
    /// 2602.14111): a score that they reach too says nothing about what was learned.
    Freeze {
        /// None: everything learns.
        None = "none",
        /// The decoder directions of both levels.
        Decoder = "decoder",
        /// The encoder rows of both levels; their biases and thresholds learn.
        Encoder = "encoder",
        /// Decoder directions learn within a cone around their random start: a cosine of at least [`SOFT_COSINE`].
        SoftDecoder = "soft-decoder",
    }
}

/// Smallest cosine of a decoder direction with its start under [`Freeze::SoftDecoder`].
pub const SOFT_COSINE: f32 = 0.8;

impl Freeze {
    /// Returns whether the encoder rows do not learn.
    pub const fn fixes_encoders(self) -> bool {
        match self {
            Self::Encoder => true,
            Self::None | Self::Decoder | Self::SoftDecoder => false,
        }
    }

    /// Returns whether the decoder directions do not learn.
    pub const fn fixes_decoders(self) -> bool {
        match self {
            Self::Decoder => true,
            Self::None | Self::Encoder | Self::SoftDecoder => false,
        }
    }

    /// Returns whether the decoder directions stay near their start.
    pub const fn anchors_decoders(self) -> bool {
        match self {
            Self::SoftDecoder => true,
            Self::None | Self::Decoder | Self::Encoder => false,
        }
    }

    /// Returns whether a dead latent may be given new weights.
    pub const fn may_reseed(self) -> bool {
        match self {
            Self::None => true,
            Self::Decoder | Self::Encoder | Self::SoftDecoder => false,
        }
    }
}
