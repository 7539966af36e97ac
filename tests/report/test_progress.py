from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

DEMO = """
from rlzero.report.progress import Progress
from rlzero.report.tables import show_header, show_samples, show_summary

sample = {"prompt": "1+1=?", "answer": "2", "completion": "[bold]two[/bold] \\x1b[2J", "correct": False}
figures = {"pass@1": 0.2, "pass@1_interval": [0.15, 0.25], "format": 0.7, "length": 11.0}
show_header("R1-Zero", {"model": "tiny", "parameters": 1_350_000})
with Progress(3) as progress:
    progress.evaluated({"step": 0, "pass@1": 0.2, "pass@1_interval": [0.15, 0.25], "format": 0.7})
    for step in (1, 2, 3):
        progress.phase("generate")
        progress.update({"step": step, "reward": 0.5 * step, "accuracy": 0.25 * step, "format": None,
                         "completion_length": 10.0 + step, "entropy": float("nan"), "grad_norm": 0.4,
                         "logprob_diff": 1e-6, "tokens": 3000, "truncated": 0.5,
                         "reward/mine": 0.125, "reward/format": 0.5,
                         "time_generate": 0.6, "time_reward": 0.0, "time_train": 0.3, "time_sync": 0.1})
    progress.message("checkpoint [at] step 3")
    progress.evaluated({"step": 3, "pass@1": 0.9, "pass@1_interval": [0.85, 0.95], "format": 1.0})
show_samples([sample], [{**sample, "completion": "2", "correct": True}])
show_summary({"base": figures, "trained": {**figures, "pass@1": 0.9}, "wall_seconds": 65}, path="runs/x")
"""


def run_in_terminal(columns: int, **environment: str) -> str:
    """What the demo writes to a real (pseudo) terminal of that width."""
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    clean = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-c", DEMO],
        stdout=side,
        stderr=subprocess.PIPE,
        env={**clean, "TERM": "xterm-256color", **environment},
    )
    os.close(side)
    output = b""
    try:
        while chunk := os.read(main, 65536):
            output += chunk
    except OSError:  # Linux reports the closed far end of a terminal as an error
        pass
    os.close(main)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors.decode()
    return output.decode()


def without_escapes(text: str) -> list[str]:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).replace("\r", "\n").split("\n")


@pytest.mark.parametrize("columns", [80, 200])
def test_live_display_in_a_real_terminal_fits_its_width_and_shows_the_figures(columns):
    output = run_in_terminal(columns)
    lines = without_escapes(output)
    assert "\x1b[" in output
    assert max(len(line) for line in lines) <= columns
    text = "\n".join(lines)
    assert "step 3/3" in text
    assert "held-out pass@1 0.900 [0.850, 0.950]" in text
    assert "base 0.200" in text
    assert "checkpoint [at] step 3" in text
    assert re.search(r"accuracy +0.750 +▃▆█", text)
    assert "generate 60%" in text
    assert "reward/mine 0.125" in text
    assert "reward/format" not in text
    assert "raise max_completion_length" in text


def test_model_text_can_neither_style_nor_steer_the_terminal():
    output = run_in_terminal(80)
    assert "[bold]two[/bold] ␛[2J" in "\n".join(without_escapes(output))
    assert "\x1b[2J" not in output


def test_without_a_terminal_there_is_one_plain_line_per_step_and_no_control_character():
    # FORCE_COLOR is set by several CI services and must not bring escapes into the log.
    environment = {**os.environ, "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    done = subprocess.run([sys.executable, "-c", DEMO], capture_output=True, text=True, check=True, env=environment)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", done.stdout)
    steps = [line for line in done.stdout.split("\n") if line.startswith("step ")]
    assert len(steps) == 5
    assert steps[0] == "step 0/3  held-out pass@1 0.200 [0.150, 0.250]  format 0.700"
    assert steps[1].startswith("step 1/3  reward 0.500  accuracy 0.250  format –  length 11.0  reward/mine 0.125")
    assert "entropy –  grad norm 0.400  Δlogp 1.0e-06  tok/s 3k  cut off 50%" in steps[1]
    assert "1.00 s (generate 60% reward 0% train 30% sync 10%)" in steps[1]


def test_dumb_terminal_gets_plain_lines():
    output = run_in_terminal(80, TERM="dumb")
    assert "\x1b" not in output
    assert "step 1/3  reward 0.500" in output
