"""Models of Strata with two levels and families, inside SAELens.

`strata convert RUN OUT --part tree` writes the directory; then

    import saelens_strata
    from sae_lens import SAE
    sae = SAE.load_from_disk("OUT")

Latents are those of level 1, then those of level 2 (index f1 + j). A child fires only where its parent does:

    u = (x - b_dec) W_enc + b_enc           z1 = rule1(u[:f1])           z2 = rule2(u[f1:] where the parent fires)

A gated level has the values relu(e^r_mag u + b_mag) where u > 0, with its bias in u; SAELens' own gated class has it in b_mag.

Needs sae-lens 6.
"""
from dataclasses import dataclass, field

import torch
from sae_lens import SAE, SAEConfig, register_sae_class
from torch import nn

ROOT = 256**3 - 1  # the parent of a child without one


@dataclass
class StrataSAEConfig(SAEConfig):
    f1: int = 0
    activations: list = field(default_factory=lambda: ["relu", "relu"])
    ks: list = field(default_factory=lambda: [1, 1])
    gate: str = "hard"

    @classmethod
    def architecture(cls):
        return "strata"


class StrataSAE(SAE[StrataSAEConfig]):
    def initialize_weights(self):
        super().initialize_weights()
        zeros = lambda: nn.Parameter(torch.zeros(self.cfg.d_sae, dtype=self.dtype, device=self.device))
        self.b_enc, self.threshold, self.r_mag, self.b_mag = zeros(), zeros(), zeros(), zeros()
        # Digits to the base 256, so that they are the same in bf16.
        digits = torch.zeros(self.cfg.d_sae - self.cfg.f1, 3, dtype=self.dtype, device=self.device)
        self.register_buffer("parent", digits)

    def rule(self, level, u):
        """The latents of a level, of its pre-activations: those that may not fire are minus infinity."""
        at = slice(0, self.cfg.f1) if level == 0 else slice(self.cfg.f1, None)
        activation = self.cfg.activations[level]
        if activation == "gated":
            magnitude = u * self.r_mag[at].exp() + self.b_mag[at]
            return torch.where(u > 0, magnitude.relu(), 0)
        if activation == "topk":
            top = u.topk(min(self.cfg.ks[level], u.shape[-1]), dim=-1)
            return torch.zeros_like(u).scatter(-1, top.indices, top.values.relu())
        return torch.where(u > self.threshold[at], u.relu(), 0)

    def open(self, z1, u2):
        """Which children may fire."""
        parent = (self.parent.double() @ torch.tensor([65536.0, 256.0, 1.0], device=u2.device, dtype=torch.double)).long()
        root = parent == ROOT
        may = (z1 > 0)[..., parent.masked_fill(root, 0)] | root
        if self.cfg.gate != "group-top1":
            return may
        # Of each family the largest child alone; of equal ones that with the lower index. Children of none are no family.
        best = torch.full_like(z1, -torch.inf)
        best = best.scatter_reduce(-1, parent[~root].expand(*u2.shape[:-1], -1), u2[..., ~root], "amax")
        largest = u2 == best[..., parent.masked_fill(root, 0)]
        count = u2.shape[-1]
        at = torch.where(largest, torch.arange(count, device=u2.device), count)
        first = torch.full(z1.shape, count, device=u2.device)
        first = first.scatter_reduce(-1, parent[~root].expand(*u2.shape[:-1], -1), at[..., ~root], "amin")
        return may & (root | (torch.arange(count, device=u2.device) == first[..., parent.masked_fill(root, 0)]))

    def encode(self, x):
        pre = self.hook_sae_acts_pre(self.process_sae_in(x) @ self.W_enc + self.b_enc)
        f1 = self.cfg.f1
        one = self.rule(0, pre[..., :f1])
        u2 = pre[..., f1:]
        u2 = u2.masked_fill(~self.open(one, u2), -torch.inf)
        two = self.rule(1, u2)
        return self.hook_sae_acts_post(torch.cat([one, two], -1))

    def decode(self, feature_acts):
        out = self.hook_sae_recons(feature_acts @ self.W_dec + self.b_dec)
        return self.reshape_fn_out(self.run_time_activation_norm_fn_out(out), self.d_head)

    @torch.no_grad()
    def fold_W_dec_norm(self):
        if "topk" in self.cfg.activations:
            raise ValueError("the norms of decoder rows take part in no choice of a topk level: they cannot be folded in")
        norms = self.fold_and_get_W_dec_norm()
        self.threshold.data.mul_(norms)
        self.b_mag.data.mul_(norms)


register_sae_class("strata", StrataSAE, StrataSAEConfig)
