//! The parts that all pages share.

use super::{embed, script};
use anyhow::Result;

const CSS: &str = include_str!("../../templates/report.css");

/// The title of a page, its style, its scripts, and the data of its plots.
pub struct Frame {
    /// The title.
    pub title: String,
    /// The style sheet.
    pub css: &'static str,
    /// The script.
    pub js: String,
    /// The script of plotly.
    pub plotly: String,
    /// The plots, as JSON.
    pub plots: String,
    /// Whether the page may compile WebAssembly; its data are packed then.
    pub computes: bool,
}

impl Frame {
    /// Returns the frame of a page with these plots.
    ///
    /// # Errors
    /// If the script of plotly is missing.
    pub fn new(title: String, plots: String) -> Result<Self> {
        Ok(Self { title, css: CSS, js: script::joined(false), plotly: embed::plotly_script()?, plots, computes: false })
    }

    /// Returns the frame of a page that computes, whose data are [packed](embed::packed).
    pub fn computing(self) -> Self {
        let (plots, plotly) = (embed::packed(self.plots), embed::packed(self.plotly));
        Self { js: script::joined(true), plots, plotly, computes: true, ..self }
    }
}
