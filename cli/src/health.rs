//! Warnings about a run, one sentence each: for the terminal, `final_info.json`, `eval.json` and the report.
//!
//! A warning does not fail a run: the exit code stays 0, unless no number of the run is meaningful.

use crate::dump::{Dump, file_name};
use crate::heldout::Watched;
use anyhow::Result;
use strata_core::Config;
use strata_core::config::{Budget, LevelConfig, ModelKind};

/// Largest relative deviation of L0 from its target without a warning.
pub const L0_TOLERANCE: f64 = 0.1;
/// A level whose L0 is below this share of its target has collapsed.
const COLLAPSED: f64 = 0.1;
/// A training has diverged if its last FVU is this many times its best.
const DIVERGED: f64 = 2.0;
/// A larger share of dead latents gets a warning.
const DEAD: f64 = 0.5;
/// More passes than this train on the same rows too often.
const PASSES: f64 = 20.0;
/// Latents that do not fire count as dead if a latent of a level at its target L0 would fire this often on average.
const ENOUGH_FIRES: f64 = 10.0;

/// The target L0 of the settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Asked {
    /// One for each level.
    Each([f64; 2]),
    /// One for both levels together.
    Together(f64),
    /// None.
    Nothing,
}

/// Returns the target L0 of settings: a penalty without a controller has none.
pub fn asked(config: &Config) -> Asked {
    let levels = [&config.level1, &config.level2];
    let is_held = |l: &LevelConfig| l.latents == 0 || !l.activation.is_penalised() || l.control;
    match config.budget {
        _ if config.model == ModelKind::Seed || !levels.into_iter().all(is_held) => Asked::Nothing,
        Budget::Shared => Asked::Together(config.level1.k + config.level2.k),
        Budget::Separate => Asked::Each(levels.map(|l| l.k)),
    }
}

/// Returns the L0 of all levels together that the settings ask for; infinite where nothing holds it.
pub fn asked_in_all(config: &Config) -> f64 {
    match asked(config) {
        Asked::Nothing => f64::INFINITY,
        Asked::Together(k) => k,
        Asked::Each(k) => {
            let levels = [&config.level1, &config.level2];
            (0..2).filter(|l| levels[*l].latents > 0).map(|l| k[l]).sum()
        }
    }
}

/// Statistics of a training at its end.
pub struct Training<'a> {
    /// Its settings.
    pub config: &'a Config,
    /// Its scores on held-out rows.
    pub held_out: &'a Watched,
    /// Whether those rows were held out.
    pub is_held_out: bool,
    /// The lowest held-out FVU of the training since its L0 is at most [`L0_TOLERANCE`] above the target.
    pub best_fvu: Option<f64>,
    /// Latents of each level that have not fired for `revive.dead_after` rows.
    pub dead: Option<[u64; 2]>,
    /// Number of passes over its rows.
    pub passes: f64,
    /// Rows to train on.
    pub n_train: u64,
    /// Those of [`unfilled`].
    pub unfilled: Vec<String>,
}

/// Returns the warnings about a training.
pub fn of_training(t: &Training<'_>) -> Vec<String> {
    let w = t.held_out;
    let rows = if t.is_held_out { "the held-out rows" } else { "the rows" };
    let levels = [&t.config.level1, &t.config.level2];
    let mut found = t.unfilled.clone();
    let last = if levels[1].latents > 0 { w.fvu[1] } else { w.fvu[0] };
    if w.rows == 0 {
        found.push(format!("{rows} are all left out of the scores: nothing is known of this model"));
    } else if !last.is_finite() {
        found.push(format!("{rows} are all equal, so that no variance is there to explain: FVU is undefined"));
    }
    if let Some(best) = t.best_fvu.filter(|best| last > DIVERGED * best) {
        found.push(format!("the training has diverged: FVU on {rows} was {best:.4} and ended at {last:.4}"));
    }
    // Rows that are all equal, or none, say nothing about which latents fire.
    let vary = w.rows > 0 && last.is_finite();
    if vary {
        found.extend(above_mean(w.fvu, levels[1].latents > 0, rows));
        found.extend(off_target(asked(t.config), w.l0, levels.map(|l| l.latents)));
    }
    for (l, level) in levels.iter().enumerate().filter(|(_, level)| vary && level.latents > 0) {
        let silent = w.rows as f64 * level.k >= ENOUGH_FIRES * level.latents as f64;
        let dead = match t.dead {
            Some(dead) if !silent => dead[l] as f64 / level.latents as f64,
            _ if silent => w.dead[l],
            _ => 0.0,
        };
        found.extend(mostly_dead(l, dead));
    }
    if t.passes > PASSES {
        found.push(format!(
            "the training went {:.0} times over its {} rows, and after some {PASSES:.0} passes it learns them by heart: \
             capture more rows, or set `train.steps` lower",
            t.passes, t.n_train
        ));
    }
    let latents = levels.map(|l| l.latents as u64).iter().sum::<u64>();
    if t.n_train < latents {
        found.push(format!(
            "there are fewer rows to train on ({}) than latents ({latents}): capture more rows, or ask for fewer latents",
            t.n_train
        ));
    }
    found
}

/// Statistics of an evaluation.
pub struct Evaluated {
    /// Rows that were scored.
    pub rows: u64,
    /// Whether the rows vary.
    pub vary: bool,
    /// FVU of both levels.
    pub fvu: [f64; 2],
    /// Mean L0 of each level.
    pub l0: [f64; 2],
    /// Share of the latents of each level that never fire.
    pub dead: [f64; 2],
    /// Latents of each level; 0 for a missing level.
    pub latents: [usize; 2],
    /// Target L0.
    pub asked: Asked,
    /// Those of [`unfilled`].
    pub unfilled: Vec<String>,
}

/// Returns the warnings about an evaluation, and whether no number of it is meaningful.
pub fn of_evaluation(e: &Evaluated) -> (Vec<String>, bool) {
    let mut found = e.unfilled.clone();
    let meaningless = e.rows == 0 || !e.vary;
    if e.rows == 0 {
        found.push("every row is left out, as it was in training: there is nothing to evaluate".into());
    } else if !e.vary {
        found.push(format!("all {} rows are equal, so that no score is defined", e.rows));
    }
    if meaningless {
        // Such rows say nothing about which latents fire.
        return (found, meaningless);
    }
    found.extend(above_mean(e.fvu, e.latents[1] > 0, "these rows"));
    found.extend(off_target(e.asked, e.l0, e.latents));
    for l in (0..2).filter(|l| e.latents[*l] > 0 && e.rows > 0) {
        let target = if let Asked::Each(asked) = e.asked { asked[l] } else { e.l0[l] };
        let enough = e.rows as f64 * target >= ENOUGH_FIRES * e.latents[l] as f64;
        found.extend(if enough { mostly_dead(l, e.dead[l]) } else { None });
    }
    (found, meaningless)
}

/// Warns about an FVU above 1 of either level.
fn above_mean(fvu: [f64; 2], two: bool, rows: &str) -> Option<String> {
    let over = |v: f64| v > 1.0;
    let which = match (over(fvu[0]), two && over(fvu[1])) {
        (true, true) => {
            format!("both levels explain {rows} worse than their mean row does (FVU {:.4} and {:.4})", fvu[0], fvu[1])
        }
        (true, false) => format!("level 1 explains {rows} worse than their mean row does (FVU {:.4})", fvu[0]),
        (false, true) => format!("level 2 explains {rows} worse than their mean row does (FVU {:.4})", fvu[1]),
        (false, false) => return None,
    };
    Some(which)
}

/// Warns about an L0 that differs from its target, of each level or of both together.
fn off_target(asked: Asked, l0: [f64; 2], latents: [usize; 2]) -> Vec<String> {
    match asked {
        Asked::Each(asked) => {
            let levels = (0..2).filter(|l| latents[*l] > 0);
            levels.filter_map(|l| off(&format!("level {}", l + 1), asked[l], l0[l])).collect()
        }
        Asked::Together(asked) => Vec::from_iter(off("the model", asked, l0[0] + l0[1])),
        Asked::Nothing => Vec::new(),
    }
}

fn off(who: &str, asked: f64, found: f64) -> Option<String> {
    if found < COLLAPSED * asked {
        return Some(format!("{who} has collapsed: {found:.3} latents fire per row, and {asked} were asked for"));
    }
    let off = found / asked - 1.0;
    (off.abs() > L0_TOLERANCE).then(|| {
        let (by, way) = (100.0 * off.abs(), if off > 0.0 { "more" } else { "fewer" });
        format!("{who} fires {found:.2} latents per row, {by:.0} % {way} than the {asked} that were asked for")
    })
}

fn mostly_dead(level: usize, dead: f64) -> Option<String> {
    (dead > DEAD).then(|| format!("{:.0} % of the latents of level {} are dead", 100.0 * dead, level + 1))
}

/// Warns about zeros at the end of a dump of `n` rows.
pub(crate) fn zeros(zeros: u64, n: u64) -> Option<String> {
    // A row of zeros can be data; a run of them at the end is not.
    (zeros > 1)
        .then(|| format!("rows {} to {} of the dump, to its end, are zeros: was the file filled?", n - zeros, n - 1))
}

/// Rows that are read together.
const BLOCK: u64 = 1024;

/// Returns the warnings about rows of zeros at the end of a dump, and at the ends of the files before its last one.
///
/// # Errors
/// If the files can no longer be read.
pub fn unfilled(dump: &Dump) -> Result<Vec<String>> {
    let mut found = unfilled_files(dump)?;
    found.extend(zeros(zero_tail(dump)?, dump.n_rows()));
    Ok(found)
}

/// Returns the warning about rows of zeros at the ends of the files of a dump, other than its last one.
pub(crate) fn unfilled_files(dump: &Dump) -> Result<Vec<String>> {
    let (mut files, end) = (Vec::new(), dump.n_rows() - zero_tail(dump)?);
    // Zeros that go on to the end of the dump have their own warning.
    for (path, rows) in dump.files().filter(|(_, rows)| rows.end < end) {
        let n = zeros_before(dump, rows.start, rows.end)?;
        // A row of zeros can be data, and so can a file of them.
        if n > 1 && n < rows.end - rows.start {
            files.push((path, rows.end - n, rows.end - 1));
        }
    }
    let Some((path, first, last)) = files.first() else { return Ok(Vec::new()) };
    let more = match files.len() - 1 {
        0 => String::new(),
        1 => " (1 more file ends so)".into(),
        n => format!(" ({n} more files end so)"),
    };
    Ok(vec![format!(
        "rows {first} to {last} of the dump, to the end of `{}`, are zeros: was the file filled?{more}",
        file_name(path)
    )])
}

/// Returns the number of rows of zeros at the end of a dump. Reads only those, and at most one block more.
///
/// # Errors
/// If the files can no longer be read.
pub fn zero_tail(dump: &Dump) -> Result<u64> {
    zeros_before(dump, 0, dump.n_rows())
}

/// Returns the number of rows of zeros at the end of rows `from..n`.
fn zeros_before(dump: &Dump, from: u64, n: u64) -> Result<u64> {
    let mut row = vec![0.0f32; dump.d()];
    let mut end = n;
    while end > from {
        let start = end.saturating_sub(BLOCK).max(from);
        let (mut at, mut last) = (start, None);
        dump.for_views(start, (end - start) as usize, |rows, _| {
            for i in 0..rows.n() {
                rows.widen_row(i, &mut row);
                if row.iter().any(|v| *v != 0.0) {
                    last = Some(at);
                }
                at += 1;
            }
        })?;
        if let Some(last) = last {
            return Ok(n - 1 - last);
        }
        end = start;
    }
    Ok(n - from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row_filter::LeftOut;

    fn training(change: impl FnOnce(&mut Config, &mut Watched, &mut [f64; 4])) -> Vec<String> {
        let mut config = Config::default();
        (config.level1.latents, config.level1.k) = (10, 2.0);
        (config.level2.latents, config.level2.k) = (40, 4.0);
        let mut w = Watched {
            rows: 4000,
            left_out: LeftOut::default(),
            fvu: [0.5, 0.25],
            fvu_of_all: [0.5, 0.25],
            l0: [2.0, 4.0],
            dead: [0.0, 0.5],
        };
        // The best FVU, passes, rows to train on, zeros.
        let mut more = [0.25, 3.0, 50.0, 0.0];
        change(&mut config, &mut w, &mut more);
        of_training(&Training {
            config: &config,
            held_out: &w,
            is_held_out: true,
            best_fvu: Some(more[0]),
            dead: Some([0, 0]),
            passes: more[1],
            n_train: more[2] as u64,
            unfilled: zeros(more[3] as u64, 100).into_iter().collect(),
        })
    }

    #[test]
    fn what_nothing_holds_is_not_asked_for() {
        let mut config = Config::default();
        assert_eq!(asked(&config), Asked::Each([8.0, 12.0]));
        config.level2.activation = strata_core::config::Activation::Jumprelu;
        assert_eq!(asked(&config), Asked::Each([8.0, 12.0]));
        config.level2.control = false;
        assert_eq!(asked(&config), Asked::Nothing);
        let config = Config { budget: Budget::Shared, ..Config::default() };
        assert_eq!(asked(&config), Asked::Together(20.0));
        assert_eq!(off_target(asked(&config), [12.0, 8.0], [1, 1]), Vec::<String>::new());
        assert!(
            off_target(asked(&config), [15.0, 8.0], [1, 1])[0].starts_with("the model fires 23.00 latents per row")
        );
        let seed = Config { model: ModelKind::Seed, ..Config::default() };
        assert_eq!(asked(&seed), Asked::Nothing);
    }

    #[test]
    fn a_training_without_a_fault_has_no_warning_and_each_fault_has_one() {
        assert_eq!(training(|_, _, _| ()), Vec::<String>::new());
        for (n, found, part) in [
            (1, training(|_, w, _| w.fvu[1] = 0.51), "diverged"),
            (2, training(|_, w, _| w.fvu = [0.5, 1.2]), "level 2 explains the held-out rows worse"),
            (1, training(|_, w, m| (w.fvu, m[0]) = ([1.1, 1.2], 1.2)), "both levels"),
            (1, training(|_, w, _| w.fvu = [f64::NAN; 2]), "all equal"),
            (1, training(|_, w, _| w.l0[0] = 2.21), "level 1 fires 2.21 latents per row, 10 % more than the 2"),
            (1, training(|_, w, _| w.l0[1] = 3.5), "12 % fewer"),
            (1, training(|_, w, _| w.l0[1] = 0.39), "level 2 has collapsed"),
            (1, training(|_, w, _| w.dead[1] = 0.51), "51 % of the latents of level 2 are dead"),
            (1, training(|_, _, m| m[1] = 20.5), "capture more rows, or set `train.steps` lower"),
            (1, training(|_, _, m| m[2] = 49.0), "fewer rows to train on (49) than latents (50)"),
            (1, training(|_, _, m| m[3] = 30.0), "rows 70 to 99 of the dump, to its end, are zeros"),
        ] {
            assert!(found.len() == n && found.iter().any(|s| s.contains(part)), "{part}: {found:?}");
        }
        // On few rows most latents do not fire without being dead.
        assert_eq!(training(|_, w, _| (w.rows, w.dead[1]) = (99, 0.9)), Vec::<String>::new());
    }
}
