"""How many tokens prompts and answers have: measured where they can be, assumed and said so where not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.sources import GENERATORS
from data.templates import get_template
from rlzero.grpo.concern import at_least
from rlzero.grpo.explain.constants import COMPLETION_SHARE, PROMPT_TOKENS, SIGNAL_SHARE
from rlzero.grpo.setup import MEASURED_PROMPTS, fitting_length, open_source
from rlzero.measure.text import encode_prompt
from rlzero.models.load import ModelError, load_tokenizer
from rlzero.report.run_dir import read_metrics

if TYPE_CHECKING:
    from rlzero.grpo.config import Recipe


@dataclass(frozen=True)
class Lengths:
    """In tokens. prompt, completion: means; longest_prompt, limit: at most; room: of both together, as the engine makes
    it. signal: share of the groups that are
    trained on. prompt_source, completion_source: where they come from, in words. assumed: whether the answers' are an
    assumption."""

    prompt: float
    longest_prompt: int
    completion: float
    limit: int
    room: int
    signal: float
    prompt_source: str
    completion_source: str
    assumed: bool

    def completions(self, answers: int) -> list[int]:
        """Lengths of so many answers, shortest first: an exponential distribution with this mean, cut at the limit."""
        scale = _scale(self.completion, self.limit)
        shares = [(i + 0.5) / answers for i in range(answers)]
        return [max(1, min(self.limit, math.ceil(-scale * math.log(1 - share)))) for share in shares]


def find_lengths(recipe: Recipe, context: int | None, completion: float | None = None) -> Lengths:
    """context: tokens that the model was made for, where it says. completion: the mean length of an answer, where the
    user knows it. Raises ConfigError where problems that are at hand do not fit."""
    limit = recipe.rollout.max_completion_length
    prompt, longest, room, prompt_source = _prompts(recipe, context)
    mean, signal, source = _completions(recipe)
    assumed = source is None
    if completion is not None:
        at_least("completion_length", completion, 1)
        mean, source, assumed = min(completion, limit), "as given by --completion_length", False
    if source is None:
        source = f"assumed: a third of max_completion_length={limit}; --completion_length says another mean"
    if recipe.selection.dynamic_sampling or recipe.learns_from_every_answer:
        signal = 1.0
    return Lengths(prompt, longest, mean, limit, room, signal, prompt_source, source, assumed)


def _prompts(recipe: Recipe, context: int | None) -> tuple[float, int, int, str]:
    """Mean, longest and room. What would have to be downloaded, and a model without tokenizer, is not measured."""
    name, model = recipe.data.dataset_name, recipe.model.model_name_or_path
    missing = None
    if name not in GENERATORS and not name.startswith("gym:") and not Path(name).exists():
        missing = f"the data set {name!r} is not on this machine's disk"
    elif not Path(model).is_dir():
        missing = f"the tokenizer of {model!r} is not on this machine's disk"
    else:
        try:
            tokenizer = load_tokenizer(model, recipe.model.trust_remote_code, recipe.model.model_revision)
        except ModelError:
            missing = f"{model!r} holds no tokenizer"
    if missing is not None:
        room = PROMPT_TOKENS + recipe.rollout.max_completion_length
        return PROMPT_TOKENS, PROMPT_TOKENS, room, f"assumed: {PROMPT_TOKENS} tokens, since {missing}"
    source, template = open_source(recipe), get_template(recipe.data.template)
    problems = [source.train(recipe.run.seed, index) for index in range(MEASURED_PROMPTS)]
    room = fitting_length(recipe, template, tokenizer, problems, context)
    found = [len(encode_prompt(template, problem.prompt, tokenizer)) for problem in problems]
    return sum(found) / len(found), max(found), room, f"measured on {len(found)} problems of {name}"


def _completions(recipe: Recipe) -> tuple[float, float, str | None]:
    """Mean length over a run and share of the groups with signal; and where they come from, None for assumptions."""
    limit, path = recipe.rollout.max_completion_length, Path(recipe.run.output_dir) / "metrics.jsonl"
    rows = read_metrics(path) if path.is_file() else []
    if not rows:
        return max(1.0, limit * COMPLETION_SHARE), SIGNAL_SHARE, None
    mean = min(_mean(rows, "completion_length"), limit)
    return mean, _mean(rows, "groups_with_signal"), f"measured in the {len(rows)} steps of {path}"


def _mean(rows: list[dict[str, Any]], name: str) -> float:
    return sum(row[name] for row in rows) / len(rows)


def _scale(mean: float, limit: int) -> float:
    """Of an exponential distribution that has this mean when it is cut at the limit: s (1 − exp(−limit / s)) = mean."""
    if mean >= 0.999 * limit:
        return 1e6 * limit
    low, high = 1e-3, 1e6 * limit
    for _ in range(100):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if middle * -math.expm1(-limit / middle) < mean else (low, middle)
    return high
