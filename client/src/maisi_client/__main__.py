"""`python -m maisi_client` is the command `maisi`."""

from __future__ import annotations

import sys

from ._cli.entry import main

sys.exit(main())
