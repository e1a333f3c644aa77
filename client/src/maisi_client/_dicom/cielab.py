"""Colours in the form of DICOM: CIELab in the ICC profile connection space (PS3.3 C.10.7.1.1)."""

from __future__ import annotations

import numpy as np

# The matrix from sRGB (IEC 61966-2-1) to XYZ, adapted to the white point D50 by Bradford's method:
# http://www.brucelindbloom.com/index.html?Eqn_RGB_XYZ_Matrix.html
_TO_XYZ = np.array(
    [
        [0.4360747, 0.3850649, 0.1430804],
        [0.2225045, 0.7168786, 0.0606169],
        [0.0139322, 0.0971045, 0.7141733],
    ]
)
_WHITE = _TO_XYZ.sum(axis=1)


def cielab(rgb: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return L*, a* and b* of an sRGB colour, 0 to 255, each scaled to 0 to 65535.

    The range corresponds to 0 to 100 for L*, and to -128 to 127 for a* and b*.
    """
    share = np.array(rgb) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    relative = _TO_XYZ @ linear / _WHITE
    # The function of CIE 15 has two branches, which meet at (6 / 29) ** 3.
    x, y, z = np.where(
        relative > (6 / 29) ** 3, np.cbrt(relative), relative * (29 / 6) ** 2 / 3 + 4 / 29
    )
    scaled = (116 * y - 16) / 100, (500 * (x - y) + 128) / 255, (200 * (y - z) + 128) / 255
    lightness, a, b = (round(65535 * float(np.clip(part, 0, 1))) for part in scaled)
    return lightness, a, b
