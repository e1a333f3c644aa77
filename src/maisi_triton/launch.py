"""Run the package of a command in another interpreter: `python launch.py TREE NAME ARGUMENTS`.

This is a script because `python -m` would search the current folder first.
"""

from __future__ import annotations

import importlib
import sys

if __name__ == "__main__":
    # Replace the first entry, which is this file's folder.
    sys.path[0], name = sys.argv[1:3]
    del sys.argv[1:3]
    sys.exit(importlib.import_module(f"{name}.__main__").main())
