//! The state of a training as named arrays: all that a checkpoint holds.

use crate::balance::BalanceState;
use crate::error::{Error, Result};
use crate::model::{Params, Tensor};
use crate::normalise::Normalisation;
use crate::rng::Philox;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// One array of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    /// Parameters, moments and normalisation. Parameters and moments share their memory with the running training until
    /// it changes them.
    F32(Tensor),
    /// Statistics and controllers.
    F64(Vec<f64>),
    /// The co-firing counts; shared in the same way.
    U16(Arc<Vec<u16>>),
    /// Parents.
    U32(Vec<u32>),
    /// Counters.
    U64(Vec<u64>),
}

/// Named arrays, in order of their names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State(pub BTreeMap<String, Array>);

/// A number of two states that differs: the array, its place, and the words of both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Name of the array.
    pub name: String,
    /// Place in it.
    pub index: usize,
    /// The words, the shorter ones in the low bits; none where an array has no such place.
    pub words: [Option<u64>; 2],
}

impl State {
    /// Returns the first number, by name and place, whose bits are not those of `other`.
    pub fn difference(&self, other: &Self) -> Option<Difference> {
        let words = |state: &Self, name: &str, i: usize| {
            state.0.get(name).and_then(|array| match array {
                Array::F32(v) => v.get(i).map(|v| u64::from(v.to_bits())),
                Array::F64(v) => v.get(i).map(|v| v.to_bits()),
                Array::U16(v) => v.get(i).map(|v| u64::from(*v)),
                Array::U32(v) => v.get(i).map(|v| u64::from(*v)),
                Array::U64(v) => v.get(i).copied(),
            })
        };
        let names = self.0.keys().chain(other.0.keys()).collect::<alloc::collections::BTreeSet<_>>();
        names.into_iter().find_map(|name| {
            let both = |i| [words(self, name, i), words(other, name, i)];
            let index = (0..).find(|i| both(*i)[0] != both(*i)[1] || both(*i) == [None; 2])?;
            (both(index) != [None; 2]).then(|| Difference { name: name.clone(), index, words: both(index) })
        })
    }
}

macro_rules! arrays {
    ($take:ident, $variant:ident, $t:ty) => {
        impl State {
            /// Takes the array of this name, of `len` numbers.
            ///
            /// # Errors
            /// [`Error::Format`] if it is missing, of another type or of another length.
            pub fn $take(&mut self, name: &str, len: usize) -> Result<$t> {
                match self.0.remove(name) {
                    Some(Array::$variant(v)) if v.len() == len => Ok(v),
                    Some(Array::$variant(v)) => Err(Error::format(
                        0,
                        format!("`{name}` of the checkpoint: expected {len} numbers, found {}", v.len()),
                    )),
                    Some(_) => Err(wrong_type(name)),
                    None => Err(missing(name)),
                }
            }
        }
    };
}

/// Arrays that several components append to, and read back in the same order: one array of many small ones.
macro_rules! shared_arrays {
    ($push:ident, $next:ident, $variant:ident, $number:ty) => {
        impl State {
            /// Appends numbers to the array of this name.
            ///
            /// # Panics
            /// If the array has another type.
            pub(crate) fn $push(&mut self, name: &str, numbers: &[$number]) {
                let mut all = match self.0.remove(name) {
                    None => Vec::new(),
                    Some(Array::$variant(v)) => v.to_vec(),
                    Some(_) => panic!("`{name}` of a checkpoint is written with two types"),
                };
                all.extend_from_slice(numbers);
                self.put(name, Array::$variant(all.into()));
            }

            /// Takes the next `len` numbers of the array of this name, in the order in which they were appended.
            ///
            /// # Errors
            /// [`Error::Format`] if it is missing, of another type or has fewer numbers left.
            pub(crate) fn $next(&mut self, name: &str, len: usize) -> Result<Vec<$number>> {
                let all = match self.0.remove(name) {
                    Some(Array::$variant(v)) => v.to_vec(),
                    Some(_) => return Err(wrong_type(name)),
                    None => return Err(missing(name)),
                };
                if all.len() < len {
                    let why = format!("`{name}` of the checkpoint: expected {len} more numbers, found {}", all.len());
                    return Err(Error::format(0, why));
                }
                if all.len() > len {
                    self.put(name, Array::$variant(all[len..].to_vec().into()));
                }
                Ok(all[..len].to_vec())
            }
        }
    };
}

fn missing(name: &str) -> Error {
    Error::format(0, format!("`{name}` is missing from the checkpoint"))
}

fn wrong_type(name: &str) -> Error {
    Error::format(0, format!("`{name}` of the checkpoint has the wrong type"))
}

arrays!(take_f32, F32, Tensor);
arrays!(take_f64, F64, Vec<f64>);
arrays!(take_u16, U16, Arc<Vec<u16>>);
arrays!(take_u32, U32, Vec<u32>);
arrays!(take_u64, U64, Vec<u64>);
shared_arrays!(push_f32, next_f32, F32, f32);
shared_arrays!(push_f64, next_f64, F64, f64);
shared_arrays!(push_u64, next_u64, U64, u64);

/// A component of a training that is carried from step to step.
///
/// Implementations of `save` destructure the component without `..`, so that a field that is not saved does not
/// compile.
pub(crate) trait Saved {
    /// Adds what the component carries, under names that begin with `name`.
    fn save(&self, name: &str, state: &mut State);

    /// Reads what [`Saved::save`] has added, and removes it from `state`.
    ///
    /// # Errors
    /// [`Error::Format`] for an array that is missing or of the wrong size.
    fn load(&mut self, name: &str, state: &mut State) -> Result<()>;
}

impl Saved for Params {
    fn save(&self, name: &str, state: &mut State) {
        for (tensor, values) in self.tensors() {
            state.put(format!("{name}.{tensor}"), Array::F32(values.clone()));
        }
    }

    fn load(&mut self, name: &str, state: &mut State) -> Result<()> {
        for (tensor, values) in self.tensors_mut() {
            *values = state.take_f32(&format!("{name}.{tensor}"), values.len())?;
        }
        Ok(())
    }
}

impl Saved for Normalisation {
    fn save(&self, name: &str, state: &mut State) {
        // `row_norm` is a setting.
        let Self { mean, scale, centre, variance, norm_limit, row_norm: _ } = self;
        state.put(format!("{name}.mean"), Array::F32(mean.clone().into()));
        state.put(format!("{name}.centre"), Array::F32(centre.clone().into()));
        state.push_f32(&format!("{name}.scalars"), &[*scale, *variance, *norm_limit]);
    }

    fn load(&mut self, name: &str, state: &mut State) -> Result<()> {
        self.mean = state.take_f32(&format!("{name}.mean"), self.mean.len())?.to_vec();
        self.centre = state.take_f32(&format!("{name}.centre"), self.centre.len())?.to_vec();
        let scalars = state.take_f32(&format!("{name}.scalars"), 3)?;
        (self.scale, self.variance, self.norm_limit) = (scalars[0], scalars[1], scalars[2]);
        Ok(())
    }
}

impl Saved for BalanceState {
    fn save(&self, name: &str, state: &mut State) {
        let Self { w, norm, log_var: [eta, m, v] } = self;
        state.push_f64(name, &[w, norm, eta, m, v].map(|pair| *pair).concat());
    }

    fn load(&mut self, name: &str, state: &mut State) -> Result<()> {
        let Self { w, norm, log_var: [eta, m, v] } = self;
        for pair in [w, norm, eta, m, v] {
            pair.copy_from_slice(&state.next_f64(name, 2)?);
        }
        Ok(())
    }
}

impl Saved for Philox {
    // The key follows from the seed and the stream, which are settings.
    fn save(&self, name: &str, state: &mut State) {
        state.push_u64(name, &[self.position()]);
    }

    fn load(&mut self, name: &str, state: &mut State) -> Result<()> {
        self.seek(state.next_u64(name, 1)?[0]);
        Ok(())
    }
}

impl State {
    /// Adds an array.
    pub fn put(&mut self, name: impl Into<String>, array: Array) {
        self.0.insert(name.into(), array);
    }

    /// Checks that the components have read the shared arrays `names` to their end.
    pub(crate) fn expect_spent(&self, names: &[&str]) -> Result<()> {
        match names.iter().find(|name| self.0.contains_key(**name)) {
            Some(name) => {
                Err(Error::format(0, format!("`{name}` of the checkpoint has more numbers than are expected")))
            }
            None => Ok(()),
        }
    }
}
