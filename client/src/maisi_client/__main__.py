"""`python -m maisi_client` is the command `maisi`."""

import sys

from ._cli import main

sys.exit(main())
