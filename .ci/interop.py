"""The comparisons of .ci/interop."""
import json, pathlib, subprocess, sys, types
import numpy as np

ROWS = 512
# What a run is trained with, and the parts of it that SAELens gets: part, whether --inexact is needed, latents.
RUNS = [
    ("relu", ["level1.activation=relu", "level2.activation=relu", "gate.kind=none"], ["level1", "both"]),
    ("topk", ["level1.activation=topk", "level2.activation=topk", "gate.kind=none"], ["level1"]),
    ("batchtopk", ["gate.kind=none"], ["level1", "both"]),
    ("jumprelu", ["level1.activation=jumprelu", "level2.activation=jumprelu", "gate.kind=none"], ["level1", "both"]),
    ("gated", ["level1.activation=gated", "level2.activation=gated", "gate.kind=none"], ["level1", "both"]),
    ("mixed", ["level1.activation=gated", "gate.kind=none"], ["level1", "both"]),
    ("alone", ["decoder=ind", "gate.kind=none"], ["level1", "level2"]),
    ("hard", [], ["level1", "tree"]),
    ("hard-topk", ["level1.activation=topk", "level2.activation=topk"], ["tree"]),
    ("hard-gated", ["level1.activation=gated", "level2.activation=gated"], ["tree"]),
    ("group-top1", ["gate.kind=group-top1"], ["tree"]),
]


def tensors(path):
    """The numbers in a file of a model, by name; what else it says is the text under the empty name."""
    import torch
    from safetensors.torch import load_file
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix == ".npz":
        return {k: torch.from_numpy(v) for k, v in np.load(path).items()}
    if path.suffix not in (".pt", ".pth"):
        return {"": path.read_bytes()}
    found, rest = {}, []
    def walk(name, value):
        if isinstance(value, torch.Tensor):
            found[name] = value
        elif isinstance(value, (dict, list, tuple)):
            for key, inside in value.items() if isinstance(value, dict) else enumerate(value):
                walk(f"{name}.{key}", inside)
        else:
            rest.append((name, value))
    walk("", torch.load(path, weights_only=True))
    return {**found, "": rest}


def off(one, two):
    """The largest distance of the numbers of two files, as a share of the largest of each tensor; infinite where anything else differs."""
    one, two = tensors(one), tensors(two)
    if one.keys() != two.keys() or one.pop("", None) != two.pop("", None):
        return np.inf
    if any(one[k].shape != two[k].shape or one[k].dtype != two[k].dtype for k in one):
        return np.inf
    share = lambda a, b: float((a - b).abs().max() / a.abs().max().clamp(min=1e-30)) if a.numel() else 0.0
    return max((share(one[k].double(), two[k].double()) for k in one), default=0.0)


def fixtures(kept, made):
    """Both have the same files, and the numbers of models and the results of the libraries differ by at most 1e-6: another
    CPU may round the last bit of a logarithm or of a sum differently."""
    from safetensors.numpy import load_file
    bad = 0
    cases = [c for c in json.loads((kept / "cases.json").read_text())["cases"] if c["kind"] != "dump"]
    for case in cases:
        name = case["case"]
        files = lambda root: sorted(p.relative_to(root / name) for p in (root / name / "model").rglob("*") if p.is_file())
        here = files(kept)
        model = max((off(kept / name / f, made / name / f) for f in here), default=np.inf) if here == files(made) else np.inf
        one, two = (load_file(at / name / "expected.safetensors") for at in (kept, made))
        worst = max(float(np.abs(one[k] - two[k]).max() / np.abs(one[k]).max()) for k in one)
        rows = float(np.abs(np.load(kept / name / "input.npy") - np.load(made / name / "input.npy")).max())
        good = model < 1e-6 and worst < 1e-6 and rows == 0
        bad += not good
        if not good:
            print(f"{name}: model files differ by {model:.1e}, expected numbers by {worst:.1e}, rows by {rows:.1e}")
    print(f"{len(cases) - bad} of {len(cases)} fixtures are what the libraries write and find today")
    return bad


def dense(path, level, n, f):
    """The codes of a level that `strata encode` has written."""
    from safetensors.numpy import load_file
    codes = load_file(path)
    out = np.zeros((n, f), np.float32)
    ptr, index, value = (codes[f"z{level}.{k}"] for k in ("indptr", "indices", "values"))
    for i in range(n):
        out[i, index[ptr[i]:ptr[i + 1]]] = value[ptr[i]:ptr[i + 1]]
    return out


def lens(strata, out):
    """Trains small runs, converts them, and compares the latents that SAELens and `strata encode` find."""
    import torch
    sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "ffi/python/python/strata_sae"))
    import saelens_strata  # noqa: F401 (registers the class)
    from sae_lens import SAE
    torch.set_num_threads(1)
    run = lambda *a: subprocess.run([strata, "--quiet", *map(str, a)], check=True)
    dump = out / "dump"
    run("synth", "--world", "a", "--rows", 20000, "--out", dump)
    settings = ["level1.latents=64", "level1.k=5", "level2.latents=192", "level2.k=6", "train.steps=300", "train.batch=512",
                "gate.start=0.3", "gate.min_count=20", "data.stats_rows=4096"]
    bad = 0
    for name, sets, parts in RUNS:
        at = out / name
        run("train", "--dump", dump, "--out", at, *[a for s in settings + sets for a in ("--set", s)])
        run("encode", at, "--dump", dump, "--out", out / f"{name}.safetensors")
        from safetensors.numpy import load_file
        x = np.concatenate([load_file(p)["activations"] for p in sorted(dump.glob("acts-*.safetensors"))])[:ROWS].astype(np.float32)
        levels = [dense(out / f"{name}.safetensors", l, ROWS, f) for l, f in ((1, 64), (2, 192))]
        for part in parts:
            to = out / f"{name}-{part}"
            run("convert", at, to, "--part", part, "--model-id", "a/b", "--hook", "blocks.1.hook_resid_post",
                "--context", 64, "--prepend-bos", "false")
            sae = SAE.load_from_disk(to)
            with torch.no_grad():
                z = sae.encode(torch.from_numpy(x))
                y = sae.decode(z).numpy()
            z = z.numpy()
            want = {"level1": levels[0], "level2": levels[1]}.get(part, np.concatenate(levels, 1))
            flips = int(((z != 0) != (want != 0)).sum())
            off = float(np.abs(z - want)[(z != 0) == (want != 0)].max() / np.abs(want).max())
            back = out / f"{name}-{part}-back.safetensors"
            run("encode", to, "--dump", dump, "--out", back)  # what SAELens has, read again by us
            sizes = ((1, 64), (2, 192)) if part == "tree" else ((1, z.shape[1]),)
            ours = np.concatenate([dense(back, l, ROWS, f) for l, f in sizes], 1)
            again = int(((ours != 0) != (z != 0)).sum())
            good = flips == 0 and off < 1e-5 and again == 0 and np.isfinite(y).all()
            bad += not good
            print(f"{'ok ' if good else 'BAD'} {name:12} {part:7} {int((want != 0).sum()):6} codes, {flips} differ, values by {off:.1e}, read back {again}")
    return bad


def unused(*names):
    """A stub for packages that the readers below import and never call."""
    for name in names:
        module = types.ModuleType(name)
        module.__getattr__ = lambda attribute: lambda *a, **k: a[0] if a else None
        sys.modules.setdefault(name, module)


def tools(strata, out):
    """Exports activations on text, and reads them with the code of the other tools."""
    import sae_lens, torch  # before the stand-ins, of which it asks whether they are installed
    unused("dataclasses_json", "faiss", "sentence_transformers", "blobfile")
    from sae_dashboard.neuronpedia.neuronpedia_dashboard import NeuronpediaDashboardBatch
    from sae_dashboard.utils_fns import RollingCorrCoef
    from delphi.config import ConstructorConfig, SamplerConfig
    from delphi.latents.loader import LatentDataset
    run = lambda *a: subprocess.run([strata, "--quiet", *map(str, a)], check=True)
    dump, at = out / "text", out / "text-run"
    run("capture", "--layer", 1, "--max-tokens", 16384, "--context", 64, "--out", dump)
    settings = ["level1.latents=40", "level1.k=5", "level2.latents=150", "level2.k=6", "train.steps=300", "train.batch=512",
                "gate.start=0.3", "gate.min_count=20", "data.stats_rows=4096"]
    run("train", "--dump", dump, "--out", at, *[a for s in settings for a in ("--set", s)])
    run("encode", at, "--dump", dump, "--out", out / "text.safetensors")
    manifest = json.loads((dump / "dump.json").read_text())
    rows, context, sizes = manifest["rows"], manifest["context"], (40, 150)
    from safetensors.numpy import load_file
    x = np.concatenate([load_file(p)["activations"] for p in sorted(dump.glob("acts-*.safetensors"))]).astype(np.float32)
    bad = 0

    run("export", at, "--dump", dump, "--format", "neuronpedia", "--out", out / "neuronpedia")
    for level, f in zip((1, 2), sizes):
        z = torch.from_numpy(dense(out / "text.safetensors", level, rows, f)).double()
        features = []
        for i, path in enumerate(sorted((out / "neuronpedia" / f"level{level}").glob("*.json"), key=lambda p: int(p.stem[6:]))):
            raw = json.loads(path.read_text())
            batch = NeuronpediaDashboardBatch(**raw)
            bad += batch.to_dict() != raw or not isinstance(batch.layer, int)
            features += batch.features
        dims = RollingCorrCoef(dtype=torch.float64)
        dims.update(z.T, torch.from_numpy(x).double().T)
        among = RollingCorrCoef(with_self=True, dtype=torch.float64)
        among.update(z.T, z.T)
        for name, of in (("features", among), ("neurons", dims)):
            index, pearson, cosine = of.topk_pearson(k=3)
            for j, feature in enumerate(features):
                n = sum(p > 1e-9 for p in pearson[j])
                found = [getattr(feature, f"correlated_{name}_{k}") for k in ("indices", "pearson", "l1")]
                same = found[0] == index[j][:n] and np.allclose(found[1:], [pearson[j][:n], cosine[j][:n]], atol=1e-5)
                bad += not same
                if not same:
                    print(f"level {level}, latent {j}: correlated {name} {found}, SAEDashboard {index[j]} {pearson[j]} {cosine[j]}")
        share = (z > 0).double().mean(0)
        bad += sum(abs(feature.frac_nonzero - float(share[j])) > 1e-9 for j, feature in enumerate(features))
        print(f"level {level}: {len(features)} features as SAEDashboard has them")

    run("export", at, "--dump", dump, "--format", "delphi", "--out", out / "delphi")
    data = LatentDataset(out / "delphi", SamplerConfig(), ConstructorConfig(), tokenizer=object())
    whole = rows // context
    for level, f in zip((1, 2), sizes):
        z, found = dense(out / "text.safetensors", level, rows, f), np.zeros((whole * context, f), np.float32)
        for buffer in data.buffers:
            if buffer.module_path.endswith(f"level{level}"):
                where, values, tokens = buffer.load()
                found[where[:, 0] * context + where[:, 1], where[:, 2]] = values
                bad += tuple(tokens.shape) != (whole, context)
        same = (found == z[:whole * context]).all()
        bad += not same
        print(f"level {level}: delphi reads {int((found > 0).sum())} activations{'' if same else ', and others than there are'}")
    return bad


what, *where = sys.argv[1:]
sys.exit(1 if {"fixtures": fixtures, "lens": lens, "tools": tools}[what](*map(pathlib.Path, where)) else 0)
