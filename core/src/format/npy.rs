//! NumPy's `.npy`, versions 1 to 3: a magic string, a Python literal, then the numbers.

use super::array::{Array, Element};
use crate::error::{Error, Result};
use crate::model::SharedBytes;
use crate::rows::Dtype;
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;
use core::str;

const MAGIC: &[u8] = b"\x93NUMPY";
/// Most dimensions that are read; arrays of NumPy have fewer.
const MOST_DIMENSIONS: usize = 64;

/// The header of a `.npy` file of any type and shape. If the type is one of plain numbers, it has been checked that the
/// file has exactly the size that type and shape need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NpyArray {
    /// The type as NumPy writes it, for instance `<f4`; empty for a structured type.
    pub descr: String,
    /// Whether the first dimension is the one that is contiguous.
    pub fortran_order: bool,
    /// The size of each dimension.
    pub shape: Vec<usize>,
    /// The byte at which the numbers start.
    pub data_offset: usize,
}

impl NpyArray {
    /// Reads the header of `file`, the whole bytes of a `.npy` file.
    ///
    /// # Errors
    /// [`Error::Format`] with the field, what was expected and what was found.
    pub fn parse(file: &[u8]) -> Result<Self> {
        let array = Self::header(file)?;
        array.check_size(file)?;
        Ok(array)
    }

    /// Parses the header, without the check of the size.
    fn header(file: &[u8]) -> Result<Self> {
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
        let (descr, fortran_order, shape) = Literal { text, at: 0, base: start }.header()?;
        Ok(Self { descr: descr.to_owned(), fortran_order, shape, data_offset: start + length })
    }

    /// Checks that the file has the size that the header needs.
    fn check_size(&self, file: &[u8]) -> Result<()> {
        let Some(size) = self.item_bytes() else { return Ok(()) };
        let expected = self.shape.iter().fold(size as u128, |n, &s| n.saturating_mul(s as u128));
        let found = file.len() - self.data_offset;
        if expected == found as u128 {
            return Ok(());
        }
        let what = match self.descr.as_str() {
            "<f4" => "f32",
            "<f2" => "f16",
            other => other,
        };
        let why = format!("data: expected {expected} bytes ({} {what}), found {found}", self.shape_text());
        Err(Error::format(self.data_offset, why))
    }

    /// Returns the bytes per number of a plain type: `f`, `i`, `u`, `b` or `c` and a size.
    fn item_bytes(&self) -> Option<usize> {
        let kind = self.descr.trim_start_matches(['<', '>', '|', '=']);
        let size = kind.strip_prefix(['f', 'i', 'u', 'b', 'c'])?;
        size.parse().ok().filter(|n| (1..=32).contains(n))
    }

    /// Returns the size in bytes of an integer and whether it has a sign, for little-endian integers and booleans.
    pub fn integer(&self) -> Option<(usize, bool)> {
        match self.descr.as_str() {
            "|u1" | "|b1" => Some((1, false)),
            "|i1" => Some((1, true)),
            "<u2" => Some((2, false)),
            "<i2" => Some((2, true)),
            "<u4" => Some((4, false)),
            "<i4" => Some((4, true)),
            "<u8" => Some((8, false)),
            "<i8" => Some((8, true)),
            _ => None,
        }
    }

    fn shape_text(&self) -> String {
        let sizes: Vec<String> = self.shape.iter().map(|n| format!("{n}")).collect();
        sizes.join(" x ")
    }
}

/// The header of a `.npy` file of rows, which has been checked to have exactly the size that the header needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NpyHeader {
    /// The type of the numbers; never [`Dtype::Bf16`], which `.npy` lacks.
    pub dtype: Dtype,
    /// Rows and columns.
    pub shape: [usize; 2],
    /// Rows per sequence, where the array has three dimensions.
    pub context: Option<usize>,
    /// The byte at which the first row starts.
    pub data_offset: usize,
}

impl NpyHeader {
    /// Reads the header of `file`, the whole bytes of a `.npy` file of rows: `[n, d]`, or `[sequences, rows, d]`,
    /// row-major, little-endian floats.
    ///
    /// # Errors
    /// [`Error::Format`] with the field, what was expected and what was found: any other array, or a size that differs
    /// from the one in the header.
    pub fn parse(file: &[u8]) -> Result<Self> {
        // The size is checked last, since an error about the type says more.
        let array = NpyArray::header(file)?;
        let NpyArray { descr, fortran_order, shape, data_offset } = &array;
        let data_offset = *data_offset;
        let wrong = |what: String| Err(Error::format(0, what));
        const WANTED: &str = "descr: expected '<f4' or '<f2' (float32 or float16, little-endian), found";
        let why = match descr.as_str() {
            "<f4" | "<f2" => None,
            "" => Some("a structured type".to_owned()),
            "<V2" | "|V2" => Some(
                "'V2': .npy has no bf16; save as safetensors, or as raw .bin and give its type and width".to_owned(),
            ),
            ">f4" | ">f2" | ">f8" => Some(format!("'{descr}', which is big-endian")),
            "<f8" => Some("'<f8', float64: save as float32".to_owned()),
            _ => Some(format!("'{}'", descr.chars().take(16).collect::<String>().escape_debug())),
        };
        if let Some(why) = why {
            return wrong(format!("{WANTED} {why}"));
        }
        if *fortran_order {
            return wrong(
                "fortran_order: expected False (rows one after another), found True: save with order='C'".to_owned(),
            );
        }
        let dtype = if descr == "<f4" { Dtype::F32 } else { Dtype::F16 };
        let (n, context, d) = match shape[..] {
            [n, d] => (n, None, d),
            // The size of the file bounds the product, unless a dimension is 0.
            [n, t, d] => (n.saturating_mul(t), Some(t), d),
            _ => {
                let found = shape.len();
                return wrong(format!(
                    "shape: expected 2 dimensions (rows, width) or 3 (sequences, rows, width), found {found}"
                ));
            }
        };
        if d == 0 {
            return wrong("shape: expected a width of at least 1, found 0".to_owned());
        }
        array.check_size(file)?;
        Ok(Self { dtype, shape: [n, d], context: context.filter(|t| *t > 0), data_offset })
    }

    /// Returns the bytes before `n` rows of `d` numbers, as NumPy writes them: version 1.0, a multiple of 64 bytes.
    ///
    /// # Errors
    /// [`Error::Config`] for [`Dtype::Bf16`], which `.npy` lacks.
    pub fn bytes(dtype: Dtype, n: usize, d: usize) -> Result<Vec<u8>> {
        let descr = match dtype {
            Dtype::F32 => "<f4",
            Dtype::F16 => "<f2",
            Dtype::Bf16 => return Err(Error::config("dtype", ".npy has no bf16; expected f32 or f16")),
        };
        Ok(header(descr, &[n, d]))
    }
}

/// Returns the bytes before an array of type `descr` and of this shape, as NumPy writes them: version 1.0, a multiple
/// of 64 bytes. The shape has at most three sizes, so that the length of the header fits into its two bytes.
pub(super) fn header(descr: &str, shape: &[usize]) -> Vec<u8> {
    let sizes: Vec<String> = shape.iter().map(|n| format!("{n}")).collect();
    let comma = if shape.len() == 1 { "," } else { "" };
    let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}{comma}), }}", sizes.join(", "));
    let total = (MAGIC.len() + 4 + text.len() + 1).next_multiple_of(64);
    let length = (total - MAGIC.len() - 4) as u16;
    let mut bytes = Vec::with_capacity(total);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&[1, 0]);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
    bytes.resize(total - 1, b' ');
    bytes.push(b'\n');
    bytes
}

/// Reads the array of the `.npy` file in `range` of `bytes`, of any shape and order: floats, integers of up to 8 bytes
/// and booleans, little-endian.
///
/// # Errors
/// [`Error::Format`] with the field, what was expected and what was found.
pub(super) fn array(bytes: &SharedBytes, range: Range<usize>) -> Result<Array> {
    let file = &(**bytes).as_ref()[range.clone()];
    let NpyArray { descr, fortran_order, shape, data_offset } = NpyArray::parse(file)?;
    let element = match descr.as_str() {
        "<f8" => Element::F64,
        "<f4" => Element::F32,
        "<f2" => Element::F16,
        "<i8" => Element::I64,
        "<i4" => Element::I32,
        "<i2" => Element::I16,
        "|i1" => Element::I8,
        "<u8" => Element::U64,
        "<u4" => Element::U32,
        "<u2" => Element::U16,
        "|u1" => Element::U8,
        "|b1" => Element::Bool,
        "" => {
            return Err(Error::format(0, "descr: expected little-endian floats or integers, found a structured type"));
        }
        _ => {
            let found = descr.chars().take(16).collect::<String>();
            let found = found.escape_debug();
            return Err(Error::format(0, format!("descr: expected little-endian floats or integers, found '{found}'")));
        }
    };
    let data = range.start + data_offset..range.end;
    if !fortran_order {
        return Array::dense(bytes.clone(), data, element, shape);
    }
    Ok(Array::dense(bytes.clone(), data, element, shape.into_iter().rev().collect())?.transposed())
}

/// A cursor on the header's Python literal; only the form that NumPy writes is parsed.
struct Literal<'a> {
    text: &'a str,
    at: usize,
    /// The byte of the file at which `text` starts.
    base: usize,
}

impl<'a> Literal<'a> {
    fn error<T>(&self, what: impl Into<String>) -> Result<T> {
        Err(Error::format(self.base + self.at, what))
    }

    /// Returns the next byte that is not white space, without consuming it.
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

    fn header(mut self) -> Result<(&'a str, bool, Vec<usize>)> {
        let (mut descr, mut in_columns, mut shape) = (None, None, None);
        self.expect(b'{')?;
        while !self.eat(b'}') {
            let key = self.string("key")?;
            self.expect(b':')?;
            let again = match key {
                "descr" => descr.replace(self.descr()?).is_some(),
                "fortran_order" => in_columns.replace(self.fortran_order()?).is_some(),
                "shape" => shape.replace(self.shape()?).is_some(),
                _ => return self.error("header: expected the keys descr, fortran_order and shape, found another"),
            };
            if again {
                return self.error(format!("header: `{key}` is there twice"));
            }
            if !self.eat(b',') && self.peek() != Some(b'}') {
                return self.error("header: expected `,` or `}`");
            }
        }
        if self.peek().is_some() {
            return self.error("header: expected nothing after `}`");
        }
        match (descr, in_columns, shape) {
            (Some(descr), Some(in_columns), Some(shape)) => Ok((descr, in_columns, shape)),
            (None, ..) => self.error("header: `descr` is missing"),
            (_, None, _) => self.error("header: `fortran_order` is missing"),
            (.., None) => self.error("header: `shape` is missing"),
        }
    }

    /// Parses the type; the empty string for a structured one, whose fields are skipped.
    fn descr(&mut self) -> Result<&'a str> {
        if !matches!(self.peek(), Some(b'[' | b'(')) {
            return self.string("descr");
        }
        let mut depth = 0_usize;
        loop {
            match self.peek() {
                Some(b'[' | b'(') => depth += 1,
                Some(b']' | b')') => depth -= 1,
                Some(b'\'' | b'"') => {
                    self.string("descr")?;
                    continue;
                }
                Some(b',' | b'0'..=b'9') => {}
                _ => return self.error("header: descr: expected a type"),
            }
            self.at += 1;
            if depth == 0 {
                return Ok("");
            }
        }
    }

    fn fortran_order(&mut self) -> Result<bool> {
        self.peek();
        let rest = &self.text[self.at..];
        let (word, value) = if rest.starts_with("True") { ("True", true) } else { ("False", false) };
        if !rest.starts_with(word) {
            return self.error("fortran_order: expected True or False, found something else");
        }
        self.at += word.len();
        Ok(value)
    }

    fn shape(&mut self) -> Result<Vec<usize>> {
        self.expect(b'(')?;
        let mut shape = Vec::new();
        while !self.eat(b')') {
            let Some(size) = self.integer().filter(|_| shape.len() < MOST_DIMENSIONS) else {
                return self.error("shape: expected a size below 2^64 or `)`");
            };
            shape.push(size);
            if !self.eat(b',') && self.peek() != Some(b')') {
                return self.error("shape: expected `,` or `)`");
            }
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
