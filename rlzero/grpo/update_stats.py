"""What the updates of a rollout measured: sums over tokens and processes, and what does not add."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

# Figures of which the largest counts; all others are sums.
LARGEST = ("ratio_max", "logprob_diff_max")
# sum over tokens -> the name of its mean
_MEANS = {
    "entropy": "entropy",
    "clip_low": "clip_low",
    "clip_high": "clip_high",
    "kl": "kl",
    "corrected": "corrected",
    "off_policy_masked": "off_policy_masked",
    "difference": "logprob_diff",
    "k3": "mismatch_kl",
    "far": "ratio_above_2",
}


class UpdateStats:
    """Running totals over the updates of one rollout, the same on every process."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._totals: dict[str, float] = {}
        self._norms: list[float] = []
        self._idle = self._skipped = 0

    def everywhere(self, microbatches: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
        """The figures of one update over all processes, from those of its microbatches: the same names in each, and as
        many on every process."""
        names = list(microbatches[0])
        table = torch.stack([torch.stack([m[name].double() for name in names]) for m in microbatches])
        sums = self._accelerator.reduce(table.sum(dim=0), "sum").tolist()
        largest = self._accelerator.gather(table.max(dim=0, keepdim=True).values).max(dim=0).values.tolist()
        return {name: largest[i] if name in LARGEST else sums[i] for i, name in enumerate(names)}

    def add(self, figures: Mapping[str, float], grad_norm: float) -> None:
        """An update was made. grad_norm: before clipping."""
        for name, value in figures.items():
            before = self._totals.get(name, 0.0)
            self._totals[name] = max(before, value) if name in LARGEST else before + value
        self._norms.append(grad_norm)

    def idle(self) -> None:
        """An update without any gradient."""
        self._idle += 1

    def skip(self) -> None:
        """An update that was not made, since loss or gradient was not finite: its figures would spoil the others'."""
        self._skipped += 1

    def means(self) -> dict[str, float]:
        """Means over tokens; the mean of the updates' losses and gradient norms, NaN where all were skipped."""
        updates = len(self._norms) + self._idle
        tokens = self._totals.get("tokens", 0.0)
        found = {
            "loss": self._totals.get("loss", 0.0) / updates if updates else math.nan,
            "trained_tokens": tokens,
            "grad_norm": sum(self._norms) / updates if updates else math.nan,
            "skipped": float(self._skipped),
        }
        if not tokens:
            return found
        found |= {name: self._totals[key] / tokens for key, name in _MEANS.items() if key in self._totals}
        found |= {name: self._totals[name] for name in LARGEST if name in self._totals}
        return found | {"clip_ratio": found["clip_low"] + found["clip_high"]}
