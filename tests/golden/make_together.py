#!/usr/bin/env python3
"""Writes together.safetensors: probes of several labels by PyTorch's Adam, as Tree SAE's evaluation fits them, but from weights of 0 and
with all rows in one batch, so that nothing is drawn, and in f64. In f32 they end up to a tenth away, since Adam divides small gradients by
small ones."""
import pathlib
import torch
from safetensors.torch import save_file

torch.manual_seed(3)
N, D, LABELS, EPOCHS, FIRST, LAST, DECAY = 700, 8, 18, 50, 0.05, 1e-4, 1e-2
x = torch.randn(N, D) * torch.logspace(-0.3, 0.5, D) + torch.randn(D)
truth = torch.randn(D, LABELS)
logit = (x - x.mean(0)) @ truth
y = (logit + 0.7 * logit.std(0) * torch.randn(N, LABELS) > logit.std(0) * torch.linspace(0.0, 1.6, LABELS)).float()
positive = (N - y.sum(0)) / y.sum(0)
probe = torch.nn.Linear(D, LABELS).double()
torch.nn.init.zeros_(probe.weight), torch.nn.init.zeros_(probe.bias)
loss = torch.nn.BCEWithLogitsLoss(pos_weight=positive.double())
adam = torch.optim.Adam(probe.parameters(), lr=FIRST, weight_decay=DECAY)
fall = torch.optim.lr_scheduler.ExponentialLR(adam, gamma=(LAST / FIRST) ** (1 / EPOCHS))
for _ in range(EPOCHS):
    adam.zero_grad()
    # The mean over rows of the sum over probes: each has its own gradient.
    (loss(probe(x.double()), y.double()) * LABELS).backward()
    adam.step()
    fall.step()
save_file({"x": x, "y": y.to(torch.uint8), "weight": probe.weight.detach().float().contiguous()},
          pathlib.Path(__file__).parent / "together.safetensors")
