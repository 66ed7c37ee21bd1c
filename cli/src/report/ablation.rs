//! The report of an ablation: for each suite a question, its answer, plots and a table.

use super::charts::{Chart, axis};
use super::number::{decimals, difference};
use super::sentence;
use crate::ablation::metric::{METRICS, Metric};
use crate::ablation::{Ablation, Difference, RowReport, SuiteReport};
use plotly::common::{ErrorData, ErrorType, Marker, MarkerSymbol, Mode};
use plotly::layout::Margin;
use plotly::{Layout, Plot, Scatter};

/// A suite on the page.
pub struct Question {
    /// Its anchor.
    pub id: String,
    /// The name of the suite.
    pub name: String,
    /// The question that it asks.
    pub title: String,
    /// The name of the suite, and the row that the others are compared with.
    pub about: String,
    /// The answer.
    pub sentence: String,
    /// The answer about its reference rows.
    pub references: Option<String>,
    /// Its plots.
    pub charts: Vec<Chart>,
    /// The index of the first of its plots among all plots of the page.
    pub first: usize,
    /// Heads of the columns, and which direction is better.
    pub columns: Vec<Metric>,
    /// Rows of the table.
    pub rows: Vec<Line>,
}

/// Most columns of a table: as many as fit on a screen.
const COLUMNS: usize = 6;

/// Some of the columns of a suite, in a table of their own.
pub struct Part<'a> {
    /// Whether they are the first ones.
    pub is_first: bool,
    /// Heads of the columns.
    pub columns: &'a [Metric],
    /// Rows, each with its values in these columns.
    pub rows: Vec<(&'a Line, &'a [String])>,
}

impl Question {
    /// Returns the columns in tables that fit on a screen; one table without columns if nothing was measured.
    pub fn parts(&self) -> Vec<Part<'_>> {
        let starts: Vec<usize> = (0..self.columns.len().max(1)).step_by(COLUMNS).collect();
        let part = |from: usize| {
            let range = from..self.columns.len().min(from + COLUMNS);
            let rows = self.rows.iter().map(|row| (row, &row.cells[range.clone()])).collect();
            Part { is_first: from == 0, columns: &self.columns[range.clone()], rows }
        };
        starts.into_iter().map(part).collect()
    }
}

/// A row of a table.
pub struct Line {
    /// Its name.
    pub name: String,
    /// `base`, `reference` or nothing.
    pub role: &'static str,
    /// One value per column.
    pub cells: Vec<String>,
    /// The difference in FVU2, with its interval.
    pub difference: String,
    /// Its settings.
    pub set: String,
    /// The directories of its runs.
    pub dirs: Vec<String>,
}

/// Metrics that are plotted beside FVU2 if they are defined and differ between rows, in order of preference.
const PLOTTED: [&str; 6] = ["edge_recall", "attachment", "parents_again", "token_auc", "mcc", "dead2"];
/// Number of plots beside that of FVU2.
const BESIDE: usize = 3;

/// Returns the suites of an ablation.
pub fn questions(ablation: &Ablation) -> Vec<Question> {
    let mut first = 0;
    let of = |(i, suite)| {
        let question = question(i, first, suite);
        first += question.charts.len();
        question
    };
    ablation.suites.iter().enumerate().map(of).collect()
}

fn title(name: &str) -> String {
    match name {
        "consistency" => "Do the losses that tie the levels together help?",
        "gates" => "Which gate between the levels is best?",
        "sparsity-ratio" => "How should one budget be divided between the levels?",
        "balance" => "How much should level 1\u{2019}s own reconstruction weigh?",
        "baselines" => "What does learning the dictionary add to a random one?",
        "experiment" => "Does the default hold against its neighbours?",
        "sweep" => "Which of these settings is best?",
        other => return format!("What does {other} change?"),
    }
    .into()
}

fn question(i: usize, first: usize, suite: &SuiteReport) -> Question {
    let is_defined = |key: &str| suite.rows.iter().any(|r| r.mean.get(key).copied().flatten().is_some());
    let columns: Vec<Metric> = METRICS.into_iter().filter(|c| is_defined(c.key)).collect();
    let varies = |key: &str| {
        let values: Vec<f64> = suite.rows.iter().filter_map(|r| r.mean.get(key).copied().flatten()).collect();
        values.len() > 1 && values.iter().any(|v| (v - values[0]).abs() > 1e-9)
    };
    let plotted = PLOTTED.into_iter().filter(|key| varies(key)).take(BESIDE);
    let keys = is_defined("fvu2").then_some("fvu2").into_iter().chain(plotted);
    let charts = keys.filter_map(|key| chart(suite, METRICS.into_iter().find(|c| c.key == key)?)).collect();
    let rows = suite.rows.iter().map(|row| line(suite, row, &columns)).collect();
    Question {
        id: format!("suite-{}", i + 1),
        name: suite.name.clone(),
        title: title(&suite.name),
        about: format!("Suite {}, {} rows, each against {}", suite.name, suite.rows.len(), suite.base),
        sentence: sentence::of(suite),
        references: sentence::of_references(suite),
        charts,
        first,
        columns,
        rows,
    }
}

fn line(suite: &SuiteReport, row: &RowReport, columns: &[Metric]) -> Line {
    let value = |c: &Metric| row.mean.get(c.key).copied().flatten();
    let cell = |c: &Metric| match value(c) {
        None => "\u{2013}".into(),
        Some(v) => match row.sd.get(c.key).copied().flatten() {
            Some(sd) => format!("{} \u{b1} {}", decimals(v, c.digits), decimals(sd, c.digits)),
            None => decimals(v, c.digits),
        },
    };
    let is_base = row.name == suite.base;
    let difference = match row.difference.get("fvu2") {
        _ if is_base => "base".into(),
        Some(Difference { mean: Some(mean), low: Some(low), high: Some(high), .. }) => {
            format!("{} [{}, {}]", difference(*mean), difference(*low), difference(*high))
        }
        Some(Difference { mean: Some(mean), .. }) => difference(*mean),
        _ => "\u{2013}".into(),
    };
    Line {
        name: row.name.clone(),
        role: if is_base {
            "base"
        } else if row.reference {
            "reference"
        } else {
            ""
        },
        cells: columns.iter().map(cell).collect(),
        difference,
        set: row.set.join(", "),
        dirs: row.runs.iter().map(|r| format!("{} (seed {})", r.dir, r.seed)).collect(),
    }
}

/// Returns the name of a row on an axis: names are distinct, and roles are not shown by colour alone.
fn label(suite: &SuiteReport, row: &RowReport) -> String {
    match (row.name == suite.base, row.reference) {
        (true, _) => format!("{} (base)", row.name),
        (_, true) => format!("{} *", row.name),
        _ => row.name.clone(),
    }
}

/// Draws one point per row with the interval of its difference from the base, and a small one per seed.
fn chart(suite: &SuiteReport, column: Metric) -> Option<Chart> {
    let Metric { key, name, better, .. } = column;
    // The first row is at the top.
    let rows: Vec<&RowReport> = suite.rows.iter().rev().collect();
    let mut plot = Plot::new();
    let mut drawn = 0;
    for (role, symbol) in
        [("rows", MarkerSymbol::Circle), ("base", MarkerSymbol::Square), ("reference", MarkerSymbol::DiamondOpen)]
    {
        let of_role = rows.iter().filter(|r| match role {
            "base" => r.name == suite.base,
            "reference" => r.reference && r.name != suite.base,
            _ => !r.reference && r.name != suite.base,
        });
        let (mut x, mut y, mut plus, mut minus) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for row in of_role {
            let Some(mean) = row.mean.get(key).copied().flatten() else { continue };
            let d = row.difference.get(key).copied().unwrap_or_default();
            let arm = |end: Option<f64>| end.zip(d.mean).map_or(0.0, |(end, mean)| (end - mean).abs());
            x.push(mean);
            y.push(label(suite, row));
            plus.push(arm(d.high));
            minus.push(arm(d.low));
        }
        drawn += x.len();
        if !x.is_empty() {
            let bars =
                ErrorData::new(ErrorType::Data).array(plus).array_minus(minus).symmetric(false).thickness(1.5).width(4);
            plot.add_trace(
                Scatter::new(x, y)
                    .mode(Mode::Markers)
                    .name(role)
                    .error_x(bars)
                    .marker(Marker::new().symbol(symbol).size(9)),
            );
        }
    }
    if drawn == 0 {
        return None;
    }
    let (mut x, mut y) = (Vec::new(), Vec::new());
    for row in &rows {
        for value in row.runs.iter().filter_map(|r| r.metrics.get(key).copied().flatten()) {
            x.push(value);
            y.push(label(suite, row));
        }
    }
    plot.add_trace(
        Scatter::new(x, y)
            .mode(Mode::Markers)
            .name("seeds")
            .opacity(0.55)
            .marker(Marker::new().symbol(MarkerSymbol::LineNSOpen).size(9)),
    );
    let order: Vec<String> = rows.iter().map(|r| label(suite, r)).collect();
    let y_axis = plotly::layout::Axis::new()
        .category_order(plotly::layout::CategoryOrder::Array)
        .category_array(order)
        .auto_margin(true);
    let better = match better {
        "higher" => "Higher is better. ",
        "lower" => "Lower is better. ",
        _ => "",
    };
    plot.set_layout(Layout::new().x_axis(axis(name)).y_axis(y_axis).margin(Margin::new().left(10)));
    let caption = format!(
        "{better}Bars are the 95 % interval of the difference to the base, paired by seed; small strokes are seeds."
    );
    let mut letters = name.chars();
    let title: String = letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect();
    Some(Chart::new(&title, caption, 120 + 24 * rows.len(), plot))
}
