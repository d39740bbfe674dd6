"""Colour profiles (ICC, version 2) made of what the standards publish; none was copied from a file.

`seen` says what a profile means, reckoned here with numpy and in no library that the product uses.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import numpy as np

# Primaries in XYZ, adapted to D50, one column each for red, green and blue.
SRGB = np.array(
    [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
)
DISPLAY_P3 = np.array(
    [[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]]
)
ADOBE_RGB = np.array(
    [[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]]
)
D50 = (0.9642, 1.0, 0.8249)
ADOBE_GAMMA = 563 / 256
# What each ink leaves of red, green and blue light, as numbers of sRGB; a press is not like these.
INKS = np.array([[0.0, 0.6, 0.85], [0.85, 0.1, 0.5], [1.0, 0.9, 0.1], [0.15, 0.15, 0.15]])
Curve = Callable[[Any], Any]


def from_srgb(numbers: Any) -> Any:
    return np.where(numbers <= 0.04045, numbers / 12.92, ((numbers + 0.055) / 1.055) ** 2.4)


def to_srgb(light: Any) -> Any:
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def gamma(power: float) -> Curve:
    return lambda numbers: numbers**power


def rgb_profile(primaries: Any, curve: Curve) -> bytes:
    tags = {f"{name}XYZ": _xyz(primaries[:, n]) for n, name in enumerate("rgb")}
    tags |= {f"{name}TRC": _curve(curve) for name in "rgb"}
    return _profile("RGB ", "XYZ ", "mntr", tags)


def grey_profile(curve: Curve) -> bytes:
    return _profile("GRAY", "XYZ ", "mntr", {"kTRC": _curve(curve)})


def cmyk_profile() -> bytes:
    """A table with a point for each of the 16 ways to print an ink or not."""
    table = b"".join(
        _lab(np.prod(INKS[np.array(inks, bool)], axis=0)) for inks in product((0, 1), repeat=4)
    )
    straight = bytes(range(256))
    head = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0))
    head += struct.pack(">9i", *(65536 if n % 4 == 0 else 0 for n in range(9)))
    lut = head + straight * 4 + table + straight * 3
    return _profile("CMYK", "Lab ", "prtr", {"A2B0": lut, "A2B1": lut})


def seen_of_rgb(numbers: Any, primaries: Any, curve: Curve) -> Any:
    """Levels of sRGB that look as these levels of a space do."""
    light = curve(np.asarray(numbers) / 255) @ primaries.T @ np.linalg.inv(SRGB).T
    return to_srgb(light) * 255


def seen_of_grey(level: int, curve: Curve) -> Any:
    return to_srgb(curve(np.array(level / 255))) * 255


def seen_of_inks(inks: tuple[int, ...]) -> Any:
    return np.prod(INKS[np.array(inks, bool)], axis=0) * 255


def _lab(srgb: Any) -> bytes:
    x = (SRGB @ from_srgb(srgb)) / np.array(D50)
    f = np.where(x > 216 / 24389, np.cbrt(x), (24389 / 27 * x + 16) / 116)
    lab = 116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])
    return bytes((round(lab[0] * 2.55), round(lab[1] + 128), round(lab[2] + 128)))


def _curve(curve: Curve) -> bytes:
    levels: Any = np.round(curve(np.linspace(0, 1, 1024)) * 65535).astype(">u2")
    return b"curv\0\0\0\0" + struct.pack(">I", len(levels)) + bytes(levels.tobytes())


def _xyz(numbers: Any) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(float(each) * 65536) for each in numbers))


def _profile(space: str, connection: str, device: str, tags: Mapping[str, bytes]) -> bytes:
    name = b"made for a test\0"
    tags = {
        "desc": b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + bytes(78),
        "cprt": b"text\0\0\0\0none\0",
        "wtpt": _xyz(D50),
        **tags,
    }
    table, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for tag, body in tags.items():
        table += tag.encode() + struct.pack(">II", start + len(data), len(body))
        data += body + bytes(-len(body) % 4)
    head = struct.pack(">I4sI4s4s4s12x4s", start + len(data), b"none", 0x02400000,
                       device.encode(), space.encode(), connection.encode(), b"acsp")  # fmt: skip
    head = head.ljust(68, b"\0") + struct.pack(">3i", *(round(each * 65536) for each in D50))
    return head.ljust(128, b"\0") + table + data
