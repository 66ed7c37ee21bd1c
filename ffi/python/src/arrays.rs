//! Rows in arrays of numpy, read where they lie.

use half::f16;
use half::slice::HalfFloatSliceExt;
use numpy::ndarray::{ArrayView1, ArrayViewD};
use numpy::{PyArrayDyn, PyArrayMethods, PyReadonlyArrayDyn, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

/// Most numbers that are widened to f32 at a time: 64 MiB.
const MOST_WIDENED: usize = 1 << 24;
/// Most rows that are computed before signals are looked at.
const MOST_ROWS: usize = 1 << 14;

/// A borrowed array of at least one dimension, whose last one are the numbers of a row.
pub(crate) enum Array<'py> {
    F32(PyReadonlyArrayDyn<'py, f32>),
    F16(PyReadonlyArrayDyn<'py, f16>),
    /// The bits of bf16 numbers.
    Bf16(PyReadonlyArrayDyn<'py, u16>),
}

/// The rows of an [`Array`].
pub(crate) enum Rows<'a> {
    F32(ArrayViewD<'a, f32>),
    F16(ArrayViewD<'a, f16>),
    Bf16(ArrayViewD<'a, u16>),
}

impl<'py> Array<'py> {
    /// Borrows `x`, an array of float32 or float16, or of uint16 with the bits of bf16.
    ///
    /// # Errors
    /// `TypeError` for another type, `ValueError` for rows of another width than `d`.
    pub(crate) fn of(x: &Bound<'py, PyAny>, d: usize) -> PyResult<Self> {
        let array = if let Ok(x) = x.cast::<PyArrayDyn<f32>>() {
            Self::F32(x.try_readonly()?)
        } else if let Ok(x) = x.cast::<PyArrayDyn<f16>>() {
            Self::F16(x.try_readonly()?)
        } else if let Ok(x) = x.cast::<PyArrayDyn<u16>>() {
            Self::Bf16(x.try_readonly()?)
        } else {
            let what = "activations: expected an array of float32, float16 or bfloat16 in this machine's byte order";
            return Err(PyTypeError::new_err(what));
        };
        let shape = array.shape();
        match shape.last() {
            Some(&width) if width == d => Ok(array),
            _ => Err(PyValueError::new_err(format!(
                "activations: expected rows of width {d}, found the shape {shape:?}"
            ))),
        }
    }

    fn shape(&self) -> &[usize] {
        match self {
            Self::F32(x) => x.shape(),
            Self::F16(x) => x.shape(),
            Self::Bf16(x) => x.shape(),
        }
    }

    /// Returns a view that other threads can read.
    pub(crate) fn rows(&self) -> Rows<'_> {
        match self {
            Self::F32(x) => Rows::F32(x.as_array()),
            Self::F16(x) => Rows::F16(x.as_array()),
            Self::Bf16(x) => Rows::Bf16(x.as_array()),
        }
    }
}

impl Rows<'_> {
    fn shape(&self) -> &[usize] {
        match self {
            Self::F32(x) => x.shape(),
            Self::F16(x) => x.shape(),
            Self::Bf16(x) => x.shape(),
        }
    }

    /// Returns the number of rows.
    pub(crate) fn n(&self) -> usize {
        let shape = self.shape();
        shape[..shape.len() - 1].iter().product()
    }

    /// Calls `f` with blocks of rows as f32, in order, and the first row of each: contiguous f32 as they lie, all others
    /// widened exactly into a buffer.
    ///
    /// # Errors
    /// The first error of `f`.
    pub(crate) fn blocks(&self, f: impl FnMut(usize, &[f32]) -> PyResult<()>) -> PyResult<()> {
        let d = self.shape().last().copied().unwrap_or(0);
        match self {
            Self::F32(x) => match x.as_slice() {
                Some(numbers) => {
                    let mut f = f;
                    let blocks = numbers.chunks(MOST_ROWS * d).enumerate();
                    blocks.into_iter().try_for_each(|(b, block)| f(b * MOST_ROWS, block))
                }
                None => widened(x, d, <[f32]>::copy_from_slice, |v| v, f),
            },
            Self::F16(x) => widened(x, d, |to, from| from.convert_to_f32_slice(to), f16::to_f32, f),
            Self::Bf16(x) => {
                let one = |bits: u16| f32::from_bits(u32::from(bits) << 16);
                widened(x, d, |to, from| to.iter_mut().zip(from).for_each(|(to, bits)| *to = one(*bits)), one, f)
            }
        }
    }
}

/// Widens rows of any stride, block by block: contiguous rows by `row`, others by `one`.
fn widened<T: Copy>(
    x: &ArrayViewD<'_, T>,
    d: usize,
    row: impl Fn(&mut [f32], &[T]),
    one: impl Fn(T) -> f32,
    mut f: impl FnMut(usize, &[f32]) -> PyResult<()>,
) -> PyResult<()> {
    let shape = x.shape();
    let n: usize = shape[..shape.len() - 1].iter().product();
    let size = (MOST_WIDENED / d.max(1)).clamp(1, MOST_ROWS).min(n);
    let mut buffer = vec![0.0; size * d];
    let mut lanes = x.rows().into_iter();
    let mut first = 0;
    while first < n {
        let block = &mut buffer[..size.min(n - first) * d];
        for (to, from) in block.chunks_mut(d).zip(&mut lanes) {
            let from: ArrayView1<'_, T> = from;
            match from.as_slice() {
                Some(from) => row(to, from),
                None => to.iter_mut().zip(&from).for_each(|(to, from)| *to = one(*from)),
            }
        }
        f(first, block)?;
        first += size;
    }
    Ok(())
}
