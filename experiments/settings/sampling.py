"""The parts of `[training]` that every method has: what is sampled, and what is learned from the teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, Self, cast

from pydantic import model_validator

from experiments.settings.values import Section, default
from supernet.space import SearchSpace, Stage
from supernet.space.nested import NestedFamily
from supernet.training.adaptive import Attentive, Shift
from supernet.training.attention import AttentionRelation, Pathways
from supernet.training.draws import CountsMacs, Draw, Evenly, MacBins, Nested, check_level_weights
from supernet.training.imitation import AlphaDivergence, Imitation, MeanSquare, SoftLabels
from supernet.training.phases import Phase, Schedule, with_draw
from supernet.training.samplers import AdaptiveSampler, Sandwich, Uniform

__all__ = [
    "ANY",
    "AttentiveSettings",
    "ImitationSettings",
    "PathwaysSettings",
    "RelationSettings",
    "SamplingSettings",
    "ShiftSettings",
]

ANY = SearchSpace((32,), (Stage.uniform((1, 2), kernel=(3, 5), expand=(3, 4), width=(8, 16)),))
"""A small space that has everything that can be chosen, on which a section tries itself out."""


class AttentiveSettings(Section):
    """Of several candidates of one MAC bin the best or the worst is trained (AttentiveNAS)."""

    candidates: int = Attentive.candidates
    """Candidates for every random place of a step; each costs a forward pass."""
    train: Literal["best", "worst"] = Attentive.train
    """Which of them is trained: the one of the lowest or the highest loss."""


class ShiftSettings(Section):
    """MAC bins that are behind the largest network are trained more often (ShiftNAS, without its generator)."""

    temperature: float = Shift.temperature
    """Of the softmax over the bins, in units of the loss."""
    even_share: float = Shift.even_share
    """Share of the steps that is spread evenly over the bins."""
    every: int = Shift.every
    """Steps between two updates."""
    wait: int = Shift.wait
    """Steps of the phase before the first update."""


class SamplingSettings(Section):
    """How the random sub-networks of a step are drawn, with any method."""

    draw: Literal["genes", "architectures", "mac_bins", "nested"] = "genes"
    """Every choice alike, every architecture alike, by bins of the MAC range, or members of a nested family."""
    n_bins: int = default(MacBins, "n_bins")
    """MAC bins, of equal width; for draw = 'mac_bins'."""
    prior: Literal["even", "natural"] = default(MacBins, "prior")
    """Probability of the bins: all alike, or as among uniform choices; for draw = 'mac_bins'."""
    attentive: AttentiveSettings | None = None
    """Choose among candidates by their loss; for draw = 'mac_bins'."""
    shift: ShiftSettings | None = None
    """Shift the probabilities of the bins by their losses; for draw = 'mac_bins'."""
    levels: int = 9
    """Members of the nested family, from the smallest to the largest; for draw = 'nested'."""
    level_weights: tuple[float, ...] = Nested.weights
    """Probabilities of the levels, up to a factor; [] is all alike; for draw = 'nested'."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = self.model_fields_set
        if self.attentive is not None and self.shift is not None:
            raise ValueError("attentive and shift both decide what is trained; remove one")
        own = {"mac_bins": {"n_bins", "prior"}, "nested": {"levels", "level_weights"}}
        for draw, names in own.items():
            if draw != self.draw and (foreign := sorted(names & given)):
                raise ValueError(f"{foreign[0]} has no meaning for draw {self.draw!r}; remove it, or set {draw!r}")
        check_level_weights(self.level_weights, self.levels)
        self.apply([Phase("any", ANY, Schedule(1, 1.0), Uniform())], ANY)
        return self

    def apply(
        self, phases: Sequence[Phase], space: SearchSpace, supernet: CountsMacs | None = None
    ) -> tuple[Phase, ...]:
        """The phases with their random sub-networks drawn so; MACs are counted by the supernet. Without one, only for a
        look at what goes together.

        Raises:
            ValueError: something does not go together, or does not fit the space.
        """
        return with_draw(phases, self._draw(space, supernet), self._adapt())

    def _draw(self, space: SearchSpace, supernet: CountsMacs | None) -> Draw | None:
        if self.draw == "mac_bins":
            return MacBins(cast(CountsMacs, supernet), self.n_bins, self.prior)
        if self.draw == "nested":
            if supernet is None:  # the space may be too small for many levels
                return Nested(NestedFamily.between(space, 2))
            return Nested(NestedFamily.between(space, self.levels), self.level_weights)
        return Evenly("architectures") if self.draw == "architectures" else None

    def _adapt(self) -> Callable[[Uniform | Sandwich], AdaptiveSampler] | None:
        if self.attentive is not None:
            return partial(Attentive, **self.attentive.model_dump())
        return None if self.shift is None else partial(Shift, **self.shift.model_dump())


class ImitationSettings(Section):
    """What a sub-network takes from its teacher."""

    kind: Literal["soft_labels", "mean_square", "alpha_divergence"] = "soft_labels"
    """The teacher's probabilities, its logits, or the larger of two α-divergences (AlphaNet)."""
    alphas: tuple[float, float] = AlphaDivergence.alphas
    """The two α; for kind = 'alpha_divergence'."""
    clamp: float = AlphaDivergence.clamp
    """Limit of the importance ratios; for kind = 'alpha_divergence'."""
    weight: float = AlphaDivergence.weight
    """Factor of the divergence; for kind = 'alpha_divergence'."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        own = {"alphas", "clamp", "weight"}
        if self.kind != "alpha_divergence" and (foreign := sorted(own & self.model_fields_set)):
            raise ValueError(f"{foreign[0]} has no meaning for kind {self.kind!r}; remove it")
        _ = self.imitation
        return self

    @property
    def imitation(self) -> Imitation:
        """What it names."""
        if self.kind == "alpha_divergence":
            return AlphaDivergence(self.alphas, self.clamp, self.weight)
        return MeanSquare() if self.kind == "mean_square" else SoftLabels()


class RelationSettings(Section):
    """The teacher's relations among tokens in its last attention, on top of what is imitated (AutoDistil)."""

    heads: int = AttentionRelation.heads
    """Relations per image; must divide the channels of every sub-network's attention."""
    weight: float = AttentionRelation.weight
    """Of the mean square differences of the relations of queries, keys and values."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        _ = self.relation
        return self

    @property
    def relation(self) -> AttentionRelation:
        """The loss itself."""
        return AttentionRelation(**self.model_dump())


class PathwaysSettings(Section):
    """Attention within random groups of tokens while training (subsampled attention, Information Pathways)."""

    groups: int = Pathways.groups
    """Into which the tokens are divided, anew in every layer and step; 1 is dense."""
    window: int | None = Pathways.window
    """Tokens are shuffled among so many neighbours only; default none, among all."""
    dense: float = Pathways.dense
    """Share of the steps of the last phase that are dense, at its end."""
    prefix: int = Pathways.prefix
    """Tokens for the whole image, which attend to all: class token, distillation token, registers."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        _ = self.pathways
        return self

    @property
    def pathways(self) -> Pathways:
        """The option itself."""
        return Pathways(**self.model_dump())
