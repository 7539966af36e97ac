"""Rewards by name: what loads, how it is called, and what is said about what is wrong."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from rewards.locate import SHIPPED
from rewards.registry import Reward, RewardError, load_reward, load_rewards, probe, score, total

GOOD = "<think>1 + 1 is 2</think><answer>2</answer>"
BATCH = (["1+1"] * 3, [GOOD, "<think>no</think><answer>3</answer>", "2"], {"answer": ["2"] * 3})


def write(folder, text, name="mine.py"):
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path


def test_shipped_reward_loads_by_name_and_scores():
    rewards = load_rewards(["accuracy", "format"], [1.0, 0.5])
    values = score(rewards, *BATCH)
    assert values == {"accuracy": [1.0, 0.0, values["accuracy"][2]], "format": [1.0, 1.0, 0.0]}
    assert total(rewards, values)[:2] == [1.5, 0.5]


def test_user_file_loads_and_gets_columns_as_keyword_lists(tmp_path):
    path = write(
        tmp_path,
        """
        def exact(prompts, completions, answer, level, **columns):
            return [float(l) if a in c else 0 for c, a, l in zip(completions, answer, level)]
        """,
    )
    reward = load_reward(f"{path}:exact", 2)
    assert (reward.name, reward.weight, reward.messages) == ("exact", 2.0, False)
    columns = {**BATCH[2], "level": [3, 3, 3]}
    assert score([reward], BATCH[0], BATCH[1], columns) == {"exact": [3.0, 0.0, 3.0]}


def test_trl_reward_runs_unchanged():
    pytest.importorskip("trl")
    reward = load_reward("trl.rewards.think_format_reward")
    assert reward.messages
    assert score([reward], *BATCH) == {"think_format_reward": [1.0, 1.0, 0.0]}


def test_trl_maker_of_rewards_takes_parameters_in_the_spec():
    pytest.importorskip("trl")
    reward = load_reward("trl.rewards.get_soft_overlong_punishment(max_completion_len=100, soft_punish_cache=20)")
    assert score([reward], ["p"], ["c"], {}, [[1] * 90]) == {"get_soft_overlong_punishment": [-0.5]}


def test_unannotated_conversational_reward_is_found_out_by_the_probe(tmp_path):
    # As open-r1's `format_reward` reads its samples.
    path = write(
        tmp_path,
        'def f(completions, **kwargs):\n    return [1.0 * len(c[0]["content"]) for c in completions]',
    )
    reward = load_reward(f"{path}:f")
    assert not reward.messages
    reward = probe(reward, ["q"], [GOOD], {"answer": ["2"]})
    assert reward.messages
    assert score([reward], ["q"], ["abc"], {}) == {"f": [3.0]}


def test_reward_without_keyword_rest_gets_only_what_it_takes(tmp_path):
    path = write(tmp_path, "def f(completions):\n    return [1.0 for _ in completions]")
    assert score([load_reward(f"{path}:f")], *BATCH) == {"f": [1.0] * 3}


def test_async_reward_is_awaited(tmp_path):
    path = write(tmp_path, "async def f(completions, **columns):\n    return [0.5 for _ in completions]")
    assert score([load_reward(f"{path}:f")], *BATCH) == {"f": [0.5] * 3}


def test_solution_column_of_trl_is_the_gold_answer_as_latex(tmp_path):
    path = write(tmp_path, "def f(completions, solution, **columns):\n    return [float(s == '$2$') for s in solution]")
    assert score([load_reward(f"{path}:f")], *BATCH) == {"f": [1.0] * 3}


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("acuracy", ["acuracy", "Did you mean 'accuracy'", "format", "path/to/file.py:function"]),
        ("", ["named by text"]),
        ("nowhere/mine.py:f", ["nowhere/mine.py", "does not exist"]),
        ("no_such_package.rewards.f", ["no_such_package", "ModuleNotFoundError"]),
        ("rewards.coin.tail", ["no function 'tail'", "coin"]),
        ("rewards.coin", ["rewards.coin", "function"]),
        ("coin(7)", ["literals with their names"]),
        ("coin(seed=open)", ["literals with their names"]),
        ("coin(sead=1)", ["no parameter 'sead'", "seed"]),
    ],
)
def test_bad_spec_says_what_is_wrong(spec, says):
    with pytest.raises(RewardError) as caught:
        load_reward(spec)
    for part in says:
        assert part in str(caught.value)


def test_missing_function_names_those_of_the_file(tmp_path):
    path = write(tmp_path, "def good(completions): ...\ndef _private(): ...")
    with pytest.raises(RewardError, match=r"no function 'bad'; its public functions are: good$"):
        load_reward(f"{path}:bad")


def test_file_that_does_not_import_says_why(tmp_path):
    path = write(tmp_path, "import no_such_module_at_all")
    with pytest.raises(RewardError, match="no_such_module_at_all"):
        load_reward(f"{path}:f")


@pytest.mark.parametrize("signature", ["a, b", "completion, answer", "completions, /", ""])
def test_wrong_signature_is_refused_at_load(tmp_path, signature):
    path = write(tmp_path, f"def f({signature}):\n    return []")
    with pytest.raises(RewardError, match=r"def f\(prompts, completions, \*\*columns\)"):
        load_reward(f"{path}:f")


def test_missing_column_is_named_with_those_that_exist(tmp_path):
    path = write(tmp_path, "def f(completions, target, **columns):\n    return []")
    with pytest.raises(RewardError, match=r"needs 'target'.*columns: answer"):
        score([load_reward(f"{path}:f")], *BATCH)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return [1.0]", "got 1 values for 3 samples"),
        ("return 1.0", "must return a list"),
        ("return None", "must return a list"),
        ("return 'abc'", "must return a list"),
        ("return [1.0, float('nan'), 1.0]", "got nan on sample 1.*no</think>"),
        ("return [1.0, 0.0, float('inf')]", "got inf on sample 2"),
        ("return ['1', 0, 0]", "got '1' on sample 0"),
        ("return [[1], 0, 0]", r"got \[1\] on sample 0"),
        (
            "return [1 / ('no' not in c) for c in completions]",
            "'f' raised ZeroDivisionError.*mine.py.*sample 1",
        ),
    ],
)
def test_bad_return_value_names_function_and_sample(tmp_path, body, says):
    path = write(tmp_path, f"def f(completions, **columns):\n    {body}")
    with pytest.raises(RewardError, match=says) as caught:
        score([load_reward(f"{path}:f")], *BATCH)
    assert "'f'" in str(caught.value)


def test_error_carries_reward_and_sample_and_an_excerpt_of_the_completion(tmp_path):
    path = write(tmp_path, "def f(completions, **columns):\n    return [float('nan') for _ in completions]")
    with pytest.raises(RewardError) as caught:
        score([load_reward(f"{path}:f")], ["p"], ["x" * 1000], {})
    assert (caught.value.reward, caught.value.sample) == ("f", 0)
    assert "x" * 200 in str(caught.value)
    assert "x" * 201 not in str(caught.value)


def test_probe_finds_a_constant_length_result_with_a_single_sample(tmp_path):
    path = write(tmp_path, "def f(completions, **columns):\n    return [1.0]")
    with pytest.raises(RewardError, match="got 1 values for 3 samples"):
        probe(load_reward(f"{path}:f"), ["q"], [GOOD], {"answer": ["2"]})


def test_probe_reports_the_fault_of_a_plain_reward_not_of_the_second_try(tmp_path):
    path = write(
        tmp_path,
        "def f(completions, **columns):\n"
        "    return [c['x'] if isinstance(c, list) else len(None) for c in completions]",
    )
    with pytest.raises(RewardError, match="NoneType"):
        probe(load_reward(f"{path}:f"), ["q"], [GOOD], {"answer": ["2"]})


def test_probe_reports_the_real_fault_of_a_conversational_reward(tmp_path):
    path = write(tmp_path, "def f(completions, **columns):\n    return [1 / 0 for c in completions if c[0]['content']]")
    with pytest.raises(RewardError, match="ZeroDivisionError"):
        probe(load_reward(f"{path}:f"), ["q"], [GOOD], {"answer": ["2"]})


def test_none_does_not_count_in_the_total():
    rewards = (Reward("a", len), Reward("b", len, 0.5))
    assert total(rewards, {"a": [None, 1.0], "b": [1.0, None]}) == [0.5, 1.0]


def test_sample_without_any_applicable_reward_is_an_error_that_names_it():
    rewards = (Reward("a", len), Reward("b", len))
    with pytest.raises(RewardError, match=r"\(a, b\) returned None for sample 1"):
        total(rewards, {"a": [1.0, None], "b": [1.0, None]})


def test_number_of_weights_must_be_the_number_of_rewards():
    with pytest.raises(RewardError, match=r"2 rewards \(accuracy, format\) and 1 weights \(1\.0\)"):
        load_rewards(["accuracy", "format"], [1.0])
    with pytest.raises(RewardError, match="finite number"):
        load_rewards(["accuracy"], [float("nan")])


def test_the_same_reward_twice_is_refused_and_two_files_may_share_a_function_name(tmp_path):
    with pytest.raises(RewardError, match="'coin' is named twice"):
        load_rewards(["coin", "coin"])
    paths = [write(tmp_path, "def f(completions): ...", name) for name in ("a.py", "b.py")]
    rewards = load_rewards([f"{path}:f" for path in paths])
    assert [reward.name for reward in rewards] == [f"{path}:f" for path in paths]
    assert rewards[0].function is not rewards[1].function


def test_columns_of_another_length_are_refused():
    with pytest.raises(RewardError, match="got 3 and 2 values"):
        score(load_rewards(["coin"]), BATCH[0], BATCH[1], {"answer": ["2", "2"]})


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_every_shipped_name_loads(name):
    assert load_reward(name).name == name


def test_registry_imports_nothing_heavy():
    program = (
        "import sys, rewards.registry, rewards.accuracy\n"
        "print([name for name in ('torch', 'numpy', 'sympy', 'trl') if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
