"""The processes of a run are what its launch asked for, or it does not begin; FSDP2 shards on the CPU too."""

from __future__ import annotations

import pytest
from accelerate import Accelerator
from accelerate.utils import DistributedType

from rlzero.grpo.combinations import check_processes
from rlzero.grpo.concern import ConfigError
from rlzero.grpo.processes import make_accelerator
from tests.conftest import ROOT
from tests.grpo.launching import run_two
from tests.grpo.pieces import PAD, make_recipe
from tests.models.routed import make_model


def test_fsdp_that_would_not_be_applied_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    with pytest.raises(ConfigError, match="gives 1 × NO where FSDP was asked for"):
        make_accelerator(bf16=False, cpu=True)


def test_first_version_of_fsdp_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.delenv("FSDP_VERSION", raising=False)
    with pytest.raises(ConfigError, match=r"asks for fsdp_version: 1\. Set fsdp_version: 2"):
        make_accelerator(bf16=False, cpu=True)


def test_distribution_that_is_not_known_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType.DEEPSPEED)
    with pytest.raises(ConfigError, match=r"gives 1 × DEEPSPEED\. Launch with a file of recipes/accelerate"):
        make_accelerator(bf16=False, cpu=True)


def test_groups_are_never_split_so_that_problems_must_be_shared_out_evenly():
    recipe = make_recipe(prompts_per_step=9)
    check_processes(recipe, 3)
    with pytest.raises(ConfigError, match=r"prompts_per_step=9 must be a multiple of the 4 .* set it to 8, or"):
        check_processes(recipe, 4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "deepseek_v3"])
def test_sharded_processes_hold_parts_of_what_one_of_them_read(kind, tmp_path):
    """The promises are in the script. DeepSeek-V3's checkpoint has buffers."""
    model = make_model(kind, vocab_size=PAD + 1)
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.uniform_(0, 0.1)
    model.save_pretrained(tmp_path)
    script = ROOT / "tests" / "grpo" / "two_processes_sharded.py"
    done = run_two("fsdp", script, tmp_path, FSDP_CPU_RAM_EFFICIENT_LOADING="true")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("all promises held") == 2
