"""README.md and the pages say what is so: commands run as written, the reward works, links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from rewards.registry import load_reward, score
from rlzero.grpo.run import main
from tests.docs_examples import ROOT, blocks

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
README = (ROOT / "README.md").read_text()


def commands(page: Path) -> list[list[str]]:
    """Command lines of the shell blocks, continuation lines joined, comments dropped."""
    text = "\n".join(blocks(page.read_text(), "sh")).replace("\\\n", " ")
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


def test_reward_of_the_readme_pays_for_brevity(tmp_path: Path) -> None:
    (example,) = blocks(README, "python")
    (tmp_path / "my_reward.py").write_text(example)
    reward = load_reward(f"{tmp_path / 'my_reward.py'}:brief")
    values = score([reward], ["q"] * 2, ["a", "b"], {}, completion_ids=[[1] * 10, [1] * 60])
    assert values == {"brief": [0.8, 0.0]}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_r1_zero_command_is_accepted(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for example in blocks(README, "python"):
        (tmp_path / "my_reward.py").write_text(example)
    monkeypatch.chdir(tmp_path)
    for words in commands(page):
        if "recipes/r1_zero.py" in words:
            arguments = words[words.index("recipes/r1_zero.py") + 1 :]
            arguments = [str(ROOT / a) if a.startswith("recipes/") else a for a in arguments]
            assert main([*arguments, "--dry_run"], ROOT / "recipes" / "r1_zero.yaml") == 0, words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_every_make_target_of_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {words[1] for page in PAGES for words in commands(page) if words[0] == "make"}
    assert named
    assert named <= targets
