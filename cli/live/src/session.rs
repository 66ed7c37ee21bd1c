//! What a page keeps between calls: the models, the text that was read with its codes, and the texts that are being written.

use super::gpt::{Gpt, Past, softmax};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use strata_core::format::weights::read_model;
use strata_core::model::{Edit, Scratch};
use strata_core::{Compute, Encoder, Isa, Par, Philox};

/// The codes of rows, row after row.
#[derive(Default)]
pub struct Found {
    /// The end of each row.
    pub ends: Vec<u32>,
    /// Latents, ascending within a row.
    pub index: Vec<u32>,
    /// Their activations.
    pub value: Vec<f32>,
}

impl Found {
    fn truncate(&mut self, n: usize) {
        self.ends.truncate(n);
        let end = self.ends.last().map_or(0, |end| *end as usize);
        self.index.truncate(end);
        self.value.truncate(end);
    }
}

/// A text that is being written.
#[derive(Default)]
struct Writer {
    past: Past,
    /// All tokens: those of the prompt, and those that were written.
    tokens: Vec<u32>,
    logits: Vec<f32>,
    edits: Vec<Edit>,
    temperature: f32,
    rng: Option<Philox>,
}

/// The language model, and the block after which the encoder reads its residual stream.
struct Language {
    gpt: Gpt,
    layer: usize,
}

/// The state of a page.
pub struct Session {
    encoder: Encoder,
    scratch: Scratch,
    language: Option<Language>,
    /// The text that was read.
    tokens: Vec<u32>,
    past: Past,
    /// The codes of its rows at both levels.
    pub found: [Found; 2],
    /// Of each row, the share of its squared norm that both levels do not explain.
    pub missed: Vec<f32>,
    writers: [Writer; 2],
}

impl Session {
    /// Opens the model of a run from the bytes of its two files.
    ///
    /// # Errors
    /// One sentence.
    pub fn new(cfg: &[u8], weights: &[u8]) -> Result<Self, String> {
        let (model, _) = read_model(cfg, weights).map_err(|e| e.to_string())?;
        let scratch = Scratch::for_rows(&model.arch, 1);
        let encoder = Encoder::new(Arc::new(model), Compute::new(Isa::baseline(), Par::Seq));
        Ok(Self {
            encoder: encoder.map_err(|e| e.to_string())?,
            scratch,
            language: None,
            tokens: Vec::new(),
            past: Past::default(),
            found: Default::default(),
            missed: Vec::new(),
            writers: Default::default(),
        })
    }

    /// Adds the language model whose residual stream after block `layer` the encoder reads.
    ///
    /// # Errors
    /// One sentence if they do not fit each other.
    pub fn set_language(&mut self, gpt: Gpt, layer: usize) -> Result<(), String> {
        let d = self.encoder.model().arch.d;
        if gpt.width() != d || layer >= gpt.n_layer() {
            return Err(format!(
                "the language model: expected rows of {d} numbers after block {layer}, found {} blocks of width {}",
                gpt.n_layer(),
                gpt.width()
            ));
        }
        self.language = Some(Language { gpt, layer });
        Ok(())
    }

    fn language(&self) -> Result<&Language, String> {
        self.language.as_ref().ok_or_else(|| "this page has no language model".into())
    }

    fn check(&self, tokens: &[u32]) -> Result<(), String> {
        let n = self.language()?.gpt.n_tokens();
        match tokens.iter().find(|token| **token as usize >= n) {
            Some(token) => Err(format!("expected tokens below {n}, found {token}")),
            None => Ok(()),
        }
    }

    /// Reads a text, in windows of the whole context like `strata capture`, and encodes the row of each token. What is unchanged
    /// since the last call is not computed again.
    ///
    /// # Errors
    /// One sentence.
    pub fn read(&mut self, tokens: &[u32]) -> Result<(), String> {
        self.check(tokens)?;
        let (context, layer, d) = {
            let Language { gpt, layer } = self.language()?;
            (gpt.context(), *layer, gpt.width())
        };
        let same = self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        // The window that the past is of, and the one in which the first change lies.
        let (of_past, of_change) = (self.tokens.len().saturating_sub(1) / context, same / context);
        let from = if of_past == of_change && self.past.n() > 0 {
            self.past.truncate(same - of_change * context, d);
            same
        } else {
            self.past.truncate(0, d);
            of_change * context
        };
        self.tokens.truncate(from);
        self.found.iter_mut().for_each(|found| found.truncate(from));
        self.missed.truncate(from);
        for &token in &tokens[from..] {
            if self.past.n() == context {
                self.past.truncate(0, d);
            }
            let mut row = Vec::new();
            let Some(language) = &self.language else { break };
            let see = |at: usize, h: &mut [f32]| {
                if at == layer {
                    row = h.to_vec();
                }
            };
            language.gpt.step(&mut self.past, token, see);
            self.encode(&row)?;
            self.tokens.push(token);
        }
        Ok(())
    }

    /// Forgets the text, and encodes rows of the width of the model.
    ///
    /// # Errors
    /// One sentence.
    pub fn rows(&mut self, x: &[f32]) -> Result<(), String> {
        let d = self.encoder.model().arch.d;
        if !x.len().is_multiple_of(d) {
            return Err(format!("expected rows of {d} numbers, found {} numbers", x.len()));
        }
        self.tokens.clear();
        self.past.truncate(0, d);
        self.found.iter_mut().for_each(|found| found.truncate(0));
        self.missed.clear();
        x.chunks_exact(d).try_for_each(|row| self.encode(row))
    }

    fn encode(&mut self, row: &[f32]) -> Result<(), String> {
        self.encoder.encode_block(row, &mut self.scratch).map_err(|e| e.to_string())?;
        let codes = self.scratch.codes();
        for (found, codes) in self.found.iter_mut().zip(codes) {
            found.index.extend_from_slice(&codes.index);
            found.value.extend_from_slice(&codes.value);
            found.ends.push(found.index.len() as u32);
        }
        let d_out = self.encoder.model().arch.d_out();
        let [mut one, mut two] = [alloc::vec![0.0; d_out], alloc::vec![0.0; d_out]];
        self.encoder.decode_row(codes[0].row(0), codes[1].row(0), &mut one, &mut two);
        self.encoder.finish_row(row, &mut one, &mut two);
        let squares = |x: &mut dyn Iterator<Item = f32>| x.map(|x| x * x).sum::<f32>();
        let (error, size) = (squares(&mut row.iter().zip(&two).map(|(x, y)| x - y)), squares(&mut row.iter().copied()));
        self.missed.push(if d_out == row.len() && size > 0.0 { error / size } else { f32::NAN });
        Ok(())
    }

    /// Begins to write after `prompt`, with `edits` of every row that is read from then on, those of the prompt included.
    ///
    /// # Errors
    /// One sentence.
    pub fn begin(
        &mut self,
        which: usize,
        prompt: &[u32],
        edits: Vec<Edit>,
        temperature: f32,
        seed: u64,
    ) -> Result<(), String> {
        self.check(prompt)?;
        for edit in &edits {
            self.encoder.decoder_row(edit.level, edit.latent).map_err(|e| e.to_string())?;
        }
        let room = self.language()?.gpt.context() / 2;
        let mut writer = Writer { edits, temperature, rng: Some(Philox::new(seed, 0)), ..Writer::default() };
        let prompt = &prompt[prompt.len().saturating_sub(room)..];
        for &token in if prompt.is_empty() { &[0][..] } else { prompt } {
            self.feed(&mut writer, token)?;
        }
        self.writers[which] = writer;
        Ok(())
    }

    /// Writes one more token.
    ///
    /// # Errors
    /// One sentence.
    pub fn next(&mut self, which: usize) -> Result<u32, String> {
        let mut writer = core::mem::take(&mut self.writers[which]);
        let Some(rng) = &mut writer.rng else { return Err("nothing is being written".into()) };
        // The same number for both texts, so that they differ by their edits alone.
        let token = pick(&writer.logits, writer.temperature, rng.uniform_f32());
        let context = self.language()?.gpt.context();
        if writer.past.n() == context {
            // A full window: its second half is read again, as the beginning of the next one.
            writer.past = Past::default();
            let kept = writer.tokens.split_off(writer.tokens.len() - context / 2);
            for token in kept {
                self.feed(&mut writer, token)?;
            }
        }
        self.feed(&mut writer, token)?;
        self.writers[which] = writer;
        Ok(token)
    }

    fn feed(&self, writer: &mut Writer, token: u32) -> Result<(), String> {
        let Language { gpt, layer } = self.language()?;
        let mut outcome = Ok(());
        let (encoder, edits) = (&self.encoder, &writer.edits);
        writer.logits = gpt.step(&mut writer.past, token, |at, h| {
            if at == *layer && outcome.is_ok() {
                outcome = encoder.steer_row(edits.iter().copied(), None, h);
            }
        });
        writer.tokens.push(token);
        outcome.map_err(|e| e.to_string())
    }
}

/// Draws a token from the softmax of `logits / temperature`, by a uniform number; at a temperature of 0, the likeliest.
fn pick(logits: &[f32], temperature: f32, uniform: f32) -> u32 {
    let mut weights = logits.to_vec();
    if temperature <= 0.0 {
        let best = |best: usize, i: usize| if logits[i] > logits[best] { i } else { best };
        return (1..logits.len()).fold(0, best) as u32;
    }
    weights.iter_mut().for_each(|w| *w /= temperature);
    softmax(&mut weights);
    let mut below = 0.0;
    let found = weights.iter().position(|w| {
        below += w;
        uniform < below
    });
    found.unwrap_or(logits.len() - 1) as u32
}
