//! The charts of a run.

use super::embed;
use anyhow::{Context, Result};
use plotly::common::{DashType, Line, Marker, MarkerSymbol, Mode};
use plotly::layout::{Axis, AxisType, BarMode};
use plotly::{Bar, Layout, Plot, Scatter};
use serde::Serialize;
use serde_json::Value;

/// One chart, with a description for readers who do not see it.
pub struct Chart {
    /// Its heading.
    pub title: String,
    /// What it shows, and which direction is better.
    pub caption: String,
    /// Height of the plot, in pixels.
    pub height: usize,
    plot: Plot,
}

impl Chart {
    /// Returns a chart of `plot`.
    pub fn new(title: &str, caption: impl Into<String>, height: usize, plot: Plot) -> Self {
        Self { title: title.into(), caption: caption.into(), height, plot }
    }
}

/// Returns the plots, for the browser.
///
/// # Errors
/// If a plot cannot be written as JSON.
pub fn json<'a>(charts: impl Iterator<Item = &'a Chart>) -> Result<String> {
    #[derive(Serialize)]
    struct Out {
        data: Value,
        layout: Value,
    }
    let plots = charts.map(|c| {
        let mut plot = serde_json::to_value(&c.plot).context("writing a plot")?;
        Ok(Out { data: plot["data"].take(), layout: plot["layout"].take() })
    });
    embed::json(&plots.collect::<Result<Vec<_>>>()?)
}

/// Returns an axis with a title.
pub fn axis(title: &str) -> Axis {
    Axis::new().title(title)
}

fn log(title: &str) -> Axis {
    axis(title).type_(AxisType::Log)
}

/// One line of a chart over steps: a name, its key in a line of `metrics.jsonl`, and its style.
struct Series(&'static str, &'static str, Style);

#[derive(Clone, Copy, PartialEq)]
enum Style {
    Solid,
    Dots,
}
use Style::{Dots, Solid};

/// A chart over steps: title, caption, the axis, whether it is logarithmic, its lines.
struct Plan(&'static str, &'static str, &'static str, bool, &'static [Series]);

/// The key of the loss without the terms of AuxK. AuxK is relative to the error, so that it is near its whole weight as
/// soon as one latent is dead, and 0 with none: a total that includes it jumps with a single latent.
const TOTAL: &str = "/loss without AuxK";

const TRAINING: &[Plan] = &[
    Plan(
        "Variance left unexplained",
        "Batches in training (lines) and rows held out (dots). Lower is better; 1 is the mean row.",
        "FVU",
        true,
        &[
            Series("level 1", "/fvu/0", Solid),
            Series("level 2", "/fvu/1", Solid),
            Series("level 1, held out", "/held_out_fvu/0", Dots),
            Series("level 2, held out", "/held_out_fvu/1", Dots),
        ],
    ),
    Plan(
        "Terms of the loss",
        "With their weights. The total is without AuxK, which a single dead latent switches on. Terms that are always 0 \
         are left out.",
        "loss",
        true,
        &[
            Series("total without AuxK", TOTAL, Solid),
            Series("sparsity 1", "/sparsity/0", Solid),
            Series("sparsity 2", "/sparsity/1", Solid),
            Series("consistency", "/consistency", Solid),
            Series("AuxK 1", "/aux/0", Solid),
            Series("AuxK 2", "/aux/1", Solid),
            Series("gated 1", "/gated_aux/0", Solid),
            Series("gated 2", "/gated_aux/1", Solid),
        ],
    ),
    Plan(
        "Latents that fire per token",
        "L0 of batches, and the k that the controller asks for (dots).",
        "latents per token",
        false,
        &[
            Series("level 1", "/l0/0", Solid),
            Series("level 2", "/l0/1", Solid),
            Series("k, level 1", "/k/0", Dots),
            Series("k, level 2", "/k/1", Dots),
        ],
    ),
    Plan(
        "Dead latents",
        "Latents that have not fired for long. Lower is better.",
        "latents",
        false,
        &[Series("level 1", "/dead/0", Solid), Series("level 2", "/dead/1", Solid)],
    ),
    Plan(
        "Thresholds",
        "The tracked threshold above which a latent fires at inference.",
        "threshold",
        false,
        &[Series("level 1", "/tau/0", Solid), Series("level 2", "/tau/1", Solid)],
    ),
    Plan(
        "Weights of the sparsity penalties",
        "What the controller of L0 sets for activations that a penalty makes sparse.",
        "weight",
        true,
        &[Series("level 1", "/lambda/0", Solid), Series("level 2", "/lambda/1", Solid)],
    ),
    Plan(
        "Weights of the two reconstructions",
        "What the balance between the levels sets.",
        "weight",
        false,
        &[Series("level 1", "/w/0", Solid), Series("level 2", "/w/1", Solid)],
    ),
    Plan(
        "Gradients on the decoder of level 1",
        "Norms: from its own reconstruction, and through level 2.",
        "norm",
        true,
        &[Series("own", "/balance/n1", Solid), Series("through level 2", "/balance/n2", Solid)],
    ),
    Plan(
        "Do the gradients of the levels agree?",
        "Cosine of those two gradients: 1 means that they agree, 0 that they are unrelated, below 0 that they are opposed.",
        "cosine",
        false,
        &[Series("cosine", "/balance/cosine", Solid)],
    ),
    Plan("Norm of the gradient", "Before clipping.", "norm", true, &[Series("norm", "/grad_norm", Solid)]),
    Plan("Learning rate", "Warm-up, then decay.", "rate", false, &[Series("rate", "/lr", Solid)]),
    Plan(
        "Reassigned and reseeded children",
        "Children that changed their parent at a step that is shown, and dead children that were reseeded.",
        "latents",
        false,
        &[Series("reassigned", "/moved", Solid), Series("reseeded", "/reseeded", Solid)],
    ),
    Plan("Speed", "Tokens per second.", "tokens/s", false, &[Series("speed", "/tokens_per_s", Solid)]),
];

/// Keys of a line that have no chart.
const NOT_CHARTED: [&str; 6] = ["step", "tokens", "seconds", "cpu_seconds", "peak_resident_bytes", "gate_on"];

/// The data of a run in a chart.
pub struct Of<'a, T: ?Sized> {
    /// `A` or `B`, which is put before its names; none if it is the only run.
    pub letter: Option<&'static str>,
    /// Its data.
    pub data: &'a T,
}

impl<T: ?Sized> Of<'_, T> {
    fn named(&self, name: &str) -> String {
        self.letter.map_or_else(|| name.to_owned(), |letter| format!("{letter}: {name}"))
    }

    /// Curves of the second run are dashed.
    fn line(&self) -> Line {
        if self.letter == Some("B") { Line::new().dash(DashType::Dash) } else { Line::new() }
    }
}

/// Returns the charts of the training, from the lines of `metrics.jsonl` of each run.
pub fn training(runs: &[Of<'_, [Value]>]) -> Vec<Chart> {
    let mut charts: Vec<Chart> = TRAINING.iter().filter_map(|plan| over_steps(runs, plan)).collect();
    let mut other = std::collections::BTreeSet::new();
    for (key, value) in runs.iter().filter_map(|run| run.data.last()?.as_object()).flatten() {
        let is_known = TRAINING.iter().flat_map(|p| p.4).any(|s| s.1.split(['/', ' ']).nth(1) == Some(key));
        if !is_known && value.is_number() && !NOT_CHARTED.contains(&key.as_str()) {
            other.insert(key.as_str());
        }
    }
    for key in other {
        let mut plot = Plot::new();
        for run in runs {
            let (x, y) = points(run.data, &format!("/{key}"));
            plot.add_trace(Scatter::new(x, y).mode(Mode::Lines).name(run.named(key)).line(run.line()));
        }
        plot.set_layout(Layout::new().x_axis(axis("step")).y_axis(axis(key)).show_legend(runs.len() > 1));
        charts.push(Chart::new(key, "", 220, plot));
    }
    charts
}

fn points(lines: &[Value], at: &str) -> (Vec<f64>, Vec<f64>) {
    let found = lines.iter().filter_map(|l| Some((l["step"].as_f64()?, value(l, at)?)));
    found.unzip()
}

fn value(line: &Value, at: &str) -> Option<f64> {
    if at != TOTAL {
        return line.pointer(at)?.as_f64();
    }
    let aux = line["aux"].as_array().into_iter().flatten().filter_map(Value::as_f64).sum::<f64>();
    Some(line["loss"].as_f64()? - aux)
}

/// Returns the chart of a plan; `None` if every value is 0 or missing.
fn over_steps(runs: &[Of<'_, [Value]>], plan: &Plan) -> Option<Chart> {
    let Plan(title, caption, unit, is_log, series) = plan;
    let of_run = |run| series.iter().map(move |s| (run, s));
    let drawn: Vec<_> = runs
        .iter()
        .flat_map(of_run)
        .map(|(run, s): (&Of<'_, [Value]>, &Series)| (run, s, points(run.data, s.1)))
        .filter(|(_, _, (_, y))| y.iter().any(|v| *v != 0.0))
        .collect();
    if drawn.is_empty() {
        return None;
    }
    let mut plot = Plot::new();
    for (run, Series(name, _, style), (x, y)) in &drawn {
        let trace = Scatter::new(x.clone(), y.clone()).name(run.named(name));
        plot.add_trace(match style {
            Solid => trace.mode(Mode::Lines).line(run.line()),
            Dots if name.starts_with("k, ") => trace.mode(Mode::Lines).line(Line::new().dash(DashType::Dot)),
            Dots => {
                let symbol = if run.letter == Some("B") { MarkerSymbol::DiamondOpen } else { MarkerSymbol::CircleOpen };
                trace.mode(Mode::Markers).marker(Marker::new().symbol(symbol))
            }
        });
    }
    // A logarithm needs numbers above 0.
    let is_log = *is_log && drawn.iter().all(|(_, _, (_, y))| y.iter().any(|v| *v > 0.0));
    let y_axis = if is_log { log(unit) } else { axis(unit) };
    plot.set_layout(Layout::new().x_axis(axis("step")).y_axis(y_axis).show_legend(drawn.len() > 1));
    Some(Chart::new(title, *caption, if runs.len() > 1 { 300 } else { 260 }, plot))
}

/// Returns the charts of the evaluation of each run: densities, numbers of active latents, and edges.
pub fn sparsity(runs: &[Of<'_, Value>]) -> Vec<Chart> {
    [density(runs), l0(runs), lift(runs), gain(runs)].into_iter().flatten().collect()
}

fn list(eval: &Value, at: &str) -> Vec<f64> {
    let values = eval.pointer(at).and_then(Value::as_array).into_iter().flatten();
    values.map(|v| v.as_f64().unwrap_or(f64::NAN)).collect()
}

/// Formats numbers of both levels of each run in a sentence.
fn of_levels(runs: &[Of<'_, Value>], what: &str, part: &str, say: fn(f64) -> String) -> String {
    let of = |run: &Of<'_, Value>| {
        let at = |level: &str| run.data.pointer(&format!("/{level}/{part}")).and_then(Value::as_f64);
        let numbers = match (at("level1"), at("level2")) {
            (Some(a), Some(b)) => format!("{} and {}", say(a), say(b)),
            (Some(a), None) => say(a),
            _ => return None,
        };
        Some(run.letter.map_or_else(|| numbers.clone(), |letter| format!("{letter} {numbers}")))
    };
    let all: Vec<String> = runs.iter().filter_map(of).collect();
    if all.is_empty() { String::new() } else { format!(" {what} {}.", all.join("; ")) }
}

fn density(runs: &[Of<'_, Value>]) -> Option<Chart> {
    let levels = [("level 1", "level1"), ("level 2", "level2")];
    let of_run = |run| levels.iter().map(move |(name, level)| (run, *name, *level));
    let all: Vec<(&Of<'_, Value>, &str, Vec<f64>)> = runs
        .iter()
        .flat_map(of_run)
        .map(|(run, name, level): (&Of<'_, Value>, _, _)| {
            (run, name, list(run.data, &format!("/{level}/density_histogram")))
        })
        .filter(|(_, _, h)| !h.is_empty())
        .collect();
    let first = all.iter().filter_map(|(_, _, h)| h.iter().position(|n| *n > 0.0)).min()?;
    let mut plot = Plot::new();
    for (run, name, h) in &all {
        let x: Vec<f64> = (first..h.len()).map(|b| -10.0 + (b as f64 + 0.5) / 4.0).collect();
        let y = h[first.min(h.len())..].to_vec();
        // Overlapping bars of two runs with two levels each would be illegible.
        if runs.len() == 1 {
            plot.add_trace(Bar::new(x, y).name(run.named(name)).opacity(0.75));
        } else {
            plot.add_trace(Scatter::new(x, y).mode(Mode::Lines).name(run.named(name)).line(run.line()));
        }
    }
    let x_axis = axis("log10 of the share of tokens on which a latent fires");
    plot.set_layout(Layout::new().bar_mode(BarMode::Overlay).x_axis(x_axis).y_axis(axis("latents")));
    let dead = of_levels(runs, "Never:", "dead", super::number::percent);
    let caption =
        format!("Each latent by how often it fires; 0 is on every token, \u{2212}3 on one in a thousand.{dead}");
    Some(Chart::new("Density of latents", caption, 280, plot))
}

/// Returns numbers of the children in a part of an evaluation.
fn of_children(eval: &Value, part: &str, name: &str) -> Vec<f64> {
    let children = eval.pointer(part).and_then(Value::as_array).into_iter().flatten();
    children.filter_map(|c| c[name].as_f64()).collect()
}

fn lift(runs: &[Of<'_, Value>]) -> Option<Chart> {
    let logs = |run: &Of<'_, Value>| -> Vec<f64> {
        let lifts = of_children(run.data, "/composition/child", "lift");
        lifts.into_iter().filter(|v| *v > 0.0).map(f64::log10).collect()
    };
    let all: Vec<(String, Vec<f64>)> = runs.iter().map(|run| (run.named("edges"), logs(run))).collect();
    let caption = "Each edge from a parent to a child by how much likelier the parent is when the child fires without its gate. 0 is \
                   chance, 1 is ten times as likely; higher is better.";
    (all.iter().any(|(_, v)| v.len() > 1))
        .then(|| histogram("Lift of the edges", caption, "log10 of the lift", "edges", &all))
}

fn gain(runs: &[Of<'_, Value>]) -> Option<Chart> {
    let mut plot = Plot::new();
    let mut drawn = 0;
    for run in runs {
        let gain = of_children(run.data, "/gated/child", "gain");
        let total: f64 = gain.iter().map(|g| g.max(0.0)).sum();
        if gain.len() < 2 || total <= 0.0 {
            continue;
        }
        let mut sorted: Vec<f64> = gain.into_iter().filter(|g| *g > 0.0).collect();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let mut sum = 0.0;
        let share = |g: &f64| {
            sum += g;
            sum / total
        };
        let shares: Vec<f64> = sorted.iter().map(share).collect();
        let ranks: Vec<f64> = (1..=shares.len()).map(|r| r as f64).collect();
        plot.add_trace(Scatter::new(ranks, shares).mode(Mode::Lines).name(run.named("share")).line(run.line()));
        drawn += 1;
    }
    let y_axis = axis("share of all gain").range(vec![0.0, 1.02]);
    let x_axis = axis("children, those with most gain first");
    plot.set_layout(Layout::new().x_axis(x_axis).y_axis(y_axis).show_legend(runs.len() > 1));
    let caption = "Gain is by how much the error grows if a child alone is removed. A curve that rises at once means that a \
                   few children do the work.";
    (drawn > 0).then(|| Chart::new("Distribution of the gain over children", caption, 260, plot))
}

/// Returns the chart of the share of tokens with at most a number of active latents.
fn l0(runs: &[Of<'_, Value>]) -> Option<Chart> {
    let mut plot = Plot::new();
    let mut any = false;
    for run in runs {
        for (name, level) in [("level 1", "level1"), ("level 2", "level2")] {
            let (x, y) = cumulative(run.data, level);
            if !x.is_empty() {
                any = true;
                let mode = if runs.len() > 1 { Mode::Lines } else { Mode::LinesMarkers };
                plot.add_trace(Scatter::new(x, y).mode(mode).name(run.named(name)).line(run.line()));
            }
        }
    }
    plot.set_layout(
        Layout::new().x_axis(axis("latents that fire")).y_axis(axis("share of tokens").range(vec![0.0, 1.02])),
    );
    let spread = of_levels(runs, "Standard deviations", "l0_sd", super::number::show);
    let caption = format!(
        "With a steep curve every token has about as many active latents; with a flat one some have many more.{spread}"
    );
    any.then(|| Chart::new("L0 over tokens", caption, 280, plot))
}

fn cumulative(eval: &Value, level: &str) -> (Vec<f64>, Vec<f64>) {
    let counts = list(eval, &format!("/patterns/{level}/l0_histogram"));
    let tokens: f64 = counts.iter().sum();
    if tokens <= 0.0 {
        let quantiles = list(eval, &format!("/{level}/l0_quantiles"));
        return quantiles.into_iter().zip([0.05, 0.25, 0.5, 0.75, 0.95, 0.99]).unzip();
    }
    let last = counts.iter().rposition(|n| *n > 0.0).unwrap_or(0);
    let mut sum = 0.0;
    let upto = |k: usize| {
        sum += counts[k];
        (k as f64, sum / tokens)
    };
    (0..=last).map(upto).unzip()
}

fn histogram(title: &str, caption: &str, x: &str, y: &str, runs: &[(String, Vec<f64>)]) -> Chart {
    const BINS: usize = 40;
    let all = || runs.iter().flat_map(|(_, values)| values.iter().copied());
    let low = all().fold(f64::INFINITY, f64::min);
    let high = all().fold(f64::NEG_INFINITY, f64::max);
    let width = ((high - low) / BINS as f64).max(1e-9);
    let centres: Vec<f64> = (0..BINS).map(|b| low + (b as f64 + 0.5) * width).collect();
    let mut plot = Plot::new();
    for (name, values) in runs {
        let mut counts = [0u32; BINS];
        values.iter().for_each(|v| counts[(((v - low) / width) as usize).min(BINS - 1)] += 1);
        let opacity = if runs.len() > 1 { 0.6 } else { 1.0 };
        plot.add_trace(Bar::new(centres.clone(), counts.to_vec()).name(name).opacity(opacity));
    }
    let layout = Layout::new().bar_mode(BarMode::Overlay).x_axis(axis(x)).y_axis(axis(y));
    plot.set_layout(layout.show_legend(runs.len() > 1));
    Chart::new(title, caption, 260, plot)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn one_dead_latent_does_not_make_the_loss_jump() {
        let line =
            |step: u64, aux: f64| json!({ "step": step, "loss": 0.25 + aux, "aux": [aux, 0.0], "fvu": [0.5, 0.25] });
        let lines = [line(0, 0.0), line(100, 0.0), line(200, 0.03125)];
        let runs = [Of { letter: None, data: &lines[..] }];
        let charts = training(&runs);
        let loss = charts.iter().find(|c| c.title == "Terms of the loss").expect("a chart of the loss");
        let plot = serde_json::to_value(&loss.plot).expect("JSON");
        assert_eq!(plot["data"][0]["name"], "total without AuxK");
        assert_eq!(plot["data"][0]["y"], json!([0.25, 0.25, 0.25]));
        assert_eq!((&plot["data"][1]["name"], &plot["data"][1]["y"]), (&json!("AuxK 1"), &json!([0.0, 0.0, 0.03125])));
        assert!(!charts.iter().any(|c| c.title == "loss"), "the loss has its chart");
    }

    #[test]
    fn the_curves_of_two_runs_are_in_one_chart_with_their_letters() {
        let lines = |fvu: f64| [json!({ "step": 0, "fvu": [fvu, fvu / 2.0], "news": 1.5 })];
        let (a, b) = (lines(0.5), lines(0.25));
        let charts = training(&[Of { letter: Some("A"), data: &a[..] }, Of { letter: Some("B"), data: &b[..] }]);
        let names = |chart: &Chart| {
            let plot = serde_json::to_value(&chart.plot).expect("JSON");
            plot["data"].as_array().expect("traces").iter().map(|t| t["name"].clone()).collect::<Vec<_>>()
        };
        assert_eq!(names(&charts[0]), ["A: level 1", "A: level 2", "B: level 1", "B: level 2"]);
        assert_eq!(names(&charts[1]), ["A: news", "B: news"]);
    }
}
