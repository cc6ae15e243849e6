"""Options of training that are about attention: whom a token attends to, and what is taken from a teacher's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # recipes make these to check themselves, and must not wait for torch
    from torch import Tensor

    from supernet.training.attention_modes import SubsampledAttention

__all__ = ["Attended", "AttentionRelation", "Pathways"]

Attended = tuple["Tensor", "Tensor", "Tensor"]
"""Queries, keys and values (n, heads, tokens, channels of a head) of the last attention of a network."""


@dataclass(frozen=True)
class Pathways:
    """Attention within random groups of tokens, with a dense finish (Information Pathways, Hussain et al. 2023).

    In every layer and step the tokens of an image come into a random order, which is cut into `groups` of equal length
    (up to one); each group is attended to by one run of as many tokens, in the order of the image ("unbiased": any two
    may meet, and the mean over many draws is dense attention where all weights are alike). With a `window` tokens are
    shuffled among so many neighbours only, in windows that move at random, and a group attends to itself, so that near
    tokens meet more often ("locally biased"). Either way a token attends to one of `groups`, and attention costs one of
    `groups` as much. Tokens for the whole image attend to all and are attended to by all. What learns nothing (a frozen
    teacher, a validation) is dense, and so is attention with a mask.

    Attributes:
        groups: of tokens; 1 is dense.
        window: tokens of a window; None: unbiased.
        dense: share of the steps of a phase that are dense, at its end.
        prefix: tokens for the whole image, which come first: class and distillation token, registers.
    """

    groups: int = 2
    window: int | None = None
    dense: float = 0.2
    prefix: int = 1

    def __post_init__(self) -> None:
        if self.groups < 1:
            raise ValueError(f"tokens cannot be in {self.groups} groups; the least is 1, which is dense")
        if self.window is not None and self.window < 2:
            raise ValueError(f"a window of {self.window} tokens leaves nothing to shuffle; the least is 2")
        if not 0 <= self.dense < 1:
            raise ValueError(f"dense {self.dense:g} is a share of the steps, from 0 to below 1")
        if self.prefix < 0:
            raise ValueError(f"prefix {self.prefix} is a number of tokens; the least is 0")

    def at(self, progress: float) -> SubsampledAttention | None:
        """A context in which attention is subsampled, when the share `progress` of the phase is done; None: dense."""
        if self.groups == 1 or progress >= 1 - self.dense:
            return None
        from supernet.training.attention_modes import SubsampledAttention

        return SubsampledAttention(self)


@dataclass(frozen=True)
class AttentionRelation:
    """The teacher's relations among tokens in its last attention (AutoDistil, Xu et al. 2022), for transformers.

    For queries, keys and values each: the channels of all heads are divided anew into `heads`, so that networks of any
    number of heads can be compared; tokens by tokens, scaled by the square root of the channels, are the relations, and
    their mean square difference to the teacher's is the loss. The published training knows nothing else; here it comes
    on top of what a phase has.

    Attributes:
        heads: relations per image; must divide the channels of every sub-network's attention.
        weight: of the sum of the three.
    """

    heads: int = 1
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.heads < 1:
            raise ValueError(f"{self.heads} relation heads; the least is 1")
        if not self.weight > 0:
            raise ValueError(f"weight {self.weight:g} of the relations is not above 0; leave them out")

    def __call__(self, student: Attended, teacher: Attended) -> Tensor:
        """The loss, a scalar, of what student and teacher attend with on the same images.

        Raises:
            ValueError: `heads` do not divide the channels, or the two have other numbers of tokens.
        """
        from torch.nn import functional as F

        losses = [
            F.mse_loss(self.relations(s), self.relations(t.detach())) for s, t in zip(student, teacher, strict=True)
        ]
        return self.weight * (losses[0] + losses[1] + losses[2])

    def relations(self, x: Tensor) -> Tensor:
        """(n, heads, tokens, tokens) of queries, keys or values (n, own heads, tokens, channels of a head)."""
        n, own, tokens, size = x.shape
        x = x if x.element_size() >= 4 else x.float()  # differences of large numbers
        channels = own * size
        if channels % self.heads:
            raise ValueError(
                f"{self.heads} relation heads do not divide the {channels} channels of a sub-network's attention; take "
                "a divisor"
            )
        x = x.transpose(1, 2).reshape(n, tokens, self.heads, channels // self.heads).transpose(1, 2)
        return x @ x.transpose(-2, -1) / (channels // self.heads) ** 0.5
