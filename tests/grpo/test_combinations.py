"""Settings that make no sense together: refused at start by the name of the option, with a remedy."""

from __future__ import annotations

import pytest

from tests.grpo.test_bad_input import refused, untouched

TWO_UPDATES = {"steps_per_generation": 2}
CORRECTED = {"vllm_importance_sampling_correction": True}
MANY = {"dynamic_sampling": True, "max_generation_batches": 3}


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"num_iterations": 2, "old_logprobs": "policy"},
         ["old_logprobs='policy'", "num_iterations=2 with steps_per_generation=1 makes 2", "leave old_logprobs at"]),
        ({**TWO_UPDATES, "old_logprobs": "policy"}, ["steps_per_generation=2 makes 2", "ratios would all be 1"]),
        ({**CORRECTED, "old_logprobs": "sampler"}, ["vllm_importance_sampling_correction=True", "makes them the same"]),
        ({"beta": 0.1, "kl_in_reward": True, "old_logprobs": "sampler"}, ["kl_in_reward=True", "leave one of"]),
        ({"loss_type": "gspo", **CORRECTED, "vllm_importance_sampling_mode": "token_truncate"},
         ["vllm_importance_sampling_mode='token_truncate'", "loss_type='gspo'", "choose 'sequence_truncate'"]),
        ({"loss_type": "gspo_token", **CORRECTED, "vllm_importance_sampling_mode": "token_mask"},
         ["loss_type='gspo_token'", "one ratio for a whole answer", "choose 'sequence_mask'"]),
        ({"top_p": 0.8, **CORRECTED},
         ["vllm_importance_sampling_correction=True compares", "top_p=0.8", "Leave top_p out"]),
        ({"top_p": 0.8, "top_k": 40, "max_async_level": 1}, ["max_async_level=1", "Leave top_p and top_k out"]),
        ({"top_k": 40, "old_logprobs": "sampler"}, ["old_logprobs='sampler'", "top_k=40", "Leave top_k out"]),
        ({"top_k": 40, "off_policy_mask_threshold": 0.1}, ["off_policy_mask_threshold=0.1", "Leave top_k out"]),
        ({"beta": 0.1, "kl_in_reward": True, "multi_objective_aggregation": "normalize_then_sum"},
         ["kl_in_reward=True", "'normalize_then_sum'", "put the KL into the loss"]),
        ({"advantage": "max_rl", "reward_weights": ["1", "-0.5"]},
         ["advantage='max_rl'", "must not be negative", "reward_weights has -0.5", "use weights of 0 or more"]),
        ({"advantage": "max_rl", "beta": 0.1, "kl_in_reward": True}, ["advantage='max_rl'", "put the KL into the"]),
        ({"advantage": "reinforce++", "dynamic_sampling": True},
         ["dynamic_sampling=True", "advantage='reinforce++'", "choose 'reinforce++_baseline'"]),
        ({"dynamic_sampling": True, "beta": 0.1, "kl_in_reward": True},
         ["dynamic_sampling=True leaves out groups", "kl_in_reward=True subtracts a KL", "(kl_in_reward=False)"]),
        ({"reward_funcs": ["accuracy", "overlong(max_completion_length=20480, cache=4096)"]},
         ["overlong(max_completion_length=20480, cache=4096) punishes answers of more than 16384 tokens",
          "have at most 12", "name it overlong(max_completion_length=12, cache=3)"]),
        ({"reward_funcs": ["accuracy", "rewards.overlong.overlong(max_completion_length=20, cache=8)"]},
         ["more than 12 tokens", "have at most 12"]),
        ({"reward_funcs": "overlong(max_completion_length=12, cache=4)", "max_completion_length_schedule": ["0:8"]},
         ["more than 8 tokens", "have at most 8", "overlong(max_completion_length=8, cache=2)"]),
        ({"lora_r": 4, "beta": 0.1, "sync_ref_model": True},
         ["lora_r=4 makes the model without its adapters the reference", "sync_ref_model=True asks for another one"]),
        ({"lora_r": 4, "beta": 0.1, "ref_model_name_or_path": "elsewhere"},
         ["lora_r=4", "ref_model_name_or_path='elsewhere' asks for another one", "leave one of them out"]),
        ({"lora_r": 4, "router_bias": "update"}, ["lora_r=4", "router_bias='update'", "leave one of them out"]),
        ({"lora_r": 4, "lora_target_modules": ["q_proj", "w_qs"]},
         ["lora_target_modules must name linear layers", "q_proj", "['w_qs'] are none", "leave lora_r out"]),
        ({"curriculum": "learnability", "curriculum_pool": 3, **TWO_UPDATES},
         ["curriculum='learnability'", "a rollout of 4 problems is larger than the pool of 3", "enlarge the pool"]),
        ({"curriculum": "failures", "curriculum_pool": 5, **MANY},
         ["dynamic_sampling may ask for 6 problems", "chooses among 5", "lower max_generation_batches to 2"]),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_together_are_refused_before_anything_is_written(tiny_run, settings, parts):
    refused(tiny_run(**settings), *parts)
    assert untouched(tiny_run.output)


def test_dry_run_finds_wrong_combinations_too(tiny_run):
    refused(tiny_run("--dry_run", num_iterations=2, old_logprobs="policy"), "old_logprobs='policy'")


def test_punishment_that_reaches_the_longest_answer_by_a_token_is_accepted(tiny_run):
    assert tiny_run("--dry_run", reward_funcs=["overlong(max_completion_length=20, cache=9)"]).code == 0
