//! Errors in plain words, without error numbers of the operating system and without names of Rust types.

use anyhow::anyhow;
use std::io::{self, ErrorKind};
use std::path::Path;

/// Names of types in messages of serde, with words for them.
const TYPES: [(&str, &str); 12] = [
    ("usize", "a whole number from 0 on"),
    ("u64", "a whole number from 0 on"),
    ("u32", "a whole number from 0 on"),
    ("u16", "a whole number from 0 on"),
    ("u8", "a whole number from 0 to 255"),
    ("isize", "a whole number"),
    ("i64", "a whole number"),
    ("i32", "a whole number"),
    ("f64", "a number"),
    ("f32", "a number"),
    ("a sequence", "a list"),
    ("a map", "a table of keys and values"),
];

/// Phrases of the operating system or a library, with the phrase that is used everywhere in this program.
const PHRASES: [(&str, &str); 5] = [
    ("No space left on device", DISK_FULL),
    ("Cannot allocate memory", OUT_OF_MEMORY),
    ("File too large", TOO_LARGE),
    ("invalid type: ", "found "),
    ("invalid value: ", "found "),
];

const DISK_FULL: &str = "the disk is full";
const OUT_OF_MEMORY: &str = "out of memory";
const TOO_LARGE: &str = "the file would be too large for the limit of the system or of `ulimit -f`";

/// Returns the reason of an error, without the number that the operating system has for it.
pub fn io(error: &io::Error) -> String {
    let known = match error.kind() {
        ErrorKind::StorageFull => DISK_FULL,
        ErrorKind::FileTooLarge => TOO_LARGE,
        ErrorKind::QuotaExceeded => "the disk quota is used up",
        ErrorKind::NotFound => "no such file or directory",
        ErrorKind::PermissionDenied => "permission denied",
        ErrorKind::ReadOnlyFilesystem => "the file system is read-only",
        ErrorKind::OutOfMemory => OUT_OF_MEMORY,
        ErrorKind::IsADirectory => "it is a directory",
        ErrorKind::NotADirectory => "a part of its path is a file, not a directory",
        ErrorKind::AlreadyExists => "it exists already",
        ErrorKind::InvalidFilename => "the name is too long",
        _ => return plain(&error.to_string()),
    };
    known.to_owned()
}

/// Returns an error of one sentence: the action (`reading`, `writing`), the path, and the reason.
pub fn io_error(doing: &str, path: &Path, error: &io::Error) -> anyhow::Error {
    anyhow!("{doing} `{}`: {}", path.display(), io(error))
}

/// Returns one sentence of an error and its causes. A cause whose words are already in the sentence is left out: errors
/// of libraries often repeat their cause.
pub fn sentence(error: &anyhow::Error) -> String {
    let mut sentence = String::new();
    for cause in error.chain() {
        let words = match cause.downcast_ref::<io::Error>() {
            Some(error) if error.raw_os_error().is_some() => io(error),
            _ => plain(&cause.to_string()),
        };
        if sentence.is_empty() {
            sentence = words;
        } else if !sentence.contains(&words) {
            sentence.push_str(": ");
            sentence.push_str(&words);
        }
    }
    sentence
}

/// Rewrites the parts of messages of the operating system and of serde that are meant for programmers.
fn plain(text: &str) -> String {
    let mut text = text.to_owned();
    while let Some(at) = text.find(" (os error ") {
        let Some(n) = text[at..].find(')') else { break };
        text.replace_range(at..=at + n, "");
    }
    for (theirs, ours) in PHRASES {
        text = text.replace(theirs, ours);
    }
    for (theirs, ours) in TYPES {
        let theirs = format!("expected {theirs}");
        let mut from = 0;
        while let Some(at) = text[from..].find(&theirs).map(|at| from + at) {
            let end = at + theirs.len();
            if text[end..].starts_with(|c: char| c.is_alphanumeric() || c == '_') {
                from = end;
                continue;
            }
            text.replace_range(at + "expected ".len()..end, ours);
            from = at + "expected ".len() + ours.len();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{io, plain, sentence};
    use anyhow::{Context as _, anyhow};
    use std::io::Error;

    #[test]
    fn messages_of_libraries_are_reworded() {
        for (theirs, ours) in [
            ("No such file or directory (os error 2)", "No such file or directory"),
            ("a (os error 2): b (os error 13)", "a: b"),
            ("I/O error: No space left on device (os error 28)", "I/O error: the disk is full"),
            (
                "invalid type: string \"a\", expected usize at line 1 column 9",
                "found string \"a\", expected a whole number from 0 on at line 1 column 9",
            ),
            ("invalid type: null, expected f32", "found null, expected a number"),
            ("expected usize_like and expected usize", "expected usize_like and expected a whole number from 0 on"),
            ("expected a sequence", "expected a list"),
        ] {
            assert_eq!(plain(theirs), ours);
        }
    }

    #[test]
    fn a_sentence_says_nothing_twice() {
        let full = || Error::from_raw_os_error(28);
        assert_eq!(io(&full()), "the disk is full");
        let library = anyhow!(full()).context(format!("I/O error: {}", full())).context("writing `x`");
        assert_eq!(sentence(&library), "writing `x`: I/O error: the disk is full");
        let ours: anyhow::Result<()> = Err(Error::from_raw_os_error(2)).context("reading x");
        assert_eq!(sentence(&ours.expect_err("an error")), "reading x: no such file or directory");
    }
}
