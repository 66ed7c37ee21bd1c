//! Prints the proof of one instruction set: the best that this processor has, or the one that is named. With `--model DIR` it
//! writes the trained model in 8 bits instead, and prints what ffi/examples/microcontroller must print with it.
//! usage: host [scalar | avx2 | avx512 | neon | --model DIR]

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use strata_core::format::weights::{Origin, write_cfg, write_weights_int8};
use strata_core::{Compute, Isa, Par};

fn run(arguments: &[String]) -> Result<String, Box<dyn Error>> {
    let isa = match arguments {
        [flag, directory] if flag == "--model" => return microcontroller(Path::new(directory)),
        [] => Isa::detect(),
        [name] => Isa::named(name)?,
        _ => return Err("usage: host [scalar | avx2 | avx512 | neon | --model DIR]".into()),
    };
    let endian = if cfg!(target_endian = "little") { "little" } else { "big" };
    eprintln!("{}, {}, {} bits, {endian}-endian", std::env::consts::ARCH, isa.name(), usize::BITS);
    Ok(proof::prove(isa)?.lines())
}

fn microcontroller(directory: &Path) -> Result<String, Box<dyn Error>> {
    let isa = Isa::detect();
    let model = proof::train(Compute::new(isa, Par::Seq))?;
    let origin = Origin { hook: Some("sensor".into()), ..Origin::default() };
    fs::create_dir_all(directory)?;
    fs::write(directory.join("cfg.json"), write_cfg(&model.arch, &origin))?;
    fs::write(directory.join("sae_weights.safetensors"), write_weights_int8(&model)?)?;
    Ok(proof::microcontroller(model, isa)?)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("host: {error}");
            ExitCode::FAILURE
        }
    }
}
