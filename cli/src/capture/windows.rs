//! Cuts the documents of a corpus into windows of tokens, in bounded memory.

use std::io::Read;

use anyhow::Result;

use crate::corpus::{Corpus, Document};
use crate::lm::{Ids, Lm};

/// How documents become windows.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// Most tokens per window.
    pub context: usize,
    /// The token that every window and every document begins with.
    pub bos: Option<u32>,
    /// A window never spans two documents; the last window of a document may be shorter. Otherwise all windows have the same
    /// length and documents follow each other.
    pub per_document: bool,
    /// Windows of this many tokens or fewer have no row that is kept.
    pub skip_first: usize,
}

/// The documents in iteration.
type Documents<'a> = Box<dyn Iterator<Item = Result<Document<'a>>> + 'a>;

/// The windows of a corpus, in order.
pub struct Windows<'a> {
    lm: &'a Lm,
    cut: Cut,
    documents: Documents<'a>,
    /// What is left of the document at hand, and what errors call it.
    current: Option<(Ids<'a, Box<dyn Read + 'a>>, String)>,
    /// Ids that are in no window yet.
    pending: Vec<u32>,
    /// Tokens of the text so far, with those that are in no window.
    pub n_tokens: u64,
    /// Bytes of the text that they come from.
    pub n_bytes: u64,
    has_ended: bool,
}

impl<'a> Windows<'a> {
    /// Returns the windows of `corpus` for `lm`.
    pub fn new(lm: &'a Lm, corpus: &'a Corpus, cut: Cut) -> Self {
        let (documents, pending) = (corpus.documents(), Vec::new());
        Self { lm, cut, documents, current: None, pending, n_tokens: 0, n_bytes: 0, has_ended: false }
    }

    fn next_window(&mut self) -> Result<Option<Vec<u32>>> {
        loop {
            let own = self.own_bos();
            let step = self.cut.context - own.len();
            if self.pending.len() >= step {
                let rest = self.pending.split_off(step);
                let window = [own, std::mem::replace(&mut self.pending, rest)].concat();
                return Ok(Some(window));
            }
            if self.has_ended {
                return Ok(None);
            }
            if let Some((ids, name)) = &mut self.current {
                let found = ids.next_ids().map_err(|e| match name.as_str() {
                    "" => e,
                    name => e.context(format!("reading {name}")),
                })?;
                if let Some((ids, bytes)) = found {
                    self.n_tokens += ids.len() as u64;
                    self.n_bytes += bytes;
                    self.pending.extend(ids);
                    continue;
                }
                self.current = None;
                if self.cut.per_document
                    && let Some(window) = self.rest()
                {
                    return Ok(Some(window));
                }
            }
            match self.documents.next().transpose()? {
                Some(document) => {
                    self.pending.extend(self.cut.bos);
                    self.current = Some((self.lm.ids_of(document.text), document.name));
                }
                None => self.has_ended = true,
            }
        }
    }

    /// Returns what a window begins with, unless what follows begins with it.
    fn own_bos(&self) -> Vec<u32> {
        self.cut.bos.filter(|bos| self.pending.first() != Some(bos)).into_iter().collect()
    }

    /// Returns the last window of a document, if it has a row that is kept and a token of the text.
    fn rest(&mut self) -> Option<Vec<u32>> {
        let window = [self.own_bos(), std::mem::take(&mut self.pending)].concat();
        let least = self.cut.skip_first.max(usize::from(self.cut.bos.is_some()));
        (window.len() > least).then_some(window)
    }
}

impl Iterator for Windows<'_> {
    type Item = Result<Vec<u32>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_window().transpose()
    }
}
