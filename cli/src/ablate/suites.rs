//! The built-in suites, at matched L0: every row has the budget of the settings that the suite starts from.

use super::plan::{Row, Suite};
use crate::args::SuiteName;
use anyhow::{Result, bail};
use strata_core::Config;
use strata_core::config::{
    Activation, Balance, Budget, Consistency, Decoder, Freeze, GateKind, ModelKind, Parents, Source,
};

/// The suite whose runs are in `run_1` to `run_5`.
pub const EXPERIMENT: &str = "experiment";
/// Weights of a consistency loss, besides none.
const WEIGHTS: [f64; 5] = [1e-4, 1e-3, 3e-3, 1e-2, 3e-2];
/// Reference rows in which a part of the dictionary is random.
const FROZEN: [(&str, Freeze); 3] = [
    ("random decoder", Freeze::Decoder),
    ("random encoder", Freeze::Encoder),
    ("near a random decoder", Freeze::SoftDecoder),
];
/// `k1 : k2`.
const RATIOS: [(f64, f64); 5] = [(4.0, 1.0), (2.0, 1.0), (1.0, 1.0), (1.0, 2.0), (1.0, 4.0)];
/// Weights of the reconstruction by level 1.
const W1: [f64; 4] = [0.1, 0.3, 0.75, 1.0];

/// Returns the suites of a name.
///
/// # Errors
/// If the settings are not those of a two-level model.
pub fn built_in(name: SuiteName, base: &Config) -> Result<Vec<Suite>> {
    if base.model == ModelKind::Seed || base.level2.latents == 0 {
        bail!("the built-in suites vary a two-level model: `model` must be `tree` and `level2.latents` at least 1");
    }
    let base = &Config { budget: Budget::Separate, ..base.clone() };
    // One thing changes at a time: with the default, `w1` would fall in rows with a hard gate and stay in the others.
    let held = &row("", base, |c| c.loss.w1_start = 1.0).config;
    Ok(match name {
        SuiteName::Consistency => vec![consistency(held)],
        SuiteName::Gates => vec![gates(held)],
        SuiteName::SparsityRatio => vec![sparsity_ratio(held)],
        SuiteName::Balance => vec![balance(held)],
        SuiteName::Baselines => vec![baselines(base)],
        SuiteName::All => {
            vec![consistency(held), gates(held), sparsity_ratio(held), balance(held), baselines(base)]
        }
        SuiteName::Experiment => vec![experiment(base)],
    })
}

fn row(name: impl Into<String>, base: &Config, change: impl FnOnce(&mut Config)) -> Row {
    let mut config = base.clone();
    change(&mut config);
    Row { name: name.into(), config, is_reference: false }
}

fn suite(name: &str, base_row: &str, base: &Config, mut rows: Vec<Row>) -> Suite {
    rows.extend(references(base));
    let at = rows.iter().position(|r| r.name == base_row).unwrap_or(0);
    Suite { name: name.into(), rows, base: at }
}

/// Returns the reference rows of every table: a flat SAE and a Matryoshka of the same budget and size, the seed model,
/// and the settings of the table with a decoder or an encoder that does not learn. A score that these reach does not
/// show that anything was learned.
fn references(base: &Config) -> Vec<Row> {
    let plain = |c: &mut Config| {
        c.gate.kind = GateKind::None;
        c.loss.consistency = Consistency::None;
        (c.source, c.source_start) = (Source::X, 0.0);
        c.decoder = Decoder::Cum;
        (c.level1.activation, c.level2.activation) = (Activation::Batchtopk, Activation::Batchtopk);
    };
    let mut rows = vec![
        row("flat batchtopk", base, |c| {
            plain(c);
            c.level1.latents += c.level2.latents;
            c.level1.k += c.level2.k;
            c.level2.latents = 0;
        }),
        row("matryoshka", base, |c| {
            plain(c);
            c.budget = Budget::Shared;
        }),
        // The levels of the seed model are in the opposite order by design: fine first, then groups. Nothing controls
        // its L0; the penalty is the one of its best measured setting.
        row("seed model", base, |c| {
            plain(c);
            c.model = ModelKind::Seed;
            c.gate.kind = GateKind::Mul;
            let (f1, f2) = (c.level1.latents, c.level2.latents);
            (c.level1.latents, c.level2.latents) = (f1.max(f2), f1.min(f2));
            for level in [&mut c.level1, &mut c.level2] {
                level.k = level.k.min(level.latents as f64);
                level.lambda = 0.3 / level.latents as f64;
            }
        }),
    ];
    for (name, freeze) in FROZEN {
        rows.push(row(name, base, |c| c.train.freeze = freeze));
    }
    rows.iter_mut().for_each(|r| r.is_reference = true);
    rows
}

/// Returns the settings as given, beside the reference rows.
fn baselines(base: &Config) -> Suite {
    suite("baselines", "as set", base, vec![row("as set", base, |_| {})])
}

fn consistency(base: &Config) -> Suite {
    let hard = &row("", base, |c| {
        c.loss.consistency = Consistency::None;
        if !c.gate.kind.has_families() {
            c.gate.kind = GateKind::Hard;
        }
        if c.decoder.is_composed() {
            c.decoder = Decoder::Cum;
        }
    })
    .config;
    let mut rows = vec![row("none", hard, |_| {})];
    for (kind, decoder) in [
        (Consistency::SeedCos, None),
        (Consistency::Contain, None),
        (Consistency::OffsetOrthogonal, None),
        (Consistency::Struct, Some(Decoder::Ind)),
        (Consistency::Latent, Some(Decoder::Comp)),
    ] {
        let from = &row("", hard, |c| c.decoder = decoder.unwrap_or(c.decoder)).config;
        let name = decoder.map_or_else(|| kind.to_string(), |d| format!("{kind} ({d})"));
        if let Some(decoder) = decoder {
            rows.push(row(format!("none ({decoder})"), from, |_| {}));
        }
        for weight in WEIGHTS {
            rows.push(row(format!("{name} {weight:.0e}"), from, |c| {
                c.loss.consistency = kind;
                c.loss.consistency_weight = weight;
            }));
        }
    }
    suite("consistency", "none", base, rows)
}

fn gates(base: &Config) -> Suite {
    // A loss over families would exclude rows without them.
    let plain = &row("", base, |c| c.loss.consistency = Consistency::None).config;
    let gate = |name: &str, kind, change: fn(&mut Config)| {
        row(name, plain, |c| {
            c.gate.kind = kind;
            c.gate.parents = Parents::Cofire;
            change(c);
        })
    };
    let late = |c: &mut Config| {
        if c.gate.start == 0.0 {
            c.gate.start = 2.0 / 3.0;
        }
    };
    let rows = vec![
        gate("none", GateKind::None, |_| {}),
        gate("mul", GateKind::Mul, |_| {}),
        gate("add", GateKind::Add, |_| {}),
        gate("hard, random parents", GateKind::Hard, |c| {
            c.gate.parents = Parents::Random;
            c.gate.start = 0.0;
        }),
        row("hard late", plain, |c| {
            (c.gate.kind, c.gate.parents, c.gate.root_below) = (GateKind::Hard, Parents::Cofire, 0.0);
            late(c);
        }),
        row("hard late, ROOT", plain, |c| {
            (c.gate.kind, c.gate.parents) = (GateKind::Hard, Parents::Cofire);
            late(c);
            if c.gate.root_below == 0.0 {
                c.gate.root_below = 0.5;
            }
        }),
        gate("group-top1", GateKind::GroupTop1, |_| {}),
    ];
    suite("gates", "none", base, rows)
}

fn sparsity_ratio(base: &Config) -> Suite {
    let total = base.level1.k + base.level2.k;
    let mut rows = Vec::new();
    for (a, b) in RATIOS {
        rows.push(row(format!("{a}:{b}"), base, |c| {
            // `topk` keeps a whole number of latents.
            let whole = c.level1.activation.has_whole_k() || c.level2.activation.has_whole_k();
            let k1 = total * a / (a + b);
            let k1 = if whole { k1.round().max(1.0) } else { k1 };
            c.level1.k = k1.min(c.level1.latents as f64);
            c.level2.k = (total - c.level1.k).min(c.level2.latents as f64);
        }));
    }
    suite("sparsity-ratio", "1:1", base, rows)
}

fn balance(base: &Config) -> Suite {
    let mut rows = Vec::new();
    for w1 in W1 {
        rows.push(row(format!("sum, w1 {w1}"), base, |c| {
            c.train.balance = Balance::Sum;
            (c.loss.w1, c.loss.w2) = (w1, 1.0);
        }));
    }
    rows.push(row("sum, w1 1 to .1", base, |c| {
        c.train.balance = Balance::Sum;
        (c.loss.w1, c.loss.w2) = (1.0, 1.0);
        (c.loss.w1_start, c.loss.w1_end) = (c.gate.start, 0.1);
    }));
    for kind in Balance::Sum.others() {
        rows.push(row(kind.name(), base, |c| {
            c.train.balance = kind;
            (c.loss.w1, c.loss.w2) = (1.0, 1.0);
        }));
    }
    suite("balance", "sum, w1 1", base, rows)
}

/// Returns the settings as given, without their gate, with a soft gate, with containment (without it, where they
/// already have it), and the Matryoshka.
fn experiment(base: &Config) -> Suite {
    let other = if base.loss.consistency.needs().ungated { Consistency::None } else { Consistency::Contain };
    let mut rows = vec![
        row("run_1 (as set)", base, |_| {}),
        row("run_2 (gate none)", base, |c| {
            c.gate.kind = GateKind::None;
            c.loss.consistency = Consistency::None;
        }),
        row("run_3 (gate mul)", base, |c| {
            c.gate.kind = GateKind::Mul;
            c.loss.consistency = Consistency::None;
        }),
        row(format!("run_4 (consistency {other})"), base, |c| {
            if !c.gate.kind.has_families() {
                c.gate.kind = GateKind::Hard;
            }
            c.loss.consistency = other;
        }),
    ];
    let matryoshka = references(base).into_iter().find(|r| r.config.budget == Budget::Shared);
    rows.extend(matryoshka.map(|r| Row { name: "run_5 (matryoshka)".into(), ..r }));
    Suite { name: EXPERIMENT.into(), rows, base: 0 }
}
