//! `--device` and `strata device`: every sentence about a GPU that is not there, with a driver made for the test; and what does not
//! change on a device.

use crate::cli::{args, command, finish, train};
use serde_json::Value;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds a driver that has `cuInit` and what counts GPUs, and returns its folder; none without a C compiler.
fn fake_driver(folder: &Path) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("c/libcuda.c");
    let library = folder.join("libcuda.so");
    let done = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).status().ok()?;
    std::fs::copy(&library, folder.join("libcuda.so.1")).ok()?;
    done.success().then(|| folder.to_owned())
}

/// `strata` with the driver of the test, of so many GPUs with a compute capability.
fn with_gpus(args: &[OsString], driver: &Path, gpus: u32, capability: u32) -> Command {
    let mut command = command(args);
    command.env("LD_LIBRARY_PATH", driver).env_remove("STRATA_DEVICE");
    command.env("STRATA_FAKE_GPUS", gpus.to_string()).env("STRATA_FAKE_CAPABILITY", capability.to_string());
    command
}

#[test]
#[cfg(target_os = "linux")]
fn a_gpu_that_cannot_be_used_is_one_sentence() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(driver) = fake_driver(dir.path()) else { return };
    let (dump, run, out) = (dir.path().join("dump"), dir.path().join("run"), dir.path().join("codes"));
    crate::cli::write_dump(&dump, 600);
    train(&dump, &run, &[]);
    let encode = |device: &str| args!["encode", run, "--dump", dump, "--out", out, "--device", *device];
    let fails = |device: &str, gpus: u32, capability: u32, parts: &[&str]| {
        finish(with_gpus(&encode(device), &driver, gpus, capability)).fails(parts);
    };
    fails("cuda", 0, 90, &["--device cuda: an NVIDIA driver is present, but no GPU"]);
    fails("cuda:3", 2, 90, &["--device cuda:3: there are 2 GPUs, numbered from 0, and none has number 3"]);
    fails("cuda:1", 1, 90, &["--device cuda:1: there is 1 GPU, numbered from 0, and none has number 1"]);
    fails("cuda", 1, 70, &["--device cuda: GPU 0 has compute capability 7.0: 8.0 or newer is needed"]);
    let mut no_device = with_gpus(&encode("cuda"), &driver, 1, 90);
    no_device.env("STRATA_FAKE_INIT", "100");
    finish(no_device).fails(&["--device cuda: an NVIDIA driver is present, but no GPU"]);
    let mut broken = with_gpus(&encode("cuda"), &driver, 1, 90);
    broken.env("STRATA_FAKE_INIT", "999");
    finish(broken).fails(&["--device cuda: starting the driver: the NVIDIA driver says CUDA_ERROR_UNKNOWN"]);
    // What the environment says is named as what it is, and a flag comes before it.
    let mut by_variable = with_gpus(&args!["encode", run, "--dump", dump, "--out", out], &driver, 0, 90);
    by_variable.env("STRATA_DEVICE", "cuda");
    finish(by_variable).fails(&["STRATA_DEVICE=cuda: an NVIDIA driver is present, but no GPU"]);
    let mut wrong = with_gpus(&args!["encode", run, "--dump", dump, "--out", out], &driver, 0, 90);
    wrong.env("STRATA_DEVICE", "gpu");
    finish(wrong).fails(&["STRATA_DEVICE: expected cpu, cuda, cuda:N or auto, found `gpu`"]);
    assert!(!out.exists(), "nothing was written");

    // `auto` computes on the CPU instead, and says why.
    let ran = finish(with_gpus(&encode("auto"), &driver, 1, 75)).ok();
    assert!(ran.err.contains("--device auto: GPU 0 has compute capability 7.5: 8.0 or newer is needed; computing on the CPU"), "{}", ran.err);
    let codes = std::fs::read(&out).expect("the codes");
    let mut on_cpu = with_gpus(&args!["encode", run, "--dump", dump, "--out", out, "--force", "--device", "cpu"], &driver, 0, 90);
    on_cpu.env("STRATA_DEVICE", "cuda");
    finish(on_cpu).ok();
    assert_eq!(std::fs::read(&out).expect("the codes"), codes);
}

#[test]
#[cfg(target_os = "linux")]
fn the_list_of_gpus_says_why_there_is_none() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(driver) = fake_driver(dir.path()) else { return };
    let list = |more: &[&str], gpus: u32, capability: u32| {
        let mut all = args!["device", "--json"];
        all.extend(more.iter().map(OsString::from));
        finish(with_gpus(&all, &driver, gpus, capability))
    };
    let none = list(&[], 0, 90).ok().json();
    assert_eq!(none["gpus"], Value::Array(Vec::new()));
    assert_eq!(none["why"], "an NVIDIA driver is present, but no GPU");
    let old = list(&[], 2, 61).ok().json();
    assert_eq!(old["gpus"][1]["device"], "cuda:1");
    assert_eq!(old["gpus"][1]["why"], "GPU 1 has compute capability 6.1: 8.0 or newer is needed");
    let checked = list(&["--check"], 1, 61);
    assert_eq!(checked.code, 1, "no GPU passes the check");
    let text = finish(with_gpus(&args!["device"], &driver, 0, 90)).ok();
    assert_eq!(text.out, "no GPU: an NVIDIA driver is present, but no GPU\n");
}

#[test]
fn a_device_that_does_not_exist_is_a_wrong_command_line() {
    let ran = finish(command(&args!["encode", "run", "--out", "x", "--device", "cuda:x"]));
    assert_eq!(ran.code, 2, "{}", ran.err);
    assert!(ran.err.contains("expected cpu, cuda, cuda:N or auto, found `cuda:x`"), "{}", ran.err);
}

#[cfg(emulator)]
mod emulated {
    use super::*;
    use strata_cli::console::Console;
    use strata_cli::dump::{Dump, Source};
    use strata_cli::{encode, run::Run};
    use strata_core::Isa;
    use strata_core::model::WeightType;
    use strata_tests::emulator::device;

    #[test]
    fn encode_on_a_device_writes_the_file_of_the_cpu() {
        let dir = tempfile::tempdir().expect("a folder");
        let (dump, run) = (dir.path().join("dump"), dir.path().join("run"));
        crate::cli::write_dump(&dump, 600);
        train(&dump, &run, &[]);
        let (run, dump) = (Run::open(&run).expect("a run"), Source::new(std::slice::from_ref(&dump)).open().expect("a dump"));
        let files: Vec<Vec<u8>> = [None, Some(device(0)), Some(device(1))]
            .iter()
            .enumerate()
            .map(|(i, device)| {
                let out = dir.path().join(format!("codes-{i}"));
                let (weights, isa, dump): (_, _, &Dump) = (WeightType::F32, Isa::detect(), &dump);
                let job = encode::Job { run: &run, dump, out: &out, f16: false, weights, isa, device: device.as_ref() };
                let (mut said, mut warned) = (Vec::new(), Vec::new());
                let mut console = Console::new(&mut said, &mut warned, true, false);
                encode::encode(&job, &mut console).expect("codes");
                std::fs::read(out).expect("the file")
            })
            .collect();
        assert!(files[0] == files[1] && files[0] == files[2], "the files differ");
    }
}
