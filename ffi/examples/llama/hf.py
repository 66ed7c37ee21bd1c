"""A Hugging Face directory: config.json, model.safetensors as float32, and the tokens in order of their ids."""
import json
import pathlib

import numpy as np
from safetensors.numpy import load_file


class Model:
    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.config = json.loads((self.directory / "config.json").read_text())
        tensors = load_file(self.directory / "model.safetensors")
        # GPT-2 is published with and without this prefix.
        self.tensors = {k.removeprefix("transformer."): np.float32(v) for k, v in tensors.items()}
        self.kind = self.config["model_type"]
        if self.kind not in ("gpt2", "bert"):
            raise SystemExit(f"{directory}/config.json: expected the model_type gpt2 or bert, found {self.kind}")

    def characters(self):
        """The characters of a model with one token a character."""
        vocab = json.loads((self.directory / "tokenizer.json").read_text())["model"]["vocab"]
        characters = sorted(vocab, key=vocab.get)
        if any(len(c) != 1 for c in characters) or sorted(vocab.values()) != list(range(len(vocab))):
            raise SystemExit(f"{self.directory}/tokenizer.json: expected one token a character")
        return characters

    def word_pieces(self):
        """The lines of vocab.txt."""
        return (self.directory / "vocab.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")
