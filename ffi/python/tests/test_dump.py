"""Dumps that Python writes, as the command reads them."""
import json

import numpy as np
import pytest
from conftest import strata

import strata_sae
from strata_sae import DumpWriter


def inspect(path, *flags):
    return json.loads(strata("--json", "inspect", path, *flags, ok=True).stdout)


def tensors(path):
    return strata_sae._sae._safetensors(path.read_bytes())


def test_sequences_without_padding(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 4, 16)).astype(np.float32)
    ids = np.arange(12).reshape(3, 4) % 5
    mask = np.array([[1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 1, 1]])
    with DumpWriter(tmp_path / "d", 16, tokenizer=["a", "b", " c", "d", "e"], hook="h", model="m") as dump:
        dump.append(x, ids, mask, special=ids == 0)
        dump.append(x[0], ids[0])
        dump.append(x[1], ids[1], continues=True)
        assert dump.n_rows == 9 + 8
    about = json.loads((tmp_path / "d" / "dump.json").read_text())
    assert about["special_tokens"] == [0] and about["hook"] == "h" and about["rows"] == 17
    kept = mask.astype(bool)
    stored = tensors(tmp_path / "d" / about["shards"][0]["file"])["activations"]
    np.testing.assert_array_equal(stored, np.concatenate([x[kept], x[0], x[1]]))
    found = tensors(tmp_path / "d" / "tokens.safetensors")
    np.testing.assert_array_equal(found["tokens"], np.concatenate([ids[kept], ids[0], ids[1]]))
    assert list(found["sequence_starts"]) == [0, 3, 7, 9]
    assert json.loads((tmp_path / "d" / "vocab.json").read_text()) == ["a", "b", " c", "d", "e"]


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_types_are_rounded_as_asked(dtype, tmp_path):
    x = np.random.default_rng(1).standard_normal((100, 8)).astype(np.float32)
    with DumpWriter(tmp_path / "d", 8, dtype) as dump:
        dump.append(x)
    assert inspect(tmp_path / "d")["dtype"] == dtype


def test_nothing_is_left_of_a_dump_that_failed(tmp_path):
    with pytest.raises(RuntimeError, match="mine"):
        with DumpWriter(tmp_path / "d", 8) as dump:
            dump.append(np.ones((2, 8), np.float32))
            raise RuntimeError("mine")
    assert list(tmp_path.iterdir()) == []
    with DumpWriter(tmp_path / "d", 8) as dump:
        bad = np.ones((5, 8), np.float32)
        bad[3, 2] = np.inf
        with pytest.raises(ValueError, match="row 3 has a number that is not finite"):
            dump.append(bad)
        assert dump.n_rows == 0
        with pytest.raises(ValueError, match=r"token_ids: expected the shape \(5,\)"):
            dump.append(np.ones((5, 8), np.float32), [1, 2])
        with pytest.raises(TypeError, match="token_ids: expected integers"):
            dump.append(np.ones((2, 8), np.float32), [1.5, 2.5])
        dump.append(np.random.default_rng(0).standard_normal((20, 8)).astype(np.float16))
    assert inspect(tmp_path / "d")["n_rows"] == 20
    with pytest.raises(strata_sae.Error, match="exists already"):
        DumpWriter(tmp_path / "d", 8)
    with pytest.raises(ValueError, match="finished"):
        dump.append(np.ones((2, 8), np.float32))


def test_vocabularies_are_readable(tmp_path):
    # The spelling of byte-level tokenizers.
    (tmp_path / "vocab.json").write_text(json.dumps({"\u0120the": 0, "caf\u00c3\u00a9": 1, "\u010a": 2}))
    assert strata_sae.vocabulary(tmp_path / "vocab.json") == [" the", "caf\u00e9", "\n"]
    with pytest.raises(TypeError, match="tokenizer"):
        strata_sae.vocabulary(3)


def test_bare_files_with_tokens(tmp_path):
    """What docs/formats.md says under "make a dump yourself"."""
    rng = np.random.default_rng(2)
    np.save(tmp_path / "acts.npy", rng.standard_normal((400, 16)).astype(np.float32))
    np.save(tmp_path / "ids.npy", rng.integers(0, 3, 400))
    (tmp_path / "vocab.json").write_text(json.dumps(["a", "b", "c"]))
    flags = ["--tokens", tmp_path / "ids.npy", "--vocab", tmp_path / "vocab.json", "--context", 50]
    assert inspect(tmp_path / "acts.npy", *flags)["n_rows"] == 400
