"""Write elements of SVG pictures, whose colours follow the reader's setting, light or dark."""

from __future__ import annotations

from collections.abc import Iterable
from xml.sax.saxutils import escape

# The background is opaque, so that a picture is legible on a page whose colours do not follow the
# reader's setting.
_STYLE = """\
text{font:14px system-ui,"DejaVu Sans",sans-serif;fill:#1f2328}
.small{font-size:12px}.strong{font-weight:600}.on{fill:#fff}
.end{text-anchor:end}.middle{text-anchor:middle}
.page{fill:#fff}.group{fill:#f3f5f7;stroke:#9aa4af}.box{fill:#dcebfa;stroke:#4a7fb5}
.line{fill:none;stroke:#4d5761;stroke-width:1.5}.dashed{stroke-dasharray:5 4}
.head{fill:#4d5761}.grid{stroke:#d5dae0}
.halo{stroke:#fff;stroke-width:4;paint-order:stroke}.frame{fill:none;stroke:#9aa4af}
.a{fill:#2f6fab}.b{fill:#d9822b}.c{fill:#5b8c3e}.d{fill:#8a5fb0}
@media (prefers-color-scheme:dark){
text{fill:#e6edf3}.page{fill:#14181d}.group{fill:#1d232a;stroke:#5c6672}
.box{fill:#1c3a58;stroke:#5b96d0}.line{stroke:#aab4be}.head{fill:#aab4be}.grid{stroke:#333b44}
.halo{stroke:#14181d}.frame{stroke:#5c6672}
}
"""
_LINE_HEIGHT = 18


def document(width: float, height: float, title: str, elements: Iterable[str]) -> str:
    """Return a picture with `elements`; `title` is for screen readers."""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}"'
        f' width="{width:g}" height="{height:g}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style>",
        '<marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8"'
        ' markerHeight="8" orient="auto"><path class="head" d="M0 0 10 5 0 10z"/></marker>',
        rectangle(0, 0, width, height, "page", 0),
        *elements,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def rectangle(x: float, y: float, width: float, height: float, kind: str, radius: float = 6) -> str:
    """Return a rectangle of the class `kind`, with corners of a radius in pixels."""
    return (
        f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
        f' rx="{radius:g}"/>'
    )


def text(x: float, y: float, words: str, kind: str = "") -> str:
    """Return a line of text whose baseline is at `y`."""
    attribute = f' class="{kind}"' if kind else ""
    return f'<text{attribute} x="{x:g}" y="{y:g}">{escape(words)}</text>'


def line(points: Iterable[tuple[float, float]], kind: str = "line", arrow: bool = False) -> str:
    """Return a line through `points`, with an arrowhead at the last point if `arrow`."""
    path = " ".join(f"{x:g},{y:g}" for x, y in points)
    head = ' marker-end="url(#head)"' if arrow else ""
    return f'<polyline class="{kind}" points="{path}"{head}/>'


def box(x: float, y: float, width: float, height: float, *lines: str) -> str:
    """Return a box with centred lines of text; the first line is bold."""
    first = y + height / 2 - _LINE_HEIGHT * (len(lines) - 1) / 2 + 5
    rows = [
        text(
            x + width / 2,
            first + _LINE_HEIGHT * number,
            words,
            "small middle" if number else "strong middle",
        )
        for number, words in enumerate(lines)
    ]
    return "\n".join([rectangle(x, y, width, height, "box"), *rows])
