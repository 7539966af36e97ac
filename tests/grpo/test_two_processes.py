"""Two processes, whole models or sharded ones, take the steps that one process takes with the same groups."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator

from rlzero.grpo.advantage import ADVANTAGES
from rlzero.grpo.objective import OBJECTIVES
from tests.conftest import ROOT
from tests.grpo.launching import LAYOUTS, run_two
from tests.grpo.pieces import make_recipe
from tests.grpo.two_processes_options import CASES, train

# A mean over the tokens of each process, then over processes: another number with two than with one, by definition.
BY_PROCESS = "bnpo"


def test_cases_have_every_loss_and_every_advantage():
    chosen = [make_recipe(**settings).objective for settings in CASES.values()]
    assert {objective.loss_type for objective in chosen} == OBJECTIVES.keys() - {BY_PROCESS}
    assert {objective.advantage for objective in chosen} == ADVANTAGES.keys()


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_objective_takes_the_steps_of_one_process(layout, tmp_path):
    """But for bnpo. Also where one process has fewer groups with a signal than the other, where it has none, where
    nobody has, and where the gradient of one is not finite."""
    done = run_two(layout, ROOT / "tests" / "grpo" / "two_processes_options.py", tmp_path, *CASES)
    assert done.returncode == 0, done.stderr[-3000:]
    for case in CASES:
        together = torch.load(tmp_path / f"{case}.pt")
        alone = train(case, Accelerator(cpu=True), tmp_path / "alone")
        assert together.keys() == alone.keys()
        assert sum(name.endswith("grad_norm") and float(value) > 0 for name, value in alone.items()) >= 2
        assert alone["1 skipped"] == (case == "not finite")
        for name, tensor in alone.items():
            torch.testing.assert_close(
                together[name], tensor, rtol=1e-5, atol=1e-5, equal_nan=True,
                msg=lambda text, at=(case, name): f"{at}: {text}",
            )  # fmt: skip
