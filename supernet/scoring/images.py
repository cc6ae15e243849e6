"""The one place where the resolution of a batch of images changes."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

__all__ = ["resize"]


def resize(images: Tensor, resolution: int) -> Tensor:
    """Images (n, channels, resolution, resolution) from images (n, channels, height, width).

    Bilinear with antialiasing, so that a smaller image is an average of the larger one and not a subset of its pixels.
    Images that have the resolution already are returned as they are.
    """
    if images.shape[-2:] == (resolution, resolution):
        return images
    return F.interpolate(images, size=(resolution, resolution), mode="bilinear", antialias=True)
