//! GGUF files against what `transformers` reads from them, on the small files of `tests/golden/make_lm_gguf.py`.

use std::fs;
use std::path::PathBuf;

use safetensors::SafeTensors;
use strata_cli::lm::Lm;
use strata_cli::lm::hook::Hook;

/// The text of the goldens, as the script has it.
const TEXT: &str = "the thing in the hat, then\n  caf\u{e9} \u{1f980} 12 end";

/// As for safetensors: two orders of sums in f32; the quantised weights are multiplied out in the same way.
const BOUND: f64 = 1e-5;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/lm").join(name)
}

fn golden(model: &str, name: &str) -> (Vec<[u8; 4]>, usize) {
    let bytes = fs::read(path(&format!("{model}.safetensors"))).expect("goldens");
    let file = SafeTensors::deserialize(&bytes).expect("goldens");
    let tensor = file.tensor(name).expect("a golden");
    (tensor.data().as_chunks::<4>().0.to_vec(), *tensor.shape().last().expect("a width"))
}

fn ids(model: &str, name: &str) -> Vec<u32> {
    golden(model, name).0.into_iter().map(u32::from_le_bytes).collect()
}

#[test]
fn tokens_activations_and_logits_of_gguf_files_are_those_of_transformers() {
    for model in ["llama-q", "gemma3-q"] {
        let lm = Lm::open(path(&format!("{model}.gguf"))).expect("a model");
        assert_eq!(lm.name(), format!("{model}.gguf"));
        assert_eq!(lm.encode_text(TEXT).expect("ids"), ids(model, "text_ids"), "{model}");
        let tokens = ids(model, "input_ids");
        let hooks = [Hook::resid_post(0), Hook::resid_post(1)];
        let rows = lm.activations(&[&tokens], &hooks).expect("activations");
        let logits = lm.logits(&tokens, 1, tokens.len()).expect("logits");
        for (name, got) in [("block.0", &rows[0]), ("block.1", &rows[1]), ("logits", &logits)] {
            let (want, d) = golden(model, name);
            assert_eq!(got.len(), want.len(), "{model} {name}");
            let want: Vec<f64> = want.into_iter().map(|b| f64::from(f32::from_le_bytes(b))).collect();
            let norm = |row: &mut dyn Iterator<Item = f64>| row.map(|v| v * v).sum::<f64>().sqrt();
            for (g, w) in got.chunks_exact(d).zip(want.chunks_exact(d)) {
                let off = norm(&mut g.iter().zip(w).map(|(g, w)| f64::from(*g) - w)) / norm(&mut w.iter().copied());
                assert!(off < BOUND, "{model} {name}: {off:e} of the norm of a row");
            }
        }
    }
}

#[test]
fn texts_of_tokens_and_special_tokens_are_those_of_the_metadata() {
    for (model, special, bos) in [("llama-q", &[0, 1][..], 1), ("gemma3-q", &[0, 1, 2, 3], 2)] {
        let lm = Lm::open(path(&format!("{model}.gguf"))).expect("a model");
        assert_eq!((lm.special_tokens(), lm.bos().expect("a token")), (special.to_vec(), bos), "{model}");
        let (vocab, ids) = (lm.vocab(), ids(model, "text_ids"));
        let mut texts: Vec<String> = ids.iter().map(|id| vocab[*id as usize].clone()).collect();
        strata_cli::texts::join_characters(&mut texts);
        assert_eq!(texts.concat(), TEXT, "{model}");
    }
}

#[test]
fn damaged_files_are_one_sentence() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("model.gguf");
    let whole = fs::read(path("llama-q.gguf")).expect("a file");
    let why = |bytes: &[u8]| {
        fs::write(&file, bytes).expect("a file");
        // A fault in a later block is found where the block is read.
        let tried = Lm::open(&file).and_then(|lm| lm.read_blocks(Hook::resid_post(1)));
        tried.err().map(|e| format!("{e:#}"))
    };
    for len in (0..whole.len()).step_by(379).chain([whole.len() - 1]) {
        let error = why(&whole[..len]).unwrap_or_else(|| panic!("{len} bytes: expected a fault"));
        assert!(error.contains("model.gguf") && error.lines().count() == 1, "{len} bytes: {error}");
    }
    // Bytes of the header, changed one at a time: a model or a sentence.
    let mut n_refused = 0;
    for at in (0..2000).step_by(7) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        if let Some(error) = why(&bytes) {
            assert!(error.lines().count() == 1, "byte {at}: {error}");
            n_refused += 1;
        }
    }
    assert!(n_refused > 20, "{n_refused} refused: nothing was tested");
    let renamed = |from: &[u8], to: &[u8]| {
        let at = whole.windows(from.len()).position(|w| w == from).expect("a text");
        let mut bytes = whole.clone();
        bytes[at..at + to.len()].copy_from_slice(to);
        why(&bytes).expect("a fault")
    };
    assert!(
        renamed(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0mamba")
            .contains("`general.architecture` must be one of")
    );
    assert!(renamed(b"llama.block_count", b"llama.block_cownt").contains("`llama.block_count`, found nothing"));
    assert!(renamed(b"smollm", b"smelly").contains("`tokenizer.ggml.pre` must be gpt-2"));
    assert!(renamed(b"blk.0.ffn_up", b"blk.0.ffn_op").contains("tensor \"blk.0.ffn_up.weight\" is missing"));
}
