#!/usr/bin/env python3
"""Writes the hidden states of all-MiniLM-L6-v2 after layer 3 as rows that `strata train` reads.

usage: minilm.py MODEL TEXT.jsonl TOKENS FOLDER      writes FOLDER/rows.npy (f16) and FOLDER/tokens.npy

The documents of TEXT are taken in a seeded order and packed into windows of 126 word pieces between [CLS] and [SEP], whose own rows are
left out.
"""

import json
import random
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

LAYER, WINDOW, BATCH = 3, 126, 64


def main():
    model, text, tokens, folder = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    tokenizer, bert = AutoTokenizer.from_pretrained(model), AutoModel.from_pretrained(model).eval()
    documents = [json.loads(line)["text"] for line in text.open(encoding="utf-8")]
    random.Random(0).shuffle(documents)
    pieces = []
    for document in documents:
        pieces += tokenizer(document, add_special_tokens=False)["input_ids"]
        if len(pieces) >= tokens:
            break
    n = min(len(pieces), tokens) // WINDOW
    pieces = np.array(pieces[: n * WINDOW], dtype=np.int64).reshape(n, WINDOW)
    rows = np.lib.format.open_memmap(folder / "rows.npy", mode="w+", dtype=np.float16, shape=(n * WINDOW, bert.config.hidden_size))
    with torch.no_grad():
        for i in range(0, n, BATCH):
            batch = torch.tensor(pieces[i : i + BATCH])
            edge = lambda token: torch.full((len(batch), 1), token)
            whole = torch.cat([edge(tokenizer.cls_token_id), batch, edge(tokenizer.sep_token_id)], 1)
            hidden = bert(whole, output_hidden_states=True).hidden_states[LAYER][:, 1:-1]
            rows[i * WINDOW : (i + len(batch)) * WINDOW] = hidden.reshape(-1, bert.config.hidden_size).half().numpy()
    rows.flush()
    np.save(folder / "tokens.npy", pieces.reshape(-1))
    print(f"{n * WINDOW} rows")


if __name__ == "__main__":
    main()
