#!/usr/bin/env python3
"""Writes matching.safetensors: matrices and the assignments of scipy.optimize.linear_sum_assignment."""
import pathlib
import numpy as np
from safetensors.numpy import save_file
from scipy.optimize import linear_sum_assignment

r = np.random.default_rng(1)
out = {}
for name, (n, m) in dict(square=(40, 40), wide=(25, 90), tall=(70, 30), tiny=(1, 7)).items():
    a = r.standard_normal((n, m))
    if name == 'wide':  # scales from 1e-6 to 1e6
        a *= 10. ** r.integers(-6, 7, (n, m))
    out[name] = a
    for goal in ('min', 'max'):
        rows, cols = linear_sum_assignment(a, maximize=goal == 'max')
        full = np.full(n, -1, np.int32)
        full[rows] = cols
        out[f'{name}.{goal}'] = full
save_file(out, pathlib.Path(__file__).parent / 'matching.safetensors')
