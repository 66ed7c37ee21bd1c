//! The derived weights of a step: what its stages read in place of the parameters, computed once.

use super::inputs::Inputs;
use crate::kernel::dense::{Matrix, Pick};
use crate::kernel::{Screen, reduce};
use crate::model::{Arch, Order, Params, compose};
use alloc::vec;
use alloc::vec::Vec;

/// The derived weights of a step.
#[derive(Clone, Debug)]
pub(super) struct Derived {
    /// The encoder of each level in 8 bits, where screening with it saves time; none for a level 2 that is computed
    /// densely.
    pub screens: [Option<Screen>; 2],
    /// The order of level 2's screen behind a hard gate: children of one family side by side.
    pub order: Order,
    /// `E2 D1`, `(f2, d_out)`: the decoder directions of level 2 for `comp`; else empty.
    pub composed: Vec<f32>,
    /// Norms of the decoder rows of both levels, where a penalty needs them.
    pub norms: [Vec<f32>; 2],
    /// Squares of those norms, where a step prunes; else empty.
    pub squares: [Vec<f32>; 2],
    /// `threshold - bandwidth / 2` of each latent of a `jumprelu` level; above it the threshold has a gradient. Else
    /// empty.
    pub bands: [Vec<f32>; 2],
}

impl Derived {
    /// Allocates the derived weights of an architecture.
    pub fn new(arch: &Arch) -> Self {
        let comp = arch.decoder.is_composed() && arch.n_levels() == 2;
        Self {
            screens: [None, None],
            order: Order::default(),
            composed: vec![0.0; if comp { arch.level[1].latents * arch.d_out() } else { 0 }],
            norms: [Vec::new(), Vec::new()],
            squares: [Vec::new(), Vec::new()],
            bands: [Vec::new(), Vec::new()],
        }
    }

    /// Frees the screens.
    pub fn rest(&mut self) {
        self.screens = [None, None];
    }

    /// Returns the decoder directions of level 2 in the space of the rows, `(f2, d)`.
    pub fn decoder2<'a>(&'a self, params: &'a Params) -> &'a [f32] {
        if self.composed.is_empty() { &params.level[1].w_dec } else { &self.composed }
    }

    /// Computes the derived weights of a step.
    pub fn update(&mut self, inputs: &Inputs<'_>) {
        let Inputs { compute, arch, whole, params, settings, .. } = *inputs;
        let behind_gate = settings.gate.has_families() && !inputs.needs_ungated();
        let sizes = [(arch.level[0].latents, arch.d), (arch.level[1].latents, arch.source_width())];
        for (screen, (f, d)) in self.screens.iter_mut().zip(sizes) {
            if screen.is_none() && Screen::pays(compute.isa, f, d) {
                *screen = Some(Screen::new(f, d));
            }
        }
        let [screen1, screen2] = &mut self.screens;
        if let Some(screen) = screen1 {
            screen.quantise(compute, Matrix::all(&params.level[0].w_enc, arch.d), &params.level[0].b_enc);
        }
        let dense = settings.gate.is_dense_in_training();
        if let Some(screen) = screen2.as_mut().filter(|_| !dense) {
            let (all, bias) = (Matrix::all(&params.level[1].w_enc, arch.source_width()), &params.level[1].b_enc);
            if behind_gate {
                self.order.set(inputs.families);
                if self.order.pays() {
                    screen.quantise(compute, all.only(Pick::List(&self.order.places)), bias);
                }
            } else {
                screen.quantise(compute, all, bias);
            }
        }
        if !self.composed.is_empty() {
            compose(compute, arch, params, &mut self.composed);
        }
        let specs = whole.specs();
        for (l, norms) in self.norms.iter_mut().enumerate().take(inputs.n_levels()) {
            let rows = params.level[l].w_dec.chunks(specs.level[l].w_dec.width);
            norms.clear();
            norms.extend(rows.map(|row| libm::sqrtf(reduce::sum_squares(compute.isa, row))));
        }
        if inputs.config.train.prune > 0.0 {
            let mut squares = core::mem::take(&mut self.squares);
            let decoders = [&params.level[0].w_dec[..], self.decoder2(params)];
            for (squares, rows) in squares.iter_mut().zip(decoders).take(inputs.n_levels()) {
                squares.clear();
                squares.extend(rows.chunks(arch.d_out()).map(|row| reduce::sum_squares(compute.isa, row)));
            }
            self.squares = squares;
        }
        for (l, band) in self.bands.iter_mut().enumerate() {
            inputs.rule(l).bands(inputs.config.level(l).bandwidth as f32, band);
        }
    }
}
