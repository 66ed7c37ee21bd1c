//! Encodes rows of activations with a saved model, and prints the parents and children that fire.
//!
//! ```sh
//! cargo run --release -p strata-sae-core --example encode -- RUN/sae ROWS.npy
//! ```
//!
//! Without arguments it reads the small model in `tests/golden/sae` and encodes one row of ones.

#![allow(clippy::disallowed_macros, clippy::disallowed_methods, reason = "an example prints, and a host has std")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use strata_core::format::npy::NpyHeader;
use strata_core::format::weights::read_model;
use strata_core::model::Scratch;
use strata_core::{Codes, Compute, Encoder, Isa, Par, ROOT, Rows};

/// Number of rows that are printed.
const SHOWN: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    run(args.first().map(PathBuf::as_path), args.get(1).map(PathBuf::as_path))
}

/// Encodes the rows of the file `rows` with the model in the directory `model`.
pub fn run(model: Option<&Path>, rows: Option<&Path>) -> Result<(), Box<dyn Error>> {
    let dir = model.map_or_else(default_model, Path::to_owned);

    // The core does no I/O: parsers take bytes.
    let cfg = std::fs::read(dir.join("cfg.json"))?;
    let weights = std::fs::read(dir.join("sae_weights.safetensors"))?;
    let (model, _origin) = read_model(&cfg, &weights)?;
    let d = model.arch.d;
    let x = match rows {
        Some(path) => read_rows(path, d)?,
        None => vec![1.0; d],
    };

    let mut scratch = Scratch::new(&model.arch);
    let encoder = Encoder::new(Arc::new(model), Compute::new(Isa::detect(), Par::Seq))?;
    let (mut parents, mut children) = (Codes::new(), Codes::new());
    encoder.encode(&x, &mut scratch, &mut parents, &mut children)?;

    for i in 0..parents.n().min(SHOWN) {
        println!("row {i}");
        let (z1, z2) = (parents.row(i), children.row(i));
        for (latent, value) in z1.index.iter().zip(z1.value) {
            println!("  parent {latent} = {value:.4}");
        }
        for (&latent, value) in z2.index.iter().zip(z2.value) {
            // `parents` is empty in a model without families.
            match encoder.model().parents.get(latent as usize) {
                Some(&parent) if parent != ROOT => println!("  child {latent} of parent {parent} = {value:.4}"),
                _ => println!("  child {latent} = {value:.4}"),
            }
        }
    }

    let (mut x_hat1, mut x_hat2) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    encoder.decode(&parents, &children, &mut x_hat1, &mut x_hat2)?;
    println!("squared error: level 1 {:.4}, both levels {:.4}", squares(&x, &x_hat1), squares(&x, &x_hat2));
    Ok(())
}

fn default_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(1).expect("the workspace").join("tests/golden/sae")
}

/// Reads a `.npy` file of rows of width `d`, widened to f32.
fn read_rows(path: &Path, d: usize) -> Result<Vec<f32>, Box<dyn Error>> {
    let bytes = std::fs::read(path)?;
    let header = NpyHeader::parse(&bytes)?;
    let [n, width] = header.shape;
    if width != d {
        return Err(format!("{}: expected rows of width {d}, found {width}", path.display()).into());
    }
    let rows = Rows::new(&bytes[header.data_offset..], n, d, d * header.dtype.size_bytes(), header.dtype)?;
    let mut x = vec![0.0; n * d];
    rows.widen(0..n, &mut x);
    Ok(x)
}

fn squares(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum()
}
