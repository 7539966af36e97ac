"""A mixture of experts in RL: what must hold before it trains, and its routing in every update."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlzero.grpo.batch import Batch
from rlzero.grpo.config import ConfigError, GRPOConfig
from rlzero.models.balance import move_bias
from rlzero.models.moe import set_exact_routing
from rlzero.models.routing import record_routing, replay_routing, router_layers, router_modules

# γ of DeepSeek-V3 (2412.19437), §4.2, for a model whose configuration does not say.
BIAS_SPEED = 0.001
# V3's multi-token prediction heads, in our decoder: no rollout and no loss of RL runs them.
_UNREACHED = re.compile(r"(?:^|\.)mtp\.")


def check_experts(model: PreTrainedModel, grpo: GRPOConfig) -> None:
    """Raise ConfigError for a model or an option that cannot work in RL."""
    routers, name = router_modules(model), type(model).__name__
    capacity = getattr(model.config, "capacity_factor_eval", None)
    if capacity is not None:
        raise ConfigError(
            f"capacity_factor_eval={capacity} in the model's config.json drops tokens where an expert is full, so a "
            "token's log-probability would depend on what else is in the batch, and engine and trainer could not "
            "agree. Set it to null there; capacity_factor_train may stay, RL does not use it."
        )
    if grpo.router_replay and not routers:
        raise ConfigError(
            f"router_replay=True replays the routing of our decoder, Mixtral, Qwen3Moe, DeepseekV2 and DeepseekV3, and "
            f"{name} has no router of these. Leave router_replay off."
        )
    if grpo.router_bias == "update" and not (routers and all(hasattr(r, "e_score_correction_bias") for r in routers)):
        raise ConfigError(
            f"router_bias='update' needs routers that choose by a bias (topk_method noaux_tc, DeepseekV3), and "
            f"{name} has none. Leave router_bias at 'frozen'."
        )


def prepare_experts(model: PreTrainedModel) -> None:
    """Let the trainer compute what an engine computes: no jitter, noise, chance or capacity; and train what RL reaches.

    DistributedDataParallel would wait for ever for the gradient of a parameter that the loss does not depend on.
    """
    set_exact_routing(model, True)
    for module in model.modules():
        if hasattr(module, "jitter_noise"):  # transformers' Mixtral
            module.jitter_noise = 0.0
    kept = {id(p) for n, p in model.named_parameters(remove_duplicate=False) if not _UNREACHED.search(n)}
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.requires_grad and id(parameter) in kept)


class ExpertRouting:
    """The routers of the policy in an update: replay (R3), the experts' load, V3's bias. Does nothing without routers.

    model: as accelerate prepared it. `update` goes around every microbatch's forward and backward pass, `finish`
    follows the optimizer step, in all processes.
    """

    def __init__(self, accelerator: Accelerator, model: nn.Module, grpo: GRPOConfig) -> None:
        self._accelerator, self._model = accelerator, model
        self._routers, self._layers = router_modules(model), router_layers(model)
        self._replays = grpo.router_replay
        configured = getattr(accelerator.unwrap_model(model).config, "bias_update_speed", 0.0)
        self._bias_speed = (configured or BIAS_SPEED) if grpo.router_bias == "update" else 0.0
        self._experts = max((router.weight.shape[0] for router in self._routers), default=0)
        self._clear()

    @contextmanager
    def update(self, batch: Batch) -> Iterator[None]:
        """Replay as asked for, and count the experts that were really run."""
        if not self._routers:
            yield
            return
        with record_routing(self._model) as own, self.replay(batch), record_routing(self._model) as used:
            yield
        self._count(batch, own.stacked(), used.stacked())

    def replay(self, batch: Batch) -> AbstractContextManager[None]:
        """The experts that the engine ran for this batch, or the router's own choice where replay is off."""
        if not self._replays or (batch.routing is None and not batch.completion_mask.any()):
            return nullcontext()
        if batch.routing is None:
            raise ValueError(
                "router_replay needs the experts that the engine ran, and these rollouts have none. Make the engine "
                "with record_routing=True, or leave router_replay off."
            )
        return replay_routing(self._model, batch.as_run(batch.routing).transpose(0, 1))

    def finish(self, learns: bool = True) -> dict[str, float]:
        """New biases by the load of this update over all processes, and its figures per layer (`expert_figures`).

        learns: false where the update was not made, and the biases stay too.
        """
        if not self._routers:
            return {}
        layers = len(self._routers)
        sums = torch.cat([self._counts_LE.flatten(), self._differing_L, self._compared])
        sums = self._accelerator.reduce(sums, "sum")
        self._clear()
        counts_LE = sums[: -layers - 1].view(layers, -1)
        if self._bias_speed and learns:
            move_bias(self._routers, counts_LE, self._bias_speed)
        return expert_figures(self._layers, counts_LE, sums[-layers - 1 : -1], float(sums[-1]))

    def _clear(self) -> None:
        layers, device = len(self._routers), self._accelerator.device
        self._counts_LE = torch.zeros(layers, self._experts, dtype=torch.float64, device=device)
        self._differing_L = torch.zeros(layers, dtype=torch.float64, device=device)
        self._compared = torch.zeros(1, dtype=torch.float64, device=device)

    def _count(self, batch: Batch, own_TLK: Tensor, used_TLK: Tensor) -> None:
        """Add the tokens of one microbatch: padding not at all, and those of a shared prompt once for every row."""
        readers_T = batch.readers.double()
        used_LN = used_TLK.transpose(0, 1).flatten(1)
        counts_LN = readers_T.repeat_interleave(used_TLK.shape[-1]).expand_as(used_LN)
        self._counts_LE.scatter_add_(1, used_LN, counts_LN)
        if batch.routing is not None:
            recorded_TLK = batch.as_run(batch.routing)
            known_T = readers_T * (recorded_TLK[:, 0, 0] >= 0)
            own, recorded = (indices_TLK.sort(-1).values for indices_TLK in (own_TLK, recorded_TLK))
            self._differing_L += ((own != recorded).any(-1) * known_T[:, None]).sum(0)
            self._compared += known_T.sum()


def expert_figures(layers: Sequence[int], counts_LE: Tensor, differing_L: Tensor, compared: float) -> dict[str, float]:
    """Per decoder layer: `load_cv`, `load_max` and, where rollouts have their routing, `disagreement`.

    load_cv: standard deviation of the experts' loads over their mean (0 is even). load_max: share of the
    assignments that the busiest expert has (1 / experts is even). disagreement: share of tokens for which the
    trainer's router chose another set of experts than the engine ran. Empty where no token was trained on.
    """
    if not counts_LE.sum():
        return {}
    figures: dict[str, float] = {}
    for layer, counts_E, differing in zip(layers, counts_LE, differing_L.tolist(), strict=True):
        figures[f"experts/load_cv/{layer}"] = float(counts_E.std(correction=0) / counts_E.mean())
        figures[f"experts/load_max/{layer}"] = float(counts_E.max() / counts_E.sum())
        if compared:
            figures[f"experts/disagreement/{layer}"] = differing / compared
    return figures
