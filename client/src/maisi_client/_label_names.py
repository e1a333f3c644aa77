"""Read the names of labels that other programs write into the header of a NIfTI mask."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping

from nibabel.spatialimages import SpatialImage

from ._anatomy import NAMES
from ._errors import printable

# TotalSegmentator's XML, which is that of Connectome Workbench (GIFTI's LabelTable); an ITK-SNAP
# label description: id, red, green, blue, alpha, two flags, "name"; 3D Slicer's segment metadata.
_XML = re.compile(
    r"<Label\b[^<>]{0,200}?\bKey=[\"'](\d{1,5})[\"'][^<>]{0,200}>([^<]{0,200})</Label>"
)
_CDATA = re.compile(r"<!\[CDATA\[([^<\]]{0,200})\]\]>")
_ITK_SNAP = re.compile(
    r"^[ \t]*(\d{1,5})(?:[ \t]+\d{1,3}){3}[ \t]+[\d.]{1,9}(?:[ \t]+\d){2}"
    r"[ \t]+\"([^\"\n]{0,200})\"",
    re.MULTILINE,
)
# A colour table of 3D Slicer or FreeSurfer: id, name, red, green, blue, alpha. JSON: "id": "name".
_COLOURS = re.compile(
    r"^[ \t]*(\d{1,5})[ \t]+([A-Za-z][^\n\"]{0,100}?)(?:[ \t]+\d{1,3}){4}[ \t\r]*$", re.MULTILINE
)
_JSON = re.compile(r"\"(\d{1,5})\"[ \t\r\n]{0,9}:[ \t\r\n]{0,9}\"([^\"\n]{1,200})\"")
_SLICER = re.compile(r"\bSegment(\d{1,5})_(LabelValue|Name):?=([^\n\x00]{0,200})")
# Names of structures in other programs, and MAISI's names for them.
_SYNONYMS = {"urinary bladder": "bladder"}


def label_names(image: SpatialImage) -> dict[int, str]:
    """Return the names of labels by id from the header of an image; empty if there are none."""
    names: dict[int, str] = {}
    for extension in getattr(image.header, "extensions", ()):
        # nibabel before 5.3 has no `content`; after it, `get_content` raises for some codes.
        bare = hasattr(extension, "content")
        content = extension.content if bare else extension.get_content()
        if isinstance(content, bytes):
            content = content.decode("utf-8", "replace")
        if isinstance(content, str):
            names |= dict(_pairs(content))
    return names


def label_id(name: str) -> int | None:
    """Return MAISI's id of a label by its name; the order of its words does not matter."""
    words = _words(name)
    return _IDS.get(_SYNONYMS_OF.get(words, words))


def _pairs(text: str) -> Iterator[tuple[int, str]]:
    lines = [*_ITK_SNAP.findall(text), *_COLOURS.findall(text), *_JSON.findall(text)]
    for key, name in _XML.findall(_CDATA.sub(r"\1", text)) + lines:
        yield int(key), printable(html.unescape(name.strip()))
    segments: dict[str, dict[str, str]] = {}
    for number, field, value in _SLICER.findall(text):
        segments.setdefault(number, {})[field] = value.strip()
    for segment in segments.values():
        if segment.keys() == {"LabelValue", "Name"} and segment["LabelValue"].isdecimal():
            yield int(segment["LabelValue"]), printable(segment["Name"])


def _words(name: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9]+", name.lower()))


_IDS: Mapping[frozenset[str], int] = {_words(name): id_ for id_, name in NAMES.items()}
_SYNONYMS_OF = {_words(synonym): _words(name) for synonym, name in _SYNONYMS.items()}
