//! Numbers formatted for people.

/// Formats four significant digits, with thousands grouped and a real minus sign; `undefined` for what is not finite.
pub fn show(v: f64) -> String {
    if !v.is_finite() {
        return "undefined".into();
    }
    let size = v.abs();
    let text = if v.fract() == 0.0 && size < 1e15 {
        grouped(size as u64)
    } else if !(1e-4..1e15).contains(&size) {
        format!("{size:.2e}")
    } else if size >= 1000.0 {
        grouped(size.round() as u64)
    } else {
        let before = if size >= 1.0 { size.log10().floor() as usize + 1 } else { 0 };
        format!("{size:.*}", 4 - before)
    };
    signed(v < 0.0 && text.bytes().any(|b| (b'1'..=b'9').contains(&b)), &text)
}

/// Formats a share in percent.
pub fn percent(v: f64) -> String {
    if !v.is_finite() {
        return "undefined".into();
    }
    let p = v.abs() * 100.0;
    let text = if p == 0.0 || p >= 99.95 {
        format!("{p:.0} %")
    } else if p < 0.1 {
        format!("{} %", show(p))
    } else {
        format!("{p:.1} %")
    };
    signed(v < 0.0, &text)
}

/// Formats a difference, always with its sign.
pub fn difference(v: f64) -> String {
    if v >= 0.000_05 { format!("+{}", fixed(v)) } else { fixed(v) }
}

/// Formats four decimals, as a table of fractions of variance needs.
pub fn fixed(v: f64) -> String {
    decimals(v, 4)
}

/// Formats that many decimals.
pub fn decimals(v: f64, digits: usize) -> String {
    if !v.is_finite() {
        return "–".into();
    }
    let text = format!("{:.digits$}", v.abs());
    signed(v < 0.0 && text.bytes().any(|b| (b'1'..=b'9').contains(&b)), &text)
}

/// Formats a count with its noun, which takes an s.
pub fn count(n: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(n), if n == 1 { "" } else { "s" })
}

fn signed(negative: bool, text: &str) -> String {
    if negative { format!("\u{2212}{text}") } else { text.to_owned() }
}

fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        for (v, text) in [
            (0.0, "0"),
            (-0.0, "0"),
            (1003776.0, "1,003,776"),
            (532113.21, "532,113"),
            (0.174_272, "0.1743"),
            (24.2065, "24.21"),
            (999.96, "1000.0"),
            (-0.5, "\u{2212}0.5000"),
            (1.5e-7, "1.50e-7"),
            (f64::NAN, "undefined"),
        ] {
            assert_eq!(show(v), text);
        }
        for (v, text) in [(0.0, "0 %"), (1.0, "100 %"), (0.9743, "97.4 %"), (0.0001, "0.0100 %")] {
            assert_eq!(percent(v), text);
        }
        assert_eq!((difference(0.00321), difference(-0.1)), ("+0.0032".into(), "\u{2212}0.1000".into()));
        assert_eq!(
            (difference(1e-9), difference(-1e-9), fixed(-1e-9)),
            ("0.0000".into(), "0.0000".into(), "0.0000".into())
        );
        assert_eq!((count(1, "token"), count(2048, "token")), ("1 token".into(), "2,048 tokens".into()));
    }
}
