"""Whether values still find their way through a network of which some operations are left out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

__all__ = ["Flow"]


@dataclass(frozen=True)
class Flow:
    """What every operation reads, in the order in which they are done.

    Attributes:
        sources: for every operation the earlier ones that it reads; -1 is the input.
        ends: the operations that make the outputs.
    """

    sources: Sequence[Sequence[int]]
    ends: Sequence[int]

    def connected(self, without: Collection[int]) -> bool:
        """Whether there is a path from the input to every output past the operations that are left out."""
        reached = [False] * len(self.sources)
        for number, sources in enumerate(self.sources):
            if number not in without:
                reached[number] = any(source < 0 or reached[source] for source in sources)
        return all(end < 0 or reached[end] for end in self.ends)
