//! Contexts on devices: without a GPU a status of its own, with one the codes of the CPU.

use std::ptr::null_mut;

use strata::*;
use strata_core::cuda;

use super::buffers::f32_rows;
use super::fixture::{Ctx, D, arch, error, message, model, values};

#[test]
fn a_context_on_a_gpu_has_the_codes_of_the_cpu_or_says_why_not() {
    let ctx = Ctx::new(&model(arch()), 0);
    let mut params = strata_ctx_params { struct_size: size_of::<strata_ctx_params>(), n_threads: 0, device: 0 };
    for device in [1, 9999, u32::MAX] {
        params.device = device;
        let (mut out, mut err) = (null_mut(), error());
        let status = unsafe { strata_ctx_new(ctx.model, &params, &mut out, &mut err) };
        if device == 1 && cuda::open(0).is_ok() {
            assert_eq!(status, STRATA_STATUS_OK, "{}", message(&err));
            let on = std::mem::ManuallyDrop::new(Ctx { ctx: out, model: ctx.model, core: Ctx::core(&model(arch())) });
            let x = f32_rows(&values(300 * D));
            assert_eq!(on.encode(&x.rows()), ctx.encode(&x.rows()));
            unsafe { strata_ctx_free(out) };
            continue;
        }
        assert_eq!(status, STRATA_STATUS_DEVICE, "device {device}: {}", message(&err));
        assert!(out.is_null() && message(&err).starts_with("params: device: "), "{}", message(&err));
    }
}
