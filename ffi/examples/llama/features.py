"""What the checks of the program's output need to know of a run: its codes on a dump, as `strata encode` writes them.

usage: features.py parent CODES DUMP HF_DIRECTORY    the parent that is most about capital letters
       features.py watched CODES FILE                does what `strata-llama watch` printed, in FILE, agree with the codes?
       features.py listed CODES LIST FILE            does what `strata-llama watch --list LIST` printed agree with the codes?
       features.py served CODES WHOLE STREAM         do two answers of `strata-llama serve`, in one piece and as a stream, agree
                                                     with each other, and on the tokens of the prompt with the codes?
       features.py vector GGUF FILE                  is GGUF a control vector, and does what `strata-llama steer --control-vector
                                                     GGUF` printed say that llama.cpp does the same with it?
       features.py steered FILE                      has what `strata-llama steer` printed, in FILE, gained capital letters?
"""
import json
import pathlib
import re
import sys

import numpy as np
from safetensors.numpy import load_file

from compare import check, read_dump
from hf import Model


def codes(file, level):
    """[{latent: activation}] of every row."""
    c = load_file(file)
    indptr, index, value = (c[f"z{level}.{part}"] for part in ("indptr", "indices", "values"))
    return [dict(zip(index[a:b].tolist(), value[a:b].tolist())) for a, b in zip(indptr[:-1], indptr[1:])]


def parent(file, dump, directory):
    capital = np.array([c.isupper() for c in Model(directory).characters()])
    rows = codes(file, 1)
    tokens = read_dump(dump)[1].reshape(-1)
    total, on_capitals, fires = (np.zeros(1 + max(max(r, default=0) for r in rows)) for _ in range(3))
    for row, is_capital in zip(rows, capital[tokens]):
        for latent, value in row.items():
            total[latent] += value
            on_capitals[latent] += value * is_capital
            fires[latent] += 1
    share = np.where(fires > len(rows) / 100, on_capitals / np.maximum(total, 1e-9), 0)
    print(int(share.argmax()))


def watched(file, printed):
    """Each line has a token, parents and, in brackets after its parent or after ROOT, children."""
    levels = [codes(file, level) for level in (1, 2)]
    lines = pathlib.Path(printed).read_text().splitlines()
    check(0 < len(lines) <= len(levels[0]), f"{len(lines)} lines, {len(levels[0])} rows")
    entry = re.compile(r"(\d+)=([\d.]+)")
    for i, line in enumerate(lines):
        parts = line.split(maxsplit=1)[1]
        inside = "".join(re.findall(r"\(.*?\)", parts))
        outside = re.sub(r"\(.*?\)", "", parts)
        for level, text in ((0, outside), (1, inside)):
            found = {int(latent): float(value) for latent, value in entry.findall(text)}
            expected = levels[level][i]
            check(found.keys() == expected.keys(), f"line {i + 1}: other latents of level {level + 1} than strata encode says")
            check(all(abs(found[k] - expected[k]) < 0.006 for k in found), f"line {i + 1}: other activations")
    print(f"  {len(lines)} tokens have the features that strata encode says")


def listed(file, given, printed):
    """Each line has a token and the listed latents that are active on it: level:latent=activation."""
    wanted = {tuple(map(int, m.groups())) for m in map(re.compile(r"(\d):(\d+)").match, pathlib.Path(given).read_text().splitlines()) if m}
    levels = [codes(file, level) for level in (1, 2)]
    lines = pathlib.Path(printed).read_text().splitlines()
    check(0 < len(lines) <= len(levels[0]), f"{len(lines)} lines, {len(levels[0])} rows")
    n = 0
    for i, line in enumerate(lines):
        found = {(int(level), int(latent)): float(value) for level, latent, value in re.findall(r" (\d):(\d+)=([\d.]+)", line)}
        expected = {(l + 1, j): z for l in (0, 1) for j, z in levels[l][i].items() if (l + 1, j) in wanted}
        check(found.keys() == expected.keys(), f"line {i + 1}: other latents than strata encode says")
        check(all(abs(found[k] - expected[k]) < 0.006 for k in found), f"line {i + 1}: other activations")
        n += len(found)
    check(n > 0, "no listed latent was ever active")
    print(f"  {len(lines)} tokens have the {n} activations of listed latents that strata encode says")


def served(file, whole, stream):
    whole = json.loads(pathlib.Path(whole).read_text())
    events = [line[6:] for line in pathlib.Path(stream).read_text().splitlines() if line.startswith("data: ")]
    check(events[-1] == "[DONE]", "the stream did not end")
    chunks = [json.loads(event)["choices"][0] for event in events[:-1]]
    [choice] = whole["choices"]
    check("".join(chunk["text"] for chunk in chunks) == choice["text"], "the stream has another text")
    check(chunks[-1]["finish_reason"] == choice["finish_reason"], "the stream ended for another reason")
    for part in ("prompt", "tokens"):
        check(sum((chunk["strata"].get(part, []) for chunk in chunks), []) == choice["strata"][part], f"the stream has other {part}")
    levels = [codes(file, level) for level in (1, 2)]
    prompt = choice["strata"]["prompt"]
    check(0 < len(prompt) <= len(levels[0]), f"{len(prompt)} tokens, {len(levels[0])} rows")
    for i, token in enumerate(prompt):
        for level, part in ((0, "parents"), (1, "children")):
            found, expected = {entry[0]: entry[1] for entry in token[part]}, levels[level][i]
            check(found.keys() == expected.keys(), f"token {i + 1}: other {part} than strata encode says")
            check(all(abs(found[k] - expected[k]) < 0.006 for k in found), f"token {i + 1}: other activations")
    counts = whole["usage"]
    check(counts["prompt_tokens"] == len(prompt) and counts["completion_tokens"] == len(choice["strata"]["tokens"]), "other counts")
    check(any(token["parents"] for token in choice["strata"]["tokens"]), "no latent is active on what was written")
    print(f"  {len(prompt)} and {len(choice['strata']['tokens'])} tokens: stream and answer agree, and with strata encode")


def steered(printed):
    _, before, after, last = re.split(r"^---.*\n", pathlib.Path(printed).read_text(), flags=re.MULTILINE)
    share = lambda text: sum(c.isupper() for c in text) / len(text)
    print(f"  capital letters: {share(before):.0%} before, {share(after):.0%} after")
    check(share(after) > share(before) + 0.1, "steering did not bring capital letters")
    off = re.search(r"control vector are off by up to (\S+)", last)
    check(off and float(off[1]) < 1e-3, "strata_steer and llama.cpp's control vector do not agree")


def vector(file, printed):
    from gguf import GGUFReader

    reader = GGUFReader(file)
    [tensor] = reader.tensors
    check(reader.get_field("general.architecture").contents() == "controlvector", "another kind of file")
    check(tensor.name == "direction.2" and tensor.tensor_type.name == "F32" and tensor.shape.tolist() == [128], f"found {tensor}")
    off = re.search(r"and with \S+ are off by up to (\S+)", pathlib.Path(printed).read_text().split("control vector")[-1])
    check(off and float(off[1]) < 1e-3, "strata_steer and the control vector of the file do not agree")
    print(f"  llama.cpp reads the control vector; scores differ from those of strata_steer by up to {off[1]}")


if __name__ == "__main__":
    commands = {"parent": parent, "watched": watched, "listed": listed, "served": served, "vector": vector, "steered": steered}
    if len(sys.argv) < 3 or sys.argv[1] not in commands:
        raise SystemExit(__doc__)
    commands[sys.argv[1]](*sys.argv[2:])
