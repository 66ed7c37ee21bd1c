"""Codes in other forms."""
import numpy as np
import pytest

from strata_sae import Codes, Level


@pytest.fixture
def level():
    indptr = np.array([0, 2, 2, 5], np.int64)
    return Level(indptr, np.array([1, 3, 0, 2, 3], np.uint32), np.array([5, 7, 1, 3, 2], np.float32), 4)


def test_a_level_in_every_form(level):
    dense = np.array([[0, 5, 0, 7], [0, 0, 0, 0], [1, 0, 3, 2]], np.float32)
    np.testing.assert_array_equal(level.dense(), dense)
    assert level.shape == (3, 4) and len(level) == 3 and list(level.l0()) == [2, 0, 3]
    indices, values = level.row(-1)
    assert list(indices) == [0, 2, 3] and list(values) == [1, 3, 2]
    assert [len(i) for i, _ in level] == [2, 0, 3]
    indices, values = level.topk(2)
    np.testing.assert_array_equal(indices, [[3, 1], [-1, -1], [2, 3]])
    np.testing.assert_array_equal(values, [[7, 5], [0, 0], [3, 2]])
    with pytest.raises(IndexError, match="row 3 of 3"):
        level.row(3)
    assert "1.67 active per row" in repr(level)


def test_scipy_shares_the_values(level):
    pytest.importorskip("scipy")
    matrix = level.to_scipy()
    np.testing.assert_array_equal(matrix.toarray(), level.dense())
    assert np.shares_memory(matrix.data, level.values)


def test_children_follow_parents(level):
    two = Level(np.array([0, 1, 2, 2], np.int64), np.array([0, 1], np.uint32), np.array([9, 8], np.float32), 2)
    codes = Codes(level, two, (3,))
    expected = np.concatenate([level.dense(), two.dense()], axis=1)
    np.testing.assert_array_equal(codes.dense(), expected)
    np.testing.assert_array_equal(codes.both().dense(), expected)
    np.testing.assert_array_equal(codes.topk(1)[0], [[4], [5], [2]])
    assert Codes(level, two, (1, 3)).dense().shape == (1, 3, 6)
    with pytest.raises(IndexError):
        codes[0]


def test_memory_is_used_again_once_it_is_free(sae, rows):
    kept = sae.encode(rows[:500])
    expected = kept.copy()
    places = set()
    for i in range(8):
        codes = sae.encode(rows[500 * i : 500 * (i + 1)])
        codes.level1.values[:] = -1                       # it belongs to its user until then
        places.add(codes.level1.values.ctypes.data)
    assert len(places) < 8
    again = sae.encode(rows[:500])
    part = again.level2.indices[:10]
    first = part.copy()
    del again
    for i in range(4):
        sae.encode(rows[500 * i : 500 * (i + 1)])
    np.testing.assert_array_equal(part, first)            # a view keeps what it shows
    for level in (1, 2):
        for name in ("indptr", "indices", "values"):
            np.testing.assert_array_equal(getattr(kept[level], name), getattr(expected[level], name))
