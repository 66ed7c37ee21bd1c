//! The allocator that counts, under the name that the tests know it by.

#[path = "../../suite/ffi/allocator.rs"]
#[allow(dead_code, reason = "some of it is for tests of the C ABI")]
pub mod allocator;
