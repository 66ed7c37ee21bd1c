//! `strata export --format gguf-cvector`: a whole GGUF file with the sum of decoder directions.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use strata_core::format::weights::read_model;
use strata_core::{Compute, Encoder, Isa, Par};

use super::cli::{D, args, assert_no_leftovers, strata, trained};

/// What a GGUF file of texts, whole numbers and f32 tensors says.
#[derive(Debug, Default, PartialEq)]
struct Gguf {
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, (Vec<u64>, Vec<f32>)>,
}

/// A reader by the specification alone: it takes bytes from the front.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (head, rest) = self.0.split_first_chunk().expect("more bytes");
        self.0 = rest;
        *head
    }
    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }
    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
    fn text(&mut self) -> String {
        let n = self.u64() as usize;
        let (head, rest) = self.0.split_at(n);
        self.0 = rest;
        String::from_utf8(head.to_vec()).expect("a text")
    }
}

fn read(path: &Path) -> Gguf {
    let bytes = fs::read(path).expect("a file");
    let mut b = Bytes(&bytes);
    assert_eq!((&b.take::<4>(), b.u32()), (b"GGUF", 3), "magic and version");
    let (tensors, pairs) = (b.u64(), b.u64());
    let mut out = Gguf::default();
    for _ in 0..pairs {
        let key = b.text();
        let value = match b.u32() {
            4 => b.u32().to_string(),
            8 => b.text(),
            other => panic!("a value of type {other}"),
        };
        assert!(out.metadata.insert(key, value).is_none(), "each key once");
    }
    let about: Vec<(String, Vec<u64>, u64)> = (0..tensors)
        .map(|_| {
            let name = b.text();
            let n_dims = b.u32();
            let dims = (0..n_dims).map(|_| b.u64()).collect();
            assert_eq!(b.u32(), 0, "f32");
            (name, dims, b.u64())
        })
        .collect();
    let data = (bytes.len() - b.0.len()).next_multiple_of(32);
    for (name, dims, offset) in about {
        assert_eq!(offset % 32, 0, "an aligned tensor");
        let n: u64 = dims.iter().product();
        let from = data + offset as usize;
        let numbers = bytes[from..from + 4 * n as usize].as_chunks::<4>().0;
        out.tensors.insert(name, (dims, numbers.iter().map(|x| f32::from_le_bytes(*x)).collect()));
    }
    out
}

#[test]
fn a_control_vector_is_the_sum_of_decoder_directions() {
    let (dir, _, run) = trained(&[]);
    let out = dir.path().join("vector.gguf");
    let all = |more: &[&str]| {
        let mut all = args!["export", run, "--format", "gguf-cvector", "--out", out, "--json"];
        all.extend(more.iter().map(Into::into));
        strata(&all)
    };
    let report = all(&["--add", "1:3+4", "--add", "2:7-0.5", "--add", "1:3+1e0", "--hook", "blocks.5.hook_resid_post"])
        .ok()
        .json();
    assert_eq!((report["block"].as_u64(), report["d"].as_u64()), (Some(5), Some(D as u64)), "{report}");

    let file = read(&out);
    assert_eq!(file.metadata["general.architecture"], "controlvector");
    assert_eq!(file.metadata["controlvector.layer_count"], "1");
    assert_eq!(file.tensors.keys().collect::<Vec<_>>(), ["direction.5"]);
    let (dims, found) = &file.tensors["direction.5"];
    assert_eq!(dims, &[D as u64]);
    let bytes = |name: &str| fs::read(run.join("sae").join(name)).expect("a file of the run");
    let (model, _) = read_model(&bytes("cfg.json"), &bytes("sae_weights.safetensors")).expect("a model");
    let encoder = Encoder::new(Arc::new(model), Compute::new(Isa::detect(), Par::Seq)).expect("a model");
    let [parent, child] = [(1, 3), (2, 7)].map(|(level, latent)| encoder.decoder_row(level, latent).expect("a latent"));
    let mut squares = 0.0;
    for (j, found) in found.iter().enumerate() {
        let expected = 5.0 * f64::from(parent[j]) - 0.5 * f64::from(child[j]);
        assert!((f64::from(*found) - expected).abs() < 1e-5, "{j}: {found} is not {expected}");
        squares += expected * expected;
    }
    assert!((report["norm"].as_f64().expect("a length") - squares.sqrt()).abs() < 1e-4, "{report}");

    // A hook point before a block is the one after the block below; the model has its name, for people.
    all(&["--add", "1:0+1", "--hook", "blocks.5.hook_resid_pre", "--model-id", "gpt"]).ok();
    let file = read(&out);
    assert_eq!(file.tensors.keys().collect::<Vec<_>>(), ["direction.4"]);
    assert_eq!(file.metadata["controlvector.model_hint"], "gpt");
    assert_no_leftovers(dir.path());
}

#[test]
fn what_is_no_control_vector_is_refused() {
    let (dir, dump, run) = trained(&[]);
    let out = dir.path().join("vector.gguf");
    let all = |more: &[&str]| {
        let mut all = args!["export", run, "--format", "gguf-cvector", "--out", out];
        all.extend(more.iter().map(Into::into));
        strata(&all)
    };
    let block = ["--hook", "blocks.5.hook_resid_post"];
    all(&["--hook", "blocks.5.hook_resid_post"]).fails(&["--add", "expected at least one latent", "1:109+6"]);
    all(&["--add", "1:3+4"]).fails(&["does not say its hook point", "--hook"]);
    all(&["--add", "1:3+4", "--hook", "blocks.0.hook_resid_post"]).fails(&["no control vector for block 0"]);
    all(&["--add", "1:3+4", "--hook", "blocks.5.hook_mlp_out"])
        .fails(&["blocks.5.hook_mlp_out", "residual stream after a block"]);
    all(&["--add", "1:99999+4", block[0], block[1]]).fails(&["99999"]);
    all(&["--add", "1:3+4", block[0], block[1], "--dump", dump.to_str().expect("a path")]).fails(&["--dump"]);
    for wrong in ["3:3+4", "1:3", "1:x+4", "1:3+x", "1:3+inf"] {
        let ran =
            strata(&args!["export", run, "--format", "gguf-cvector", "--out", out, "--add", wrong, block[0], block[1]]);
        // A wrong command line, as clap finds it.
        assert!(ran.code == 2 && ran.err.contains(wrong), "{}", ran.err);
        assert!(ran.err.contains("expected a latent and a strength"), "{}", ran.err);
    }
    let other = strata(&args!["export", run, "--dump", dump, "--format", "delphi", "--out", out, "--add", "1:3+4"]);
    other.fails(&["--add", "gguf-cvector"]);
    assert!(!out.exists(), "no file where there was an error");
}
