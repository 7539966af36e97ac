"""Warnings of a run that goes wrong without failing, in words that say what was seen and what to try.

Rules read the last lines of metrics.jsonl, one a rollout, beside the run's own past, and say something or nothing. A
rule that has spoken is silent until what it saw is over. The thresholds are this project's own. Those about a loss of
0 stand in `rlzero.grpo.zero_loss`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from rlzero.grpo.zero_loss import Row, by_nature, equal_rewards, left_out

# recent: the last LASTING lines, or fewer at first. peaks: by figure, the highest mean over LASTING lines before them;
# and "accuracy_while_long", that of the last LASTING lines before them whose answers were still LONG.
Rule = Callable[[Sequence[Row], Mapping[str, float]], str | None]

# Rollouts that a state must last before it is called one.
LASTING = 10
# Of its own peak: below that, entropy, length or format have collapsed.
COLLAPSED = 0.25
# Of its own peak: above that, answers are as long as they were.
LONG = 0.75
# A mean of accuracies that differs by no more has not changed.
SAME_ACCURACY = 0.05
# Above that there is little left to learn.
LEARNED = 0.9
# Nats a token (k3) between engine and trainer. Engines that agree are at 1e-7 (float32) to 1e-3 (bfloat16).
MISMATCHED = 0.01
# Figures that are held against their own past.
WATCHED = ("accuracy", "entropy", "completion_length", "format")


def no_signal(recent: Sequence[Row], peaks: Mapping[str, float]) -> str | None:
    """All groups had equal rewards, step after step."""
    if len(recent) < LASTING or any(row["groups_with_signal"] for row in recent):
        return None
    accuracy = _mean(recent, "accuracy")
    if accuracy >= 0.5:
        why = f"too easy for this model (accuracy {accuracy:.2f}): make them harder"
    else:
        why = (
            f"too hard for this model (accuracy {accuracy:.2f}), or what is asked is never paid: look at the answers "
            "in rollouts/, make the problems easier, or raise num_generations"
        )
    groups = recent[-1]["groups_without_signal"]
    learned = "nothing is learned"
    if any(row["grad_norm"] for row in recent):
        learned = "they teach nothing: what moves the policy is the pull to the reference or the entropy bonus alone"
    return f"All {groups} groups had equal rewards for {_lasted(recent)}, so {learned}. The problems are {why}."


def not_finite(recent: Sequence[Row], peaks: Mapping[str, float]) -> str | None:
    """A step that was not made."""
    row = recent[-1]
    if not row["skipped"]:
        return None
    return (
        f"{row['skipped']} of the updates up to step {row['step']} were skipped, since loss or gradient was not "
        "finite: their batches are in skipped/. Lower learning_rate, or look there for a reward or log-probability "
        "that is not finite."
    )


def entropy_collapse(recent: Sequence[Row], peaks: Mapping[str, float]) -> str | None:
    """Answers have become nearly the same while there is still much to learn."""
    accuracy = _mean(recent, "accuracy")
    if not _collapsed("entropy", recent, peaks) or accuracy > LEARNED:
        return None
    return (
        f"Entropy fell from {peaks['entropy']:.3g} to {_mean(recent, 'entropy'):.3g} nats a token at an accuracy of "
        f"{accuracy:.2f}: the answers to a problem are becoming one answer, and groups lose their signal. Raise "
        "epsilon_high, set entropy_coef or beta, or lower learning_rate."
    )


def length_collapse(recent: Sequence[Row], peaks: Mapping[str, float]) -> str | None:
    """Answers have become short, and not since the model does better with less."""
    if not _collapsed("completion_length", recent, peaks):
        return None
    now, best, before = _mean(recent, "accuracy"), peaks["accuracy"], peaks["accuracy_while_long"]
    if now < best - SAME_ACCURACY:
        what = f"the accuracy from {best:.2f} to {now:.2f}"
    elif now <= min(before + SAME_ACCURACY, LEARNED):
        what = f"the accuracy did not rise with it ({before:.2f} while they were long, {now:.2f} now)"
    else:
        return None
    return (
        f"Answers fell from {peaks['completion_length']:.0f} to {_mean(recent, 'completion_length'):.0f} tokens, and "
        f"{what}: thinking is being given up. Look at the answers in rollouts/, and at what the rewards pay for by "
        "mistake (python -m rewards audit)."
    )


def format_collapse(recent: Sequence[Row], peaks: Mapping[str, float]) -> str | None:
    """The format was there and is lost."""
    if peaks.get("format", 0.0) < 0.2 or not _collapsed("format", recent, peaks):
        return None
    return (
        f"The share of answers in the asked format fell from {peaks['format']:.2f} to {_mean(recent, 'format'):.2f}: "
        "the policy is drifting. Lower learning_rate, set beta, or go on from an earlier checkpoint."
    )


def cut_off(recent: Sequence[Row], peaks: Mapping[str, float]) -> str | None:
    """Most answers run into the length limit."""
    share = _mean(recent, "truncated")
    if len(recent) < LASTING or share < 0.5:
        return None
    return (
        f"{share:.0%} of the answers of the last {_lasted(recent)} were cut off at the length limit, where few can "
        "be right: raise max_completion_length, or see in rollouts/ why they do not end."
    )


def unfilled(recent: Sequence[Row], peaks: Mapping[str, float]) -> str | None:
    """Dynamic sampling reaches its bound again and again. Where it finds nothing at all, `no_signal` speaks."""
    shares = [row.get("sampling/filled", 1.0) for row in recent]
    if len(recent) < LASTING or max(shares) == 1 or not any(shares):
        return None
    return (
        f"Dynamic sampling could not fill any of the last {_lasted(recent)}: it asked "
        f"{recent[-1]['sampling/groups']:.0f} problems and trained on {fmean(shares):.0%} of the groups wanted, at an "
        f"accuracy of {_mean(recent, 'accuracy'):.2f}. Choose problems nearer to what this model can do (curriculum), "
        "or raise num_generations or max_generation_batches."
    )


def mismatch(recent: Sequence[Row], peaks: Mapping[str, float]) -> str | None:
    """Engine and trainer give the same tokens other probabilities."""
    kl = _mean(recent, "mismatch_kl")
    if len(recent) < LASTING or kl < MISMATCHED:
        return None
    stale = recent[-1].get("sampling/staleness")
    why = f", whose weights are {stale:.0f} steps older," if stale else ""
    remedy = "lower learning_rate, " if stale else "leave top_p and top_k out where they are set, "
    return (
        f"Engine{why} and trainer disagree about the tokens that the engine sampled, by a KL of {kl:.2g} nats a token "
        f"over {_lasted(recent)}: training on them as if they were the policy's own may collapse. Set "
        f"vllm_importance_sampling_correction, {remedy}set router_replay for a mixture of experts, or compute in "
        "float32."
    )


RULES: tuple[Rule, ...] = (
    no_signal, not_finite, by_nature, equal_rewards, left_out, entropy_collapse, length_collapse, format_collapse,
    cut_off, unfilled, mismatch,
)  # fmt: skip
# Said once in a run, however often it comes back.
ONCE: tuple[Rule, ...] = (by_nature, equal_rewards, left_out)


class Alarms:
    """Watches a run line by line. history: the lines of a run that goes on, which were watched then."""

    def __init__(self, history: Sequence[Row] = ()) -> None:
        self._recent: deque[Row] = deque(maxlen=LASTING)
        self._block: list[Row] = []
        self._closed: dict[str, float] = {}
        self._peaks: dict[str, float] = {}
        self._spoken: set[Rule] = set()
        for row in history:
            self.observe(row)

    def observe(self, row: Row) -> list[str]:
        """What there is to say after this step."""
        self._remember(row)
        found = []
        for rule in RULES:
            message = rule(self._recent, self._peaks)
            if message is None:
                self._spoken -= {rule} - set(ONCE)
            elif rule not in self._spoken:
                self._spoken.add(rule)
                found.append(message)
        return found

    def _remember(self, row: Row) -> None:
        """Lines are put together in blocks of LASTING. A block counts as the past once the next one is whole."""
        self._recent.append(row)
        self._block.append(row)
        if len(self._block) == LASTING:
            for name, mean in self._closed.items():
                self._peaks[name] = max(self._peaks.get(name, mean), mean)
            if self._closed and self._closed["completion_length"] >= LONG * self._peaks["completion_length"]:
                self._peaks["accuracy_while_long"] = self._closed["accuracy"]
            self._closed = {name: _mean(self._block, name) for name in WATCHED}
            self._block = []


def _lasted(recent: Sequence[Row]) -> str:
    """How many lines these are, in words: each is a rollout, and a step where a rollout has one update."""
    steps = recent[-1]["step"] - recent[0]["step"] + 1
    return f"{len(recent)} {'steps' if steps == len(recent) else 'rollouts'}"


def _mean(rows: Sequence[Row], name: str) -> float:
    known = [row[name] for row in rows if row.get(name) is not None]
    return fmean(known) if known else 0.0


def _collapsed(name: str, recent: Sequence[Row], peaks: Mapping[str, float]) -> bool:
    """Below the share COLLAPSED of its peak. Never where no recent line has the figure."""
    known = any(row.get(name) is not None for row in recent)
    return known and name in peaks and _mean(recent, name) < COLLAPSED * peaks[name]
