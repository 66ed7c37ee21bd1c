//! Compiles the kernels of the device path for the emulator, with the C++ compiler of the machine. Without one the tests of the
//! device path are left out with a warning, or are an error where `STRATA_REQUIRE_EMULATOR` is set.
use std::path::Path;
use std::process::Command;

/// The flags: products and sums are two roundings, as on a GPU. The library is there when the program starts, so that what each of
/// its threads has of its own is at a fixed place.
const FLAGS: [&str; 13] = [
    "-std=c++17",
    "-O2",
    "-ffp-contract=off",
    "-U_FORTIFY_SOURCE",
    "-Wall",
    "-Wextra",
    "-Wno-unknown-pragmas",
    "-DSTRATA_EMULATED",
    "-fPIC",
    "-ftls-model=initial-exec",
    "-shared",
    "-x",
    "c++",
];

fn main() {
    println!("cargo:rustc-check-cfg=cfg(emulator)");
    for name in ["STRATA_REQUIRE_EMULATOR", "CXX"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let folder = Path::new("../core/src/device/cu");
    println!("cargo:rerun-if-changed={}", folder.display());
    let out = std::env::var("OUT_DIR").expect("cargo sets it");
    match build(folder, &out) {
        Ok(()) => {
            println!("cargo:rustc-cfg=emulator");
            // A shared library, in place of which .ci/mutations loads others.
            println!("cargo:rustc-link-search=native={out}\ncargo:rustc-link-lib=dylib=strata_kernels");
            println!("cargo:rustc-link-arg=-Wl,-rpath,{out}");
            println!("cargo:rustc-env=STRATA_KERNELS_LIBRARY={out}/libstrata_kernels.so");
        }
        Err(why) if std::env::var("STRATA_REQUIRE_EMULATOR").is_ok_and(|v| !v.is_empty()) => {
            panic!("the emulator: {why}")
        }
        Err(why) => println!("cargo:warning=the tests of the device path are left out: {why}"),
    }
}

fn build(folder: &Path, out: &str) -> Result<(), String> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    // A fused multiply-add in software has the same bits, but is slow.
    let is_x86 = std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64");
    let mut command = Command::new(compiler);
    command.args(FLAGS).args(is_x86.then_some("-mfma")).arg(folder.join("kernels.cu"));
    match command.arg("-o").arg(format!("{out}/libstrata_kernels.so")).output() {
        Err(error) => Err(format!("{command:?}: {error}")),
        Ok(done) if !done.status.success() => Err(format!("{command:?}: {}", String::from_utf8_lossy(&done.stderr))),
        Ok(_) => Ok(()),
    }
}
