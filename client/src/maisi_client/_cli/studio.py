"""`maisi studio`."""

from __future__ import annotations

import argparse
import os
import sys
import threading
import webbrowser

from .._errors import MaisiError
from .options import EXIT_CODES, Commands, server_options


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "studio",
        parents=[server_options()],
        help="look at, paint, generate and compare scans in the browser",
        description="Serve a page for the browser of this machine until Ctrl-C. The command prints"
        " and opens a secret link to the page. Pictures are stored in a temporary folder until the"
        " end. Download what you want to keep.",
        epilog=EXIT_CODES,
    )
    add_argument = parser.add_argument
    add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address or name of this machine for the browser; with another address than"
        " %(default)s, the traffic is not encrypted and can be read [%(default)s]",
    )
    add_argument("--port", type=int, default=0, metavar="N", help="port of the page [a free one]")
    add_argument("--no-browser", action="store_true", help="print the link, and do not open it")
    parser.set_defaults(run=studio, json=False)


def studio(args: argparse.Namespace) -> None:
    """Serve the page until SIGINT, SIGTERM or SIGHUP."""
    from .._transport.tls import Tls

    try:
        from .._studio import serving
        from .._studio.backend import Target
    except ImportError as error:
        raise MaisiError(
            f"the page needs {error.name}, which is not installed: pip install"
            " 'maisi-client[studio]'"
        ) from None
    serving.check_page()
    target = Target(args.url, Tls.of(args.ca, args.certificate, args.key), args.timeout)

    def show(link: str, once: str) -> None:
        print(f"{link}\nCtrl-C ends the page and removes its pictures.", flush=True)
        if not args.no_browser and _has_screen():
            # Beside the page's server: some browsers return only when they are closed.
            threading.Thread(target=webbrowser.open, args=[once], daemon=True).start()

    serving.serve(target, args.host, args.port, show)


def _has_screen() -> bool:
    """Return whether a browser would have a window; one in the terminal would hide the link."""
    if sys.platform in ("darwin", "win32"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
