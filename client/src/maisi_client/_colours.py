"""The colours of labels, for every picture and page of this package."""

from __future__ import annotations

import colorsys

BACKGROUND = "#000000"
_COLOURS = {
    **{22: "#d98880", 227: "#f4ecdf", 228: "#f4ecdf"},  # grey and white matter
    **{131: "#2f6db3", 214: "#56c8f2", 215: "#56c8f2", 233: "#56c8f2", 234: "#56c8f2"},  # fluid
    **{223: "#b58ad0", 224: "#b58ad0", 225: "#e6d8f2", 226: "#e6d8f2", 220: "#e8a948"},  # hindbrain
    **{221: "#35b59c", 222: "#35b59c", 237: "#f0709a", 238: "#f0709a"},  # caudate, putamen
    **{235: "#8a7bf0", 236: "#8a7bf0", 239: "#6cc26a", 240: "#6cc26a"},  # pallidum, thalamus
    **{229: "#f5d547", 230: "#f5d547", 218: "#ff9d4d", 219: "#ff9d4d"},  # hippocampus, amygdala
    **{150: "#ff4d2e", 176: "#ff2d6f"},  # lesions
    **{120: "#77736a", 168: "#5d4a44", 157: "#8d7a4c", 156: "#5c3236"},  # skull, skin, fat, muscle
}


def colour(label: int) -> str:
    """Return the colour of a label id, 0 to 255, as `#rrggbb`; the background is black."""
    if label == 0:
        return BACKGROUND
    if label in _COLOURS:
        return _COLOURS[label]
    # Steps of the golden angle keep the hues of neighbouring ids apart.
    rgb = colorsys.hls_to_rgb(label * 0.618034 % 1, 0.62, 0.55)
    return "#" + bytes(round(255 * part) for part in rgb).hex()


def rgb(label: int) -> tuple[int, int, int]:
    """Return the colour of a label id, 0 to 255, as red, green and blue, 0 to 255."""
    red, green, blue = bytes.fromhex(colour(label)[1:])
    return red, green, blue
