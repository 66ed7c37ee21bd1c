//! Completions and man pages: every command has them.

use std::fs;

use tempfile::TempDir;

use super::cli::{args, strata};

/// The commands that `strata --help` lists, `help` aside.
fn commands() -> Vec<String> {
    let help = strata(&args!["--help"]).ok().out;
    let list = help.lines().skip_while(|l| *l != "Commands:").skip(1).take_while(|l| !l.is_empty());
    let names =
        list.filter(|l| l.starts_with("  ") && !l.starts_with("   ")).filter_map(|l| l.split_whitespace().next());
    let found: Vec<String> = names.filter(|n| *n != "help").map(str::to_owned).collect();
    assert!(found.len() > 10, "{help}");
    found
}

#[test]
fn completions_of_every_shell_know_every_command() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = strata(&args!["completions", shell]).ok().out;
        for command in commands() {
            assert!(script.contains(&command), "{shell}: {command}");
        }
        // Fish writes a flag without its dashes.
        assert!(script.contains("--threads") || script.contains("-l threads"), "{shell} knows no flags");
    }
    let unknown = strata(&args!["completions", "cmd"]);
    assert!(unknown.code == 2 && unknown.err.contains("bash"), "{}", unknown.err);
}

#[test]
fn every_command_has_a_man_page() {
    let dir = TempDir::new().unwrap();
    let man = dir.path().join("share/man1");
    // The second call replaces the pages of the first.
    for _ in 0..2 {
        strata(&args!["man", man]).ok();
    }
    let mut pages: Vec<String> =
        fs::read_dir(&man).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    pages.sort();
    let mut expected: Vec<String> = commands().iter().map(|c| format!("strata-{c}.1")).collect();
    expected.push("strata.1".into());
    expected.sort();
    assert_eq!(pages, expected);
    let train = fs::read_to_string(man.join("strata-train.1")).unwrap();
    assert!(train.contains(".TH strata-train 1") && train.contains("\\-\\-resume"), "{train}");
    let file = dir.path().join("file");
    fs::write(&file, "mine").unwrap();
    strata(&args!["man", file]).fails(&["file"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
}
