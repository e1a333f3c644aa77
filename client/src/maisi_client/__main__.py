"""`python -m maisi_client` is the command `maisi`."""

import sys

from ._cli.entry import main

sys.exit(main())
