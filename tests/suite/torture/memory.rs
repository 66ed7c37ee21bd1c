//! Under a limit on memory, commands end with a sentence, never with an abort, and leave no partial files.

use std::process::Command;

use tempfile::TempDir;

use crate::cli::{args, assert_no_leftovers, command, train_args, trained};

#[test]
#[cfg(target_os = "linux")]
fn commands_under_a_limit_of_memory_end_in_a_sentence() {
    let (dir, dump, run) = trained(&[]);
    let work = TempDir::new_in(dir.path()).unwrap();
    let (mut done, mut failed) = (0, 0);
    // The limits in MiB of address space: from just enough to load the program to enough for everything.
    for limit in (40..400).step_by(24) {
        let new = work.path().join(format!("new-{limit}"));
        for all in [
            train_args(&dump, &new, &["train.steps=3"]),
            args!["eval", run, "--dump", dump, "--quiet", "--out", work.path().join("eval")],
            args!["encode", run, "--dump", dump, "--force", "--out", work.path().join("codes")],
            args!["capture", "--layer", "0", "--max-tokens", "512", "--out", work.path().join(format!("c-{limit}"))],
            args!["inspect", dump, "--threads", "3"],
        ] {
            let strata = command(&all);
            let mut shell = Command::new("sh");
            shell.arg("-c").arg(format!("ulimit -v {}; exec \"$0\" \"$@\"", limit * 1024));
            let ran = shell.arg(strata.get_program()).args(strata.get_args()).output().unwrap();
            let err = String::from_utf8_lossy(&ran.stderr).into_owned();
            // The limit is too low to load the program itself, or the C library ends it: where it finds no memory to note what
            // a thread has to free at its end, the program is not asked.
            let by_libc = err.contains("Fatal glibc error");
            if ran.status.code() == Some(127) || err.contains("loading shared libraries") || by_libc {
                continue;
            }
            let sentences = err.lines().filter(|l| l.starts_with("error: ")).count();
            match ran.status.code() {
                Some(0) => done += 1,
                Some(1) if sentences == 1 => failed += 1,
                _ => panic!("{limit} MiB: {:?}: {:?}: {err}", ran.status, all[0]),
            }
        }
    }
    assert!(done > 20 && failed > 5, "{done} done, {failed} failed: nothing was tested");
    assert_no_leftovers(&run);
}
