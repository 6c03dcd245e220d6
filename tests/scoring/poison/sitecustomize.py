"""Pillow with a decoder that some bytes are poison to; every Python started with this folder on its path has it.

A PNG with the text `poison: abort`, `overrun` or `hang` does to the process what a damaged file does to a faulty codec.
"""

import ctypes
import os
from typing import Any

from PIL import ImageFile, PngImagePlugin


def load(self: PngImagePlugin.PngImageFile) -> Any:
    """Decode, unless the file is poison."""
    poison = self.info.get("poison")
    if poison == "abort":
        os.abort()
    if poison == "overrun":
        ctypes.string_at(0)
    if poison == "hang":
        ctypes.PyDLL(None).sleep(3600)  # keeps the interpreter to itself
    return ImageFile.ImageFile.load(self)


PngImagePlugin.PngImageFile.load = load  # type: ignore[method-assign]
