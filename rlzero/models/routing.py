"""The experts that a model's routers choose, recorded and replayed: R3 (2510.11370).

An engine and a trainer with equal weights round differently, and a router turns a difference in the last digit
into another expert. Replayed, the trainer runs the experts that the engine ran, while the gates of these experts
are computed anew from the trainer's own logits, so that the router's gradient is that of the policy.

Works by forward hooks, on our decoder and on transformers' own classes alike, in memory as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rlzero.models.router import Router, Routing

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
# Multi-token prediction heads have routers of their own, which no engine runs when it samples.
_MTP = re.compile(r"(?:^|\.)mtp\.")


class RoutingTape:
    """The experts chosen in the newest forward pass, int64[T tokens, K] for each router in layer order.

    A later forward writes over it, and so does gradient checkpointing, which runs the same choice twice.
    """

    def __init__(self, routers: int) -> None:
        self.indices: list[Tensor] = [torch.empty(0, 0, dtype=torch.int64)] * routers

    def stacked(self) -> Tensor:
        """int64[T, L, K]."""
        return torch.stack(self.indices, dim=1)


def router_modules(model: nn.Module) -> list[nn.Module]:
    """The routers that are known here, in layer order; none in a dense model. MTP heads are left out."""
    return [module for _, module in _routers(model)]


def router_layers(model: nn.Module) -> list[int]:
    """The decoder layer of each router."""
    numbers = [_LAYER.search(name) for name, _ in _routers(model)]
    return [position if number is None else int(number[1]) for position, number in enumerate(numbers)]


@contextmanager
def record_routing(model: nn.Module) -> Iterator[RoutingTape]:
    """Keep on the tape which experts each forward pass used: within `replay_routing` the replayed ones, around it
    the router's own."""
    routers = router_modules(model)
    tape = RoutingTape(len(routers))

    def keep(layer: int) -> Callable[..., None]:
        def hook(router: nn.Module, args: Any, output: Any) -> None:
            tape.indices[layer] = _chosen(output).detach()

        return hook

    handles = [router.register_forward_hook(keep(layer)) for layer, router in enumerate(routers)]
    try:
        yield tape
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def replay_routing(model: nn.Module, indices_LTK: Tensor) -> Iterator[None]:
    """Run these experts, int[L routers, T tokens, K], with gates from the present logits. −1: the router's own choice.

    T is every token of the forward pass, padding included. The backward pass belongs inside as well: gradient
    checkpointing routes a second time. ValueError where the shape is not that of the model's routing.
    """
    routers = router_modules(model)
    if len(routers) != len(indices_LTK):
        raise ValueError(
            f"replayed routing needs the experts of each of the model's {len(routers)} routers, got "
            f"{len(indices_LTK)} layers. Record it from the same model (first axis: its routers in layer order)."
        )

    def force(indices_TK: Tensor) -> Callable[..., Any]:
        return lambda router, args, output: _forced(router, output, indices_TK)

    handles = [
        router.register_forward_hook(force(indices_TK)) for router, indices_TK in zip(routers, indices_LTK, strict=True)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _routers(model: nn.Module) -> Sequence[tuple[str, nn.Module]]:
    known = [(name, m) for name, m in model.named_modules() if isinstance(m, Router) or _weighing(m) is not None]
    return [(name, module) for name, module in known if not _MTP.search(name)]


def _chosen(output: Any) -> Tensor:
    """int64[T, K] from what a router returned: our `Routing`, or transformers' (logits, gates, experts)."""
    return output.indices if isinstance(output, Routing) else output[2]


def _forced(router: nn.Module, output: Any, indices_TK: Tensor) -> Any:
    """The router's output with these experts in place of its own."""
    own_TK = _chosen(output)
    if own_TK.shape != indices_TK.shape:
        raise ValueError(
            f"replayed routing must have {list(own_TK.shape)} experts (tokens of the forward pass, experts a token) "
            f"in a layer, got {list(indices_TK.shape)}. Give a row for every token, −1 where nothing was recorded."
        )
    indices_TK = indices_TK.to(own_TK.device, torch.int64)
    if isinstance(output, Routing):
        assert isinstance(router, Router)
        return router.reroute(output, indices_TK)
    logits_TE, own_gates_TK, _ = output
    own_T1 = (indices_TK < 0).any(dim=-1, keepdim=True)
    indices_TK = torch.where(own_T1, own_TK, indices_TK)
    weigh = _weighing(router)
    assert weigh is not None
    return logits_TE, torch.where(own_T1, own_gates_TK, weigh(router, logits_TE, indices_TK)), indices_TK


def _mixtral(router: Any, logits_TE: Tensor, indices_TK: Tensor) -> Tensor:
    """Softmax over the chosen experts."""
    gates_TK = torch.softmax(logits_TE.float(), dim=-1).gather(-1, indices_TK)
    return gates_TK / gates_TK.sum(dim=-1, keepdim=True)


def _qwen3_moe(router: Any, logits_TE: Tensor, indices_TK: Tensor) -> Tensor:
    """Softmax over all experts, renormalised over the chosen where the configuration says so."""
    gates_TK = torch.softmax(logits_TE, dim=-1, dtype=torch.float32).gather(-1, indices_TK)
    if router.norm_topk_prob:
        gates_TK = gates_TK / gates_TK.sum(dim=-1, keepdim=True)
    return gates_TK.to(logits_TE.dtype)


def _deepseek_v2(router: Any, logits_TE: Tensor, indices_TK: Tensor) -> Tensor:
    """Softmax over all experts, scaled; transformers' class never renormalises."""
    return torch.softmax(logits_TE, dim=-1, dtype=torch.float32).gather(-1, indices_TK) * router.routed_scaling_factor


def _deepseek_v3(router: Any, logits_TE: Tensor, indices_TK: Tensor) -> Tensor:
    """Sigmoid, renormalised over the chosen, scaled: the bias takes part in the choice alone (2412.19437, eq. 16)."""
    gates_TK = logits_TE.sigmoid().gather(-1, indices_TK)
    if router.norm_topk_prob:
        gates_TK = gates_TK / (gates_TK.sum(dim=-1, keepdim=True) + 1e-20)
    return gates_TK * router.routed_scaling_factor


# transformers' router class -> gates float[T, K] of given experts, as its own forward computes them
_WEIGHING: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "MixtralTopKRouter": _mixtral,
    "Qwen3MoeTopKRouter": _qwen3_moe,
    "DeepseekV2TopkRouter": _deepseek_v2,
    "DeepseekV3TopkRouter": _deepseek_v3,
}


def _weighing(module: nn.Module) -> Callable[[Any, Tensor, Tensor], Tensor] | None:
    """By class name: importing a model's code to recognise it costs seconds. Sharding makes subclasses (FSDP2)."""
    return next((_WEIGHING[kind.__name__] for kind in type(module).__mro__ if kind.__name__ in _WEIGHING), None)
