#!/usr/bin/env python3
"""Strata on a GPU beside itself on the CPU of the same machine: first every bit, then time.

    cargo build --release -p strata-sae --features cuda
    python3 benches/gpu/run.py --out DIR            (needs a GPU of NVIDIA; no package beside Python's own)

Writes DIR/gpu.json, a copy of it to benches/results/NAME.json with --name NAME (h200), and prints its table. It stops at the first
bit that differs: a time of wrong numbers is worth nothing. About six minutes on 16 cores; each part says when it ends.

1. `strata device --check`: every kernel and small trainings against the CPU, at boundary and full sizes.
2. Trainings of a few steps with `--verify 1`, flat and with two levels: each step against the CPU.
3. The time of a step on both, and of encoding; the files of codes must be equal.

--rehearse does all of this without a GPU, with small models and the CPU in its place: whether everything runs. Its figures are of no
use, and it writes nothing outside of DIR.
"""

import argparse
import datetime
import filecmp
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

# Width, latents of both levels, k of both, rows of a batch, and steps that are timed on the GPU and on the CPU.
SHAPES = {
    "flat": dict(d=768, latents=(24_576, 0), k=(32, 1), batch=4096, steps=(200, 10)),
    "two levels": dict(d=768, latents=(1536, 24_576), k=(16, 24), batch=4096, steps=(200, 10)),
}
ROWS = 262_144
# A minute on two cores: whether everything runs, not how fast.
QUICK = {
    "flat": dict(d=64, latents=(256, 0), k=(8, 1), batch=256, steps=(12, 6)),
    "two levels": dict(d=64, latents=(64, 512), k=(4, 6), batch=256, steps=(12, 6)),
}
QUICK_ROWS = 8192


class Strata:
    """The program; it ends this one with what it has said where it fails."""

    def __init__(self, path, clock):
        self.path, self.clock = path.resolve(), clock

    def run(self, *words, may_fail=False):
        started = time.perf_counter()
        command = [str(self.path), *map(str, words)]
        # What the environment says about devices would be taken for an answer of ours.
        environment = {key: value for key, value in os.environ.items() if key != "STRATA_DEVICE"}
        ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        if ran.returncode and not may_fail:
            sys.exit(f"{' '.join(command)}\nended with {ran.returncode}\n{ran.stdout}{ran.stderr}")
        return ran, time.perf_counter() - started

    def json(self, *words, may_fail=False):
        ran, _ = self.run(*words, "--json", may_fail=may_fail)
        try:
            return json.loads(ran.stdout)
        except json.JSONDecodeError:
            sys.exit(f"strata {' '.join(map(str, words))}: expected JSON, found\n{ran.stdout}{ran.stderr}")

    def say(self, what):
        print(f"[{time.perf_counter() - self.clock:7.1f} s] {what}", flush=True)


def ordinal(device):
    """The place of cuda or cuda:N in the list of GPUs."""
    return int(device.partition(":")[2] or 0)


def gpus(strata, device):
    """The GPUs that can be used and what the check has found; one sentence where `device` is not among them."""
    found = strata.json("device")
    if not found["gpus"]:
        sys.exit(f"run.py: there is no GPU to measure: {found.get('why', 'none was found')}; --rehearse tries this program without one")
    if ordinal(device) >= len(found["gpus"]):
        sys.exit(f"run.py: --device {device}: there are {len(found['gpus'])} GPUs")
    gpu = found["gpus"][ordinal(device)]
    if gpu.get("why"):
        sys.exit(f"run.py: {device} cannot be measured: {gpu['why']}")
    strata.say(f"{gpu['name']}: comparing every kernel with the CPU")
    checked = strata.json("device", "--check", may_fail=True)["gpus"]
    if checked[ordinal(device)].get("why"):
        sys.exit(f"run.py: {device} does not have the bits of the CPU: {checked[ordinal(device)]['why']}")
    strata.say(f"{checked[ordinal(device)]['checked']} comparisons with the CPU, every bit the same")
    return checked


def machine():
    """The driver, the clocks and the CPU, where they can be asked for."""
    fields = "name,driver_version,clocks.max.sm,clocks.max.mem,power.limit"
    try:
        asked = subprocess.run(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"], capture_output=True, text=True)
        smi = asked.stdout.strip().splitlines() if asked.returncode == 0 else []
    except OSError:
        smi = []
    return {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "nvidia_smi": smi}


def measure(strata, name, shape, rows, device, out):
    """The times of one shape on the CPU and on the device, which are compared before."""
    dump = out / f"rows-{shape['d']}-{rows}"
    if not dump.exists():
        strata.run("synth", "--world", "a", "--rows", rows, "--set", f"d={shape['d']}", "--out", dump)
    sets = [f"level{l + 1}.latents={f}" for l, f in enumerate(shape["latents"])]
    sets += [f"level{l + 1}.k={k}" for l, k in enumerate(shape["k"])]
    sets += [f"train.batch={shape['batch']}", "gate.start=0.5", "train.log_every=1", "train.checkpoint_every=0"]
    if shape["latents"][1] == 0:
        sets.append("gate.kind=none")

    def train(where, steps, *more):
        run = out / f"run-{name.replace(' ', '-')}-{where.replace(':', '-')}"
        shutil.rmtree(run, ignore_errors=True)
        flags = [word for s in [*sets, f"train.steps={steps}"] for word in ("--set", s)]
        strata.run("train", "--dump", dump, "--out", run, "--device", where, *flags, *more)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        # The first steps make room, and the first guesses.
        speeds = sorted(line["tokens_per_s"] for line in lines[len(lines) // 4 :])
        return run, 1e3 * shape["batch"] / speeds[len(speeds) // 2]

    train(device, 6, "--verify", 1)
    strata.say(f"{name}: six steps have the bits of the CPU")
    steps_gpu, steps_cpu = shape["steps"]
    _, cpu_ms = train("cpu", steps_cpu)
    strata.say(f"{name}: a step on the CPU takes {cpu_ms:.1f} ms")
    run, gpu_ms = train(device, steps_gpu)
    strata.say(f"{name}: a step on the device takes {gpu_ms:.1f} ms")
    codes, seconds = {}, {}
    for side, where in (("cpu", "cpu"), ("gpu", device)):
        codes[side] = out / f"codes-{name.replace(' ', '-')}-{side}"
        _, seconds[side] = strata.run("encode", run, "--dump", dump, "--out", codes[side], "--force", "--device", where)
    if not filecmp.cmp(codes["cpu"], codes["gpu"], shallow=False):
        sys.exit(f"run.py: {name}: the codes of {device} are not those of the CPU")
    for path in codes.values():
        path.unlink()
    strata.say(f"{name}: {rows} rows have the codes of the CPU")
    return {"name": name, **shape, "step_ms": {"cpu": cpu_ms, "gpu": gpu_ms}, "encode_s": seconds}


def table(result):
    """The lines of the table."""
    lines = [f"{'model':<12}{'step, CPU':>12}{'step, GPU':>12}{'encode, CPU':>14}{'encode, GPU':>14}"]
    for run in result["runs"]:
        step, encode = run["step_ms"], run["encode_s"]
        times = f"{step['cpu']:>9.1f} ms{step['gpu']:>9.1f} ms{encode['cpu']:>12.1f} s{encode['gpu']:>12.1f} s"
        lines.append(f"{run['name']:<12}{times}")
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strata", type=Path, default=ROOT / "target/release/strata")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda", help="cuda, or cuda:N")
    parser.add_argument("--name", help="copy the result to benches/results/NAME.json")
    parser.add_argument("--quick", action="store_true", help="small models: whether everything runs, not how fast")
    parser.add_argument("--rehearse", action="store_true", help="small models, with the CPU in place of the GPU")
    args = parser.parse_args()
    if not args.strata.is_file():
        sys.exit(f"run.py: {args.strata} is missing: cargo build --release -p strata-sae --features cuda")
    if args.rehearse and args.name:
        sys.exit("run.py: --rehearse measures no GPU, so that --name has nothing to keep")
    strata = Strata(args.strata, time.perf_counter())
    small = args.quick or args.rehearse
    shapes, rows = (QUICK, QUICK_ROWS) if small else (SHAPES, ROWS)
    device = "cpu" if args.rehearse else args.device
    devices = [] if args.rehearse else gpus(strata, device)
    args.out.mkdir(parents=True, exist_ok=True)
    result = {
        "date": datetime.date.today().isoformat(), "rehearsal": args.rehearse, "quick": small, "device": device,
        "devices": devices, "machine": machine(), "rows": rows, "runs": [],
    }
    for name, shape in shapes.items():
        result["runs"].append(measure(strata, name, shape, rows, device, args.out))
        # After each shape, so that a machine that is taken away leaves what it has measured.
        text = json.dumps(result, indent=2) + "\n"
        (args.out / "gpu.json").write_text(text)
        if args.name:
            kept = ROOT / "benches/results" / f"{args.name}.json"
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(text)
    print("\n".join(table(result)))


main()
