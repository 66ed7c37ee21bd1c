//! The whole loss of the two-level model and of the seed model: dense, in f64, directly from the formulas, with every
//! option.
//!
//! A [`Problem`] is one batch with its settings. [`Problem::look`] runs the forward pass once and returns a [`Point`]:
//! the entries that each rule selects there, and the values of everything that the loss treats as constant (detached).
//! Around that point [`Problem::terms`] is a smooth function of the parameters, with the selections and the detached
//! values kept fixed; its central differences are compared with the gradient that the engine computes by formulas.
//!
//! Only the types of the arguments are shared with the engine.

mod formulas;
mod prune;
mod seed;

pub use seed::Seed;

use formulas::{kernel_integral, largest, mean_cosine, norm, positive, sigmoid, squares, surgery};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Zip};
use prune::smallest;
use strata_core::ROOT;
use strata_core::config::{Activation, Balance, Budget, Config, Consistency, Decoder, GateKind, LevelConfig, Source};
use strata_core::model::{Arch, NAMES, Params};
use strata_core::train::StepSettings;

/// A matrix.
pub type M = Array2<f64>;

/// Half the width of a central difference.
const H: f64 = 1e-6;

/// Tensors that both reconstructions may reach.
const LEVEL1: [&str; 8] = [
    "b_dec",
    "level1.w_enc",
    "level1.b_enc",
    "level1.w_dec",
    "level1.threshold",
    "level1.r_mag",
    "level1.b_mag",
    "w_skip",
];

/// Returns the index of the tensor `name` in [`NAMES`].
fn index_of(name: &str) -> usize {
    NAMES.iter().position(|n| *n == name).unwrap_or_else(|| panic!("no tensor {name}"))
}

/// Tensors that only the reconstruction of level 2 reaches.
const LEVEL2: [&str; 8] = [
    "level2.w_enc",
    "level2.b_enc",
    "level2.w_dec",
    "level2.threshold",
    "level2.r_mag",
    "level2.b_mag",
    "gate.w",
    "gate.b",
];

/// Parameters in f64, in the order of [`NAMES`].
#[derive(Clone, Debug)]
pub struct Tensors(pub Vec<Vec<f64>>);

impl Tensors {
    /// Widens parameters.
    pub fn new(params: &Params) -> Self {
        Self(params.tensors().iter().map(|(_, t)| t.iter().map(|&v| f64::from(v)).collect()).collect())
    }

    fn vector(&self, name: &str) -> ArrayView1<'_, f64> {
        ArrayView1::from(&self.0[index_of(name)][..])
    }

    fn matrix(&self, name: &str, rows: usize) -> ArrayView2<'_, f64> {
        let t = &self.0[index_of(name)];
        let columns = t.len().checked_div(rows).unwrap_or(0);
        ArrayView2::from_shape((rows, columns), t).expect("a whole number of rows")
    }
}

/// The terms of the loss, with their weights.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Terms {
    /// The whole loss.
    pub total: f64,
    /// Fraction of variance unexplained, per level; this one is without its weight.
    pub fvu: [f64; 2],
    /// Sparsity penalty, per level.
    pub sparsity: [f64; 2],
    /// Consistency loss.
    pub consistency: f64,
    /// AuxK loss, per level.
    pub aux: [f64; 2],
    /// Auxiliary reconstruction of gated levels.
    pub gated: [f64; 2],
    /// Mean number of latents that fire per row, per level.
    pub l0: [f64; 2],
}

/// One level at the parameters that the central differences vary.
struct LevelAt<'a> {
    /// Pre-activations.
    u: &'a M,
    /// Latents.
    z: &'a M,
    /// Decoder parameters.
    rows: &'a M,
    /// Decoder directions in the space of the rows of the batch; other than `rows` where the decoder composes level 1.
    directions: &'a M,
}

/// What the consistency losses read at the parameters that the central differences vary.
struct Live<'a> {
    u1: &'a M,
    z1: &'a M,
    d1: &'a M,
    a2: &'a M,
    z2: &'a M,
}

/// Selections and detached values at one point of the parameters.
#[derive(Clone, Debug)]
pub struct Point {
    p: Tensors,
    u: [M; 2],
    a2: M,
    z: [M; 2],
    hat: [M; 2],
    /// 1 for children that the gate lets fire, 0 for the others.
    allowed: M,
    /// 1 for latents that fire, 0 for the others, per level.
    pub fires: [M; 2],
    /// 1 for the dead latents that AuxK selects, per level.
    pub revived: [M; 2],
    /// 1 for children whose ungated pre-activation is above the threshold of level 2.
    pub fires_ungated: M,
    /// The smallest distance of any number from a decision (a selection, a sign, the edge of a kernel). If it is small,
    /// f32 and f64 may decide differently.
    pub nearest: f64,
}

/// One batch with its settings.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Settings.
    pub config: Config,
    /// Architecture.
    pub arch: Arch,
    /// Parent of every child.
    pub parents: Vec<u32>,
    /// The settings of the step.
    pub settings: StepSettings,
    /// The rows.
    pub x: M,
    /// The rows that a transcoder reconstructs.
    pub y: Option<M>,
}

impl Problem {
    /// Returns the activation of a level, the names of its tensors `threshold`, `r_mag` and `b_mag`, and its settings.
    fn level(&self, l: usize) -> (Activation, &str, &str, &str, &LevelConfig) {
        let [theta, r, b] = [
            ["level1.threshold", "level1.r_mag", "level1.b_mag"],
            ["level2.threshold", "level2.r_mag", "level2.b_mag"],
        ][l];
        (self.arch.level[l].activation, theta, r, b, self.config.level(l))
    }

    fn k_aux(&self) -> usize {
        if self.config.revive.k_aux > 0 { self.config.revive.k_aux } else { (self.arch.d_out() / 2).max(1) }
    }

    /// Returns 1 for the latents that fire, given their pre-activations (minus infinity where the gate is closed).
    fn select(&self, l: usize, u: &M, p: &Tensors, nearest: &mut f64) -> M {
        let (activation, theta, r, b, _) = self.level(l);
        let k = self.settings.k[l] * self.settings.surplus[l];
        let mut mask = M::zeros(u.raw_dim());
        match activation {
            Activation::Topk => {
                for (row, mut out) in u.rows().into_iter().zip(mask.rows_mut()) {
                    out.assign(&Array1::from(largest(&row.to_vec(), k as usize, nearest)));
                }
            }
            Activation::Batchtopk => {
                let keep = ((k * u.nrows() as f64).round() as usize).max(1);
                let all: Vec<f64> = u.iter().copied().collect();
                mask = M::from_shape_vec(u.raw_dim(), largest(&all, keep, nearest)).expect("the same shape");
            }
            _ => {
                for ((i, j), &u) in u.indexed_iter() {
                    let above = match activation {
                        Activation::Jumprelu => u - p.vector(theta)[j],
                        Activation::Gated => {
                            *nearest = nearest.min(u.abs());
                            if u > 0.0 { p.vector(r)[j].exp() * u + p.vector(b)[j] } else { u }
                        }
                        _ => u,
                    };
                    *nearest = nearest.min(above.abs());
                    mask[(i, j)] = f64::from(u8::from(above > 0.0));
                }
            }
        }
        mask
    }

    /// Returns 1 for the latents that fire if both levels share a budget: those of the largest pre-activations of both.
    fn select_shared(&self, u: [&M; 2], nearest: &mut f64) -> [M; 2] {
        let k: f64 = (0..2).map(|l| self.settings.k[l] * self.settings.surplus[l]).sum();
        let keep = (k * u[0].nrows() as f64).round() as usize;
        let all: Vec<f64> = u[0].iter().chain(u[1]).copied().collect();
        let mut mask = largest(&all, keep.max(1), nearest);
        let second = mask.split_off(u[0].len());
        [(u[0], mask), (u[1], second)].map(|(u, m)| M::from_shape_vec(u.raw_dim(), m).expect("the same shape"))
    }

    /// Returns 1 for the dead latents that AuxK selects: per row, the `k_aux` of the largest pre-activations.
    fn select_dead(&self, l: usize, u: &M, nearest: &mut f64) -> M {
        let mut revived = M::zeros(u.raw_dim());
        let dead = &self.settings.dead[l];
        if self.config.loss.aux > 0.0 && !dead.is_empty() {
            for (row, mut out) in u.rows().into_iter().zip(revived.rows_mut()) {
                let values: Vec<f64> = dead.iter().map(|&j| row[j as usize]).collect();
                for (&j, picked) in dead.iter().zip(largest(&values, self.k_aux(), nearest)) {
                    out[j as usize] = picked;
                }
            }
        }
        revived
    }

    /// Returns the activations `z` with the selection of the point. A change of the threshold of jumprelu changes `z`
    /// by the
    /// integral of the straight-through kernel, whose derivative is the gradient that the engine uses.
    fn activate(&self, l: usize, u: &M, p: &Tensors, at: &Point) -> M {
        let (activation, theta, r, b, level) = self.level(l);
        let fires = &at.fires[l];
        match activation {
            Activation::Relu | Activation::Topk | Activation::Batchtopk => u * fires,
            Activation::Gated => (u * &p.vector(r).mapv(f64::exp) + p.vector(b)) * fires,
            Activation::Jumprelu => {
                let mut z = u * fires;
                for ((i, j), z) in z.indexed_iter_mut() {
                    *z += at.p.vector(theta)[j] * self.kernel_change(l, i, j, p.vector(theta)[j], level.bandwidth, at);
                }
                z
            }
        }
    }

    /// Returns `H((u - theta) / eps) - H((u - theta0) / eps)` with `u` and `theta0` of the point and `H` the
    /// [`kernel_integral`], where the gate is open; 0 elsewhere.
    fn kernel_change(&self, l: usize, i: usize, j: usize, theta: f64, eps: f64, at: &Point) -> f64 {
        if l == 1 && at.allowed[(i, j)] == 0.0 {
            return 0.0;
        }
        let theta0 = at.p.vector(self.level(l).1)[j];
        let u0 = at.u[l][(i, j)];
        kernel_integral((u0 - theta) / eps) - kernel_integral((u0 - theta0) / eps)
    }

    /// Returns 1 for the children that a hard gate lets fire, given the latents of level 1 that fire.
    fn gate_mask(&self, fires1: &M, a2: &M, nearest: &mut f64) -> M {
        let mut allowed = M::ones(a2.raw_dim());
        if !self.settings.gate.has_families() {
            return allowed;
        }
        for i in 0..a2.nrows() {
            for j in 0..a2.ncols() {
                let p = self.parents[j];
                if p == ROOT {
                    continue;
                }
                if fires1[(i, p as usize)] == 0.0 {
                    allowed[(i, j)] = 0.0;
                } else if self.settings.gate == GateKind::GroupTop1 {
                    for k in 0..a2.ncols() {
                        if k != j && self.parents[k] == p {
                            let ahead = a2[(i, j)] - a2[(i, k)];
                            *nearest = nearest.min(ahead.abs());
                            if ahead < 0.0 {
                                allowed[(i, j)] = 0.0;
                            }
                        }
                    }
                }
            }
        }
        allowed
    }

    /// Returns what the encoder of level 1 reads: `x - b_dec`, or `x` for a transcoder.
    fn input(&self, p: &Tensors) -> M {
        if self.y.is_some() { self.x.clone() } else { &self.x - &p.vector("b_dec") }
    }

    /// Returns what the decoded codes plus `b_dec` should equal: `x`, or `y - W_skip x` for a transcoder.
    fn wanted(&self, p: &Tensors) -> M {
        let Some(y) = &self.y else { return self.x.clone() };
        if !self.arch.variant.skip {
            return y.clone();
        }
        y - &self.x.dot(&p.matrix("w_skip", self.arch.d_out()).t())
    }

    /// Runs the forward pass at `params` and returns the selections and detached values.
    pub fn look(&self, params: &Params) -> Point {
        let p = Tensors::new(params);
        let [f1, f2] = self.arch.latents();
        let n = self.x.nrows();
        let none = |f: usize| M::zeros((n, f));
        let mut at = Point {
            u: [none(f1), none(f2)],
            a2: none(f2),
            z: [none(f1), none(f2)],
            hat: [none(self.arch.d_out()), none(self.arch.d_out())],
            allowed: none(f2),
            fires: [none(f1), none(f2)],
            revived: [none(f1), none(f2)],
            fires_ungated: none(f2),
            nearest: f64::INFINITY,
            p,
        };
        let p = at.p.clone();
        let mut nearest = f64::INFINITY;
        let xt = self.input(&p);
        at.u[0] = xt.dot(&p.matrix("level1.w_enc", f1).t()) + p.vector("level1.b_enc");
        let shared = (self.config.budget == Budget::Shared).then(|| {
            let u2 = self.ungated2(&p, &xt, &none(f1), &none(self.arch.d));
            self.select_shared([&at.u[0], &u2], &mut nearest)
        });
        at.fires[0] = match &shared {
            Some([first, _]) => first.clone(),
            None => self.select(0, &at.u[0], &p, &mut nearest),
        };
        let mut shared = shared;
        let prunes = self.config.train.prune > 0.0;
        if prunes {
            let theta = match &shared {
                Some([first, second]) => {
                    let u2 = self.ungated2(&p, &xt, &none(f1), &none(self.arch.d));
                    smallest(&at.u[0], first).min(smallest(&u2, second))
                }
                None => smallest(&at.u[0], &at.fires[0]),
            };
            let d1 = p.matrix("level1.w_dec", f1).to_owned();
            let left = self.wanted(&p) - p.vector("b_dec");
            self.prune([&at.u[0], &d1, &left], theta, &mut at.fires[0], &mut nearest);
            if let Some([first, second]) = &mut shared {
                let u2 = self.ungated2(&p, &xt, &none(f1), &none(self.arch.d));
                *first = at.fires[0].clone();
                let z1 = &at.u[0] * &at.fires[0];
                let left = self.left_for_level_2(&p, &z1);
                self.prune([&u2, &self.directions2(&p, &d1), &left], theta, second, &mut nearest);
            }
        }
        at.revived[0] = self.select_dead(0, &at.u[0], &mut nearest);
        at.z[0] = self.activate(0, &at.u[0], &p, &at);
        let d1 = p.matrix("level1.w_dec", f1);
        at.hat[0] = at.z[0].dot(&d1) + p.vector("b_dec");
        if f2 > 0 {
            at.a2 = self.ungated2(&p, &xt, &at.z[0], &at.z[0].dot(&d1));
            at.u[1] = self.gate(&p, &at.a2, &at.z[0]);
            at.allowed = self.gate_mask(&at.fires[0], &at.a2, &mut nearest);
            let mut open = at.u[1].clone();
            Zip::from(&mut open).and(&at.allowed).for_each(|u, &a| {
                if a == 0.0 {
                    *u = f64::NEG_INFINITY;
                }
            });
            at.fires[1] = match shared {
                Some([_, second]) => second,
                None => self.select(1, &open, &p, &mut nearest),
            };
            if prunes && self.config.budget != Budget::Shared {
                let theta = smallest(&open, &at.fires[1]);
                let (left, d2) = (self.left_for_level_2(&p, &at.z[0]), self.directions2(&p, &d1.to_owned()));
                self.prune([&open, &d2, &left], theta, &mut at.fires[1], &mut nearest);
            }
            at.revived[1] = self.select_dead(1, &open, &mut nearest);
            at.z[1] = self.activate(1, &at.u[1], &p, &at);
            at.hat[1] = self.decode2(&p, &at.z[1], &d1.to_owned(), &p.vector("b_dec").to_owned(), &at.hat[0]);
            at.fires_ungated = self.select_ungated(&p, &at.a2, &mut nearest);
        }
        at.nearest = nearest.min(self.kinks(&at));
        at
    }

    /// Returns 1 for the children that would fire by their ungated pre-activation alone, without competition.
    fn select_ungated(&self, p: &Tensors, a2: &M, nearest: &mut f64) -> M {
        let (activation, theta, r, b, _) = self.level(1);
        let mut fires_ungated = M::zeros(a2.raw_dim());
        for ((i, j), &a) in a2.indexed_iter() {
            let above = match activation {
                Activation::Relu => a,
                Activation::Topk | Activation::Batchtopk => a - f64::from(self.settings.tau[1]).max(0.0),
                Activation::Jumprelu => a - p.vector(theta)[j],
                Activation::Gated if a > 0.0 => p.vector(r)[j].exp() * a + p.vector(b)[j],
                Activation::Gated => a,
            };
            *nearest = nearest.min(above.abs());
            fires_ungated[(i, j)] = f64::from(u8::from(above > 0.0));
        }
        fires_ungated
    }

    /// Returns the smallest distance from an edge of jumprelu's kernel or from the hinge of the containment loss.
    fn kinks(&self, at: &Point) -> f64 {
        let mut nearest = f64::INFINITY;
        for l in 0..2 {
            let (activation, theta, _, _, level) = self.level(l);
            if activation == Activation::Jumprelu && at.u[l].ncols() > 0 {
                for ((_, j), &u) in at.u[l].indexed_iter() {
                    let v = (u - at.p.vector(theta)[j]).abs();
                    nearest = nearest.min((v - 0.5 * level.bandwidth).abs());
                }
            }
        }
        if self.config.loss.consistency == Consistency::Contain {
            for &u in &at.u[0] {
                nearest = nearest.min((u - self.config.loss.contain_margin).abs());
            }
        }
        nearest
    }

    /// Returns the ungated pre-activations of level 2. `z1d1` is the reconstruction by level 1 without `b_dec`.
    fn ungated2(&self, p: &Tensors, xt: &M, z1: &M, z1d1: &M) -> M {
        let s = match self.arch.source {
            Source::X => xt.clone(),
            Source::Res => xt - z1d1,
            Source::Z1 => z1.clone(),
        };
        s.dot(&p.matrix("level2.w_enc", self.arch.level[1].latents).t()) + p.vector("level2.b_enc")
    }

    /// Returns the pre-activations of level 2 after a soft gate; hard gates act in [`Problem::gate_mask`].
    fn gate(&self, p: &Tensors, a2: &M, z1: &M) -> M {
        let g = || z1.dot(&p.matrix("gate.w", self.arch.level[0].latents)) + p.vector("gate.b");
        match self.settings.gate {
            GateKind::None | GateKind::Hard | GateKind::GroupTop1 => a2.clone(),
            GateKind::Mul => a2 * &g().mapv(sigmoid),
            GateKind::Add => a2 + &g(),
        }
    }

    /// Returns the decoder directions of level 2 in the space of the rows, given those of level 1 that level 2 reads.
    fn directions2(&self, p: &Tensors, d1: &M) -> M {
        let d2 = p.matrix("level2.w_dec", self.arch.level[1].latents);
        if self.arch.decoder == Decoder::Comp { d2.dot(d1) } else { d2.to_owned() }
    }

    /// Returns the reconstruction by both levels.
    fn decode2(&self, p: &Tensors, z2: &M, d1: &M, bd: &Array1<f64>, hat1: &M) -> M {
        let own = z2.dot(&self.directions2(p, d1));
        if self.arch.decoder == Decoder::Cum { hat1 + &own } else { own + bd }
    }

    /// Returns the loss at `p`, near the point `at`. Without `through`, level 2 reads level 1 as it was at the point,
    /// so that
    /// the loss of level 2 has no gradient in the parameters of level 1.
    pub fn terms(&self, p: &Tensors, at: &Point, through: bool) -> Terms {
        let [f1, f2] = self.arch.latents();
        let (loss, settings) = (&self.config.loss, &self.settings);
        let n = self.x.nrows() as f64;
        let unit = 1.0 / (n * f64::from(settings.variance));
        let mut out = Terms::default();

        let bd = p.vector("b_dec").to_owned();
        let d1 = p.matrix("level1.w_dec", f1).to_owned();
        let (xt, wanted) = (self.input(p), self.wanted(p));
        let u1 = xt.dot(&p.matrix("level1.w_enc", f1).t()) + p.vector("level1.b_enc");
        let z1 = self.activate(0, &u1, p, at);
        let hat1 = z1.dot(&d1) + &bd;
        out.fvu[0] = squares(&(&hat1 - &wanted)) * unit;
        let wanted_at = self.wanted(&at.p);
        let d1_at = at.p.matrix("level1.w_dec", f1).to_owned();
        let bd_at = at.p.vector("b_dec").to_owned();
        let rows = p.matrix("level1.w_dec", f1).to_owned();
        self.level_terms(0, p, at, &LevelAt { u: &u1, z: &z1, rows: &rows, directions: &d1 }, &mut out);
        if loss.gated_aux > 0.0 && self.arch.level[0].activation == Activation::Gated {
            out.gated[0] =
                loss.gated_aux * unit * squares(&(positive(&u1, &at.u[0], None).dot(&d1_at) + &bd_at - &wanted_at));
        }
        if f2 == 0 {
            out.fvu[1] = out.fvu[0];
            out.total = f64::from(settings.w[0]) * out.fvu[0] + out.sparsity[0] + out.aux[0] + out.gated[0];
            return out;
        }

        // The numbers of level 1 that level 2 reads.
        let (xt2, z1s, d1s, bds, hat1s) = if through {
            (xt.clone(), z1.clone(), d1.clone(), bd.clone(), hat1.clone())
        } else {
            (self.input(&at.p), at.z[0].clone(), d1_at.clone(), bd_at.clone(), at.hat[0].clone())
        };
        let z1d1 = if self.config.source_detach { at.z[0].dot(&d1_at) } else { z1s.dot(&d1s) };
        let a2 = self.ungated2(p, &xt2, &z1s, &z1d1);
        let u2 = self.gate(p, &a2, &z1s);
        let z2 = self.activate(1, &u2, p, at);
        let hat2 = self.decode2(p, &z2, &d1s, &bds, &hat1s);
        let wanted2 = if through { &wanted } else { &wanted_at };
        out.fvu[1] = squares(&(&hat2 - wanted2)) * unit;
        let directions = self.directions2(p, &d1s);
        let rows = p.matrix("level2.w_dec", f2).to_owned();
        self.level_terms(1, p, at, &LevelAt { u: &u2, z: &z2, rows: &rows, directions: &directions }, &mut out);
        if loss.gated_aux > 0.0 && self.arch.level[1].activation == Activation::Gated {
            let frozen = self.directions2(&at.p, &d1_at);
            let base = if self.arch.decoder == Decoder::Cum {
                at.hat[0].clone()
            } else {
                M::zeros(at.hat[0].raw_dim()) + &bd_at
            };
            let relu = positive(&u2, &at.u[1], Some(&at.allowed));
            out.gated[1] = loss.gated_aux * unit * squares(&(relu.dot(&frozen) + base - &wanted_at));
        }
        out.consistency = loss.consistency_weight
            * self.consistency(p, at, &Live { u1: &u1, z1: &z1, d1: &d1, a2: &a2, z2: &z2 }, unit);
        out.total = out.consistency;
        for l in 0..2 {
            out.total += f64::from(settings.w[l]) * out.fvu[l] + out.sparsity[l] + out.aux[l] + out.gated[l];
        }
        out
    }

    /// Adds the sparsity penalty and the AuxK loss of a level to `out`.
    fn level_terms(&self, l: usize, p: &Tensors, at: &Point, level_at: &LevelAt<'_>, out: &mut Terms) {
        let LevelAt { u, z, rows, directions } = *level_at;
        let (activation, theta, _, _, level) = self.level(l);
        let n = self.x.nrows() as f64;
        let lambda = f64::from(self.settings.lambda[l]) / n;
        let fired: f64 = at.fires[l].sum();
        out.l0[l] = fired / n;
        out.sparsity[l] = lambda
            * match activation {
                Activation::Relu | Activation::Topk | Activation::Batchtopk => {
                    let norms: Array1<f64> = rows.rows().into_iter().map(norm).collect();
                    (z * &norms).sum()
                }
                Activation::Gated => positive(u, &at.u[l], (l == 1).then_some(&at.allowed)).sum(),
                Activation::Jumprelu => {
                    let mut sum = fired;
                    for i in 0..z.nrows() {
                        for j in 0..z.ncols() {
                            sum += self.kernel_change(l, i, j, p.vector(theta)[j], level.bandwidth, at);
                        }
                    }
                    sum
                }
            };
        let dead = self.settings.dead[l].len();
        let error = &at.hat[l] - &self.wanted(&at.p);
        let unit = 1.0 / (n * f64::from(self.settings.variance));
        let fvu = squares(&error) * unit;
        if self.config.loss.aux > 0.0 && dead > 0 && fvu > 0.0 {
            let weight = self.config.loss.aux / fvu * (dead as f64 / self.k_aux() as f64).min(1.0);
            let v = u * &at.revived[l];
            out.aux[l] = weight * unit * squares(&(v.dot(directions) + &error));
        }
    }

    /// Returns the consistency loss without its weight. Its gradient reaches level 1, whatever `through` is.
    fn consistency(&self, p: &Tensors, at: &Point, live: &Live<'_>, unit: f64) -> f64 {
        let Live { u1, z1, d1, a2, z2 } = *live;
        let d = self.arch.d_out();
        let [f1, f2] = self.arch.latents();
        let n = self.x.nrows() as f64;
        let loss = &self.config.loss;
        let d2 = p.matrix("level2.w_dec", f2);
        let family = |j: usize| (self.parents[j] != ROOT).then(|| self.parents[j] as usize);
        match loss.consistency {
            Consistency::None => 0.0,
            Consistency::SeedCos => mean_cosine(z1, z2),
            Consistency::Latent => squares(&(&at.z[0] - &z2.dot(&d2))) / n,
            Consistency::Struct => {
                let mut sum = 0.0;
                for i in 0..z1.nrows() {
                    for q in 0..f1 {
                        let mut delta = &d1.row(q) * z1[(i, q)];
                        for j in (0..f2).filter(|&j| family(j) == Some(q)) {
                            delta = delta - &d2.row(j) * z2[(i, j)];
                        }
                        assert_eq!(delta.len(), d, "a decoder row has the width of the rows");
                        sum += delta.dot(&delta);
                    }
                }
                sum * unit
            }
            Consistency::Contain => {
                let mut sum = 0.0;
                let psi = |u: f64| (loss.contain_margin - u).max(0.0) / loss.contain_margin;
                for i in 0..z1.nrows() {
                    for j in 0..f2 {
                        if let Some(q) = family(j)
                            && at.fires_ungated[(i, j)] > 0.0
                        {
                            let down = a2[(i, j)] * psi(at.u[0][(i, q)]);
                            let up = at.a2[(i, j)] * psi(u1[(i, q)]);
                            sum += loss.contain_down * down + loss.contain_up * up;
                        }
                    }
                }
                sum / n
            }
            Consistency::OffsetOrthogonal => {
                let mut sum = 0.0;
                for j in 0..f2 {
                    if let Some(q) = family(j) {
                        sum += (d2.row(j).dot(&d1.row(q)) / (norm(d2.row(j)) * norm(d1.row(q)))).powi(2);
                    }
                }
                sum / f2 as f64
            }
            Consistency::Sibling => {
                let mut sum = 0.0;
                for j in 0..f2 {
                    for k in 0..j {
                        if family(j).is_some() && family(j) == family(k) {
                            let cos = d2.row(j).dot(&d2.row(k)) / (norm(d2.row(j)) * norm(d2.row(k)));
                            sum += cos.max(0.0).powi(2);
                        }
                    }
                }
                sum / f2 as f64
            }
        }
    }

    /// Returns the central differences of the whole loss in one tensor.
    fn differences(&self, at: &Point, name: &str, through: bool) -> Vec<f64> {
        let id = index_of(name);
        let mut p = at.p.clone();
        (0..p.0[id].len())
            .map(|i| {
                let value = p.0[id][i];
                let [high, low] = [value + H, value - H].map(|v| {
                    p.0[id][i] = v;
                    self.terms(&p, at, through).total
                });
                p.0[id][i] = value;
                (high - low) / (2.0 * H)
            })
            .collect()
    }

    /// Returns the gradient of every tensor, with those of the two levels mixed as `train.balance` says.
    pub fn gradient(&self, at: &Point) -> Vec<Vec<f64>> {
        NAMES
            .iter()
            .map(|&id| {
                if !LEVEL1.contains(&id) {
                    return if LEVEL2.contains(&id) { self.differences(at, id, true) } else { Vec::new() };
                }
                match self.config.train.balance {
                    Balance::Sum | Balance::Norm | Balance::Uncert => self.differences(at, id, true),
                    Balance::Own => self.differences(at, id, false),
                    Balance::Pcgrad => {
                        let own = self.differences(at, id, false);
                        let all = self.differences(at, id, true);
                        let width = match id {
                            "b_dec" | "level1.w_dec" => self.arch.d_out(),
                            "level1.w_enc" | "w_skip" => self.arch.d,
                            // Tensors of one number per latent have no direction to project: their two parts are added.
                            _ => return all,
                        };
                        own.chunks(width).zip(all.chunks(width)).flat_map(|(own, all)| surgery(own, all)).collect()
                    }
                }
            })
            .collect()
    }
}
