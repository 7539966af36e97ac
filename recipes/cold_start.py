"""Cold start: fine-tune a base model on long, correct thoughts, so that RL starts from one that can think.

    python recipes/cold_start.py                                          # thoughts generated for the embedded task
    accelerate launch recipes/cold_start.py --thoughts my_thoughts.jsonl --template r1_zero --learning_rate 1e-5
    python recipes/cold_start.py --thoughts runs/r1_zero --from_step 40   # what Zero itself got right

Then: python recipes/r1_zero.py --model_name_or_path runs/cold_start/model
Every setting is listed by --help; a YAML file sets them by the same names and the command line wins.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rlzero.stages.sft import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], default_config=Path(__file__).with_name("cold_start.yaml")))
