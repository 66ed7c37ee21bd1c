"""Writes the first inputs of both targets from the models of tests/golden. usage: python3 tests/fuzz/seeds.py"""

import json
import pathlib
import struct

here = pathlib.Path(__file__).parent
golden = here.parent / "golden" / "sae"
cfg = json.dumps(json.loads((golden / "cfg.json").read_text()), separators=(",", ":")).encode()
weights = (golden / "sae_weights.safetensors").read_bytes()


def put(target, name, data):
    directory = here / "corpus" / target
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_bytes(data)


def tensors(entries):
    header, data = {}, b""
    for name, dtype, shape, content in entries:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + data


def model(arch, weights):
    text = json.dumps({"format": "strata-sae", "version": 1, "architecture": arch}, separators=(",", ":")).encode()
    return struct.pack("<H", len(text)) + text + weights


def floats(n):
    return struct.pack(f"<{n}f", *(0.25 * (i % 7) - 0.5 for i in range(n)))


arch = {"model": "tree", "d": 2, "f1": 3, "f2": 4, "activation1": "batchtopk", "activation2": "jumprelu", "k1": 1.0,
        "k2": 1.0, "source": "z1", "decoder": "comp", "gate": "mul"}
small = [("b_dec", [2]), ("level1.w_enc", [3, 2]), ("level1.b_enc", [3]), ("level1.w_dec", [3, 2]), ("level1.tau", [1]),
         ("level2.w_enc", [4, 3]), ("level2.b_enc", [4]), ("level2.w_dec", [4, 3]), ("level2.threshold", [4]),
         ("gate.w", [3, 4]), ("gate.b", [4])]
count = lambda shape: shape[0] * (shape[1] if len(shape) > 1 else 1)
mixed = model(arch, tensors([(name, "F32", shape, floats(count(shape))) for name, shape in small]))
flat = dict(arch, f2=0, activation1="gated", gate="none", source="x", decoder="cum")
gated = [("b_dec", [2]), ("level1.w_enc", [3, 2]), ("level1.b_enc", [3]), ("level1.w_dec", [3, 2]),
         ("level1.r_mag", [3]), ("level1.b_mag", [3])]
halves = model(flat, tensors([(name, "F16", shape, b"\0<" * count(shape)) for name, shape in gated]))
for name, data in [("hard", struct.pack("<H", len(cfg)) + cfg + weights), ("mixed", mixed), ("gated-f16", halves)]:
    put("model", name, data)
    put("parsers", name, b"\3" + data)

for name in ["topk-rescaled", "jumprelu", "gated"]:
    files = here.parent / "golden" / "saelens" / name
    cfg = (files / "cfg.json").read_bytes()
    data = struct.pack("<H", len(cfg)) + cfg + (files / "sae_weights.safetensors").read_bytes()
    put("model", "saelens-" + name, data)
    put("parsers", "saelens-" + name, b"\3" + data)

npy = b"{'descr': '<f2', 'fortran_order': False, 'shape': (3, 4), }"
npy += b" " * (-(10 + len(npy) + 1) % 64) + b"\n"
put("parsers", "npy", b"\0\x93NUMPY\1\0" + struct.pack("<H", len(npy)) + npy + b"\0<" * 12)
manifest = {"format": "strata-dump", "version": 1, "d": 4, "rows": 5, "dtype": "bf16",
            "shards": [{"file": "a.safetensors", "rows": 2}, {"file": "b.safetensors", "rows": 3}],
            "tokens": "t.safetensors", "vocab": "v.json", "model": "gpt", "hook": "h", "context": 4,
            "stats": {"mean_norm": 1.5, "mean": "m.safetensors"}}
put("parsers", "manifest", b"\1" + json.dumps(manifest, separators=(",", ":")).encode())
put("parsers", "heads", b"\4" + (here.parent / "golden" / "heads.safetensors").read_bytes())
table = [("activations", "F32", [2, 3], floats(6)), ("tokens", "U32", [2], b"\0" * 8), ("mean", "F32", [3], floats(3))]
put("parsers", "table", b"\2" + tensors(table))
