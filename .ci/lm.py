"""Compares `strata capture` on a GGUF file with transformers' reading of that file. usage: lm.py STRATA MODEL.gguf"""

import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

BOUND = 1e-5
strata, path = sys.argv[1], pathlib.Path(sys.argv[2])
T, WINDOWS = 64, 4
NASTY = ("The quick brown fox, it's 12345.678 m\u00b2 -- caf\u00e9 na\u00efve \u65e5\u672c\u8a9e \U0001f980\U0001f468\u200d\U0001f469"
         "\u200d\U0001f467\r\n\r\n    four spaces\tand a tab \n\n\n\u0301mark \u2028 x  \u00a0y <|endoftext|> <eos> <0x0A> \u2581a\n") * 40


def model():
    """Reads the model in f32; a file of gemma3 says nothing of images."""
    found = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32,
                                                 attn_implementation="eager")
    return found.eval()


def rows(dump):
    manifest = json.loads((dump / "dump.json").read_text())
    shards = [np.concatenate([next(iter(load_file(dump / s["file"]).values())) if s["file"].endswith("safetensors")
                              else np.load(dump / s["file"])]) for s in manifest["shards"]]
    return np.concatenate(shards).reshape(-1, manifest["d"])


def tokens(dump):
    manifest = json.loads((dump / "dump.json").read_text())
    file = dump / manifest["tokens"]
    return (load_file(file)["tokens"] if file.suffix == ".safetensors" else np.load(file)).astype(np.int64)


def capture(out, text, *more):
    (out / "text.txt").write_bytes(text.encode())
    subprocess.run([strata, "capture", "--quiet", "--model", path, "--text", out / "text.txt", "--dtype", "f32",
                    "--out", out / "dump", *map(str, more)], check=True)
    return out / "dump"


with tempfile.TemporaryDirectory() as folder, torch.no_grad():
    folder = pathlib.Path(folder)
    lm = model()
    n = lm.config.num_hidden_layers
    text = pathlib.Path(__file__).parent.joinpath("../cli/assets/tinyshakespeare.txt").read_text()
    hooks = [f"blocks.{l}.hook_resid_post" for l in range(n)]
    dump = capture(folder, text, "--context", T, "--max-tokens", T * WINDOWS,
                   *[a for hook in hooks for a in ("--hook", hook)], "--bos")
    ids = torch.tensor(tokens(dump / hooks[0])).reshape(-1, T)
    seen = {}
    layers = lm.get_submodule("model.layers")
    for l, layer in enumerate(layers):
        layer.register_forward_hook(
            lambda _, __, out, l=l: seen.__setitem__(l, (out[0] if isinstance(out, tuple) else out).numpy()))
    lm(ids)
    worst = 0.0
    for l, hook in enumerate(hooks):
        want = seen[l].reshape(-1, seen[l].shape[-1]).astype(np.float64)
        got = rows(dump / hook).astype(np.float64)
        off = np.linalg.norm(got - want, axis=1) / np.linalg.norm(want, axis=1)
        print(f"{path.name} block {l}: {np.median(off):.1e} median, {off.max():.1e} largest of {len(off)} rows")
        worst = max(worst, np.sqrt(((got - want) ** 2).sum() / (want ** 2).sum()), np.median(off))
    assert worst < BOUND, f"{worst} of the norm of the rows"

    # Ids of a nasty text, in one window per document.
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    out = folder / "nasty"
    out.mkdir()
    dump = capture(out, NASTY, "--context", 256, "--layer", 0)
    got = tokens(dump).tolist()
    want = tokenizer(NASTY, add_special_tokens=False)["input_ids"][:len(got)]
    differ = [i for i, (a, b) in enumerate(zip(got, want)) if a != b]
    print(f"{path.name}: {len(got)} ids, {len(differ)} differ from transformers' reading of the file")
    if differ:
        i = differ[0]
        print("  ours  ", [tokenizer.convert_ids_to_tokens(t) for t in got[max(0, i - 4):i + 8]])
        print("  theirs", [tokenizer.convert_ids_to_tokens(t) for t in want[max(0, i - 4):i + 8]])
    # transformers makes other merges of the pieces of Gemma's file than their scores say.
    assert not differ or path.name.startswith("gemma"), "the ids are not those of the model's own tokenizer"

    # Documents in Parquet are those in JSON lines, shuffled or not.
    lines = [line for line in text.split("\n") if line][:300]
    (folder / "documents.jsonl").write_text("".join(json.dumps({"id": i, "body": line}) + "\n" for i, line in enumerate(lines)))
    for compression in ("none", "snappy", "gzip", "zstd", "lz4"):
        table = pyarrow.table({"id": list(range(len(lines))), "body": lines})
        pyarrow.parquet.write_table(table, folder / f"{compression}.parquet", row_group_size=70, compression=compression,
                                    data_page_size=500, use_dictionary=compression == "zstd")
    for more in ((), ("--shuffle", 3), ("--per-document",)):
        def ids_of(name):
            out = folder / "read" / "-".join([name, *map(str, more)])
            subprocess.run([strata, "capture", "--quiet", "--model", path, "--text", folder / name, "--field", "body", "--layer", "0",
                            "--context", "32", "--max-tokens", "2048", "--out", out, *map(str, more)], check=True)
            return tokens(out).tolist()
        (folder / "read").mkdir(exist_ok=True)
        want = ids_of("documents.jsonl")
        assert 2000 < len(want) <= 2048, len(want)
        for compression in ("none", "snappy", "gzip", "zstd", "lz4"):
            assert ids_of(f"{compression}.parquet") == want, (compression, more)
    print(f"{path.name}: documents in Parquet are those in JSON lines")
    for column, why in (([None, "b"], "of row 0, found none"), ([1, 2], 'expected a column "body" of texts, found none')):
        pyarrow.parquet.write_table(pyarrow.table({"body": column}), folder / "bad.parquet")
        ran = subprocess.run([strata, "capture", "--model", path, "--text", folder / "bad.parquet", "--field", "body", "--layer", "0",
                              "--out", folder / "bad"], capture_output=True, text=True)
        assert ran.returncode == 1 and why in ran.stderr, ran.stderr
