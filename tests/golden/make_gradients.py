#!/usr/bin/env python3
"""Writes gradients.safetensors: losses and gradients of the two-level model and of the seed by PyTorch's autograd.

Everything is float64. Stop-gradients are `detach`, straight-through estimators are autograd functions, selections are
index masks. Inputs are rounded to float32 first, so that the engine reads the very same numbers.

    python -m venv v && v/bin/pip install torch safetensors numpy && v/bin/python make_gradients.py

Tensors are called `<case>/<tensor>`, `<case>/grad/<tensor>`, `<case>/x`, `<case>/parents`, `<case>/dead1`,
`<case>/dead2`, `<case>/loss` (total, fvu1, fvu2, consistency); the metadata `cases` is a JSON list of the settings.
"""
import json
import pathlib

import numpy as np
import torch
from safetensors.torch import save_file

torch.set_default_dtype(torch.float64)
ROOT = 2**32 - 1
VARIANCE = 1.75
TAU2 = 0.25
NEAR = 1e-5


class JumpRelu(torch.autograd.Function):
    """u 1[u > theta]; theta by a rectangle kernel on u (Rajamanoharan et al. 2024)."""

    @staticmethod
    def forward(ctx, u, theta, bandwidth):
        ctx.save_for_backward(u, theta)
        ctx.bandwidth = bandwidth
        return u * (u > theta)

    @staticmethod
    def backward(ctx, grad):
        u, theta = ctx.saved_tensors
        kernel = ((u - theta).abs() < ctx.bandwidth / 2).to(u)
        return grad * (u > theta), -(theta / ctx.bandwidth * kernel * grad).sum(0), None


class Step(torch.autograd.Function):
    """1[u > theta]; theta gets its gradient by the same kernel, u gets none."""

    @staticmethod
    def forward(ctx, u, theta, bandwidth):
        ctx.save_for_backward(u, theta)
        ctx.bandwidth = bandwidth
        return (u > theta).to(u)

    @staticmethod
    def backward(ctx, grad):
        u, theta = ctx.saved_tensors
        kernel = ((u - theta).abs() < ctx.bandwidth / 2).to(u)
        return None, -(kernel * grad).sum(0) / ctx.bandwidth, None


def keep_largest(u, k):
    """Mask of the k largest positive entries of each row."""
    k = min(k, u.shape[1])
    value, index = u.topk(k, dim=1)
    return torch.zeros_like(u).scatter_(1, index, (value > 0).to(u))


class Tree:
    def __init__(self, config, p, x, parents, dead):
        self.c, self.p, self.x, self.dead = config, p, x, dead
        self.parents = parents
        self.near = []

    def level(self, l):
        return self.c[f"level{l}"]

    def activate(self, l, u):
        """(z, fires, sparsity per row, before the weight)."""
        p, c = self.p, self.level(l)
        act, rows = c["activation"], p[f"level{l}.w_dec"]
        self.near.append(u[u.isfinite()].abs().min())
        if act == "jumprelu":
            theta = p[f"level{l}.threshold"]
            v = (u - theta)[u.isfinite()].abs()
            self.near += [v.min(), (v - c["bandwidth"] / 2).abs().min()]
            open_u = torch.where(u.isfinite(), u, torch.full_like(u, -1e9))
            z = JumpRelu.apply(open_u, theta, c["bandwidth"])
            return torch.where(u.isfinite(), z, torch.zeros_like(z)), z > 0, Step.apply(open_u, theta, c["bandwidth"]).sum(1)
        relu = torch.where(u > 0, u, torch.zeros_like(u))
        if act == "gated":
            z = (torch.exp(p[f"level{l}.r_mag"]) * relu + p[f"level{l}.b_mag"]).clamp_min(0) * (u > 0)
            return z, z > 0, relu.sum(1)
        if act == "relu":
            z = relu
        elif act == "topk":
            z = relu * keep_largest(u.detach(), int(c["k"]))
        elif act == "batchtopk":
            keep = max(int(round(c["k"] * len(u))), 1)
            z = relu * keep_largest(u.detach().reshape(1, -1), keep).reshape(u.shape)
        return z, z > 0, (z * rows.norm(dim=1)).sum(1)

    def aux(self, l, u, error, directions):
        """AuxK with its weight; error = x_hat - x."""
        dead = self.dead[l - 1]
        n, unit = len(u), 1 / (len(u) * VARIANCE)
        if not self.c["loss"]["aux"] or len(dead) == 0:
            return 0.0
        k = self.c["revive"]["k_aux"]
        lit = torch.zeros_like(u)
        lit[:, dead] = keep_largest(u.detach()[:, dead], k)
        v = torch.where(lit > 0, u, torch.zeros_like(u))
        fvu = (error.detach() ** 2).sum() * unit
        weight = self.c["loss"]["aux"] / fvu * min(len(dead) / k, 1)
        return weight * unit * ((v @ directions + error.detach()) ** 2).sum()

    def loss(self):
        c, p, x = self.c, self.p, self.x
        w = c["loss"]
        n, unit = len(x), 1 / (len(x) * VARIANCE)
        own = c["train"]["balance"] == "own"
        see = (lambda t: t.detach()) if own else (lambda t: t)
        d1, bd = p["level1.w_dec"], p["b_dec"]
        u1 = (x - bd) @ p["level1.w_enc"].T + p["level1.b_enc"]
        z1, fires1, s1 = self.activate(1, u1)
        hat1 = z1 @ d1 + bd
        fvu1 = ((hat1 - x) ** 2).sum() * unit
        total = w["w1"] * fvu1 + c["level1"]["lambda"] * s1.mean() + self.aux(1, u1, hat1 - x, d1)
        if c["level1"]["activation"] == "gated":
            total = total + w["gated_aux"] * unit * ((u1.clamp_min(0) @ d1.detach() + bd.detach() - x) ** 2).sum()
        if c["level2"]["latents"] == 0:
            return total, fvu1, fvu1, torch.zeros(())
        xt = x - see(bd)
        z1s, d1s = see(z1), see(d1)
        if c["source"] == "x":
            s = xt
        elif c["source"] == "z1":
            s = z1s
        else:
            s = xt - ((z1s @ d1s).detach() if c["source_detach"] else z1s @ d1s)
        a2 = s @ p["level2.w_enc"].T + p["level2.b_enc"]
        kind = c["gate"]["kind"]
        parents = torch.tensor([-1 if q == ROOT else q for q in self.parents])
        if kind in ("mul", "add"):
            g = z1s @ p["gate.w"] + p["gate.b"]
            u2 = a2 * torch.sigmoid(g) if kind == "mul" else a2 + g
        elif kind == "none":
            u2 = a2
        else:
            shut = (parents[None] >= 0) & ~fires1[:, parents.clamp_min(0)]
            if kind == "group-top1":
                for q in range(d1.shape[0]):
                    family = (parents == q).nonzero()[:, 0]
                    if len(family) > 1:
                        best = a2.detach()[:, family].argmax(1)
                        lost = torch.ones(n, len(family), dtype=torch.bool).scatter_(1, best[:, None], False)
                        shut[:, family] |= lost
            u2 = torch.where(shut, torch.full_like(a2, -torch.inf), a2)
        z2, _, s2 = self.activate(2, u2)
        d2 = p["level2.w_dec"]
        directions = d2 @ d1s if c["decoder"] == "comp" else d2
        hat2 = z2 @ directions + (see(hat1) if c["decoder"] == "cum" else see(bd))
        fvu2 = ((hat2 - x) ** 2).sum() * unit
        total = total + w["w2"] * fvu2 + c["level2"]["lambda"] * s2.mean() + self.aux(2, u2, hat2 - x, directions)
        if c["level2"]["activation"] == "gated":
            base = hat1.detach() if c["decoder"] == "cum" else bd.detach()
            relu = torch.where(u2 > 0, u2, torch.zeros_like(u2))
            total = total + w["gated_aux"] * unit * ((relu @ directions.detach() + base - x) ** 2).sum()
        tie = w["consistency_weight"] * self.consistency(u1, z1, a2, z2, d1, d2, parents, unit)
        return total + tie, fvu1, fvu2, tie

    def consistency(self, u1, z1, a2, z2, d1, d2, parents, unit):
        w, n = self.c["loss"], len(u1)
        kind = w["consistency"]
        own = (parents >= 0).nonzero()[:, 0]
        if kind == "none":
            return torch.zeros(())
        if kind == "seed-cos":
            return cosines(z1, z2)
        if kind == "latent":
            return ((z1.detach() - z2 @ d2) ** 2).sum() / n
        if kind == "struct":
            total = 0.0
            for q in range(d1.shape[0]):
                family = (parents == q).nonzero()[:, 0]
                total = total + ((z1[:, q, None] * d1[q] - z2[:, family] @ d2[family]) ** 2).sum()
            return total * unit
        if kind == "contain":
            act = self.level(2)["activation"]
            theta = p_theta(self, act)
            self.near += [(a2 - theta).abs().min(), (u1 - w["contain_margin"]).abs().min()]
            v = torch.where(a2 > theta, a2, torch.zeros_like(a2))[:, own]
            psi = (w["contain_margin"] - u1[:, parents[own]]).clamp_min(0) / w["contain_margin"]
            return (w["contain_down"] * v * psi.detach() + w["contain_up"] * v.detach() * psi).sum() / n
        if kind == "offset-orthogonal":
            cos = torch.nn.functional.cosine_similarity(d2[own], d1[parents[own]], dim=1, eps=0)
            return (cos**2).sum() / len(d2)
        if kind == "sibling":
            unit_rows = d2 / d2.norm(dim=1, keepdim=True)
            siblings = (parents[:, None] == parents[None]) & (parents[:, None] >= 0)
            cos = (unit_rows @ unit_rows.T).clamp_min(0) * siblings.triu(1)
            return (cos**2).sum() / len(d2)
        raise ValueError(kind)


def p_theta(tree, act):
    return {"topk": TAU2, "batchtopk": TAU2, "relu": 0.0}.get(act, tree.p.get("level2.threshold"))


def cosines(z1, z2):
    h = [z / ((z**2).sum(0) + 1e-6).sqrt() for z in (z1, z2)]
    return (h[0].T @ h[1]).mean()


class Seed:
    def __init__(self, config, p, x):
        self.c, self.p, self.x, self.near = config, p, x, []

    def layer(self, l, x):
        p, kind = self.p, self.c["gate"]["kind"]
        u = x @ p[f"level{l}.w_enc"].T + p[f"level{l}.b_enc"]
        if kind != "none":
            s = torch.sigmoid(x @ p[f"level{l}.gate_w"].T + p[f"level{l}.gate_b"])
            u = u * s if kind == "mul" else u + s
        self.near.append(u.abs().min())
        return u.clamp_min(0)

    def loss(self):
        c, p, x = self.c, self.p, self.x
        h1 = self.layer(1, x)
        h2 = self.layer(2, h1)
        y = h2 @ p["level2.w_dec"] + p["level2.b_dec"]
        hat = y @ p["level1.w_dec"] + p["b_dec"]
        tie = c["loss"]["consistency_weight"] * cosines(h1, h2) if c["loss"]["consistency"] == "seed-cos" else 0.0 * h1.sum()
        sparsity = sum(c[f"level{l}"]["lambda"] * h.sum(1).mean() for l, h in ((1, h1), (2, h2)))
        unit = 1 / (len(x) * VARIANCE)
        fvu = [((t - x) ** 2).sum() * unit for t in (h1 @ p["level1.w_dec"] + p["b_dec"], hat)]
        return ((hat - x) ** 2).mean() + sparsity + tie, fvu[0], fvu[1], tie


def shapes(c, d):
    f1, f2 = c["level1"]["latents"], c["level2"]["latents"]
    out = {"b_dec": (d,), "level1.w_enc": (f1, d), "level1.b_enc": (f1,), "level1.w_dec": (f1, d)}
    if c["model"] == "seed":
        out |= {"level2.w_enc": (f2, f1), "level2.b_enc": (f2,), "level2.w_dec": (f2, f1), "level2.b_dec": (f1,)}
        if c["gate"]["kind"] != "none":
            out |= {"level1.gate_w": (f1, d), "level1.gate_b": (f1,), "level2.gate_w": (f2, f1), "level2.gate_b": (f2,)}
        return out
    if f2:
        out |= {"level2.w_enc": (f2, f1 if c["source"] == "z1" else d), "level2.b_enc": (f2,)}
        out |= {"level2.w_dec": (f2, f1 if c["decoder"] == "comp" else d)}
        if c["gate"]["kind"] in ("mul", "add"):
            out |= {"gate.w": (f1, f2), "gate.b": (f2,)}
    for l, f in ((1, f1), (2, f2)):
        act = c[f"level{l}"]["activation"]
        if f and act == "jumprelu":
            out |= {f"level{l}.threshold": (f,)}
        if f and act == "gated":
            out |= {f"level{l}.r_mag": (f,), f"level{l}.b_mag": (f,)}
    return out


def settings(acts, gate, source, decoder, consistency, balance="sum", detach=False, f=(10, 16), model="tree"):
    level = lambda l, k, lam, bw: dict(
        {"latents": f[l], "activation": acts[l], "k": k, "lambda": lam, "bandwidth": bw})
    return {
        "model": model, "source": source, "source_detach": detach, "decoder": decoder,
        "level1": level(0, 3.0, 0.13, 0.9), "level2": level(1, 4.0, 0.21, 0.7),
        "gate": {"kind": gate}, "train": {"balance": balance}, "revive": {"k_aux": 3},
        "loss": {"w1": 0.5, "w2": 1.0, "aux": 0.25, "gated_aux": 0.75, "consistency": consistency,
                 "consistency_weight": 0.375, "contain_down": 0.625, "contain_up": 1.25, "contain_margin": 0.5},
    }


CASES = [
    (settings(("batchtopk", "batchtopk"), "hard", "x", "cum", "none"), 12, 70),
    (settings(("batchtopk", "batchtopk"), "hard", "x", "cum", "contain"), 12, 30),
    (settings(("topk", "topk"), "group-top1", "x", "ind", "struct"), 12, 30),
    (settings(("relu", "relu"), "mul", "res", "cum", "seed-cos"), 12, 30),
    (settings(("jumprelu", "jumprelu"), "none", "x", "cum", "none"), 12, 70),
    (settings(("jumprelu", "jumprelu"), "hard", "res", "cum", "contain"), 12, 30),
    (settings(("gated", "gated"), "hard", "res", "cum", "offset-orthogonal", detach=True), 12, 30),
    (settings(("gated", "gated"), "add", "x", "comp", "none"), 12, 30),
    (settings(("topk", "batchtopk"), "none", "z1", "comp", "latent"), 12, 30),
    (settings(("relu", "topk"), "mul", "z1", "comp", "latent"), 12, 30),
    (settings(("batchtopk", "jumprelu"), "add", "res", "cum", "none"), 12, 30),
    (settings(("jumprelu", "gated"), "mul", "z1", "cum", "seed-cos"), 12, 30),
    (settings(("batchtopk", "relu"), "hard", "res", "cum", "sibling"), 12, 30),
    (settings(("gated", "topk"), "hard", "res", "cum", "none", balance="own"), 12, 30),
    (settings(("jumprelu", "batchtopk"), "add", "x", "comp", "seed-cos", balance="own"), 12, 30),
    (settings(("topk", "topk"), "none", "x", "cum", "none", f=(14, 0)), 12, 30),
    (settings(("relu", "relu"), "mul", "z1", "comp", "seed-cos", f=(9, 7), model="seed"), 12, 30),
    (settings(("relu", "relu"), "add", "z1", "comp", "seed-cos", f=(9, 7), model="seed"), 12, 30),
    (settings(("relu", "relu"), "none", "z1", "comp", "none", f=(9, 7), model="seed"), 12, 1),
]


def draw(c, d, n, seed):
    rng = np.random.default_rng(seed)
    f32 = lambda a: torch.tensor(np.asarray(a, dtype=np.float32))
    tensors = {}
    for name, shape in shapes(c, d).items():
        t = rng.standard_normal(shape)
        if name.endswith("threshold"):
            t = np.abs(t) * 0.2 + 0.1
        elif name.endswith("b_enc"):
            t = t * 0.3 + 0.25
        elif name.endswith(("b_dec", "r_mag", "b_mag")):
            t = t * 0.25
        else:
            t = t * 0.5
        tensors[name] = f32(t)
    f1, f2 = c["level1"]["latents"], c["level2"]["latents"]
    parents = [int(rng.integers(0, f1)) if rng.random() > 0.2 else ROOT for _ in range(f2)]
    dead = [np.flatnonzero(rng.random(f) < 0.4) for f in (f1, f2)]
    return tensors, f32(rng.standard_normal((n, d))), parents, dead


def main():
    out, listed = {}, []
    for number, (c, d, n) in enumerate(CASES):
        for seed in range(1000 * number, 1000 * number + 100):
            tensors, x, parents, dead = draw(c, d, n, seed)
            p = {k: t.double().requires_grad_() for k, t in tensors.items()}
            model = Seed(c, p, x.double()) if c["model"] == "seed" else Tree(c, p, x.double(), parents, dead)
            loss = model.loss()
            if min(float(v.detach()) for v in model.near) > NEAR:
                break
        else:
            raise SystemExit(f"case {number}: every draw is too near a decision")
        loss[0].backward()
        key = f"{number:02}"
        for name, t in tensors.items():
            out[f"{key}/{name}"] = t
            grad = p[name].grad
            out[f"{key}/grad/{name}"] = (torch.zeros_like(p[name]) if grad is None else grad).float()
        out[f"{key}/x"] = x
        out[f"{key}/parents"] = torch.tensor(parents, dtype=torch.int64)
        for l in (1, 2):
            out[f"{key}/dead{l}"] = torch.tensor(dead[l - 1], dtype=torch.int64)
        out[f"{key}/loss"] = torch.stack([t.detach() for t in loss])
        listed.append({"d": d, "variance": VARIANCE, "tau2": TAU2, "config": c})
    path = pathlib.Path(__file__).with_name("gradients.safetensors")
    save_file(out, path, metadata={"cases": json.dumps(listed)})
    print(f"{len(CASES)} cases, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
