//! The macro that declares a setting with a fixed set of words.

/// Declares an enum of settings that is written in lower case, with the spelling of each variant.
macro_rules! choices {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name { $($(#[$vmeta])* #[serde(rename = $text)] $variant),+ }
        impl $name {
            /// Every choice, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            /// The words that stand for them in `config.toml`, in the same order.
            pub const NAMES: &'static [&'static str] = &[$($text),+];
            /// Returns the word that stands for the choice in `config.toml`.
            pub const fn name(self) -> &'static str { match self { $(Self::$variant => $text),+ } }
            /// Returns every other choice, in the order of declaration.
            pub fn others(self) -> impl Iterator<Item = Self> { Self::ALL.iter().copied().filter(move |c| *c != self) }
        }
        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result { f.write_str(self.name()) }
        }
        impl $crate::setting::Entry for $name {
            fn list(
                &self,
                name: &'static str,
                _: Option<core::ops::RangeInclusive<Self>>,
                meaning: &'static str,
                into: &mut alloc::vec::Vec<$crate::setting::Section>,
            ) {
                use $crate::setting::{Allowed, Value};
                if let Some(section) = into.last_mut() {
                    section.push(name, Value::Word(self.name()), Allowed::Choice(Self::NAMES), meaning);
                }
            }
        }
    };
}

pub(crate) use choices;
