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
            /// Returns the word that stands for the choice in `config.toml`.
            pub const fn name(self) -> &'static str { match self { $(Self::$variant => $text),+ } }
            /// Returns every other choice, in the order of declaration.
            pub fn others(self) -> impl Iterator<Item = Self> { Self::ALL.iter().copied().filter(move |c| *c != self) }
        }
        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result { f.write_str(self.name()) }
        }
    };
}

pub(crate) use choices;
