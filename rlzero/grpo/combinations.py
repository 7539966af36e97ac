"""Settings that are right by themselves and make no sense together: refused at start, by name and remedy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from rewards.overlong import overlong
from rlzero.grpo.concern import ConfigError
from rlzero.grpo.objective_config import SEQUENCE_LEVEL

if TYPE_CHECKING:
    from rewards.registry import Reward
    from rlzero.grpo.config import Recipe


def check_combinations(recipe: Recipe) -> None:
    """Raise ConfigError for the first combination that cannot work."""
    _check_old_logprobs(recipe)
    _check_correction(recipe)
    _check_cut_sampling(recipe)
    _check_rewards(recipe)
    _check_selection(recipe)
    _check_async(recipe)
    _check_adapters(recipe)


def check_pool(recipe: Recipe, size: int) -> None:
    """Whether a curriculum that chooses among `size` problems can fill a rollout: no step asks a problem twice."""
    wanted, most = recipe.grpo.prompts_per_rollout, most_groups(recipe)
    if recipe.selection.curriculum == "none" or most <= size:
        return
    if wanted > size:
        raise ConfigError(
            f"curriculum={recipe.selection.curriculum!r} asks every problem at most once a rollout, and a rollout of "
            f"{wanted} problems is larger than the pool of {size}: lower prompts_per_step or steps_per_generation, or "
            "enlarge the pool (curriculum_pool for a generator)."
        )
    raise ConfigError(
        f"dynamic_sampling may ask for {most} problems (max_generation_batches × the rollout), and "
        f"curriculum={recipe.selection.curriculum!r} chooses among {size}, each at most once a rollout: lower "
        f"max_generation_batches to {size // wanted}, or enlarge the pool (curriculum_pool for a generator)."
    )


def check_processes(recipe: Recipe, processes: int) -> None:
    """Whether every process has as many problems of a step as the others."""
    wanted = recipe.grpo.prompts_per_step
    if processes < 1 or wanted % processes:
        raise ConfigError(
            f"prompts_per_step={wanted} must be a multiple of the {processes} processes, since a group stays on one of "
            f"them: set it to {max(wanted // max(processes, 1), 1) * max(processes, 1)}, or launch another number."
        )


def check_rewards(recipe: Recipe, rewards: Sequence[Reward]) -> None:
    """Whether the soft punishment of overlong answers begins at a length that answers of this run can have."""
    longest = max(length for _, length in recipe.rollout.length_schedule)
    for function in (reward.function for reward in rewards):
        if not isinstance(function, partial) or function.func is not overlong:
            continue
        limit, cache = (function.keywords.get(name) for name in ("max_completion_length", "cache"))
        # What else they may be the reward itself refuses.
        if isinstance(limit, int) and isinstance(cache, int) and 0 < cache <= limit and limit - cache >= longest:
            raise ConfigError(
                f"the reward overlong(max_completion_length={limit}, cache={cache}) punishes answers of more than "
                f"{limit - cache} tokens, and those of this run have at most {longest}, so that it would be 0 "
                f"throughout: name it overlong(max_completion_length={longest}, cache={min(cache, -(-longest // 5))}), "
                "or leave it out."
            )


def most_groups(recipe: Recipe) -> int:
    """Groups that a rollout may ask for at most, over all processes."""
    selection = recipe.selection
    return recipe.grpo.prompts_per_rollout * (selection.max_generation_batches if selection.dynamic_sampling else 1)


def _check_old_logprobs(recipe: Recipe) -> None:
    grpo, old = recipe.grpo, recipe.objective.old_logprobs
    if old == "policy" and grpo.updates_per_rollout > 1:
        raise ConfigError(
            f"old_logprobs='policy' is the shortcut of on-policy training, one update per rollout, and num_iterations="
            f"{grpo.num_iterations} with steps_per_generation={grpo.steps_per_generation} makes "
            f"{grpo.updates_per_rollout}, whose ratios would all be 1: leave old_logprobs at 'auto'."
        )
    if old == "sampler" and recipe.correction.mode is not None:
        raise ConfigError(
            "vllm_importance_sampling_correction=True corrects old log-probabilities against the sampler's, and "
            "old_logprobs='sampler' makes them the same: leave one of them out."
        )
    if old == "sampler" and recipe.reference.in_reward:
        raise ConfigError(
            "kl_in_reward=True computes the old log-probabilities that old_logprobs='sampler' is there to save: leave "
            "one of them out."
        )


def _check_correction(recipe: Recipe) -> None:
    loss_type, mode = recipe.objective.loss_type, recipe.correction.mode
    if mode is not None and mode.startswith("token") and loss_type in SEQUENCE_LEVEL:
        raise ConfigError(
            f"vllm_importance_sampling_mode={mode!r} weighs token by token, and loss_type={loss_type!r} has one ratio "
            f"for a whole answer: choose {mode.replace('token', 'sequence')!r}."
        )


def _check_cut_sampling(recipe: Recipe) -> None:
    """A sampler that leaves words out says log-probabilities among the others: every ratio to it would be below 1."""
    rollout, correction = recipe.rollout, recipe.correction
    cuts = [name for name, off in (("top_p", 1.0), ("top_k", 0)) if getattr(rollout, name) != off]
    users = {
        "vllm_importance_sampling_correction=True": correction.mode is not None,
        f"off_policy_mask_threshold={correction.off_policy_mask_threshold}": correction.off_policy_mask_threshold,
        f"max_async_level={recipe.grpo.max_async_level}": recipe.grpo.max_async_level,
        "old_logprobs='sampler'": recipe.old_logprobs == "sampler",
    }
    compares = next((words for words, set_ in users.items() if set_), None)
    if cuts and compares:
        raise ConfigError(
            f"{compares} compares the policy with the sampler, and {cuts[0]}={getattr(rollout, cuts[0])} makes that "
            "another distribution, whose words are all more likely: ratios would shrink gradients in silence. Leave "
            f"{' and '.join(cuts)} out."
        )


def _check_rewards(recipe: Recipe) -> None:
    reward, objective, reference = recipe.reward, recipe.objective, recipe.reference
    if reward.multi_objective_aggregation == "normalize_then_sum" and reference.in_reward:
        raise ConfigError(
            "kl_in_reward=True subtracts from the sum of the rewards, and multi_objective_aggregation="
            "'normalize_then_sum' makes advantages before there is a sum: put the KL into the loss "
            "(kl_in_reward=False), or choose 'sum_then_normalize'."
        )
    if objective.advantage == "max_rl":
        _check_max_rl(reward.reward_weights or [], reference.in_reward)


def _check_max_rl(weights: Sequence[float], kl_in_reward: bool) -> None:
    needs = "advantage='max_rl' divides by a group's mean reward, which must not be negative"
    if min(weights, default=0.0) < 0:
        raise ConfigError(f"{needs}, and reward_weights has {min(weights)}: use weights of 0 or more.")
    if kl_in_reward:
        raise ConfigError(f"{needs}, and kl_in_reward=True subtracts from it: put the KL into the loss.")


def _check_selection(recipe: Recipe) -> None:
    if not recipe.selection.dynamic_sampling:
        return
    if recipe.reference.in_reward:
        raise ConfigError(
            "dynamic_sampling=True leaves out groups whose answers have equal rewards, before kl_in_reward=True "
            "subtracts a KL that makes them differ: put the KL into the loss (kl_in_reward=False), or switch "
            "dynamic_sampling off."
        )
    if recipe.objective.advantage == "reinforce++":
        raise ConfigError(
            "dynamic_sampling=True leaves out groups whose answers have equal rewards, and advantage='reinforce++' "
            "learns from them too, beside the other groups: switch it off, or choose 'reinforce++_baseline'."
        )


def _check_adapters(recipe: Recipe) -> None:
    if recipe.model.lora_r is None:
        return
    reference = recipe.reference
    given = [name for name in ("sync_ref_model", "ref_model_name_or_path") if getattr(reference, name)]
    if given:
        raise ConfigError(
            f"lora_r={recipe.model.lora_r} makes the model without its adapters the reference, and {given[0]}="
            f"{getattr(reference, given[0])!r} asks for another one: leave one of them out."
        )
    if recipe.grpo.router_bias == "update":
        raise ConfigError(
            f"lora_r={recipe.model.lora_r} trains adapters alone, and router_bias='update' moves the routers of the "
            "model beside them: leave one of them out."
        )


def _check_async(recipe: Recipe) -> None:
    if not recipe.grpo.max_async_level:
        return
    needs = "max_async_level=1 asks the problems of the next rollout before this one's"
    if recipe.selection.dynamic_sampling:
        raise ConfigError(
            f"{needs} are counted over all processes, and dynamic_sampling=True goes on asking by that count: leave "
            "one of them out."
        )
    if recipe.selection.curriculum != "none":
        raise ConfigError(
            f"{needs} are known to the curriculum, and curriculum={recipe.selection.curriculum!r} chooses by them: "
            "leave one of them out."
        )
    if recipe.rollout.vllm_enable_sleep_mode:
        raise ConfigError(
            "max_async_level=1 generates while the trainer works, and vllm_enable_sleep_mode=True lets vLLM sleep "
            "then: leave one of them out."
        )
    if recipe.old_logprobs == "policy" and recipe.correction.mode is None:
        raise ConfigError(
            "max_async_level=1 trains on answers of the policy of the step before, and old_logprobs='policy' gives all "
            "of them ratio 1: leave old_logprobs at 'auto', or set vllm_importance_sampling_correction=True."
        )
