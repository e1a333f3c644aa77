"""Configure Sphinx; `scripts/write docs` builds the site in build/site, which works offline."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent

project = "MAISI on Triton"
project_copyright = "its authors, Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = project
html_show_sphinx = False
exclude_patterns = ["conf.py"]
myst_heading_anchors = 4
suppress_warnings = ["ref.python"]  # two modules have a class `Client`
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}
maximum_signature_line_length = 90
python_use_unqualified_type_names = True

# Pages of the repository outside docs/, and the pages of the site that have their text.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "reference/changes.md",
    "CONTRIBUTING.md": "reference/contributing.md",
    "MODEL_CARD.md": "reference/model-card.md",
}
_LINK = re.compile(r"(!?)\[([^]]*)\]\((?!https?:|#)([^)]*)\)")


def _links(folder: Path, text: str) -> str:
    """Return the text of a page in `folder` with links to pages of the site.

    A link to a file that is not on the site is replaced by its text.
    """

    def rewrite(link: re.Match[str]) -> str:
        image, text, target = link.groups()
        name, mark, anchor = target.partition("#")
        path = str((folder / name).resolve().relative_to(ROOT))
        page = path.removeprefix("docs/") if path.startswith("docs/") else PAGES.get(path)
        return f"{image}[{text}](/{page}{mark}{anchor})" if page else text

    return _LINK.sub(rewrite, text)


def _page(app: Any, name: str, source: list[str]) -> None:
    source[0] = _links(Path(app.env.doc2path(name)).parent, source[0])


def _included_page(app: Any, path: Path, parent: str, source: list[str]) -> None:
    source[0] = _links(Path(app.srcdir, path).resolve().parent, source[0])


def _without_keywords(
    app: Any, kind: str, name: str, value: Any, options: Any, lines: list[str]
) -> None:
    """Replace the keywords in a docstring, because `Arguments` and `MaskArguments` explain them."""
    if kind == "method" and "Keyword Args:" in lines:
        lines[lines.index("Keyword Args:") :] = ["`Arguments` explains the keywords."]


def setup(app: Any) -> None:
    """Connect the functions of this file to the events of Sphinx."""
    app.connect("source-read", _page)
    app.connect("include-read", _included_page)
    app.connect("autodoc-process-docstring", _without_keywords, priority=400)
