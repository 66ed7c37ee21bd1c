//! What the tests of the project share: slow, simple versions of what the engine computes, and bounds on rounding
//! errors.

#[cfg(emulator)]
pub mod emulator;
pub mod oracle;
pub mod tolerance;
pub mod vary;
