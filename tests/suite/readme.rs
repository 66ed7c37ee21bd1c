//! The blocks of code in README.md compile and run, and its commands exist. Its block of Rust is a doc test of core, and its
//! block of Python is run by the tests of the Python package.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::cli::{args, strata};

const TEXT: &str = include_str!("../../README.md");

/// Returns the blocks of a language, in order.
fn blocks(language: &str) -> Vec<&'static str> {
    let start = format!("```{language}\n");
    TEXT.split(start.as_str()).skip(1).map(|rest| rest.split("```").next().expect("an end")).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the root of the workspace")
}

/// Compiles a block without linking it. Skips where the machine has no such compiler.
fn compiles(language: &str, compiler: &str, standard: &str) {
    let [block] = blocks(language)[..] else { panic!("one block of {language}") };
    if Command::new(compiler).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        return;
    }
    let dir = TempDir::new().unwrap();
    let source = dir.path().join(format!("example.{language}"));
    fs::write(&source, block).unwrap();
    let ran = Command::new(compiler)
        .args([standard, "-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only", "-I"])
        .args([&root().join("ffi/include"), &source])
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

#[test]
fn the_readme_block_of_c_compiles() {
    compiles("c", "cc", "-std=c99");
}

#[test]
fn the_readme_block_of_cpp_compiles() {
    compiles("cpp", "c++", "-std=c++17");
}

#[test]
fn the_two_commands_stand_in_the_readme() {
    let shells = blocks("sh").concat();
    assert!(shells.lines().any(|line| line.starts_with("cargo test --release --workspace")), "the test command");
    let main = "cargo run --release -p strata-sae -- demo --out ";
    assert!(shells.lines().any(|line| line.starts_with(main)), "the main command");
}

#[test]
fn every_command_and_flag_of_the_readme_exists() {
    let mut found = 0;
    for line in blocks("sh").concat().lines().map(|line| line.split(" #").next().expect("a line").trim()) {
        let Some(line) = line.strip_prefix("strata ").filter(|line| !line.starts_with("--")) else { continue };
        let mut words = line.split_whitespace();
        let help = strata(&args![words.next().expect("a command"), "--help"]).ok().out;
        for flag in words.filter(|word| word.starts_with("--")) {
            assert!(help.split_whitespace().any(|word| word == flag), "no flag {flag}: strata {line}");
        }
        found += 1;
    }
    assert!(found >= 5, "{found} commands");
}

#[test]
fn links_of_the_readmes_lead_to_files() {
    let pages = ["README.md", "core/README.md", "cli/README.md", "ffi/README.md", "tests/README.md"];
    for page in pages.into_iter().chain(["docs/results.md", "docs/python.md"]) {
        let text = fs::read_to_string(root().join(page)).unwrap();
        let folder = root().join(page).parent().expect("a folder").to_owned();
        for link in text.split("](").skip(1).map(|rest| rest.split([')', '#']).next().expect("a link")) {
            let is_here = !link.is_empty() && !link.starts_with("http");
            assert!(!is_here || folder.join(link).exists(), "{page}: {link} does not exist");
        }
    }
}

// The programs of `core/examples`. Their `main` reads arguments, and those of a test are not for them.
#[allow(dead_code, reason = "main")]
#[path = "../../core/examples/encode.rs"]
mod encode;
#[allow(dead_code, reason = "main")]
#[path = "../../core/examples/read_saelens.rs"]
mod read_saelens;
#[allow(dead_code, reason = "main")]
#[path = "../../core/examples/train_in_memory.rs"]
mod train_in_memory;

#[test]
fn the_example_encode_runs() {
    encode::run(None, None).unwrap();
    let rows = root().join("tests/data/fixtures/saelens-topk/input.npy");
    let error = encode::run(None, Some(&rows)).unwrap_err().to_string();
    assert!(error.ends_with("input.npy: expected rows of width 6, found 20"), "{error}");
}

#[test]
fn the_example_read_saelens_finds_what_saelens_finds() {
    read_saelens::run(None).unwrap();
    read_saelens::run(Some(root().join("tests/data/fixtures/gemma-scope-2/model"))).unwrap();
}

#[test]
fn the_example_train_in_memory_runs() {
    train_in_memory::run(60).unwrap();
}
