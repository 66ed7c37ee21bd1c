//! The instruction sets for which kernels are compiled.

use core::fmt;

#[cfg(target_arch = "aarch64")]
use fearless_simd::aarch64::Neon;
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
use fearless_simd::x86::{Avx2, Avx512};
use fearless_simd::{Fallback, Level};

/// An instruction set that this machine has. The value is a proof of that, so that kernels need no `unsafe`.
///
/// Only sets with a fused multiply-add are used (`avx2`, `avx512`, `neon`); everything else runs the scalar kernels,
/// which compute the same bits.
#[derive(Clone, Copy)]
pub struct Isa(pub(super) Inner);

#[derive(Clone, Copy)]
pub(super) enum Inner {
    Scalar(Fallback),
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    Avx2(Avx2),
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    Avx512(Avx512),
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
}

/// Compiles `$body` for each instruction set, with `$simd` its token, and runs the one of `$isa`.
macro_rules! dispatch {
    ($isa:expr, $simd:ident => $body:expr) => {
        match $isa.used() {
            $crate::kernel::isa::Inner::Scalar($simd) => fearless_simd::Simd::vectorize(
                $simd,
                #[inline(always)]
                || $body,
            ),
            #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
            $crate::kernel::isa::Inner::Avx2($simd) => fearless_simd::Simd::vectorize(
                $simd,
                #[inline(always)]
                || $body,
            ),
            #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
            $crate::kernel::isa::Inner::Avx512($simd) => fearless_simd::Simd::vectorize(
                $simd,
                #[inline(always)]
                || $body,
            ),
            #[cfg(target_arch = "aarch64")]
            $crate::kernel::isa::Inner::Neon($simd) => fearless_simd::Simd::vectorize(
                $simd,
                #[inline(always)]
                || $body,
            ),
        }
    };
}

impl Isa {
    /// No named vector instructions; every machine has it. Without the feature `std` every value is [`Isa::baseline`].
    pub const SCALAR: Self = Self(Inner::Scalar(Fallback::new()));

    /// Returns the best set of `level` that has a fused multiply-add.
    #[inline(always)]
    fn of(level: Level) -> Self {
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        {
            if let Some(token) = level.as_avx512() {
                return Self(Inner::Avx512(token));
            }
            if let Some(token) = level.as_avx2() {
                return Self(Inner::Avx2(token));
            }
        }
        #[cfg(target_arch = "aarch64")]
        if let Some(token) = level.as_neon() {
            return Self(Inner::Neon(token));
        }
        let _ = level;
        Self::SCALAR
    }

    /// Returns the best set that this machine has.
    #[cfg(feature = "std")]
    pub fn detect() -> Self {
        Self::of(Level::new())
    }

    /// Returns the best set that the program was compiled for.
    #[inline(always)]
    pub fn baseline() -> Self {
        Self::of(Level::baseline())
    }

    /// Returns every set that this machine has, the best first and the scalar one last.
    #[cfg(feature = "std")]
    pub fn all_available() -> alloc::vec::Vec<Self> {
        let mut all = alloc::vec::Vec::new();
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        {
            all.extend(Level::new().as_avx512().map(|token| Self(Inner::Avx512(token))));
            all.extend(Level::new().as_avx2().map(|token| Self(Inner::Avx2(token))));
        }
        #[cfg(target_arch = "aarch64")]
        all.extend(Level::new().as_neon().map(|token| Self(Inner::Neon(token))));
        all.push(Self::SCALAR);
        all
    }

    /// Returns the set called `name`: `scalar`, `avx2`, `avx512` or `neon`.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) if there is no such set, or this machine does not have it.
    #[cfg(feature = "std")]
    pub fn named(name: &str) -> crate::Result<Self> {
        if let Some(isa) = Self::all_available().into_iter().find(|isa| isa.name() == name) {
            return Ok(isa);
        }
        let why = if matches!(name, "avx2" | "avx512" | "neon") {
            alloc::format!("this machine does not have `{name}`")
        } else {
            alloc::format!("expected scalar, avx2, avx512 or neon, found `{name}`")
        };
        Err(crate::Error::config("isa", why))
    }

    /// Returns the set that kernels run. Without detection there is one for the whole program, the one that it was compiled
    /// for: the compiler sees that, and leaves out the kernels of all others.
    #[inline(always)]
    pub(super) fn used(self) -> Inner {
        #[cfg(feature = "std")]
        return self.0;
        #[cfg(not(feature = "std"))]
        return Self::baseline().0;
    }

    /// Returns whether it multiplies and adds bytes four at a time (VNNI).
    pub fn has_dot8(self) -> bool {
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        return matches!(self.used(), Inner::Avx512(_));
        #[cfg(not(any(target_arch = "x86", target_arch = "x86_64")))]
        return false;
    }

    /// Returns the name that [`Isa::named`] accepts.
    pub fn name(self) -> &'static str {
        match self.used() {
            Inner::Scalar(_) => "scalar",
            #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
            Inner::Avx2(_) => "avx2",
            #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
            Inner::Avx512(_) => "avx512",
            #[cfg(target_arch = "aarch64")]
            Inner::Neon(_) => "neon",
        }
    }
}

/// Returns the best set of this machine; without the feature `std`, the best one that the program was compiled for.
impl Default for Isa {
    fn default() -> Self {
        #[cfg(feature = "std")]
        return Self::detect();
        #[cfg(not(feature = "std"))]
        return Self::baseline();
    }
}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Isa({})", self.name())
    }
}

impl PartialEq for Isa {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Isa {}
