//! Vectors of numbers in a file.

use std::ops::Range;

use super::map::Map;

/// A vector in a file: a part of the map if it is aligned there, otherwise a copy.
#[derive(Debug)]
pub(super) enum Numbers<T> {
    Mapped(Map, Range<usize>),
    Copied(Vec<T>),
}

impl<T: bytemuck::Pod> Numbers<T> {
    /// Makes the vector of the numbers in `range` of the map; `from_le` decodes one of them.
    pub(super) fn new(map: Map, range: Range<usize>, from_le: impl Fn(&[u8]) -> T) -> Self {
        let bytes = &map[range.clone()];
        if cfg!(target_endian = "little") && bytemuck::try_cast_slice::<u8, T>(bytes).is_ok() {
            Self::Mapped(map, range)
        } else {
            Self::Copied(bytes.chunks_exact(size_of::<T>()).map(from_le).collect())
        }
    }

    /// Returns the numbers.
    pub(super) fn get(&self) -> &[T] {
        match self {
            // It is aligned as it was in `new`: a map does not move.
            Self::Mapped(map, range) => bytemuck::cast_slice(&map[range.clone()]),
            Self::Copied(values) => values,
        }
    }
}
