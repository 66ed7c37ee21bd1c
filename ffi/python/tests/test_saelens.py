"""Models in SAELens: `.ci/python-full`, not the gate."""
import numpy as np
import pytest

import strata_sae

torch = pytest.importorskip("torch")
sae_lens = pytest.importorskip("sae_lens")
pytestmark = pytest.mark.filterwarnings("ignore")

METADATA = {"model": "me/model", "hook": "blocks.1.hook_resid_post"}


@pytest.mark.parametrize("kind", ["hard", "jumprelu", "gated"])
def test_saelens_loads_both_levels(kind, runs, rows, tmp_path):
    from strata_sae.saelens import to_saelens

    strata_sae.register_saelens()
    run = runs(kind)
    part = "both" if kind == "jumprelu" else "tree"
    to_saelens(run, tmp_path / "lens", part, **METADATA)
    lens = sae_lens.SAE.load_from_disk(str(tmp_path / "lens"))
    x = rows[:500]
    theirs = lens.encode(torch.from_numpy(x)).detach().numpy()
    wrong = np.abs(theirs - run.sae.encode(x).dense()) > 1e-3
    assert wrong.sum() <= 2
    np.testing.assert_allclose(lens.decode(torch.from_numpy(theirs)).detach().numpy(), run.sae.reconstruct(x), atol=0.05)


def test_load_needs_no_directory(runs):
    from strata_sae.saelens import load

    lens = load(runs("hard"))
    assert lens.cfg.d_sae == 256


def test_the_notebook_use_in_saelens_runs(tmp_path):
    from test_docs import NOTEBOOKS, run

    said = run((NOTEBOOKS / ("use_in_saelens" + ".py")).read_text(), tmp_path, STRATA_STEPS="60")
    assert "latents that differ by more than rounding" in said
