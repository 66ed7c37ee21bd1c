//! Input of a reader (the files of a model and the choices of the user) and its output.

use super::arrays::Arrays;
use super::flat::Flat;
use super::json::Settings;
use super::origin::Origin;
use crate::error::{Error, Result};
use crate::model::{Model, SharedBytes};
use crate::row_norm::RowNorm;
use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// The files of one place, given by the host: a directory, or one file and those beside it. Names are relative to the
/// directory, with `/` between the parts; `..` is the directory above.
pub trait Files {
    /// Returns the file that was named itself; none where the directory was named.
    fn named(&self) -> Option<&str>;
    /// Returns the place as it was named, for messages and for words in it that identify a format.
    fn path(&self) -> String;
    /// Returns the names of the files and directories in the directory itself, in any order.
    fn list(&self) -> Vec<String>;
    /// Returns whether there is a file `name`.
    fn has(&self, name: &str) -> bool;
    /// Returns the bytes of the file `name`.
    ///
    /// # Errors
    /// The error of the host for a file that it cannot read.
    fn read(&self, name: &str) -> Result<SharedBytes>;
    /// Returns whether bytes may be held as long as the model lives, which costs nothing for mapped files.
    fn keeps(&self) -> bool {
        false
    }
    /// Returns the arrays and values of the pickle `name`, an archive as `torch.save` writes it.
    ///
    /// # Errors
    /// [`Error::Format`] for a pickle with other content, or from a host that reads no pickles.
    fn pickle(&self, name: &str, bytes: &SharedBytes) -> Result<Arrays> {
        let _ = bytes;
        let why = "is a pickle of PyTorch, which is not read here: make a directory of it with `strata convert`";
        Err(Error::format(0, format!("{name} {why}")))
    }
}

/// The choices of the user where no file decides.
#[derive(Clone, Copy, Debug, Default)]
pub struct Choices {
    /// The name of the format ([`FORMATS`](super::formats::FORMATS)); none for the recognised one.
    pub from: Option<&'static str>,
    /// Rows are multiplied by this before the encoder and reconstructions divided by it: SAELens' factor for
    /// `expected_average_only_in`, which only its list of pretrained models has.
    pub norm_scaling_factor: Option<f32>,
    /// The normalisation of each row, where only SAELens' list says it.
    pub row_norm: Option<RowNorm>,
    /// Active latents per row, where only the name of a repository says it.
    pub k: Option<u64>,
}

/// The files of a model as a reader sees them.
pub(super) struct Look<'a> {
    /// All files.
    pub files: &'a dyn Files,
    /// The arrays of the file of weights.
    pub arrays: &'a Arrays,
    /// The settings, where there is such a file.
    pub settings: Option<Settings>,
    /// The bytes of the file of weights.
    pub bytes: &'a SharedBytes,
    /// The name of the file of settings.
    pub settings_name: Option<&'static str>,
}

impl Look<'_> {
    /// Returns the settings, which this format needs.
    pub fn settings(&self, format: &str) -> Result<&Settings> {
        self.settings.as_ref().ok_or_else(|| {
            let file = &self.arrays.file;
            Error::format(0, format!("{file}: the settings of {format} are missing beside it"))
        })
    }

    /// Returns the scalar `key` at the top level of a file of settings in YAML.
    pub fn yaml(&self, key: &str) -> Option<String> {
        let bytes = self.files.read(self.settings_name?).ok()?;
        let text = core::str::from_utf8((*bytes).as_ref()).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        let value = line.trim().trim_matches(['"', '\'']);
        (!value.is_empty()).then(|| value.to_owned())
    }
}

/// The result of a reader.
pub(super) struct Parsed {
    /// The model.
    pub what: What,
    /// Its origin.
    pub origin: Origin,
    /// Assumptions that no file confirms, for the user.
    pub notes: Vec<String>,
    /// Whether a scale of the rows has already been folded in.
    pub is_scaled: bool,
}

/// A model in one of two forms.
pub(super) enum What {
    /// In the form of this crate.
    Model(Box<Model>),
    /// Of one level, as a file of another tool describes it.
    Flat(Box<Flat>),
}

impl Parsed {
    /// Returns a model of one level.
    pub fn flat(flat: Flat, origin: Origin) -> Self {
        Self { what: What::Flat(Box::new(flat)), origin, notes: Vec::new(), is_scaled: false }
    }

    /// Adds a note.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Marks that the scale of the rows is folded in.
    pub fn scaled(mut self) -> Self {
        self.is_scaled = true;
        self
    }

    /// Returns the model, its origin and the notes.
    pub fn finish(self, choices: &Choices) -> Result<(Model, Origin, Vec<String>)> {
        let mut what = self.what;
        if let Some(row_norm) = choices.row_norm {
            match &mut what {
                What::Flat(flat) => flat.row_norm = row_norm,
                What::Model(_) => {
                    return Err(Error::config("row-norm", "a model of Strata says itself how its rows are normalised"));
                }
            }
        }
        let model = match (what, choices.norm_scaling_factor) {
            (What::Flat(flat), None) => flat.into_model()?,
            (What::Flat(mut flat), Some(factor)) if !self.is_scaled => {
                if !(factor.is_finite() && factor > 0.0) {
                    return Err(Error::config(
                        "norm-scaling-factor",
                        format!("expected a number above 0, found {factor}"),
                    ));
                }
                flat.fold_scale(factor, factor);
                flat.into_model()?
            }
            (What::Model(model), None) => *model,
            _ => {
                let why = "the files of this model hold the scale of the rows themselves";
                return Err(Error::config("norm-scaling-factor", why));
            }
        };
        Ok((model, self.origin, self.notes))
    }
}
