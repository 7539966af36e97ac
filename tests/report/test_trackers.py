from __future__ import annotations

import importlib.util

import pytest
from accelerate.utils import LoggerType

from rlzero.report.trackers import _INSTALL, tracker_names


def is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def test_none_is_no_tracker():
    assert tracker_names("none") == tracker_names([]) == tracker_names("") == []


def test_auto_is_tensorboard_where_that_is_installed():
    assert tracker_names("auto") == (["tensorboard"] if is_installed("tensorboard") else [])


def test_unknown_tracker_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'tensorbord' does not.*tensorboard, wandb"):
        tracker_names(["tensorbord"])


def test_tracker_that_is_not_installed_is_refused_with_the_way_to_install_it():
    absent = next((name for name in _INSTALL if not is_installed(name)), None)
    if absent is None:
        pytest.skip("every tracker is installed here")
    with pytest.raises(ValueError, match=r"not installed.*pip install"):
        tracker_names(absent)


def test_names_are_split_at_commas_and_given_once():
    if not is_installed("tensorboard"):
        pytest.skip("needs tensorboard")
    assert tracker_names("tensorboard, tensorboard") == ["tensorboard"]


def test_accelerate_knows_every_tracker_offered():
    assert set(_INSTALL) <= {logger.value for logger in LoggerType}
