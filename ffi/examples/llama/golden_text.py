"""Writes the text of the golden windows, one after the other.

usage: golden_text.py GOLDEN.safetensors HF_DIRECTORY OUT.txt
"""
import pathlib
import sys

from safetensors.numpy import load_file

from hf import Model

golden, directory, out = sys.argv[1:]
characters = Model(directory).characters()
pathlib.Path(out).write_text("".join(characters[i] for i in load_file(golden)["input_ids"].reshape(-1)))
