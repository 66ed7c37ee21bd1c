//! The committed PTX is that of the committed kernels: what can be said of it without a compiler for it.

use std::fs;
use std::path::{Path, PathBuf};
use strata_core::device::{NAMES, PTX};

const REGISTERS: &str = include_str!("../../core/src/device/cu/registers.txt");

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/src/device/cu")
}

#[test]
fn the_ptx_is_that_of_the_sources() {
    let is_source = |path: &PathBuf| path.extension().is_some_and(|e| e == "cu" || e == "cuh");
    let mut sources: Vec<PathBuf> =
        fs::read_dir(folder()).expect("the kernels").map(|e| e.expect("a file").path()).collect();
    sources.retain(is_source);
    sources.sort();
    assert_eq!(sources.len(), 8, "files of kernels: {sources:?}");
    let bytes: Vec<u8> = sources.iter().flat_map(|path| fs::read(path).expect("a file of kernels")).collect();
    let first = PTX.lines().next().expect("a first line");
    let expected = format!("// sha256 of the sources: {}", strata_cli::checkpoint::sha256(&bytes));
    assert_eq!(first, expected, "the kernels have changed: run .ci/gpu --write");
}

#[test]
fn the_ptx_has_every_kernel_and_only_operations_that_round_to_the_nearest() {
    let entries: Vec<&str> = PTX.lines().filter_map(|line| line.strip_prefix(".visible .entry ")).collect();
    assert_eq!(entries.len(), NAMES.len(), "kernels of the PTX");
    for name in NAMES {
        assert!(entries.contains(&format!("{name}(").as_str()), "{name} is not in the PTX");
    }
    for word in ["ftz", ".approx", "fma.rz", "mad.f32"] {
        assert!(!PTX.contains(word), "the PTX has {word}");
    }
}

#[test]
fn no_kernel_spills_registers() {
    let mut lines = REGISTERS.lines();
    assert_eq!(lines.next(), Some("architecture kernel registers shared_bytes stack_bytes spill_bytes"));
    let rows: Vec<Vec<&str>> = lines.map(|line| line.split(' ').collect()).collect();
    for architecture in ["sm_80", "sm_90"] {
        for name in NAMES {
            let row = rows.iter().find(|row| row[0] == architecture && row[1] == name);
            let row = row.unwrap_or_else(|| panic!("{name} on {architecture} is not in registers.txt"));
            assert_eq!(row[4..], ["0", "0"], "stack and spills of {name} on {architecture}");
        }
    }
    assert_eq!(rows.len(), 2 * NAMES.len(), "kernels of registers.txt");
}
