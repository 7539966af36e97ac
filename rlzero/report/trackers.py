"""Which of accelerate's experiment trackers a run logs to. Accelerate does the logging itself."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

# Accelerate's name of a tracker and how to install it; the module to look for has the same name.
_INSTALL = {
    "tensorboard": "pip install 'rlzero[tensorboard]'",
    "wandb": "pip install 'rlzero[wandb]'",
    "mlflow": "pip install mlflow",
    "trackio": "pip install trackio",
    "swanlab": "pip install swanlab",
    "comet_ml": "pip install comet_ml",
}


def tracker_names(report_to: str | Sequence[str] = "auto") -> list[str]:
    """The value for `Accelerator(log_with=...)`.

    report_to: tracker names, as a list or with commas; "none" for none; "auto" is tensorboard where that is
        installed. Raises ValueError for a tracker that does not exist or is not installed.
    """
    asked = report_to.split(",") if isinstance(report_to, str) else list(report_to)
    names = [name.strip() for name in asked if name.strip()]
    if names == ["auto"]:
        return ["tensorboard"] if _is_installed("tensorboard") else []
    if names == ["none"]:
        return []
    for name in names:
        if name not in _INSTALL:
            raise ValueError(
                f"report_to must name trackers that exist, and {name!r} does not. "
                f"Choose of {', '.join(_INSTALL)}, or 'auto' or 'none' alone."
            )
        if not _is_installed(name):
            raise ValueError(
                f"report_to asks for {name!r}, and that package is not installed. "
                f"Install it ({_INSTALL[name]}), or leave it out of report_to."
            )
    return list(dict.fromkeys(names))


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
