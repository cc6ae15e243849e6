"""What every supernet made of a timm model shares: sub-networks put together from views or copies of its weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from importlib import import_module
from typing import Any, Generic, Self, TypeVar, cast

import torch
from torch import Tensor, nn

from supernet.architecture import Architecture
from supernet.networks.counting import Costs, CostTable, Part
from supernet.networks.dropout import set_dropout
from supernet.networks.importance import Importance, l1_importance
from supernet.networks.mixture import Mixture, layers_of, with_tensors
from supernet.networks.slicing import bare_copy, shell
from supernet.space import Genes, SearchSpace

__all__ = ["TimmSupernet"]

_M = TypeVar("_M", bound=nn.Module)
_MOST_SHAPES = 1024  # of one kind of block


class TimmSupernet(nn.Module, Generic[_M]):
    """A timm model as a supernet: base of the families.

    The parameters are the timm model's own, under the same names, so a timm state dict loads as it is. A smaller
    sub-network uses the first channels of every tensor and the first blocks of every stage. It runs as a timm model
    that is put together, for one call, from views of the weights; hence ``extract(arch)(x) == supernet(x, arch)`` by
    construction, and no state says which sub-network is meant.

    A family says how a child of the model is narrowed (`_narrow_child`), what its parts cost (`_parts`), and how its
    channels are sorted (`sort_channels`).

    Attributes:
        space: the choices; the largest architecture is the model itself.
        definition: plain data from which `create_supernet` makes the network again; None if something else made it.
    """

    definition: dict[str, Any] | None
    block_classes: tuple[type[nn.Module], ...] = ()
    """timm's classes of the blocks that `compile_blocks` compiles."""

    def __init__(self, model: _M, space: SearchSpace) -> None:
        super().__init__()
        self.space = space
        self.definition = None
        self.mixture: Mixture | None = None
        self._compiled: dict[type[nn.Module], Callable[..., Tensor]] = {}
        self._template = [model]  # in a list, so that it is not registered a second time: its children are ours
        for name, child in model.named_children():
            self.add_module(name, child)

    def forward(self, images: Tensor, arch: Architecture) -> Tensor:
        """Logits (batch, n_classes) of sub-network `arch` on images (batch, channels, height, width).

        Raises:
            ValueError: `arch` is not in the space.
        """
        return self._mixed(arch)._assemble(arch, copy=False)(images)

    def extract(self, arch: Architecture) -> _M:
        """Sub-network `arch` as an ordinary timm model with weights of its own.

        Raises:
            ValueError: `arch` is not in the space.
        """
        model: Any = self._mixed(arch)._assemble(arch, copy=True)
        # What timm's data helpers read to make the transforms that fit this network.
        size = (model.in_chans, arch.resolution, arch.resolution)
        model.pretrained_cfg = {
            **_plain(getattr(model, "pretrained_cfg", None)),
            "input_size": size,
            "num_classes": model.num_classes,
        }
        model.default_cfg = model.pretrained_cfg
        return model

    def mix_experts(self, n: int = 2, neuron_wise: bool = False, layers: Sequence[str] = ()) -> Self:
        """From now on mix the weights of every sub-network from `n` experts, in place; returns self. See `Mixture`.

        Channels cannot be sorted any more: no order is right for all experts.

        Args:
            n: experts of every layer.
            neuron_wise: shares for every output of a layer, not for the layer.
            layers: patterns of names, such as ``*.mlp.fc?``; default all linear layers and 1×1 convolutions of blocks.

        Raises:
            ValueError: it has experts already, no layer is called like that, or `n` is below 1.
        """
        if self.mixture is not None:
            raise ValueError(f"this supernet mixes {self.mixture.n} experts already")
        names = layers_of(self, self.block_classes, layers)
        self.mixture = Mixture(self, self.space, names, n, neuron_wise)
        if self.definition is not None:
            self.definition["experts"] = {"n": n, "neuron_wise": neuron_wise, "layers": list(layers)}
        return self

    def sort_channels(self, importance: Importance = l1_importance, within: SearchSpace | None = None) -> None:
        """Put everything that can be narrowed in order of importance; the largest network computes the same.

        `within` is the space that has been trained so far: what is sorted then moves only inside the segments between
        its widths, so that the smaller sub-networks that already work keep their channels (the published second width
        phase).
        """
        raise NotImplementedError

    def set_dropout(self, drop_rate: float = 0.0, drop_path_rate: float = 0.0) -> Self:
        """Dropout and stochastic depth for training; see `supernet.dropout.set_dropout`. Returns self."""
        set_dropout(self._template[0], drop_rate, drop_path_rate)
        return self

    def compile_blocks(self, **options: Any) -> Self:
        """From now on run every block through ``torch.compile(..., dynamic=False)``; returns self.

        Blocks, not the whole network: a block has a few dozen shapes, a network billions. Each shape is compiled when
        it is first met, which takes seconds, and then serves every sub-network that has it. torch falls back to eager,
        with no more than a line in a log, where a function has more than eight shapes; its limit is raised here for the
        process. Extracted networks are not compiled.

        Args:
            **options: for `torch.compile`, such as ``backend="aot_eager"``.
        """
        config: Any = import_module("torch._dynamo").config  # here, since importing it takes seconds
        config.recompile_limit = max(config.recompile_limit, _MOST_SHAPES)
        config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, 8 * _MOST_SHAPES)
        self._compiled = {kind: torch.compile(kind.forward, dynamic=False, **options) for kind in self.block_classes}
        return self

    def costs(self, genes: Genes) -> Costs:
        """What every part of the sub-networks costs for one image; see `Costs`. Genes are (n_archs, n_genes)."""
        with torch.no_grad():
            return self.cost_table(genes)

    def macs(self, genes: Genes) -> Genes:
        """Multiply-accumulates (n_archs,) for one image, by the published conventions (Once-for-All, Cai et al. 2020).

        Convolutions and linear layers alone: no normalisation, activation, pooling or bias. Squeeze-excite counts at
        1x1, and sizes halve rounding up.
        """
        return self.costs(genes).macs.sum(axis=1)

    def n_parameters(self, genes: Genes) -> Genes:
        """Numbers of parameters (n_archs,) of the extracted networks."""
        return self.costs(genes).parameters.sum(axis=1)

    @cached_property
    def cost_table(self) -> CostTable:
        """What the parts of any sub-networks cost, by kind of layer, too."""
        with torch.no_grad():
            return CostTable(self.space, self._parts())

    @property
    def parts(self) -> tuple[Part, ...]:
        """The pieces whose costs add up to those of a network, and the genes that each depends on."""
        return self.cost_table.parts

    def owner_of(self, members: Sequence[str]) -> tuple[tuple[int, ...], int | None, int | None]:
        """The genes that the modules at these paths depend on, and the stage and block where they are one block."""
        for part in self.parts:
            if part.block is not None and part.name == members[0]:
                return part.genes, part.stage, part.block
        fixed = [part for part in self.parts if part.block is None]
        named = [part for part in fixed if any(f"{member}.".startswith(f"{part.name}.") for member in members)]
        return tuple(sorted({gene for part in named or fixed for gene in part.genes})), None, None

    # -- for families -------------------------------------------------------------------------------------------------

    def _narrow_child(self, name: str, child: nn.Module, arch: Architecture, copy: bool) -> nn.Module:
        """The child `name` of the model as `arch` has it, of views (or with `copy` of copies) of its tensors."""
        return shell(child, copy)

    def _adapt(self, model: _M, arch: Architecture) -> None:
        """Set what the assembled model knows of itself besides its children, such as a number of features."""

    def _parts(self) -> list[Part]:
        """Parts whose costs add up to those of a network."""
        raise NotImplementedError

    def _mixed(self, arch: Architecture) -> Self:
        """This supernet with the weights that `arch` has, for one call."""
        if self.mixture is None:
            return self
        mixed = with_tensors(self, self.mixture.tensors(self, arch))
        model = bare_copy(self._template[0], copy=False)
        model.__dict__["_modules"] = {name: mixed._modules[name] for name in self._template[0]._modules}
        mixed.__dict__["_template"] = [model]
        return mixed

    def _assemble(self, arch: Architecture, copy: bool) -> _M:
        self.space.encode([arch])  # refuses what is not in the space, by name
        model = bare_copy(self._template[0], copy)
        model.training = self.training
        for name in self._template[0]._modules:
            model._modules[name] = self._narrow_child(name, cast(nn.Module, getattr(self, name)), arch, copy)
        self._adapt(model, arch)
        self._compile(model, copy)
        return model

    def _compile(self, model: nn.Module, copy: bool) -> None:
        """Make the blocks of an assembled model run compiled, where that was asked for."""
        if self._compiled and not copy:
            for module in model.modules():
                if type(module) in self._compiled:
                    # On the instance, where calling a module looks first; the block itself is an argument.
                    module.__dict__["forward"] = partial(self._compiled[type(module)], module)


def _plain(config: Any) -> dict[str, Any]:
    """timm's description of pretrained weights as a dictionary of its own."""
    if config is None:
        return {}
    return dict(config) if isinstance(config, dict) else dict(config.to_dict())
