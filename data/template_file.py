"""The template that a model was trained with, beside its weights: an evaluation then asks as training did."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from data.templates import Template

FILE = "prompt_template.json"


def save_template(template: Template, folder: str | Path) -> None:
    """Write the template into a model's folder."""
    text = json.dumps(asdict(template), indent=2, ensure_ascii=False) + "\n"
    (Path(folder) / FILE).write_text(text, encoding="utf-8")


def saved_template(folder: str | Path) -> Template | None:
    """The template in a model's folder; None where there is none. Raises ValueError for a broken file."""
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    try:
        return Template(**json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{path} does not describe a template: {error}. Remove the file, or name a template yourself."
        ) from error
