"""Training, interruption, evaluation and reports."""
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import warnings

import numpy as np
import pytest
from conftest import KINDS, SETTINGS, merged, quiet, strata

import strata_sae
from strata_sae import Run, train

FEW = merged(SETTINGS, {"train": {"steps": 40}})


def weights(run):
    return (run.path / "sae" / "sae_weights.safetensors").read_bytes()


def flags(settings, prefix=""):
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from flags(value, f"{prefix}{key}.")
        else:
            yield from ("--set", f"{prefix}{key}={value}")


def test_an_array_is_trained_on_to_the_bits_of_the_command(rows, tmp_path):
    with quiet():
        run = train(rows[:6000], tmp_path / "run", seed=3, progress=False, **FEW)
    np.save(tmp_path / "rows.npy", rows[:6000])
    strata("--quiet", "train", "--dump", tmp_path / "rows.npy", "--out", tmp_path / "other", "--seed", 3, *flags(FEW))
    assert weights(run) == weights(Run(tmp_path / "other"))
    assert run.finished and (tmp_path / "run-rows" / "dump.json").exists()


def test_pieces_are_streamed_to_a_dump(rows, tmp_path):
    pieces = (rows[i : i + 1500] for i in range(0, 6000, 1500))
    with quiet():
        run = train(pieces, tmp_path / "run", dump=tmp_path / "mine", seed=3, progress=False, **FEW)
        other = train(rows[:6000], tmp_path / "other", seed=3, progress=False, **FEW)
    assert weights(run) == weights(other) and (tmp_path / "mine").is_dir()
    with pytest.raises(strata_sae.Error, match="more than max_bytes = 1000000 bytes"):
        train((rows for _ in range(10)), tmp_path / "more", max_bytes=1000000, progress=False)
    with pytest.raises(ValueError, match="at least one array"):
        train(iter(()), tmp_path / "more", progress=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "other", "other-rows", "run"]


def test_tokens_come_with_arrays(rows, tmp_path):
    x = rows[:6000].reshape(100, 60, -1)
    ids = np.random.default_rng(0).integers(0, 4, (100, 60))
    settings = merged(FEW, {"data": {"skip_tokens": ["b"], "skip_first": 1}})
    with quiet():
        train(x, tmp_path / "run", tokens=ids, vocab=["a", "b", "c", "d"], progress=False, **settings)
        train([(x, ids)], tmp_path / "pairs", vocab=["a", "b", "c", "d"], progress=False, **settings)
    assert weights(Run(tmp_path / "run")) == weights(Run(tmp_path / "pairs"))
    rule = Run(tmp_path / "run").sae.info["origin"]["left_out"]
    assert rule["skip_tokens"] == [1] and rule["skip_first"] == 1


def test_settings_are_checked_by_the_table_of_the_command(world, rows, tmp_path):
    with pytest.raises(strata_sae.Error, match="unknown setting `level1.latent`; did you mean `level1.latents`"):
        train(world, tmp_path / "run", level1={"latent": 3})
    with pytest.raises(strata_sae.Error, match="`train.steps`"):
        train(world, tmp_path / "run", **{"train.steps": 0})
    with pytest.raises(strata_sae.Error, match="expected an integer"):
        train(world, tmp_path / "run", train={"steps": 1.5})
    with pytest.raises(TypeError, match="settings: expected numbers"):
        train(world, tmp_path / "run", train={"steps": object()})
    assert not (tmp_path / "run").exists()
    with pytest.raises(strata_sae.Error, match="no such file"):
        train(tmp_path / "nothing", tmp_path / "run")
    # Nothing is written before the settings are known to be right.
    with pytest.raises(strata_sae.Error, match="found integer `-1`"):
        train(rows, tmp_path / "run", level1={"latents": -1})
    with pytest.raises(strata_sae.Error, match="level1.latents"):
        train(rows, tmp_path / "run", level1={"latents": 0})
    with pytest.raises(TypeError, match="rows: expected an array, the path of a dump, or an iterable of arrays, found int"):
        train(3, tmp_path / "run")
    with pytest.raises(strata_sae.Error, match="preset: expected language or language-pruned, found speech"):
        train(rows, tmp_path / "run", preset="speech")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "there").mkdir()
    with pytest.raises(strata_sae.Error, match="exists already"):
        train(rows, tmp_path / "there")
    keys = {s["key"] for s in strata_sae.settings()}
    assert "level1.latents" in keys and {s["key"] for s in strata_sae.settings("train.steps")} == {"train.steps"}
    assert all(s["key"].startswith("gate.") for s in strata_sae.settings("gate"))
    with pytest.raises(strata_sae.Error, match="did you mean `gate`"):
        strata_sae.settings("gat")


def test_a_preset_comes_before_the_settings(rows, tmp_path):
    settings = merged(FEW, {"data": {"skip_special": False}, "gate": {"root_below": 0.2}})
    with quiet():
        run = train(rows, tmp_path / "run", preset="language", progress=False, **settings)
    text = (run.path / "config.toml").read_text()
    assert 'consistency = "contain"' in text and "root_below = 0.2" in text


def test_progress_is_shown(world, tmp_path):
    seen = []
    with quiet():
        train(world, tmp_path / "run", progress=lambda *p: seen.append((p, threading.current_thread())), **SETTINGS)
    assert {what for (what, *_), _ in seen} >= {"training"}
    assert all(thread is threading.main_thread() and done <= total for (_, done, total, *_), thread in seen)

    class Mine(Exception):
        pass

    def fail(*_):
        raise Mine

    with pytest.raises(Mine):
        train(world, tmp_path / "other", progress=fail, **merged(SETTINGS, {"train": {"steps": 100000}}))
    # The process is not interrupted for good.
    with quiet():
        assert train(world, tmp_path / "third", progress=False, **FEW).finished


def test_an_interrupt_writes_a_checkpoint_and_returns(world, tmp_path):
    started = threading.Event()

    def show(what, done, total, unit, message):
        if what == "training" and done > 20 * 512 and not started.is_set():
            started.set()
            os.kill(os.getpid(), signal.SIGINT)

    settings = merged(SETTINGS, {"train": {"steps": 1500}})
    with pytest.warns(UserWarning, match="interrupted: a checkpoint is in"):
        run = train(world, tmp_path / "run", progress=show, **settings)
    assert started.is_set() and not run.finished and run.summary is None and "not finished" in repr(run)
    with pytest.raises(strata_sae.Error, match="has not finished training"):
        run.sae
    with quiet():
        assert run.resume(progress=False).finished
        whole = train(world, tmp_path / "whole", progress=False, **settings)
    assert weights(run) == weights(whole)
    with quiet():
        assert run.resume(steps=1510, progress=False).metrics[-1]["step"] == 1509


def test_an_interrupted_evaluation_raises(run, tmp_path):
    def show(*_):
        os.kill(os.getpid(), signal.SIGINT)

    # Rows that are drawn as they are read, and more of them than are evaluated between two looks at the progress.
    many = ("--world", "a", "--rows", 20000000, "--streamed", "--out", tmp_path / "many")
    strata_sae.command("synth", *many, progress=False)
    with pytest.raises(KeyboardInterrupt):
        run.eval(tmp_path / "many", all=True, out=tmp_path / "out", progress=show)
    assert not (tmp_path / "out").exists()


def test_what_a_run_says(run, tmp_path):
    assert run.finished and run.summary["held_out"]["fvu"][1] < 1
    assert run.metrics[-1]["step"] == 299 and run.evaluation is None and run.latents == []
    with quiet():
        found = run.eval(progress=False)
    assert found == run.evaluation and found["held_out"] and 0 < found["fidelity"]["level2"]["fvu"] < 1
    assert len(run.latents) == 64 + 192
    report = run.report(title="a title")
    assert report.path == run.path / "report.html" and "a title" in report.path.read_text()
    assert report._repr_html_().startswith("<iframe srcdoc=") and "<script" not in report._repr_html_()
    assert run.report(out=tmp_path / "other.html").path == tmp_path / "other.html"


def test_reconstructions_in_the_language_model(tmp_path):
    capture = ("capture", "--layer", 1, "--max-tokens", 6000, "--context", 100, "--out", tmp_path / "acts")
    strata_sae.command(*capture, progress=False)
    with quiet():
        run = train(tmp_path / "acts", tmp_path / "run", progress=False, **FEW)
        some = run.eval(splice=True, splice_tokens=500, progress=False)["splice"]
        found = run.eval(splice=True, all=True, progress=False)["splice"]
    # All tokens of whole sequences but the first of each are predicted.
    assert some["n_tokens"] == 5 * 99 and found["n_tokens"] == 60 * 99
    assert found["clean"] < found["level2"] < found["zero_ablated"] + 1
    with pytest.raises(strata_sae.Error, match="--splice"):
        run.eval(splice_tokens=500)


def test_a_run_is_ready_for_a_hub(run, rows, tmp_path):
    with quiet():
        run.eval(progress=False)
    with pytest.raises(strata_sae.Error, match="exists already"):
        run.publish(tmp_path)
    run.publish(tmp_path / "hub", license="mit", repository="me/mine")
    text = (tmp_path / "hub" / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: strata-sae\nlicense: \"mit\"\n") and "snapshot_download('me/mine')" in text
    found = run.evaluation
    assert f"| FVU of level 2, held-out rows | {found['fidelity']['level2']['fvu']:.4g} |" in text
    assert f"| active latents per row, level 1 | {found['level1']['l0_mean']:.4g} |" in text
    assert f"| is the hierarchy real? | {found['verdict']['answer']} |" in text
    for path in (tmp_path / "hub").iterdir():
        assert str(tmp_path.parent).encode() not in path.read_bytes(), path
    codes, expected = strata_sae.Sae.load(tmp_path / "hub").encode(rows[:50]), run.sae.encode(rows[:50])
    np.testing.assert_array_equal(codes.level2.values, expected.level2.values)


def test_the_card_names_the_model_and_the_hook(rows, tmp_path):
    with quiet():
        run = train(rows[:4000], tmp_path / "run", model_name="me/model", hook_name="blocks.1.hook_resid_post", progress=False, **FEW)
    assert run.sae.hook == "blocks.1.hook_resid_post"
    text = (run.publish(tmp_path / "hub") / "README.md").read_text()
    assert 'base_model: "me/model"' in text and "| hook point | blocks.1.hook_resid_post |" in text


def test_any_command(world, run):
    found = strata_sae.command("inspect", world, progress=False)
    assert found["n_rows"] == 20000
    with pytest.raises(strata_sae.Error, match="unexpected argument '--nothing'"):
        strata_sae.command("inspect", world, "--nothing")
    with pytest.raises(strata_sae.Error, match="not provided: <PATH>...$"):
        strata_sae.command("inspect")
    assert strata_sae.command("--version") == f"strata {strata_sae.__version__}\n"
    assert strata_sae.command("inspect", "--help").startswith("Summarise a dump")


def test_a_warning_is_of_the_line_that_called(rows, tmp_path):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        train(rows[:20], tmp_path / "run", progress=False, **merged(FEW, {"train": {"steps": 2}}))
    assert any("fewer rows to train on" in str(w.message) for w in found)
    assert {w.filename for w in found} == {__file__}


def test_the_command_is_installed():
    assert strata("--version").stdout == f"strata {strata_sae.__version__}\n"
    failed = strata("inspect", "nothing", ok=False)
    assert failed.stderr.startswith("error: ") and failed.returncode == 1
    module = subprocess.run([sys.executable, "-m", "strata_sae", "--version"], capture_output=True, text=True)
    assert module.stdout == f"strata {strata_sae.__version__}\n"


def test_numpy_is_all_that_it_needs():
    script = """
    import sys, strata_sae
    known = {"numpy", "strata_sae"}
    heavy = {"torch", "transformers", "scipy", "sae_lens", "tqdm"} & set(sys.modules)
    assert not heavy, heavy
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)
