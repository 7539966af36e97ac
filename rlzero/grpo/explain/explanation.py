"""Everything about a recipe that can be said before it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlzero.grpo.config import Recipe
from rlzero.grpo.explain.architecture import Architecture, read_architecture
from rlzero.grpo.explain.duration import Duration, estimate_duration
from rlzero.grpo.explain.lengths import Lengths, find_lengths
from rlzero.grpo.explain.memory import Memory, estimate_memory, precision
from rlzero.grpo.explain.objective import Term, terms
from rlzero.grpo.explain.place import Place, find_place
from rlzero.grpo.explain.plan import Plan, make_plan
from rlzero.grpo.explain.rates import Rates, find_rates
from rlzero.grpo.explain.work import Work, cut_step
from rlzero.grpo.parse import parse_recipe
from rlzero.grpo.setup import check
from rlzero.rollout.make import check_vllm_knows

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class Explanation:
    """Of one recipe in one place. engine: that samples, by name."""

    recipe: Recipe
    engine: str
    place: Place
    architecture: Architecture
    plan: Plan
    lengths: Lengths
    work: Work
    terms: list[Term]
    memory: Memory
    rates: Rates
    duration: Duration


def explain(
    recipe_file: str,
    overrides: Sequence[str],
    config_file: str | None = None,
    num_processes: int | None = None,
    completion_length: float | None = None,
) -> Explanation:
    """overrides: options of the recipe as on its command line. Reads the model's configuration, and no weights.

    Raises ValueError (of settings, of the model, of the data) as the run itself would.
    """
    recipe = parse_recipe(["--config", recipe_file, *overrides], Path(recipe_file))
    resolved, place = check(recipe).engine, find_place(config_file, num_processes)
    plan = make_plan(recipe, place.processes)
    architecture, config = read_architecture(recipe.model)
    engine = "builtin" if recipe.rollout.rollout == "auto" and not vllm_knows(config) else resolved
    # Before anything is measured: what is resident is Python's and the libraries'.
    libraries = resident_bytes()
    lengths = find_lengths(recipe, architecture.context, completion_length)
    work, kind = cut_step(recipe, plan, lengths), precision(recipe, architecture, place)
    memory = estimate_memory(recipe, architecture, config, place, lengths, work.largest, engine, libraries)
    rates = find_rates(recipe, architecture, config, place, lengths, engine, kind)
    duration = estimate_duration(recipe, plan, lengths, work, rates)
    return Explanation(recipe, engine, place, architecture, plan, lengths, work, terms(recipe), memory, rates, duration)


def as_data(found: Explanation) -> dict[str, Any]:
    """Plain dicts and lists, for JSON: what is counted and estimated, without the recipe itself."""
    data = asdict(found)
    del data["recipe"]
    data["plan"] |= {
        name: getattr(found.plan, name)
        for name in ("updates_per_rollout", "staleness", "answers_per_step", "answers_per_rollout")
    }
    data["memory"] = {"parts": [asdict(part) for part in found.memory.parts], "peak": found.memory.peak}
    data["duration"] |= {name: getattr(found.duration, name) for name in ("rollout", "step", "run")}
    return data


def vllm_knows(config: PretrainedConfig) -> bool:
    """Whether vLLM can run a model of this configuration."""
    try:
        check_vllm_knows(config)
    except ValueError:
        return False
    return True


def resident_bytes() -> float:
    """Of this process now; 0 where the system does not say (no /proc)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * 4096.0
