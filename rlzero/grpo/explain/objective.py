"""What the recipe descends, in the words of the functions that compute it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlzero.grpo import entropy, overlong
from rlzero.grpo.advantage import ADVANTAGES
from rlzero.grpo.correction import CORRECTIONS, off_policy_mask
from rlzero.grpo.kl import KL_ESTIMATORS, kl_in_loss, kl_in_reward
from rlzero.grpo.loss import TOKEN_WEIGHTS
from rlzero.grpo.objective import OBJECTIVES

if TYPE_CHECKING:
    from rlzero.grpo.config import Recipe


@dataclass(frozen=True)
class Term:
    """part: of the objective. setting: that chose it. formula: equation and source, the first sentence of the
    function's docstring. where: its module and name."""

    part: str
    setting: str
    formula: str
    where: str


def terms(recipe: Recipe) -> list[Term]:
    """In the order of a step; only what this recipe has."""
    objective, reference, correction = recipe.objective, recipe.reference, recipe.correction
    scale = "" if objective.scale_rewards is None else f", scale_rewards={objective.scale_rewards}"
    found = [
        _term("advantage", f"advantage={objective.advantage}{scale}", ADVANTAGES[objective.advantage]),
        _term("loss of a token", f"loss_type={objective.loss_type}", OBJECTIVES[objective.loss_type]),
        _term("its weight", f"loss_type={objective.loss_type}", TOKEN_WEIGHTS[objective.loss_type]),
    ]
    if reference.beta:
        estimator = KL_ESTIMATORS[reference.kl_estimator]
        found.append(_term("KL", f"beta={reference.beta:g}, kl_estimator={reference.kl_estimator}", estimator))
        place = kl_in_loss if reference.in_loss else kl_in_reward
        found.append(_term("its place", f"kl_in_reward={reference.kl_in_reward}", place))
    if correction.mode:
        setting = f"vllm_importance_sampling_mode={correction.mode}"
        found.append(_term("correction", setting, CORRECTIONS[correction.mode]))
    if correction.off_policy_mask_threshold is not None:
        setting = f"off_policy_mask_threshold={correction.off_policy_mask_threshold:g}"
        found.append(_term("mask", setting, off_policy_mask))
    if objective.mask_truncated_completions:
        found.append(_term("mask", "mask_truncated_completions=True", overlong.loss_lengths))
    if objective.top_entropy_quantile < 1:
        setting = f"top_entropy_quantile={objective.top_entropy_quantile:g}"
        found.append(_term("mask", setting, entropy.high_entropy))
    if objective.entropy_coef:
        found.append(_term("bonus", f"entropy_coef={objective.entropy_coef:g}", entropy.entropy_bonus))
    return found


def _term(part: str, setting: str, function: Callable[..., Any]) -> Term:
    formula = (inspect.getdoc(function) or "").split("\n\n")[0].replace("\n", " ")
    return Term(part, setting, formula, f"{function.__module__}.{function.__qualname__}")
