"""Writes the small Arrow files of dumps/: rows 0 to 11 of width 4, of which entry (i, j) is 10 i + j, and token ids from 100.

    python make_arrow.py        (needs numpy and pyarrow; written with pyarrow 22)
"""

import pathlib

import numpy as np
import pyarrow as pa

OUT = pathlib.Path(__file__).parent / "dumps"
ROWS = 10.0 * np.arange(12)[:, None] + np.arange(4)
IDS = np.arange(100, 112)


def write(name, columns, batches=None, **options):
    table = pa.table(columns)
    with pa.OSFile(str(OUT / name), "wb") as sink:
        with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
            for batch in batches or table.to_batches():
                writer.write_batch(batch)


def contexts(ends, rows):
    return [rows[a:b].tolist() for a, b in zip([0, *ends], ends)]


def ids(ends):
    return [IDS[a:b].tolist() for a, b in zip([0, *ends], ends)]


nested = pa.list_(pa.list_(pa.float32()))
ragged = {"note": ["a", "b", "c"], "acts": pa.array(contexts([3, 8, 12], ROWS), nested), "token_ids": pa.array(ids([3, 8, 12]), pa.list_(pa.int64()))}
write("arrow-ragged.arrow", ragged)
half = [[[np.float16(v) for v in row] for row in c] for c in contexts([4, 8, 12], ROWS)]
large = pa.large_list(pa.large_list(pa.float16()))
table = {"acts": pa.array(half, large), "token_ids": pa.array(ids([4, 8, 12]), pa.large_list(pa.uint16()))}
write("arrow-large-f16.arrow", table, pa.table(table).to_batches(max_chunksize=2))
# The first and last rows of this table are cut off without being copied.
more = np.concatenate([ROWS[:6] - 1, ROWS, ROWS[:6] + 1])
fixed = pa.list_(pa.list_(pa.float32(), 4), 6)
table = pa.table({"acts": pa.array(contexts([6, 12, 18, 24], more), fixed), "token_ids": pa.array([[0] * 6, *ids([6, 12]), [1] * 6], pa.list_(pa.int32(), 6))})
write("arrow-fixed-sliced.arrow", {n: table[n] for n in table.column_names}, table.slice(1, 2).to_batches())
write("arrow-rows.arrow", {"acts": pa.array(ROWS.tolist(), pa.list_(pa.float32(), 4))})
write("arrow-zstd.arrow", ragged, compression="zstd")
write("arrow-lz4.arrow", ragged, compression="lz4")
write("arrow-f64.arrow", ragged | {"acts": pa.array(contexts([3, 8, 12], ROWS), pa.list_(pa.list_(pa.float64())))})
write("arrow-null.arrow", ragged | {"acts": pa.array([*contexts([3, 8], ROWS), None], nested)})
