"""Models: the bits of the command, every kind of array, and errors."""
import gc
import multiprocessing
import pickle
import threading
import time

import numpy as np
import pytest
from conftest import KINDS, codes_file, strata

import strata_sae
from strata_sae import Edit, Sae


def same(codes, expected):
    for level, (indptr, indices, values) in zip((codes.level1, codes.level2), expected):
        np.testing.assert_array_equal(level.indptr, indptr.astype(np.int64))
        np.testing.assert_array_equal(level.indices, indices)
        np.testing.assert_array_equal(level.values.view(np.uint32), values.view(np.uint32))


@pytest.mark.parametrize("kind", KINDS)
def test_codes_have_the_bits_of_the_command(kind, runs, rows, tmp_path):
    run = runs(kind)
    strata("--quiet", "encode", run.path, "--out", tmp_path / "codes")
    expected = codes_file(tmp_path / "codes")
    same(run.sae.encode(rows), expected)
    # Rows one by one, which are computed in the calling thread.
    for i in (0, 1, 19999):
        codes = run.sae.encode(rows[i])
        assert codes.shape == () and len(codes) == 1
        for level, (indptr, indices, values) in zip((1, 2), expected):
            at = slice(int(indptr[i]), int(indptr[i + 1]))
            np.testing.assert_array_equal(codes[level].indices, indices[at])
            np.testing.assert_array_equal(codes[level].values, values[at])


def test_a_run_writes_the_same_codes(run, rows, tmp_path):
    run.encode(tmp_path / "codes", progress=False)
    same(run.sae.encode(rows), codes_file(tmp_path / "codes"))


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 64, 1000])
def test_threads_and_sizes_do_not_matter(n, sae, rows):
    expected = sae.encode(rows[:n])
    try:
        for threads in (1, 3):
            strata_sae.set_threads(threads)
            same(sae.encode(rows[:n]), [(p.indptr, p.indices, p.values) for p in (expected.level1, expected.level2)])
            with pytest.raises(ValueError, match=f"threads: expected 1 to 1024, found {-threads}"):
                strata_sae.set_threads(-threads)
    finally:
        strata_sae.set_threads(None)
    assert len(expected) == n


def test_strides_and_dimensions_are_read_where_they_lie(sae, rows):
    x = rows[:240]
    expected = [(p.indptr, p.indices, p.values) for p in (sae.encode(x).level1, sae.encode(x).level2)]
    wide = np.zeros((240, 2 * sae.d), np.float32)
    wide[:, ::2] = x
    for view in (np.asfortranarray(x), wide[:, ::2], x.reshape(4, 60, sae.d), x[::-1][::-1], x.reshape(2, 3, 40, sae.d)):
        codes = sae.encode(view)
        assert codes.shape == view.shape[:-1]
        same(codes, expected)
    # A batch without its first tokens is no array of rows at one distance.
    batch = x.reshape(4, 60, sae.d)[:, 1:]
    same(sae.encode(batch), [(p.indptr, p.indices, p.values) for p in map(sae.encode(batch.copy()).__getitem__, (1, 2))])
    read_only = x.copy()
    read_only.flags.writeable = False
    same(sae.encode(read_only), expected)


def test_halves_are_widened_exactly(sae, rows):
    half = rows[:500].astype(np.float16)
    wide = sae.encode(half.astype(np.float32))
    same(sae.encode(half), [(p.indptr, p.indices, p.values) for p in (wide.level1, wide.level2)])
    strided = np.repeat(half, 2, axis=1)[:, ::2]
    same(sae.encode(strided), [(p.indptr, p.indices, p.values) for p in (wide.level1, wide.level2)])
    assert sae.reconstruct(half).dtype == np.float16
    np.testing.assert_array_equal(sae.reconstruct(half), sae.reconstruct(half.astype(np.float32)).astype(np.float16))


@pytest.mark.parametrize("kind", KINDS)
def test_a_reconstruction_is_the_decoding_of_codes(kind, runs, rows):
    sae, x = runs(kind).sae, rows[:300].reshape(3, 100, -1)
    codes = sae.encode(x)
    for level in (1, 2):
        decoded = sae.decode(codes, level=level)
        assert decoded.shape == x.shape and decoded.dtype == np.float32
        np.testing.assert_array_equal(decoded, sae.reconstruct(x, level=level))
    by_hand = codes.level1.dense() @ sae.decoder(1) + sae.tensors()["b_dec"]
    np.testing.assert_allclose(sae.decode(codes, level=1).reshape(300, -1), by_hand, atol=1e-4)
    assert np.square(x - sae.decode(codes)).sum() < np.square(x - x.mean(axis=(0, 1))).sum()


def test_steering_adds_decoder_directions(sae, rows):
    x = rows[:50]
    codes = sae.encode(x)
    parent = int(codes.level1.row(0)[0][0])
    added = sae.steer(x, Edit(parent, 2.5))
    np.testing.assert_allclose(added - x, np.broadcast_to(2.5 * sae.decoder(1)[parent], x.shape), atol=1e-5)
    # Setting a latent to 0 removes what it adds now.
    removed = sae.steer(x, [Edit(parent, 0.0, mode="set")])
    np.testing.assert_allclose(x - removed, codes.level1.dense()[:, [parent]] * sae.decoder(1)[parent], atol=1e-5)
    assert sae.steer(x[0], Edit(0, 1.0, level=2)).shape == x[0].shape
    np.testing.assert_array_equal(sae.steer(x, []), x)
    with pytest.raises(IndexError, match="latent: index 64 is outside of 0..64"):
        sae.steer(x, Edit(64, 1.0))
    with pytest.raises(IndexError, match="edits: level: expected 1 or 2, found 3"):
        sae.steer(x, Edit(1, 1.0, level=3))
    with pytest.raises(ValueError, match="another edit"):
        sae.steer(x, [Edit(1, 1.0, mode="set"), Edit(1, 1.0)])
    with pytest.raises(ValueError, match="not finite"):
        sae.steer(x, Edit(1, float("nan")))
    with pytest.raises(ValueError, match="'add' or 'set'"):
        sae.steer(x, Edit(1, 1.0, mode="scale"))


def test_families_are_those_of_the_file(sae, run):
    file = strata_sae._sae._safetensors((run.path / "sae" / "sae_weights.safetensors").read_bytes())
    parents = file["parent"].astype(np.int64)
    np.testing.assert_array_equal(sae.parents, np.where(parents == 2**32 - 1, -1, parents))
    children = [sae.children(p) for p in range(-1, 64)]
    assert sorted(np.concatenate(children)) == list(range(192))
    with pytest.raises(IndexError):
        sae.children(64)


def test_arrays_of_the_model(sae, run, tmp_path):
    assert sae.decoder(1).shape == (64, sae.d) and sae.decoder(2).shape == (192, sae.d)
    for level in (1, 2):
        assert np.shares_memory(sae.decoder(level), sae.decoder(level)) and not sae.decoder(level).flags.writeable
        with pytest.raises(ValueError, match="WRITEABLE"):
            sae.decoder(level).flags.writeable = True
    np.testing.assert_allclose(np.linalg.norm(sae.decoder(2), axis=1), 1, atol=1e-5)
    file = strata_sae._sae._safetensors((run.path / "sae" / "sae_weights.safetensors").read_bytes())
    assert sae.tensors().keys() == file.keys()
    for name, tensor in sae.tensors().items():
        np.testing.assert_array_equal(tensor, file[name])
    assert sae.info["latents"] == [64, 192] and sae.latents == (64, 192) and sae.d_out == sae.d == 64
    sae.save(tmp_path / "copy")
    assert (tmp_path / "copy" / "sae_weights.safetensors").read_bytes() == (run.path / "sae" / "sae_weights.safetensors").read_bytes()
    assert Sae.load(tmp_path / "copy").latents == (64, 192)
    assert "latents=(64, 192)" in repr(sae)


def test_an_array_of_a_model_keeps_it(run):
    directions = run.sae.decoder(1)
    expected = directions.copy()
    gc.collect()
    np.testing.assert_array_equal(directions, expected)


def test_models_of_other_tools(run, rows, tmp_path):
    strata_sae.command("convert", run.path, tmp_path / "lens", "--part", "level1", "--model-id", "a/b", "--hook", "x", progress=False)
    lens = Sae.load(tmp_path / "lens")
    assert lens.info["format"].startswith("SAELens") and lens.latents == (64, 0)
    np.testing.assert_array_equal(lens.encode(rows).level1.indptr, run.sae.encode(rows).level1.indptr)


def test_weights_of_other_types(run, rows):
    exact, rounded = run.sae.encode(rows[:500]), Sae.load(run.path, weights="bf16").encode(rows[:500])
    assert abs(len(exact.level1.values) - len(rounded.level1.values)) < 100
    with pytest.raises(strata_sae.Error, match="f32, bf16 or int8"):
        Sae.load(run.path, weights="f64")


def test_errors_are_one_sentence(sae, rows, tmp_path):
    with pytest.raises(ValueError, match=r"rows of width 64, found the shape \[3, 63\]"):
        sae.encode(rows[:3, :63])
    with pytest.raises(TypeError, match="found float64: convert them with .astype"):
        sae.encode(rows[:3].astype(np.float64))
    with pytest.raises(TypeError, match="found uint16"):
        sae.encode(np.zeros((3, 64), np.uint16))
    with pytest.raises(TypeError, match="found >f4"):
        sae.encode(rows[:3].astype(">f4"))
    with pytest.raises(ValueError, match="single number"):
        sae.encode(np.float32(1))
    with pytest.raises(TypeError, match="expected an array of numbers, found NoneType"):
        sae.encode(None)
    with pytest.raises(TypeError, match="codes: expected Codes"):
        sae.decode(rows)
    with pytest.raises(TypeError, match="edits: expected Edit"):
        sae.steer(rows, (1, 2.0))
    bad = np.repeat(rows, 2, axis=0)[:20000].copy()
    bad[17003, 5] = np.nan
    with pytest.raises(ValueError, match="not finite in row 17003"):
        sae.encode(bad)
    # A call that failed leaves the model usable.
    assert len(sae.encode(rows[:3])) == 3
    with pytest.raises(strata_sae.Error, match="no such file or directory"):
        Sae.load(tmp_path / "nothing")
    with pytest.raises(IndexError, match="level"):
        sae.decoder(3)
    with pytest.raises(IndexError, match="level"):
        sae.reconstruct(rows[:2], level=3)
    codes = sae.encode(rows[:4])
    codes.level1.indices = np.full_like(codes.level1.indices, 64)
    with pytest.raises(IndexError, match="outside of 0..64"):
        sae.decode(codes)
    codes = sae.encode(rows[:4])
    codes.level2 = sae.encode(rows[:3]).level2
    with pytest.raises(ValueError, match="expected 4 rows, found 3"):
        sae.decode(codes)
    assert issubclass(strata_sae.Error, Exception) and strata_sae.Error.__module__ == "strata_sae"
    assert isinstance(pickle.loads(pickle.dumps(strata_sae.Error("a"))), strata_sae.Error)


def test_other_threads_run_while_it_computes(sae, rows):
    many = np.tile(rows, (20, 1))
    ticks, stop = [], threading.Event()

    def tick():
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    start = time.perf_counter()
    sae.encode(many)
    end = time.perf_counter()
    stop.set()
    thread.join()
    during = [t for t in ticks if start < t < end]
    assert end - start > 0.02 and len(during) > 5, (end - start, len(during))


def test_many_threads_share_a_model(sae, rows):
    expected, found = sae.encode(rows[:2000]), {}

    def encode(i):
        found[i] = sae.encode(rows[:2000])

    threads = [threading.Thread(target=encode, args=(i,)) for i in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    for codes in found.values():
        same(codes, [(p.indptr, p.indices, p.values) for p in (expected.level1, expected.level2)])
    assert len(found) == 8


def _forked(sae, rows, queue):
    queue.put(len(sae.encode(rows).level1.values))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own(sae, rows):
    expected = len(sae.encode(rows[:1000]).level1.values)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_forked, args=(sae, rows[:1000], queue))
    child.start()
    assert queue.get(timeout=60) == expected
    child.join(60)
    assert child.exitcode == 0
