//! Texts as people have them: plain, JSON lines, directories; documents packed or apart.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use strata_cli::capture::{CaptureSpec, Captured, capture};
use strata_cli::corpus::Corpus;
use strata_cli::dump::Dump;
use strata_cli::lm::Lm;
use strata_cli::lm::hook::Hook;

use crate::cli::{args, strata};

/// A small Llama with 31 letters; `bos` is its second.
fn model() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/lm/llama")
}

const LETTERS: &str = "abcdefghijklmnopqrstuvwxyz{|}~\u{7f}";

fn ids(text: &str) -> Vec<u32> {
    text.chars().map(|c| LETTERS.chars().position(|l| l == c).expect("a letter") as u32).collect()
}

/// The windows that a capture makes.
fn windows(corpus: &Corpus, change: impl Fn(&mut CaptureSpec)) -> Vec<Vec<u32>> {
    let lm = Lm::open(model()).expect("a model");
    let mut spec = CaptureSpec { context: 4, ..CaptureSpec::new(&lm, &[Hook::resid_post(0)]) };
    change(&mut spec);
    let mut all = Vec::new();
    let mut sink = |found: Captured<'_>| {
        assert_eq!(found.rows[0].len(), found.tokens.len() * lm.config().d, "a row per token");
        let mut rest = found.tokens;
        for n in found.windows {
            all.push(rest[..*n].to_vec());
            rest = &rest[*n..];
        }
        assert!(rest.is_empty(), "every row is in a window");
        Ok(())
    };
    let report = capture(&lm, corpus, &spec, &mut sink, &|_, _| ()).expect("rows");
    assert_eq!(report.n_windows as usize, all.len(), "the report counts the windows");
    all
}

fn lines(documents: &[&str]) -> String {
    documents.iter().map(|d| json!({ "id": 1, "body": d }).to_string() + "\n").collect()
}

fn opened(path: &Path, field: Option<&str>, seed: Option<u64>) -> Corpus {
    Corpus::open(path, field, seed).expect("a corpus")
}

#[test]
fn documents_follow_each_other_or_are_apart() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("corpus.jsonl");
    fs::write(&path, lines(&["abcde", "fg", "hijklmnop"]) + "\n\n").expect("a corpus");
    let corpus = opened(&path, Some("body"), None);
    let packed = |bos| windows(&corpus, |spec| spec.bos = bos);
    let want = |all: &[&str]| all.iter().map(|w| ids(w)).collect::<Vec<_>>();
    assert_eq!(packed(false), want(&["abcd", "efgh", "ijkl", "mnop"]));
    // b is the token of the beginning: of every document, and of every window.
    assert_eq!(packed(true), want(&["babc", "bdeb", "bfgb", "bhij", "bklm", "bnop"]));
    let apart = |bos, skip| {
        windows(&corpus, |spec| {
            (spec.per_document, spec.bos, spec.skip_first) = (true, bos, skip);
        })
    };
    assert_eq!(apart(false, 0), want(&["abcd", "e", "fg", "hijk", "lmno", "p"]));
    assert_eq!(apart(true, 0), want(&["babc", "bde", "bfg", "bhij", "bklm", "bnop"]));
    assert_eq!(apart(true, 1), want(&["abc", "de", "fg", "hij", "klm", "nop"]));
    let some = windows(&corpus, |spec| (spec.per_document, spec.max_tokens) = (true, Some(8)));
    assert_eq!(some, want(&["abcd", "e", "fg"]));
}

#[test]
fn a_directory_has_the_documents_of_its_files_in_order() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::create_dir(dir.path().join("b")).expect("a directory");
    for (name, text) in [
        ("b/x.txt", "cc"),
        ("a.txt", "aabb"),
        ("b/y.jsonl", "{\"text\": \"dd\"}"),
        ("z.png", "\u{1}"),
        (".hidden.txt", "z"),
    ] {
        fs::write(dir.path().join(name), text).expect("a file");
    }
    let all = windows(&opened(dir.path(), None, None), |spec| spec.context = 8);
    assert_eq!(all, [ids("aabbccdd")]);
    let why = |path: &Path, field: Option<&str>| match Corpus::open(path, field, Some(0)) {
        Ok(_) => panic!("{}: expected a fault", path.display()),
        Err(error) => format!("{error:#}"),
    };
    fs::create_dir(dir.path().join("empty")).expect("a directory");
    assert!(
        why(&dir.path().join("empty"), None)
            .contains("expected files ending in .txt, .text, .md, .rst, .jsonl, .ndjson, .parquet")
    );
    let rows = dir.path().join("rows.parquet");
    fs::write(&rows, "PAR1").expect("a file");
    assert!(why(&rows, None).contains("cargo install --path cli --features parquet"), "what to do is said");
    assert!(why(&dir.path().join("missing"), None).contains("missing"));
}

#[test]
fn a_seed_shuffles_documents_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("corpus.ndjson");
    let documents: Vec<String> = LETTERS.chars().take(26).map(|c| c.to_string().repeat(4)).collect();
    let documents: Vec<&str> = documents.iter().map(String::as_str).collect();
    fs::write(&path, lines(&documents)).expect("a corpus");
    let all = |seed| windows(&opened(&path, Some("body"), seed), |_| ());
    let (plain, first, again, other) = (all(None), all(Some(1)), all(Some(1)), all(Some(2)));
    assert_eq!(first, again);
    assert!(first != plain && other != first && other != plain, "the seed determines the order");
    let sorted = |mut all: Vec<Vec<u32>>| {
        all.sort();
        all
    };
    assert_eq!(sorted(first), plain);
    assert_eq!(sorted(other), plain);
}

#[test]
fn what_is_wrong_with_a_corpus_is_said_with_its_place() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("corpus.jsonl");
    let why = |text: &[u8], field: &str| {
        fs::write(&path, text).expect("a corpus");
        let out = dir.path().join("out");
        let ran = strata(&args![
            "capture",
            "--model",
            model(),
            "--text",
            path,
            "--field",
            field,
            "--layer",
            "0",
            "--context",
            "4",
            "--out",
            out
        ]);
        assert!(!out.exists(), "no dump");
        ran.fails(&["corpus.jsonl"]).err
    };
    let second = "the line at byte 19: ";
    for (line, expected) in [
        ("[1]", "expected an object, found [1]"),
        ("{", "expected JSON"),
        (
            "{\"text\": 7}",
            "expected a text in the field \"body\", found nothing (the others are text); name it with --field",
        ),
        ("{\"body\": 7}", "expected a text in the field \"body\", found 7"),
    ] {
        let err = why(format!("{{\"body\": \"aaaaaa\"}}\n{line}\n").as_bytes(), "body");
        assert!(err.contains(expected) && err.contains(second.trim_end_matches("19: ")), "{err}");
    }
    let plain = dir.path().join("plain.txt");
    fs::write(&plain, b"aaaa\xff").expect("a text");
    let out = dir.path().join("out");
    let ran =
        strata(&args!["capture", "--model", model(), "--text", plain, "--layer", "0", "--context", "4", "--out", out]);
    ran.fails(&["plain.txt", "byte 4: expected UTF-8, found 0xff"]);
}

#[test]
fn several_hook_points_are_captured_and_spliced_from_one_pass() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("corpus.jsonl");
    let documents: Vec<String> =
        (0..60).map(|i| LETTERS.chars().cycle().skip(i * 7).step_by(1 + i % 5).take(3 + i % 30).collect()).collect();
    let documents: Vec<&str> = documents.iter().map(String::as_str).collect();
    fs::write(&path, lines(&documents)).expect("a corpus");
    let out = dir.path().join("out");
    strata(&args![
        "capture",
        "--model",
        model(),
        "--text",
        path,
        "--field",
        "body",
        "--per-document",
        "--bos",
        "--context",
        "16",
        "--dtype",
        "f32",
        "--hook",
        "blocks.1.mlp.hook_in",
        "--hook",
        "mlp_out.1",
        "--hook",
        "mlp_post.0",
        "--layer",
        "0",
        "--out",
        out
    ])
    .ok();
    let open = |name: &str| Dump::open(&[out.join(name)], None).expect("a dump");
    let (input, target, stream) =
        (open("blocks.1.mlp.hook_in"), open("blocks.1.hook_mlp_out"), open("blocks.0.hook_resid_post"));
    assert!(input.tokens() == target.tokens() && input.tokens() == stream.tokens(), "the same tokens");
    assert_eq!((input.context(), input.sequence_starts()), (None, target.sequence_starts()));
    let starts = input.sequence_starts().expect("starts");
    assert!(starts.iter().all(|s| input.tokens().expect("tokens")[*s as usize] == 1), "each sequence begins with BOS");
    assert_eq!(target.hook(), Some("blocks.1.hook_mlp_out"));

    // What was captured can be trained on, and put back into the model, which is found beside the dump by its name.
    for (name, hook) in
        [("blocks.0.hook_resid_post", "stream"), ("blocks.1.hook_mlp_out", "mlp"), ("blocks.0.mlp.hook_post", "hidden")]
    {
        let (dump, run) = (out.join(name), dir.path().join(hook));
        let small = [
            "level1.latents=8",
            "level1.k=2",
            "level2.latents=16",
            "level2.k=3",
            "train.steps=40",
            "train.batch=64",
            "data.skip_special=false",
        ];
        let mut train = args!["train", "--dump", dump, "--out", run];
        small.iter().for_each(|s| train.extend(args!["--set", s]));
        strata(&train).ok();
        let eval = args!["eval", run, "--splice", "--json", "--all"];
        let beside = out.join("llama");
        let ran = if beside.exists() {
            strata(&eval).ok()
        } else {
            strata(&eval).fails(&["was captured from `llama`", "--model", "STRATA_MODELS"]);
            let ran = strata(&[eval.clone(), args!["--model", model()]].concat()).ok();
            // From now on it is found by its name.
            fs::create_dir(&beside).expect("a directory");
            for file in ["config.json", "model.safetensors", "meta.json"] {
                fs::copy(model().join(file), beside.join(file)).expect("a copy");
            }
            ran
        };
        let found: Value = serde_json::from_str(&ran.out).expect("JSON");
        let of = |key: &str| found["splice"][key].as_f64().expect("a number");
        assert!(of("clean").is_finite() && of("zero_ablated").is_finite(), "{}", found["splice"]);
        assert!(of("kl1") > 0.0 && of("kl2") > 0.0, "{}", found["splice"]);
        let predicted = stream.n_rows() - starts.len() as u64;
        assert_eq!(found["splice"]["n_tokens"].as_u64(), Some(predicted), "every token but the first of a sequence");
        let limited = strata(&[eval, args!["--splice-tokens", "70"]].concat()).ok();
        let limited: Value = serde_json::from_str(&limited.out).expect("JSON");
        let ends = starts.iter().skip(1).copied().chain([stream.n_rows()]);
        let lengths = starts.iter().zip(ends).map(|(a, b)| b - a);
        let longest = lengths.max().expect("a sequence");
        let found = limited["splice"]["n_tokens"].as_u64().expect("a number");
        assert!(found < 70 && found + 2 * longest > 70, "{found} of at most 70, in sequences of at most {longest}");
    }
}

#[test]
fn a_byte_order_mark_is_no_text() {
    let dir = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: String| {
        let path = dir.path().join(name);
        fs::write(&path, text).expect("a text");
        path
    };
    let plain = write("a.txt", "\u{feff}abcdefgh".into());
    let want = ["abcd", "efgh"].map(ids);
    assert_eq!(windows(&opened(&plain, None, None), |_| ()), want);
    let json = write("b.jsonl", format!("\u{feff}{}", lines(&["abcdefgh"])));
    for seed in [None, Some(1)] {
        assert_eq!(windows(&opened(&json, Some("body"), seed), |_| ()), want, "{seed:?}");
    }
    assert_eq!(windows(&opened(&write("c.txt", "\u{feff}".to_owned() + "abcd"), None, Some(1)), |_| ()), [ids("abcd")]);
}
