//! Models, contexts and expected results.

use std::ffi::{CStr, CString};
use std::path::Path;
use std::ptr::{null, null_mut};
use std::sync::Arc;

use strata::*;
use strata_core::config::{Activation, Decoder, GateKind, ModelKind, Source};
use strata_core::format::weights;
use strata_core::model::{Arch, LevelArch, Scratch};
use strata_core::{Codes, Compute, Encoder, Isa, Model, Par, Philox, ROOT};
use strata_tests::vary::Vary;

use super::buffers::Buffers;

pub const D: usize = 19;
pub const F1: usize = 40;
pub const F2: usize = 90;
pub const BLOCK: usize = 256;

pub fn arch() -> Arch {
    Arch {
        model: ModelKind::Tree,
        d: D,
        level: [
            LevelArch { latents: F1, activation: Activation::Topk, k: 4.0 },
            LevelArch { latents: F2, activation: Activation::Topk, k: 6.0 },
        ],
        source: Source::X,
        decoder: Decoder::Cum,
        gate: GateKind::Hard,
        variant: Default::default(),
    }
}

/// A model with random weights; every tenth child has no parent.
pub fn model(arch: Arch) -> Model {
    let mut rng = Philox::new(7, 0);
    let mut params = arch.zeros();
    params.each_mut().flatten().for_each(|v| *v = 0.3 * rng.normal_f32());
    let f2 = if arch.gate.has_families() { arch.level[1].latents } else { 0 };
    let parents = (0..f2).map(|j| if j % 10 == 9 { ROOT } else { (j * 7 % arch.level[0].latents) as u32 }).collect();
    Model { arch, params, parents, tau: [0.2, 0.3] }
}

/// Returns models of every kind that the ABI treats differently.
pub fn models() -> Vec<Model> {
    let base = arch();
    let relu = Activation::Relu;
    [
        base,
        Arch { gate: GateKind::None, ..base }.sized([F1, 0]),
        Arch { gate: GateKind::None, ..base }.activated([relu; 2]),
        Arch { gate: GateKind::GroupTop1, ..base }.activated([Activation::Batchtopk, Activation::Gated]),
        Arch { source: Source::Res, decoder: Decoder::Ind, gate: GateKind::Add, ..base }
            .activated([Activation::Topk, Activation::Jumprelu]),
        Arch { source: Source::Z1, decoder: Decoder::Comp, gate: GateKind::Mul, ..base },
        Arch { model: ModelKind::Seed, source: Source::Z1, decoder: Decoder::Comp, gate: GateKind::Mul, ..base }
            .activated([relu; 2]),
    ]
    .map(model)
    .into()
}

pub fn values(n: usize) -> Vec<f32> {
    let mut rng = Philox::new(11, 1);
    (0..n).map(|_| 2.0 * rng.normal_f32()).collect()
}

pub fn error() -> strata_error {
    strata_error { struct_size: size_of::<strata_error>(), status: 0, reserved: 0, message: [0; 256] }
}

pub fn message(err: &strata_error) -> &str {
    unsafe { CStr::from_ptr(err.message.as_ptr()) }.to_str().unwrap()
}

pub fn load_bytes(cfg: &[u8], weights: &[u8]) -> Result<*mut strata_model, (strata_status, String)> {
    load_as(cfg, weights, null())
}

pub fn load_as(
    cfg: &[u8],
    weights: &[u8],
    params: *const strata_model_params,
) -> Result<*mut strata_model, (strata_status, String)> {
    let (mut out, mut err) = (null_mut(), error());
    let (c, w) = (cfg.as_ptr().cast(), weights.as_ptr().cast());
    match unsafe { strata_model_load_buffers(c, cfg.len(), w, weights.len(), params, &mut out, &mut err) } {
        STRATA_STATUS_OK => Ok(out),
        status => {
            assert_eq!(err.status, status, "the error struct has the status that was returned");
            assert!(out.is_null(), "an output of a call that failed");
            Err((status, message(&err).to_owned()))
        }
    }
}

/// A context, and the encoder of the core that it must agree with.
pub struct Ctx {
    pub ctx: *mut strata_ctx,
    pub model: *mut strata_model,
    pub core: Encoder,
}

impl Ctx {
    pub fn new(model: &Model, n_threads: u32) -> Self {
        let bytes = (weights::write_cfg(&model.arch, &Default::default()), weights::write_weights(model).unwrap());
        let loaded = load_bytes(&bytes.0, &bytes.1).unwrap();
        Self { ctx: new_ctx(loaded, n_threads), model: loaded, core: Self::core(model) }
    }

    pub fn core(model: &Model) -> Encoder {
        Encoder::new(Arc::new(model.clone()), Compute::new(Isa::default(), Par::Seq)).unwrap()
    }

    pub fn encode(&self, x: &strata_rows) -> (Codes, Codes) {
        let info = self.info();
        let mut level1 = Buffers::new(x.n_rows, x.n_rows * info.max_active1);
        let mut level2 = Buffers::new(x.n_rows, x.n_rows * info.max_active2);
        assert_eq!(
            unsafe { strata_encode(self.ctx, x, &mut level1.c, &mut level2.c) },
            STRATA_STATUS_OK,
            "strata_encode"
        );
        (level1.codes(), level2.codes())
    }

    pub fn info(&self) -> strata_model_info {
        let mut info = strata_model_info {
            struct_size: size_of::<strata_model_info>(),
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
        assert_eq!(unsafe { strata_model_get_info(self.model, &mut info) }, STRATA_STATUS_OK, "strata_model_get_info");
        info
    }

    pub fn expected(&self, x: &[f32]) -> (Codes, Codes) {
        let (mut codes1, mut codes2) = (Codes::new(), Codes::new());
        self.core.encode(x, &mut Scratch::new(&self.core.model().arch), &mut codes1, &mut codes2).unwrap();
        (codes1, codes2)
    }
}

impl Drop for Ctx {
    fn drop(&mut self) {
        // The context is freed last: it keeps the model alive.
        unsafe { strata_model_free(self.model) };
        unsafe { strata_ctx_free(self.ctx) };
    }
}

pub fn new_ctx(model: *const strata_model, n_threads: u32) -> *mut strata_ctx {
    let (mut out, mut params) = (null_mut(), strata_ctx_params { struct_size: 0, n_threads: 9, device: 9 });
    unsafe { strata_ctx_params_init(&mut params) };
    params.n_threads = n_threads;
    assert_eq!(unsafe { strata_ctx_new(model, &params, &mut out, null_mut()) }, STRATA_STATUS_OK, "strata_ctx_new");
    out
}

pub fn c_path(path: &Path) -> CString {
    CString::new(path.to_str().unwrap()).unwrap()
}

pub fn no_stats() -> strata_stats {
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

pub fn stats(ctx: *const strata_ctx) -> strata_stats {
    let mut out = no_stats();
    assert_eq!(unsafe { strata_stats_read(ctx, &mut out) }, STRATA_STATUS_OK, "strata_stats_read");
    out
}
