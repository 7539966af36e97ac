"""torch.compile for the layers of a model, for as long as it trains.

Compiled is what surrounds attention and experts: norms, projections, rotations, dense networks. Attention over packed
rows is cut anew for every microbatch, and experts are run through hooks and by how many tokens each has: these stay as
they are, so that a layer is compiled once and not for every shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rlzero.models.packed_attention import is_packing
from rlzero.models.routing import router_modules


class CompiledLayers:
    """A model's layers, compiled where `in_place` surrounds a call, and untouched elsewhere: an engine that samples
    from the same model meets another shape at every token.

    model: unwrapped, with packing enabled if it is going to be. backend: torch.compile's. Raises ValueError for a model
    that does not say what its layers are, and for a backend that cannot work here.
    """

    def __init__(self, model: PreTrainedModel, backend: str) -> None:
        names = {*(model._no_split_modules or ())}
        layers = [module for module in model.modules() if type(module).__name__ in names]
        if not layers:
            raise ValueError(
                f"torch_compile=True compiles layer by layer, and {type(model).__name__} does not name their class "
                "(_no_split_modules): leave torch_compile off."
            )
        if backend == "inductor" and model.device.type == "cpu":
            _check_compiler()
        if is_packing(model):
            name = model.config._attn_implementation
            ALL_ATTENTION_FUNCTIONS.register(name, torch.compiler.disable(ALL_ATTENTION_FUNCTIONS[name]))
        routers = set(router_modules(model))
        routed = [child for layer in layers for child in layer.children() if not routers.isdisjoint(child.modules())]
        self._forwards: list[tuple[nn.Module, Callable[..., Any]]] = [
            *((layer, torch.compile(layer.forward, dynamic=True, backend=backend)) for layer in layers),
            *((experts, torch.compiler.disable(experts.forward)) for experts in routed),
        ]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The layers are the compiled ones, in the backward pass too: gradient checkpointing runs them again there."""
        for module, forward in self._forwards:
            module.forward = forward
        try:
            yield
        finally:
            for module, _ in self._forwards:
                del module.forward


def _check_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler  # slow to import
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise ValueError(
            f"torch_compile_backend='inductor' needs a C++ compiler to compile for a CPU, and here is none ({error}). "
            "Install g++, or choose torch_compile_backend 'aot_eager', which compiles nothing."
        ) from None
