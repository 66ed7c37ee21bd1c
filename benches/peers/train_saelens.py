"""Trains with SAELens: its own training SAE and its own SAETrainer.fit, fed from the dump. One line of JSON.

Its option `use_sparse_activations` is left off: in 6.54 its backward pass has no kernel on a CPU (aten::view, SparseCPU).
"""

import argparse
import json
import os

os.environ["WANDB_MODE"] = "disabled"

import torch
from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer

from rows import Clock, Dump, fvu, peak_resident_bytes

# Instead of its default of 1,000 batches, which would be four passes over this dump.
NORM_BATCHES = 16


class Provider:
    """Batches, with the time at which each is asked for: the end of the step before."""

    def __init__(self, dump, batch, clock):
        self.batches, self.clock = dump.batches(batch), clock
        self.left_for_norm = NORM_BATCHES

    def __iter__(self):
        return self

    def __next__(self):
        if self.left_for_norm > 0:
            self.left_for_norm -= 1
        else:
            self.clock.mark()
        return next(self.batches)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--dump", required=True)
    p.add_argument("--kind", choices=["topk", "batchtopk"], default="topk")
    for name in ("latents", "k", "batch", "steps", "warm-up", "threads"):
        p.add_argument(f"--{name}", type=int, required=True)
    p.add_argument("--lr", type=float, required=True)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    at_start = peak_resident_bytes()

    dump = Dump(a.dump)
    shared = dict(d_in=dump.d, d_sae=a.latents, k=a.k, normalize_activations="expected_average_only_in")
    if a.kind == "topk":
        sae = TopKTrainingSAE(TopKTrainingSAEConfig(**shared))
    else:
        sae = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**shared))
    clock = Clock(a.batch, a.warm_up)
    cfg = SAETrainerConfig(
        total_training_samples=a.steps * a.batch,
        train_batch_size_samples=a.batch,
        lr=a.lr,
        lr_end=a.lr,
        lr_warm_up_steps=max(2, a.steps // 50),
        lr_decay_steps=max(1, a.steps // 5),
        n_batches_for_norm_estimate=NORM_BATCHES,
        logger=LoggingConfig(log_to_wandb=False),
    )
    trainer = SAETrainer(cfg=cfg, sae=sae, data_provider=Provider(dump, a.batch, clock))
    sae = trainer.fit()
    clock.mark()
    peak = peak_resident_bytes()

    x = dump.held_out()
    with torch.no_grad():
        codes = torch.cat([sae.encode(part) for part in x.split(1024)])
        x_hat = torch.cat([sae.decode(part) for part in codes.split(1024)])
    alive = float((codes > 0).any(0).float().mean())
    used = {"peak_resident_bytes": peak, "resident_at_start_bytes": at_start}
    print(json.dumps({**clock.report(), **used, "fvu": fvu(x, x_hat), "alive": alive, "l0": float((codes > 0).sum() / len(x))}))


if __name__ == "__main__":
    main()
