//! The meaning of each metric: the rows of `docs/metrics.md`.

use super::embed;
use std::collections::BTreeMap;

const TEXT: &str = include_str!("../../assets/metrics.md");

/// One row, each cell as HTML.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Doc {
    /// Formula.
    pub formula: String,
    /// Range.
    pub range: String,
    /// Better direction.
    pub better: String,
    /// The null: the value of a model without a real hierarchy or without training.
    pub null: String,
}

/// The rows by key in `eval.json`.
#[derive(Clone, Debug)]
pub struct Docs(BTreeMap<String, Doc>);

impl Docs {
    /// Reads the rows of `docs/metrics.md`.
    pub fn load() -> Self {
        Self::parse(TEXT)
    }

    /// Returns the table rows that begin with a key in backticks.
    pub fn parse(text: &str) -> Self {
        let rows = text.lines().filter_map(|line| {
            let cells = cells(line)?;
            let key = cells.first()?.strip_prefix('`')?.strip_suffix('`')?;
            let cell = |i: usize| cells.get(i).map(|c| inline(c)).unwrap_or_default();
            Some((key.to_owned(), Doc { formula: cell(1), range: cell(2), better: cell(3), null: cell(4) }))
        });
        Self(rows.collect())
    }

    /// Returns the row of a key; if it has none, that of the other level's twin, or of the longest prefix that has one.
    pub fn get(&self, key: &str) -> Option<&Doc> {
        let mut at = key;
        loop {
            let twins = [("level1", "level2"), ("level2", "level1")].map(|(a, b)| at.replace(a, b));
            let found = std::iter::once(at).chain(twins.iter().map(String::as_str)).find_map(|k| self.0.get(k));
            if found.is_some() {
                return found;
            }
            at = &at[..at.rfind('.')?];
        }
    }
}

/// Splits a row of a Markdown table into cells; `\|` is a bar in a cell.
fn cells(line: &str) -> Option<Vec<String>> {
    let line = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    let mut cells = vec![String::new()];
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' if chars.peek() == Some(&'|') => cells.last_mut()?.extend(chars.next()),
            '|' => cells.push(String::new()),
            c => cells.last_mut()?.push(c),
        }
    }
    Some(cells.into_iter().map(|c| c.trim().to_owned()).collect())
}

/// Converts Markdown that has only code spans to HTML.
pub fn inline(markdown: &str) -> String {
    let mut html = String::new();
    for (i, part) in markdown.split('`').enumerate() {
        let part = embed::text(part);
        html.push_str(&if i % 2 == 1 { format!("<code>{part}</code>") } else { part });
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_by_key_by_level_and_by_beginning() {
        let docs =
            Docs::parse("| key | formula |\n|---|---|\n| `a.level2.x` | `P(i \\| j)` < 1 | 0 to 1 | higher | 0 |\n");
        let doc = docs.get("a.level2.x").expect("a row");
        assert_eq!(doc.formula, "<code>P(i | j)</code> &lt; 1");
        assert_eq!((doc.range.as_str(), doc.better.as_str(), doc.null.as_str()), ("0 to 1", "higher", "0"));
        assert_eq!(docs.get("a.level1.x"), Some(doc));
        assert_eq!(docs.get("a.level1.x.null_mean"), Some(doc));
        assert_eq!(docs.get("a.level1"), None);
    }

    #[test]
    fn the_file_explains_what_the_headline_shows() {
        let docs = Docs::load();
        for key in
            ["fidelity.level1.fvu", "level2.l0_mean", "composition.containment", "splice.recovered2", "recovery.mcc"]
        {
            let doc = docs.get(key).unwrap_or_else(|| panic!("no row for {key}"));
            assert!(!doc.formula.is_empty() && !doc.better.is_empty(), "{key}");
        }
    }
}
