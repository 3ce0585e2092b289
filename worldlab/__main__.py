"""`python -m worldlab` is the command `worldlab`."""

import sys

from worldlab.cli import main

if __name__ == "__main__":
    sys.exit(main())
