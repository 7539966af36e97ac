"""python -m eval --model PATH --tasks arithmetic,countdown,gsm8k,math500 --samples 8"""

import sys

from eval.command import main

if __name__ == "__main__":
    sys.exit(main())
