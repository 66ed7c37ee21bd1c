"""How each contender is run: one process each, one line of JSON from it."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent


class Lab:
    """Where things are, and how a measured process is started."""

    def __init__(self, args):
        self.args = args
        self.data, self.out = Path(args.data), Path(args.out)
        self.runs = self.out / "runs"
        self.runs.mkdir(parents=True, exist_ok=True)
        # OpenBLAS would be slow if a variable forced the kernels of another processor; each contender sets its own threads.
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("OPENBLAS_", "OMP_", "MKL_"))}

    def run(self, command, name):
        """Runs a contender, and returns what its last line says."""
        command = shlex.split(self.args.wrap) + [str(c) for c in command]
        started = time.perf_counter()
        done = subprocess.run(command, env=self.env, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{name} failed:\n{shlex.join(command)}\n{done.stdout}{done.stderr}")
        print(f"  {name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
        lines = done.stdout.strip().splitlines()
        return json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}

    def python(self, script, **options):
        """The command of a peer; `warm_up=2` is `--warm-up 2`, `bag=True` is `--bag`."""
        command = [self.args.python, HERE / script]
        for name, value in options.items():
            name = "--" + name.replace("_", "-")
            if value is True:
                command.append(name)
            elif value is not False:
                command += [name, value]
        return command


def train_peer(lab, name, script, shape, steps, warm_up, **more):
    """A peer's training."""
    options = dict(
        dump=lab.data / shape["rows"], latents=shape["latents"], k=shape["k"], batch=shape["batch"], lr=shape["lr"],
        steps=steps, warm_up=warm_up, threads=lab.args.threads,
    )
    return lab.run(lab.python(script, **options, **more), name)


def train_strata(lab, name, shape, steps, warm_up, parents=0, **settings):
    """`strata train`: flat top-k, or of two levels with so many parents and the same number of latents in all."""
    run = lab.runs / name
    shutil.rmtree(run, ignore_errors=True)
    k1 = shape["k"] // 2 if parents else shape["k"]
    sets = {
        "level1.latents": parents or shape["latents"],
        "level2.latents": shape["latents"] - parents if parents else 0,
        "level1.k": k1,
        "level2.k": shape["k"] - k1,
        "train.steps": steps,
        "train.batch": shape["batch"],
        "train.lr": shape["lr"],
        "train.checkpoint_every": 0,
        "data.outlier": 0,
        # As SAELens: AuxK for what has not fired in 1,000 batches, and decoder rows that start at a tenth.
        "revive.dead_after": 1000 * shape["batch"],
        "train.row_norm": 0.1,
        "train.encoder_norm": 0.3,
    }
    if not parents:
        sets |= {"level1.activation": "topk", "gate.kind": "none", "level2.k": 1}
    sets |= settings
    command = [lab.args.strata, "train", "--quiet", "--threads", lab.args.threads, "--dump", lab.data / shape["rows"], "--out", run]
    for key, value in sets.items():
        command += ["--set", f"{key}={value}"]
    lab.run(command, name)
    return of_run(run, shape["batch"], warm_up)


def of_run(run, batch, warm_up):
    """The numbers that a finished run reports."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    means = next(iter(json.loads((run / "final_info.json").read_text()).values()))["means"]
    last = lines[-1]
    timed = lines[warm_up:] if len(lines) > warm_up + 1 else lines
    tokens = last["tokens"] - timed[0]["tokens"]
    gated = [line for line in timed if line["gate_on"]]
    # The first step behind the gate gives every child its parent.
    gated = gated[1:] or gated
    curve = [(line["seconds"], max_level(line["held_out_fvu"])) for line in lines if line["held_out_fvu"]]
    return {
        "tokens_per_s": median([line["tokens_per_s"] for line in timed]),
        "gated_tokens_per_s": median([line["tokens_per_s"] for line in gated]) if gated else None,
        "cpu_us_per_token": (last["cpu_seconds"] - timed[0]["cpu_seconds"]) / tokens * 1e6 if tokens else None,
        "train_s": last["seconds"],
        "fvu": max_level(last["held_out_fvu"]),
        "fvu_at_s": curve,
        "alive": None if last["dead"] is None else 1 - last["dead"][0],
        "l0": sum(last["l0"]),
        "peak_resident_bytes": means["peak_resident_bytes_mean"],
        "peak_before_saving_bytes": last["peak_resident_bytes"],
        "saved": str(run / "sae"),
        "steps": last["step"] + 1,
        "batch": batch,
    }


def max_level(fvu):
    """The FVU of the whole reconstruction: that of level 2, or of level 1 for a flat model."""
    return fvu[1]


def encode_strata(lab, name, sae, rows, start, n, threads, seconds, weights):
    """The encoder of Strata alone."""
    options = ["--sae", sae, "--rows", lab.data / rows, "--from", start, "--n", n, "--threads", threads, "--seconds", seconds]
    return lab.run([lab.args.encode, *options, "--weights", weights], name)


def encode_torch(lab, name, sae, rows, start, n, k, threads, seconds):
    """PyTorch on the same weights and rows."""
    options = {"sae": sae, "rows": lab.data / rows, "from": start, "n": n, "k": k, "threads": threads, "seconds": seconds}
    return lab.run(lab.python("encode_torch.py", **options), name)


def median(values):
    """Of a list that is not empty."""
    values = sorted(values)
    middle = len(values) // 2
    return values[middle] if len(values) % 2 else 0.5 * (values[middle - 1] + values[middle])
