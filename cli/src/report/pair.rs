//! The page of two runs side by side: their metrics in common tables, their curves in common charts, and the latents of
//! both.

use super::atlas::Atlas;
use super::charts::{self, Chart, Of};
use super::docs::{Doc, Docs};
use super::frame::Frame;
use super::headline::{self, Verdict};
use super::metrics;
use super::run::Loaded;
use super::tables::{self, Cell, Row as HeadRow};
use anyhow::{Context, Result};
use askama::Template;
use serde_json::Value;
use std::collections::BTreeMap;

/// The letters of the runs.
const LETTERS: [&str; 2] = ["A", "B"];

#[derive(Template)]
#[template(path = "pair.html")]
struct PairPage<'a> {
    frame: Frame,
    runs: Vec<Side<'a>>,
    /// Reasons why the two are not comparable.
    warnings: Vec<String>,
    questions: Vec<Question>,
    tables: Vec<Table>,
    training: Vec<Chart>,
    sparsity: Vec<Chart>,
    groups: Vec<Group>,
    settings: Vec<Setting>,
    atlases: Vec<&'a Atlas>,
}

/// One of the runs.
struct Side<'a> {
    letter: &'static str,
    name: &'a str,
    summary: String,
    notes: &'a [String],
}

/// A question with both answers.
struct Question {
    question: &'static str,
    answers: Vec<(&'static str, Verdict)>,
}

/// A table of the headline, with a row per measure and level.
struct Table {
    caption: &'static str,
    rows: Vec<Row>,
}

struct Row {
    name: &'static str,
    /// `1` or `2`; empty for a measure that does not belong to a level.
    level: &'static str,
    key: &'static str,
    cells: [Cell; 2],
    difference: String,
    /// Whether the intervals overlap, in words; empty where one of them is not known.
    apart: &'static str,
    better: &'static str,
    doc: Option<Doc>,
}

/// A group of metrics, each with two values.
struct Group {
    title: String,
    rows: Vec<(String, [String; 2], Option<Doc>)>,
}

/// A setting that differs.
struct Setting {
    key: String,
    values: [String; 2],
}

/// Renders the page of two runs.
///
/// # Errors
/// If a part of it cannot be written as JSON.
pub fn page(runs: [&Loaded; 2], title: Option<&str>) -> Result<String> {
    let docs = Docs::load();
    let of_lines = |i: usize| Of { letter: Some(LETTERS[i]), data: &runs[i].lines[..] };
    let training = charts::training(&[of_lines(0), of_lines(1)]);
    let evals: Vec<Of<'_, Value>> =
        (0..2).filter_map(|i| runs[i].eval.as_ref().map(|data| Of { letter: Some(LETTERS[i]), data })).collect();
    let sparsity = if evals.is_empty() { Vec::new() } else { charts::sparsity(&evals) };
    let plots = charts::json(training.iter().chain(&sparsity))?;
    let side = |i: usize| Side {
        letter: LETTERS[i],
        name: &runs[i].name,
        summary: headline::summary(runs[i].eval.as_ref(), runs[i].config.as_ref(), runs[i].lines.last()),
        notes: &runs[i].notes,
    };
    let title = title.map_or_else(|| format!("{} and {}", runs[0].name, runs[1].name), str::to_owned);
    let page = PairPage {
        frame: Frame::new(title, plots)?,
        runs: vec![side(0), side(1)],
        warnings: warnings(runs),
        questions: questions(runs),
        tables: both_tables(runs, &docs),
        training,
        sparsity,
        groups: groups(runs, &docs),
        settings: differing(runs),
        atlases: runs.iter().filter_map(|run| run.atlas.as_ref()).collect(),
    };
    page.render().context("writing the report")
}

/// Returns the reasons why the numbers of two runs are not comparable.
fn warnings(runs: [&Loaded; 2]) -> Vec<String> {
    let [Some(a), Some(b)] = runs.map(|run| run.eval.as_ref()) else { return Vec::new() };
    let mut warnings = Vec::new();
    if a["dump"] != b["dump"] {
        warnings.push("The two runs were evaluated on different dumps: their numbers are not comparable.".to_owned());
    } else if a["rows"] != b["rows"] {
        warnings.push(
            "The two runs were evaluated on different rows of the dump: differences may be due to the rows.".into(),
        );
    }
    if a["held_out"] != b["held_out"] {
        warnings.push("One run was evaluated on rows that training held out, the other was not.".into());
    }
    warnings
}

fn questions(runs: [&Loaded; 2]) -> Vec<Question> {
    let mut questions: Vec<Question> = Vec::new();
    for (letter, run) in LETTERS.into_iter().zip(runs) {
        for verdict in run.eval.as_ref().map(headline::verdicts).unwrap_or_default() {
            match questions.iter_mut().find(|q| q.question == verdict.question) {
                Some(known) => known.answers.push((letter, verdict)),
                None => questions.push(Question { question: verdict.question, answers: vec![(letter, verdict)] }),
            }
        }
    }
    questions
}

/// Returns the tables of the headline of both runs, with a row where either has a value.
fn both_tables(runs: [&Loaded; 2], docs: &Docs) -> Vec<Table> {
    let of = |run: &Loaded| run.eval.as_ref().map(|e| tables::tables(e, run.config.as_ref(), docs)).unwrap_or_default();
    let found = runs.map(of);
    let mut captions: Vec<&'static str> = Vec::new();
    for table in found.iter().flatten().filter(|t| !t.rows.is_empty()) {
        if !captions.contains(&table.caption) {
            captions.push(table.caption);
        }
    }
    let table = |caption: &'static str| {
        let rows_of = |i: usize| found[i].iter().filter(move |t| t.caption == caption).flat_map(|t| &t.rows);
        let mut names: Vec<&HeadRow> = rows_of(0).collect();
        names.extend(rows_of(1).filter(|row| rows_of(0).all(|other| other.name != row.name)));
        let rows = names.into_iter().flat_map(|row| {
            let of = |i: usize| rows_of(i).find(|other| other.name == row.name);
            let levels = of(0).into_iter().chain(of(1)).map(|r| r.cells.len()).max().unwrap_or(0);
            let two = found.iter().flatten().any(|t| t.caption == caption && t.columns.len() > 1);
            (0..levels).map(move |l| joined(row, [of(0), of(1)].map(|r| r.and_then(|r| r.cells.get(l))), l, two))
        });
        Table { caption, rows: rows.collect() }
    };
    captions.into_iter().map(table).collect()
}

fn joined(row: &HeadRow, cells: [Option<&Cell>; 2], level: usize, two: bool) -> Row {
    let missing = || Cell { text: "\u{2013}".into(), ..Cell::default() };
    let cells = cells.map(|cell| cell.cloned().unwrap_or_else(missing));
    let difference = match (cells[0].value, cells[1].value) {
        (Some(a), Some(b)) if a == b => "0".into(),
        (Some(a), Some(b)) if b > a => format!("+{}", (row.say)(b - a)),
        (Some(a), Some(b)) => (row.say)(b - a),
        _ => String::new(),
    };
    // A difference of shares is in percentage points.
    let difference = difference.strip_suffix(" %").map_or_else(|| difference.clone(), |d| format!("{d} points"));
    let apart = match (cells[0].ends, cells[1].ends) {
        (Some(a), Some(b)) if a.1 < b.0 || b.1 < a.0 => "apart",
        (Some(_), Some(_)) => "touch",
        _ => "",
    };
    let level = if two { ["1", "2"][level.min(1)] } else { "" };
    Row { name: row.name, level, key: row.key, cells, difference, apart, better: row.better, doc: row.doc.clone() }
}

/// Returns every metric that either run has.
fn groups(runs: [&Loaded; 2], docs: &Docs) -> Vec<Group> {
    let found = runs.map(|run| run.eval.as_ref().map(|eval| metrics::tables(eval, docs)).unwrap_or_default());
    let mut groups: Vec<Group> = Vec::new();
    for (i, own) in found.into_iter().enumerate() {
        for group in own {
            let at = groups.iter().position(|g| g.title == group.title).unwrap_or_else(|| {
                groups.push(Group { title: group.title.clone(), rows: Vec::new() });
                groups.len() - 1
            });
            let rows = &mut groups[at].rows;
            let places: BTreeMap<String, usize> = rows.iter().enumerate().map(|(k, r)| (r.0.clone(), k)).collect();
            for row in group.rows {
                let k = places.get(&row.key).copied().unwrap_or_else(|| {
                    rows.push((row.key.clone(), [String::new(), String::new()], row.doc.clone()));
                    rows.len() - 1
                });
                rows[k].1[i] = row.value;
            }
        }
    }
    groups
}

/// Returns the settings that differ.
fn differing(runs: [&Loaded; 2]) -> Vec<Setting> {
    let maps = runs.map(|run| run.settings.iter().cloned().collect::<BTreeMap<String, String>>());
    let keys: std::collections::BTreeSet<&String> = maps.iter().flat_map(BTreeMap::keys).collect();
    let value = |i: usize, key: &String| maps[i].get(key).cloned().unwrap_or_else(|| "\u{2013}".into());
    let setting = |key: &String| Setting { key: key.clone(), values: [value(0, key), value(1, key)] };
    keys.into_iter().map(setting).filter(|s| s.values[0] != s.values[1]).collect()
}

impl Table {
    /// Returns whether any number has an interval in both runs.
    fn has_intervals(&self) -> bool {
        self.rows.iter().any(|row| !row.apart.is_empty())
    }

    /// Returns whether any number belongs to a level.
    fn has_levels(&self) -> bool {
        self.rows.iter().any(|row| !row.level.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(name: &str, fvu: [f64; 2], low_high: [f64; 2], settings: &[(&str, &str)]) -> Loaded {
        let eval = json!({ "dump": "d", "rows": [0, 10], "level1": { "latents": 2 }, "level2": { "latents": 4 },
            "fidelity": { "level1": { "fvu": fvu[0] }, "level2": { "fvu": fvu[1] } },
            "intervals": { "fvu2": { "low": low_high[0], "high": low_high[1] } } });
        Loaded {
            name: name.into(),
            eval: Some(eval),
            config: None,
            settings: settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            lines: Vec::new(),
            atlas: None,
            notes: Vec::new(),
        }
    }

    #[test]
    fn measures_stand_side_by_side_with_their_difference() {
        let (a, b) = (run("a", [0.5, 0.25], [0.2, 0.3], &[]), run("b", [0.5, 0.125], [0.1, 0.15], &[]));
        let tables = both_tables([&a, &b], &Docs::parse(""));
        let rows: Vec<_> = tables[0]
            .rows
            .iter()
            .map(|r| (r.level, r.cells[0].text.as_str(), r.cells[1].text.as_str(), r.difference.as_str(), r.apart))
            .collect();
        assert_eq!(rows, [("1", "0.5000", "0.5000", "0", ""), ("2", "0.2500", "0.1250", "\u{2212}0.1250", "apart")]);
        let c = run("c", [0.5, 0.28], [0.27, 0.35], &[]);
        let tables = both_tables([&a, &c], &Docs::parse(""));
        assert_eq!((tables[0].rows[1].apart, tables[0].rows[1].difference.as_str()), ("touch", "+0.0300"));
    }

    #[test]
    fn only_settings_that_differ_are_listed() {
        let a = run("a", [0.5; 2], [0.0; 2], &[("seed", "0"), ("k", "8")]);
        let b = run("b", [0.5; 2], [0.0; 2], &[("seed", "1"), ("k", "8"), ("new", "x")]);
        let found = differing([&a, &b]);
        let all: Vec<_> = found.iter().map(|s| (s.key.as_str(), s.values[0].as_str(), s.values[1].as_str())).collect();
        assert_eq!(all, [("new", "\u{2013}", "x"), ("seed", "0", "1")]);
    }

    #[test]
    fn runs_on_different_rows_are_no_comparison() {
        let a = run("a", [0.5; 2], [0.0; 2], &[]);
        let mut b = run("b", [0.5; 2], [0.0; 2], &[]);
        assert!(warnings([&a, &b]).is_empty());
        if let Some(eval) = &mut b.eval {
            eval["rows"] = json!([10, 10]);
        }
        assert!(warnings([&a, &b])[0].contains("different rows"));
        if let Some(eval) = &mut b.eval {
            (eval["dump"], eval["held_out"]) = (json!("e"), json!(true));
        }
        let said = warnings([&a, &b]);
        assert!(said[0].contains("different dumps") && said[1].contains("held out"), "{said:?}");
    }
}
