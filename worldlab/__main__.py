"""`python -m worldlab` is the command `worldlab`.

Python puts the working folder first on the path of imports. The command does not: a folder that somebody else made, such
as that of a run, must not bring modules.
"""

import os
import sys

if not sys.flags.safe_path and sys.path and sys.path[0] == os.getcwd():
    del sys.path[0]

from worldlab.cli import main

if __name__ == "__main__":
    sys.exit(main())
