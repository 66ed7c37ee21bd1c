//! Dumps that other tools write: fixtures of the real libraries, and files made here by the layouts that they document.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::{TensorView, serialize_to_file};
use safetensors::{Dtype as StDtype, SafeTensors};
use strata_cli::dump::{Dump, Source};
use strata_core::{Dtype, Philox};
use tempfile::TempDir;

use crate::cli::tree;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/dumps").join(name)
}

fn open(path: &Path, layer: Option<usize>) -> anyhow::Result<Dump> {
    Source { layer, ..Source::new(&[path.to_owned()]) }.open()
}

#[track_caller]
fn refused(path: &Path, layer: Option<usize>, parts: &[&str]) {
    let message = format!("{:#}", open(path, layer).expect_err("what cannot be read"));
    assert!(!message.contains('\n'), "{message}");
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

fn all_rows(dump: &Dump) -> Vec<f32> {
    let n = dump.n_rows() as usize;
    let mut out = vec![f32::NAN; n * dump.d()];
    dump.read_range(0, n, &mut out).unwrap();
    // Single reads of the rows in descending order give the same rows.
    let order: Vec<u64> = (0..dump.n_rows()).rev().collect();
    let mut single = vec![f32::NAN; out.len()];
    dump.read_rows(&order, &mut single).unwrap();
    assert!(single.chunks(dump.d()).rev().flatten().eq(&out), "single rows are those of a range");
    out
}

fn bytes<T: bytemuck::Pod>(values: &[T]) -> &[u8] {
    bytemuck::cast_slice(values)
}

/// Compares a dump with the description of its fixture, which the library of the format wrote.
fn check_fixture(case: &str, dump: &Dump, context: Option<usize>) {
    let file = fs::read(golden(case).join("expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&file).unwrap();
    let numbers = |name: &str| expected.tensor(name).unwrap();
    let rows: Vec<f32> = numbers("rows").data().chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    let integers = |name: &str| -> Vec<u64> {
        let tensor = numbers(name);
        let size = tensor.data().len() / tensor.shape()[0];
        let wide = |b: &[u8]| b.iter().rev().fold(0_u64, |v, b| v << 8 | u64::from(*b));
        tensor.data().chunks(size).map(wide).collect()
    };
    assert_eq!([dump.n_rows() as usize, dump.d()], numbers("rows").shape(), "{case}");
    assert!(all_rows(dump) == rows, "{case}: other rows");
    let tokens: Vec<u64> = dump.tokens().unwrap().iter().map(|t| u64::from(*t)).collect();
    assert_eq!(tokens, integers("tokens"), "{case}");
    assert_eq!(dump.sequence_starts().unwrap(), integers("sequence_starts"), "{case}");
    assert_eq!(dump.context(), context, "{case}");
}

#[test]
fn the_arrow_cache_of_saelens_is_read() {
    let dump = open(&golden("dump-saelens-arrow/model"), None).unwrap();
    check_fixture("dump-saelens-arrow", &dump, Some(16));
    assert_eq!((dump.hook(), dump.n_shards(), dump.dtype()), (Some("blocks.6.hook_resid_pre"), 3, Dtype::F32));
}

/// Data sets that are split unevenly have files that hold the schema alone.
#[test]
fn files_without_rows_are_no_reason_to_refuse_an_arrow_cache() {
    let dir = TempDir::new().unwrap();
    copy(&golden("dump-saelens-arrow/model"), dir.path());
    let whole = all_rows(&open(dir.path(), None).unwrap());
    let (state, name) = (dir.path().join("state.json"), "data-00001-of-00003.arrow");
    // The schema, then the mark of the end.
    let file = fs::read(dir.path().join(name)).unwrap();
    let size = i32::from_le_bytes(file[4..8].try_into().unwrap()) as usize;
    fs::write(dir.path().join("none.arrow"), [&file[..8 + size], b"\xff\xff\xff\xff\0\0\0\0"].concat()).unwrap();
    let text = fs::read_to_string(&state).unwrap();
    let entry = format!("\"{name}\"");
    assert!(text.contains(&entry), "{text}");
    fs::write(&state, text.replace(&entry, &format!("\"none.arrow\"}}, {{\"filename\": {entry}"))).unwrap();
    let dump = open(dir.path(), None).unwrap();
    check_fixture("dump-saelens-arrow", &dump, Some(16));
    assert!(all_rows(&dump) == whole && dump.n_shards() == 3, "the file without rows changes nothing");
    fs::write(&state, "{\"_data_files\": [{\"filename\": \"none.arrow\"}]}").unwrap();
    refused(dir.path(), None, &["expected rows, found none"]);
}

#[test]
fn memmap_shards_are_read_from_their_directory_and_from_the_one_above() {
    for path in ["dump-memmap-bf16/model/model.layers.6_out", "dump-memmap-bf16/model"] {
        let dump = open(&golden(path), None).unwrap();
        check_fixture("dump-memmap-bf16", &dump, None);
        assert_eq!((dump.hook(), dump.dtype()), (Some("model.layers.6_out"), Dtype::Bf16));
    }
}

/// A copy of a directory.
fn copy(from: &Path, to: &Path) {
    for name in tree(from).into_keys() {
        if let Some(directory) = name.strip_suffix('/') {
            fs::create_dir_all(to.join(directory)).unwrap();
        } else {
            fs::create_dir_all(to.join(&name).parent().unwrap()).unwrap();
            fs::copy(from.join(&name), to.join(&name)).unwrap();
        }
    }
}

/// Opens a path and reads all of it if that succeeds, so that a panic or an invalid read is found.
fn use_if_open(path: &Path, layer: Option<usize>) {
    match open(path, layer) {
        Ok(dump) => {
            let mut out = vec![0.0; dump.n_rows() as usize * dump.d()];
            let _ = dump.read_range(0, dump.n_rows() as usize, &mut out);
            assert!(dump.tokens().is_none_or(|t| t.len() as u64 == dump.n_rows()), "a token per row");
            let _ = dump.fingerprint();
        }
        Err(e) => assert!(!format!("{e:#}").contains('\n'), "{e:#}"),
    }
}

#[test]
fn damaged_files_of_other_tools_are_errors_or_consistent() {
    for (case, files) in [
        ("dump-saelens-arrow/model", &["data-00002-of-00003.arrow", "state.json"][..]),
        ("dump-memmap-bf16/model", &["tokens.pt", "sequence_ranges.pt", "model.layers.6_out/shard_1.meta"][..]),
    ] {
        let dir = TempDir::new().unwrap();
        copy(&golden(case), dir.path());
        for file in files {
            let path = dir.path().join(file);
            let good = fs::read(&path).unwrap();
            for length in (0..good.len()).step_by(if good.len() > 1000 { 7 } else { 1 }) {
                fs::write(&path, &good[..length]).unwrap();
                let found = open(dir.path(), None);
                assert!(found.is_err() || file.ends_with(".pt"), "{file} cut to {length}");
                use_if_open(dir.path(), None);
            }
            // Only headers are changed: after them are numbers, which may have any bytes.
            for at in 0..good.len().min(1200) {
                for byte in [good[at] ^ 1, good[at] ^ 0x80, 0xff] {
                    let mut bad = good.clone();
                    bad[at] = byte;
                    fs::write(&path, &bad).unwrap();
                    use_if_open(dir.path(), None);
                }
            }
            fs::write(&path, &good).unwrap();
        }
    }
}

#[test]
fn what_is_not_mapped_is_refused_by_name() {
    let dir = TempDir::new().unwrap();
    copy(&golden("dump-saelens-arrow/model"), dir.path());
    let state = dir.path().join("state.json");
    let good = fs::read_to_string(&state).unwrap();
    let shuffled = good.replacen('{', "{\"_indices_data_files\": [{\"filename\": \"indices.arrow\"}],", 1);
    fs::write(&state, shuffled).unwrap();
    refused(dir.path(), None, &["state.json", "shuffled", "flatten_indices"]);
    fs::write(&state, good.replace("data-00000", "../data-00000")).unwrap();
    refused(dir.path(), None, &["state.json", "names of files beside it"]);
    fs::write(&state, &good).unwrap();
    for codec in ["zstd", "lz4"] {
        fs::copy(golden(&format!("arrow-{codec}.arrow")), dir.path().join("data-00001-of-00003.arrow")).unwrap();
        let name = if codec == "lz4" { "LZ4" } else { "zstd" };
        refused(dir.path(), None, &["data-00001-of-00003.arrow", &format!("compressed ({name})")]);
    }
    fs::copy(golden("arrow-f64.arrow"), dir.path().join("data-00001-of-00003.arrow")).unwrap();
    refused(dir.path(), None, &["found f64", "load_from_disk"]);
    fs::copy(golden("arrow-null.arrow"), dir.path().join("data-00001-of-00003.arrow")).unwrap();
    refused(dir.path(), None, &["expected no missing values"]);
}

/// A data set of one Arrow file.
fn dataset(file: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("state.json"), r#"{"_data_files": [{"filename": "data.arrow"}]}"#).unwrap();
    fs::write(dir.path().join("dataset_info.json"), "{}").unwrap();
    fs::copy(golden(file), dir.path().join("data.arrow")).unwrap();
    dir
}

#[test]
fn arrow_lists_of_every_kind_are_read() {
    // Rows 0 to 11 of width 4: entry (i, j) is 10 i + j; see make_arrow.py.
    let rows: Vec<f32> = (0..12).flat_map(|i| (0..4).map(move |j| (10 * i + j) as f32)).collect();
    for (file, starts, context, tokens) in [
        ("arrow-ragged.arrow", Some(&[0, 3, 8][..]), None, true),
        ("arrow-large-f16.arrow", Some(&[0, 4, 8][..]), Some(4), true),
        ("arrow-fixed-sliced.arrow", Some(&[0, 6][..]), Some(6), true),
        ("arrow-rows.arrow", None, None, false),
    ] {
        let dir = dataset(file);
        let dump = open(dir.path(), None).unwrap();
        assert_eq!(all_rows(&dump), rows, "{file}");
        assert_eq!(dump.sequence_starts(), starts, "{file}");
        assert_eq!(dump.context(), context, "{file}");
        let ids: Vec<u32> = (100..112).collect();
        assert_eq!(dump.tokens(), tokens.then_some(&ids[..]), "{file}");
    }
}

#[test]
fn hidden_states_of_vllm_are_read_a_layer_at_a_time() {
    let dir = TempDir::new().unwrap();
    let (layers, d) = (3, 5);
    let mut rng = Philox::new(3, 0);
    let lengths = [4_usize, 1, 7];
    let (mut expected, mut ids) = (vec![Vec::new(); layers], Vec::new());
    for (i, n) in lengths.iter().enumerate() {
        let states: Vec<f32> = (0..n * layers * d).map(|_| rng.normal_f32()).collect();
        let tokens: Vec<i64> = (0..*n as i64).map(|t| 1000 * i as i64 + t).collect();
        for row in states.chunks(layers * d) {
            (0..layers).for_each(|l| expected[l].extend_from_slice(&row[l * d..(l + 1) * d]));
        }
        ids.extend(tokens.iter().map(|t| *t as u32));
        let tensors = [
            ("hidden_states", TensorView::new(StDtype::F32, vec![*n, layers, d], bytes(&states)).unwrap()),
            ("token_ids", TensorView::new(StDtype::I64, vec![*n], bytes(&tokens)).unwrap()),
        ];
        serialize_to_file(tensors, None, &dir.path().join(format!("{i}-request.safetensors"))).unwrap();
    }
    for (layer, rows) in expected.iter().enumerate() {
        let dump = open(dir.path(), Some(layer)).unwrap();
        assert_eq!((dump.n_rows(), dump.d(), dump.n_shards()), (12, 5, 3));
        assert_eq!(&all_rows(&dump), rows);
        assert_eq!(dump.tokens(), Some(&ids[..]));
        assert_eq!(dump.sequence_starts(), Some(&[0, 4, 5][..]));
    }
    refused(dir.path(), None, &["holds 3 layers", "--layer", "the input of block i"]);
    refused(dir.path(), Some(3), &["--layer 3: expected 0 to 2"]);
}

#[test]
fn shards_of_saev_are_read_a_layer_at_a_time() {
    let dir = TempDir::new().unwrap();
    let (layers, tokens, d) = (2, 3, 4);
    let mut rng = Philox::new(4, 0);
    let mut expected = vec![Vec::new(); layers];
    for (shard, examples) in [(0, 5), (1, 2)] {
        let mut file = Vec::new();
        for _ in 0..examples {
            for rows in &mut expected {
                let block: Vec<f32> = (0..tokens * d).map(|_| rng.normal_f32()).collect();
                file.extend_from_slice(bytes(&block));
                rows.extend(block);
            }
        }
        fs::write(dir.path().join(format!("acts{shard:06}.bin")), file).unwrap();
    }
    let meta = |more: &str| {
        let text = format!(
            "{{\"family\":\"dinov2\",\"ckpt\":\"vits14\",\"layers\":[7,11],\"cls_token\":true,{more}\"dtype\":\"float32\"}}"
        );
        fs::write(dir.path().join("metadata.json"), text).unwrap();
    };
    let shards = |examples: usize| {
        let text =
            format!("[{{\"name\":\"acts000000.bin\",\"n_ex\":5}},{{\"name\":\"acts000001.bin\",\"n_ex\":{examples}}}]");
        fs::write(dir.path().join("shards.json"), text).unwrap();
    };
    shards(2);
    for names in [
        "\"d_model\":4,\"patches_per_ex\":2,\"protocol\":\"2.0\",",
        "\"d_model\":4,\"content_tokens_per_example\":2,\"protocol\":\"2.1\",",
        "\"d_vit\":4,\"n_patches_per_img\":2,",
        // A converter may leave the older names beside the new ones, and numbers that are none.
        "\"d_vit\":4,\"d_model\":4,\"n_patches_per_img\":2,\"content_tokens_per_example\":2,\"mean\":NaN,",
    ] {
        meta(names);
        for (layer, rows) in [(7, &expected[0]), (11, &expected[1])] {
            let dump = open(dir.path(), Some(layer)).unwrap();
            assert_eq!(&all_rows(&dump), rows);
            assert_eq!((dump.context(), dump.tokens(), dump.model()), (Some(3), None, Some("vits14")));
            assert_eq!(dump.hook(), Some(format!("blocks.{layer}.hook_resid_post").as_str()));
        }
    }
    refused(dir.path(), None, &["layers [7, 11]", "--layer"]);
    refused(dir.path(), Some(0), &["--layer 0: expected one of [7, 11]"]);
    shards(3);
    refused(dir.path(), Some(7), &["acts000001.bin", "size: expected 3 examples"]);
    meta("\"d_model\":4,\"patches_per_ex\":2,\"content_tokens_per_example\":3,");
    refused(dir.path(), Some(7), &["`patches_per_ex`: expected 3, as `content_tokens_per_example` says, found 2"]);
    fs::write(dir.path().join("metadata.json"), "{}").unwrap();
    refused(dir.path(), Some(7), &["metadata.json", "missing field"]);
    fs::write(dir.path().join("metadata.json"), "{\"layers\": [7]}").unwrap();
    refused(dir.path(), Some(7), &["metadata.json", "`content_tokens_per_example` or `patches_per_ex`", "found none"]);
}

#[test]
fn chunks_of_llamascopium_leave_out_what_is_masked() {
    let dir = TempDir::new().unwrap();
    let hook = dir.path().join("blocks.6.hook_resid_post");
    fs::create_dir(&hook).unwrap();
    let (b, t, d) = (2, 4, 3);
    // Chunk 10 comes after chunk 9.
    let write = |chunk: usize, mask: [u8; 8]| {
        let acts: Vec<f32> = (0..b * t * d).map(|i| (1000 * chunk + i) as f32).collect();
        let tokens: Vec<i64> = (0..(b * t) as i64).map(|i| 100 * chunk as i64 + i).collect();
        let tensors = [
            ("activation", TensorView::new(StDtype::F32, vec![b, t, d], bytes(&acts)).unwrap()),
            ("attention_mask", TensorView::new(StDtype::U8, vec![b, t], &mask).unwrap()),
            ("mask", TensorView::new(StDtype::BOOL, vec![b, t], &mask).unwrap()),
            ("tokens", TensorView::new(StDtype::I64, vec![b, t], bytes(&tokens)).unwrap()),
        ];
        serialize_to_file(tensors, None, &hook.join(format!("chunk-{chunk:08}.safetensors"))).unwrap();
    };
    write(10, [1; 8]);
    write(9, [1; 8]);
    let dump = open(&hook, None).unwrap();
    assert_eq!((dump.n_rows(), dump.context(), dump.hook()), (16, Some(4), Some("blocks.6.hook_resid_post")));
    assert_eq!(dump.tokens().unwrap()[..9], [900, 901, 902, 903, 904, 905, 906, 907, 1000]);
    // The masks leave out BOS of the first sequence and the padding of the second.
    write(9, [0, 1, 1, 1, 1, 1, 0, 0]);
    let dump = open(&hook, None).unwrap();
    assert_eq!((dump.n_rows(), dump.context()), (13, None));
    assert_eq!(dump.sequence_starts(), Some(&[0, 3, 5, 9][..]));
    assert_eq!(dump.tokens().unwrap()[..6], [901, 902, 903, 904, 905, 1000]);
    let rows = all_rows(&dump);
    assert_eq!(rows[..6], [9003.0, 9004.0, 9005.0, 9006.0, 9007.0, 9008.0]);
    assert_eq!(rows[12..18], [9015.0, 9016.0, 9017.0, 10_000.0, 10_001.0, 10_002.0][..]);
    fs::write(hook.join("chunk-00000011.pt"), "").unwrap();
    refused(&hook, None, &["chunk-00000011.pt", "pickle", "save_file"]);
}

#[test]
fn a_layer_is_for_dumps_that_have_several() {
    refused(&golden("dump-saelens-arrow/model"), Some(1), &["--layer", "has one"]);
}
