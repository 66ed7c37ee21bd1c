//! What the tests of the project share: slow, obvious versions of what the engine computes, and bounds on errors.

#[cfg(emulator)]
pub mod emulator;
pub mod oracle;
pub mod tolerance;
pub mod vary;
