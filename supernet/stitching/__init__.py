"""Stitching: pretrained networks of one family as one supernet, which begins with a small and goes on with a larger."""

from typing import TYPE_CHECKING

from supernet.lazy import lazy

if TYPE_CHECKING:
    from supernet.stitching.supernet import Route, StitchedSupernet, stitched

__getattr__, __dir__ = lazy(__name__, __file__)
