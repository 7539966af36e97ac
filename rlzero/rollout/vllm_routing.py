"""The experts that the routers of a model in vLLM choose while it samples, by request and position."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlzero.models.routing import router_modules

_MOST_SAMPLES = 1 << 20  # of one request


class RoutingRecorder:
    """Hears every router of the model that a vLLM runner holds: ours, and those of vLLM's own fused experts.

    vLLM computes the tokens of all running requests as one flat row. Which request and position a token belongs to
    is the runner's own account of the step: its requests in order, where each one's tokens start, and the positions
    that the model is called with. (vLLM's `enable_return_routed_experts` needs its newer runner, which needs Triton.)

    The routers are heard by Python hooks, so the model must run in this process without captured graphs; and
    without prefix caching, because a prompt taken from the cache is not routed again.

    runner: vLLM's GPUModelRunner or its CPU subclass. ValueError where the model has no router.
    """

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._recording = False
        # One entry a step: request number and position of each token, int64[T]; its experts, int16[T, L, K].
        self._steps: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._routers = _listen(runner.model, self._keep)
        if not self._routers:
            raise ValueError(
                f"record_routing keeps the experts that routers choose, and {type(runner.model).__name__} has none: "
                "it is a dense model. Leave record_routing off."
            )
        self._chosen: list[Tensor] = [torch.empty(0)] * self._routers
        runner.model.register_forward_hook(self._end_step, with_kwargs=True)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the steps in here, and forget what was recorded before."""
        self._steps.clear()
        self._recording = True
        try:
            yield
        finally:
            self._recording = False

    def take(self, completions: Sequence[tuple[str, int]], lengths: Sequence[int]) -> list[np.ndarray]:
        """int16[length, L routers, K] for each completion: the experts of its positions 0 to length - 1.

        completions: the id of the request and the number of the sample, as in vLLM's outputs. Forgets what it returns
        and everything else.
        """
        requests_N, positions_N, chosen_NLK = (np.concatenate(column) for column in zip(*self._steps, strict=True))
        self._steps.clear()
        # Stable: of a position that was computed twice (vLLM preempts a request when its cache is full) the last one
        # counts, from which sampling went on.
        order_N = np.argsort(requests_N, kind="stable")
        sorted_N = requests_N[order_N]
        taken = []
        for (request_id, sample), length in zip(completions, lengths, strict=True):
            number = _number(request_id, sample)
            start, stop = np.searchsorted(sorted_N, [number, number + 1])
            rows = order_N[start:stop]
            rows = rows[positions_N[rows] < length]
            routing = np.full((length, *chosen_NLK.shape[1:]), -1, dtype=np.int16)
            routing[positions_N[rows]] = chosen_NLK[rows]
            if (routing < 0).any():
                raise RuntimeError(
                    f"recorded routing must cover all {length} positions that vLLM computed for a request, and "
                    f"{int((routing < 0).any(axis=(1, 2)).sum())} are missing: it ran them out of sight (captured "
                    "graphs, a prefix cache). Leave record_routing off, or use --rollout builtin."
                )
            taken.append(routing)
        return taken

    def _keep(self, layer: int, indices_TK: Tensor) -> None:
        if self._recording:
            self._chosen[layer] = indices_TK

    def _end_step(self, model: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        if not self._recording:
            return
        batch = self._runner.input_batch
        starts = self._runner.query_start_loc.np[: batch.num_reqs + 1]
        numbers = np.array([_number_of(name) for name in batch.req_ids[: batch.num_reqs]])
        # What lies beyond the last request's tokens is padding.
        tokens = int(starts[-1])
        positions_T = kwargs["positions"][:tokens].cpu().numpy().astype(np.int64)
        chosen_TLK = torch.stack(self._chosen, dim=1)[:tokens].to(torch.int16).cpu().numpy()
        self._steps.append((np.repeat(numbers, np.diff(starts)), positions_T, chosen_TLK))


def _number(request_id: str, sample: int) -> int:
    """One number for each sample of each request."""
    return int(request_id) * _MOST_SAMPLES + sample


def _number_of(name: str) -> int:
    """The same from what vLLM calls it inside: `<sample>_<request id>-<random>`; a sample alone has no number."""
    sample, _, request_id = name.partition("-")[0].rpartition("_")
    return _number(request_id, int(sample or 0))


def _listen(model: nn.Module, keep: Any) -> int:
    """Have `keep(layer, int[T, K])` called with what each router chose; returns how many routers there are."""
    ours = router_modules(model)
    for layer, router in enumerate(ours):
        router.register_forward_hook(lambda module, args, routing, layer=layer: keep(layer, routing.indices))
    fused = [module.router for module in model.modules() if hasattr(getattr(module, "router", None), "set_capture_fn")]
    for layer, router in enumerate(fused):
        router.set_capture_fn(lambda indices, layer=layer: keep(layer, indices))
    return len(ours) + len(fused)
