"""The C library from Python: ctypes and numpy, no copies. Rows may be float32 or float16 and have any row stride.

This shows the C interface to a language without a compiler. Programs in Python use the package: docs/python.md.

>>> sae = Sae("RUN")                                # finds libstrata.so.1 as any program does
>>> parents, children = sae.encode(hidden)          # each: offsets (n + 1), latents, activations; CSR
"""
import ctypes as c, sys
import numpy as np

def struct(name, *fields): return type(name, (c.Structure,), {"_fields_": [("struct_size", c.c_size_t), *fields]})
Error = struct("Error", ("status", c.c_int32), ("reserved", c.c_uint32), ("message", c.c_char * 256))
Info = struct("Info", *((k, c.c_size_t) for k in ("d", "f1", "f2", "max_active1", "max_active2")), ("reserved", c.c_uint64),
              ("d_out", c.c_size_t), ("needs_rows", c.c_uint32), ("reserved2", c.c_uint32))
Rows = struct("Rows", ("data", c.c_void_p), *((k, c.c_size_t) for k in ("n_rows", "d", "row_stride_bytes")),
              ("dtype", c.c_uint32), ("reserved", c.c_uint32))
Codes = struct("Codes", ("offsets", c.c_void_p), ("offsets_len", c.c_size_t), ("index", c.c_void_p), ("value", c.c_void_p),
               ("capacity", c.c_size_t), ("n", c.c_size_t))

class Sae:
    def __init__(self, run, library="libstrata.so.1"):
        self.lib, self.model, self.ctx, self.info = c.CDLL(library), c.c_void_p(), c.c_void_p(), Info(c.sizeof(Info))
        self.lib.strata_ctx_message.restype, err = c.c_char_p, Error(c.sizeof(Error))
        if (self.lib.strata_model_load(str(run).encode(), None, c.byref(self.model), c.byref(err))
                or self.lib.strata_ctx_new(self.model, None, c.byref(self.ctx), c.byref(err))):
            raise RuntimeError(err.message.decode())
        self.lib.strata_model_get_info(self.model, c.byref(self.info))

    def __del__(self):
        self.lib.strata_ctx_free(self.ctx)
        self.lib.strata_model_free(self.model)

    def encode(self, x):
        dtype, row = {"float32": 0, "float16": 1}[str(x.dtype)], x.itemsize * x.shape[1]
        stride = x.strides[0] if len(x) > 1 else row
        if x.strides[1] != x.itemsize or stride < row: raise ValueError("expected rows one after the other in memory")
        rows = Rows(c.sizeof(Rows), x.ctypes.data, *x.shape, stride, dtype)
        n, sizes = len(x), (self.info.max_active1, self.info.max_active2)
        out = [(np.zeros(n + 1, np.uintp), np.empty(n * k, np.uint32), np.empty(n * k, np.float32)) for k in sizes]
        codes = [Codes(c.sizeof(Codes), o.ctypes.data, n + 1, i.ctypes.data, v.ctypes.data, len(i)) for o, i, v in out]
        status = self.lib.strata_encode(self.ctx, c.byref(rows), c.byref(codes[0]), c.byref(codes[1]))
        if status: raise RuntimeError(self.lib.strata_ctx_message(self.ctx).decode())
        return [(o, i[:k.n], v[:k.n]) for (o, i, v), k in zip(out, codes)]

if __name__ == "__main__":  # usage: minimal.py RUN [ROWS.npy]; without a file: one row of ones
    sae = Sae(sys.argv[1])
    x = np.load(sys.argv[2]) if len(sys.argv) > 2 else np.ones((1, sae.info.d), np.float32)
    levels = sae.encode(x)
    print(f"d {sae.info.d}, latents {sae.info.f1} and {sae.info.f2}; {len(x)} rows, {len(levels[0][1])} and {len(levels[1][1])} codes")
    for row in range(min(len(x), 3)):
        for level, (offsets, index, value) in enumerate(levels, 1):
            at = range(*offsets[row : row + 2].tolist())
            print(f"row {row} level {level}:", *(f"{index[e]}={value[e]:g}" for e in at))
