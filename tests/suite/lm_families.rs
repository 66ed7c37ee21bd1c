//! Every family of language models against `transformers`, on the small random models of `tests/golden/make_lm.py`.

use std::fs;
use std::path::PathBuf;

use safetensors::SafeTensors;
use strata_cli::lm::Lm;
use strata_cli::lm::hook::{Hook, Point};

/// Tokens of a window of the goldens; there are two windows.
const T: usize = 24;

/// The models, and the prefix of the modules of their blocks.
const MODELS: [(&str, &str); 12] = [
    ("llama", "model.layers"),
    ("llama3", "model.layers"),
    ("llama-linear", "model.layers"),
    ("mistral", "model.layers"),
    ("qwen2", "model.layers"),
    ("qwen2-window", "model.layers"),
    ("qwen3", "model.layers"),
    ("gemma2", "model.layers"),
    ("gemma3", "model.layers"),
    ("neox", "gpt_neox.layers"),
    ("neox-serial", "gpt_neox.layers"),
    ("gpt2", "transformer.h"),
];

/// Largest norm of a row's difference as a share of the row's norm. Sums of up to 20 terms in f32 in two orders, through three
/// blocks: each is off by some 1e-7 of its terms, and the largest that was seen is 2e-6.
const BOUND: f64 = 1e-5;

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/lm").join(name)
}

/// The goldens of a model: by name, numbers and their width.
struct Golden(Vec<u8>);

impl Golden {
    fn of(name: &str) -> Self {
        Self(fs::read(folder(name).join("golden.safetensors")).expect("goldens"))
    }

    fn names(&self) -> Vec<String> {
        SafeTensors::deserialize(&self.0).expect("goldens").names().into_iter().map(str::to_owned).collect()
    }

    fn rows(&self, name: &str) -> (Vec<f32>, usize) {
        let file = SafeTensors::deserialize(&self.0).expect("goldens");
        let tensor = file.tensor(name).expect("a golden");
        let numbers = tensor.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        (numbers, tensor.shape()[1])
    }

    fn ids(&self) -> Vec<u32> {
        let file = SafeTensors::deserialize(&self.0).expect("goldens");
        let tensor = file.tensor("input_ids").expect("the ids");
        tensor.data().as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect()
    }
}

/// The largest norm of the difference of a row, as a share of the norm of the wanted row.
fn worst(got: &[f32], want: &[f32], d: usize) -> f64 {
    assert_eq!(got.len(), want.len(), "number of values");
    let norm = |row: &mut dyn Iterator<Item = f64>| row.map(|v| v * v).sum::<f64>().sqrt();
    let off = |(g, w): (&[f32], &[f32])| {
        let difference = norm(&mut g.iter().zip(w).map(|(g, w)| f64::from(*g) - f64::from(*w)));
        difference / norm(&mut w.iter().map(|w| f64::from(*w)))
    };
    got.chunks_exact(d).zip(want.chunks_exact(d)).map(off).fold(0.0, f64::max)
}

#[test]
fn activations_and_logits_of_every_family_are_those_of_transformers() {
    for (name, prefix) in MODELS {
        let (lm, golden) = (Lm::open(folder(name)).expect("a model"), Golden::of(name));
        let ids = golden.ids();
        let windows: Vec<&[u32]> = ids.chunks_exact(T).collect();
        let check = |what: &str, got: &[f32], golden_name: &str| {
            let (want, d) = golden.rows(golden_name);
            let off = worst(got, &want, d);
            eprintln!("{name} {what}: {off:e}");
            assert!(off < BOUND, "{name} {what}: {off:e} of the norm of a row");
        };
        // Every module that was hooked, by its path, all in one pass.
        let paths: Vec<String> = golden.names().into_iter().filter(|n| n.starts_with(prefix)).collect();
        assert!(paths.len() >= 6, "{name}: {paths:?}");
        let hooks: Vec<Hook> = paths.iter().map(|path| lm.hook(path).expect("a hook point")).collect();
        let rows = lm.activations(&windows, &hooks).expect("activations");
        for (path, rows) in paths.iter().zip(&rows) {
            check(path, rows, path);
        }
        let pre = lm.activations(&windows, &[Hook { layer: 0, point: Point::ResidPre }]).expect("the embedding");
        check("the embedding", &pre[0], "embedded");
        check("logits", &lm.logits(&ids, 2, T).expect("logits"), "logits");
        // From the goldens of a block, not from what came before.
        for layer in 0..lm.config().n_layer() {
            let (stream, _) = golden.rows(&format!("{prefix}.{layer}"));
            check("logits from a block", &lm.logits_from(layer, &stream, 2, T).expect("logits"), "logits");
        }
    }
}

#[test]
fn the_points_of_a_block_add_up_to_its_output() {
    for (name, _) in MODELS {
        let lm = Lm::open(folder(name)).expect("a model");
        let ids = Golden::of(name).ids();
        let windows: Vec<&[u32]> = ids.chunks_exact(T).collect();
        let at = |short: &str| {
            let hook = lm.hook(&format!("{short}.1")).expect("a hook point");
            let rows = lm.activations(&windows, &[hook]).expect("activations").swap_remove(0);
            assert_eq!(rows.len(), ids.len() * lm.width(hook), "{name} {hook}: one row per token");
            rows
        };
        let sum = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a + b).collect::<Vec<f32>>();
        let (pre, attention, mlp, post) = (at("resid_pre"), at("attn_out"), at("mlp_out"), at("resid_post"));
        let mid = sum(&pre, &attention);
        assert_eq!(sum(&mid, &mlp), post, "{name}");
        assert!(at("mlp_post").iter().any(|v| *v != 0.0) && at("attn_z").iter().any(|v| *v != 0.0), "{name}");
        match lm.hook("resid_mid.1") {
            Ok(_) => assert_eq!(at("resid_mid"), mid, "{name}"),
            Err(why) => {
                assert!(name == "neox" && why.to_string().contains("both read the stream before the block"), "{why}");
            }
        }
    }
}

#[test]
fn a_pass_with_the_own_activations_put_back_is_the_pass() {
    for name in ["qwen3", "gemma3", "neox", "gpt2"] {
        let lm = Lm::open(folder(name)).expect("a model");
        let ids = Golden::of(name).ids();
        let windows: Vec<&[u32]> = ids.chunks_exact(T).collect();
        let n = lm.config().n_layer();
        let want = lm.resid_post(&ids, 2, T, n - 1).expect("the last stream");
        for short in [
            "resid_pre",
            "attn_in",
            "attn_z",
            "attn_raw",
            "attn_out",
            "mlp_in",
            "mlp_post",
            "mlp_raw",
            "mlp_out",
            "resid_post",
        ] {
            let hook = lm.hook(&format!("{short}.0")).expect("a hook point");
            let pre = Hook { layer: 0, point: Point::ResidPre };
            let rows = lm.activations(&windows, &[hook, pre]).expect("activations");
            assert_eq!(lm.last_stream(hook, &rows[1], &rows[0], &[T; 2]).expect("a stream"), want, "{name} {hook}");
            // And other rows make another stream.
            let zeros = vec![0.0; rows[0].len()];
            assert_ne!(lm.last_stream(hook, &rows[1], &zeros, &[T; 2]).expect("a stream"), want, "{name} {hook}");
        }
    }
}

#[test]
fn hook_points_have_the_names_that_people_use() {
    let lm = Lm::open(folder("gemma3")).expect("a model");
    for (name, canonical) in [
        ("blocks.1.hook_resid_post", "blocks.1.hook_resid_post"),
        ("resid_post.2", "blocks.2.hook_resid_post"),
        ("resid_post_layer_0", "blocks.0.hook_resid_post"),
        ("mlp_post.1", "blocks.1.mlp.hook_post"),
        ("blocks.1.hook_mlp_out", "blocks.1.hook_mlp_out"),
        ("model.layers.1", "blocks.1.hook_resid_post"),
        ("model.layers.1.mlp", "blocks.1.mlp.hook_out"),
        ("model.layers.1.post_feedforward_layernorm", "blocks.1.hook_mlp_out"),
    ] {
        assert_eq!(lm.hook(name).expect("a hook point").to_string(), canonical, "{name}");
    }
    let why = |name: &str| lm.hook(name).expect_err("no hook point").to_string();
    assert_eq!(why("resid_post.3"), "the layer must be from 0 to 2 in gemma3, found 3");
    for name in ["blocks.1.hook_q", "blocks..hook_resid_post", "resid_post.+1", "transformer.h.1", "", "blocks.1"] {
        assert!(why(name).starts_with(&format!("hook point `{name}`: expected blocks.L.POINT")), "{}", why(name));
        assert!(why(name).contains("model.layers.L.mlp"), "{}", why(name));
    }
}

#[test]
fn windows_of_different_lengths_are_computed_as_if_alone() {
    let lm = Lm::open(folder("gemma2")).expect("a model");
    let ids = Golden::of("gemma2").ids();
    let windows = [&ids[..T], &ids[3..10], &ids[T..2 * T], &ids[5..6]];
    let hooks = [Hook::resid_post(2), Hook { layer: 0, point: Point::AttnZ }];
    let all = lm.activations(&windows, &hooks).expect("activations");
    let alone = |hook: usize| -> Vec<f32> {
        windows.iter().flat_map(|w| lm.activations(&[*w], &hooks).expect("activations").swap_remove(hook)).collect()
    };
    assert_eq!((&all[0], &all[1]), (&alone(0), &alone(1)));
}

#[test]
fn shards_are_read_by_their_index() {
    let dir = tempfile::tempdir().expect("a directory");
    for entry in fs::read_dir(folder("llama3")).expect("a model") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), dir.path().join(entry.file_name())).expect("a copy");
    }
    let why = || format!("{:#}", Lm::open(dir.path()).err().expect("no model"));
    fs::remove_file(dir.path().join("model-00002-of-00002.safetensors")).expect("a shard");
    assert!(why().contains("model-00002-of-00002.safetensors"), "{}", why());
    let index = dir.path().join("model.safetensors.index.json");
    for (text, expected) in [
        (r#"{"weight_map": {"a": "../b"}}"#, "tensor \"a\": expected the name of a file beside it, found \"../b\""),
        (r#"{"weight_map": {}}"#, "expected files of tensors in \"weight_map\", found none"),
        ("{}", "expected an object \"weight_map\""),
    ] {
        fs::write(&index, text).expect("an index");
        assert!(why().contains(expected), "{}", why());
    }
}

#[test]
fn a_tensor_that_a_family_does_not_know_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    for file in ["config.json", "model.safetensors", "meta.json"] {
        fs::copy(folder("qwen3").join(file), dir.path().join(file)).expect("a copy");
    }
    // The weights of Qwen 3 as those of a model without norms of queries and keys would silently be another model.
    let weights = fs::read(dir.path().join("model.safetensors")).expect("weights");
    let bytes: Vec<u8> = weights.windows(6).enumerate().fold(weights.clone(), |mut all, (i, w)| {
        if w == b"q_norm" {
            all[i] = b'z';
        }
        all
    });
    fs::write(dir.path().join("model.safetensors"), bytes).expect("weights");
    let why = format!("{:#}", Lm::open(dir.path()).err().expect("no model"));
    assert!(why.contains("_norm.weight\" has no place in a model of this family"), "{why}");
}
