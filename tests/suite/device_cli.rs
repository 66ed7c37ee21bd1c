//! `--device` and `strata device`: every sentence about a GPU that is not there, with a driver made for the test; and what does not
//! change on a device.

use crate::cli::{D, TINY, args, command, finish, rows, train, write_dump};
use serde_json::Value;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds the driver of tests/c/libcuda.c, and returns its folder; none without a C compiler.
pub fn fake_driver(folder: &Path) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("c/libcuda.c");
    let library = folder.join("libcuda.so");
    let done =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl").status().ok()?;
    std::fs::copy(&library, folder.join("libcuda.so.1")).ok()?;
    done.success().then(|| folder.to_owned())
}

/// `strata` with the driver of the test, of so many GPUs with a compute capability.
pub fn with_gpus(args: &[OsString], driver: &Path, gpus: u32, capability: u32) -> Command {
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
    write_dump(&dump, &rows(600), D);
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
    assert!(
        ran.err
            .contains("--device auto: GPU 0 has compute capability 7.5: 8.0 or newer is needed; computing on the CPU"),
        "{}",
        ran.err
    );
    let codes = std::fs::read(&out).expect("the codes");
    let mut on_cpu =
        with_gpus(&args!["encode", run, "--dump", dump, "--out", out, "--force", "--device", "cpu"], &driver, 0, 90);
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
    use std::collections::BTreeMap;
    use std::fs;
    use std::sync::Arc;
    use strata_cli::console::Console;
    use strata_cli::device::{SMALL_TRAININGS, Training, check_trainings};
    use strata_cli::dump::{Dump, Source};
    use strata_cli::{args, demo, encode, run::Run, train};
    use strata_core::model::WeightType;
    use strata_core::train::comm::Threads;
    use strata_core::train::{Comm, Solo};
    use strata_core::{Device, Isa};
    use strata_tests::emulator::{Flaw, device, flawed};

    /// A dump of a small world.
    fn world(folder: &Path) -> Dump {
        let path = write_dump(&folder.join("dump"), &rows(600), D);
        Source::new(&[path]).open().expect("a dump")
    }

    /// Trains, or continues a training, and returns the files of the run that do not name the machine.
    fn trained(
        dump: &Dump,
        run: &Path,
        resume: bool,
        device: Option<&Device>,
        verify: u64,
    ) -> BTreeMap<String, Vec<u8>> {
        train_rank(dump, run, resume, device, verify, &[], Arc::new(Solo));
        files_of(run)
    }

    /// Trains as one of several ranks.
    fn train_rank(
        dump: &Dump,
        run: &Path,
        resume: bool,
        device: Option<&Device>,
        verify: u64,
        more: &[&str],
        comm: Arc<dyn Comm>,
    ) {
        let sets: Vec<String> =
            TINY.iter().chain(&["train.checkpoint_every=18"]).chain(more).map(|set| (*set).to_owned()).collect();
        let config = train::settings_of(run, resume, None, None, &sets, None).expect("settings");
        let (isa, read_all) = (Isa::detect(), comm.is_solo());
        let job =
            train::Job { dump, target: None, run, config, resume, from: None, isa, device, verify, comm, read_all };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut console = Console { out: &mut out, err: &mut err, quiet: true, json: false, watch: None };
        assert_eq!(train::train(&job, &mut console).expect("a training"), train::End::Done, "how it ended");
    }

    /// Returns the model and the checkpoints of a run, by their names.
    fn files_of(run: &Path) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut folders = vec![run.join("sae"), run.join("checkpoints")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("a folder of the run") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(run).expect("of the run").display().to_string();
                    files.insert(name, fs::read(&path).expect("a file"));
                }
            }
        }
        files
    }

    /// Takes a finished run back to the checkpoint after `step`.
    fn take_back(run: &Path, step: u64) {
        let later = |path: &Path| {
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            let digits: String = name.chars().filter(char::is_ascii_digit).collect();
            digits.parse::<u64>().is_ok_and(|at| at > step)
        };
        let checkpoints =
            fs::read_dir(run.join("checkpoints")).expect("checkpoints").map(|e| e.expect("a file").path());
        let removed: Vec<PathBuf> = checkpoints.filter(|path| later(path)).collect();
        assert!(!removed.is_empty(), "checkpoints after step {step}");
        for path in removed {
            fs::remove_dir_all(path).expect("a checkpoint");
        }
        fs::remove_file(run.join("final_info.json")).expect("a finished run");
        fs::remove_dir_all(run.join("sae")).expect("a model");
    }

    #[test]
    fn a_training_on_a_device_writes_the_files_of_the_cpu_and_continues_anywhere() {
        let dir = tempfile::tempdir().expect("a folder");
        let dump = world(dir.path());
        let at = |name: &str| dir.path().join(name);
        let wanted = trained(&dump, &at("cpu"), false, None, 0);
        assert!(wanted.len() > 2, "files: {:?}", wanted.keys());
        let gpu = device(0);
        let on = trained(&dump, &at("device"), false, Some(&gpu), 0);
        assert!(on == wanted, "a training on a device");
        take_back(&at("device"), 18);
        assert!(trained(&dump, &at("device"), true, None, 0) == wanted, "from a device to the CPU");
        take_back(&at("cpu"), 18);
        assert!(trained(&dump, &at("cpu"), true, Some(&gpu), 4) == wanted, "from the CPU to a device, verified");
    }

    #[test]
    fn ranks_on_devices_write_the_model_of_one_process() {
        let dir = tempfile::tempdir().expect("a folder");
        let dump = &world(dir.path());
        let (solo, ranks) = (dir.path().join("solo"), &dir.path().join("ranks"));
        // Latents for two ranks at level 2.
        let more = ["level2.latents=300", "train.steps=12"];
        train_rank(dump, &solo, false, None, 0, &more, Arc::new(Solo));
        std::thread::scope(|scope| {
            for comm in Threads::new(2) {
                scope.spawn(move || train_rank(dump, ranks, false, Some(&device(0)), 0, &more, Arc::new(comm)));
            }
        });
        let model = |run: &Path| -> BTreeMap<String, Vec<u8>> {
            files_of(run).into_iter().filter(|(name, _)| name.starts_with("sae")).collect()
        };
        assert!(!model(&solo).is_empty() && model(&solo) == model(ranks), "the models differ");
    }

    /// Runs the demo on some of a text, and returns its model and what it says of it.
    fn shown(out: &Path, device: Option<&Device>) -> (BTreeMap<String, Vec<u8>>, Value) {
        let sets = ["level1.latents=24", "level2.latents=60", "train.steps=16", "train.batch=64", "gate.start=0.7"];
        let args = args::Demo {
            out: out.to_owned(),
            model: Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("../cli/assets/char-gpt")),
            text: None,
            hook: None,
            max_tokens: 1500,
            settings: args::Settings { preset: None, config: None, sets: sets.map(str::to_owned).to_vec(), seed: None },
            device: args::DeviceFlag { device: None },
        };
        let (mut said, mut err) = (Vec::new(), Vec::new());
        let mut console = Console { out: &mut said, err: &mut err, quiet: true, json: true, watch: None };
        assert_eq!(demo::demo(&args, Isa::detect(), device, &mut console).expect("a demo"), 0, "the exit status");
        // The last of what it says; the capture has said how much it took.
        let said = serde_json::Deserializer::from_slice(&said).into_iter::<Value>().last();
        let mut said = said.expect("a line").expect("what it says");
        (files_of(&out.join("run")), said["evaluation"].take())
    }

    #[test]
    fn the_demo_on_a_device_shows_what_it_shows_on_the_cpu() {
        let dir = tempfile::tempdir().expect("a folder");
        let (wanted, said) = shown(&dir.path().join("cpu"), None);
        let (found, on) = shown(&dir.path().join("device"), Some(&device(0)));
        assert!(wanted.len() > 1 && found == wanted, "the models differ");
        assert!(said.is_object(), "an evaluation: {said}");
        assert_eq!(on, said, "the evaluations differ");
    }

    #[test]
    fn encode_on_a_device_writes_the_file_of_the_cpu() {
        let dir = tempfile::tempdir().expect("a folder");
        let dump = world(dir.path());
        trained(&dump, &dir.path().join("run"), false, None, 0);
        let run = Run::open(&dir.path().join("run")).expect("a run");
        let devices = [None, Some(device(0)), Some(device(1))];
        let files = devices.iter().enumerate().map(|(i, device)| {
            let out = dir.path().join(format!("codes-{i}"));
            let (weights, isa, device) = (WeightType::F32, Isa::detect(), device.as_ref());
            let comm = &Solo;
            let job = encode::Job { run: &run, dump: &dump, out: &out, f16: false, weights, isa, device, comm };
            let (mut said, mut err) = (Vec::new(), Vec::new());
            let mut console = Console { out: &mut said, err: &mut err, quiet: true, json: false, watch: None };
            encode::encode(&job, &mut console).expect("codes");
            fs::read(out).expect("the file")
        });
        let files: Vec<Vec<u8>> = files.collect();
        assert!(files[0] == files[1] && files[0] == files[2], "the files differ");
    }

    #[test]
    fn trainings_that_the_command_compares_are_those_of_the_cpu() {
        let of = Training { steps: 4, ..SMALL_TRAININGS[1] };
        assert_eq!(check_trainings(&device(1), Isa::detect(), of).expect("the same bits"), 4);
    }

    #[test]
    fn what_the_command_compares_names_the_first_bit_that_differs() {
        let flaw = Flaw { kernel: "adam_rows", after: 7, counts: 2, arg: 8, index: 5 };
        let why = check_trainings(&flawed(flaw), Isa::detect(), SMALL_TRAININGS[1]).expect_err("a bit that differs");
        let why = why.to_string();
        assert!(why.contains("step 1: number 5 of `params.b_dec` is "), "{why}");
    }

    /// Arguments of a `train::Job` that is verified at every step.
    fn verified(dump: &Dump, run: &Path, device: &Device) -> String {
        let sets: Vec<String> = TINY.iter().map(|set| (*set).to_owned()).collect();
        let config = train::settings_of(run, false, None, None, &sets, None).expect("settings");
        let device = Some(device);
        let job = train::Job {
            dump,
            target: None,
            run,
            config,
            resume: false,
            from: None,
            isa: Isa::detect(),
            device,
            verify: 1,
            comm: Arc::new(Solo),
            read_all: false,
        };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut console = Console { out: &mut out, err: &mut err, quiet: true, json: false, watch: None };
        train::train(&job, &mut console).expect_err("a bit that differs").to_string()
    }

    #[test]
    fn verify_stops_at_the_first_bit_that_differs_and_names_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let dump = world(dir.path());
        // Seven tensors are updated in each step: the decoder of level 1 in the fifth, the encoder of level 2 in the second.
        for (after, tensor, step, index) in [(4 * 7 + 3, "level1.w_dec", 4, 17), (7 + 4, "level2.w_enc", 1, 0)] {
            let flaw = Flaw { kernel: "adam_rows", after, counts: 2, arg: 8, index };
            let why = verified(&dump, &dir.path().join(format!("run-{step}")), &flawed(flaw));
            let named = format!("--verify: after step {step}, number {index} of `params.{tensor}` is ");
            assert!(why.starts_with(&named) && why.ends_with(" on the CPU"), "{why}");
        }
    }
}
