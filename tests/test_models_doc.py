"""docs/models.md says what is so: tests and code that it names exist, its table is printed, its examples run."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import math
import re
import sys
from operator import attrgetter
from pathlib import Path
from types import ModuleType

import pytest

from rlzero.command import main
from rlzero.models.balance import BALANCE
from rlzero.models.capacity import DROP_POLICIES
from rlzero.models.count import cache_bytes, cached_values_per_token
from rlzero.models.layer import MIXERS
from rlzero.models.presets import PRESETS, preset
from rlzero.models.router import ROUTERS
from tests.docs_examples import ROOT, blocks, run_examples

PAGE = (ROOT / "docs" / "models.md").read_text()


def benchmark(name: str) -> ModuleType:
    """A script of benchmarks/, which is no package, as a module of its own."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def functions_of(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


def sections() -> dict[str, str]:
    """Heading -> text of every system of the line."""
    parts = re.split(r"^## (.*)\n", PAGE, flags=re.MULTILINE)[1:]
    return {head: text for head, text in zip(parts[::2], parts[1::2], strict=True) if re.search(r"\b(19|20)\d\d", head)}


def table_rows(text: str) -> list[list[str]]:
    """Cells of every Markdown table, without its headings."""
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in text.splitlines() if line.startswith("|")]
    rules = {number for number, row in enumerate(rows) if set("".join(row)) == {"-"}}
    return [row for number, row in enumerate(rows) if number not in rules and number + 1 not in rules]


def test_every_test_that_the_page_names_exists() -> None:
    named = re.findall(r"(tests/[\w/]+\.py)::(\w+)", PAGE)
    assert len(named) > 50
    assert [name for path, name in named if name not in functions_of(ROOT / path)] == []


def test_every_equation_and_claim_in_a_table_names_the_test_that_holds_it() -> None:
    for head, text in sections().items():
        rows = table_rows(text)
        assert rows, head
        assert [row for row in rows if not re.fullmatch(r"`tests/[\w/]+\.py::test_\w+`", row[-1])] == [], head


def test_every_function_and_class_beside_an_equation_exists() -> None:
    cells = [row[1] for text in sections().values() for row in table_rows(text)]
    named = [path for cell in cells for path in re.findall(r"`(.+?)`", cell)]
    assert len(named) > 30
    for path in named:
        module, name = path.split(".", 1)
        attrgetter(name)(importlib.import_module(f"rlzero.models.{module}"))


def test_every_part_that_a_configuration_can_name_stands_on_the_page() -> None:
    parts = [*ROUTERS.values(), *BALANCE.values(), *MIXERS.values(), *DROP_POLICIES.values()]
    missing = [p.__name__ for p in parts if f"`{p.__module__.rsplit('.', 1)[1]}.{p.__name__}`" not in PAGE]
    assert missing == []


def test_the_table_is_the_one_that_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    main(["models"])
    printed = "\n".join(line.rstrip() for line in capsys.readouterr().out.splitlines())
    table = printed.split("\n\n")[0].strip("\n") if printed.strip() else ""
    (shown,) = (block for block in blocks(PAGE, "text") if "preset, router" in block)
    assert shown == f"{table}\n", f"rlzero models prints now:\n{table}"
    assert all(name in shown for name in PRESETS)


def test_figures_of_the_prose_follow_from_the_presets() -> None:
    mistral = preset("mistral-7b")
    assert f"{mistral.num_hidden_layers * (mistral.sliding_window - 1) + 1:,} for 32 layers of 4096" in PAGE
    small, large = (cache_bytes(cached_values_per_token(preset(f"deepseek-llm-{size}"))) for size in ("7b", "67b"))
    assert f"({large:,} bytes against {small:,})" in PAGE
    latent = preset("deepseek-v2")
    cached = latent.kv_lora_rank + latent.qk_rope_head_dim
    heads = 2 * latent.num_attention_heads * latent.v_head_dim
    assert f"caches {cached} numbers for a token, where its own 128 heads would cache {heads:,}" in PAGE
    assert f"({1 - cached / heads:.1%} less)" in PAGE
    assert f"{math.comb(16, 2)} sets" in PAGE
    assert f"{math.comb(64, 8) / 1e9:.1f} billion sets" in PAGE


def test_examples_do_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    assert run_examples(PAGE, tmp_path) == 3


def test_rows_of_the_toy_tables_are_those_of_the_benchmark(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    toys = benchmark("moe_toys")
    for name, value in {"STEPS": 1, "TESTED": 64, "SEEDS": (0,), "PROBLEMS": 2}.items():
        monkeypatch.setattr(toys, name, value)
    toys.main()
    labels = [line.split("|")[1] for line in capsys.readouterr().out.splitlines() if line]
    assert len(labels) > len(toys.RUNS)
    assert [label for label in labels if f"\n|{label}|" not in PAGE] == []


def test_the_layers_that_the_benchmark_compares_compute_the_same(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = benchmark("moe_layer")
    monkeypatch.setattr(layers, "SIZES", (layers.Size(32, 32, 16, trains=True), layers.Size(32, 32, 4, trains=False)))
    monkeypatch.setattr(sys, "argv", ["moe_layer.py", "--rounds", "2"])
    layers.main()
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["moe_layer_ratio"] > 0
    assert len(figures["ratios"]) == 2
    stock, ours = layers.make_pair(32, 32, "eager")
    inputs = layers.torch.randn(1, 16, 32)
    layers.check_equal(stock, ours, inputs, None)
    ours.gate.weight.data.neg_()
    with pytest.raises(AssertionError):
        layers.check_equal(stock, ours, inputs, None)
