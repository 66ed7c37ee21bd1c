//! Reads one tensor of integers as `torch.save` writes it: a zip archive without compression, with the numbers in
//! `data/0` and a pickle that gives their type and shape.
//!
//! A pickle is a program. It is not executed, but compared, instruction by instruction, with the one that PyTorch
//! writes for a single contiguous tensor.

use std::io::{Cursor, Read};
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use zip::{CompressionMethod, ZipArchive};

use super::integers::Integers;
use super::map::Map;

/// Most bytes of the pickle of one tensor; a typical one has 150.
const MOST_PICKLE: u64 = 4096;

/// Opens a file of one tensor of integers of one or two dimensions.
pub(super) fn integers(path: &Path) -> Result<(Map, Integers)> {
    let file = Map::of(path)?;
    let found =
        read(&file).with_context(|| format!("`{}`: expected one tensor of integers of torch.save", path.display()))?;
    Ok((file, found))
}

fn read(file: &[u8]) -> Result<Integers> {
    let mut archive = ZipArchive::new(Cursor::new(file)).context("expected a zip archive")?;
    let (mut pickle, mut data) = (None, None);
    for i in 0..archive.len() {
        let mut member = archive.by_index(i)?;
        let name = member.name()?.into_owned();
        if name.ends_with("/byteorder") {
            let mut order = String::new();
            member.take(16).read_to_string(&mut order)?;
            ensure!(order == "little", "expected little-endian numbers, found {order:?}");
        } else if name.ends_with("/data.pkl") {
            let mut bytes = Vec::new();
            ensure!(member.size() <= MOST_PICKLE, "expected a single tensor, found more");
            member.read_to_end(&mut bytes)?;
            pickle = Some(bytes);
        } else if name.contains("/data/") {
            ensure!(data.is_none(), "expected a single tensor, found more");
            ensure!(member.compression() == CompressionMethod::Stored, "expected numbers without compression");
            let start = member.data_start().and_then(|s| usize::try_from(s).ok());
            let end = start.and_then(|s| s.checked_add(usize::try_from(member.size()).ok()?));
            let range = start.zip(end).map(|(start, end)| start..end);
            data = Some(range.filter(|r| r.end <= file.len()).context("the numbers lie outside of the file")?);
        }
    }
    let (pickle, data) =
        (pickle.context("expected data.pkl, found none")?, data.context("expected data/0, found none")?);
    Program { bytes: &pickle, at: 0 }.tensor(data)
}

/// The instructions of a pickle, read in order.
struct Program<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Program<'_> {
    /// Returns the next instruction, skipping those that only store the top of the stack for later.
    fn next(&mut self) -> Result<u8> {
        loop {
            let op = self.take(1)?[0];
            match op {
                b'q' => self.take(1).map(|_| ())?,
                b'r' => self.take(4).map(|_| ())?,
                _ => return Ok(op),
            }
        }
    }

    fn take(&mut self, n: usize) -> Result<&[u8]> {
        let end = self.at.checked_add(n).filter(|end| *end <= self.bytes.len());
        let range = self.at..end.context("the pickle ends too soon")?;
        self.at = range.end;
        Ok(&self.bytes[range])
    }

    fn expect(&mut self, op: u8) -> Result<()> {
        let found = self.next()?;
        ensure!(found == op, "expected a single tensor, found another object (instruction {found:#04x} of its pickle)");
        Ok(())
    }

    /// Parses the name of a module and a name in it.
    fn global(&mut self) -> Result<String> {
        self.expect(b'c')?;
        let rest = &self.bytes[self.at..];
        let end = rest.iter().enumerate().filter(|(_, b)| **b == b'\n').nth(1).map(|(i, _)| i);
        let name = String::from_utf8_lossy(&rest[..end.context("the pickle ends too soon")?]).replace('\n', ".");
        self.at += end.unwrap_or(0) + 1;
        Ok(name)
    }

    fn text(&mut self) -> Result<()> {
        self.expect(b'X')?;
        let n = u32::from_le_bytes(self.take(4)?.try_into().expect("4 bytes"));
        self.take(n as usize)?;
        Ok(())
    }

    fn integer(&mut self) -> Result<usize> {
        let op = self.next()?;
        let n = match op {
            b'K' => 1,
            b'M' => 2,
            b'J' => 4,
            0x8a => usize::from(self.take(1)?[0]),
            _ => bail!("expected a number, found another object (instruction {op:#04x} of its pickle)"),
        };
        ensure!(n <= 8, "expected a number of at most 8 bytes");
        let value = self.take(n)?.iter().rev().fold(0_u64, |v, b| v << 8 | u64::from(*b));
        usize::try_from(value).context("a number that is too large")
    }

    /// Parses one or two numbers.
    fn sizes(&mut self) -> Result<Vec<usize>> {
        let first = self.integer()?;
        let before = self.at;
        if self.next()? == 0x85 {
            return Ok(vec![first]);
        }
        self.at = before;
        let second = self.integer()?;
        self.expect(0x86)?;
        Ok(vec![first, second])
    }

    fn tensor(mut self, data: Range<usize>) -> Result<Integers> {
        self.expect(0x80)?;
        self.take(1)?;
        let made = self.global()?;
        ensure!(made == "torch._utils._rebuild_tensor_v2", "expected a tensor, found {made}");
        self.expect(b'(')?;
        self.expect(b'(')?;
        self.text()?;
        let (size, signed) = match self.global()?.as_str() {
            "torch.LongStorage" => (8, true),
            "torch.IntStorage" => (4, true),
            "torch.ShortStorage" => (2, true),
            "torch.CharStorage" => (1, true),
            "torch.ByteStorage" | "torch.BoolStorage" => (1, false),
            other => bail!("expected integers, found {other}"),
        };
        self.text()?;
        self.text()?;
        self.integer()?;
        self.expect(b't')?;
        self.expect(b'Q')?;
        ensure!(self.integer()? == 0, "expected a whole tensor, found a part of one: save a .clone() of it");
        let shape = self.sizes()?;
        let stride = self.sizes()?;
        let dense = match shape[..] {
            [_] => vec![1],
            _ => vec![shape[1], 1],
        };
        ensure!(stride == dense, "expected a tensor in order, found another stride: save a .contiguous() one");
        let n = shape.iter().try_fold(size, |n: usize, s| n.checked_mul(*s));
        let end = n.and_then(|n| data.start.checked_add(n)).filter(|end| *end <= data.end);
        let end = end.with_context(|| format!("expected more numbers by its shape {shape:?} than the file has"))?;
        let mut found = Integers::at(data.start..end, size, signed);
        found.shape = shape;
        Ok(found)
    }
}
