"""R1-Zero: pure reinforcement learning on a base model, with rewards by rule.

    python recipes/r1_zero.py                                                      # the embedded task, on this CPU
    accelerate launch recipes/r1_zero.py --config recipes/qwen2.5-1.5b.yaml        # a real base model, on GPUs
    accelerate launch recipes/r1_zero.py --reward_funcs accuracy my_reward.py:brief --reward_weights 1 0.1
    python recipes/r1_zero.py --output_dir runs/r1_zero --resume                   # go on after Ctrl-C

Every setting is listed by --help; a YAML file sets them by the same names and the command line wins.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rlzero.grpo.run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], default_config=Path(__file__).with_name("r1_zero.yaml")))
