//! The texts of the rows of a window: a list of strings that is stored as one string with offsets.

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;

/// A list of short texts. Memory: their bytes, and four more for each; a `Vec<String>` needs forty more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Texts {
    joined: String,
    /// The end of each text.
    ends: Vec<u32>,
}

impl Texts {
    /// Returns the number of texts.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns whether there are no texts.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Returns text `i`; empty beyond the last one.
    pub fn get(&self, i: usize) -> &str {
        let Some(end) = self.ends.get(i) else { return "" };
        let start = i.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.joined[start as usize..*end as usize]
    }

    /// Returns every text in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|i| self.get(i))
    }

    /// Appends a text.
    pub fn push(&mut self, text: &str) {
        self.joined.push_str(text);
        self.ends.push(self.joined.len() as u32);
    }

    /// Frees allocated memory that is not needed.
    fn fitted(mut self) -> Self {
        self.joined.shrink_to_fit();
        self.ends.shrink_to_fit();
        self
    }
}

impl<T: AsRef<str>> FromIterator<T> for Texts {
    fn from_iter<I: IntoIterator<Item = T>>(texts: I) -> Self {
        let mut all = Self::default();
        texts.into_iter().for_each(|text| all.push(text.as_ref()));
        all.fitted()
    }
}

impl Serialize for Texts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of texts")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Texts, A::Error> {
                let mut all = Texts::default();
                while let Some(text) = list.next_element::<Cow<'_, str>>()? {
                    all.push(&text);
                }
                Ok(all.fitted())
            }
        }
        deserializer.deserialize_seq(List)
    }
}

#[cfg(test)]
mod tests {
    use super::Texts;

    #[test]
    fn a_list_of_texts_goes_through_json_unchanged() {
        let list = ["", "a", "\u{e9}\n\"", "", " the"];
        let texts: Texts = list.iter().collect();
        assert_eq!((texts.len(), texts.get(2), texts.get(3), texts.get(9)), (5, "\u{e9}\n\"", "", ""));
        assert_eq!(texts.iter().collect::<Vec<_>>(), list);
        let json = serde_json::to_string(&texts).expect("JSON");
        assert_eq!(json, serde_json::to_string(&list).expect("JSON"));
        assert_eq!(serde_json::from_str::<Texts>(&json).expect("texts"), texts);
        assert!(serde_json::from_str::<Texts>("[1]").is_err());
    }
}
