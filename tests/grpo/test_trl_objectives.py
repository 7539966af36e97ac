"""Every objective against TRL 1.16's own code in float64: loss, gradient by log-probabilities and by entropies.

TRL's `GRPOTrainer._compute_loss` runs as it is, on log-probabilities that the test hands it in place of a model's.
What TRL computes in the middle of long methods (advantages, importance-sampling ratios) is run from its source.
"""

from __future__ import annotations

import inspect
import math
import textwrap
from types import SimpleNamespace

import pytest
import torch

from rlzero.grpo.advantage import ADVANTAGES
from rlzero.grpo.aggregate import AGGREGATIONS
from rlzero.grpo.correction import correction
from rlzero.grpo.entropy import entropy_bonus, entropy_threshold, high_entropy
from rlzero.grpo.loss import TOKEN_WEIGHTS, StepCounts
from rlzero.grpo.objective import Bounds
from rlzero.grpo.sequences import Rows
from rlzero.grpo.token_loss import Logprobs, LossOptions, token_loss

LONGEST, ROWS, TOKENS = 16, 6, 9
MODES = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
# TRL keeps the temperatures in float32, so the test takes numbers that have no more digits.
BOUNDS = {"epsilon": 0.1, "epsilon_high": 0.3, "sapo_temperature_pos": 1.0, "sapo_temperature_neg": 1.25}
# our loss type -> what TRL calls the same
NAMES = {
    "dapo": {"loss_type": "dapo"},
    "grpo": {"loss_type": "grpo"},
    "bnpo": {"loss_type": "bnpo"},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence"},
    "cispo": {"loss_type": "cispo", "epsilon_high": 1.5},
    "sapo": {"loss_type": "sapo"},
    "dapo with dual clip": {"loss_type": "dapo", "delta": 1.6},
}
EXTRAS = {
    "plain": {},
    "kl": {"beta": 0.04, "use_bias_correction_kl": False},
    "kl corrected": {"beta": 0.04, "use_bias_correction_kl": True},
    "top entropy": {"top_entropy_quantile": 0.3},
    "off-policy mask": {"off_policy_mask_threshold": 0.02},
    "entropy bonus": {"entropy_coef": 0.01},
    **{mode: {"mode": mode, "clip_max": 1.5} for mode in MODES},
    "icepop": {"mode": "token_mask", "clip_min": 0.8, "clip_max": 1.25},
    "everything": {
        "beta": 0.04, "use_bias_correction_kl": True, "top_entropy_quantile": 0.45, "off_policy_mask_threshold": 0.02,
        "entropy_coef": 0.01, "mode": "token_truncate", "clip_min": 0.8, "clip_max": 1.25,
    },
}  # fmt: skip


def trl_lines(function, first: str, before: str, names: dict) -> dict:
    """Run TRL's source from the one line that begins with `first` up to the next that begins with `before`; returns
    its variables."""
    lines = inspect.getsource(function).splitlines()
    (start,) = [i for i, line in enumerate(lines) if line.strip().startswith(first)]
    stop = next(i for i in range(start, len(lines)) if lines[i].strip().startswith(before))
    exec(textwrap.dedent("\n".join(lines[start:stop])), names)  # noqa: S102 (of the installed, pinned TRL)
    return names


@pytest.fixture(scope="module")
def trl_trainer(tiny_model_dir, tmp_path_factory):
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    config = GRPOConfig(
        output_dir=str(tmp_path_factory.mktemp("trl")), use_cpu=True, bf16=False, report_to="none", num_generations=2,
        per_device_train_batch_size=ROWS, max_completion_length=LONGEST, gradient_checkpointing=False,
        router_aux_loss_coef=0.0,
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny_model_dir),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=config,
        train_dataset=Dataset.from_list([{"prompt": "1+1=?"}] * ROWS),
        processing_class=AutoTokenizer.from_pretrained(tiny_model_dir),
    )
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    return trainer


@pytest.fixture(scope="module")
def step() -> SimpleNamespace:
    """Six answers of 1 to 9 tokens, 30% off policy, advantages of both signs."""
    generator = torch.Generator().manual_seed(3)
    draw = lambda low, high: low + (high - low) * torch.rand(ROWS, TOKENS, dtype=torch.float64, generator=generator)  # noqa: E731
    policy = draw(-3, -0.05)
    return SimpleNamespace(
        mask=torch.arange(TOKENS) < torch.tensor([[9], [1], [4], [7], [2], [6]]),
        policy=policy,
        old=policy + draw(-0.6, 0.6),
        sampler=policy + draw(-0.8, 0.8),
        ref=policy + draw(-1, 1),
        entropies=draw(0, 4),
        advantages=torch.tensor([1.2, -0.9, 0.4, -0.2, -1.1, 0.7], dtype=torch.float64),
    )


def trls_ratio(step, mode: str, clip_min: float | None, clip_max: float | None) -> torch.Tensor:
    from trl import GRPOTrainer

    settings = SimpleNamespace(
        vllm_importance_sampling_mode=mode, vllm_importance_sampling_clip_min=clip_min,
        vllm_importance_sampling_clip_max=clip_max,
    )  # fmt: skip
    names = {
        "self": settings, "torch": torch, "math": math, "tool_mask": None, "completion_mask": step.mask.long(),
        "old_per_token_logps": step.old, "sampling_per_token_logps": step.sampler,
    }  # fmt: skip
    first, before = "mask = completion_mask if tool_mask is None else", "# Compute the per-token log probabilities for"
    method = GRPOTrainer._generate_and_score_completions
    return trl_lines(method, first, before, names)["vllm_importance_sampling_ratio"]


def trls_loss(trainer, step, name: str, extra: dict) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Loss, and its gradients by log-probabilities and entropies."""
    options = {**BOUNDS, "importance_sampling_level": "token", "delta": None, **NAMES[name], **extra}
    policy, entropies = step.policy.clone().requires_grad_(), step.entropies.clone().requires_grad_()
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (policy, entropies, None)
    trainer.loss_type, trainer.importance_sampling_level = options["loss_type"], options["importance_sampling_level"]
    trainer.epsilon_low, trainer.epsilon_high = options["epsilon"], options["epsilon_high"]
    trainer.beta, trainer.entropy_coef = options.get("beta", 0.0), options.get("entropy_coef", 0.0)
    trainer._entropy_bonus_enabled = bool(trainer.entropy_coef)
    trainer.top_entropy_quantile = options.get("top_entropy_quantile", 1.0)
    trainer.off_policy_mask_threshold = options.get("off_policy_mask_threshold")
    trainer.use_vllm = trainer.vllm_importance_sampling_correction = "mode" in options
    trainer.args.use_bias_correction_kl = options.get("use_bias_correction_kl", False)
    for bound in ("delta", "sapo_temperature_pos", "sapo_temperature_neg"):
        setattr(trainer.args, bound, options[bound])
    ids = torch.zeros(ROWS, TOKENS, dtype=torch.long)
    inputs = {
        "prompt_ids": ids[:, :1], "prompt_mask": ids[:, :1] + 1, "completion_ids": ids,
        "completion_mask": step.mask.long(), "advantages": step.advantages, "num_items_in_batch": step.mask.sum(),
        "old_per_token_logps": step.old, "sampling_per_token_logps": step.sampler, "ref_per_token_logps": step.ref,
    }  # fmt: skip
    if "mode" in options:
        inputs["importance_sampling_ratio"] = trls_ratio(
            step, options["mode"], options.get("clip_min"), options["clip_max"]
        )
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    zeros = torch.zeros_like(step.policy)
    return loss.item(), policy.grad, zeros if entropies.grad is None else entropies.grad


def our_loss(step, name: str, extra: dict, cuts: list[slice]) -> tuple[float, torch.Tensor, torch.Tensor]:
    """The same, the rows cut into microbatches."""
    options = {**BOUNDS, "delta": None, **NAMES[name], **extra}
    loss_type = "gspo" if name == "gspo" else NAMES[name]["loss_type"]
    settings = LossOptions(
        loss_type=loss_type,
        bounds=Bounds(**{key: options[key] for key in (*BOUNDS, "delta")}),
        beta=options.get("beta", 0.0),
        use_bias_correction_kl=options.get("use_bias_correction_kl", False),
        importance_sampling_mode=options.get("mode"),
        importance_sampling_clip_min=options.get("clip_min"),
        importance_sampling_clip_max=options.get("clip_max"),
        off_policy_mask_threshold=options.get("off_policy_mask_threshold"),
    )
    policy, entropies = step.policy.clone().requires_grad_(), step.entropies.clone().requires_grad_()
    threshold = entropy_threshold(step.entropies[step.mask], options.get("top_entropy_quantile", 1.0))
    high = high_entropy(step.entropies, step.mask, threshold)
    counts, total = StepCounts(ROWS, int(step.mask.sum()), LONGEST), 0.0
    for cut in cuts:
        mask = step.mask[cut]
        loss, _ = token_loss(
            settings, Logprobs(policy[cut], step.old[cut], step.sampler[cut], step.ref[cut]), Rows(mask),
            step.advantages[cut, None], entropies[cut].detach(), threshold,
        )  # fmt: skip
        weights = TOKEN_WEIGHTS[loss_type](mask.sum(1).to(loss.dtype), counts)
        bonus = entropy_bonus(entropies[cut], high[cut], int(high.sum()))
        part = (loss * weights[:, None]).sum() - options.get("entropy_coef", 0.0) * bonus
        part.backward()
        total += part.item()
    return total, policy.grad, entropies.grad


@pytest.mark.parametrize("extra", sorted(EXTRAS))
@pytest.mark.parametrize("name", sorted(NAMES))
def test_loss_and_gradients_are_trls(trl_trainer, step, name, extra):
    wanted = trls_loss(trl_trainer, step, name, EXTRAS[extra])
    for cuts in ([slice(0, ROWS)], [slice(0, 2), slice(2, 3), slice(3, ROWS)]):
        found = our_loss(step, name, EXTRAS[extra], cuts)
        assert found[0] == pytest.approx(wanted[0], rel=1e-9, abs=1e-12)
        for gradient, trls in zip(found[1:], wanted[1:], strict=True):
            torch.testing.assert_close(gradient, trls, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_masked_truncated_answer_counts_as_in_trl(trl_trainer, step, name):
    """TRL's mask_truncated_completions: the third answer's mask is empty, and it stays a row."""
    cut = SimpleNamespace(**vars(step) | {"mask": step.mask.clone()})
    cut.mask[2] = False
    wanted = trls_loss(trl_trainer, cut, name, EXTRAS["everything"])
    found = our_loss(cut, name, EXTRAS["everything"], [slice(0, 2), slice(2, 3), slice(3, ROWS)])
    assert found[0] == pytest.approx(wanted[0], rel=1e-9, abs=1e-12)
    torch.testing.assert_close(found[1], wanted[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("extra", sorted(set(EXTRAS) - {"plain"}))
def test_every_option_of_the_comparison_changes_the_gradient(step, extra):
    plain, found = (our_loss(step, "dapo", EXTRAS[name], [slice(0, ROWS)]) for name in ("plain", extra))
    assert any(not torch.allclose(a, b) for a, b in zip(plain[1:], found[1:], strict=True))


@pytest.mark.parametrize(("low", "high"), [(None, 1.5), (0.8, 1.25), (0.8, None)])
@pytest.mark.parametrize("mode", MODES)
def test_importance_sampling_weights_are_trls(step, mode, low, high):
    """Also where the engine gave no log-probability."""
    holes = SimpleNamespace(**vars(step) | {"sampler": step.sampler.clone()})
    holes.sampler[0, 2], holes.sampler[3, 0] = math.nan, math.nan
    weight, _ = correction(mode, holes.old, holes.sampler, Rows(holes.mask), low, high)
    wanted = trls_ratio(holes, mode, low, high)
    torch.testing.assert_close(weight.expand_as(step.old)[step.mask], wanted.expand_as(step.old)[step.mask])


REWARDS = [
    [[0.0, 0.1], [1.0, None], [0.5, -1.0], [None, 0.3]],
    [[1.0, 0.2], [1.0, 0.2], [1.0, 0.2], [1.0, 0.2]],
    [[None, None], [0.2, 0.7], [None, None], [1.2, 0.0]],
    [[None, None], [None, None], [0.3, None], [None, None]],
]
WEIGHTS = [1.0, 0.5]


def rewards() -> torch.Tensor:
    return torch.tensor(
        [[[math.nan if r is None else r for r in answer] for answer in group] for group in REWARDS], dtype=torch.float64
    )


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("aggregation", sorted(AGGREGATIONS))
def test_advantages_are_trls(aggregation, scale):
    from trl import GRPOTrainer
    from trl.trainer.utils import nanstd

    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    settings = SimpleNamespace(
        multi_objective_aggregation=aggregation, scale_rewards=scale, reward_weights=weights, reward_funcs=[None] * 2
    )
    names = {
        "self": settings, "torch": torch, "nanstd": nanstd, "device": torch.device("cpu"), "num_generations": 4,
        "rewards_per_func": rewards().view(-1, 2),
    }  # fmt: skip
    first, before = "unscorable_mask = torch.isnan(rewards_per_func)", "# Slice to keep only the local part"
    wanted = trl_lines(GRPOTrainer._generate_and_score_completions, first, before, names)["advantages"]

    def advantage(rewards_NG: torch.Tensor) -> torch.Tensor:
        # TRL's normalize_then_sum knows no other scale within the group.
        return ADVANTAGES["grpo"](rewards_NG, "group" if aggregation == "normalize_then_sum" else scale)

    found = AGGREGATIONS[aggregation](rewards(), weights, advantage)
    # TRL's std has a factor n / (n − 1) in float32.
    torch.testing.assert_close(found.flatten(), wanted, rtol=1e-7, atol=1e-9)


def test_rloo_advantages_are_trls():
    from trl import RLOOTrainer

    total = (rewards() * torch.tensor(WEIGHTS, dtype=torch.float64)).nansum(-1)
    total[rewards().isnan().all(-1)] = math.nan
    names = {"self": SimpleNamespace(normalize_advantages=False), "torch": torch, "num_generations": 4}
    first, before = "# RLOO advantages computation", "is_std_zero"
    method = RLOOTrainer._generate_and_score_completions
    names |= {"rewards": total.flatten(), "grouped_rewards": total}
    wanted = trl_lines(method, first, before, names)["advantages"]
    torch.testing.assert_close(ADVANTAGES["rloo"](total).flatten(), wanted, rtol=1e-9, atol=1e-9)
