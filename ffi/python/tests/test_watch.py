"""Watch-lists and linear heads: the entries and the scores that encoding everything gives."""
import numpy as np
import pytest
from conftest import KINDS, quiet

import strata_sae

LISTS = ([3, 60, 0, 17], [190, 4, 33, 12, 101, 5])


def only(level, latents):
    """The entries of some latents of full codes."""
    kept = np.isin(level.indices, latents)
    counts = np.add.reduceat(np.append(kept, False), level.indptr[:-1]) * (np.diff(level.indptr) > 0)
    return np.concatenate([[0], np.cumsum(counts)]), level.indices[kept], level.values[kept]


def same(codes, full, lists):
    for level, latents in zip((1, 2), lists):
        indptr, indices, values = only(full[level], latents)
        np.testing.assert_array_equal(codes[level].indptr, indptr)
        np.testing.assert_array_equal(codes[level].indices, indices)
        np.testing.assert_array_equal(codes[level].values.view(np.uint32), values.view(np.uint32))
        assert codes[level].latents == full[level].latents


@pytest.mark.parametrize("kind", KINDS)
def test_the_codes_of_listed_latents_are_those_of_encoding(kind, runs, rows):
    sae = runs(kind).sae
    lists = (LISTS[0], LISTS[1] if sae.latents[1] else [])
    watch = sae.watch(*lists)
    for x in (rows[:1], rows[5], rows[:3000], rows[:240].reshape(4, 60, -1), rows[:20].astype(np.float16)):
        codes = watch.encode(x)
        assert codes.shape == x.shape[:-1]
        same(codes, sae.encode(x), lists)
    assert sum(len(level.values) for level in (codes.level1, codes.level2)) < len(sae.encode(rows[:20]).level1.values)
    for listed, given in zip(watch.latents, lists):
        np.testing.assert_array_equal(listed, sorted(given))
    if kind == "topk":
        assert watch.computed == ((64, "level 2 reads what level 1 as a whole leaves or finds"),
                                  (192, "top-k compares all latents of the level"))
    if kind == "jumprelu":
        assert watch.computed == ((4, None), (6, None))


def test_threads_do_not_matter_and_either_list_may_be_empty(sae, rows):
    full = sae.encode(rows)
    try:
        for threads in (1, 3):
            strata_sae.set_threads(threads)
            for lists in (LISTS, (LISTS[0], []), ([], LISTS[1]), ([], [])):
                same(sae.watch(*lists).encode(rows), full, lists)
    finally:
        strata_sae.set_threads(None)
    assert sae.watch(np.array([1, 2]), range(3)).computed[0].latents >= 2


def test_wrong_lists_and_rows_are_refused(sae, rows):
    with pytest.raises(IndexError, match="latents of level 1: expected 0 to 63, found 64"):
        sae.watch([64])
    with pytest.raises(IndexError, match="level 2: expected 0 to 191, found -1"):
        sae.watch([], [-1])
    with pytest.raises(ValueError, match="latents of level 2: expected each latent once, found 7 twice"):
        sae.watch([], [7, 7])
    watch = sae.watch([1])
    with pytest.raises(ValueError, match=f"expected rows of width {sae.d}"):
        watch.encode(rows[:, 1:])
    bad = rows[:3].copy()
    bad[2, 0] = np.nan
    with pytest.raises(ValueError, match="row 2"):
        watch.encode(bad)
    with pytest.raises(TypeError, match="float64"):
        watch.encode(rows[:3].astype(np.float64))


@pytest.fixture(scope="session")
def heads(run, rows, tmp_path_factory):
    place = tmp_path_factory.mktemp("heads")
    np.save(place / "labels.npy", (rows[:, 0] > 0).astype(np.int64) + (rows[:, 1] > 0.5))
    file = place / "heads.safetensors"
    with quiet():
        strata_sae.command("probe", run.path, "--labels", place / "labels.npy", "--save-head", file, "--out", place / "probe.json",
                           progress=False)
    return file


def expected_scores(sae, probe, x):
    """The formula, in numpy."""
    f1, unit = sae.latents[0], np.float32(probe.unit)
    codes = sae.encode(x)
    z = np.maximum(np.concatenate([codes.level1.dense(), codes.level2.dense()], axis=1), 0) * unit
    wide = x.reshape(-1, x.shape[-1]) * unit
    return np.stack([(z[:, h.latents] if h.reads == "latents" else wide).astype(np.float64) @ h.weight + h.bias for h in probe.heads], 1)


def test_scores_are_those_of_the_formula(sae, heads, rows):
    probe = sae.probe(heads)
    assert len(probe) == len(probe.names) == len(probe.heads) and {h.reads for h in probe.heads} == {"row", "latents"}
    for x in (rows[:2000], rows[:1], rows[:24].reshape(2, 12, -1)):
        scores = probe.score(x)
        assert scores.shape == (*x.shape[:-1], len(probe)) and scores.dtype == np.float64
        np.testing.assert_allclose(scores.reshape(-1, len(probe)), expected_scores(sae, probe, x), rtol=1e-10, atol=1e-10)
    assert probe.score(rows[0]).shape == (len(probe),)
    try:
        strata_sae.set_threads(1)
        one = probe.score(rows)
        strata_sae.set_threads(3)
        np.testing.assert_array_equal(one, probe.score(rows))
    finally:
        strata_sae.set_threads(None)
    np.testing.assert_array_equal(one[77], probe.score(rows[77]))
    # Heads that were fitted tell the classes of rows apart.
    name = probe.heads[0].name
    inside = ((rows[:, 0] > 0).astype(np.int64) + (rows[:, 1] > 0.5)).astype(str) == name
    assert one[inside, 0].mean() > 0 > one[~inside, 0].mean()


def test_a_state_keeps_what_was_scored(sae, heads, rows):
    probe = sae.probe(heads)
    scores, n = probe.score(rows[:300]), 3
    on, off = np.quantile(scores, 0.8, axis=0), np.quantile(scores, 0.4, axis=0)
    state = probe.state(n, on=on, off=off)
    assert not state.alarms().any() and np.isnan(state.read().max).all() and (state.read().max_row == -1).all()
    sequences = np.arange(300) % n
    for step in range(0, 300, 30):
        got = state.update(rows[step : step + 30], sequences[step : step + 30])
        np.testing.assert_array_equal(got, scores[step : step + 30])
    found = state.read()
    for s in range(n):
        own = scores[sequences == s]
        np.testing.assert_array_equal(found.rows[s], len(own))
        np.testing.assert_array_equal(found.last[s], own[-1])
        np.testing.assert_array_equal(found.max[s], own.max(axis=0))
        np.testing.assert_array_equal(found.max_row[s], own.argmax(axis=0))
        np.testing.assert_allclose(found.mean[s], own.mean(axis=0), rtol=1e-12)
        for h in range(len(probe)):
            is_on, begun = False, 0
            for score in own[:, h]:
                was, is_on = is_on, score > on[h] or (is_on and score > off[h])
                begun += is_on and not was
            assert state.alarms()[s, h] == is_on and found.alarms[s, h] == begun
    assert found.alarms.sum() > 0
    # A batch of sequences, and one that begins anew.
    state.reset(1)
    assert (state.read().rows[1] == 0).all() and (state.read().rows[2] == 100).all()
    batch = state.update(rows[:12].reshape(3, 4, -1), np.arange(3)[:, None])
    assert batch.shape == (3, 4, len(probe)) and (state.read().rows == [[104], [4], [104]]).all()


def test_a_state_adds_all_or_nothing(sae, heads, rows):
    probe = sae.probe(heads)
    state = probe.state(2)
    bad = rows[:20].copy()
    bad[19, 0] = np.inf
    with pytest.raises(ValueError, match="row 19"):
        state.update(bad)
    with pytest.raises(IndexError, match="sequence: expected 0 to 1, found 2"):
        state.update(rows[:2], [0, 2])
    with pytest.raises(IndexError, match="found -1"):
        state.update(rows[:2], [0, -1])
    with pytest.raises(IndexError, match="expected 0 to 1, found 2"):
        state.reset(2)
    assert (state.read().rows == 0).all()
    with pytest.raises(ValueError, match="at most those of on"):
        probe.state(on=0.0, off=1.0)
    with pytest.raises(ValueError, match="sequences: expected 1 or more"):
        probe.state(0)


def test_heads_of_another_model_are_refused(runs, heads, tmp_path):
    with pytest.raises(strata_sae.Error, match="expected heads of this model"):
        runs("jumprelu").sae.probe(heads)
    with pytest.raises(strata_sae.Error, match="absent.safetensors"):
        runs("hard").sae.probe(tmp_path / "absent.safetensors")
    (tmp_path / "cut").write_bytes(heads.read_bytes()[:-9])
    with pytest.raises(strata_sae.Error, match="cut"):
        runs("hard").sae.probe(tmp_path / "cut")
