"""What the tests share: a dump of a synthetic world, and a small run on it. They test the installed package."""
import contextlib
import subprocess
import sys
import sysconfig
import warnings
from pathlib import Path

import numpy as np
import pytest

import strata_sae

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = {
    "level1": {"latents": 64, "k": 5}, "level2": {"latents": 192, "k": 6},
    "train": {"steps": 300, "batch": 512, "log_every": 50}, "gate": {"start": 0.3, "min_count": 20},
    "data": {"stats_rows": 4096},
}
#: Runs of every way in which levels compute.
KINDS = {
    "hard": {},
    "topk": {"level1": {"activation": "topk"}, "level2": {"activation": "topk"}, "source": "res"},
    "jumprelu": {"level1": {"activation": "jumprelu"}, "level2": {"activation": "jumprelu"}, "gate": {"kind": "none"}},
    "gated": {"level1": {"activation": "gated"}, "level2": {"activation": "gated"}, "gate": {"kind": "group-top1"}},
    "soft": {"level1": {"activation": "relu"}, "gate": {"kind": "mul"}, "decoder": "comp", "source": "z1"},
    "flat": {"level2": {"latents": 0}},
}


def merged(one, two):
    out = dict(one)
    for key, value in two.items():
        out[key] = merged(out.get(key, {}), value) if isinstance(value, dict) else value
    return out


@contextlib.contextmanager
def quiet():
    """A training of a few steps has reasons to warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def strata(*args, ok=True):
    """The command that the package has installed, in a process of its own."""
    program = Path(sysconfig.get_path("scripts")) / ("strata.exe" if sys.platform == "win32" else "strata")
    done = subprocess.run([program, *map(str, args)], capture_output=True, text=True)
    assert (done.returncode == 0) == ok, done.stderr
    return done


def codes_file(path):
    """The codes of both levels that `strata encode` has written."""
    tensors = strata_sae._sae._safetensors(Path(path).read_bytes())
    return [tuple(tensors[f"z{level}.{part}"] for part in ("indptr", "indices", "values")) for level in (1, 2)]


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("world") / "dump"
    strata_sae.command("synth", "--world", "a", "--rows", 20000, "--out", out, progress=False)
    return out


@pytest.fixture(scope="session")
def rows(world):
    shards = sorted(world.glob("acts-*.safetensors"))
    return np.concatenate([strata_sae._sae._safetensors(p.read_bytes())["activations"] for p in shards])


@pytest.fixture(scope="session")
def runs(world, tmp_path_factory):
    """Trains each kind once, when it is first asked for."""
    made, place = {}, tmp_path_factory.mktemp("runs")

    def run(kind):
        if kind not in made:
            settings = merged(SETTINGS, KINDS[kind])
            with quiet():
                made[kind] = strata_sae.train(world, place / kind, progress=False, **settings)
        return made[kind]

    return run


@pytest.fixture(scope="session")
def run(runs):
    return runs("hard")


@pytest.fixture(scope="session")
def sae(run):
    return run.sae
