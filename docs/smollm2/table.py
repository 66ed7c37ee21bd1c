#!/usr/bin/env python3
"""Collects what `strata eval` and `strata probe` found, and writes the tables of docs/smollm2.md.

usage: table.py result RUN OUT.json              the headline numbers of one run
       table.py page RESULTS COLLECTED PAGE      adds RESULTS/*.json to COLLECTED and writes its tables between the markers of PAGE

COLLECTED is committed, so that the page can be made again from it, and runs can be added one at a time.
"""

import json
import math
import re
import statistics
import sys
from pathlib import Path

KINDS = {
    "flat": "flat BatchTopK",
    "matryoshka": "Matryoshka",
    "language": "two levels, `--preset language`",
    "language-wide": "`--preset language`, a quarter of the latents in level 1",
    "default": "two levels, default families",
    "flat-pruned": "flat, pruned in training",
    "language-pruned": "two levels, `--preset language-pruned`",
    "random-decoder": "preset, random decoder",
    "random-encoder": "preset, random encoder",
}
KS = (1, 5, 16)
# Settings that all runs of a kind share.
SETTINGS = {"train": ("steps", "lr", "scale_lr", "row_norm", "encoder_norm"), "revive": ("reseed",)}
# Words of a letter that a probe must find.
FEWEST = 20


def result(run, out):
    e = json.loads((run / "eval.json").read_text())
    config = (run / "config.toml").read_text()
    flat = e["level2"] is None
    levels = [e["level1"], e["level2"]]
    fires = [level for level in levels if level]
    dead = sum(level["dead"] * level["latents"] for level in fires) / sum(level["latents"] for level in fires)
    found = {
        "name": run.name,
        "settings": {key: setting(config, section, key) for section, keys in SETTINGS.items() for key in keys},
        "rows": e["rows"][1],
        "l0": [level and level["l0_mean"] for level in levels],
        "fvu": [e["fidelity"][f"level{n}"] and e["fidelity"][f"level{n}"]["fvu"] for n in (1, 2)],
        "fvu_interval": [e["intervals"]["fvu2"]["low"], e["intervals"]["fvu2"]["high"]] if e["intervals"]["fvu2"] else None,
        "dead": dead,
        "splice": e["splice"],
        "verdict": e["verdict"] and e["verdict"]["answer"],
    }
    composition = e.get("composition")
    if composition and not flat and any(c["parent"] is not None for c in composition["child"]):
        alive = [c for c in composition["child"] if c["fires"] >= 10]
        children = len(composition["child"])
        found["families"] = {
            "children": children,
            "root": composition["root_children"],
            "living": len(alive),
            "parented": sum(c["containment"] is not None for c in alive) / max(1, len(alive)),
            "containment": composition["containment"],
            "attachment": interval(e["intervals"]["edges"]["attachment"]),
        }
        if e.get("control"):
            found["families"]["control_attachment"] = interval(e["control"]["edges"]["attachment"])
            found["families"]["control_fvu_more"] = interval(e["control"]["fvu2_more"])
    found["hierarchy"] = hierarchy_of(e)
    spelling = run / "spelling/eval.json"
    if spelling.exists():
        found["spelling"] = spelling_of(json.loads(spelling.read_text()))
    stability = e.get("stability")
    if stability and stability.get("parents"):
        p = stability["parents"]
        found["seed"] = {"found_again": p["found_again"], "agreement": interval(p["agreement"]), "chance": p["chance"]}
    probes = [json.loads(path.read_text()) for path in sorted(run.glob("probe-*.json"))]
    if probes:
        found["probes"] = {"tasks": len(probes)}
        for k in KS:
            points = [[p for p in probe["auc"] if p["setting"] == "normal" and p["k"] == k] for probe in probes]
            both = [p[0]["both"] for p in points if p]
            found["probes"][f"k{k}"] = statistics.fmean(both)
            found["probes"]["rows"] = statistics.fmean(p[0]["rows"] for p in points if p)
    part = out.with_suffix(".part")
    part.write_text(json.dumps(found, indent=1) + "\n")
    part.rename(out)


def setting(config, section, key):
    """A number, or true or false, in the text of config.toml."""
    text = config.split(f"[{section}]")[1].split("\n[")[0]
    return json.loads(re.search(rf"^{key} = (.*)$", text, re.M)[1])


def hierarchy_of(e):
    """Tree SAE's score of the pairs of the tree and of those that coverage suggests, each with its null."""
    h = e.get("hierarchy")
    return h and {part: h[part] and [*interval(h[part]["both"]), h[part]["null"]] for part in ("tree", "coverage")}


def spelling_of(e):
    """Absorption of first letters: means over the letters that a probe tells, of the latents of both levels as one dictionary."""
    letters = [c["found"] for c in e["absorption"] if c["name"].startswith("starts with ")]
    letters = [c for c in letters if c["found"] >= FEWEST and c["probe"]["f1"] >= 0.6]
    scopes = [c["scope"][-1] for c in letters]
    if not letters:
        return None
    level1 = e["level1"]["latents"]
    mean = lambda of: statistics.fmean(map(of, scopes))
    return {
        "letters": len(letters),
        "words": sum(c["found"] for c in letters),
        "main": mean(lambda s: len(s["main"])),
        "main_level1": mean(lambda s: sum(j < level1 for j in s["main"]) / len(s["main"])),
        "main_f1": mean(lambda s: s["main_f1"] or 0.0),
        "silent": mean(lambda s: s["silent"]),
        "absorbed": mean(lambda s: s["absorbed"]),
        "fraction": mean(lambda s: s["fraction"]),
    }


def interval(of):
    return of and [of["value"], of["low"], of["high"]]


def spread(values, digits):
    """The mean, and the standard deviation over seeds where there are several."""
    values = [v for v in values if v is not None and not math.isnan(v)]
    if not values:
        return ""
    short = lambda v: re.sub(r"^(-?)0\.", r"\1.", f"{v:.{digits}f}")
    if len(values) == 1:
        return short(values[0])
    return f"{short(statistics.fmean(values))} +- {short(statistics.stdev(values))}"


def rows_of(collected, width):
    for kind, label in KINDS.items():
        runs = [r for name, r in sorted(collected.items()) if re.fullmatch(rf"{kind}-{width}-\d+", name)]
        for run in runs:
            first = runs[0]
            if run["settings"] != first["settings"]:
                sys.exit(f"{run['name']} and {first['name']}: trained with {run['settings']} and {first['settings']}: take one of them out of results.json")
        if runs:
            yield kind, label, runs


def table(head, lines):
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *lines])


def main_table(collected, width):
    head = ["", "seeds", "L0", "FVU, level 1", "FVU, both", "CE recovered", "KL", "dead", *[f"probes, k {k}" for k in KS]]
    lines = []
    for _, label, runs in rows_of(collected, width):
        of = lambda get: [get(r) for r in runs]
        splice = lambda key: of(lambda r: r["splice"] and r["splice"][key])
        cells = [
            label,
            str(len(runs)),
            " + ".join(f"{statistics.fmean(v):.1f}" for v in zip(*[[x for x in r["l0"] if x is not None] for r in runs])),
            spread(of(lambda r: r["fvu"][0] if r["fvu"][1] is not None and r["l0"][1] is not None else None), 3),
            spread(of(lambda r: r["fvu"][1] if r["fvu"][1] is not None else r["fvu"][0]), 4),
            spread(splice("recovered2"), 3),
            spread(splice("kl2"), 3),
            spread(of(lambda r: r["dead"]), 3),
            *[spread(of(lambda r: r.get("probes", {}).get(f"k{k}")), 3) for k in KS],
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return table(head, lines)


def family_table(collected, width):
    head = ["", "living children", "with a parent", "P(parent, given child) without the gate", "attachment", "of the control",
            "FVU of the control, more", "children found by another seed", "of those, with the same parent (chance)", "verdict"]
    lines = []
    for _, label, runs in rows_of(collected, width):
        runs = [r for r in runs if r.get("families")]
        if not runs:
            continue
        family = lambda key: [r["families"].get(key) for r in runs]
        first = lambda values: [v and v[0] for v in values]
        seeds = [r["seed"] for r in runs if r.get("seed")]
        chance = spread([s["chance"] for s in seeds], 3)
        cells = [
            label,
            spread(family("living"), 0),
            spread([100 * p for p in family("parented")], 1) + " %",
            spread(family("containment"), 3),
            spread(first(family("attachment")), 3),
            spread(first(family("control_attachment")), 3),
            spread(first(family("control_fvu_more")), 4),
            spread([100 * s["found_again"] for s in seeds], 1) + (" %" if seeds else ""),
            spread(first([s["agreement"] for s in seeds]), 3) + (f" ({chance})" if chance else ""),
            ", ".join(sorted({r["verdict"] for r in runs if r["verdict"]})),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return table(head, lines)


def hierarchy_table(collected, width):
    head = ["", "seeds", "pairs of the tree", "other parents", "pairs by coverage", "other parents"]
    lines = []
    for _, label, runs in rows_of(collected, width):
        runs = [r for r in runs if r.get("hierarchy")]
        if not runs:
            continue
        of = lambda part, at: spread([r["hierarchy"][part][at] for r in runs if r["hierarchy"][part]], 2)
        cells = [label, str(len(runs)), of("tree", 0), of("tree", 3), of("coverage", 0), of("coverage", 3)]
        lines.append("| " + " | ".join(cells) + " |")
    return table(head, lines)


def spelling_table(collected, width):
    head = ["", "seeds", "main latents of a letter", "of level 1", "F1 of a probe on them", "they are silent", "fully absorbed", "absorption fraction"]
    lines = []
    for _, label, runs in rows_of(collected, width):
        runs = [r["spelling"] for r in runs if r.get("spelling")]
        if not runs:
            continue
        of = lambda key, digits: spread([r[key] for r in runs], digits)
        cells = [label, str(len(runs)), of("main", 1), of("main_level1", 2), *[of(key, 3) for key in ("main_f1", "silent", "absorbed", "fraction")]]
        lines.append("| " + " | ".join(cells) + " |")
    return table(head, lines)


TABLES = {"models": main_table, "families": family_table, "hierarchy": hierarchy_table, "spelling": spelling_table}


def page(results, collected_path, page_path):
    collected = json.loads(collected_path.read_text()) if collected_path.exists() else {}
    for path in sorted(results.glob("*.json")):
        one = json.loads(path.read_text())
        collected[one["name"]] = one
    collected_path.write_text(json.dumps(dict(sorted(collected.items())), indent=1) + "\n")
    text = page_path.read_text()
    for name in re.findall(r"<!-- table: (\S+ \S+) -->", text):
        kind, width = name.split()
        made = TABLES[kind](collected, width)
        text = re.sub(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", lambda m: m[1] + made + "\n" + m[2], text, flags=re.S)
    page_path.write_text(text)


def main():
    what, *paths = sys.argv[1:]
    {"result": result, "page": page}[what](*map(Path, paths))


if __name__ == "__main__":
    main()
