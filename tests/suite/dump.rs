use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use strata_cli::dump::{Dump, DumpSpec, DumpWriter, RawSpec};
use strata_cli::files::{io_error, write_atomic};
use strata_core::format::dump::{Manifest, TensorTable};
use strata_core::format::npy::NpyHeader;
use strata_core::{Dtype, Philox};
use tempfile::TempDir;

const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::Bf16];

/// Values that every type holds exactly.
pub fn values(n: usize, d: usize) -> Vec<f32> {
    let mut rng = Philox::new(1, 0);
    (0..n * d).map(|_| (rng.below(255) as f32 - 127.0) / 32.0).collect()
}

pub fn write(path: &Path, spec: DumpSpec, rows: &[f32], tokens: Option<&[u32]>) {
    let mut writer = DumpWriter::create(path, spec).unwrap();
    writer.append(rows, tokens).unwrap();
    writer.finish().unwrap();
}

pub fn open(path: &Path) -> anyhow::Result<Dump> {
    Dump::open(&[path.to_owned()], None)
}

fn all_rows(dump: &Dump) -> Vec<f32> {
    let n = dump.n_rows() as usize;
    let mut out = vec![f32::NAN; n * dump.d()];
    dump.read_range(0, n, &mut out).unwrap();
    out
}

/// Returns the message of an error, which has to be one line.
fn why(result: anyhow::Result<impl Sized>) -> String {
    let message = format!("{:#}", result.err().expect("an error"));
    assert!(!message.contains('\n'), "{message}");
    message
}

fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

fn npy(path: &Path, dtype: Dtype, rows: &[f32], d: usize) -> PathBuf {
    let mut bytes = NpyHeader::bytes(dtype, rows.len() / d, d).unwrap();
    dtype.narrow(rows, &mut bytes);
    fs::write(path, bytes).unwrap();
    path.to_owned()
}

#[test]
fn rows_and_all_that_is_said_of_them_come_back() {
    let dir = TempDir::new().unwrap();
    let (n, d) = (23, 7);
    let rows = values(n, d);
    let tokens: Vec<u32> = (0..n as u32).map(|i| i % 3).collect();
    let vocab: Vec<String> = ["a", "\u{00e9} \"\n", ""].map(String::from).to_vec();
    for dtype in DTYPES {
        let path = dir.path().join(dtype.name());
        let spec = DumpSpec {
            model: Some("m".into()),
            hook: Some("blocks.3".into()),
            context: Some(10),
            vocab: Some(vocab.clone()),
            ..DumpSpec::new(d, dtype)
        };
        write(&path, spec, &rows, Some(&tokens));
        let dump = open(&path).unwrap();
        assert_eq!((dump.n_rows(), dump.d(), dump.dtype(), dump.name()), (n as u64, d, dtype, dtype.name()));
        assert_eq!(all_rows(&dump), rows);
        assert_eq!(dump.tokens(), Some(&tokens[..]));
        assert_eq!(dump.sequence_starts(), Some(&[0, 10, 20][..]));
        assert_eq!(dump.vocab(), Some(&vocab[..]));
        assert_eq!((dump.model(), dump.hook(), dump.context()), (Some("m"), Some("blocks.3"), Some(10)));
        let norms = rows.chunks(d).map(|r| r.iter().map(|v| f64::from(v * v)).sum::<f64>().sqrt());
        let mean_norm = norms.sum::<f64>() / n as f64;
        assert!((dump.mean_norm().unwrap() - mean_norm).abs() < 1e-9);
        for (j, &mean) in dump.mean().unwrap().iter().enumerate() {
            let expected = rows.chunks(d).map(|r| f64::from(r[j])).sum::<f64>() / n as f64;
            assert!((f64::from(mean) - expected).abs() < 1e-6);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().filter(|e| e.as_ref().unwrap().path() == path).count(), 1);
        // The safetensors library reads the files.
        let bytes = fs::read(path.join("tokens.safetensors")).unwrap();
        safetensors::SafeTensors::deserialize(&bytes).unwrap().tensor("tokens").unwrap();
        let bytes = fs::read(path.join("acts-00000.safetensors")).unwrap();
        let shard = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(shard.tensor("activations").unwrap().shape(), [n, d]);
    }
}

#[test]
fn stored_rows_are_rounded_once() {
    let dir = TempDir::new().unwrap();
    let mut rng = Philox::new(3, 0);
    let rows: Vec<f32> = (0..300).map(|_| rng.normal_f32() * 10.0).collect();
    for (dtype, ulp) in [(Dtype::F32, 0.0), (Dtype::F16, 1.0 / 2048.0), (Dtype::Bf16, 1.0 / 256.0)] {
        let path = dir.path().join(dtype.name());
        write(&path, DumpSpec::new(3, dtype), &rows, None);
        for (a, b) in all_rows(&open(&path).unwrap()).iter().zip(&rows) {
            assert!((a - b).abs() <= ulp * b.abs(), "{a} for {b} in {dtype}");
        }
    }
}

#[test]
fn many_shards_equal_one_shard() {
    let dir = TempDir::new().unwrap();
    let (n, d) = (301, 5);
    let rows = values(n, d);
    let tokens: Vec<u32> = (0..n as u32).collect();
    for rows_a_shard in [1, 7, 100, 301, 1000] {
        let path = dir.path().join(format!("{rows_a_shard}"));
        let spec = DumpSpec { max_shard_bytes: rows_a_shard * 10 + 9, ..DumpSpec::new(d, Dtype::F16) };
        let mut writer = DumpWriter::create(&path, spec).unwrap();
        for (rows, tokens) in rows.chunks(13 * d).zip(tokens.chunks(13)) {
            writer.append(rows, Some(tokens)).unwrap();
        }
        writer.append(&[], Some(&[])).unwrap();
        let summary = writer.finish().unwrap();
        assert_eq!(summary.n_shards, n.div_ceil(rows_a_shard as usize));
        assert_eq!((summary.n_rows, summary.n_bytes), (n as u64, (n * d * 2) as u64));
        let dump = open(&path).unwrap();
        assert_eq!(all_rows(&dump), rows);
        assert_eq!(dump.tokens(), Some(&tokens[..]));
        let wanted = [300, 0, 7, 6, 50, 50, 255, 256, 299];
        let mut out = vec![f32::NAN; wanted.len() * d];
        dump.read_rows(&wanted, &mut out).unwrap();
        for (row, out) in wanted.iter().zip(out.chunks(d)) {
            assert_eq!(out, &rows[*row as usize * d..][..d]);
        }
        for (start, len) in [(0, 0), (301, 0), (3, 295), (6, 2), (300, 1)] {
            let mut out = vec![f32::NAN; len * d];
            dump.read_range(start, len, &mut out).unwrap();
            assert_eq!(out, rows[start as usize * d..][..len * d]);
        }
        assert_says(&why(dump.read_rows(&[301], &mut vec![0.0; d])), &["row 301 of 301 rows"]);
        assert_says(&why(dump.read_range(300, 2, &mut vec![0.0; 2 * d])), &["2 rows from row 300 of 301"]);
        assert!(dump.read_range(u64::MAX, 1, &mut vec![0.0; d]).is_err());
    }
}

#[cfg(unix)]
#[test]
fn a_file_cut_short_while_it_is_in_use_is_an_error_for_single_rows() {
    let dir = TempDir::new().unwrap();
    let rows = values(12, 4);
    let path = npy(&dir.path().join("a.npy"), Dtype::F32, &rows, 4);
    let dump = open(&path).unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_len(fs::metadata(&path).unwrap().len() - 1).unwrap();
    let mut out = vec![f32::NAN; 4];
    dump.read_rows(&[10], &mut out).unwrap();
    assert_eq!(out, rows[40..44]);
    assert_says(&why(dump.read_rows(&[11], &mut out)), &["reading", "a.npy"]);
    // A new file under the same name does not affect the mapped one.
    fs::remove_file(&path).unwrap();
    npy(&path, Dtype::F32, &[0.0; 48], 4);
    dump.read_rows(&[10], &mut out).unwrap();
    assert_eq!(out, rows[40..44]);
}

#[test]
fn bare_files_are_shards_in_the_order_given() {
    let dir = TempDir::new().unwrap();
    let rows = values(12, 4);
    let a = npy(&dir.path().join("a.npy"), Dtype::F32, &rows[..20], 4);
    let empty = npy(&dir.path().join("empty.npy"), Dtype::F32, &[], 4);
    let view =
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![7, 4], bytemuck_bytes(&rows[20..])).unwrap();
    let b = dir.path().join("b.safetensors");
    fs::write(&b, safetensors::serialize([("any name", view)], None).unwrap()).unwrap();
    let dump = Dump::open(&[a.clone(), empty.clone(), b.clone()], None).unwrap();
    assert_eq!((dump.n_rows(), dump.n_shards(), dump.name()), (12, 3, "a and 2 more"));
    assert_eq!(all_rows(&dump), rows);
    assert!(dump.tokens().is_none() && dump.vocab().is_none() && dump.sequence_starts().is_none());
    let other = Dump::open(&[b, empty.clone(), a.clone()], None).unwrap();
    assert_eq!(all_rows(&other)[..28], rows[20..]);
    assert_ne!(dump.fingerprint(), other.fingerprint());

    let wide = npy(&dir.path().join("wide.npy"), Dtype::F32, &rows, 6);
    assert_says(&why(Dump::open(&[a.clone(), wide], None)), &["wide.npy", "width: expected 4 by", "a.npy", "found 6"]);
    let half = npy(&dir.path().join("half.npy"), Dtype::F16, &rows, 4);
    assert_says(&why(Dump::open(&[a.clone(), half], None)), &["half.npy", "dtype: expected f32", "found f16"]);
    assert_says(&why(Dump::open(&[empty], None)), &["empty.npy", "rows: expected at least 1, found 0"]);
    let raw = Some(RawSpec { dtype: Dtype::F32, dim: 4 });
    assert_says(&why(Dump::open(&[a], raw)), &["a.npy", "the header of this one"]);
    assert!(Dump::open(&[], None).is_err());
}

fn bytemuck_bytes(values: &[f32]) -> &[u8] {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    bytes.leak()
}

#[test]
fn raw_files_are_read_with_a_type_and_a_width() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("acts.bin");
    let rows = values(9, 3);
    for dtype in DTYPES {
        let mut bytes = Vec::new();
        dtype.narrow(&rows, &mut bytes);
        fs::write(&path, &bytes).unwrap();
        let raw = |dim| Dump::open(std::slice::from_ref(&path), Some(RawSpec { dtype, dim }));
        assert_eq!(all_rows(&raw(3).unwrap()), rows);
        assert_says(&why(raw(4)), &["acts.bin", "size: expected a multiple of", "(4 ", "found"]);
        assert_says(&why(raw(0)), &["--dim"]);
        assert!(raw(usize::MAX).is_err());
    }
    assert_says(&why(open(&path)), &["acts.bin", "--dtype and --dim"]);
}

#[test]
fn paths_that_are_no_dump_are_refused_in_one_sentence() {
    let dir = TempDir::new().unwrap();
    assert_says(&why(open(&dir.path().join("none"))), &["none", "no such file or directory"]);
    assert_says(&why(open(dir.path())), &["expected dump.json", "found none"]);
    let text = dir.path().join("notes.txt");
    fs::write(&text, "hello").unwrap();
    assert_says(&why(open(&text)), &["notes.txt", "found the ending `txt`"]);
    let empty = dir.path().join("empty.npy");
    fs::write(&empty, "").unwrap();
    assert_says(&why(open(&empty)), &["empty.npy", "magic"]);
    let empty = dir.path().join("empty.safetensors");
    fs::write(&empty, "").unwrap();
    assert_says(&why(open(&empty)), &["empty.safetensors", "header length: expected 8 bytes, found 0"]);
    let two = [dir.path().to_owned(), text];
    assert_says(&why(Dump::open(&two, None)), &["single dump directory"]);
}

/// A small dump with every file there is, in two shards.
fn small(path: &Path) {
    let spec = DumpSpec {
        max_shard_bytes: 3 * 8,
        model: Some("m".into()),
        vocab: Some(vec!["x".into(), "y".into()]),
        ..DumpSpec::new(4, Dtype::F16)
    };
    let mut writer = DumpWriter::create(path, spec).unwrap();
    writer.start_sequence();
    writer.append(&values(2, 4), Some(&[0, 1])).unwrap();
    writer.start_sequence();
    writer.append(&values(3, 4), Some(&[1, 1, 0])).unwrap();
    writer.finish().unwrap();
}

/// Reads every row and token of a dump, so that a panic or an invalid read is found.
fn use_all(dump: &Dump) {
    let n = dump.n_rows() as usize;
    assert!(n > 0 && dump.d() > 0 && n * dump.d() <= 4096, "{n} x {}", dump.d());
    let mut out = vec![0.0; n * dump.d()];
    if dump.read_range(0, n, &mut out).is_ok() {
        assert!(out.iter().all(|v| v.is_finite()), "rows that are not finite were read without an error");
    }
    assert!(dump.tokens().is_none_or(|t| t.len() == n), "one token per row");
    assert!(
        dump.sequence_starts().is_none_or(|s| s[0] == 0 && s.iter().all(|&s| s < n as u64)),
        "sequences start at rows of the dump, the first at row 0"
    );
    let _ = dump.fingerprint();
    let report = strata_cli::inspect::inspect(dump, None).unwrap();
    strata_cli::inspect::print(&report, &mut io::sink()).unwrap();
}

#[test]
fn every_truncation_of_every_file_is_an_error() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("small");
    small(&path);
    use_all(&open(&path).unwrap());
    for entry in fs::read_dir(&path).unwrap() {
        let file = entry.unwrap().path();
        let good = fs::read(&file).unwrap();
        for length in 0..good.len() {
            fs::write(&file, &good[..length]).unwrap();
            let name = file.file_name().unwrap().to_str().unwrap();
            assert_says(&why(open(&path)), &[name]);
        }
        fs::remove_file(&file).unwrap();
        assert_says(&why(open(&path)), &[file.file_name().unwrap().to_str().unwrap()]);
        fs::write(&file, &good).unwrap();
    }
}

#[test]
fn every_byte_overwritten_is_an_error_or_a_consistent_dump() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("small");
    small(&path);
    for entry in fs::read_dir(&path).unwrap() {
        let file = entry.unwrap().path();
        let good = fs::read(&file).unwrap();
        for at in 0..good.len() {
            // Of the padding test every sixth byte.
            if good[at] == b' ' && at % 6 != 0 {
                continue;
            }
            for byte in [[b'"', b'9', b'-', b'0'][at % 4], good[at] ^ 1, good[at] ^ 0x80] {
                let mut bad = good.clone();
                bad[at] = byte;
                fs::write(&file, &bad).unwrap();
                match open(&path) {
                    Ok(dump) => use_all(&dump),
                    Err(e) => assert!(!format!("{e:#}").contains('\n'), "{e:#}"),
                }
            }
        }
        fs::write(&file, &good).unwrap();
    }
}

#[test]
fn manifests_that_say_something_else_are_refused_by_field() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("small");
    small(&path);
    let file = path.join("dump.json");
    let good: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let with = |pointer: &str, value: serde_json::Value| {
        let mut manifest = good.clone();
        *manifest.pointer_mut(pointer).unwrap() = value;
        fs::write(&file, manifest.to_string()).unwrap();
        let message = why(open(&path));
        fs::write(&file, good.to_string()).unwrap();
        message
    };
    assert_says(
        &with("/format", "other".into()),
        &["dump.json", "`format`: expected \"strata-dump\", found \"other\""],
    );
    assert_says(&with("/version", 2.into()), &["`version`: expected 1, found 2"]);
    assert_says(&with("/d", 0.into()), &["`d`: expected at least 1, found 0"]);
    assert_says(&with("/d", 5.into()), &["acts-00000.safetensors", "width: expected 5 by", "dump.json", "found 4"]);
    assert_says(&with("/rows", 6.into()), &["`rows`: expected 5, the sum of the shards, found 6"]);
    assert_says(&with("/dtype", "f32".into()), &["acts-00000.safetensors", "dtype: expected f32 by", "found f16"]);
    assert_says(&with("/dtype", "f64".into()), &["dump.json", "f64"]);
    assert_says(&with("/shards/0/rows", u64::MAX.into()), &["`rows`: expected more than 2^64"]);
    assert_says(&with("/shards/0/file", "../acts.safetensors".into()), &["file names", "../acts.safetensors"]);
    assert_says(&with("/shards/0/file", "/etc/passwd".into()), &["file names"]);
    assert_says(&with("/shards/1/file", "acts-00000.safetensors".into()), &["is there twice"]);
    assert_says(&with("/tokens", "stats.safetensors".into()), &["is there twice"]);
    assert_says(&with("/context", 0.into()), &["`context`: expected at least 1, found 0"]);
    assert_says(&with("/stats/mean_norm", (-1.0).into()), &["`stats.mean_norm`"]);
    assert_says(&with("/shards", serde_json::json!([])), &["`rows`: expected 0"]);
    // Two wrong values of the manifest that agree with each other are found by reading the shard.
    let mut manifest = good.clone();
    manifest["rows"] = 4.into();
    manifest["shards"][0]["rows"] = 2.into();
    fs::write(&file, manifest.to_string()).unwrap();
    assert_says(&why(open(&path)), &["acts-00000.safetensors", "rows: expected 2 by", "dump.json", "found 3"]);
}

#[test]
fn shards_of_another_size_or_kind_are_refused() {
    let table = |header: &str, data: usize| {
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.resize(file.len() + data, 0);
        TensorTable::parse(&file).and_then(|t| t.activations()).map_err(anyhow::Error::from)
    };
    let one = |dtype: &str, shape: &str, end: u64, data| {
        table(
            &format!("{{\"activations\":{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":[0,{end}]}}}}"),
            data,
        )
    };
    assert_eq!(one("BF16", "[2,3]", 12, 12).unwrap().dtype, Dtype::Bf16);
    assert_says(&why(one("F16", "[2,3]", 12, 13)), &["data: expected 12 bytes by the header, found 13"]);
    assert_says(&why(one("F16", "[2,3]", 12, 11)), &["data: expected 12 bytes by the header, found 11"]);
    assert_says(&why(one("F64", "[2,3]", 48, 48)), &["dtype: expected F32, F16 or BF16, found F64"]);
    assert_says(
        &why(one("F16", "[6]", 12, 12)),
        &["shape: expected 2 dimensions (rows, width) or 3 (sequences, rows, width), found 1"],
    );
    assert_says(&why(one("F16", "[6,0]", 0, 0)), &["width of at least 1, found 0"]);
    for (shape, end) in [("[18446744073709551615,2]", 12), ("[2,3]", u64::MAX), ("[4611686018427387904,4]", 0)] {
        assert!(one("F16", shape, end, 12).is_err());
    }
    // Sizes whose sum with that of the header would overflow.
    let near = u64::MAX / 8;
    let many: Vec<String> = (0..9)
        .map(|i: u64| {
            let (from, to) = (i.saturating_mul(near), (i + 1).saturating_mul(near));
            format!("\"t{i}\":{{\"dtype\":\"U8\",\"shape\":[{}],\"data_offsets\":[{from},{to}]}}", to - from)
        })
        .collect();
    assert!(table(&format!("{{{}}}", many.join(",")), 8).is_err());
    let two = "{\"a\":{\"dtype\":\"F16\",\"shape\":[1,1],\"data_offsets\":[0,2]},\
               \"b\":{\"dtype\":\"F16\",\"shape\":[1,1],\"data_offsets\":[2,4]}}";
    assert_says(&why(table(two, 4)), &["expected `activations` or a single matrix of floats, found 2"]);
    let mut huge = (1_u64 << 40).to_le_bytes().to_vec();
    huge.extend(b"{}");
    assert_says(&TensorTable::parse(&huge).unwrap_err().to_string(), &["header length: expected at most 2 bytes"]);
}

#[test]
fn numbers_that_are_not_finite_are_named() {
    let dir = TempDir::new().unwrap();
    let mut rows = values(6, 4);
    rows[4 * 4 + 2] = f32::INFINITY;
    let a = npy(&dir.path().join("a.npy"), Dtype::F16, &rows[..12], 4);
    let b = npy(&dir.path().join("b.npy"), Dtype::F16, &rows[12..], 4);
    let dump = Dump::open(&[a, b], None).unwrap();
    let mut out = vec![0.0; 24];
    let expected = ["b.npy", "row 1, column 2: expected a finite number, found inf (row 4 of the dump)"];
    assert_says(&why(dump.read_range(0, 6, &mut out)), &expected);
    assert_says(&why(dump.read_rows(&[0, 4], &mut out[..8])), &expected);
    dump.read_rows(&[0, 5, 3], &mut out[..12]).unwrap();
}

#[test]
fn what_a_type_cannot_hold_is_refused_and_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("out");
    let mut rows = values(40, 3);
    rows[37 * 3 + 1] = 70_000.0;
    let mut writer = DumpWriter::create(&path, DumpSpec::new(3, Dtype::F16)).unwrap();
    writer.append(&rows[..30], None).unwrap();
    let expected = ["row 37, column 1: 70000 is beyond the range of f16; bf16 and f32 hold it"];
    assert_says(&why(writer.append(&rows[30..], None)), &expected);
    assert_says(&why(writer.append(&rows[..3], None)), &["an earlier error"]);
    assert_says(&why(writer.finish()), &["an earlier error"]);
    for dtype in [Dtype::Bf16, Dtype::F32] {
        write(&dir.path().join(dtype.name()), DumpSpec::new(3, dtype), &rows, None);
    }
    for (dtype, bad) in [(Dtype::F32, f32::NAN), (Dtype::Bf16, f32::INFINITY), (Dtype::F16, f32::NEG_INFINITY)] {
        let mut writer = DumpWriter::create(&path, DumpSpec::new(3, dtype)).unwrap();
        let found = format!("row 0, column 2: expected a finite number, found {bad}");
        assert_says(&why(writer.append(&[0.0, 1.0, bad], None)), &[&found]);
    }
    assert!(!path.exists());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "temporary files are left");
}

#[test]
fn a_dump_is_seen_whole_or_not_at_all() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("out");
    let mut writer = DumpWriter::create(&path, DumpSpec::new(2, Dtype::F32)).unwrap();
    writer.append(&[1.0; 8], None).unwrap();
    assert!(!path.exists());
    drop(writer);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

    let writer = DumpWriter::create(&path, DumpSpec::new(2, Dtype::F32)).unwrap();
    assert_says(&why(writer.finish()), &["a dump has at least 1 row"]);
    // What exists at the path is not changed, even if it was created during the writing.
    let mut writer = DumpWriter::create(&path, DumpSpec::new(2, Dtype::F32)).unwrap();
    writer.append(&[1.0; 8], None).unwrap();
    fs::create_dir(&path).unwrap();
    assert_says(&why(writer.finish()), &["out", "exists"]);
    assert_says(&why(DumpWriter::create(&path, DumpSpec::new(2, Dtype::F32))), &["out", "exists already"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    let nowhere = dir.path().join("no/where");
    assert_says(&why(DumpWriter::create(&nowhere, DumpSpec::new(2, Dtype::F32))), &["where", "no such file"]);
}

#[test]
fn tokens_and_sequences_have_to_fit_the_rows() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("out");
    let vocab = Some(vec![String::new(); 3]);
    let create =
        || DumpWriter::create(&path, DumpSpec { vocab: vocab.clone(), ..DumpSpec::new(2, Dtype::F32) }).unwrap();
    assert_says(&why(create().append(&[0.0; 4], Some(&[0]))), &["tokens: expected 2, one per row, found 1"]);
    assert_says(&why(create().append(&[0.0; 4], Some(&[0, 3]))), &["tokens: expected ids below 3", "found 3"]);
    assert_says(&why(create().append(&[0.0; 3], None)), &["expected rows of 2, found 3 numbers"]);
    let mut writer = create();
    writer.append(&[0.0; 4], None).unwrap();
    assert_says(&why(writer.append(&[0.0; 4], Some(&[0, 1]))), &["tokens: expected them for all rows, or for none"]);
    let mut writer = create();
    writer.append(&[0.0; 2], Some(&[0])).unwrap();
    writer.start_sequence();
    writer.append(&[0.0; 2], Some(&[0])).unwrap();
    assert_says(&why(writer.finish()), &["the first sequence: expected to start at row 0, found 1"]);

    // Starts of sequences at an unaligned offset of the file are copied instead of mapped.
    small(&path);
    assert_eq!(open(&path).unwrap().sequence_starts(), Some(&[0, 2][..]));
    assert_eq!(open(&path).unwrap().tokens(), Some(&[0, 1, 1, 1, 0][..]));
}

#[test]
fn fingerprints_tell_dumps_apart_but_not_places() {
    let dir = TempDir::new().unwrap();
    let make = |name: &str, rows: &[f32]| {
        let path = dir.path().join(name);
        write(&path, DumpSpec { max_shard_bytes: 64, ..DumpSpec::new(4, Dtype::F16) }, rows, None);
        open(&path).unwrap().fingerprint()
    };
    let rows = values(20, 4);
    let mut other = rows.clone();
    other[0] += 1.0;
    let mut last = rows.clone();
    last[79] += 1.0;
    let all = [make("a", &rows), make("c", &other), make("d", &last), make("e", &rows[..76])];
    assert_eq!(all[0], make("b", &rows));
    assert!(all[0].len() == 32 && (1..4).all(|i| all[..i].iter().all(|f| *f != all[i])), "{all:?}");
}

#[test]
fn a_dump_is_shared_by_threads() {
    fn is_shared<T: Send + Sync>() {}
    is_shared::<Dump>();
}

#[test]
fn files_are_replaced_whole() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("x.json");
    write_atomic(&path, b"one").unwrap();
    write_atomic(&path, b"two").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"two");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    assert_says(&why(write_atomic(&dir.path().join("no/x"), b"")), &["writing", "no/x", "no such file or directory"]);
    assert_says(&why(write_atomic(dir.path(), b"")), &["it is a directory"]);
    let full = io_error("writing", &path, &io::Error::from(io::ErrorKind::StorageFull)).to_string();
    assert_eq!(full, format!("writing `{}`: the disk is full", path.display()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_bytes_are_an_error_or_a_consistent_shard(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), json: bool) {
        if json && bytes.len() > 9 {
            let n = bytes.len() as u64 - 8;
            bytes[..8].copy_from_slice(&n.to_le_bytes());
            bytes[8] = b'{';
        }
        if let Ok(m) = TensorTable::parse(&bytes).and_then(|t| t.activations()) {
            prop_assert_eq!(m.bytes.len(), m.n * m.d * m.dtype.size_bytes());
            prop_assert!(m.bytes.end <= bytes.len());
        }
        let _ = Manifest::parse(&bytes);
    }
}
