//! Gives the shared library its soname: the number changes with `STRATA_ABI_VERSION`.
#![allow(clippy::disallowed_macros, reason = "cargo reads what a build script prints")]

fn main() {
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libstrata.so.1");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
