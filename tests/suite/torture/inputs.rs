//! Pipes, devices and files of the wrong kind in the place of every input.

use std::fs;
use std::os::unix::fs::symlink;

use super::fifo;
use crate::cli::{args, strata, trained};

#[test]
fn pipes_and_devices_are_refused_before_they_are_opened() {
    let (dir, dump, run) = trained(&[]);
    let at = |name: &str| dir.path().join(name);
    strata(&args!["eval", run, "--dump", dump]).ok();
    fs::create_dir(at("lm")).unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        fs::copy(format!("{}/../cli/assets/char-gpt/{name}", env!("CARGO_MANIFEST_DIR")), at("lm").join(name)).unwrap();
    }
    for kind in ["fifo", "zero"] {
        let make = |path: &std::path::Path| match kind {
            "fifo" => fifo(path),
            _ => symlink("/dev/zero", path).unwrap(),
        };
        let word = if kind == "fifo" { "a pipe" } else { "a device" };
        // Bare files of every format.
        for ending in ["npy", "safetensors", "bin", "toml", "txt"] {
            make(&at(&format!("{kind}.{ending}")));
        }
        let bare = |ending: &str| at(&format!("{kind}.{ending}"));
        let out = at("out");
        for all in [
            args!["inspect", bare("npy")],
            args!["inspect", bare("safetensors")],
            args!["inspect", bare("bin"), "--dtype", "f32", "--dim", "4"],
            args!["train", "--dump", bare("npy"), "--out", out],
            args!["train", "--dump", dump, "--out", out, "--config", bare("toml")],
            args!["ablate", "--dump", dump, "--out", out, "--config", bare("toml")],
            args!["probe", run, "--dump", dump, "--labels", bare("npy")],
            args!["capture", "--layer", "0", "--out", out, "--text", bare("txt")],
        ] {
            strata(&all).fails(&["reading", kind, word]);
        }
        // Replace each of the files in a directory.
        let capture = args!["capture", "--layer", "0", "--out", out, "--model", at("lm"), "--max-tokens", "128"];
        let resume = args!["train", "--dump", dump, "--out", run, "--resume"];
        let eval = args!["eval", run, "--dump", dump];
        for (path, all) in [
            (at("lm/config.json"), &capture),
            (at("lm/model.safetensors"), &capture),
            (at("lm/tokenizer.json"), &capture),
            (dump.join("dump.json"), &eval),
            (dump.join("acts-00000.safetensors"), &eval),
            (dump.join("stats.safetensors"), &eval),
            (run.join("sae/cfg.json"), &eval),
            (run.join("sae/sae_weights.safetensors"), &eval),
            (run.join("sae/SHA256SUMS"), &eval),
            (run.join("config.toml"), &eval),
            (run.join("config.toml"), &resume),
            (run.join("eval.json"), &args!["report", run]),
            (run.join("metrics.jsonl"), &args!["report", run]),
            (run.join("latents.jsonl"), &args!["report", run]),
        ] {
            let kept = path.with_extension("kept");
            fs::rename(&path, &kept).unwrap();
            make(&path);
            strata(all).fails(&["reading", word]);
            fs::remove_file(&path).unwrap();
            fs::rename(&kept, &path).unwrap();
        }
        assert!(!out.exists(), "nothing is written");
    }
}

#[test]
fn a_run_is_found_behind_the_dump() {
    let (dir, dump, run) = trained(&[]);
    strata(&args!["eval", "--dump", dump, run]).ok();
    strata(&args!["encode", "--out", dir.path().join("codes"), "--dump", dump, run, "--f16"]).ok();
    strata(&args!["eval", "--dump", dump, dump]).fails(&["is neither a run"]);
}

#[test]
fn errors_are_for_people() {
    let (dir, dump, run) = trained(&[]);
    let at = |name: &str| dir.path().join(name);
    let missing = strata(&args!["capture", "--layer", "0", "--out", at("x"), "--text", at("missing")]);
    let err = missing.fails(&["missing", "no such file or directory"]).err;
    assert!(!err.contains("os error"), "{err}");
    let cfg = fs::read_to_string(run.join("sae/cfg.json")).unwrap();
    fs::remove_file(run.join("sae/SHA256SUMS")).unwrap();
    fs::write(run.join("sae/cfg.json"), cfg.replace("\"d\": 16", "\"d\": \"wide\"")).unwrap();
    let err = strata(&args!["eval", run, "--dump", dump]).fails(&["cfg.json", "wide", "a whole number"]).err;
    assert!(!err.contains("usize") && !err.contains("invalid type"), "{err}");
    // Text with the line ends and encodings of Windows, and other bytes.
    for (bytes, parts) in [
        (&[0xff, 0xfe, b'a', 0][..], ["byte 0", "UTF-16"]),
        (&[b'a', b'b', 0xc0, b'c'][..], ["byte 2", "expected UTF-8, found 0xc0"]),
    ] {
        fs::write(at("text"), bytes).unwrap();
        strata(&args!["capture", "--layer", "0", "--out", at("x"), "--text", at("text")]).fails(&parts);
    }
}
