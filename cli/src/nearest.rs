//! The known name that a mistyped one is nearest to.

/// The nearest of `known` to `name`, if no more than half of its characters differ.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let (distance, near) = known.map(|k| (strsim::damerau_levenshtein(k, name), k)).min()?;
    (distance <= name.chars().count().div_ceil(2)).then_some(near)
}
