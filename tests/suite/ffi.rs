//! The C ABI, called as C calls it, against the core.

#![allow(unsafe_code, reason = "calls of exported functions, and an allocator that counts")]
#![allow(
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    reason = "every pointer comes from a reference on the same line or two up"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ffi::{CStr, CString, c_char};
use std::mem::offset_of;
use std::path::Path;
use std::ptr::{null, null_mut};
use std::sync::Arc;

use strata::status::{Failure, Guarded, boundary};
use strata::*;
use strata_core::config::{Activation, Decoder, GateKind, ModelKind, Source};
use strata_core::format::weights;
use strata_core::kernel::reduce;
use strata_core::metrics::fidelity::Fidelity;
use strata_core::metrics::sparsity::Sparsity;
use strata_core::model::{Arch, Id, Scratch};
use strata_core::{Codes, Dtype, Encoder, Isa, Model, Par, Philox, ROOT, Rows};

const D: usize = 19;
const F1: usize = 40;
const F2: usize = 90;
const BLOCK: usize = Encoder::BLOCK;

/// Counts the allocations of each thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // Not there any more while a thread ends.
    let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
}

// SAFETY: the system's allocator does everything.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        unsafe { System.realloc(at, layout, size) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often this thread allocates in `f`.
fn allocations(f: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    f();
    ALLOCATIONS.get() - before
}

fn arch() -> Arch {
    Arch {
        model: ModelKind::Tree,
        d: D,
        f1: F1,
        f2: F2,
        activation1: Activation::Topk,
        activation2: Activation::Topk,
        k1: 4.0,
        k2: 6.0,
        source: Source::X,
        decoder: Decoder::Cum,
        gate: GateKind::Hard,
    }
}

/// A model with random weights; every tenth child has no parent.
fn model(arch: Arch) -> Model {
    let mut rng = Philox::new(7, 0);
    let mut params = arch.zeros();
    params.tensors.iter_mut().flatten().for_each(|v| *v = 0.3 * rng.normal_f32());
    let f2 = if arch.gate.is_hard() { arch.f2 } else { 0 };
    let parents = (0..f2).map(|j| if j % 10 == 9 { ROOT } else { (j * 7 % arch.f1) as u32 }).collect();
    Model { arch, params, parents, tau: [0.2, 0.3] }
}

/// Every kind of model that differs in what the ABI does with it.
fn models() -> Vec<Model> {
    let base = arch();
    let relu = Activation::Relu;
    [
        base,
        Arch { f2: 0, gate: GateKind::None, ..base },
        Arch { activation1: relu, activation2: relu, gate: GateKind::None, ..base },
        Arch { activation1: Activation::Batchtopk, activation2: Activation::Gated, gate: GateKind::GroupTop1, ..base },
        Arch {
            activation2: Activation::Jumprelu,
            source: Source::Res,
            decoder: Decoder::Ind,
            gate: GateKind::Add,
            ..base
        },
        Arch { source: Source::Z1, decoder: Decoder::Comp, gate: GateKind::Mul, ..base },
        Arch {
            model: ModelKind::Seed,
            activation1: relu,
            activation2: relu,
            source: Source::Z1,
            decoder: Decoder::Comp,
            gate: GateKind::Mul,
            ..base
        },
    ]
    .map(model)
    .into()
}

fn values(n: usize) -> Vec<f32> {
    let mut rng = Philox::new(11, 1);
    (0..n).map(|_| 2.0 * rng.normal_f32()).collect()
}

fn error() -> strata_error {
    strata_error { struct_size: size_of::<strata_error>(), status: 0, reserved: 0, message: [0; 256] }
}

fn message(err: &strata_error) -> &str {
    unsafe { CStr::from_ptr(err.message.as_ptr()) }.to_str().unwrap()
}

fn load_bytes(cfg: &[u8], weights: &[u8]) -> Result<*mut strata_model, (strata_status, String)> {
    let (mut out, mut err) = (null_mut(), error());
    let (c, w) = (cfg.as_ptr().cast(), weights.as_ptr().cast());
    match unsafe { strata_model_load_buffers(c, cfg.len(), w, weights.len(), null(), &mut out, &mut err) } {
        STRATA_STATUS_OK => Ok(out),
        status => {
            assert_eq!(err.status, status);
            assert!(out.is_null(), "an output of a call that failed");
            Err((status, message(&err).to_owned()))
        }
    }
}

/// A context, and the encoder it should agree with.
struct Ctx {
    ctx: *mut strata_ctx,
    model: *mut strata_model,
    core: Encoder,
}

impl Ctx {
    fn new(model: &Model, n_threads: u32) -> Self {
        let bytes = (weights::write_cfg(&model.arch, &Default::default()), weights::write_weights(model).unwrap());
        let loaded = load_bytes(&bytes.0, &bytes.1).unwrap();
        let core = Encoder::new(Arc::new(model.clone()), Isa::default(), Par::Seq).unwrap();
        Self { ctx: new_ctx(loaded, n_threads), model: loaded, core }
    }

    fn encode(&self, x: &strata_rows) -> (Codes, Codes) {
        let info = self.info();
        let mut level1 = Buffers::new(x.n_rows, x.n_rows * info.max_active1);
        let mut level2 = Buffers::new(x.n_rows, x.n_rows * info.max_active2);
        assert_eq!(unsafe { strata_encode(self.ctx, x, &mut level1.c, &mut level2.c) }, STRATA_STATUS_OK);
        (level1.codes(), level2.codes())
    }

    fn info(&self) -> strata_model_info {
        let mut info = strata_model_info {
            struct_size: size_of::<strata_model_info>(),
            d: 0,
            f1: 0,
            f2: 0,
            max_active1: 0,
            max_active2: 0,
            reserved: 0,
        };
        assert_eq!(unsafe { strata_model_get_info(self.model, &mut info) }, STRATA_STATUS_OK);
        info
    }

    fn expected(&self, x: &[f32]) -> (Codes, Codes) {
        let (mut codes1, mut codes2) = (Codes::new(), Codes::new());
        self.core.encode(x, &mut Scratch::new(&self.core.model().arch), &mut codes1, &mut codes2).unwrap();
        (codes1, codes2)
    }
}

impl Drop for Ctx {
    fn drop(&mut self) {
        // The context last: it keeps what it needs of the model.
        unsafe { strata_model_free(self.model) };
        unsafe { strata_ctx_free(self.ctx) };
    }
}

fn new_ctx(model: *const strata_model, n_threads: u32) -> *mut strata_ctx {
    let (mut out, mut params) = (null_mut(), strata_ctx_params { struct_size: 0, n_threads: 9, reserved: 9 });
    unsafe { strata_ctx_params_init(&mut params) };
    params.n_threads = n_threads;
    assert_eq!(unsafe { strata_ctx_new(model, &params, &mut out, null_mut()) }, STRATA_STATUS_OK);
    out
}

/// Codes with their buffers.
struct Buffers {
    offsets: Vec<usize>,
    index: Vec<u32>,
    value: Vec<f32>,
    c: strata_codes,
}

impl Buffers {
    fn new(n_rows: usize, capacity: usize) -> Self {
        Self::of(vec![usize::MAX; n_rows + 1], vec![u32::MAX; capacity], vec![f32::NAN; capacity])
    }

    fn of(mut offsets: Vec<usize>, mut index: Vec<u32>, mut value: Vec<f32>) -> Self {
        let c = strata_codes {
            struct_size: size_of::<strata_codes>(),
            offsets: offsets.as_mut_ptr(),
            offsets_len: offsets.len(),
            index: index.as_mut_ptr(),
            value: value.as_mut_ptr(),
            capacity: index.len(),
            n: 0,
        };
        Self { offsets, index, value, c }
    }

    fn codes(&self) -> Codes {
        let n = self.c.n;
        Codes { offsets: self.offsets.clone(), index: self.index[..n].to_vec(), value: self.value[..n].to_vec() }
    }
}

impl From<&Codes> for Buffers {
    fn from(codes: &Codes) -> Self {
        Self::of(codes.offsets.clone(), codes.index.clone(), codes.value.clone())
    }
}

/// Rows of `values` in `dtype`, `gap` bytes between them, the first at an odd address if `gap` is odd.
struct Stored {
    bytes: Vec<u8>,
    start: usize,
    n: usize,
    stride: usize,
    dtype: Dtype,
}

const FILL: u8 = 0xA5;

impl Stored {
    fn new(values: &[f32], dtype: Dtype, gap: usize) -> Self {
        let (n, stride) = (values.len() / D, D * dtype.size_bytes() + gap);
        let mut bytes = vec![FILL; n * stride + 2];
        // Odd where the gap is.
        let start = (bytes.as_ptr() as usize + gap) % 2;
        for (i, row) in values.chunks(D).enumerate() {
            let mut narrow = Vec::new();
            dtype.narrow(row, &mut narrow);
            bytes[start + i * stride..][..narrow.len()].copy_from_slice(&narrow);
        }
        Self { bytes, start, n, stride, dtype }
    }

    fn wide(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.n * D];
        Rows::new(&self.bytes[self.start..], self.n, D, self.stride, self.dtype).unwrap().widen(0..self.n, &mut out);
        out
    }

    fn dtype(&self) -> strata_dtype {
        [STRATA_DTYPE_F32, STRATA_DTYPE_F16, STRATA_DTYPE_BF16][self.dtype as usize]
    }

    fn rows(&self) -> strata_rows {
        strata_rows {
            struct_size: size_of::<strata_rows>(),
            data: self.bytes[self.start..].as_ptr().cast(),
            n_rows: self.n,
            d: D,
            row_stride_bytes: self.stride,
            dtype: self.dtype(),
            reserved: 0,
        }
    }

    fn rows_mut(&mut self) -> strata_rows_mut {
        strata_rows_mut {
            struct_size: size_of::<strata_rows_mut>(),
            data: self.bytes[self.start..].as_mut_ptr().cast(),
            n_rows: self.n,
            d: D,
            row_stride_bytes: self.stride,
            dtype: self.dtype(),
            reserved: 0,
        }
    }

    /// Whether the bytes between and around the rows are as they were.
    fn gaps_are_untouched(&self) -> bool {
        let row = D * self.dtype.size_bytes();
        self.bytes.iter().enumerate().all(|(at, b)| {
            let inside =
                at >= self.start && (at - self.start) / self.stride < self.n && (at - self.start) % self.stride < row;
            inside || *b == FILL
        })
    }
}

fn f32_rows(values: &[f32]) -> Stored {
    Stored::new(values, Dtype::F32, 0)
}

const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::Bf16];

#[test]
fn encode_and_decode_have_the_bits_of_the_core() {
    for (model, n_threads) in models().iter().flat_map(|m| [(m, 0), (m, 3)]) {
        let ctx = Ctx::new(model, n_threads);
        for n in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 3] {
            for (dtype, gap) in DTYPES.into_iter().flat_map(|t| [(t, 0), (t, 7), (t, 64)]) {
                let x = Stored::new(&values(n * D), dtype, gap);
                let wide = x.wide();
                let (codes1, codes2) = ctx.expected(&wide);
                assert_eq!(ctx.encode(&x.rows()), (codes1.clone(), codes2.clone()), "{n} rows, {dtype}, gap {gap}");

                let mut hat = Stored::new(&vec![0.0; n * D], dtype, gap);
                let (level1, level2) = (Buffers::from(&codes1), Buffers::from(&codes2));
                let status = unsafe { strata_decode(ctx.ctx, &level1.c, &level2.c, &mut hat.rows_mut()) };
                assert_eq!(status, STRATA_STATUS_OK);
                let (mut hat1, mut hat2) = (vec![0.0; n * D], vec![0.0; n * D]);
                ctx.core.decode(&codes1, &codes2, &mut hat1, &mut hat2).unwrap();
                assert_eq!(hat.wide(), Stored::new(&hat2, dtype, gap).wide());
                assert!(hat.gaps_are_untouched());
            }
        }
    }
}

#[test]
fn the_model_says_its_sizes_parents_and_directions() {
    for model in models() {
        let ctx = Ctx::new(&model, 0);
        let info = ctx.info();
        assert_eq!((info.d, info.f1, info.f2), (D, F1, model.arch.f2));
        let (codes1, codes2) = ctx.expected(&values(200 * D));
        for (codes, most) in [(&codes1, info.max_active1), (&codes2, info.max_active2)] {
            let active = codes.offsets.windows(2).map(|w| w[1] - w[0]).max().unwrap();
            assert!(active <= most, "{active} codes in a row, {most} announced");
        }
        let mut parent = 5;
        for j in 0..model.arch.f2 {
            assert_eq!(unsafe { strata_model_parent(ctx.model, j as u32, &mut parent) }, STRATA_STATUS_OK);
            assert_eq!(parent, model.parents.get(j).copied().unwrap_or(STRATA_ROOT));
        }
        parent = 5;
        assert_eq!(unsafe { strata_model_parent(ctx.model, info.f2 as u32, &mut parent) }, STRATA_STATUS_INDEX);
        assert_eq!(parent, 5);

        let mut row = [0.0; D];
        for (level, latent) in [(1, 3), (2, 8)].into_iter().take(1 + usize::from(info.f2 > 0)) {
            let get = |row: &mut [f32]| unsafe {
                strata_model_decoder_row(ctx.model, level, latent, row.as_mut_ptr(), row.len())
            };
            assert_eq!(get(&mut row), STRATA_STATUS_OK);
            let all = if level == 1 { &model.params[Id::WDec1][..] } else { &model.decoder2(Isa::default(), Par::Seq) };
            assert_eq!(row, all[latent as usize * D..][..D]);
            assert_eq!(get(&mut row[1..]), STRATA_STATUS_CAPACITY);
        }
        for (level, latent) in [(0, 0), (3, 0), (1, F1 as u32), (2, info.f2 as u32), (u32::MAX, u32::MAX)] {
            let status = unsafe { strata_model_decoder_row(ctx.model, level, latent, row.as_mut_ptr(), D) };
            assert_eq!(status, STRATA_STATUS_INDEX);
        }
    }
    // Two parents' families of at most three, and the nine without a parent.
    let few = Model { parents: (0..F2 as u32).map(|j| if j < 9 { ROOT } else { j % 30 }).collect(), ..model(arch()) };
    let few = Model { arch: Arch { k1: 2.0, k2: 50.0, ..few.arch }, ..few };
    assert_eq!((few.max_active(1), few.max_active(2)), (2, 15));
}

#[test]
fn a_capacity_that_is_too_small_says_what_is_needed() {
    let ctx = Ctx::new(&model(arch()), 0);
    let n = BLOCK + 9;
    let x = f32_rows(&values(n * D));
    let (codes1, codes2) = ctx.expected(&x.wide());
    let need = [codes1.index.len(), codes2.index.len()];
    for (less1, less2) in [(1, 0), (0, 1), (1, 1), (need[0], need[1])] {
        let (mut level1, mut level2) = (Buffers::new(n, need[0] - less1), Buffers::new(n, need[1] - less2));
        let status = unsafe { strata_encode(ctx.ctx, &x.rows(), &mut level1.c, &mut level2.c) };
        assert_eq!(status, STRATA_STATUS_CAPACITY);
        assert_eq!([level1.c.n, level2.c.n], need);
    }
    let (mut level1, mut level2) = (Buffers::new(n, need[0]), Buffers::new(n, need[1]));
    assert_eq!(unsafe { strata_encode(ctx.ctx, &x.rows(), &mut level1.c, &mut level2.c) }, STRATA_STATUS_OK);
    assert_eq!((level1.codes(), level2.codes()), (codes1, codes2));
    level1.c.offsets_len = n;
    let status = unsafe { strata_encode(ctx.ctx, &x.rows(), &mut level1.c, &mut level2.c) };
    assert_eq!(status, STRATA_STATUS_CAPACITY);
}

#[test]
fn null_is_an_error_everywhere_and_nothing_to_free() {
    let ctx = Ctx::new(&model(arch()), 0);
    let (x, mut level1, mut level2) = (f32_rows(&values(D)), Buffers::new(1, F1), Buffers::new(1, F2));
    let (mut hat, none) = (f32_rows(&[0.0; D]), Buffers::of(vec![0; 2], vec![], vec![]));
    let edit = strata_edit { level: 1, latent: 0, strength: 1.0, mode: STRATA_EDIT_ADD };
    let (mut model, mut ctx2, mut dump) = (null_mut(), null_mut(), null_mut());
    let dir = CString::new("/nonexistent/dump").unwrap();
    let mut holes = x.rows();
    holes.data = null();
    let statuses = unsafe {
        [
            strata_model_load(null(), null(), &mut model, null_mut()),
            strata_model_load(dir.as_ptr(), null(), null_mut(), null_mut()),
            strata_model_load_buffers(null(), 3, null(), 3, null(), &mut model, null_mut()),
            strata_model_get_info(null(), &mut ctx.info()),
            strata_model_get_info(ctx.model, null_mut()),
            strata_model_parent(null(), 0, &mut 0),
            strata_model_parent(ctx.model, 0, null_mut()),
            strata_model_decoder_row(null(), 1, 0, level1.value.as_mut_ptr(), D),
            strata_model_decoder_row(ctx.model, 1, 0, null_mut(), D),
            strata_ctx_new(null(), null(), &mut ctx2, null_mut()),
            strata_ctx_new(ctx.model, null(), null_mut(), null_mut()),
            strata_encode(null_mut(), &x.rows(), &mut level1.c, &mut level2.c),
            strata_encode(ctx.ctx, null(), &mut level1.c, &mut level2.c),
            strata_encode(ctx.ctx, &holes, &mut level1.c, &mut level2.c),
            strata_encode(ctx.ctx, &x.rows(), null_mut(), &mut level2.c),
            strata_encode(ctx.ctx, &x.rows(), &mut level1.c, null_mut()),
            strata_decode(ctx.ctx, null(), &level2.c, &mut hat.rows_mut()),
            strata_decode(ctx.ctx, &none.c, null(), &mut hat.rows_mut()),
            strata_decode(ctx.ctx, &none.c, &none.c, null_mut()),
            strata_steer(ctx.ctx, null_mut(), &edit, 1),
            strata_steer(ctx.ctx, &mut hat.rows_mut(), null(), 1),
            strata_stats_update(ctx.ctx, null()),
            strata_stats_update(null_mut(), &x.rows()),
            strata_stats_read(ctx.ctx, null_mut()),
            strata_dump_create(null(), null(), &mut dump, null_mut()),
            strata_dump_create(dir.as_ptr(), null(), null_mut(), null_mut()),
            strata_dump_append(null_mut(), &x.rows(), null(), null_mut()),
        ]
    };
    assert_eq!(statuses, [STRATA_STATUS_NULL; 27]);
    assert!(model.is_null() && ctx2.is_null() && dump.is_null());
    unsafe {
        strata_model_free(null_mut());
        strata_ctx_free(null_mut());
        strata_model_params_init(null_mut());
        strata_ctx_params_init(null_mut());
        strata_dump_params_init(null_mut());
        assert_eq!(strata_dump_close(null_mut(), null_mut()), STRATA_STATUS_OK);
    }
}

#[test]
fn a_model_of_one_level_needs_no_codes_of_a_second() {
    let ctx = Ctx::new(&models()[1], 0);
    let x = f32_rows(&values(3 * D));
    let mut level1 = Buffers::new(3, 3 * F1);
    assert_eq!(unsafe { strata_encode(ctx.ctx, &x.rows(), &mut level1.c, null_mut()) }, STRATA_STATUS_OK);
    let mut hat = f32_rows(&[0.0; 3 * D]);
    assert_eq!(unsafe { strata_decode(ctx.ctx, &level1.c, null(), &mut hat.rows_mut()) }, STRATA_STATUS_OK);
    assert_ne!(hat.wide(), [0.0; 3 * D]);
}

#[test]
fn rows_that_do_not_fit_are_refused() {
    let ctx = Ctx::new(&model(arch()), 0);
    let (x, mut level1, mut level2) = (f32_rows(&values(4 * D)), Buffers::new(4, 4 * F1), Buffers::new(4, 4 * F2));
    let mut encode = |change: &dyn Fn(&mut strata_rows)| {
        let mut rows = x.rows();
        change(&mut rows);
        unsafe { strata_encode(ctx.ctx, &rows, &mut level1.c, &mut level2.c) }
    };
    assert_eq!(encode(&|_| ()), STRATA_STATUS_OK);
    assert_eq!(encode(&|x| x.d = D - 1), STRATA_STATUS_SHAPE);
    assert_eq!(encode(&|x| x.d = 0), STRATA_STATUS_SHAPE);
    assert_eq!(encode(&|x| x.row_stride_bytes = 4 * D - 1), STRATA_STATUS_SHAPE);
    assert_eq!(encode(&|x| x.n_rows = usize::MAX), STRATA_STATUS_SHAPE);
    assert_eq!(encode(&|x| x.row_stride_bytes = usize::MAX / 2), STRATA_STATUS_SHAPE);
    assert_eq!(encode(&|x| x.dtype = 3), STRATA_STATUS_DTYPE);
    assert_eq!(encode(&|x| x.reserved = 1), STRATA_STATUS_PARAMS);
    assert_eq!(encode(&|x| (x.n_rows, x.data) = (0, null())), STRATA_STATUS_OK);
}

#[test]
fn structs_of_other_versions_follow_the_rule_of_their_size() {
    #[repr(C)]
    struct Longer {
        rows: strata_rows,
        tail: [u64; 2],
    }
    let ctx = Ctx::new(&model(arch()), 0);
    let (x, mut level1, mut level2) = (f32_rows(&values(D)), Buffers::new(1, F1), Buffers::new(1, F2));
    let mut longer = Longer { rows: x.rows(), tail: [0; 2] };
    let mut encode = |size: usize, tail: u64| {
        (longer.rows.struct_size, longer.tail[1]) = (size, tail);
        unsafe { strata_encode(ctx.ctx, (&raw const longer).cast(), &mut level1.c, &mut level2.c) }
    };
    let full = size_of::<strata_rows>();
    assert_eq!(encode(full, 1), STRATA_STATUS_OK);
    assert_eq!(encode(full + 16, 0), STRATA_STATUS_OK);
    assert_eq!(encode(full + 16, 1), STRATA_STATUS_PARAMS);
    // Without `dtype`, which is F32 then; without `d`, which is 0 then.
    assert_eq!(encode(offset_of!(strata_rows, dtype), 0), STRATA_STATUS_OK);
    assert_eq!(encode(offset_of!(strata_rows, d), 0), STRATA_STATUS_SHAPE);
    for size in [0, 1, 4, 7, full - 1, full + 1, 1 << 20, usize::MAX] {
        assert_eq!(encode(size, 0), STRATA_STATUS_PARAMS, "struct_size {size}");
    }
    level1.c.struct_size = offset_of!(strata_codes, n);
    let status = unsafe { strata_encode(ctx.ctx, &x.rows(), &mut level1.c, &mut level2.c) };
    assert_eq!(status, STRATA_STATUS_PARAMS);

    // Outputs are written as far as the caller's struct goes.
    let mut info = strata_model_info { struct_size: 24, f1: 77, f2: 77, max_active1: 77, ..ctx.info() };
    info.d = 77;
    assert_eq!(unsafe { strata_model_get_info(ctx.model, &mut info) }, STRATA_STATUS_OK);
    assert_eq!((info.struct_size, info.d, info.f1, info.f2, info.max_active1), (24, D, F1, 77, 77));

    // A message is as long as there is room for it.
    let mut err = error();
    err.struct_size = 24;
    let path = CString::new("/nonexistent").unwrap();
    let status = unsafe { strata_model_load(path.as_ptr(), null(), &mut null_mut(), &mut err) };
    assert_eq!((status, message(&err)), (STRATA_STATUS_IO, "reading"));
}

#[test]
fn rows_that_are_not_finite_are_refused_before_anything_is_written() {
    let ctx = Ctx::new(&model(arch()), 0);
    let n = 2 * BLOCK + 5;
    for (bad, row) in [(f32::NAN, 0), (f32::INFINITY, BLOCK), (f32::NEG_INFINITY, n - 1)] {
        let mut x = values(n * D);
        x[row * D + D - 1] = bad;
        let mut x = f32_rows(&x);
        let (mut level1, mut level2) = (Buffers::new(n, n * F1), Buffers::new(n, n * F2));
        let status = unsafe { strata_encode(ctx.ctx, &x.rows(), &mut level1.c, &mut level2.c) };
        assert_eq!(status, STRATA_STATUS_NOT_FINITE);
        let untouched =
            |b: &Buffers| b.c.n == 0 && b.offsets.iter().all(|o| *o == usize::MAX) && b.index[0] == u32::MAX;
        assert!(untouched(&level1) && untouched(&level2));
        assert_eq!(unsafe { strata_stats_update(ctx.ctx, &x.rows()) }, STRATA_STATUS_NOT_FINITE);
        assert_eq!(stats(ctx.ctx).rows, 0);
        let before = x.bytes.clone();
        let edit = strata_edit { level: 1, latent: 0, strength: 1.0, mode: STRATA_EDIT_ADD };
        assert_eq!(unsafe { strata_steer(ctx.ctx, &mut x.rows_mut(), &edit, 1) }, STRATA_STATUS_NOT_FINITE);
        assert_eq!(x.bytes, before);
    }
}

#[test]
fn damaged_models_are_errors_of_the_data() {
    let model = model(Arch { d: 5, f1: 6, f2: 7, k1: 2.0, k2: 2.0, ..arch() });
    let cfg = weights::write_cfg(&model.arch, &Default::default());
    let bytes = weights::write_weights(&model).unwrap();
    let try_load = |cfg: &[u8], bytes: &[u8]| match load_bytes(cfg, bytes) {
        Ok(model) => {
            unsafe { strata_model_free(model) };
            STRATA_STATUS_OK
        }
        Err((status, message)) => {
            assert!((20..30).contains(&status) && !message.is_empty(), "{status}: {message}");
            status
        }
    };
    assert_eq!(try_load(&cfg, &bytes), STRATA_STATUS_OK);
    for end in 0..bytes.len() {
        assert_ne!(try_load(&cfg, &bytes[..end]), STRATA_STATUS_OK, "the first {end} bytes");
    }
    for end in 0..cfg.len() - 2 {
        assert_ne!(try_load(&cfg[..end], &bytes), STRATA_STATUS_OK, "the first {end} bytes");
    }
    for at in 0..cfg.len().max(bytes.len()) {
        for bit in 0..8 {
            for (which, len) in [(0, cfg.len()), (1, bytes.len())] {
                if at < len {
                    let mut files = [cfg.clone(), bytes.clone()];
                    files[which][at] ^= 1 << bit;
                    try_load(&files[0], &files[1]);
                }
            }
        }
    }
    let newer = String::from_utf8(cfg).unwrap().replace("\"version\": 1", "\"version\": 2");
    assert_eq!(try_load(newer.as_bytes(), &bytes), STRATA_STATUS_VERSION);
}

#[test]
fn a_run_or_its_sae_directory_can_be_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let sae = dir.path().join("sae");
    std::fs::create_dir(&sae).unwrap();
    let model = model(arch());
    std::fs::write(sae.join("cfg.json"), weights::write_cfg(&model.arch, &Default::default())).unwrap();
    std::fs::write(sae.join("sae_weights.safetensors"), weights::write_weights(&model).unwrap()).unwrap();
    for path in [dir.path(), &sae] {
        let (mut out, path) = (null_mut(), c_path(path));
        let status = unsafe { strata_model_load(path.as_ptr(), null(), &mut out, null_mut()) };
        assert_eq!(status, STRATA_STATUS_OK);
        unsafe { strata_model_free(out) };
    }
}

fn c_path(path: &Path) -> CString {
    CString::new(path.to_str().unwrap()).unwrap()
}

#[test]
fn threads_with_a_context_each_share_a_model() {
    struct Shared(*const strata_model);
    // SAFETY: what the header promises of a const model.
    unsafe impl Sync for Shared {}
    let ctx = Ctx::new(&model(arch()), 0);
    let shared = Shared(ctx.model);
    let x = f32_rows(&values(150 * D));
    let expected = ctx.expected(&x.wide());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let shared = &shared;
                let own = new_ctx(shared.0, 0);
                for _ in 0..10 {
                    let (mut level1, mut level2) = (Buffers::new(150, 150 * F1), Buffers::new(150, 150 * F2));
                    let status = unsafe { strata_encode(own, &x.rows(), &mut level1.c, &mut level2.c) };
                    assert_eq!(status, STRATA_STATUS_OK);
                    assert_eq!((level1.codes(), level2.codes()), expected);
                }
                unsafe { strata_ctx_free(own) };
            });
        }
    });
}

#[test]
fn nothing_is_allocated_after_the_first_call() {
    for model in models() {
        let ctx = Ctx::new(&model, 1);
        let n = 2 * BLOCK + 3;
        let mut warm = 0;
        let (quiet, loud) = (values(n * D).iter().map(|v| v * 1e-3).collect::<Vec<_>>(), values(n * D));
        for (dtype, gap) in DTYPES.into_iter().flat_map(|t| [(t, 0), (t, 5)]) {
            let (first, mut then) = (Stored::new(&quiet, dtype, gap), Stored::new(&loud, dtype, gap));
            let (mut level1, mut level2) = (Buffers::new(n, n * F1), Buffers::new(n, n * F2));
            let edits = [STRATA_EDIT_ADD, STRATA_EDIT_SET].map(|mode| strata_edit {
                level: 1,
                latent: mode,
                strength: 0.5,
                mode,
            });
            let mut all = |x: &strata_rows, to: &mut strata_rows_mut| {
                let mut statuses = [1; 5];
                unsafe {
                    statuses[0] = strata_encode(ctx.ctx, x, &mut level1.c, &mut level2.c);
                    statuses[1] = strata_stats_update(ctx.ctx, x);
                    statuses[2] = strata_steer(ctx.ctx, to, edits.as_ptr(), edits.len());
                    statuses[3] = strata_decode(ctx.ctx, &level1.c, &level2.c, to);
                    let mut out = no_stats();
                    statuses[4] = strata_stats_read(ctx.ctx, &mut out);
                }
                assert_eq!(statuses, [STRATA_STATUS_OK; 5]);
            };
            let mut copy = Stored::new(&quiet, dtype, gap);
            warm += allocations(|| all(&first.rows(), &mut copy.rows_mut()));
            let again = Stored::new(&loud, dtype, gap);
            // More codes than in the first call, where the model lets more than k latents fire.
            assert_eq!(allocations(|| all(&again.rows(), &mut then.rows_mut())), 0, "{:?} {dtype}", model.arch);
        }
        assert!(warm > 0, "the counter counts nothing");
    }
}

#[test]
fn steering_adds_directions_or_sets_activations() {
    for model in models() {
        let ctx = Ctx::new(&model, 2);
        let n = BLOCK + 7;
        let level = if model.arch.f2 > 0 { 2 } else { 1 };
        let edits = [(1, 3, 1.5, STRATA_EDIT_SET), (level, 7, -2.0, STRATA_EDIT_SET), (1, 9, 0.25, STRATA_EDIT_ADD)]
            .map(|(level, latent, strength, mode)| strata_edit { level, latent, strength, mode });
        for dtype in DTYPES {
            let mut x = Stored::new(&values(n * D), dtype, 6);
            let before = x.wide();
            let (codes1, codes2) = ctx.expected(&before);
            assert_eq!(unsafe { strata_steer(ctx.ctx, &mut x.rows_mut(), edits.as_ptr(), 3) }, STRATA_STATUS_OK);

            let mut expected = before.clone();
            let decoder2 = ctx.core.decoder2();
            for (i, row) in expected.chunks_mut(D).enumerate() {
                for edit in &edits {
                    let (codes, all) =
                        if edit.level == 1 { (&codes1, &model.params[Id::WDec1][..]) } else { (&codes2, decoder2) };
                    let code = codes.row(i);
                    let z = code.index.iter().position(|j| *j == edit.latent).map_or(0.0, |e| code.value[e]);
                    let alpha = edit.strength - if edit.mode == STRATA_EDIT_SET { z } else { 0.0 };
                    reduce::axpy(Isa::default(), alpha, &all[edit.latent as usize * D..][..D], row);
                }
            }
            assert_eq!(x.wide(), Stored::new(&expected, dtype, 6).wide());
            assert!(x.gaps_are_untouched());
        }
        // What SET keeps: the error of the SAE, for the codes with the one activation replaced.
        let mut x = f32_rows(&values(D));
        let before = x.wide();
        let (codes1, codes2) = ctx.expected(&before);
        let latent = codes1.index[0];
        let set = strata_edit { level: 1, latent, strength: 4.0, mode: STRATA_EDIT_SET };
        assert_eq!(unsafe { strata_steer(ctx.ctx, &mut x.rows_mut(), &set, 1) }, STRATA_STATUS_OK);
        let mut edited = codes1.clone();
        edited.value[0] = 4.0;
        let hat = |codes1: &Codes| {
            let (mut hat1, mut hat2) = ([0.0; D], [0.0; D]);
            ctx.core.decode(codes1, &codes2, &mut hat1, &mut hat2).unwrap();
            hat1
        };
        let (old, new) = (hat(&codes1), hat(&edited));
        for (((after, before), old), new) in x.wide().iter().zip(&before).zip(old).zip(new) {
            assert!(((after - new) - (before - old)).abs() < 1e-5);
        }
    }
}

#[test]
fn edits_that_make_no_sense_change_nothing() {
    let ctx = Ctx::new(&model(arch()), 0);
    let mut x = f32_rows(&values(3 * D));
    let before = x.bytes.clone();
    let edit = strata_edit { level: 1, latent: 0, strength: 1.0, mode: STRATA_EDIT_SET };
    let add = strata_edit { mode: STRATA_EDIT_ADD, ..edit };
    let mut steer =
        |edits: &[strata_edit]| unsafe { strata_steer(ctx.ctx, &mut x.rows_mut(), edits.as_ptr(), edits.len()) };
    assert_eq!(steer(&[strata_edit { level: 3, ..edit }]), STRATA_STATUS_INDEX);
    assert_eq!(steer(&[add, strata_edit { latent: F1 as u32, ..edit }]), STRATA_STATUS_INDEX);
    assert_eq!(steer(&[strata_edit { mode: 2, ..edit }]), STRATA_STATUS_PARAMS);
    assert_eq!(steer(&[edit, add]), STRATA_STATUS_PARAMS);
    assert_eq!(steer(&[add, strata_edit { strength: f32::NAN, ..add }]), STRATA_STATUS_NOT_FINITE);
    assert_eq!(steer(&[]), STRATA_STATUS_OK);
    assert_eq!(x.bytes, before);
}

#[test]
fn hostile_codes_are_refused() {
    let ctx = Ctx::new(&model(arch()), 0);
    let mut hat = f32_rows(&[0.0; 2 * D]);
    let none = Buffers::of(vec![0; 3], vec![], vec![]);
    let mut decode = |offsets: &[usize], index: &[u32], value: &[f32]| {
        let level1 = Buffers::of(offsets.into(), index.into(), value.into());
        unsafe { strata_decode(ctx.ctx, &level1.c, &none.c, &mut hat.rows_mut()) }
    };
    assert_eq!(decode(&[0, 1, 2], &[9, 0], &[1.0, 2.0]), STRATA_STATUS_OK);
    assert_eq!(decode(&[0, 1, 3], &[9, 0], &[1.0, 2.0]), STRATA_STATUS_SHAPE);
    assert_eq!(decode(&[0, 2, 1], &[9, 0], &[1.0, 2.0]), STRATA_STATUS_SHAPE);
    assert_eq!(decode(&[1, 1, 2], &[9, 0], &[1.0, 2.0]), STRATA_STATUS_SHAPE);
    assert_eq!(decode(&[0, usize::MAX, 2], &[9, 0], &[1.0, 2.0]), STRATA_STATUS_SHAPE);
    assert_eq!(decode(&[0, 2], &[9, 0], &[1.0, 2.0]), STRATA_STATUS_SHAPE);
    assert_eq!(decode(&[0, 1, 2], &[9, F1 as u32], &[1.0, 2.0]), STRATA_STATUS_INDEX);
    assert_eq!(decode(&[0, 1, 2], &[9, 0], &[1.0, f32::NAN]), STRATA_STATUS_NOT_FINITE);
}

fn no_stats() -> strata_stats {
    strata_stats {
        struct_size: size_of::<strata_stats>(),
        rows: 0,
        fvu1: 0.0,
        fvu2: 0.0,
        l0_1: 0.0,
        l0_2: 0.0,
        dead1: 0,
        dead2: 0,
        reserved: 0,
    }
}

fn stats(ctx: *const strata_ctx) -> strata_stats {
    let mut out = no_stats();
    assert_eq!(unsafe { strata_stats_read(ctx, &mut out) }, STRATA_STATUS_OK);
    out
}

#[test]
fn statistics_equal_the_metrics_of_the_core() {
    for (model, n_threads) in models().iter().flat_map(|m| [(m, 0), (m, 3)]) {
        let ctx = Ctx::new(model, n_threads);
        let empty = stats(ctx.ctx);
        assert!(empty.rows == 0 && empty.fvu1.is_nan() && empty.dead1 == F1 as u64);
        let (mut fidelity, f2) = (Fidelity::new(D), model.arch.f2);
        let mut sparsity = [Sparsity::new(F1), Sparsity::new(f2)];
        let all = values(300 * D);
        for part in [&all[..130 * D], &all[130 * D..131 * D], &all[131 * D..]] {
            let x = f32_rows(part);
            assert_eq!(unsafe { strata_stats_update(ctx.ctx, &x.rows()) }, STRATA_STATUS_OK);
            for block in part.chunks(BLOCK * D) {
                let (codes1, codes2) = ctx.expected(block);
                let (mut hat1, mut hat2) = (vec![0.0; block.len()], vec![0.0; block.len()]);
                ctx.core.decode(&codes1, &codes2, &mut hat1, &mut hat2).unwrap();
                fidelity.add(block, &hat1, &hat2).unwrap();
                sparsity[0].add(&codes1.view(F1).unwrap()).unwrap();
                sparsity[1].add(&codes2.view(f2).unwrap()).unwrap();
            }
        }
        let (got, report) = (stats(ctx.ctx), fidelity.report());
        assert_eq!((got.rows, got.fvu1, got.fvu2), (300, report.level1.fvu, report.level2.fvu));
        let levels = [(got.l0_1, got.dead1), (got.l0_2, got.dead2)];
        for ((l0, dead), sparsity) in levels.into_iter().zip(&sparsity) {
            assert_eq!(l0, sparsity.report().l0_mean);
            assert_eq!(dead, sparsity.fires().iter().filter(|n| **n == 0).count() as u64);
        }
    }
}

/// Starts a dump; what is in `params` besides the size and the width stays.
fn create(path: &Path, change: impl FnOnce(&mut strata_dump_params)) -> Result<*mut strata_dump, strata_status> {
    let mut params = std::mem::MaybeUninit::uninit();
    unsafe { strata_dump_params_init(params.as_mut_ptr()) };
    let mut params = unsafe { params.assume_init() };
    params.d = D;
    change(&mut params);
    let mut out = null_mut();
    match unsafe { strata_dump_create(c_path(path).as_ptr(), &params, &mut out, null_mut()) } {
        STRATA_STATUS_OK => Ok(out),
        status => Err(status),
    }
}

fn append(dump: *mut strata_dump, x: &Stored, tokens: Option<&[u32]>) -> strata_status {
    let tokens = tokens.map_or(null(), <[u32]>::as_ptr);
    unsafe { strata_dump_append(dump, &x.rows(), tokens, null_mut()) }
}

fn close(dump: *mut strata_dump) -> strata_status {
    unsafe { strata_dump_close(dump, null_mut()) }
}

fn entries(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

#[test]
fn a_dump_can_be_read_by_the_command_line() {
    for (dtype, with_tokens) in [(Dtype::F32, true), (Dtype::F16, false), (Dtype::Bf16, true)] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dump");
        let (model, hook) = (CString::new("gpt \"x\"").unwrap(), CString::new("l_out-3").unwrap());
        let dump = create(&path, |p| {
            p.dtype = dtype as u32;
            p.context = 4;
            p.max_shard_bytes = (30 * D * dtype.size_bytes()) as u64;
            (p.model, p.hook) = (model.as_ptr(), hook.as_ptr());
        })
        .unwrap();
        let (all, tokens) = (values(100 * D), (0..100).rev().collect::<Vec<u32>>());
        for part in [0..1, 1..71, 71..71, 71..100] {
            let x = Stored::new(&all[part.start * D..part.end * D], Dtype::F32, 3);
            let tokens = with_tokens.then_some(&tokens[part]);
            assert_eq!(append(dump, &x, tokens), STRATA_STATUS_OK);
        }
        assert!(!path.exists());
        assert_eq!(close(dump), STRATA_STATUS_OK);
        assert_eq!(entries(dir.path()), 1, "only the dump");

        let read = crate::dump::open(&path).unwrap();
        assert_eq!((read.n_rows(), read.d(), read.dtype(), read.n_shards()), (100, D, dtype, 4));
        assert_eq!((read.context(), read.model(), read.hook()), (Some(4), Some("gpt \"x\""), Some("l_out-3")));
        assert_eq!(read.tokens(), with_tokens.then_some(&tokens[..]));
        let mut rows = vec![0.0; 100 * D];
        read.read_range(0, 100, &mut rows).unwrap();
        let stored = Stored::new(&all, dtype, 0).wide();
        assert_eq!(rows, stored);
        let norm = |row: &[f32]| row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        let mean_norm = stored.chunks(D).map(norm).sum::<f64>() / 100.0;
        assert!((read.mean_norm().unwrap() - mean_norm).abs() < 1e-12 * mean_norm);
        let mean0 = stored.iter().step_by(D).sum::<f32>() / 100.0;
        assert!((read.mean().unwrap()[0] - mean0).abs() < 1e-5);
    }
}

#[test]
fn a_dump_appears_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dump");
    let x = f32_rows(&values(3 * D));

    // Refused rows leave it as it was; a number that the type cannot hold ends it.
    let dump = create(&path, |p| p.dtype = STRATA_DTYPE_F16).unwrap();
    assert_eq!(append(dump, &x, None), STRATA_STATUS_OK);
    assert_eq!(append(dump, &f32_rows(&[f32::NAN; D]), None), STRATA_STATUS_NOT_FINITE);
    assert_eq!(append(dump, &x, Some(&[1, 2, 3])), STRATA_STATUS_PARAMS);
    assert_eq!(append(dump, &x, None), STRATA_STATUS_OK);
    assert_eq!(append(dump, &f32_rows(&[1e6; D]), None), STRATA_STATUS_NOT_FINITE);
    assert_eq!(append(dump, &x, None), STRATA_STATUS_IO);
    assert_eq!(close(dump), STRATA_STATUS_IO);
    assert_eq!(entries(dir.path()), 0);

    assert_eq!(close(create(&path, |_| ()).unwrap()), STRATA_STATUS_SHAPE);
    assert_eq!(create(&path, |p| p.d = 0).err(), Some(STRATA_STATUS_SHAPE));
    assert_eq!(create(&path, |p| p.dtype = 9).err(), Some(STRATA_STATUS_DTYPE));
    assert_eq!(create(&path, |p| p.reserved = 9).err(), Some(STRATA_STATUS_PARAMS));
    assert_eq!(create(&path.join("no/parent"), |_| ()).err(), Some(STRATA_STATUS_IO));
    assert_eq!(entries(dir.path()), 0);

    // Two at the same time: the first to close has the name, and what is there is never replaced.
    let (a, b) = (create(&path, |_| ()).unwrap(), create(&path, |_| ()).unwrap());
    assert_eq!((append(a, &x, None), append(b, &x, None)), (0, 0));
    assert_eq!((close(b), close(a)), (STRATA_STATUS_OK, STRATA_STATUS_IO));
    assert_eq!(create(&path, |_| ()).err(), Some(STRATA_STATUS_IO));
    assert_eq!(entries(dir.path()), 1);
}

#[test]
fn a_panic_is_caught_and_closes_the_handle() {
    let mut guarded = Guarded::new(1);
    assert_eq!(boundary(|| guarded.with(|_| Ok(()))), STRATA_STATUS_OK);
    let quiet = std::panic::AssertUnwindSafe(&mut guarded);
    let status = boundary(move || {
        let quiet = quiet;
        quiet.0.with(|_| std::panic::resume_unwind(Box::new("a test")))
    });
    assert_eq!(status, STRATA_STATUS_PANIC);
    let again: Result<(), Failure> = guarded.with(|_| Ok(()));
    assert_eq!(again.unwrap_err().status, STRATA_STATUS_PANIC);
    assert!(guarded.get().is_err());
}

#[test]
fn numbers_and_layouts_are_pinned() {
    let names = [
        (0, "OK"),
        (10, "NULL"),
        (12, "SHAPE"),
        (14, "INDEX"),
        (16, "PARAMS"),
        (18, "CAPACITY"),
        (20, "FORMAT"),
        (22, "DTYPE"),
        (24, "VERSION"),
        (26, "NOT_FINITE"),
        (30, "IO"),
        (32, "MEMORY"),
        (40, "DEVICE"),
        (99, "PANIC"),
        (-1, "UNKNOWN"),
        (11, "UNKNOWN"),
    ];
    for (status, name) in names {
        let got = unsafe { CStr::from_ptr(strata_status_name(status)) }.to_str().unwrap();
        assert_eq!(got, format!("STRATA_STATUS_{name}"));
    }
    assert_eq!(strata_abi_version(), STRATA_ABI_VERSION);
    let version = unsafe { CStr::from_ptr(strata_version()) }.to_str().unwrap();
    assert_eq!(version, env!("CARGO_PKG_VERSION"));

    // The same as `ffi/examples/layout.c`.
    if size_of::<*const c_char>() == 8 {
        let sizes = [
            size_of::<strata_rows>(),
            size_of::<strata_rows_mut>(),
            size_of::<strata_codes>(),
            size_of::<strata_edit>(),
            size_of::<strata_error>(),
            size_of::<strata_model_info>(),
            size_of::<strata_stats>(),
            size_of::<strata_model_params>(),
            size_of::<strata_ctx_params>(),
            size_of::<strata_dump_params>(),
        ];
        assert_eq!(sizes, [48, 48, 56, 16, 272, 56, 72, 16, 16, 56]);
        assert_eq!((offset_of!(strata_rows, row_stride_bytes), offset_of!(strata_rows, dtype)), (32, 40));
        assert_eq!((offset_of!(strata_codes, value), offset_of!(strata_codes, n)), (32, 48));
        assert_eq!((offset_of!(strata_edit, strength), offset_of!(strata_error, message)), (8, 16));
        assert_eq!((offset_of!(strata_stats, l0_1), offset_of!(strata_dump_params, model)), (32, 32));
    }
}

#[test]
fn the_example_model_is_what_the_writers_write() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/sae");
    let model = model(Arch { d: 6, f1: 8, f2: 16, k1: 2.0, k2: 3.0, ..arch() });
    let files = [
        ("cfg.json", weights::write_cfg(&model.arch, &Default::default())),
        ("sae_weights.safetensors", weights::write_weights(&model).unwrap()),
    ];
    for (name, bytes) in files {
        assert!(std::fs::read(dir.join(name)).unwrap() == bytes, "{name}");
    }
}
