#!/usr/bin/env python3
"""Strata on a GPU beside itself on the CPU of the same machine: first every bit, then time.

    cargo build --release -p strata-sae --features cuda
    python3 benches/gpu/run.py --out DIR            (needs a GPU of NVIDIA; no package beside Python's own)

Writes DIR/gpu.json and prints its table. It stops at the first bit that differs: a time of wrong numbers is worth nothing.

1. `strata device --check`: every kernel against the CPU.
2. Trainings of a few steps with `--verify 1`, flat and with two levels: each step against the CPU.
3. The time of a step on both, and of encoding; the files of codes must be equal.
"""

import argparse
import filecmp
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strata", type=Path, default=Path("target/release/strata"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="small models: whether everything runs, not how fast")
    args = parser.parse_args()
    shapes, rows = (QUICK, 8192) if args.quick else (SHAPES, ROWS)
    args.out.mkdir(parents=True, exist_ok=True)

    def strata(*words, check=True):
        started = time.perf_counter()
        ran = subprocess.run([args.strata, *map(str, words)], capture_output=True, text=True)
        if check and ran.returncode:
            sys.exit(f"strata {' '.join(map(str, words))}\n{ran.stdout}{ran.stderr}")
        return ran, time.perf_counter() - started

    devices = json.loads(strata("device", "--json")[0].stdout)
    if not any(gpu["name"] for gpu in devices["gpus"]):
        sys.exit(f"no GPU to measure: {devices.get('why') or devices['gpus']}")
    checked = json.loads(strata("device", "--check", "--json")[0].stdout)
    result = {"devices": checked["gpus"], "rows": rows, "quick": args.quick, "runs": []}
    print(f"every kernel has the bits of the CPU: {checked['gpus']}", flush=True)

    for name, shape in shapes.items():
        dump = args.out / f"rows-{shape['d']}"
        if not dump.exists():
            strata("synth", "--world", "a", "--rows", rows, "--set", f"d={shape['d']}", "--out", dump)
        sets = [f"level{l + 1}.latents={f}" for l, f in enumerate(shape["latents"])]
        sets += [f"level{l + 1}.k={k}" for l, k in enumerate(shape["k"])]
        sets += [f"train.batch={shape['batch']}", "gate.start=0.5", "train.log_every=1", "train.checkpoint_every=0"]
        if shape["latents"][1] == 0:
            sets.append("gate.kind=none")

        def train(device, steps, *more):
            run = args.out / f"run-{name.split()[0]}-{device.split(':')[0]}"
            shutil.rmtree(run, ignore_errors=True)
            flags = [word for s in [*sets, f"train.steps={steps}"] for word in ("--set", s)]
            strata("train", "--dump", dump, "--out", run, "--device", device, *flags, *more)
            lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            # The first steps make room, and the first guesses.
            speeds = sorted(line["tokens_per_s"] for line in lines[len(lines) // 4 :])
            return run, shape["batch"] / speeds[len(speeds) // 2]

        train(args.device, 6, "--verify", 1)
        gpu, cpu = shape["steps"]
        _, cpu_step = train("cpu", cpu)
        run, gpu_step = train(args.device, gpu)
        codes = {device: args.out / f"codes-{device.split(':')[0]}" for device in ("cpu", args.device)}
        seconds = {}
        for device, path in codes.items():
            _, seconds[device] = strata("encode", run, "--dump", dump, "--out", path, "--force", "--device", device)
        if not filecmp.cmp(*codes.values(), shallow=False):
            sys.exit(f"{name}: the codes of {args.device} are not those of the CPU")
        result["runs"].append({
            "name": name, **shape, "step_ms": {"cpu": 1e3 * cpu_step, "gpu": 1e3 * gpu_step},
            "encode_s": {"cpu": seconds["cpu"], "gpu": seconds[args.device]},
        })
    (args.out / "gpu.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"{'model':<12}{'step, CPU':>12}{'step, GPU':>12}{'encode, CPU':>14}{'encode, GPU':>14}")
    for run in result["runs"]:
        step, encode = run["step_ms"], run["encode_s"]
        print(f"{run['name']:<12}{step['cpu']:>9.1f} ms{step['gpu']:>9.1f} ms{encode['cpu']:>12.1f} s{encode['gpu']:>12.1f} s")


main()
