//! The latents, packed for the browser: an index, which the map and the search read at once; one line per latent, which
//! is read when its page is opened; and the text of all contexts, with each row once.

use super::embed;
use super::labels::Label;
use super::{alike, words};
use crate::eval::latents::{Context, LatentRecord};
use anyhow::Result;
use serde::Serialize;
use std::collections::BTreeMap;

/// Windows are narrowed until their text has at most this many rows, about 30 MB.
const MOST_ROWS: usize = 6_000_000;
/// The numbers of rows of a window before and after the one that fires. The first entry that keeps the page small is used.
const WINDOWS: [(usize, usize); 4] = [(usize::MAX, usize::MAX), (28, 12), (16, 8), (8, 4)];
/// Largest number of bars of the histogram of a latent.
const BARS: usize = 32;

/// The data of the latents of one run in the page.
pub struct Atlas {
    /// The suffix of the names of its elements: empty, or `-2` for the second run of a page.
    pub suffix: &'static str,
    /// The columns of all latents, as JSON.
    pub index: String,
    /// One line of JSON per latent.
    pub records: String,
    /// The rows of text that contexts show, as JSON.
    pub stream: String,
}

impl Atlas {
    /// Returns the same data, [packed](embed::packed).
    pub fn packed(&self) -> Self {
        let [index, records, stream] = [&self.index, &self.records, &self.stream].map(embed::packed);
        Self { suffix: self.suffix, index, records, stream }
    }
}

/// The run of the latents.
pub struct Subject<'a> {
    /// Its name.
    pub name: &'a str,
    /// SHA-256 of its weights, if known: the browser stores labels under this key.
    pub model: Option<&'a str>,
    /// Its labels.
    pub labels: &'a [Label],
}

/// The index: each field is a column with one entry per latent, level 1 first.
#[derive(Serialize)]
struct Index<'a> {
    run: &'a str,
    model: Option<&'a str>,
    f1: usize,
    f2: usize,
    /// Every text once; all other fields have indices into it.
    strings: Vec<&'a str>,
    /// -1 for none.
    parent: Vec<i64>,
    fires: Vec<u64>,
    density: Vec<f64>,
    gain: Vec<Option<f64>>,
    containment: Vec<Option<f64>>,
    lift: Vec<Option<f64>>,
    coverage: Vec<Option<f64>>,
    exclusivity: Vec<Option<f64>>,
    /// The tokens on which it fires most, or those that it promotes most in a dump without tokens.
    top: Vec<Vec<usize>>,
    /// The words in which it fires.
    words: Vec<Vec<usize>>,
    labels: &'a [Label],
    /// Rows of a window before the one that fires, and after it, if windows were cut.
    cut: Option<(usize, usize)>,
}

/// The numbers of a latent that are not in the index.
#[derive(Serialize)]
struct Line {
    mean: Option<f64>,
    max: Option<f64>,
    divergence: Option<f64>,
    width: f64,
    bars: Vec<u64>,
    tokens: Vec<(usize, f64)>,
    promotes: Vec<(usize, f64)>,
    suppresses: Vec<(usize, f64)>,
    neighbours: Vec<(u8, u32, f64)>,
    contexts: Vec<Place>,
    sampled: Vec<Place>,
}

#[derive(Serialize)]
struct Place {
    row: u64,
    /// First row of the window.
    first: u64,
    /// Rows of the window.
    n: usize,
    /// Share of its activations that are weaker.
    q: f64,
    /// The rows of the window on which it fires, and its activations.
    at: Vec<u16>,
    v: Vec<f64>,
    /// Row, child and activation where its children fire.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kids: Vec<(u16, u32, f64)>,
    /// The index of the context in the list with nearly the same text.
    #[serde(skip_serializing_if = "Option::is_none")]
    like: Option<usize>,
}

/// The text of the rows, in stretches of consecutive rows.
#[derive(Serialize)]
struct Stream {
    first: Vec<u64>,
    tokens: Vec<Vec<usize>>,
}

/// Packs the records.
///
/// # Errors
/// If they cannot be written as JSON.
pub fn pack(records: &[LatentRecord], of: &Subject<'_>, suffix: &'static str) -> Result<Atlas> {
    let named: Vec<Vec<String>> = records.iter().map(words::of).collect();
    let mut places = BTreeMap::new();
    for (r, words) in records.iter().zip(&named) {
        places.extend([&r.tokens, &r.promotes, &r.suppresses].into_iter().flatten().map(|(t, _)| (t.as_str(), 0)));
        places.extend(words.iter().map(|word| (word.as_str(), 0)));
        for token in r.contexts.iter().chain(&r.sampled).flat_map(|c| c.tokens.iter()) {
            places.entry(token).or_insert(0);
        }
    }
    let strings: Vec<&str> = places.keys().copied().collect();
    places.values_mut().enumerate().for_each(|(i, place)| *place = i);
    let place = |t: &str| places.get(t).copied().unwrap_or(0);
    let list = |list: &[(String, f64)]| list.iter().map(|(t, v)| (place(t), rounded(*v))).collect::<Vec<_>>();
    let column = |get: fn(&LatentRecord) -> Option<f64>| records.iter().map(|r| get(r).map(rounded)).collect();
    let (reach, stream) = stream(records, place);

    let index = Index {
        run: of.name,
        model: of.model,
        f1: records.iter().filter(|r| r.level == 1).count(),
        f2: records.iter().filter(|r| r.level == 2).count(),
        parent: records.iter().map(|r| r.parent.map_or(-1, i64::from)).collect(),
        fires: records.iter().map(|r| r.fires).collect(),
        density: records.iter().map(|r| rounded(r.density)).collect(),
        gain: column(|r| r.gain),
        containment: column(|r| r.containment),
        lift: column(|r| r.lift),
        coverage: column(|r| r.coverage),
        exclusivity: column(|r| r.exclusivity),
        top: records
            .iter()
            .map(|r| if r.tokens.is_empty() { &r.promotes } else { &r.tokens })
            .map(|known| known.iter().map(|(t, _)| place(t)).collect())
            .collect(),
        words: named.iter().map(|words| words.iter().map(|w| place(w)).collect()).collect(),
        labels: of.labels,
        cut: (reach.0 < usize::MAX).then_some(reach),
        strings,
    };
    let mut lines = Vec::with_capacity(records.len());
    for r in records {
        let (width, bars) = halved(r.histogram.width, &r.histogram.counts);
        lines.push(embed::json(&Line {
            mean: r.mean.map(rounded),
            max: r.max.map(rounded),
            divergence: r.divergence.map(rounded),
            width,
            bars,
            tokens: list(&r.tokens),
            promotes: list(&r.promotes),
            suppresses: list(&r.suppresses),
            neighbours: r.neighbours.iter().map(|(level, j, cos)| (*level, *j, rounded(*cos))).collect(),
            contexts: packed(&r.contexts.iter().collect::<Vec<_>>(), reach, |_| 0),
            // Quarters are lists of their own.
            sampled: packed(&r.sampled.iter().collect::<Vec<_>>(), reach, |c| (4.0 * c.quantile).min(3.0) as usize),
        })?);
    }
    Ok(Atlas { suffix, index: embed::json(&index)?, records: lines.join("\n"), stream: embed::json(&stream)? })
}

/// Returns the contexts, each with the first context of its group that has nearly the same text.
fn packed(contexts: &[&Context], reach: (usize, usize), group: impl Fn(&Context) -> usize) -> Vec<Place> {
    let mut like = vec![None; contexts.len()];
    for wanted in 0..4 {
        let own: Vec<usize> = (0..contexts.len()).filter(|i| group(contexts[*i]) == wanted).collect();
        let firsts = alike::firsts(&own.iter().map(|i| contexts[*i]).collect::<Vec<_>>());
        own.iter().zip(firsts).for_each(|(i, first)| like[*i] = first.map(|k| own[k]));
    }
    let pack = |(c, like): (&&Context, Option<usize>)| {
        let (from, to) = window(c, reach);
        let inside = |at: u16| (from..to).contains(&usize::from(at));
        let own = c.at.iter().zip(&c.values).filter(|(at, _)| inside(**at));
        let kids = c.children.at.iter().zip(&c.children.child).zip(&c.children.values);
        Place {
            row: c.row,
            first: c.row - (c.peak - from) as u64,
            n: to - from,
            q: rounded(c.quantile),
            at: own.clone().map(|(at, _)| at - from as u16).collect(),
            v: own.map(|(_, v)| rounded(f64::from(*v))).collect(),
            kids: kids
                .filter(|((at, _), _)| inside(**at))
                .map(|((at, child), v)| (at - from as u16, *child, rounded(f64::from(*v))))
                .collect(),
            like,
        }
    };
    contexts.iter().zip(like).map(pack).collect()
}

/// Returns the range of offsets of a context's window that are within the reach.
fn window(c: &Context, (before, after): (usize, usize)) -> (usize, usize) {
    (c.peak.saturating_sub(before), c.length.min(c.peak.saturating_add(after).saturating_add(1)))
}

/// Returns the reach of windows and the text of all their rows.
fn stream(records: &[LatentRecord], place: impl Fn(&str) -> usize) -> ((usize, usize), Stream) {
    let contexts = || records.iter().flat_map(|r| r.contexts.iter().chain(&r.sampled)).filter(|c| !c.tokens.is_empty());
    let mut reach = WINDOWS[0];
    let mut rows: Vec<(u64, u64)> = Vec::new();
    for wanted in WINDOWS {
        reach = wanted;
        let span = |c: &Context| {
            let (from, to) = window(c, reach);
            let first = c.row - (c.peak - from) as u64;
            (first, first + (to - from) as u64)
        };
        let mut spans: Vec<(u64, u64)> = contexts().map(span).collect();
        spans.sort_unstable();
        rows.clear();
        for (from, to) in spans {
            match rows.last_mut() {
                Some(last) if last.1 >= from => last.1 = last.1.max(to),
                _ => rows.push((from, to)),
            }
        }
        if rows.iter().map(|(from, to)| (to - from) as usize).sum::<usize>() <= MOST_ROWS {
            break;
        }
    }
    let mut tokens: Vec<Vec<usize>> = rows.iter().map(|(from, to)| vec![0; (to - from) as usize]).collect();
    for c in contexts() {
        let (from, to) = window(c, reach);
        let first = c.row - (c.peak - from) as u64;
        let at = rows.partition_point(|r| r.0 <= first) - 1;
        let offset = (first - rows[at].0) as usize;
        for i in from..to {
            tokens[at][offset + i - from] = place(c.tokens.get(i));
        }
    }
    (reach, Stream { first: rows.iter().map(|r| r.0).collect(), tokens })
}

/// Returns the histogram with at most [`BARS`] bars, adding up pairs of bars.
fn halved(width: f64, counts: &[u64]) -> (f64, Vec<u64>) {
    if counts.len() <= BARS {
        return (width, counts.to_vec());
    }
    halved(2.0 * width, &counts.chunks(2).map(|pair| pair.iter().sum()).collect::<Vec<_>>())
}

/// Rounds to four significant digits, which is what the page shows.
fn rounded(v: f64) -> f64 {
    format!("{v:.3e}").parse().unwrap_or(v)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// A context of a text of one-character tokens that begins at row 100; the latent fires on row `100 + peak`.
    fn context(text: &str, from: usize, to: usize, peak: usize) -> Context {
        Context {
            row: 100 + peak as u64,
            peak: peak - from,
            length: to - from,
            at: vec![(peak - from) as u16],
            values: vec![2.0],
            tokens: text[from..to].chars().map(String::from).collect(),
            ..Context::default()
        }
    }

    #[test]
    fn every_row_of_text_is_in_the_page_once() {
        let text = "abcdefghijklmnopqrstuvwxyz";
        let one = LatentRecord {
            level: 1,
            contexts: vec![context(text, 0, 8, 3), context(text, 5, 12, 9)],
            sampled: vec![context(text, 20, 26, 21)],
            ..LatentRecord::default()
        };
        let of = Subject { name: "run", model: None, labels: &[] };
        let atlas = pack(&[one], &of, "").expect("packed");
        let index: Value = serde_json::from_str(&atlas.index).expect("JSON");
        let stream: Value = serde_json::from_str(&atlas.stream).expect("JSON");
        assert_eq!(stream["first"], json!([100, 120]));
        let shown = |tokens: &Value| -> String {
            let text = |i: &Value| {
                index["strings"][i.as_u64().expect("a place") as usize].as_str().expect("a text").to_owned()
            };
            tokens.as_array().expect("a list").iter().map(text).collect()
        };
        assert_eq!(
            (shown(&stream["tokens"][0]), shown(&stream["tokens"][1])),
            ("abcdefghijkl".into(), "uvwxyz".into())
        );
        let line: Value = serde_json::from_str(&atlas.records).expect("JSON");
        assert_eq!((&line["contexts"][1]["first"], &line["contexts"][1]["n"]), (&json!(105), &json!(7)));
        assert_eq!((&line["contexts"][1]["at"], &line["contexts"][1]["v"]), (&json!([4]), &json!([2.0])));
        assert_eq!((&index["cut"], &line["sampled"][0]["row"]), (&Value::Null, &json!(121)));
    }

    #[test]
    fn a_cut_window_keeps_its_rows_in_place() {
        let text = "abcdefghijklmnopqrstuvwxyz";
        let mut c = context(text, 0, 26, 13);
        (c.at, c.values) = (vec![2, 13, 15], vec![1.0, 2.0, 3.0]);
        c.children = crate::eval::latents::Children { at: vec![2, 14], child: vec![7, 8], values: vec![0.5, 0.25] };
        let place = &packed(&[&c], (4, 3), |_| 0)[0];
        assert_eq!((place.first, place.n, &place.at[..], &place.v[..]), (109, 8, &[4, 6][..], &[2.0, 3.0][..]));
        assert_eq!(place.kids, [(5, 8, 0.25)]);
    }

    #[test]
    fn a_histogram_is_halved_until_it_fits() {
        assert_eq!(halved(0.5, &[1; 64]), (1.0, vec![2; 32]));
        assert_eq!(halved(0.5, &[1; 33]), (1.0, [vec![2; 16], vec![1]].concat()));
        assert_eq!(halved(0.5, &[3, 4]), (0.5, vec![3, 4]));
    }
}
