//! The structs of the header, and the rule by which structs of other versions are read and written.

use crate::failure::{Failure, Outcome};
use crate::status::{STRATA_STATUS_PARAMS, strata_status};
use core::ffi::{c_char, c_void};
use core::ops::Range;
use core::{ptr, slice};

/// The type of the numbers of rows: STRATA_DTYPE_...
pub type strata_dtype = u32;

/// float
pub const STRATA_DTYPE_F32: u32 = 0_u32;
/// IEEE binary16 (ggml: GGML_TYPE_F16)
pub const STRATA_DTYPE_F16: u32 = 1_u32;
/// The upper half of a float (ggml: GGML_TYPE_BF16)
pub const STRATA_DTYPE_BF16: u32 = 2_u32;

/// The encoder's weights in f32, unchanged.
pub const STRATA_WEIGHTS_F32: u32 = 0_u32;
/// A copy of the encoder's weights, rounded to bf16. The codes are those of a model with the rounded weights, to the bit.
pub const STRATA_WEIGHTS_BF16: u32 = 1_u32;
/// A copy of the encoder's weights, rounded to 8 bits with one scale per latent, max |w| / 127. The codes are those of a
/// model with the rounded weights, to the bit.
pub const STRATA_WEIGHTS_INT8: u32 = 2_u32;

/// The parent of a latent without a parent.
pub const STRATA_ROOT: u32 = 0xFFFF_FFFF_u32;

/// Mode of an edit: x += strength * decoder row.
pub const STRATA_EDIT_ADD: u32 = 0_u32;
/// Mode of an edit: the activation of the latent is set to strength in the reconstruction, and the error of the SAE is
/// kept. Encoding x again need not give strength, as other latents respond to the change, too.
pub const STRATA_EDIT_SET: u32 = 1_u32;

/// The layer of a hook point that does not name one.
pub const STRATA_NO_LAYER: u32 = 0xFFFF_FFFF_u32;

/// Only the listed latents are computed.
pub const STRATA_WHY_LISTED: u32 = 0_u32;
/// All latents of the level are computed, since top-k compares them.
pub const STRATA_WHY_TOPK: u32 = 1_u32;
/// All latents of the level are computed, since pruning compares those that are active.
pub const STRATA_WHY_PRUNING: u32 = 2_u32;
/// All latents of level 1 are computed, since level 2 reads what level 1 leaves of the row, or its latents.
pub const STRATA_WHY_SOURCE: u32 = 3_u32;
/// The gate of level 2 needs latents that are not listed: the parents or the siblings of listed children, or all latents.
pub const STRATA_WHY_GATE: u32 = 4_u32;
/// The list has more than a fourth of the level, and computing all of it in 8 bits first costs less.
pub const STRATA_WHY_SCREEN: u32 = 5_u32;
/// All latents are computed: the seed model has no other way.
pub const STRATA_WHY_SEED: u32 = 6_u32;

/// A head that reads the row.
pub const STRATA_HEAD_ROW: u32 = 0_u32;
/// A head that reads the activations of some latents.
pub const STRATA_HEAD_LATENTS: u32 = 1_u32;

/// Flag of a row: its norm is over the limit of the rows that the model was trained on.
pub const STRATA_ROW_OVER_LIMIT: u32 = 1_u32;

/// Receives the sentence that explains a failure. Zero the struct and set struct_size, or nothing is written; only a call
/// that fails writes it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct strata_error {
    /// sizeof(strata_error); a smaller struct gets a shorter message.
    pub struct_size: usize,
    /// The status that the function returned.
    pub status: strata_status,
    /// 0
    pub reserved: u32,
    /// One sentence in UTF-8, ended by a zero.
    pub message: [c_char; 256],
}

/// n_rows rows of d little-endian numbers, row i at data + i * row_stride_bytes, at any alignment. The bytes between rows
/// are not accessed. In a ggml hook: data, ne[1], ne[0], nb[1]. Rows are the activations as the language model has them at the
/// hook point: however training normalised them, that is part of the model.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct strata_rows {
    /// sizeof(strata_rows)
    pub struct_size: usize,
    /// May be NULL where n_rows is 0.
    pub data: *const c_void,
    /// Rows, usually tokens.
    pub n_rows: usize,
    /// Numbers in a row; must be the width of the model.
    pub d: usize,
    /// From the start of a row to the start of the next: at least the bytes of a row.
    pub row_stride_bytes: usize,
    /// The type of the numbers.
    pub dtype: strata_dtype,
    /// 0
    pub reserved: u32,
}

/// Rows that are written; the layout is that of strata_rows.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct strata_rows_mut {
    /// sizeof(strata_rows_mut)
    pub struct_size: usize,
    /// May be NULL where n_rows is 0.
    pub data: *mut c_void,
    /// Rows, usually tokens.
    pub n_rows: usize,
    /// Numbers in a row; must be the width of the model.
    pub d: usize,
    /// From the start of a row to the start of the next: at least the bytes of a row.
    pub row_stride_bytes: usize,
    /// The type of the numbers.
    pub dtype: strata_dtype,
    /// 0
    pub reserved: u32,
}

/// The active latents of each row with their activations, in buffers of the caller, in CSR form: row i has the entries
/// offsets[i] to offsets[i + 1] - 1. strata_encode writes latents in ascending order, and values above 0; those of AbsTopK, an
/// architecture of SAELens, may be below 0 too.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct strata_codes {
    /// sizeof(strata_codes)
    pub struct_size: usize,
    /// Array of offsets_len numbers. May be NULL if offsets_len is 0.
    pub offsets: *mut usize,
    /// Capacity of offsets: at least n_rows + 1.
    pub offsets_len: usize,
    /// Array of latents, with capacity entries. May be NULL if capacity is 0, as may value.
    pub index: *mut u32,
    /// Array of their activations, with capacity entries.
    pub value: *mut f32,
    /// Capacity of index and of value. n_rows * max_active of the model is always enough, and often far too much: a call
    /// with a guess (0 will do) reports in n what is needed.
    pub capacity: usize,
    /// Written by strata_encode: the entries used, or the entries needed if it returns STRATA_STATUS_CAPACITY.
    pub n: usize,
}

/// One change of the activations: see strata_steer.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct strata_edit {
    /// 1 or 2
    pub level: u32,
    /// Below f1 or f2.
    pub latent: u32,
    /// In units of the activations, as decoder directions have norm 1; those of SAELens keep the norms they were saved with.
    pub strength: f32,
    /// STRATA_EDIT_ADD or STRATA_EDIT_SET
    pub mode: u32,
}

/// How a model is loaded.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct strata_model_params {
    /// sizeof(strata_model_params)
    pub struct_size: usize,
    /// The type in which the encoder's weights are kept: STRATA_WEIGHTS_...
    pub weights: u32,
    /// 0
    pub reserved: u32,
}

/// How a context computes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct strata_ctx_params {
    /// sizeof(strata_ctx_params)
    pub struct_size: usize,
    /// 0 or 1: the caller's thread computes, and no thread is started. More: the context starts that many threads. At most
    /// 1024.
    pub n_threads: u32,
    /// 0: rows are encoded on the CPU. N + 1: on CUDA device N, where the library was built with the feature `cuda`; the codes
    /// are the same, to the bit. The model is copied there once, for all contexts of the device.
    pub device: u32,
}

/// The description of a dump.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct strata_dump_params {
    /// sizeof(strata_dump_params)
    pub struct_size: usize,
    /// Numbers in a row; must be set.
    pub d: usize,
    /// The type in which numbers are stored, whatever the type of the appended rows.
    pub dtype: strata_dtype,
    /// Rows per sequence if all sequences have as many (the last may be shorter), else 0.
    pub context: u32,
    /// The most bytes per file; each file has at least one row. 0: 1 GiB.
    pub max_shard_bytes: u64,
    /// The name of the language model that the rows come from, in UTF-8, or NULL.
    pub model: *const c_char,
    /// The hook point in the model, such as "blocks.6.hook_resid_post", in UTF-8, or NULL.
    pub hook: *const c_char,
    /// 0
    pub reserved: u64,
}

/// The sizes of a model.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct strata_model_info {
    /// sizeof(strata_model_info), set by the caller.
    pub struct_size: usize,
    /// Numbers in a row.
    pub d: usize,
    /// Latents of level 1.
    pub f1: usize,
    /// Latents of level 2; 0 for a model of one level.
    pub f2: usize,
    /// The largest number of codes that one row can have at level 1.
    pub max_active1: usize,
    /// The largest number of codes that one row can have at level 2.
    pub max_active2: usize,
    /// 0
    pub reserved: u64,
    /// Numbers in a reconstructed row: d, or the width of what a transcoder reconstructs.
    pub d_out: usize,
    /// 1 if the reconstruction depends on the row itself and not on its codes alone: strata_decode refuses such a model, and
    /// strata_reconstruct takes it. Else 0.
    pub needs_rows: u32,
    /// 0
    pub reserved2: u32,
}

/// Statistics of a model on the rows seen by a context. A ratio whose denominator is 0 is NaN.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct strata_stats {
    /// sizeof(strata_stats), set by the caller.
    pub struct_size: usize,
    /// Rows seen.
    pub rows: u64,
    /// Fraction of variance unexplained (FVU) by level 1: 0 is perfect, 1 is no better than the mean row.
    pub fvu1: f64,
    /// Fraction of variance unexplained by the whole model.
    pub fvu2: f64,
    /// Mean number of active latents per row (L0) at level 1.
    pub l0_1: f64,
    /// Mean number of active latents per row at level 2.
    pub l0_2: f64,
    /// Latents of level 1 that were active on no row.
    pub dead1: u64,
    /// Latents of level 2 that were active on no row.
    pub dead2: u64,
    /// 0
    pub reserved: u64,
}

/// Where a model comes from. The strings belong to the model.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct strata_model_metadata {
    /// sizeof(strata_model_metadata), set by the caller.
    pub struct_size: usize,
    /// The language model whose activations it was trained on, in UTF-8; "" if the files do not say it, never NULL.
    pub model: *const c_char,
    /// The hook point in it, such as "blocks.6.hook_resid_post"; "" if the files do not say it, never NULL.
    pub hook: *const c_char,
    /// The layer that the hook point names, 6 in this example, or STRATA_NO_LAYER.
    pub layer: u32,
    /// 0
    pub reserved: u32,
}

/// What a watch-list costs, and the room that its codes need.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct strata_watch_info {
    /// sizeof(strata_watch_info), set by the caller.
    pub struct_size: usize,
    /// The largest number of listed latents of level 1 that can be active on one row.
    pub max_active1: usize,
    /// The same for level 2.
    pub max_active2: usize,
    /// The latents of level 1 that are computed for a row: f1 if it is computed as a whole.
    pub computed1: usize,
    /// The latents of level 2 that are computed for a row. Behind a hard gate only those whose parent is active are.
    pub computed2: usize,
    /// Why more latents of level 1 are computed than are listed: STRATA_WHY_...; STRATA_WHY_LISTED if none are.
    pub why1: u32,
    /// The same for level 2.
    pub why2: u32,
}

/// One head of a probe.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct strata_head_info {
    /// sizeof(strata_head_info), set by the caller.
    pub struct_size: usize,
    /// Its name in UTF-8, the class that it tells from all others. The string belongs to the probe.
    pub name: *const c_char,
    /// The numbers that it reads: d, or its latents.
    pub n: usize,
    /// STRATA_HEAD_ROW or STRATA_HEAD_LATENTS
    pub reads: u32,
    /// 0
    pub reserved: u32,
}

/// What is kept of the scores of a probe.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct strata_probe_state_params {
    /// sizeof(strata_probe_state_params)
    pub struct_size: usize,
    /// The sequences that are told apart, at least 1, such as the slots of a batch.
    pub n_sequences: usize,
    /// For each head the score above which an alarm begins, or NULL for 0, the boundary that the probe was fitted to.
    pub on: *const f64,
    /// For each head the score at or below which an alarm ends, at most that of on; or NULL for the same as on.
    pub off: *const f64,
}

/// What is known of the scores of one head on the rows of one sequence. Without rows max, mean and last are NaN.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct strata_probe_reading {
    /// sizeof(strata_probe_reading), set by the caller.
    pub struct_size: usize,
    /// Rows since the sequence began.
    pub rows: u64,
    /// The score of the last row.
    pub last: f64,
    /// The largest score.
    pub max: f64,
    /// The mean score.
    pub mean: f64,
    /// The row of the largest score, the first of equal ones; rows count from 0.
    pub max_row: u64,
    /// Alarms that have begun.
    pub alarms: u64,
    /// 1 if there is an alarm at the last row, else 0.
    pub is_on: u32,
    /// 0
    pub reserved: u32,
}

/// A struct that begins with its size and may grow at its end.
///
/// # Safety
/// `repr(C)`, the first field is `struct_size: usize`, and every bit pattern is a value.
pub(crate) unsafe trait Versioned: Copy {
    /// What fields are that the caller's version does not have.
    const DEFAULT: Self;
}

// SAFETY: `repr(C)`, integers and raw pointers only, the size first; so for the ones below.
unsafe impl Versioned for strata_rows {
    const DEFAULT: Self = Self {
        struct_size: size_of::<Self>(),
        data: ptr::null(),
        n_rows: 0,
        d: 0,
        row_stride_bytes: 0,
        dtype: STRATA_DTYPE_F32,
        reserved: 0,
    };
}

// SAFETY: see `strata_rows`.
unsafe impl Versioned for strata_codes {
    const DEFAULT: Self = Self {
        struct_size: size_of::<Self>(),
        offsets: ptr::null_mut(),
        offsets_len: 0,
        index: ptr::null_mut(),
        value: ptr::null_mut(),
        capacity: 0,
        n: 0,
    };
}

// SAFETY: see `strata_rows`.
unsafe impl Versioned for strata_model_params {
    const DEFAULT: Self = Self { struct_size: size_of::<Self>(), weights: STRATA_WEIGHTS_F32, reserved: 0 };
}

// SAFETY: see `strata_rows`.
unsafe impl Versioned for strata_ctx_params {
    const DEFAULT: Self = Self { struct_size: size_of::<Self>(), n_threads: 0, device: 0 };
}

// SAFETY: see `strata_rows`.
unsafe impl Versioned for strata_dump_params {
    const DEFAULT: Self = Self {
        struct_size: size_of::<Self>(),
        d: 0,
        dtype: STRATA_DTYPE_F32,
        context: 0,
        max_shard_bytes: 0,
        model: ptr::null(),
        hook: ptr::null(),
        reserved: 0,
    };
}

// SAFETY: see `strata_rows`.
unsafe impl Versioned for strata_model_info {
    const DEFAULT: Self = Self {
        struct_size: size_of::<Self>(),
        d: 0,
        f1: 0,
        f2: 0,
        max_active1: 0,
        max_active2: 0,
        reserved: 0,
        d_out: 0,
        needs_rows: 0,
        reserved2: 0,
    };
}

// SAFETY: see `strata_rows`; every bit pattern is an `f64` too.
unsafe impl Versioned for strata_stats {
    const DEFAULT: Self = Self {
        struct_size: size_of::<Self>(),
        rows: 0,
        fvu1: f64::NAN,
        fvu2: f64::NAN,
        l0_1: f64::NAN,
        l0_2: f64::NAN,
        dead1: 0,
        dead2: 0,
        reserved: 0,
    };
}

// SAFETY: see `strata_rows`.
unsafe impl Versioned for strata_model_metadata {
    const DEFAULT: Self = Self {
        struct_size: size_of::<Self>(),
        model: ptr::null(),
        hook: ptr::null(),
        layer: STRATA_NO_LAYER,
        reserved: 0,
    };
}

// SAFETY: see `strata_rows`.
unsafe impl Versioned for strata_watch_info {
    const DEFAULT: Self = Self {
        struct_size: size_of::<Self>(),
        max_active1: 0,
        max_active2: 0,
        computed1: 0,
        computed2: 0,
        why1: STRATA_WHY_LISTED,
        why2: STRATA_WHY_LISTED,
    };
}

// SAFETY: see `strata_rows`.
unsafe impl Versioned for strata_head_info {
    const DEFAULT: Self =
        Self { struct_size: size_of::<Self>(), name: ptr::null(), n: 0, reads: STRATA_HEAD_ROW, reserved: 0 };
}

// SAFETY: see `strata_rows`.
unsafe impl Versioned for strata_probe_state_params {
    const DEFAULT: Self = Self { struct_size: size_of::<Self>(), n_sequences: 1, on: ptr::null(), off: ptr::null() };
}

// SAFETY: see `strata_rows`; every bit pattern is an `f64` too.
unsafe impl Versioned for strata_probe_reading {
    const DEFAULT: Self = Self {
        struct_size: size_of::<Self>(),
        rows: 0,
        last: f64::NAN,
        max: f64::NAN,
        mean: f64::NAN,
        max_row: 0,
        alarms: 0,
        is_on: 0,
        reserved: 0,
    };
}

/// No struct will ever be larger; a size above it was not initialised.
const LARGEST: usize = 4096;

/// The size that the caller's struct has, if what we do not know of it is zero.
///
/// # Safety
/// `at` is NULL or points to a struct of `struct_size` bytes.
unsafe fn size_of_callers<T: Versioned>(at: *const T) -> Outcome<usize> {
    if at.is_null() {
        return Err(Failure::null());
    }
    if !at.is_aligned() {
        return Err(params("a struct does not lie at its alignment"));
    }
    // SAFETY: not NULL, aligned, and every such struct begins with its size.
    let size = unsafe { at.cast::<usize>().read() };
    if size < size_of::<usize>() || size > LARGEST || !size.is_multiple_of(align_of::<T>()) {
        let expected = "struct_size: expected sizeof the struct (was it set?)";
        return Err(Failure::found(STRATA_STATUS_PARAMS, expected, size));
    }
    if let Some(unknown) = size.checked_sub(size_of::<T>()) {
        // SAFETY: the struct has `size` bytes.
        let tail = unsafe { at.cast::<u8>().add(size_of::<T>()) };
        // SAFETY: `unknown` bytes remain of it.
        if unsafe { slice::from_raw_parts(tail, unknown) }.iter().any(|b| *b != 0) {
            return Err(params("a struct sets fields that this version of the library does not know"));
        }
    }
    Ok(size)
}

/// The caller's struct: up to its size as it is there, defaults beyond.
///
/// # Safety
/// `from` is NULL or points to a struct of `struct_size` bytes.
pub(crate) unsafe fn read<T: Versioned>(from: *const T) -> Outcome<T> {
    // SAFETY: as the caller promises.
    let size = unsafe { size_of_callers(from) }?;
    let mut value = T::DEFAULT;
    // SAFETY: both have as many bytes, and every bit pattern is a `T`.
    unsafe { ptr::copy_nonoverlapping(from.cast::<u8>(), (&raw mut value).cast::<u8>(), size.min(size_of::<T>())) };
    Ok(value)
}

/// [`read`], with NULL for the defaults.
///
/// # Safety
/// As [`read`].
pub(crate) unsafe fn read_or_default<T: Versioned>(from: *const T) -> Outcome<T> {
    if from.is_null() {
        return Ok(T::DEFAULT);
    }
    // SAFETY: as the caller promises.
    unsafe { read(from) }
}

/// Fills the caller's struct up to its size, which stays as it is.
///
/// # Safety
/// `to` is NULL or points to a struct of `struct_size` bytes.
pub(crate) unsafe fn write<T: Versioned>(to: *mut T, value: T) -> Outcome {
    const FIRST: usize = size_of::<usize>();
    // SAFETY: as the caller promises.
    let size = unsafe { size_of_callers(to) }?;
    let value = (&raw const value).cast::<u8>();
    let (from, to) = (value.wrapping_add(FIRST), to.cast::<u8>().wrapping_add(FIRST));
    // SAFETY: both have `size` bytes, less the first field.
    unsafe { ptr::copy_nonoverlapping(from, to, size.min(size_of::<T>()) - FIRST) };
    Ok(())
}

/// A struct for the caller to change. This writes all of `T`, and does not know how large the caller's is: a `T` that
/// grows needs an `_init` of another name.
///
/// # Safety
/// `to` is NULL or has room for a `T`.
pub(crate) unsafe fn init<T: Versioned>(to: *mut T) {
    if !to.is_null() {
        // SAFETY: as the caller promises.
        unsafe { to.write(T::DEFAULT) };
    }
}

/// `len` items at `at`, which may be NULL if there are none.
///
/// # Safety
/// If `len > 0` and `at` is not NULL, `len` items lie there and are not written during `'a`.
pub(crate) unsafe fn items<'a, T>(at: *const T, len: usize) -> Outcome<&'a [T]> {
    if len == 0 {
        return Ok(&[]);
    }
    if at.is_null() {
        return Err(Failure::null());
    }
    if !at.is_aligned() || len.checked_mul(size_of::<T>()).is_none_or(|bytes| bytes > isize::MAX as usize) {
        return Err(params("an array does not lie at its alignment, or is larger than the memory"));
    }
    // SAFETY: neither NULL nor misaligned nor too long; the rest as the caller promises.
    Ok(unsafe { slice::from_raw_parts(at, len) })
}

/// The addresses of `len` items from `at` on.
pub(crate) fn extent<T>(at: *const T, len: usize) -> Range<usize> {
    at.addr()..at.addr().saturating_add(len.saturating_mul(size_of::<T>()))
}

/// The addresses of the items of a slice.
pub(crate) fn slice_extent<T>(items: &[T]) -> Range<usize> {
    extent(items.as_ptr(), items.len())
}

/// Refuses memory that is written during the call and lies in other memory of the call.
pub(crate) fn check_apart(written: &Range<usize>, others: impl IntoIterator<Item = Range<usize>>) -> Outcome {
    let overlaps = |other: Range<usize>| written.start.max(other.start) < written.end.min(other.end);
    if others.into_iter().any(overlaps) {
        return Err(params("the buffers that the call writes overlap others of its buffers"));
    }
    Ok(())
}

#[cold]
pub(crate) fn params(why: &'static str) -> Failure {
    Failure::new(STRATA_STATUS_PARAMS, why)
}

/// Fields that later versions may use.
pub(crate) fn check_reserved(reserved: u64) -> Outcome {
    if reserved == 0 { Ok(()) } else { Err(params("a reserved field is not 0")) }
}
