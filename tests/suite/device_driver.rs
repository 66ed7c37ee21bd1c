//! The program with a driver of NVIDIA whose GPUs are emulated (tests/c/libcuda.c): everything from `--device cuda` to the calls of the
//! driver runs as it does on a GPU.

use crate::cli::{D, Ran, args, finish, rows, train_args, tree, write_dump};
use crate::device_cli::{fake_driver, with_gpus};
use crate::ranks_cli::{start_commands, wait};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Latents for two ranks at level 2, and few steps.
const SETS: &[&str] = &["level2.latents=300", "train.steps=8", "revive.dead_after=150"];

/// A folder with a driver and a dump.
struct Machine {
    dir: TempDir,
    driver: PathBuf,
    dump: PathBuf,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let driver = fake_driver(dir.path()).expect("a driver: the emulator needs a compiler too");
        let dump = write_dump(&dir.path().join("dump"), &rows(600), D);
        Self { dir, driver, dump }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `strata` where the driver finds so many GPUs.
    fn command(&self, args: &[OsString], gpus: u32) -> Command {
        let mut command = with_gpus(args, &self.driver, gpus, 80);
        command.env("LD_PRELOAD", env!("STRATA_KERNELS_LIBRARY")).env("STRATA_FAKE_LOG", self.at("log"));
        command
    }

    /// A training on a device.
    fn train(&self, run: &str, device: &str, more: &[&str]) -> Vec<OsString> {
        let mut all = train_args(&self.dump, &self.at(run), SETS);
        all.extend(args!["--device", *device]);
        all.extend(more.iter().map(OsString::from));
        all
    }

    /// Runs a training in a process for each number of GPUs and device, with variables of the environment.
    fn train_over(&self, run: &str, ranks: &[(u32, &str)], variables: &[&[(&str, &str)]]) -> Vec<Ran> {
        let commands = ranks.iter().enumerate().map(|(rank, (gpus, device))| {
            let mut command = self.command(&self.train(run, device, &[]), *gpus);
            command.envs(variables.get(rank).into_iter().copied().flatten().copied());
            command
        });
        wait(start_commands(commands.collect()))
    }

    /// The GPUs that ranks have opened, in the order of the ranks.
    fn opened(&self) -> Vec<String> {
        let log = fs::read_to_string(self.at("log")).unwrap_or_default();
        let _ = fs::remove_file(self.at("log"));
        let mut lines: Vec<String> = log.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }
}

/// Every file of the model of a run, by its hash.
fn model(run: &Path) -> Vec<(String, String)> {
    let files: Vec<(String, String)> = tree(&run.join("sae")).into_iter().collect();
    assert!(files.len() > 1, "a model: {files:?}");
    files
}

#[test]
fn the_program_on_a_gpu_writes_the_files_of_the_cpu() {
    let machine = Machine::new();
    let list = finish(machine.command(&args!["device", "--json"], 2)).ok().json();
    assert_eq!(list["gpus"][1]["name"], "emulated GPU 1, compute capability 8.0", "{list}");
    assert_eq!(
        (list["gpus"][1]["device"].as_str(), list["gpus"][1]["memory"].as_u64()),
        (Some("cuda:1"), Some(4 << 30))
    );
    machine.opened();

    finish(machine.command(&machine.train("cpu", "cpu", &[]), 2)).ok();
    assert!(machine.opened().is_empty(), "a training on the CPU opens no GPU");
    let ran = finish(machine.command(&machine.train("gpu", "cuda:1", &["--verify", "3"]), 2)).ok();
    assert!(ran.err.contains("computing on emulated GPU 1"), "{}", ran.err);
    assert_eq!(machine.opened(), ["rank 0: GPU 1"]);
    assert_eq!(model(&machine.at("gpu")), model(&machine.at("cpu")));

    let (run, dump) = (machine.at("cpu"), &machine.dump);
    let files = ["cpu", "cuda"].map(|device| {
        let opened: &[&str] = if device == "cuda" { &["rank 0: GPU 0"] } else { &[] };
        let (codes, found) = (machine.at(&format!("codes-{device}")), machine.at(&format!("eval-{device}")));
        finish(machine.command(&args!["encode", run, "--dump", dump, "--out", codes, "--device", device], 1)).ok();
        assert_eq!(machine.opened(), opened, "encoding");
        finish(machine.command(&args!["eval", run, "--dump", dump, "--out", found, "--device", device], 1)).ok();
        assert_eq!(machine.opened(), opened, "evaluating");
        let of = ["eval.json", "latents.jsonl"].map(|name| fs::read(found.join(name)).expect("an evaluation"));
        (fs::read(codes).expect("codes"), of)
    });
    assert!(files[0] == files[1], "codes or evaluations differ");
}

#[test]
fn ranks_of_one_machine_take_its_gpus_in_turn() {
    let machine = Machine::new();
    finish(machine.command(&machine.train("solo", "cpu", &[]), 0)).ok();
    for ran in machine.train_over("ranks", &[(2, "cuda"), (2, "auto")], &[]) {
        ran.ok();
    }
    assert_eq!(machine.opened(), ["rank 0: GPU 0", "rank 1: GPU 1"]);
    assert_eq!(model(&machine.at("ranks")), model(&machine.at("solo")));
    // Launchers number the processes of a machine, which need not have the first ranks; there may be more of them than GPUs.
    let local: &[&[(&str, &str)]] =
        &[&[("OMPI_COMM_WORLD_LOCAL_RANK", "3")], &[("LOCAL_RANK", "2"), ("SLURM_LOCALID", "1")]];
    for ran in machine.train_over("local", &[(2, "cuda"), (2, "cuda")], local) {
        ran.ok();
    }
    assert_eq!(machine.opened(), ["rank 0: GPU 1", "rank 1: GPU 0"]);
    assert_eq!(model(&machine.at("local")), model(&machine.at("solo")));
}

#[test]
fn all_ranks_compute_on_gpus_or_none_does() {
    let machine = Machine::new();
    // Where some have none, `auto` does without.
    let ran = machine.train_over("auto", &[(1, "auto"), (0, "auto")], &[]);
    let said = "rank 0 has a GPU, and rank 1 none; computing on the CPU";
    assert!(ran[0].err.contains(said), "{}", ran[0].err);
    ran.into_iter().for_each(|ran| drop(ran.ok()));
    finish(machine.command(&machine.train("solo", "cpu", &[]), 0)).ok();
    assert_eq!(model(&machine.at("auto")), model(&machine.at("solo")));
    // A GPU that was asked for, and is not there, or that only one rank asks for: one rank says it, and all end.
    for (ranks, said) in [
        ([(1, "cuda"), (0, "cuda")], "rank 1: --device cuda: an NVIDIA driver is present, but no GPU"),
        (
            [(1, "cpu"), (1, "cuda")],
            "--device: expected a GPU on all ranks or on none: rank 1 has a GPU, and rank 0 none",
        ),
    ] {
        let ran = machine.train_over("none", &ranks, &[]);
        assert!(ran.iter().all(|ran| ran.code == 1), "{ranks:?}");
        let errors: Vec<&str> =
            ran.iter().flat_map(|ran| ran.err.lines()).filter(|l| l.starts_with("error: ")).collect();
        assert!(errors.len() == 1 && errors[0].contains(said), "{errors:?}");
        assert!(!machine.at("none").join("sae").exists());
    }
}
