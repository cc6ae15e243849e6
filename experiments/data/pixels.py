"""What a decoded image of any mode looks like as 8-bit grey or colour: upright, and with 16 bits brought to 8."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

__all__ = ["as_pixels"]

_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}


def as_pixels(image: Image.Image, mode: str, upright: bool) -> Image.Image:
    """The image in `mode`, "L" or "RGB".

    Grey values of 16 bits are divided by 257, so that the whole range is kept; Pillow alone would cut off all above
    255. What is transparent shows the colour that the file has there, as Pillow's own conversion does.

    Args:
        image: decoded, of any mode.
        mode: "L" or "RGB".
        upright: turn it as its EXIF orientation says.

    Raises:
        ValueError: its values have no known range, or no known colours.
    """
    if upright:
        image = ImageOps.exif_transpose(image)
    if image.mode == mode:
        return image
    if image.mode.startswith("I;16") or image.mode == "I":
        image = _eight_bits(image)
    elif image.mode == "F":
        raise ValueError("it has real numbers as values, of which nobody knows the range; save it with 8 or 16 bits")
    elif image.mode in _PREMULTIPLIED:
        image = image.convert(_PREMULTIPLIED[image.mode])
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # else Pillow warns of what is meant here
    elif image.mode == "PA":
        image = image.convert("RGBA")
    try:
        return image.convert(mode)
    except ValueError as error:
        raise ValueError(f"its colours ({image.mode}) cannot become {mode}: {error}; save it as RGB") from None


def _eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if image.mode == "I" and (values.min() < 0 or values.max() > 65535):
        raise ValueError("it has whole numbers of 32 bits as values; save it with 8 or 16 bits")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8), "L")
