//! NumPy's `.npy`, versions 1 to 3: a magic string, a Python literal, then the numbers.

use super::array::{Array, Element};
use crate::error::{Error, Result};
use crate::model::SharedBytes;
use crate::rows::Dtype;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;
use core::str;

const MAGIC: &[u8] = b"\x93NUMPY";

/// What a `.npy` file says of itself, checked against its size to the byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NpyHeader {
    /// The type of the numbers; never [`Dtype::Bf16`], which `.npy` lacks.
    pub dtype: Dtype,
    /// Rows and columns.
    pub shape: [usize; 2],
    /// The byte at which the first row begins.
    pub data_offset: usize,
}

impl NpyHeader {
    /// Reads the header of `file`, the whole bytes of a `.npy` file of rows: `[n, d]`, row-major, little-endian floats.
    ///
    /// # Errors
    /// [`Error::Format`] with the field, what was expected and what was found: anything else than the above, or a size
    /// that differs from the one that the header calls for.
    pub fn parse(file: &[u8]) -> Result<Self> {
        let (text, data_offset) = text(file)?;
        let (dtype, shape) = text.header()?;
        let [n, d] = shape;
        // Three factors below 2^64 could pass 2^128, two cannot, and a size of 2^127 is refused anyway.
        let expected = (n as u128 * d as u128).saturating_mul(dtype.size_bytes() as u128);
        let found = file.len() - data_offset;
        if expected != found as u128 {
            let why = format!("data: expected {expected} bytes ({n} x {d} {dtype}), found {found}");
            return Err(Error::format(data_offset, why));
        }
        Ok(Self { dtype, shape, data_offset })
    }

    /// The bytes that come before `n` rows of `d` numbers, as NumPy writes them: version 1.0, a multiple of 64 bytes.
    ///
    /// # Errors
    /// [`Error::Config`] for [`Dtype::Bf16`], which `.npy` lacks.
    pub fn bytes(dtype: Dtype, n: usize, d: usize) -> Result<Vec<u8>> {
        let descr = match dtype {
            Dtype::F32 => "<f4",
            Dtype::F16 => "<f2",
            Dtype::Bf16 => return Err(Error::config("dtype", ".npy has no bf16; expected f32 or f16")),
        };
        let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({n}, {d}), }}");
        // Two sizes of 20 digits keep the header below 128 bytes, so one byte of length is enough.
        let total = (MAGIC.len() + 4 + text.len() + 1).next_multiple_of(64);
        let length = (total - MAGIC.len() - 4) as u16;
        let mut bytes = Vec::with_capacity(total);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[1, 0]);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
        bytes.resize(total - 1, b' ');
        bytes.push(b'\n');
        Ok(bytes)
    }
}

/// The literal of the header of `file`, and the byte at which the numbers begin.
fn text(file: &[u8]) -> Result<(Literal<'_>, usize)> {
    let magic = file.get(..MAGIC.len()).unwrap_or(file);
    if magic != MAGIC {
        return Err(Error::format(0, "magic: expected \"\\x93NUMPY\", this is no .npy file"));
    }
    let (length_at, length_size) = match file.get(6..8) {
        None => return Err(Error::format(file.len(), "version: the file ends before it")),
        Some([1, 0]) => (8, 2),
        Some([2 | 3, 0]) => (8, 4),
        Some(v) => return Err(Error::format(6, format!("version: expected 1.0 to 3.0, found {}.{}", v[0], v[1]))),
    };
    let Some(length) = file.get(length_at..length_at + length_size) else {
        return Err(Error::format(file.len(), "header length: the file ends before it"));
    };
    let length = length.iter().rev().fold(0_usize, |n, &b| n << 8 | usize::from(b));
    let start = length_at + length_size;
    let Some(text) = start.checked_add(length).and_then(|end| file.get(start..end)) else {
        let why = format!("header: expected {length} bytes, found {}", file.len() - start);
        return Err(Error::format(start, why));
    };
    let text = str::from_utf8(text)
        .map_err(|e| Error::format(start + e.valid_up_to(), "header: expected text, found bytes that are not"))?;
    Ok((Literal { text, at: 0, base: start }, start + length))
}

/// The array of a `.npy` file of any shape and order that lies in `range` of `bytes`: floats and signed integers.
///
/// # Errors
/// [`Error::Format`] with the field, what was expected and what was found.
pub(super) fn array(bytes: &SharedBytes, range: Range<usize>) -> Result<Array> {
    let file = &(**bytes).as_ref()[range.clone()];
    let (literal, data_offset) = text(file)?;
    let (element, in_columns, shape) = literal.array()?;
    let data = range.start + data_offset..range.end;
    if !in_columns {
        return Array::dense(bytes.clone(), data, element, shape);
    }
    Ok(Array::dense(bytes.clone(), data, element, shape.into_iter().rev().collect())?.transposed())
}

/// A cursor on the header's Python literal; only what NumPy writes is understood.
struct Literal<'a> {
    text: &'a str,
    at: usize,
    /// The byte of the file at which `text` begins.
    base: usize,
}

impl<'a> Literal<'a> {
    fn error<T>(&self, what: impl Into<String>) -> Result<T> {
        Err(Error::format(self.base + self.at, what))
    }

    /// The next byte that is not white space, not consumed.
    fn peek(&mut self) -> Option<u8> {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += rest.iter().take_while(|b| b.is_ascii_whitespace()).count();
        self.text.as_bytes().get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8) -> Result<()> {
        if self.eat(byte) { Ok(()) } else { self.error(format!("header: expected `{}`", char::from(byte))) }
    }

    fn string(&mut self, what: &str) -> Result<&'a str> {
        let Some(quote @ (b'\'' | b'"')) = self.peek() else {
            return self.error(format!("header: {what}: expected a string"));
        };
        let start = self.at + 1;
        match self.text[start..].find(char::from(quote)) {
            Some(length) => {
                self.at = start + length + 1;
                Ok(&self.text[start..start + length])
            }
            None => self.error(format!("header: {what}: the string has no end")),
        }
    }

    /// Hands the keys to `value`, which reads what follows and says whether the key was there before.
    fn each_key(&mut self, mut value: impl FnMut(&mut Self, &str) -> Result<bool>) -> Result<()> {
        self.expect(b'{')?;
        while !self.eat(b'}') {
            let key = self.string("key")?;
            self.expect(b':')?;
            if value(self, key)? {
                return self.error(format!("header: `{key}` is there twice"));
            }
            if !self.eat(b',') && self.peek() != Some(b'}') {
                return self.error("header: expected `,` or `}`");
            }
        }
        if self.peek().is_some() {
            return self.error("header: expected nothing after `}`");
        }
        Ok(())
    }

    fn unknown_key<T>(&self) -> Result<T> {
        self.error("header: expected the keys descr, fortran_order and shape, found another")
    }

    fn missing<T>(&self, key: &str) -> Result<T> {
        self.error(format!("header: `{key}` is missing"))
    }

    fn header(mut self) -> Result<(Dtype, [usize; 2])> {
        let (mut dtype, mut in_rows, mut shape) = (None, None, None);
        self.each_key(|literal, key| {
            Ok(match key {
                "descr" => dtype.replace(literal.dtype()?).is_some(),
                "fortran_order" => in_rows.replace(literal.fortran_order()?).is_some(),
                "shape" => shape.replace(literal.shape()?).is_some(),
                _ => return literal.unknown_key(),
            })
        })?;
        match (dtype, in_rows, shape) {
            (Some(dtype), Some(()), Some(shape)) => Ok((dtype, shape)),
            (None, ..) => self.missing("descr"),
            (_, None, _) => self.missing("fortran_order"),
            (.., None) => self.missing("shape"),
        }
    }

    /// Type, whether columns lie one after another, and sizes of any array of floats or signed integers.
    fn array(mut self) -> Result<(Element, bool, Vec<usize>)> {
        let (mut element, mut in_columns, mut shape) = (None, None, None);
        self.each_key(|literal, key| {
            Ok(match key {
                "descr" => element.replace(literal.element()?).is_some(),
                "fortran_order" => in_columns.replace(literal.is_fortran()?).is_some(),
                "shape" => shape.replace(literal.sizes()?).is_some(),
                _ => return literal.unknown_key(),
            })
        })?;
        match (element, in_columns, shape) {
            (Some(element), Some(in_columns), Some(shape)) => Ok((element, in_columns, shape)),
            (None, ..) => self.missing("descr"),
            (_, None, _) => self.missing("fortran_order"),
            (.., None) => self.missing("shape"),
        }
    }

    fn element(&mut self) -> Result<Element> {
        const WANTED: &str = "descr: expected little-endian floats or signed integers, found";
        if matches!(self.peek(), Some(b'[' | b'(')) {
            return self.error(format!("{WANTED} a structured type"));
        }
        let descr = self.string("descr")?;
        Ok(match descr {
            "<f8" => Element::F64,
            "<f4" => Element::F32,
            "<f2" => Element::F16,
            "<i8" => Element::I64,
            "<i4" => Element::I32,
            "<i2" => Element::I16,
            "|i1" => Element::I8,
            "|u1" => Element::U8,
            "|b1" => Element::Bool,
            _ => {
                return self.error(format!("{WANTED} '{}'", descr.chars().take(16).collect::<String>().escape_debug()));
            }
        })
    }

    fn dtype(&mut self) -> Result<Dtype> {
        const WANTED: &str = "descr: expected '<f4' or '<f2' (float32 or float16, little-endian), found";
        if matches!(self.peek(), Some(b'[' | b'(')) {
            return self.error(format!("{WANTED} a structured type"));
        }
        let at = self.at;
        let descr = self.string("descr")?;
        let why = match descr {
            "<f4" => return Ok(Dtype::F32),
            "<f2" => return Ok(Dtype::F16),
            "<V2" | "|V2" => {
                "'V2': .npy has no bf16; save as safetensors, or as raw .bin and give its type and width".into()
            }
            ">f4" | ">f2" | ">f8" => format!("'{descr}', which is big-endian"),
            "<f8" => "'<f8', float64: save as float32".into(),
            _ => format!("'{}'", descr.chars().take(16).collect::<String>().escape_debug()),
        };
        self.at = at;
        self.error(format!("{WANTED} {why}"))
    }

    fn is_fortran(&mut self) -> Result<bool> {
        self.peek();
        let rest = &self.text[self.at..];
        let Some((word, value)) = [("True", true), ("False", false)].into_iter().find(|(w, _)| rest.starts_with(w))
        else {
            return self.error("fortran_order: expected False, found something else");
        };
        self.at += word.len();
        Ok(value)
    }

    fn fortran_order(&mut self) -> Result<()> {
        self.peek();
        let at = self.at;
        if self.is_fortran()? {
            self.at = at;
            return self
                .error("fortran_order: expected False (rows one after another), found True: save with order='C'");
        }
        Ok(())
    }

    fn sizes(&mut self) -> Result<Vec<usize>> {
        self.expect(b'(')?;
        let mut sizes = Vec::new();
        while !self.eat(b')') {
            let Some(size) = self.integer() else {
                return self.error("shape: expected a size below 2^64 or `)`");
            };
            sizes.push(size);
            if !self.eat(b',') && self.peek() != Some(b')') {
                return self.error("shape: expected `,` or `)`");
            }
        }
        Ok(sizes)
    }

    fn shape(&mut self) -> Result<[usize; 2]> {
        self.peek();
        // Where the first size stands: errors about sizes point there.
        let at = self.at + 1;
        let sizes = self.sizes()?;
        let Ok(shape) = <[usize; 2]>::try_from(sizes.as_slice()) else {
            self.at = at;
            return self.error(format!("shape: expected 2 dimensions (rows, width), found {}", sizes.len()));
        };
        if shape[1] == 0 {
            self.at = at;
            return self.error("shape: expected a width of at least 1, found 0");
        }
        Ok(shape)
    }

    fn integer(&mut self) -> Option<usize> {
        self.peek();
        let rest = &self.text[self.at..];
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let value = rest[..digits].parse().ok()?;
        self.at += digits;
        self.eat(b'L'); // a long of Python 2
        Some(value)
    }
}
