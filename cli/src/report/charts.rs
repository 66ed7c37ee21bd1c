//! The charts of a run.

use super::embed;
use anyhow::{Context, Result};
use plotly::common::{DashType, Line, Marker, MarkerSymbol, Mode};
use plotly::layout::{Axis, AxisType, BarMode};
use plotly::{Bar, Layout, Plot, Scatter};
use serde::Serialize;
use serde_json::Value;

/// One chart, and what it says to those who do not see it.
pub struct Chart {
    /// Its heading.
    pub title: String,
    /// What is to be seen, which way is better.
    pub caption: String,
    /// Height of the plot, in pixels.
    pub height: usize,
    plot: Plot,
}

impl Chart {
    /// A chart of `plot`.
    pub fn new(title: &str, caption: impl Into<String>, height: usize, plot: Plot) -> Self {
        Self { title: title.into(), caption: caption.into(), height, plot }
    }
}

/// The plots, for the browser.
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

/// An axis with a title.
pub fn axis(title: &str) -> Axis {
    Axis::new().title(title)
}

fn log(title: &str) -> Axis {
    axis(title).type_(AxisType::Log)
}

/// One line of a chart over steps: a name, where it stands in a line of `metrics.jsonl`, and how it is drawn.
struct Series(&'static str, &'static str, Style);

#[derive(Clone, Copy, PartialEq)]
enum Style {
    Solid,
    Dots,
}
use Style::{Dots, Solid};

/// A chart over steps: title, caption, the axis, whether it is logarithmic, its lines.
struct Plan(&'static str, &'static str, &'static str, bool, &'static [Series]);

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
        "Weighted as they enter. Terms that are always 0 are left out.",
        "loss",
        true,
        &[
            Series("total", "/loss", Solid),
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
        "Latents that fire a token",
        "L0 of batches, and the k that the controller asks for (dots).",
        "latents a token",
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
        "Do the levels pull the same way?",
        "Cosine of those two gradients: 1 agree, 0 ignore each other, below 0 they fight.",
        "cosine",
        false,
        &[Series("cosine", "/balance/cosine", Solid)],
    ),
    Plan("Norm of the gradient", "Before clipping.", "norm", true, &[Series("norm", "/grad_norm", Solid)]),
    Plan("Learning rate", "Warm-up, then decay.", "rate", false, &[Series("rate", "/lr", Solid)]),
    Plan(
        "Children that moved, latents set anew",
        "Children that changed their parent at a step that is shown, and dead ones that were set anew.",
        "latents",
        false,
        &[Series("moved", "/moved", Solid), Series("set anew", "/reseeded", Solid)],
    ),
    Plan("Speed", "Tokens a second.", "tokens/s", false, &[Series("speed", "/tokens_per_s", Solid)]),
];

/// Keys of a line that no chart is needed for.
const NOT_CHARTED: [&str; 6] = ["step", "tokens", "seconds", "cpu_seconds", "peak_resident_bytes", "gate_on"];

/// The charts of the training, from the lines of `metrics.jsonl`.
pub fn training(lines: &[Value]) -> Vec<Chart> {
    let mut charts: Vec<Chart> = TRAINING.iter().filter_map(|plan| over_steps(lines, plan)).collect();
    let mut other = Vec::new();
    for (key, value) in lines.last().and_then(Value::as_object).into_iter().flatten() {
        let is_known = TRAINING.iter().flat_map(|p| p.4).any(|s| s.1.split('/').nth(1) == Some(key));
        if !is_known && value.is_number() && !NOT_CHARTED.contains(&key.as_str()) {
            let at = format!("/{key}");
            let (x, y) = points(lines, &at);
            let mut plot = Plot::new();
            plot.add_trace(Scatter::new(x, y).mode(Mode::Lines).name(key));
            plot.set_layout(Layout::new().x_axis(axis("step")).y_axis(axis(key)).show_legend(false));
            other.push(Chart::new(key, "", 220, plot));
        }
    }
    charts.append(&mut other);
    charts
}

fn points(lines: &[Value], at: &str) -> (Vec<f64>, Vec<f64>) {
    let found = lines.iter().filter_map(|l| Some((l["step"].as_f64()?, l.pointer(at)?.as_f64()?)));
    found.unzip()
}

/// None if every line of it is 0 or not there.
fn over_steps(lines: &[Value], plan: &Plan) -> Option<Chart> {
    let Plan(title, caption, unit, is_log, series) = plan;
    let drawn: Vec<_> =
        series.iter().map(|s| (s, points(lines, s.1))).filter(|(_, (_, y))| y.iter().any(|v| *v != 0.0)).collect();
    if drawn.is_empty() {
        return None;
    }
    let mut plot = Plot::new();
    for (Series(name, _, style), (x, y)) in &drawn {
        let trace = Scatter::new(x.clone(), y.clone()).name(*name);
        plot.add_trace(match style {
            Solid => trace.mode(Mode::Lines),
            Dots if *name == "k, level 1" || *name == "k, level 2" => {
                trace.mode(Mode::Lines).line(Line::new().dash(DashType::Dot))
            }
            Dots => trace.mode(Mode::Markers).marker(Marker::new().symbol(MarkerSymbol::CircleOpen)),
        });
    }
    // A logarithm needs numbers above 0.
    let is_log = *is_log && drawn.iter().all(|(_, (_, y))| y.iter().any(|v| *v > 0.0));
    let y_axis = if is_log { log(unit) } else { axis(unit) };
    plot.set_layout(Layout::new().x_axis(axis("step")).y_axis(y_axis).show_legend(drawn.len() > 1));
    Some(Chart::new(title, *caption, 260, plot))
}

/// The charts of an evaluation: how often latents fire, how many fire, how children hang on their parents.
pub fn sparsity(eval: &Value) -> Vec<Chart> {
    let mut charts = Vec::new();
    let list = |at: &str| -> Vec<f64> {
        let values = eval.pointer(at).and_then(Value::as_array).into_iter().flatten();
        values.map(|v| v.as_f64().unwrap_or(f64::NAN)).collect()
    };
    let histograms = ["level1", "level2"].map(|level| list(&format!("/{level}/density_histogram")));
    let first = histograms.iter().filter_map(|h| h.iter().position(|n| *n > 0.0)).min();
    if let Some(first) = first {
        let mut plot = Plot::new();
        for (name, h) in ["level 1", "level 2"].iter().zip(&histograms).filter(|(_, h)| !h.is_empty()) {
            let x: Vec<f64> = (first..h.len()).map(|b| -10.0 + (b as f64 + 0.5) / 4.0).collect();
            plot.add_trace(Bar::new(x, h[first..].to_vec()).name(*name).opacity(0.75));
        }
        let x_axis = axis("log10 of the share of tokens on which a latent fires");
        plot.set_layout(Layout::new().bar_mode(BarMode::Overlay).x_axis(x_axis).y_axis(axis("latents")));
        let dead = |level: &str| eval.pointer(&format!("/{level}/dead")).and_then(Value::as_f64);
        let dead = match (dead("level1"), dead("level2")) {
            (Some(a), Some(b)) => format!(" Never: {} and {}.", super::number::percent(a), super::number::percent(b)),
            (Some(a), None) => format!(" Never: {}.", super::number::percent(a)),
            _ => String::new(),
        };
        let caption =
            format!("Each latent by how often it fires; 0 is on every token, \u{2212}3 on one in a thousand.{dead}");
        charts.push(Chart::new("Density of latents", caption, 280, plot));
    }
    if let Some(chart) = l0(eval, &list) {
        charts.push(chart);
    }
    let children = || eval.pointer("/composition/child").and_then(Value::as_array).into_iter().flatten();
    let of_children = |name: &str| children().filter_map(|c| c[name].as_f64()).collect::<Vec<f64>>();
    let lift: Vec<f64> = of_children("lift").into_iter().filter(|v| *v > 0.0).map(f64::log10).collect();
    if lift.len() > 1 {
        let caption = "Each edge from a parent to a child by how much likelier the parent is when the child fires without its gate. 0 is \
                       chance, 1 is ten times as likely; higher is better.";
        charts.push(histogram("Lift of the edges", caption, "log10 of the lift", "edges", &lift));
    }
    let gated = eval.pointer("/gated/child").and_then(Value::as_array).into_iter().flatten();
    let gain: Vec<f64> = gated.filter_map(|c| c["gain"].as_f64()).collect();
    let total: f64 = gain.iter().map(|g| g.max(0.0)).sum();
    if gain.len() > 1 && total > 0.0 {
        let mut sorted: Vec<f64> = gain.iter().copied().filter(|g| *g > 0.0).collect();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let mut sum = 0.0;
        let shares: Vec<f64> = sorted
            .iter()
            .map(|g| {
                sum += g;
                sum / total
            })
            .collect();
        let ranks: Vec<f64> = (1..=shares.len()).map(|r| r as f64).collect();
        let mut plot = Plot::new();
        plot.add_trace(Scatter::new(ranks, shares).mode(Mode::Lines).name("share"));
        let y_axis = axis("share of all gain").range(vec![0.0, 1.02]);
        plot.set_layout(
            Layout::new().x_axis(axis("children, those with most gain first")).y_axis(y_axis).show_legend(false),
        );
        let caption = "Gain is by how much the error grows if a child alone is taken away. A curve that rises at once \
                       means that a few children do the work.";
        charts.push(Chart::new("Who carries the gain", caption, 260, plot));
    }
    charts
}

/// How many latents fire a token: the share of tokens with at most so many.
fn l0(eval: &Value, list: &impl Fn(&str) -> Vec<f64>) -> Option<Chart> {
    let mut plot = Plot::new();
    let mut any = false;
    for (name, level) in [("level 1", "level1"), ("level 2", "level2")] {
        let counts = list(&format!("/patterns/{level}/l0_histogram"));
        let tokens: f64 = counts.iter().sum();
        let (x, y): (Vec<f64>, Vec<f64>) = if tokens > 0.0 {
            let last = counts.iter().rposition(|n| *n > 0.0).unwrap_or(0);
            let mut sum = 0.0;
            (0..=last)
                .map(|k| {
                    sum += counts[k];
                    (k as f64, sum / tokens)
                })
                .unzip()
        } else {
            list(&format!("/{level}/l0_quantiles")).into_iter().zip([0.05, 0.25, 0.5, 0.75, 0.95, 0.99]).unzip()
        };
        if !x.is_empty() {
            any = true;
            plot.add_trace(Scatter::new(x, y).mode(Mode::LinesMarkers).name(name));
        }
    }
    plot.set_layout(
        Layout::new().x_axis(axis("latents that fire")).y_axis(axis("share of tokens").range(vec![0.0, 1.02])),
    );
    let sd = |level: &str| eval.pointer(&format!("/{level}/l0_sd")).and_then(Value::as_f64);
    let spread = match (sd("level1"), sd("level2")) {
        (Some(a), Some(b)) => {
            format!(" Standard deviations {} and {}.", super::number::show(a), super::number::show(b))
        }
        _ => String::new(),
    };
    let caption =
        format!("A steep curve: every token is given about as many latents; a flat one: some get many more.{spread}");
    any.then(|| Chart::new("L0 over tokens", caption, 280, plot))
}

fn histogram(title: &str, caption: &str, x: &str, y: &str, values: &[f64]) -> Chart {
    const BINS: usize = 40;
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let width = ((high - low) / BINS as f64).max(1e-9);
    let mut counts = [0u32; BINS];
    values.iter().for_each(|v| counts[(((v - low) / width) as usize).min(BINS - 1)] += 1);
    let centres: Vec<f64> = (0..BINS).map(|b| low + (b as f64 + 0.5) * width).collect();
    let mut plot = Plot::new();
    plot.add_trace(Bar::new(centres, counts.to_vec()).name(y));
    plot.set_layout(Layout::new().x_axis(axis(x)).y_axis(axis(y)).show_legend(false));
    Chart::new(title, caption, 260, plot)
}
