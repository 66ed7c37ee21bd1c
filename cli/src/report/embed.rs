//! Data and scripts inside of HTML.

use anyhow::{Context, Result};
use miniz_oxide::deflate::compress_to_vec_zlib;
use plotly::Plot;
use serde::Serialize;

/// Serialises JSON for a `<script>`: nothing in it can end the element, open a comment, or break a line.
///
/// # Errors
/// If `value` cannot be written as JSON.
pub fn json(value: &impl Serialize) -> Result<String> {
    Ok(escape(&serde_json::to_string(value).context("writing the data of the report")?))
}

/// Deflates data of a page, which `templates/report/unpack.js` unpacks, and writes them in base64. A third is lost to base64, so
/// that this is for data of which most is won.
pub fn packed(data: impl AsRef<[u8]>) -> String {
    base64::encode(compress_to_vec_zlib(data.as_ref(), 9))
}

/// Escapes characters that mean something in HTML or JavaScript. They occur only within strings of JSON, where an escape is
/// equivalent.
pub fn escape(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' => text.push_str("\\u003c"),
            '>' => text.push_str("\\u003e"),
            '&' => text.push_str("\\u0026"),
            '\u{2028}' => text.push_str("\\u2028"),
            '\u{2029}' => text.push_str("\\u2029"),
            c => text.push(c),
        }
    }
    text
}

/// Escapes text for HTML, in or out of quotes.
pub fn text(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '&' => html.push_str("&amp;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            c => html.push(c),
        }
    }
    html
}

/// Returns the script of plotly, which its crate provides together with another script that no chart here uses.
///
/// # Errors
/// If the crate no longer provides it in this form.
pub fn plotly_script() -> Result<String> {
    let sources = Plot::offline_js_sources();
    let from = sources.find('>').context("expected the script of plotly in its crate")? + 1;
    let to = sources.find("</script").context("expected the end of plotly's script in its crate")?;
    Ok(sources[from..to].to_owned())
}
