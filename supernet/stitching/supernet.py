"""The supernet of stitched networks: which anchor a sub-network begins with, and where it goes on with the next."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from supernet.architecture import Architecture
from supernet.networks.from_timm import create_model
from supernet.scoring.evaluating import evaluating
from supernet.scoring.images import resize
from supernet.space import SearchSpace, Stage
from supernet.space.roles import Role
from supernet.stitching.anchors import Anchor, places

__all__ = ["Route", "StitchedSupernet", "stitched"]

_RTOL = 1e-12  # of eigenvalues, which are squares: what float32 activations cannot tell from nothing


@dataclass(frozen=True)
class Route:
    """What a sub-network runs: the first `n` blocks of `anchor`, then the next anchor without its first `skipped`
    blocks; None: `anchor` alone."""

    anchor: int
    n: int
    skipped: int | None = None


class StitchedSupernet(nn.Module):
    """Networks of one family, and what begins as one and goes on as the next larger one (SN-Net, Pan et al. 2023).

    Between the two a *stitch* maps channels to channels: a linear layer for tokens, a 1x1 convolution for maps. There
    is one after every block of a smaller network behind which the larger one can go on, shared by the places where it
    does. Only neighbours are stitched, and only the small to the large. The large one's head is used.

    The one gene is `stitch`, an index into `routes`. The smallest architecture is the first network itself, the largest
    the last one. What is extracted is a plain `nn.Sequential`.

    Args:
        models: two or more timm models, all ResNets or all VisionTransformers, with as many classes and channels. They
            are copied, and stay as they are.
        resolutions: sides of the images that can be chosen; default the one the first model is made for.
        overlap: how many blocks that correspond to what is done already the larger network may run nevertheless. 2
            gives the published space of transformers (of 71, for DeiT-Ti, -S and -B).

    Attributes:
        routes: what can be run, in the order of the gene.
        definition: what `supernet.registry.open_supernet` makes it again from; None for models given as modules.

    Raises:
        ValueError: models that cannot be stitched.
    """

    roles: Mapping[str, Role] = {"stitch": "depth"}

    def __init__(self, models: Sequence[nn.Module], resolutions: Sequence[int] | None = None, overlap: int = 0) -> None:
        super().__init__()
        if len(models) < 2:
            raise ValueError(f"{len(models)} network cannot be stitched; give at least 2, small to large")
        if overlap < 0:
            raise ValueError(f"overlap {overlap} is no number of blocks; the least is 0")
        sides = tuple(resolutions) if resolutions is not None else (_resolution(models[0]),)
        anchors = [Anchor(model) for model in models]
        for what in ("kind", "in_chans", "num_classes"):
            values = [getattr(anchor, what) for anchor in anchors]
            if len(set(values)) > 1:
                said = ", ".join(getattr(value, "__name__", str(value)) for value in values)
                raise ValueError(f"stitched networks must be alike in {what}; these have {said}")
        self.definition: Mapping[str, Any] | None = None
        self.anchors = nn.ModuleList(anchors)
        self.stitches = nn.ModuleDict()
        shapes = [anchor.shapes(max(sides)) for anchor in anchors]
        self._goals: dict[str, tuple[int, int, Sequence[int]]] = {}
        routes: list[Route] = []
        for k, (small, large) in enumerate(pairwise(anchors)):
            found = places((small.rows, large.rows), (shapes[k], shapes[k + 1]), overlap)
            if not found:
                raise ValueError(f"networks {k + 1} and {k + 2} have nowhere maps or tokens of the same number")
            for n, goals in found.items():
                self._goals[_name(k, n)] = (k, n, goals)
                self.stitches[_name(k, n)] = _stitch(shapes[k][n], shapes[k + 1][goals[0]])
            stitched = [Route(k, n, skipped) for n, goals in found.items() for skipped in goals]
            routes += [Route(k, len(small.blocks)), *sorted(stitched, key=lambda r: (-(r.skipped or 0), -r.n))]
        self.routes = (*routes, Route(len(anchors) - 1, len(anchors[-1].blocks)))
        self.space = SearchSpace(sides, (Stage.uniform(depths=(1,), stitch=range(len(self.routes))),))

    def route(self, arch: Architecture) -> Route:
        """What a sub-network runs."""
        return self.routes[int(arch.stages[0][0].stitch)]

    def forward(self, images: Tensor, arch: Architecture) -> Tensor:
        """Logits (batch, n_classes) of the sub-network `arch` on images (batch, channels, height, width)."""
        for part in self._parts(self.route(arch)):
            images = part(images)
        return images

    def extract(self, arch: Architecture) -> nn.Sequential:
        """The sub-network alone, with weights of its own."""
        return copy.deepcopy(nn.Sequential(*self._parts(self.route(arch)))).requires_grad_().train(self.training)

    @torch.no_grad()
    def initialise(self, batches: Iterable[Tensor]) -> dict[str, float]:
        """Set every stitch by least squares to what the larger network has where it goes on; in place.

        A few hundred images are enough. A stitch that leads to several places is fitted to their mean. The published
        rule is the pseudo-inverse of the activations with a one beside them; this is the same from sums over batches,
        so that no activations are kept.

        Args:
            batches: images (n, channels, height, width).

        Returns:
            For every stitch, the share of the variance of what it is fitted to that is left, in [0, 1].

        Raises:
            ValueError: there is no batch.
        """
        sums: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        with evaluating(self):
            for images in batches:
                found = [a.activations(resize(images, max(self.space.resolutions))) for a in self._anchors]
                for name, (k, n, goals) in self._goals.items():
                    new = _products(found[k][n], torch.stack([found[k + 1][q] for q in goals]).mean(0))
                    old = sums.get(name)
                    sums[name] = new if old is None else (old[0] + new[0], old[1] + new[1], old[2] + new[2])
        if not sums:
            raise ValueError("stitches cannot be fitted to no images; give at least one batch")
        return {name: _solve(self.stitches[name], *found) for name, found in sums.items()}

    @property
    def _anchors(self) -> list[Anchor]:
        return list(self.anchors)  # type: ignore[arg-type]

    def _parts(self, route: Route) -> list[nn.Module]:
        first = self._anchors[route.anchor]
        begin = [first.stem, *first.blocks[: route.n]]
        if route.skipped is None:
            return [*begin, first.head]
        second = self._anchors[route.anchor + 1]
        return [*begin, self.stitches[_name(route.anchor, route.n)], *second.blocks[route.skipped :], second.head]


def stitched(
    models: Sequence[str],
    *,
    num_classes: int = 1000,
    in_chans: int = 3,
    pretrained: bool = False,
    model_args: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    resolutions: Sequence[int] | None = None,
    overlap: int = 0,
) -> StitchedSupernet:
    """timm models by their names, small to large, as one supernet: see `StitchedSupernet`.

    Its stitches are random until `initialise` has seen images, which a run does before it trains.

    Args:
        models: such as ``("resnet18", "resnet34")``.
        pretrained: with timm's pretrained weights.
        model_args: further arguments of `timm.create_model`, for all of them, or a list with those of each.

    Raises:
        ValueError: models that do not exist or cannot be stitched.
    """
    if isinstance(models, str):
        raise ValueError(f"models {models!r} is one network; give a list of at least 2, small to large")
    each = [dict(model_args or {})] * len(models) if isinstance(model_args, Mapping | None) else list(model_args)
    if len(each) != len(models):
        raise ValueError(
            f"model_args of {len(each)} networks for {len(models)} models; give one for each, or one for all"
        )
    own = {"num_classes": num_classes, "in_chans": in_chans}
    made = [create_model(name, pretrained, {**given, **own}) for name, given in zip(models, each, strict=True)]
    supernet = StitchedSupernet(made, resolutions, overlap)
    supernet.definition = {  # not `pretrained`: whoever makes it again has weights
        "name": "stitched", "num_classes": num_classes, "in_chans": in_chans, "models": list(models),
        "model_args": each, "resolutions": list(supernet.space.resolutions), "overlap": overlap,
    }  # fmt: skip
    return supernet


def _name(anchor: int, n: int) -> str:
    return f"{anchor + 1}_after_{n}"


def _resolution(model: Any) -> int:
    """The side of the images that a model of timm is made for, in pixels."""
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if size is not None:
        return int(size[0])
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    size = config.get("input_size") if isinstance(config, dict) else config.input_size
    if not size:
        raise ValueError(f"a {type(model).__name__} does not say what images it is for; give resolutions")
    return int(size[-1])


def _stitch(source: torch.Size, goal: torch.Size) -> nn.Module:
    return nn.Conv2d(source[1], goal[1], 1) if len(source) == 4 else nn.Linear(source[2], goal[2])


def _products(source: Tensor, goal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over positions of a batch: of the source with itself, the source with the goal, and squares of the goal.

    The source has a one beside its channels.
    """
    a, b = (x.movedim(1, -1) if x.dim() == 4 else x for x in (source.double(), goal.double()))
    a, b = a.flatten(0, -2), b.flatten(0, -2)
    a = torch.cat([a, a.new_ones(len(a), 1)], dim=1)
    return a.T @ a, a.T @ b, b.square().sum(0)


def _solve(stitch: nn.Module, inner: Tensor, outer: Tensor, squares: Tensor) -> float:
    """Write the solution into a stitch; the share of the variance that it leaves."""
    solution = torch.linalg.pinv(inner, rtol=_RTOL, hermitian=True) @ outer
    weight, bias = stitch.weight, stitch.bias
    assert isinstance(weight, Tensor) and isinstance(bias, Tensor)
    weight.copy_(solution[:-1].T.reshape(weight.shape))
    bias.copy_(solution[-1])
    total = squares - outer[-1].square() / inner[-1, -1]
    left = squares - 2 * (solution * outer).sum(0) + (solution * (inner @ solution)).sum(0)
    return float(left.clamp_min(0).sum() / total.sum().clamp_min(torch.finfo(torch.float64).tiny))
