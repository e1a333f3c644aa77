"""`maisi colours`."""

from __future__ import annotations

from .options import EXIT_CODES, Commands


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "colours",
        help="print the colours of the labels as a table for 3D Slicer",
        description="Print MAISI's labels and their colours in pictures and DICOM files, as a"
        " colour table of 3D Slicer: `maisi colours > maisi.ctbl`. See docs/how-to/dicom.md.",
        epilog=EXIT_CODES,
    )
    parser.set_defaults(run=lambda _: print(colour_table(), end=""), json=False)


def colour_table() -> str:
    """Return MAISI's labels as a file .ctbl: id, name, red, green, blue and opacity, 0 to 255.

    https://slicer.readthedocs.io/en/latest/developer_guide/modules/colors.html
    """
    from .._anatomy import NAMES
    from .._colours import rgb

    lines = ["# Color table file maisi.ctbl", f"# {len(NAMES) + 1} values", "0 background 0 0 0 0"]
    for id_, name in NAMES.items():
        red, green, blue = rgb(id_)
        lines.append(f"{id_} {name.replace(' ', '_')} {red} {green} {blue} 255")
    return "\n".join(lines) + "\n"
