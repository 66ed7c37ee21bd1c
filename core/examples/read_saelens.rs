//! Reads an SAE that another tool has saved (SAELens, Gemma Scope, sparsify, Llama Scope, ...), encodes rows and
//! decodes them.
//!
//! ```sh
//! cargo run --release -p strata-sae-core --example read_saelens -- DIRECTORY
//! ```
//!
//! Without an argument it reads a top-k SAE of SAELens and the rows beside it, and compares the reconstruction with the
//! one that SAELens computed.

#![allow(clippy::disallowed_macros, reason = "an example prints")]

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::SafeTensors;
use strata_core::format::formats::{Choices, Files, load};
use strata_core::format::npy::NpyHeader;
use strata_core::model::{Scratch, SharedBytes};
use strata_core::{Codes, Compute, Encoder, Isa, Par};

/// The files of a directory. The core recognises a format by their names and reads what it needs through this trait; a
/// host may map files, fetch them, or have them in memory.
struct Directory(PathBuf);

impl Files for Directory {
    fn named(&self) -> Option<&str> {
        None
    }

    fn path(&self) -> String {
        self.0.display().to_string()
    }

    fn list(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    fn has(&self, name: &str) -> bool {
        self.0.join(name).exists()
    }

    fn read(&self, name: &str) -> strata_core::Result<SharedBytes> {
        let path = self.0.join(name);
        let bytes = fs::read(&path).map_err(|e| strata_core::Error::file(format!("{}: {e}", path.display())))?;
        Ok(Arc::new(bytes))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    run(std::env::args_os().nth(1).map(PathBuf::from))
}

/// Encodes and decodes rows with the model in `directory`, or with the fixture.
pub fn run(directory: Option<PathBuf>) -> Result<(), Box<dyn Error>> {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/fixtures/saelens-topk");
    let is_fixture = directory.is_none();
    let dir = Directory(directory.unwrap_or_else(|| fixture.join("model")));

    let loaded = load(&dir, &Choices::default())?;
    for note in &loaded.notes {
        // Assumptions about what no file tells.
        println!("note: {note}");
    }
    let arch = loaded.model.arch;
    println!(
        "{}: {} latents of width {}, {}, L0 {}",
        loaded.format.title, arch.level[0].latents, arch.d, arch.level[0].activation, arch.level[0].k
    );

    let x = if is_fixture { read_npy(&fixture.join("input.npy"))? } else { vec![1.0; arch.d] };
    let mut scratch = Scratch::new(&arch);
    let encoder = Encoder::new(Arc::new(loaded.model), Compute::new(Isa::detect(), Par::Seq))?;
    // A flat SAE is a model whose level 2 is empty.
    let (mut codes, mut none) = (Codes::new(), Codes::new());
    encoder.encode(&x, &mut scratch, &mut codes, &mut none)?;
    let z = codes.row(0);
    let shown: Vec<String> = z.index.iter().zip(z.value).map(|(j, z)| format!("{j}={z:.3}")).collect();
    println!("row 0: {}", shown.join(" "));

    // Some models normalise each row or have a skip connection, so that decoding needs the rows too.
    let mut x_hat = vec![0.0; codes.n() * arch.d_out()];
    let mut same = x_hat.clone();
    encoder.decode_of(&x, &codes, &none, &mut x_hat, &mut same)?;
    if is_fixture {
        let bytes = fs::read(fixture.join("expected.safetensors"))?;
        let file = SafeTensors::deserialize(&bytes)?;
        let theirs: Vec<f32> = file
            .tensor("reconstruction")?
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        let difference = x_hat.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("largest difference from the reconstruction of SAELens: {difference:.1e}");
        if difference > 1e-5 {
            return Err("the reconstruction is not that of SAELens".into());
        }
    }
    Ok(())
}

/// Reads a `.npy` file of f32 rows.
fn read_npy(path: &Path) -> Result<Vec<f32>, Box<dyn Error>> {
    let bytes = fs::read(path)?;
    let header = NpyHeader::parse(&bytes)?;
    Ok(bytes[header.data_offset..].chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}
