//! What a reader of models is given (the files, and the choices of the user) and what it returns.

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

/// The files of a model, as the host provides them: those of a directory, or one file and those beside it. Names are
/// relative to the directory, with `/` between the parts; `..` is the directory above.
pub trait Files {
    /// Returns the name of the file, if the user named a file; none if the user named a directory.
    fn named(&self) -> Option<&str>;
    /// Returns the path that the user named, for messages.
    fn path(&self) -> String;
    /// Returns that path with the directories above it, since some formats are recognised by names in it.
    fn whole_path(&self) -> String {
        self.path()
    }
    /// Returns the names of the files and directories in the directory itself, in any order.
    fn list(&self) -> Vec<String>;
    /// Returns whether there is a file `name`.
    fn has(&self, name: &str) -> bool;
    /// Returns the bytes of the file `name`.
    ///
    /// # Errors
    /// The error of the host for a file that it cannot read.
    fn read(&self, name: &str) -> Result<SharedBytes>;
    /// Returns whether the model may keep the bytes, as it should if they are mapped, so that no copy is made.
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

/// Choices of the user, for what the files do not tell.
#[derive(Clone, Copy, Debug, Default)]
pub struct Choices {
    /// The name of the format ([`FORMATS`](super::formats::FORMATS)); none to recognise it.
    pub from: Option<&'static str>,
    /// Rows are multiplied by this before the encoder and reconstructions divided by it: SAELens' factor for
    /// `expected_average_only_in`, which only its list of pretrained models has.
    pub norm_scaling_factor: Option<f32>,
    /// The normalisation of each row, if only SAELens' list of pretrained models tells it.
    pub row_norm: Option<RowNorm>,
    /// Active latents per row, if only the name of a repository tells it.
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
    /// Returns whether the name of a directory above the model, or of its file of weights, passes `test`, in lower case.
    pub fn any_name(&self, test: impl Fn(&str) -> bool) -> bool {
        let path = format!("{}/{}", self.files.whole_path(), self.arrays.file).to_ascii_lowercase();
        path.split(['/', '\\']).any(test)
    }

    /// Returns the settings, which `format` needs, or an error that they are missing.
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
    /// A model of this crate.
    Model(Box<Model>),
    /// A model of one level in the terms of another tool.
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

    /// Applies the choices of the user; returns the model, its origin and the notes.
    pub fn finish(self, choices: &Choices) -> Result<(Model, Origin, Vec<String>)> {
        let mut what = self.what;
        if let Some(row_norm) = choices.row_norm {
            match &mut what {
                What::Flat(flat) => flat.row_norm = row_norm,
                What::Model(_) => {
                    return Err(Error::config("row-norm", "the normalisation of a model of Strata is in its files"));
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
                let why = "the scale of the rows is in the files of this model";
                return Err(Error::config("norm-scaling-factor", why));
            }
        };
        Ok((model, self.origin, self.notes))
    }
}
