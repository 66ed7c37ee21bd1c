//! Reads zip archives, as `numpy.savez` and `torch.save` write them: members that are stored or deflated, in archives
//! of any size. Total: any bytes give members or one clear error.

use crate::error::{Error, Result};
use crate::model::SharedBytes;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

/// Length of the record at the end of the archive, without its comment.
const END: usize = 22;
/// Deflate unpacks one byte to at most 1,032; a member that claims more is damaged.
const MOST_RATIO: usize = 1032;

/// One member of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The name, with `/` between the parts.
    pub name: String,
    /// The byte range in the archive.
    packed: Range<usize>,
    /// The length after unpacking.
    size: usize,
    deflated: bool,
}

/// Returns whether `bytes` begin as an archive does.
#[must_use]
pub fn is_zip(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"PK\x05\x06")
}

fn u16_at(bytes: &[u8], at: usize) -> Result<usize> {
    let piece = bytes.get(at..).and_then(|b| b.first_chunk::<2>());
    piece.map(|b| usize::from(u16::from_le_bytes(*b))).ok_or_else(|| ends(at))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<usize> {
    let piece = bytes.get(at..).and_then(|b| b.first_chunk::<4>());
    piece.map(|b| u32::from_le_bytes(*b) as usize).ok_or_else(|| ends(at))
}

fn u64_at(bytes: &[u8], at: usize) -> Result<usize> {
    let piece = bytes.get(at..).and_then(|b| b.first_chunk::<8>());
    let value = piece.map(|b| u64::from_le_bytes(*b)).ok_or_else(|| ends(at))?;
    usize::try_from(value).map_err(|_| Error::format(at, "zip: a size is larger than any file"))
}

#[cold]
fn ends(at: usize) -> Error {
    Error::format(at, "zip: the archive ends in the middle of a record")
}

/// Returns the members of the archive `bytes`, in the order of its table of contents.
///
/// # Errors
/// [`Error::Format`] for bytes that are not an archive, or whose table of contents does not fit them, and for members
/// that are encrypted or packed by another method than deflate.
pub fn members(bytes: &[u8]) -> Result<Vec<Member>> {
    let none =
        || Error::format(bytes.len(), "zip: the table of contents is missing: the file is no archive, or is cut");
    // A comment of up to 65,535 bytes may follow the record. The record has the length of the comment, by which it is
    // told from bytes that look like it.
    let last = bytes.len().checked_sub(END).ok_or_else(none)?;
    let first = last.saturating_sub(usize::from(u16::MAX));
    let is_end = |&at: &usize| {
        bytes[at..].starts_with(b"PK\x05\x06") && u16_at(bytes, at + 20).is_ok_and(|n| at + END + n == bytes.len())
    };
    let end = (first..=last).rev().find(is_end).ok_or_else(none)?;
    let (mut count, mut at) = (u16_at(bytes, end + 10)?, u32_at(bytes, end + 16)?);
    if let Some(locator) = end.checked_sub(20).filter(|at| bytes[*at..].starts_with(b"PK\x06\x07")) {
        let record = u64_at(bytes, locator + 8)?;
        if !bytes.get(record..).is_some_and(|b| b.starts_with(b"PK\x06\x06")) {
            return Err(Error::format(locator, "zip: the 64-bit table of contents is not where the archive says"));
        }
        let entry = |offset: usize| record.checked_add(offset).ok_or_else(|| ends(record));
        (count, at) = (u64_at(bytes, entry(32)?)?, u64_at(bytes, entry(48)?)?);
    }
    // Every entry has at least 46 bytes, so a damaged count cannot ask for more memory than the file has.
    let mut found = Vec::with_capacity(count.min(bytes.len() / 46));
    for _ in 0..count {
        let member = entry(bytes, &mut at)?;
        found.push(member);
    }
    Ok(found)
}

/// Reads the entry at `at` of the table of contents, and moves `at` to the next one.
fn entry(bytes: &[u8], at: &mut usize) -> Result<Member> {
    let start = *at;
    if !bytes.get(start..).is_some_and(|b| b.starts_with(b"PK\x01\x02")) {
        return Err(Error::format(start.min(bytes.len()), "zip: expected an entry of the table of contents"));
    }
    let (flags, method) = (u16_at(bytes, start + 8)?, u16_at(bytes, start + 10)?);
    let (mut packed, mut size) = (u32_at(bytes, start + 20)?, u32_at(bytes, start + 24)?);
    let lengths = [u16_at(bytes, start + 28)?, u16_at(bytes, start + 30)?, u16_at(bytes, start + 32)?];
    let mut local = u32_at(bytes, start + 42)?;
    let name_at = start + 46;
    let extra_at = name_at + lengths[0];
    let name = bytes.get(name_at..extra_at).ok_or_else(|| ends(name_at))?;
    let name = String::from_utf8_lossy(name).into_owned();
    let extra = bytes.get(extra_at..extra_at + lengths[1]).ok_or_else(|| ends(extra_at))?;
    // A field of type 1 has the 64-bit values of those sizes that do not fit into 32 bits, in this order.
    let mut field = 0;
    while field + 4 <= extra.len() {
        let (kind, length) = (u16_at(extra, field)?, u16_at(extra, field + 2)?);
        let mut value = field + 4;
        if kind == 1 {
            for number in [&mut size, &mut packed, &mut local] {
                if *number == u32::MAX as usize {
                    *number = u64_at(extra, value)?;
                    value += 8;
                }
            }
        }
        field += 4 + length;
    }
    *at = extra_at + lengths[1] + lengths[2];
    if flags & 1 == 1 {
        return Err(Error::format(start, format!("zip: `{name}` is encrypted, which is not read")));
    }
    let deflated = match method {
        0 => false,
        8 => true,
        _ => {
            let why = format!("zip: `{name}` is packed by method {method}; stored and deflated members are read");
            return Err(Error::format(start, why));
        }
    };
    if !bytes.get(local..).is_some_and(|b| b.starts_with(b"PK\x03\x04")) {
        let why = format!("zip: `{name}` is not where the table of contents says");
        return Err(Error::format(local.min(bytes.len()), why));
    }
    let data = local + 30 + u16_at(bytes, local + 26)? + u16_at(bytes, local + 28)?;
    let packed = data.checked_add(packed).filter(|end| *end <= bytes.len()).map(|end| data..end);
    let packed = packed.ok_or_else(|| {
        Error::format(data.min(bytes.len()), format!("zip: `{name}` is longer than the archive, which is cut"))
    })?;
    if !deflated && packed.len() != size {
        return Err(Error::format(start, format!("zip: `{name}` has two lengths, {} and {size}", packed.len())));
    }
    Ok(Member { name, packed, size, deflated })
}

impl Member {
    /// Returns the bytes of the member, as a range of shared bytes: those of the archive itself if the member is stored
    /// without compression.
    ///
    /// # Errors
    /// [`Error::Format`] for a member that does not unpack to the length in the table of contents, [`Error::Memory`] if
    /// there is too little memory.
    pub fn bytes(&self, archive: &SharedBytes) -> Result<(SharedBytes, Range<usize>)> {
        if !self.deflated {
            return Ok((archive.clone(), self.packed.clone()));
        }
        let damaged = |why: &str| Error::format(self.packed.start, format!("zip: `{}`: {why}", self.name));
        if self.size > self.packed.len().saturating_mul(MOST_RATIO).saturating_add(MOST_RATIO) {
            return Err(damaged("its length is more than its bytes can unpack to"));
        }
        let mut out = Vec::new();
        let memory = |_| Error::Memory { what: "a member of a zip archive", bytes: self.size };
        out.try_reserve_exact(self.size).map_err(memory)?;
        out.resize(self.size, 0);
        let packed = &(**archive).as_ref()[self.packed.clone()];
        let unpacked =
            miniz_oxide::inflate::decompress_slice_iter_to_slice(&mut out, core::iter::once(packed), false, true);
        match unpacked {
            Ok(n) if n == self.size => {
                let range = 0..out.len();
                Ok((Arc::new(out), range))
            }
            _ => Err(damaged("it does not unpack to the length that the archive says")),
        }
    }
}
