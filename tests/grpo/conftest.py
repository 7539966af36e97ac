from __future__ import annotations

import pytest

import rlzero.grpo.run as run_module


@pytest.fixture(scope="module")
def no_pictures():
    """They take as long as the steps, and are drawn from the record anyway."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run_module, "plot_curves", lambda *_: None)
        yield
