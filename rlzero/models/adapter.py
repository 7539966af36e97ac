"""Low-rank adapters, LoRA (Hu et al., 2106.09685): W + (alpha / rank) B A, of which only A and B are trained.

W keeps its name and its value. So the model without its adapters, the one that training began with, is still there:
`without_adapters` is a reference policy that costs no memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

_PARTS = ("lora_A", "lora_B")


class AdaptedLinear(nn.Linear):
    """x Wᵀ + scale (x Aᵀ) Bᵀ: `lora_A` float[rank, in], `lora_B` float[out, rank], in the dtype of W."""

    lora_A: nn.Parameter
    lora_B: nn.Parameter
    scale: float
    adapts: bool

    def forward(self, hidden: Tensor) -> Tensor:
        output = super().forward(hidden)
        if not self.adapts:
            return output
        return output + self.scale * functional.linear(functional.linear(hidden, self.lora_A), self.lora_B)

    @torch.no_grad()
    def merged(self) -> Tensor:
        """The weight of a linear layer that computes the same."""
        return self.weight + self.scale * (self.lora_B @ self.lora_A)


def add_adapters(
    model: PreTrainedModel, rank: int, alpha: float, targets: Sequence[str] | None = None, seed: int = 0
) -> None:
    """Give linear layers adapters and freeze everything else; at first they change nothing (B is 0, §4.1).

    targets: the last parts of the layers' names; None: all linear layers beside the output head. Experts that are held
    in one tensor are no linear layers. seed: of A. Raises ValueError where no layer is meant.
    """
    head = model.get_output_embeddings()
    linear = {name: m for name, m in model.named_modules() if type(m) is nn.Linear and m is not head}
    chosen = {name: m for name, m in linear.items() if targets is None or name.rpartition(".")[2] in targets}
    missed = {*(targets or ())} - {name.rpartition(".")[2] for name in chosen}
    if missed or not chosen:
        known = sorted({name.rpartition(".")[2] for name in linear})
        raise ValueError(
            f"lora_target_modules must name linear layers of {type(model).__name__} ({', '.join(known) or 'none'}), "
            f"and {'there are none to adapt' if not missed else f'{sorted(missed)} are none'}: choose among these, or "
            "leave lora_r out."
        )
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for layer in chosen.values():
        # PyTorch's own initialisation of a linear layer; the same in all processes.
        bound = 1 / math.sqrt(layer.in_features)
        down = torch.empty(rank, layer.in_features).uniform_(-bound, bound, generator=generator)
        layer.__class__ = AdaptedLinear
        layer.lora_A = nn.Parameter(down.to(layer.weight))
        layer.lora_B = nn.Parameter(layer.weight.new_zeros(layer.out_features, rank))
        layer.scale, layer.adapts = alpha / rank, True


def adapted_layers(model: nn.Module) -> dict[str, AdaptedLinear]:
    """By the name of the layer's weight."""
    return {f"{name}.weight": m for name, m in model.named_modules() if isinstance(m, AdaptedLinear)}


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name is a part of an adapter."""
    return name.rpartition(".")[2] in _PARTS


def merged_state(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of the same model without adapters, from a state of whole tensors."""
    merged = {name: tensor for name, tensor in state.items() if not is_adapter(name)}
    for name, layer in adapted_layers(model).items():
        down, up = (state[f"{name.removesuffix('weight')}{part}"] for part in _PARTS)
        merged[name] = state[name] + layer.scale * (up @ down)
    return merged


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """The model that training began with."""
    layers = adapted_layers(model).values()
    for layer in layers:
        layer.adapts = False
    try:
        yield
    finally:
        for layer in layers:
            layer.adapts = True
