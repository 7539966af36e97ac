"""What an update descends: the objective, its tie to a reference, its corrections. One dataclass per concern."""

from __future__ import annotations

from dataclasses import dataclass, fields

from rlzero.grpo.advantage import ADVANTAGES, FREE_SCALE, SCALES
from rlzero.grpo.concern import Concern, ConfigError, above, acts_only_with, at_least, choose, option
from rlzero.grpo.correction import CORRECTIONS
from rlzero.grpo.kl import KL_ESTIMATORS
from rlzero.grpo.loss import TOKEN_WEIGHTS
from rlzero.grpo.objective import Bounds
from rlzero.grpo.token_loss import LossOptions

# Where the old log-probabilities, the denominators of the ratios, come from.
OLD_LOGPROBS = ("auto", "policy", "sampler")
# What the equation of an advantage divides by anyway, where that has a name.
_OWN_SCALES = {"dr_grpo": "none", "reinforce++": "batch", "reinforce++_baseline": "batch"}
# Objectives whose ratio is that of a whole answer, and how far GSPO lets it go (2507.18071 v2, §5.1): it moves hundreds
# of times less than a token's, so that PPO's 0.2 would clip nothing.
SEQUENCE_LEVEL, GSPO_CLIP = ("gspo", "gspo_token"), (3e-4, 4e-4)
# Objectives that clip no ratio, and the bounds of one that they have no use for.
_UNUSED = {"cispo": ("epsilon", "delta"), "sapo": ("epsilon", "epsilon_high", "delta")}
# Why the bounds of an importance weight lie on both sides of 1.
_AROUND_ONE = "where engine and trainer agree the weight is 1, and such tokens must be kept as they are"


@dataclass
class ObjectiveConfig(Concern):
    """From rewards to the loss of a token."""

    advantage: str = option(
        "grpo",
        "grpo: (r - mean) / std of the group; dr_grpo: r - mean; rloo: r - mean of the others; max_rl: (r - mean) / "
        "mean; reinforce++: (r - mean) / std of the step; reinforce++_baseline: r - mean, over the step's std.",
    )
    scale_rewards: str | None = option(
        None, "What grpo and rloo divide by: std of the group, of the batch (the step), or none. Default: the paper's."
    )
    loss_type: str = option(
        "dapo",
        "dapo: clipped ratios, all tokens of the step alike; grpo: all answers alike; bnpo: all tokens of a process; "
        "dr_grpo: over a constant length; gspo, gspo_token: ratio of the whole answer; cispo: clipped weight, no lost "
        "gradient; sapo: a smooth gate.",
    )
    epsilon: float | None = option(
        None,
        "Lower clip of the ratio; acts with more than one update per rollout. Default: 0.2; for gspo 3e-4. Not for "
        "cispo and sapo, which clip no ratio.",
    )
    epsilon_high: float | None = option(
        None,
        "Upper clip. Default: epsilon, and for gspo 4e-4 with its epsilon. For cispo the largest weight itself; not "
        "for sapo.",
    )
    delta: float | None = option(None, "Dual clip: largest ratio where the advantage is negative.")
    sapo_temperature_pos: float = option(1.0, "Steepness of sapo's gate where the advantage is positive.")
    sapo_temperature_neg: float = option(1.05, "The same where it is not.")
    old_logprobs: str = option(
        "auto",
        "Denominator of the ratio. auto: the policy that the rollout began with, which costs one more forward pass "
        "where a rollout has several updates; sampler: the engine's own; policy: the present one, so always 1.",
    )
    mask_truncated_completions: bool = option(False, "Leave answers that hit the length limit out of the loss.")
    top_entropy_quantile: float = option(
        1.0, "Share of the tokens, those of highest entropy, that the policy loss is about (80/20 rule: 0.2)."
    )
    entropy_coef: float = option(0.0, "Weight of the mean entropy of a token, which is added to the objective.")

    def check(self) -> None:
        choose("advantage", self.advantage, ADVANTAGES)
        choose("loss_type", self.loss_type, TOKEN_WEIGHTS)
        choose("old_logprobs", self.old_logprobs, OLD_LOGPROBS)
        self._check_scale()
        self._check_bounds()
        if not 0 < self.top_entropy_quantile <= 1:
            raise ConfigError(
                f"top_entropy_quantile={self.top_entropy_quantile} must lie in (0, 1]; 1 learns from all tokens."
            )
        at_least("entropy_coef", self.entropy_coef, 0)
        gates = ("sapo_temperature_pos", "sapo_temperature_neg")
        acts_only_with(self, "loss_type='sapo'", self.loss_type == "sapo", gates)

    def _check_scale(self) -> None:
        if self.scale_rewards is None:
            return
        choose("scale_rewards", self.scale_rewards, SCALES)
        if self.advantage not in FREE_SCALE and self.scale_rewards != _OWN_SCALES.get(self.advantage):
            raise ConfigError(
                f"scale_rewards={self.scale_rewards!r} changes nothing that advantage={self.advantage!r} does, whose "
                f"divisor is part of its equation: leave it out, or choose the advantage {' or '.join(FREE_SCALE)}."
            )

    def _check_bounds(self) -> None:
        for name in _UNUSED.get(self.loss_type, ()):
            if getattr(self, name) is not None:
                raise ConfigError(
                    f"{name}={getattr(self, name)} bounds a clipped ratio, and loss_type={self.loss_type!r} clips "
                    "none: leave it out."
                )
        if self.loss_type == "cispo":
            self._check_largest_weight()
        elif self.loss_type not in _UNUSED:
            self._check_clip()
        for name in ("sapo_temperature_pos", "sapo_temperature_neg"):
            above(name, getattr(self, name), 0)

    def _check_largest_weight(self) -> None:
        if self.epsilon_high is None:
            raise ConfigError(
                "loss_type='cispo' takes epsilon_high as the largest importance weight, and it is not set: set it, to "
                "5 as ScaleRL (2510.13786) does."
            )
        why = "for loss_type='cispo' it is the largest importance weight itself, which is about 1 on policy"
        at_least("epsilon_high", self.epsilon_high, 1, why)

    def _check_clip(self) -> None:
        """What is not given takes its default here, since that depends on the objective."""
        low, high = GSPO_CLIP if self.loss_type in SEQUENCE_LEVEL else (0.2, 0.2)
        if self.epsilon_high is None:
            self.epsilon_high = high if self.epsilon is None else self.epsilon
        if self.epsilon is None:
            self.epsilon = low
        above("epsilon", self.epsilon, 0)
        above("epsilon_high", self.epsilon_high, 0)
        if self.delta is not None:
            why = "up to there the clip itself lets a ratio go (1 + epsilon_high)"
            above("delta", self.delta, 1 + self.epsilon_high, why)

    @property
    def bounds(self) -> Bounds:
        """How far the policy may move, as the objectives take it."""
        known = {f.name: getattr(self, f.name) for f in fields(Bounds)}
        return Bounds(**{name: bound for name, bound in known.items() if bound is not None})


@dataclass
class ReferenceConfig(Concern):
    """How the policy is tied to a reference: the model that the run began with, or the policy of some steps ago."""

    beta: float = option(0.0, "Weight of the KL divergence from the reference; 0 does without one.")
    kl_estimator: str = option("k3", "k1, k2 or k3 of Schulman (2020); GRPO's is k3.")
    use_bias_correction_kl: bool | None = option(
        None, "Multiply the KL in the loss by the ratio, as DeepSeek-V3.2. Default: wherever the loss has a KL."
    )
    kl_in_reward: bool = option(False, "Subtract beta times the KL of an answer from its reward, not in the loss.")
    ref_model_name_or_path: str | None = option(
        None, "Folder or hub id of the reference, a model of the same kind. Default: the model that is trained."
    )
    sync_ref_model: bool = option(False, "Move the reference towards the policy every ref_model_sync_steps.")
    ref_model_sync_steps: int = option(512, "Steps between two moves of the reference.")
    ref_model_mixup_alpha: float = option(0.6, "Share of the policy in the new reference; 1 replaces it.")

    def check(self) -> None:
        choose("kl_estimator", self.kl_estimator, KL_ESTIMATORS)
        at_least("beta", self.beta, 0)
        at_least("ref_model_sync_steps", self.ref_model_sync_steps, 1)
        if not 0 < self.ref_model_mixup_alpha <= 1:
            raise ConfigError(f"ref_model_mixup_alpha={self.ref_model_mixup_alpha} must lie in (0, 1].")
        about = ("kl_in_reward", "use_bias_correction_kl", "ref_model_name_or_path", "sync_ref_model")
        idle = [name for name in about if getattr(self, name)]
        if not self.beta and idle:
            raise ConfigError(
                f"{idle[0]}={getattr(self, idle[0])!r} is about the KL divergence from a reference, and beta=0 does "
                f"without one: set beta above 0, or leave {idle[0]} out."
            )
        acts_only_with(self, "beta above 0", self.beta > 0, ("kl_estimator",))
        moves = ("ref_model_sync_steps", "ref_model_mixup_alpha")
        acts_only_with(self, "sync_ref_model", self.sync_ref_model, moves)
        if self.kl_in_reward and self.use_bias_correction_kl:
            raise ConfigError(
                "use_bias_correction_kl=True corrects the KL in the loss, and kl_in_reward=True puts it into the "
                "reward: leave one of them out."
            )
        if self.in_loss and self.kl_estimator == "k1" and not self.corrects:
            raise ConfigError(
                "kl_estimator='k1' in the loss has a gradient that is 0 on average without use_bias_correction_kl: "
                "switch that on, choose k2 or k3, or set kl_in_reward."
            )

    @property
    def in_loss(self) -> bool:
        return self.beta > 0 and not self.kl_in_reward

    @property
    def in_reward(self) -> bool:
        return self.beta > 0 and self.kl_in_reward

    @property
    def corrects(self) -> bool:
        """Whether the KL in the loss is multiplied by the ratio."""
        return self.in_loss if self.use_bias_correction_kl is None else self.use_bias_correction_kl


@dataclass
class CorrectionConfig(Concern):
    """What is done about tokens that another policy sampled than the one that trains."""

    vllm_importance_sampling_correction: bool = option(
        False, "Weigh tokens by how likely the trainer finds them against the engine that sampled them, of any kind."
    )
    vllm_importance_sampling_mode: str = option(
        "sequence_mask", f"{', '.join(CORRECTIONS)}: weight per token or answer, clipped to its bounds or 0 beyond."
    )
    vllm_importance_sampling_clip_max: float | None = option(3.0, "Upper bound of the weight; none is none.")
    vllm_importance_sampling_clip_min: float | None = option(None, "Lower bound of the weight.")
    off_policy_mask_threshold: float | None = option(
        None, "Leave out answers of negative advantage that the policy has moved away from by so many nats a token."
    )

    def check(self) -> None:
        choose("vllm_importance_sampling_mode", self.vllm_importance_sampling_mode, CORRECTIONS)
        low, high = self.vllm_importance_sampling_clip_min, self.vllm_importance_sampling_clip_max
        if low is not None:
            above("vllm_importance_sampling_clip_min", low, 0)
        if high is not None:
            at_least("vllm_importance_sampling_clip_max", high, 1, _AROUND_ONE)
        if low is not None and low > 1:
            raise ConfigError(f"vllm_importance_sampling_clip_min={low} must be at most 1: {_AROUND_ONE}.")
        if low is not None and high is not None and low >= high:
            raise ConfigError(
                f"vllm_importance_sampling_clip_min={low} must be below vllm_importance_sampling_clip_max={high}: "
                "between them lie the weights that are kept."
            )
        if low is None and high is None and self.mode is not None and self.mode.endswith("truncate"):
            raise ConfigError(
                f"vllm_importance_sampling_mode={self.mode!r} needs a bound to truncate at: set "
                "vllm_importance_sampling_clip_max, vllm_importance_sampling_clip_min or both."
            )
        if self.off_policy_mask_threshold is not None:
            above("off_policy_mask_threshold", self.off_policy_mask_threshold, 0)
        parts = [f"vllm_importance_sampling_{part}" for part in ("mode", "clip_max", "clip_min")]
        acts_only_with(self, "vllm_importance_sampling_correction", self.mode is not None, parts)

    @property
    def mode(self) -> str | None:
        """The correction by name; None without."""
        return self.vllm_importance_sampling_mode if self.vllm_importance_sampling_correction else None


def loss_options(objective: ObjectiveConfig, reference: ReferenceConfig, correction: CorrectionConfig) -> LossOptions:
    """The settings as the loss of a token takes them."""
    return LossOptions(
        loss_type=objective.loss_type,
        bounds=objective.bounds,
        beta=reference.beta if reference.in_loss else 0.0,
        kl_estimator=reference.kl_estimator,
        use_bias_correction_kl=reference.corrects,
        importance_sampling_mode=correction.mode,
        importance_sampling_clip_min=correction.vllm_importance_sampling_clip_min,
        importance_sampling_clip_max=correction.vllm_importance_sampling_clip_max,
        off_policy_mask_threshold=correction.off_policy_mask_threshold,
    )
