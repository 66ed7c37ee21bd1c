"""Compares Strata with its peers, on one machine in one run: `run.sh` starts this.

Stages, each of which leaves a file STAGE.json, so that one can be done again alone:

    machine   versions, and what the machine can do
    speed     a few steps of each trainer, in turn, A B A B
    quality   whole trainings: held-out FVU, the seconds to get there, memory
    rates     the same on a smaller shape at several learning rates: a rate does not mean the same to two trainers
    models    trains the models that are encoded with: two levels, and rows of 768 numbers
    encode    each encoder on the same weights and rows, in turn
    table     what all of that says, against the targets
"""

import argparse
import json
import platform
import sys
from pathlib import Path

from contenders import Lab, encode_strata, encode_torch, median, train_peer, train_strata
from table import markdown

# all-MiniLM-L6-v2: d = 384, and two of its layers side by side for d = 768.
MAIN = dict(rows="l3.npy", d=384, latents=12288, k=32, batch=4096, lr=1e-3)
SMALL = dict(MAIN, latents=4096, batch=2048)
PARENTS = 1024
WIDE = dict(rows="l34.npy", d=768, latents=24576, k=32, batch=1024, lr=1e-3)
WIDE_PARENTS = 1536

FULL = dict(
    speed_shape=MAIN, peer_steps=10, strata_steps=30, tree_steps=60, warm_up=2, rounds=2, batchtopk=True,
    quality_shape=MAIN, quality_steps=250, rate_steps=250, rates=[1e-3, 3e-3, 6e-3, 1.2e-2],
    model_steps=250, encode_s=4.0, encode_rounds=2,
)
QUICK = dict(
    speed_shape=MAIN, peer_steps=4, strata_steps=8, tree_steps=16, warm_up=1, rounds=2, batchtopk=False,
    quality_shape=SMALL, quality_steps=60, rate_steps=60, rates=[1e-3, 6e-3],
    model_steps=100, encode_s=1.0, encode_rounds=2,
)


def machine(lab, plan):
    """Versions, processor, and the limits that torch and Strata reach on it."""
    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    torch = lab.run(lab.python("versions.py"), "versions")
    tiny = ["--random", "64,64,0,4,0", "--n", 64, "--seconds", 0.1]
    strata = lab.run([lab.args.encode, *tiny, "--threads", lab.args.threads], "peak")
    cores = sum(line.startswith("processor") for line in Path("/proc/cpuinfo").read_text().splitlines())
    return {
        "cpu": cpu, "cores": cores, "threads": lab.args.threads, "isa": strata["isa"], "system": platform.platform(),
        "fma_peak_flop_per_s": strata["fma_peak_flop_per_s"], "torch": torch,
    }


def speed(lab, plan):
    """Runs a few steps of every peer, in turn."""
    shape, warm_up = plan["speed_shape"], plan["warm_up"]
    peers = {
        "SAELens TopK": ("train_saelens.py", {}),
        "PyTorch TopK, dense": ("train_torch.py", {}),
        "PyTorch TopK, embedding_bag": ("train_torch.py", {"bag": True}),
    }
    if plan["batchtopk"]:
        peers["SAELens BatchTopK"] = ("train_saelens.py", {"kind": "batchtopk"})
    # Every log line is a step; families from the first quarter of them.
    tree = {"train.log_every": 1, "gate.kind": "hard", "gate.start": 0.25, "gate.reassign_every": 0}
    rounds = []
    for i in range(plan["rounds"]):
        found = {}
        for name, (script, more) in peers.items():
            found[name] = train_peer(lab, name, script, shape, plan["peer_steps"], warm_up, **more)
        found["Strata TopK"] = train_strata(
            lab, f"speed-flat-{i}", shape, plan["strata_steps"], warm_up, **{"train.log_every": 1}
        )
        found["Strata two levels, no ROOT"] = train_strata(
            lab, f"speed-tree-{i}", shape, plan["tree_steps"], warm_up, PARENTS, **tree, **{"gate.root_below": 0.0}
        )
        found["Strata two levels"] = train_strata(
            lab, f"speed-root-{i}", shape, plan["tree_steps"], warm_up, PARENTS, **tree
        )
        rounds.append(found)
    return {"shape": shape, "parents": PARENTS, "plan": plan, "rounds": rounds}


def quality(lab, plan):
    """Whole trainings, one after the other."""
    shape, steps, warm_up = plan["quality_shape"], plan["quality_steps"], plan["warm_up"]
    parents = PARENTS * shape["latents"] // MAIN["latents"]
    found = {
        "SAELens TopK": train_peer(lab, "SAELens TopK", "train_saelens.py", shape, steps, warm_up),
        "Strata TopK": train_strata(lab, "quality-flat", shape, steps, warm_up, **{"train.log_every": 5}),
        "PyTorch TopK, embedding_bag": train_peer(
            lab, "PyTorch TopK, embedding_bag", "train_torch.py", shape, steps, warm_up, bag=True
        ),
        "Strata two levels": train_strata(lab, "quality-tree", shape, steps, warm_up, parents, **{"train.log_every": 5}),
    }
    return {"shape": shape, "parents": parents, "steps": steps, "found": found}


def rates(lab, plan):
    """Held-out FVU of both at each learning rate."""
    steps, rows = plan["rate_steps"], []
    for lr in plan["rates"]:
        shape = dict(SMALL, lr=lr)
        rows.append({
            "lr": lr,
            "SAELens TopK": train_peer(lab, f"SAELens TopK, lr {lr}", "train_saelens.py", shape, steps, 1),
            "Strata TopK": train_strata(lab, f"rate-{lr}", shape, steps, 1, **{"train.log_every": 5}),
        })
    return {"shape": SMALL, "steps": steps, "rows": rows}


def models(lab, plan):
    """Trains the models for the encoders: hardly trained weights would give other selections and other times."""
    steps = plan["model_steps"]
    tree = {"gate.start": 0.5, "gate.reassign_every": 0, "gate.root_below": 0.0}
    wide = dict(WIDE, latents=WIDE["latents"] + WIDE_PARENTS)
    return {
        "main_flat": train_strata(lab, "model-main-flat", MAIN, steps, 1),
        "main": train_strata(lab, "model-main", MAIN, steps, 1, PARENTS, **tree),
        "wide_flat": train_strata(lab, "model-wide-flat", WIDE, steps, 1),
        "wide": train_strata(lab, "model-wide", wide, steps, 1, WIDE_PARENTS, **tree),
    }


def encode(lab, plan):
    """Each encoder, in turn, on the same weights and rows."""
    threads, seconds = lab.args.threads, plan["encode_s"]
    trained = load(lab, "models")
    main = (MAIN, trained["main_flat"], trained["main"])
    wide = (WIDE, trained["wide_flat"], trained["wide"])
    # One token is encoded with one thread, too; for both sides the faster of the two counts.
    cells = [(*main, 1024, [threads]), (*wide, 256, [threads]), (*wide, 1, sorted({1, threads}))]
    rounds = []
    for i in range(plan["encode_rounds"]):
        found = []
        for shape, flat, tree, n, counts in cells:
            # Held-out rows of the main dump; the wide one has none.
            start = 259_800 if shape is MAIN else 0
            cell = {"n": n, "d": shape["d"], "latents": shape["latents"]}
            for name, model in [("torch", flat), ("flat", flat), ("tree", tree), ("int8", tree)]:
                sae, tries = model["saved"], []
                for t in counts:
                    label = f"encode {name} n={n} d={shape['d']} threads={t}"
                    if name == "torch":
                        tries.append(encode_torch(lab, label, sae, shape["rows"], start, n, shape["k"], t, seconds))
                    else:
                        weights = "int8" if name == "int8" else "f32"
                        tries.append(encode_strata(lab, label, sae, shape["rows"], start, n, t, seconds, weights))
                cell[name] = max(tries, key=lambda tried: tried["tokens_per_s"])
                cell[name]["trained_on"] = model["steps"] * model["batch"]
            same = abs(cell["torch"]["sum"] - cell["flat"]["sum"]) <= 1e-4 * abs(cell["torch"]["sum"])
            if not same:
                sys.exit(f"encoders disagree: {cell['torch']} against {cell['flat']}")
            found.append(cell)
        rounds.append(found)
    return {"rounds": rounds}


STAGES = {"machine": machine, "speed": speed, "quality": quality, "rates": rates, "models": models, "encode": encode}


def load(lab, stage):
    path = lab.out / f"{stage}.json"
    if not path.exists():
        sys.exit(f"{path} is not there: run the stage `{stage}` first")
    return json.loads(path.read_text())


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("stages", nargs="*", metavar="STAGE", help="which stages, in order [default: all]")
    p.add_argument("--quick", action="store_true", help="fewer steps, and a smaller training for the quality")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--wrap", default="", help="a command to put before each measured one, as `taskset -c 0,1`")
    for name in ("data", "out", "python", "strata", "encode"):
        p.add_argument(f"--{name}", required=True, help=argparse.SUPPRESS)
    args = p.parse_args()
    # Nothing of a quick run gets into the table of a full one.
    args.out = Path(args.out) / ("quick" if args.quick else "full")
    lab, plan = Lab(args), QUICK if args.quick else FULL
    for stage in args.stages or [*STAGES, "table"]:
        if stage == "table":
            all_of_it = {name: load(lab, name) for name in STAGES}
            text, found = markdown(all_of_it, median)
            (lab.out / "table.md").write_text(text)
            (lab.out / "table.json").write_text(json.dumps(found, indent=1) + "\n")
            print(text)
        elif stage in STAGES:
            print(stage, file=sys.stderr, flush=True)
            (lab.out / f"{stage}.json").write_text(json.dumps(STAGES[stage](lab, plan), indent=1) + "\n")
        else:
            sys.exit(f"stage {stage}: expected one of {', '.join([*STAGES, 'table'])}")


if __name__ == "__main__":
    main()
