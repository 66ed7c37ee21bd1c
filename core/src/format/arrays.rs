//! Named arrays of numbers from any source: a safetensors file, an `.npz`, or a pickle that a host has read.

use super::array::{Array, Element};
use super::npy;
use super::zip;
use crate::error::{Error, Result};
use crate::model::{SharedBytes, Tensor};
use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;
use safetensors::SafeTensors;

/// A value beside the arrays of a pickle.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// A text.
    Text(String),
}

/// The arrays and values of one file, by name.
#[derive(Clone, Debug, Default)]
pub struct Arrays {
    /// The name of the file, for messages.
    pub file: String,
    /// The arrays.
    pub arrays: BTreeMap<String, Array>,
    /// The values, which only pickles have. The name of a nested value is the path to it, joined by `.`.
    pub values: BTreeMap<String, Scalar>,
    /// Whether bytes may be held as long as a model lives ([`Array::to_tensor`]).
    pub keep: bool,
}

impl Arrays {
    /// Reads the arrays of a safetensors file.
    ///
    /// # Errors
    /// [`Error::Format`] for bytes that are not such a file, or for a type of numbers that no tool uses for weights.
    pub fn of_safetensors(file: &str, bytes: &SharedBytes) -> Result<Self> {
        let all = (**bytes).as_ref();
        let read = SafeTensors::deserialize(all).map_err(|e| Error::format(0, format!("{file}: {e}")))?;
        let mut arrays = BTreeMap::new();
        for (name, view) in read.iter() {
            use safetensors::Dtype;
            let element = match view.dtype() {
                Dtype::F64 => Element::F64,
                Dtype::F32 => Element::F32,
                Dtype::F16 => Element::F16,
                Dtype::BF16 => Element::Bf16,
                Dtype::I64 => Element::I64,
                Dtype::I32 => Element::I32,
                Dtype::I16 => Element::I16,
                Dtype::I8 => Element::I8,
                Dtype::U64 => Element::U64,
                Dtype::U32 => Element::U32,
                Dtype::U16 => Element::U16,
                Dtype::U8 => Element::U8,
                Dtype::BOOL => Element::Bool,
                other => {
                    let why = format!("{file}: tensor `{name}`: numbers of type {other:?} are not read");
                    return Err(Error::format(0, why));
                }
            };
            let start = view.data().as_ptr() as usize - all.as_ptr() as usize;
            let range = start..start + view.data().len();
            arrays.insert(name.to_owned(), Array::dense(bytes.clone(), range, element, view.shape().to_vec())?);
        }
        Ok(Self { file: file.into(), arrays, ..Self::default() })
    }

    /// Reads the arrays of an `.npz`: a zip archive of `.npy` files, stored or deflated.
    ///
    /// # Errors
    /// [`Error::Format`] naming the member.
    pub fn of_npz(file: &str, bytes: &SharedBytes) -> Result<Self> {
        let mut arrays = BTreeMap::new();
        let of = |what: &str, e: Error| match e {
            Error::Format { offset, what: why } => Error::format(offset, format!("{file}{what}: {why}")),
            other => other,
        };
        for member in zip::members((**bytes).as_ref()).map_err(|e| of("", e))? {
            let what = format!(": {}", member.name);
            let (data, range) = member.bytes(bytes).map_err(|e| of("", e))?;
            let array = npy::array(&data, range).map_err(|e| of(&what, e))?;
            let name = member.name.strip_suffix(".npy").unwrap_or(&member.name);
            arrays.insert(name.to_owned(), array);
        }
        Ok(Self { file: file.into(), arrays, ..Self::default() })
    }

    /// Returns an [`Error::Format`] about this file.
    #[cold]
    pub fn wrong(&self, what: impl fmt::Display) -> Error {
        Error::format(0, format!("{}: {what}", self.file))
    }

    /// Returns whether there is an array called `name`.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.arrays.contains_key(name)
    }

    /// Returns whether there are arrays of all these names.
    #[must_use]
    pub fn has_all(&self, names: &[&str]) -> bool {
        names.iter().all(|name| self.has(name))
    }

    /// Returns the array called `name`.
    ///
    /// # Errors
    /// [`Error::Format`] if it does not exist.
    pub fn get(&self, name: &str) -> Result<&Array> {
        self.arrays.get(name).ok_or_else(|| self.wrong(format_args!("tensor `{name}` is missing")))
    }

    /// Returns the array called `name`, of the sizes `shape`.
    ///
    /// # Errors
    /// [`Error::Format`] if it does not exist or has other sizes.
    pub fn shaped(&self, name: &str, shape: &[usize]) -> Result<&Array> {
        let array = self.get(name)?;
        // A vector may have more dimensions of size 1: that leaves its numbers in the same order.
        let is_vector = |sizes: &[usize]| sizes.iter().filter(|n| **n != 1).count() <= 1;
        if array.shape() == shape || (shape.len() == 1 && array.len() == shape[0] && is_vector(array.shape())) {
            return Ok(array);
        }
        Err(self.wrong(format_args!("tensor `{name}`: expected the shape {shape:?}, found {:?}", array.shape())))
    }

    /// Returns the vector called `name`, of `n` numbers.
    ///
    /// # Errors
    /// As [`Arrays::shaped`].
    pub fn vector(&self, name: &str, n: usize) -> Result<Tensor> {
        self.shaped(name, &[n])?.to_tensor(self.keep)
    }

    /// Returns the matrix called `name`, `(rows, columns)`.
    ///
    /// # Errors
    /// As [`Arrays::shaped`].
    pub fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Tensor> {
        self.shaped(name, &[rows, columns])?.to_tensor(self.keep)
    }

    /// Returns the transpose `(columns, rows)` of the matrix called `name`, `(rows, columns)` in the file.
    ///
    /// # Errors
    /// As [`Arrays::shaped`].
    pub fn matrix_transposed(&self, name: &str, rows: usize, columns: usize) -> Result<Tensor> {
        self.shaped(name, &[rows, columns])?.clone().transposed().to_tensor(self.keep)
    }

    /// Returns the only number of the array called `name`, as `f32`.
    ///
    /// # Errors
    /// As [`Arrays::shaped`].
    pub fn number(&self, name: &str) -> Result<f32> {
        Ok(self.shaped(name, &[1])?.to_f32()?[0])
    }

    /// Returns the two sizes of the matrix called `name`, each at least 1 and below 2^32 - 1, which is no index.
    ///
    /// # Errors
    /// [`Error::Format`] if it does not exist or is not such a matrix.
    pub fn sizes(&self, name: &str) -> Result<[usize; 2]> {
        let array = self.get(name)?;
        match *array.shape() {
            [rows, columns] if (1..u32::MAX as usize).contains(&rows) && (1..u32::MAX as usize).contains(&columns) => {
                Ok([rows, columns])
            }
            _ => {
                Err(self.wrong(format_args!("tensor `{name}`: expected a matrix, found the shape {:?}", array.shape())))
            }
        }
    }

    /// Returns the arrays and values whose names begin with `prefix`, without the prefix, if there are such arrays.
    #[must_use]
    pub fn below(&self, prefix: &str) -> Option<Self> {
        let strip = |name: &String| name.strip_prefix(prefix).map(ToString::to_string);
        let arrays: BTreeMap<_, _> =
            self.arrays.iter().filter_map(|(name, array)| Some((strip(name)?, array.clone()))).collect();
        let values = self.values.iter().filter_map(|(name, value)| Some((strip(name)?, value.clone()))).collect();
        (!arrays.is_empty()).then(|| Self { file: self.file.clone(), arrays, values, keep: self.keep })
    }

    /// Checks that all arrays are in `known`: an unknown one may change what the model computes.
    ///
    /// # Errors
    /// [`Error::Format`] naming the first unknown array.
    pub fn only(&self, known: &[&str], of: &str) -> Result<()> {
        match self.arrays.keys().find(|name| !known.contains(&name.as_str())) {
            None => Ok(()),
            Some(name) => Err(self.wrong(format_args!("it holds a tensor `{name}`, which {of} does not have"))),
        }
    }
}
