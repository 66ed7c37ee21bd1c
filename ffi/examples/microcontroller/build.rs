//! Takes the model from the directory `STRATA_MODEL`, which `strata convert --to int8 RUN DIR` makes (its `sae/`), and links
//! for the memory of the board.

use std::env::var;
use std::path::Path;

fn main() {
    let here = var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let model =
        var("STRATA_MODEL").unwrap_or_else(|_| panic!("STRATA_MODEL: expected the directory of a model in 8 bits"));
    let model = Path::new(&model).canonicalize().unwrap_or_else(|e| panic!("STRATA_MODEL={model}: {e}"));
    for (name, file) in [("MODEL_CFG", "cfg.json"), ("MODEL_WEIGHTS", "sae_weights.safetensors")] {
        let path = model.join(file);
        println!("cargo:rustc-env={name}={}", path.display());
        println!("cargo:rerun-if-changed={}", path.display());
    }
    println!("cargo:rustc-link-arg=-T{here}/board.ld");
    println!(
        "cargo:rerun-if-changed=board.ld\ncargo:rerun-if-changed=build.rs\ncargo:rerun-if-env-changed=STRATA_MODEL"
    );
}
