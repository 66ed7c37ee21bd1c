//! Escapes foreign text for a terminal: names and messages from files must not move the cursor or change the title.

/// Returns `text` on one line, without control characters: line ends and tabs become `
/// ` and `\t`, others their number, as in `\u{1b}`, and so do the marks that change the direction of writing.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unsafe(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// [`escaped`], but keeps line ends: for texts of this program that have several lines.
pub fn escaped_lines(text: &str) -> String {
    text.split('\n').map(escaped).collect::<Vec<_>>().join("\n")
}

/// Escapes the control characters that JSON allows within strings, U+007F to U+009F, and the marks of direction.
pub fn escaped_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c != '\n' && is_unsafe(c) { out.push_str(&format!("\\u{:04x}", u32::from(c))) } else { out.push(c) }
    }
    out
}

/// Returns whether a character can control a terminal or change the direction of a line.
pub fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
