"""The pages and the notebooks do what they say, as a reader would run them."""
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

NOTEBOOKS = ROOT / "ffi" / "python" / "notebooks"
#: An import that needs more than numpy: blocks with one are run by the notebooks and the tests with torch.
HEAVY = re.compile(r"^(import|from) (torch|transformers|sae_lens|strata_sae\.torch|strata_sae\.saelens)\b", re.M)


def blocks(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)


def run(code, place, **environment):
    script = place / "script.py"
    script.write_text(code, encoding="utf-8")
    env = {**os.environ, **environment, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, script.name], cwd=place, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(place, n=20000):
    """Rows with some structure, as `acts.npy`."""
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((96, 32)).astype(np.float32)
    codes = rng.random((n, 96)) < 0.05
    np.save(place / "acts.npy", (codes * rng.random((n, 96))).astype(np.float32) @ directions)


@pytest.mark.parametrize("page", ["docs/python.md", "README.md", "ffi/python/README.md"])
def test_the_blocks_of_a_page_run_in_order(page, tmp_path):
    code = [block for block in blocks(page) if not HEAVY.search(block)]
    assert code
    rows(tmp_path)
    # A training as long as the default one would take a minute.
    small = "import strata_sae as _s\n_t = _s.train\ndef _few(*a, **k):\n    k['train'] = {**k.get('train', {}), 'steps': 60}\n" \
        "    return _t(*a, **k)\n_s.train = _few\nif __name__ == '__main__':\n"
    body = "\n".join("    " + line for line in "\n".join(code).splitlines())
    run(small + body, tmp_path)


@pytest.mark.parametrize("name", ["train_on_your_array", "read_and_steer"])
def test_notebooks_run(name, tmp_path):
    assert run((NOTEBOOKS / f"{name}.py").read_text(encoding="utf-8"), tmp_path, STRATA_STEPS="100")


def test_every_notebook_is_run_by_a_test():
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    names = [path.stem for path in NOTEBOOKS.glob("*.py")]
    assert len(names) == 4 and all(f'"{name}"' in tests for name in names)


def test_the_stub_has_what_the_compiled_part_has():
    import ast

    import strata_sae._native as native

    stub = ast.parse((ROOT / "ffi/python/python/strata_sae/_native.pyi").read_text(encoding="utf-8"))
    named = {}
    for node in stub.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            named[node.name] = {n.name for n in getattr(node, "body", []) if isinstance(n, ast.FunctionDef)}
    public = {name for name in dir(native) if not name.startswith("_")}
    assert public - {"VERSION"} == named.keys()
    for name in ("Model", "Probe", "ProbeState", "Watch", "Writer"):
        methods = {m for m in vars(getattr(native, name)) if not m.startswith("_")}
        assert methods == named[name] - {"__init__"}


def test_every_public_name_has_a_docstring():
    import inspect

    import strata_sae

    for name in strata_sae.__all__:
        thing = getattr(strata_sae, name)
        assert thing.__doc__, name
        for member, value in vars(thing).items() if inspect.isclass(thing) else ():
            if not member.startswith("_") and (callable(value) or isinstance(value, (property, classmethod))):
                assert inspect.getdoc(getattr(thing, member)), f"{name}.{member}"
