//! The result of an ablation as a sentence that claims no more than its intervals do.

use super::number::{count, difference, fixed};
use crate::ablation::{Difference, RowReport, SuiteReport};

/// A difference whose mean is below half a unit of the last decimal shown is printed as 0 and so counts as none,
/// whatever its interval.
const SHOWN: f64 = 0.000_05;

/// Returns whether the interval of the difference excludes 0 and its mean is at least [`SHOWN`]; `None` without an
/// interval.
fn is_apart(d: &Difference) -> Option<bool> {
    let (low, high) = (d.low?, d.high?);
    Some((low > 0.0 || high < 0.0) && d.mean.is_some_and(|m| m.abs() >= SHOWN))
}

fn with_interval(d: &Difference) -> String {
    let mean = d.mean.unwrap_or(f64::NAN);
    match (d.low, d.high) {
        (Some(low), Some(high)) => format!("{} [{}, {}]", difference(mean), difference(low), difference(high)),
        _ => difference(mean),
    }
}

/// Returns the rows of a suite (the reference rows, if `reference`), each with its difference in FVU2 from the base
/// row.
fn compared(suite: &SuiteReport, reference: bool) -> Vec<(&RowReport, Difference)> {
    let rows = suite.rows.iter().filter(|r| r.reference == reference && r.name != suite.base);
    rows.filter_map(|r| Some((r, *r.difference.get("fvu2").filter(|d| d.mean.is_some())?))).collect()
}

fn lowest<'a>(rows: &[(&'a RowReport, Difference)]) -> Option<(&'a RowReport, Difference)> {
    rows.iter().copied().min_by(|a, b| a.1.mean.unwrap_or(f64::NAN).total_cmp(&b.1.mean.unwrap_or(f64::NAN)))
}

/// Returns the sentence of a suite.
pub fn of(suite: &SuiteReport) -> String {
    let rows = compared(suite, false);
    let base = &suite.base;
    let Some(best) = lowest(&rows) else {
        return format!("There is no row to compare with `{base}`.");
    };
    let largest = rows.iter().map(|r| r.1.mean.unwrap_or(0.0).abs()).fold(0.0, f64::max);
    let seeds = rows.iter().map(|r| r.1.pairs).min().unwrap_or(0);
    let n = rows.len();
    if seeds < 2 || rows.iter().all(|r| is_apart(&r.1).is_none()) {
        let best = if best.1.mean.is_some_and(|m| m < 0.0) {
            format!(
                "`{}` has the lowest FVU2, {} against `{base}`",
                best.0.name,
                difference(best.1.mean.unwrap_or(0.0))
            )
        } else {
            format!("no row has a lower FVU2 than `{base}`")
        };
        return format!("With one seed there is no interval, so nothing here can be told from chance: {best}.");
    }
    let apart = |better: bool| {
        rows.iter().filter(move |r| is_apart(&r.1) == Some(true) && (r.1.mean < Some(0.0)) == better).count()
    };
    let (better, worse) = (apart(true), apart(false));
    // By chance, all seeds lie on one side of 0 with probability 2 in 2^seeds; an interval of 95 % misses 0 in 5 % at
    // least.
    let luck = n as f64 * 2f64.powi(1 - seeds.min(60) as i32).max(0.05);
    let doubt = if better + worse > 0 && (better + worse) as f64 <= luck {
        format!(", which is no more than luck gives with {} (about {luck:.1} of {n})", count(seeds as u64, "seed"))
    } else {
        String::new()
    };
    let rest = |better: usize, worse: usize| match (better, worse) {
        (0, 0) => String::new(),
        (b, 0) => format!("; {} better beyond scatter", others(b)),
        (0, w) => format!("; {} worse beyond scatter", others(w)),
        (b, w) => format!("; {} better and {} worse beyond scatter", others(b), w),
    };
    if better + worse == 0 {
        let subject =
            if n == 1 { format!("`{}` does not change", best.0.name) } else { format!("None of the {n} rows changes") };
        return format!(
            "{subject} FVU2 by more than its scatter over {}: the largest difference is {}.",
            count(seeds as u64, "seed"),
            fixed(largest)
        );
    }
    if better == 0 {
        let worst = rows
            .iter()
            .filter(|r| is_apart(&r.1) == Some(true))
            .max_by(|a, b| a.1.mean.unwrap_or(0.0).total_cmp(&b.1.mean.unwrap_or(0.0)));
        let worst = worst.map_or_else(String::new, |w| format!("`{}` most, by {}", w.0.name, with_interval(&w.1)));
        return format!(
            "No row is better than `{base}`, and {worse} of {n} are worse by FVU2 beyond their scatter over {}: {worst}{doubt}.",
            count(seeds as u64, "seed")
        );
    }
    let winner =
        rows.iter().copied().filter(|r| is_apart(&r.1) == Some(true) && r.1.mean < Some(0.0)).collect::<Vec<_>>();
    let Some(winner) = lowest(&winner) else { return String::new() };
    format!(
        "`{}` lowers FVU2 most surely: {} against `{base}` over {}{}{doubt}.",
        winner.0.name,
        with_interval(&winner.1),
        count(seeds as u64, "seed"),
        rest(better - 1, worse)
    )
}

fn others(n: usize) -> String {
    format!("{n} other{}", if n == 1 { " is" } else { "s are" })
}

/// Returns the sentence about the reference rows, if there are any.
pub fn of_references(suite: &SuiteReport) -> Option<String> {
    let rows = compared(suite, true);
    let told: Vec<String> = rows
        .iter()
        .map(|(row, d)| match is_apart(d) {
            Some(false) => format!("`{}` does not differ ({})", row.name, with_interval(d)),
            _ => format!("`{}` {}", row.name, with_interval(d)),
        })
        .collect();
    (!told.is_empty()).then(|| format!("FVU2 of the reference rows against `{}`: {}.", suite.base, told.join("; ")))
}

/// Returns a caution about the number of seeds; none if there are enough.
pub fn of_seeds(suites: &[SuiteReport]) -> Option<String> {
    let pairs = suites.iter().flat_map(|s| compared(s, false)).map(|r| r.1.pairs).min()?;
    match pairs {
        0 | 1 => Some("One seed: there are no intervals, and no difference can be told from chance. Run `strata ablate` with `--seeds 3` or more.".into()),
        2..=5 => Some(format!(
            "{pairs} seeds: an interval spans the extremes of the seeds at best, and misses 0 by luck alone once in {} \
             comparisons. Read it as scatter.",
            1u32 << (pairs - 1)
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, difference: Option<(f64, f64, f64)>, pairs: usize, reference: bool) -> RowReport {
        let difference = difference.map(|(mean, low, high)| {
            let end = |v: f64| v.is_finite().then_some(v);
            ("fvu2".to_owned(), Difference { mean: Some(mean), low: end(low), high: end(high), pairs })
        });
        RowReport { name: name.into(), reference, difference: difference.into_iter().collect(), ..RowReport::default() }
    }

    fn suite(rows: Vec<RowReport>) -> SuiteReport {
        let rows = std::iter::once(row("base", None, 0, false)).chain(rows).collect();
        SuiteReport { name: "s".into(), base: "base".into(), rows }
    }

    fn three(name: &str, mean: f64, low: f64, high: f64) -> RowReport {
        row(name, Some((mean, low, high)), 3, false)
    }

    #[test]
    fn intervals_that_hold_0_are_called_scatter() {
        let text = of(&suite(vec![three("a", -0.0003, -0.001, 0.0005), three("b", 0.0002, -0.001, 0.001)]));
        assert_eq!(
            text,
            "None of the 2 rows changes FVU2 by more than its scatter over 3 seeds: the largest difference is 0.0003."
        );
        // Equal to the base, to the bit; and not by what is shown of it.
        assert!(of(&suite(vec![three("a", 0.0, 0.0, 0.0)])).starts_with("`a` does not change FVU2"));
        assert!(of(&suite(vec![three("a", -3e-5, -4e-5, -2e-5)])).starts_with("`a` does not change FVU2"));
    }

    #[test]
    fn the_best_row_that_is_apart_is_named_even_if_another_has_a_lower_mean() {
        let rows = vec![
            three("scattered", -0.03, -0.07, 0.01),
            three("sure", -0.02, -0.025, -0.015),
            three("worse", 0.02, 0.01, 0.03),
            three("worst", 0.03, 0.02, 0.04),
        ];
        assert_eq!(
            of(&suite(rows)),
            "`sure` lowers FVU2 most surely: \u{2212}0.0200 [\u{2212}0.0250, \u{2212}0.0150] against `base` over 3 seeds; 2 others are \
             worse beyond scatter."
        );
    }

    #[test]
    fn one_row_of_many_is_called_luck() {
        let mut rows: Vec<RowReport> = (0..7).map(|i| three(&format!("r{i}"), 0.001, -0.001, 0.002)).collect();
        rows.push(three("lucky", -0.001, -0.002, -0.0005));
        let text = of(&suite(rows));
        assert!(text.contains("no more than luck gives with 3 seeds (about 2.0 of 8)"), "{text}");
    }

    #[test]
    fn rows_that_are_worse_are_not_sold_as_a_result() {
        let text = of(&suite(vec![three("a", 0.02, 0.01, 0.03), three("b", 0.04, 0.03, 0.05)]));
        assert_eq!(
            text,
            "No row is better than `base`, and 2 of 2 are worse by FVU2 beyond their scatter over 3 seeds: `b` most, by +0.0400 [+0.0300, +0.0500]."
        );
    }

    #[test]
    fn one_seed_proves_nothing() {
        let one = |m| row("a", Some((m, f64::NAN, f64::NAN)), 1, false);
        let text = of(&suite(vec![one(-0.01)]));
        assert!(
            text.starts_with("With one seed there is no interval") && text.contains("`a` has the lowest FVU2"),
            "{text}"
        );
        assert!(of(&suite(vec![one(0.01)])).contains("no row has a lower FVU2 than `base`"));
        assert!(of_seeds(&[suite(vec![one(0.01)])]).is_some_and(|s| s.starts_with("One seed")));
    }

    #[test]
    fn references_stand_apart_and_a_lone_base_has_nothing_to_say() {
        let suite = suite(vec![row("flat", Some((0.01, 0.005, 0.02)), 3, true)]);
        assert_eq!(of(&suite), "There is no row to compare with `base`.");
        assert_eq!(
            of_references(&suite).as_deref(),
            Some("FVU2 of the reference rows against `base`: `flat` +0.0100 [+0.0050, +0.0200].")
        );
    }

    #[test]
    fn few_seeds_are_said_to_be_few() {
        let of = |pairs| of_seeds(&[suite(vec![row("a", Some((0.1, 0.05, 0.2)), pairs, false)])]);
        assert!(of(3).is_some_and(|s| s.contains("once in 4 comparisons")));
        assert!(of(5).is_some_and(|s| s.contains("once in 16 comparisons")));
        assert_eq!(of(6), None);
    }
}
