#!/usr/bin/env python3
"""Prints the scores of benches/synthsaebench.sh as a table: Strata's, and SAELens' where it was asked.

usage: synth_table.py FOLDER
"""

import json
import sys
from pathlib import Path

COLUMNS = ("l0", "f1", "precision", "recall", "mcc", "uniqueness", "ve", "dead", "edges", "ancestors")


def of_strata(run):
    e = json.loads((run / "eval.json").read_text())
    r, levels = e["recovery"], [level for level in (e["level1"], e["level2"]) if level]
    fidelity = e["fidelity"]["level2"] or e["fidelity"]["level1"]
    return {
        "l0": sum(level["l0_mean"] for level in levels),
        "f1": r["detection"]["f1"],
        "precision": r["detection"]["precision"],
        "recall": r["detection"]["recall"],
        "mcc": r["mcc"],
        "uniqueness": r["detection"]["uniqueness"],
        "ve": fidelity["ev"],
        "dead": round(sum(level["dead"] * level["latents"] for level in levels)),
        "edges": r["edges"]["edges"] if len(levels) > 1 else None,
        "ancestors": r["edges"]["to_ancestor"] if len(levels) > 1 else None,
    }


def main():
    folder = Path(sys.argv[1])
    print("| run | by | " + " | ".join(COLUMNS) + " |")
    print("|---|---|" + "---|" * len(COLUMNS))
    for run in sorted(folder.glob("*/eval.json")):
        run = run.parent
        lens = run / "saelens.json"
        scores = [("Strata", of_strata(run))] + ([("SAELens", json.loads(lens.read_text()))] if lens.exists() else [])
        for by, s in scores:
            cells = ["" if s.get(c) is None else f"{s[c]:.3f}" if isinstance(s[c], float) else str(s[c]) for c in COLUMNS]
            print(f"| {run.name} | {by} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
