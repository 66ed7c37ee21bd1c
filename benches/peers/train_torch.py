"""Trains a top-k SAE as one would in plain PyTorch: dense codes, or a decoder by embedding_bag. One line of JSON."""

import argparse
import json
import math

import torch
from torch import nn
from torch.nn import functional

from rows import Clock, Dump, fvu, peak_resident_bytes


class TopKSae(nn.Module):
    """z = relu(top_k((x - b_dec) W_enc + b_enc)), x_hat = z W_dec + b_dec, rows of W_dec of norm 1."""

    def __init__(self, d, latents, k, bag, mean):
        super().__init__()
        self.k, self.bag = k, bag
        w = functional.normalize(torch.randn(latents, d), dim=1)
        self.w_enc, self.b_enc = nn.Parameter(w.t().clone()), nn.Parameter(torch.zeros(latents))
        self.w_dec, self.b_dec = nn.Parameter(w.clone()), nn.Parameter(mean.clone())

    def encode(self, x):
        value, index = torch.addmm(self.b_enc, x - self.b_dec, self.w_enc).topk(self.k, sorted=False)
        return value.relu(), index

    def decode(self, value, index):
        if self.bag:
            return functional.embedding_bag(index, self.w_dec, per_sample_weights=value, mode="sum") + self.b_dec
        z = value.new_zeros(len(value), len(self.w_dec)).scatter(1, index, value)
        return torch.addmm(self.b_dec, z, self.w_dec)

    @torch.no_grad()
    def normalise(self):
        self.w_dec.div_(self.w_dec.norm(dim=1, keepdim=True))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--dump", required=True)
    p.add_argument("--bag", action="store_true", help="decode by embedding_bag")
    for name in ("latents", "k", "batch", "steps", "warm-up", "threads"):
        p.add_argument(f"--{name}", type=int, required=True)
    p.add_argument("--lr", type=float, required=True)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    at_start = peak_resident_bytes()

    dump = Dump(a.dump)
    sample = dump.read(0, 8192)
    scale = math.sqrt(dump.d) / float(sample.norm(dim=1).mean())
    sae = TopKSae(dump.d, a.latents, a.k, a.bag, sample.mean(0) * scale)
    optimiser = torch.optim.Adam(sae.parameters(), lr=a.lr, fused=True)
    warm_up, decay = max(2, a.steps // 50), max(1, a.steps // 5)
    rate = lambda t: min((t + 1) / warm_up, (a.steps - t) / decay, 1.0)  # noqa: E731
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    clock, batches = Clock(a.batch, a.warm_up), dump.batches(a.batch)
    for _ in range(a.steps):
        clock.mark()
        x = next(batches).mul_(scale)
        loss = functional.mse_loss(sae.decode(*sae.encode(x)), x)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        sae.normalise()
    clock.mark()
    peak = peak_resident_bytes()

    x = dump.held_out().mul_(scale)
    fired = torch.zeros(a.latents, dtype=torch.bool)
    x_hat = []
    with torch.no_grad():
        for part in x.split(1024):
            value, index = sae.encode(part)
            fired[index[value > 0]] = True
            x_hat.append(sae.decode(value, index))
    used = {"peak_resident_bytes": peak, "resident_at_start_bytes": at_start}
    found = {"fvu": fvu(x, torch.cat(x_hat)), "alive": float(fired.float().mean()), "l0": a.k}
    print(json.dumps({**clock.report(), **used, **found}))


if __name__ == "__main__":
    main()
