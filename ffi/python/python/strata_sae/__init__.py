"""Two-level hierarchical sparse autoencoders: train, evaluate, encode, decode and steer on the CPU.

>>> import strata_sae
>>> run = strata_sae.train(rows, out="run")           # rows: an array, a dump, or an iterator of arrays
>>> run.eval()                                        # every metric on held-out rows, and a verdict
>>> codes = run.sae.encode(rows)                      # the latents that fire on each row, of both levels

``strata_sae.torch`` has what needs torch (``capture``, ``hooked``, ``TorchSae``), ``strata_sae.saelens`` what needs
sae-lens. Everything else needs numpy alone. The manual is ``docs/python.md``.
"""
from ._codes import Codes, Level
from ._dump import DumpWriter, vocabulary
from ._native import VERSION as __version__
from ._native import Error, set_threads
from ._run import Report, Run, command, settings, train
from ._sae import Edit, Sae
from ._watch import Computed, Head, Probe, ProbeState, Readings, Watch

__all__ = [
    "Codes", "Computed", "DumpWriter", "Edit", "Error", "Head", "Level", "Probe", "ProbeState", "Readings", "Report", "Run", "Sae",
    "Watch", "command", "register_saelens", "set_threads", "settings", "train", "vocabulary",
]


def register_saelens() -> None:
    """Lets ``SAE.load_from_disk`` of SAELens load models of Strata with both levels: see ``strata_sae.saelens``."""
    from .saelens import register_saelens

    register_saelens()
