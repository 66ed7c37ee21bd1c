//! A directory that holds a synthetic world and no rows: `truth.json` without a `dump.json`. Row `t` is token `first + t` of
//! the world, drawn whenever it is read, so that a training can see more rows than a disk holds.

use std::path::Path;

use anyhow::Result;

use super::parts::Parts;
use super::source::Source;
use super::world::{DESCRIPTION, Drawn};

pub(super) fn detect(directory: &Path) -> bool {
    directory.join(DESCRIPTION).exists()
}

pub(super) fn open(directory: &Path, _: &Source) -> Result<Parts> {
    Ok(Parts::of_world(directory, Drawn::open(directory.join(DESCRIPTION))?))
}
