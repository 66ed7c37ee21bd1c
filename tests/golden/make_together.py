#!/usr/bin/env python3
"""Writes together.safetensors: probes of several labels by PyTorch's Adam, as Tree SAE's evaluation fits them (batches of 32 here):
the mean of eight seeds, which differ among themselves by cosines down to .90."""
import pathlib
import torch
from safetensors.torch import save_file

torch.manual_seed(3)
N, D, LABELS, EPOCHS, BATCH, FIRST, LAST = 700, 8, 18, 50, 32, 0.01, 1e-5
x = torch.randn(N, D) * torch.logspace(-0.3, 0.5, D) + torch.randn(D)
truth = torch.randn(D, LABELS)
logit = (x - x.mean(0)) @ truth
y = (logit + 0.7 * logit.std(0) * torch.randn(N, LABELS) > logit.std(0) * torch.linspace(0.0, 1.6, LABELS)).float()
positive = (N - y.sum(0)) / y.sum(0)


def fitted(seed):
    torch.manual_seed(seed)
    probe = torch.nn.Linear(D, LABELS)
    loss = torch.nn.BCEWithLogitsLoss(pos_weight=positive)
    adam = torch.optim.Adam(probe.parameters(), lr=FIRST, weight_decay=1e-6)
    fall = torch.optim.lr_scheduler.ExponentialLR(adam, gamma=(LAST / FIRST) ** (1 / EPOCHS))
    for _ in range(EPOCHS):
        for rows in torch.randperm(N).split(BATCH):
            adam.zero_grad()
            # The mean over rows of the sum over probes: each has its own gradient.
            (loss(probe(x[rows]), y[rows]) * LABELS).backward()
            adam.step()
        fall.step()
    return probe.weight.detach()


save_file({"x": x, "y": y.to(torch.uint8), "weight": torch.stack([fitted(seed) for seed in range(8)]).mean(0)},
          pathlib.Path(__file__).parent / "together.safetensors")
