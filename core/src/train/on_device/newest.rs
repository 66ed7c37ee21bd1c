//! Where numbers are that the host and a device may both have.

/// Where the newest numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Newest {
    Device,
    Both,
    Host,
}
