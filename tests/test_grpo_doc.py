"""docs/grpo.md says what is so: what it names exists, its defaults are the code's, its examples run."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import shlex
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlzero.command import main as rlzero
from rlzero.grpo import alarms
from rlzero.grpo.advantage import ADVANTAGES
from rlzero.grpo.aggregate import AGGREGATIONS
from rlzero.grpo.config import GRPOConfig, RewardConfig, SelectionConfig
from rlzero.grpo.correction import CORRECTIONS
from rlzero.grpo.curriculum import CURRICULA
from rlzero.grpo.kl import KL_ESTIMATORS
from rlzero.grpo.loss import TOKEN_WEIGHTS
from rlzero.grpo.objective import OBJECTIVES
from rlzero.grpo.objective_config import OLD_LOGPROBS, CorrectionConfig, ObjectiveConfig, ReferenceConfig
from rlzero.grpo.parse import CONCERNS
from rlzero.grpo.presets import GOES_WITH, PRESETS
from rlzero.grpo.run import main
from tests.docs_examples import ROOT, blocks, run_examples
from tests.test_models_doc import functions_of

PAGE = (ROOT / "docs" / "grpo.md").read_text()
HELD = r"tests/[\w/]+\.py::test_\w+"
# Concerns of which every option stands on the page.
WHOLE = (RewardConfig, SelectionConfig, ObjectiveConfig, ReferenceConfig, CorrectionConfig, GRPOConfig)
# Where a run writes, how often it measures and what it reports to is TRL's concern and ours in different ways.
ELSEWHERE = {"output_dir", "save_steps", "save_total_limit", "eval_steps", "report_to"}
# Macros that GitHub's Markdown refuses.
REFUSED = (r"\operatorname", r"\def", r"\newcommand", r"\require", r"\href")


def tables() -> list[tuple[list[str], list[list[str]]]]:
    """Heading and rows of every Markdown table. A bar within backslashes does not part cells."""
    found = []
    for table in re.findall(r"(?:^\|.*\n)+", PAGE, re.MULTILINE):
        lines = [
            [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in table.splitlines()
        ]
        found.append((lines[0], lines[2:]))
    return found


def rows_of(*heading: str) -> list[list[str]]:
    """Rows of all tables whose heading begins so."""
    return [row for head, rows in tables() if tuple(head[: len(heading)]) == heading for row in rows]


def default_of(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def options(concerns: tuple[type, ...] = CONCERNS) -> dict[str, Any]:
    return {field.name: default_of(field) for concern in concerns for field in dataclasses.fields(concern)}


def code(text: str) -> str:
    """The one word that a cell has in backticks."""
    (word,) = re.findall(r"^`([^`]+)`$", text)
    return word


def found(path: str) -> Any:
    """`advantage.grpo` in rlzero/grpo, or a whole dotted name."""
    parts = path.split(".")
    for root, start in (("rlzero.grpo.", 1), ("", len(parts) - 1), ("", len(parts) - 2)):
        try:
            module = importlib.import_module(root + ".".join(parts[:start]))
        except (ImportError, ValueError):
            continue
        return attrgetter(".".join(parts[start:]))(module)
    raise AssertionError(f"{path} is no name in rlzero.grpo, and no whole one")


def test_every_test_that_the_page_names_exists() -> None:
    named = re.findall(r"(tests/[\w/]+\.py)::(\w+)", PAGE)
    assert len(named) > 60
    assert [f"{path}::{name}" for path, name in named if name not in functions_of(ROOT / path)] == []


def test_every_row_of_a_table_of_claims_names_the_test_that_holds_it() -> None:
    held = [(head, row) for head, rows in tables() if head[-1] == "held by" for row in rows]
    assert len(held) > 40
    assert [row for head, row in held if len(row) != len(head) or not re.fullmatch(f"`{HELD}`", row[-1])] == []


def test_every_function_that_the_page_names_exists() -> None:
    columns = {"function", "here"}
    named = [
        path
        for head, rows in tables()
        for row in rows
        for title, cell in zip(head, row, strict=True)
        if title in columns
        for path in re.findall(r"`([a-z_]+(?:\.\w+)+)`", cell)
    ]
    prose = re.sub(r"^\|.*\n", "", PAGE, flags=re.MULTILINE)
    named += re.findall(r"`((?:advantage|token_loss|trainer|update|loss|scoring)\.\w+(?:\.\w+)*)`", prose)
    assert len(named) > 60
    for path in named:
        found(path)


@pytest.mark.parametrize(
    ("heading", "known"),
    [
        (("advantage", "function"), ADVANTAGES),
        (("aggregation", "function"), AGGREGATIONS),
        (("loss_type", "function"), OBJECTIVES),
        (("loss_type", "weight of a token"), TOKEN_WEIGHTS),
    ],
)
def test_every_method_stands_beside_its_function(heading: tuple[str, ...], known: dict[str, Any]) -> None:
    listed = {
        name: row[heading.index("function") if "function" in heading else 3]
        for row in rows_of(*heading)
        for name in re.findall(r"`([^`]+)`", row[0])
    }
    assert set(listed) == set(known)
    for name, function in known.items():
        assert found(code(listed[name])) is function, name


def test_every_name_that_an_option_can_take_stands_on_the_page() -> None:
    names = [*CORRECTIONS, *CURRICULA, *OLD_LOGPROBS]
    assert [name for name in names if f"`{name}`" not in PAGE] == []
    assert [name for name in KL_ESTIMATORS if not re.search(rf"\b{name}\b", PAGE)] == []


def test_every_rule_of_the_alarms_stands_on_the_page() -> None:
    listed = [found(code(row[-1])) for row in rows_of("alarm", "says")]
    assert listed == list(alarms.RULES)
    text = " ".join(PAGE.split())
    assert f"Means are over {alarms.LASTING} lines of metrics" in text
    assert alarms.COLLAPSED == 0.25
    assert "below a quarter of the highest such mean before" in text
    assert f"{alarms.MISMATCHED} nats a token apart" in text
    assert alarms.LONG == 0.75
    assert f"no better (below an accuracy of {alarms.LEARNED})" in text
    assert "within three quarters of their peak" in text


def test_every_setting_of_a_preset_that_steps_aside_stands_on_the_page() -> None:
    listed = {
        name: code(row[1])
        for row in rows_of("of the preset", "steps aside for another")
        for name in re.findall(r"`([^`]+)`", row[0])
    }
    assert listed == GOES_WITH


def test_every_option_has_the_default_that_the_page_says() -> None:
    listed = [(code(row[0]), code(row[1])) for row in rows_of("option", "default")]
    known = options()
    assert [(name, default) for name, default in listed if str(known[name]) != default] == []
    assert len({name for name, _ in listed}) == len(listed)
    assert sorted(set(options(WHOLE)) - {name for name, _ in listed}) == []


def test_defaults_other_than_trls_are_those_of_the_table() -> None:
    from trl import GRPOConfig as TRLConfig

    theirs = {f.name: default_of(f) for f in dataclasses.fields(TRLConfig) if f.init}
    differ = {
        name: (str(theirs[name]), str(default))
        for name, default in options().items()
        if name in theirs and theirs[name] != default and name not in ELSEWHERE
    }
    assert {code(row[0]): (code(row[1]), code(row[2])) for row in rows_of("option", "TRL")} == differ


def test_every_option_that_trl_adds_is_one_of_ours_or_stands_in_the_table_with_what_to_do_instead() -> None:
    from transformers import TrainingArguments
    from trl import GRPOConfig as TRLConfig

    added = {f.name for f in dataclasses.fields(TRLConfig)} - {f.name for f in dataclasses.fields(TrainingArguments)}
    assert len(added) > 50
    listed = [name for row in rows_of("option of TRL", "here") for name in re.findall(r"`([^`]+)`", row[0])]
    assert sorted(listed) == sorted(added - options().keys())


def preset_tables() -> str:
    """For every preset its settings, those of one source together."""
    lines = []
    for name, settings in PRESETS.items():
        by_source: dict[str, list[str]] = {}
        for option, setting in settings.items():
            value = yaml.safe_dump(setting.value, default_flow_style=True, width=1000).splitlines()[0]
            by_source.setdefault(setting.source, []).append(f"`{option}: {value}`")
        lines += [f"| `{name}` | source |", "|---|---|"]
        lines += [f"| {', '.join(values)} | {source} |" for source, values in by_source.items()]
        lines.append("")
    return "\n".join(lines)


def test_presets_are_those_of_the_code_with_a_source_for_each_number() -> None:
    shown = PAGE.split("<!-- presets: printed by tests/test_grpo_doc.py -->\n\n")[1]
    assert shown.startswith(preset_tables()), f"the tables are now:\n\n{preset_tables()}"


@pytest.mark.parametrize("block", blocks(PAGE, "yaml"), ids=lambda block: block.splitlines()[0].lstrip("# "))
def test_every_yaml_is_accepted_over_the_default_recipe(block: str, tmp_path: Path) -> None:
    recipe = yaml.safe_load((ROOT / "recipes" / "r1_zero.yaml").read_text()) | yaml.safe_load(block)
    recipe["model_name_or_path"] = str(ROOT / recipe["model_name_or_path"])
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    assert main(["--config", str(path), "--dry_run"], path) == 0


def test_examples_do_what_the_page_says(tmp_path: Path) -> None:
    assert run_examples(PAGE, tmp_path) > 0


def test_explanation_of_a_recipe_is_the_one_that_is_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (command,) = (block for block in blocks(PAGE, "sh") if block.startswith("rlzero "))
    (shown,) = blocks(PAGE, "text")
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "120")
    assert rlzero(shlex.split(command)[1:]) == 0
    printed = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert [line for line in shown.splitlines() if " ".join(line.split()) not in printed] == []


def test_formulas_are_such_as_github_shows() -> None:
    formulas = blocks(PAGE, "math")
    assert len(formulas) > 15
    for formula in formulas:
        assert formula.replace(r"\{", "").count("{") == formula.replace(r"\}", "").count("}"), formula
        assert formula.count(r"\left") == formula.count(r"\right"), formula
        assert [macro for macro in REFUSED if macro in formula] == [], formula


def test_every_link_within_the_page_leads_to_a_heading() -> None:
    headings = re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert [link for link in re.findall(r"\]\(#([^)]+)\)", PAGE) if link not in anchors] == []


def test_docstrings_of_the_objectives_name_a_source() -> None:
    """Every advantage, objective and token weight says which paper it is from."""
    for function in {*ADVANTAGES.values(), *OBJECTIVES.values(), *TOKEN_WEIGHTS.values(), *AGGREGATIONS.values()}:
        text = inspect.getdoc(function) or ""
        assert re.search(r"\d{4}\.\d{4,5}|TRL", text), function.__name__
