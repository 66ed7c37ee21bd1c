//! Compiles the kernels of the device path for the emulator, with the C++ compiler of the machine. Without one the tests of the
//! device path are left out with a warning, or are an error where `STRATA_REQUIRE_EMULATOR` is set.
use std::path::Path;
use std::process::Command;

/// The flags: products and sums are two roundings, as on a GPU.
const FLAGS: [&str; 11] = [
    "-std=c++17",
    "-O2",
    "-ffp-contract=off",
    "-U_FORTIFY_SOURCE",
    "-Wall",
    "-Wextra",
    "-Wno-unknown-pragmas",
    "-DSTRATA_EMULATED",
    "-fPIC",
    "-x",
    "c++",
];

fn main() {
    println!("cargo:rustc-check-cfg=cfg(emulator)");
    for name in ["STRATA_CU", "STRATA_REQUIRE_EMULATOR", "CXX"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    // Another folder of kernels: .ci/mutations breaks them one way at a time.
    let folder = std::env::var("STRATA_CU").unwrap_or_else(|_| "../core/src/device/cu".into());
    println!("cargo:rerun-if-changed={folder}");
    let out = std::env::var("OUT_DIR").expect("cargo sets it");
    match build(Path::new(&folder), &out) {
        Ok(()) => {
            println!("cargo:rustc-cfg=emulator");
            println!("cargo:rustc-link-search={out}\ncargo:rustc-link-lib=static=kernels\ncargo:rustc-link-lib=stdc++");
        }
        Err(why) if std::env::var("STRATA_REQUIRE_EMULATOR").is_ok_and(|v| !v.is_empty()) => {
            panic!("the emulator: {why}")
        }
        Err(why) => println!("cargo:warning=the tests of the device path are left out: {why}"),
    }
}

fn build(folder: &Path, out: &str) -> Result<(), String> {
    let run = |command: &mut Command| match command.output() {
        Err(error) => Err(format!("{command:?}: {error}")),
        Ok(done) if !done.status.success() => Err(format!("{command:?}: {}", String::from_utf8_lossy(&done.stderr))),
        Ok(_) => Ok(()),
    };
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let (object, library) = (format!("{out}/kernels.o"), format!("{out}/libkernels.a"));
    // A fused multiply-add in software has the same bits, but is slow.
    let is_x86 = std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64");
    let fma = is_x86.then_some("-mfma");
    run(Command::new(compiler).args(FLAGS).args(fma).arg("-c").arg(folder.join("kernels.cu")).args(["-o", &object]))?;
    let _ = std::fs::remove_file(&library);
    run(Command::new("ar").args(["crs", &library, &object]))
}
