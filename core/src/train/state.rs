//! Everything that a checkpoint holds, as named arrays.

use crate::error::{Error, Result};
use crate::model::Tensor;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// One array of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    /// Numbers of training; those of a run that goes on are shared with it until it changes them.
    F32(Tensor),
    /// Statistics and controllers.
    F64(Vec<f64>),
    /// The table of co-firing; shared as the numbers of training are.
    U16(Arc<Vec<u16>>),
    /// Tables.
    U32(Vec<u32>),
    /// Counters.
    U64(Vec<u64>),
}

/// Named arrays, in order of their names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State(pub BTreeMap<String, Array>);

macro_rules! take {
    ($name:ident, $variant:ident, $t:ty) => {
        /// Takes the array of this name, of `len` numbers.
        ///
        /// # Errors
        /// [`Error::Format`] if it is missing, of another type or of another length.
        pub fn $name(&mut self, name: &str, len: usize) -> Result<$t> {
            match self.0.remove(name) {
                Some(Array::$variant(v)) if v.len() == len => Ok(v),
                Some(Array::$variant(v)) => Err(Error::format(
                    0,
                    format!("`{name}` of the checkpoint: expected {len} numbers, found {}", v.len()),
                )),
                Some(_) => Err(Error::format(0, format!("`{name}` of the checkpoint has the wrong type"))),
                None => Err(Error::format(0, format!("`{name}` is missing from the checkpoint"))),
            }
        }
    };
}

impl State {
    take!(take_f32, F32, Tensor);
    take!(take_f64, F64, Vec<f64>);
    take!(take_u16, U16, Arc<Vec<u16>>);
    take!(take_u32, U32, Vec<u32>);
    take!(take_u64, U64, Vec<u64>);

    /// Adds an array.
    pub fn put(&mut self, name: impl Into<String>, array: Array) {
        self.0.insert(name.into(), array);
    }
}
