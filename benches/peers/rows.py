"""What the peers share: rows from a dump, batch by batch; the fraction of variance unexplained; what a process uses."""

import time

import numpy as np

HELD_OUT = 0.1
# As many held-out rows as `strata train` watches.
WATCHED = 4096


def n_train(n):
    """Rows to train on: `data.holdout = 0.1` of Strata."""
    return n - int(n * HELD_OUT)


class Dump:
    """A .npy file of rows, read in order and never mapped, so that no page of it counts as memory of the process."""

    def __init__(self, path):
        mapped = np.load(path, mmap_mode="r")
        self.path, self.offset, self.dtype = path, mapped.offset, mapped.dtype
        self.n, self.d = mapped.shape
        self.n_train = n_train(self.n)

    def read(self, start, n):
        """(n, d) f32, as a tensor."""
        import torch

        at = self.offset + start * self.d * self.dtype.itemsize
        rows = np.fromfile(self.path, dtype=self.dtype, count=n * self.d, offset=at).reshape(n, self.d)
        return torch.from_numpy(rows).float()

    def batches(self, n):
        """Batches of training rows, over and over."""
        start = 0
        while True:
            if start + n > self.n_train:
                start = 0
            yield self.read(start, n)
            start += n

    def held_out(self):
        """The rows on which `strata train` watches the loss."""
        return self.read(self.n_train, min(WATCHED, self.n - self.n_train))


class Clock:
    """Notes the time of each step, the first few left out."""

    def __init__(self, batch, warm_up):
        self.batch, self.warm_up = batch, warm_up
        self.marks = []

    def mark(self):
        self.marks.append((time.perf_counter(), time.process_time()))

    def report(self):
        wall = np.diff([m[0] for m in self.marks])[self.warm_up :]
        cpu = self.marks[-1][1] - self.marks[self.warm_up][1]
        return {
            "tokens_per_s": self.batch / float(np.median(wall)),
            "cpu_us_per_token": cpu / (len(wall) * self.batch) * 1e6,
            "timed_steps": len(wall),
            "train_s": self.marks[-1][0] - self.marks[0][0],
        }


def peak_resident_bytes():
    """The most memory of this process that was resident at once."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def fvu(x, x_hat):
    """sum ||x - x_hat||^2 / sum ||x - mean||^2, in f64."""
    x, x_hat = x.double(), x_hat.double()
    return float((x - x_hat).pow(2).sum() / (x - x.mean(0)).pow(2).sum())
