//! Suggestions for mistyped names.

/// Returns the element of `known` that is nearest to `name`, if at most half of its characters differ.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let (distance, near) = known.map(|k| (strsim::damerau_levenshtein(k, name), k)).min()?;
    (distance <= name.chars().count().div_ceil(2)).then_some(near)
}
