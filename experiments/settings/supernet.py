"""The elastic network of a recipe: a space of one's own, a published one, or a timm model."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from experiments.settings.values import Count, Depths, Expands, Kernels, Resolutions, Section, is_address
from supernet.ofa.config import CHOICES, WIDTHS
from supernet.protocol import ENTRY_POINTS, FACTORIES

__all__ = ["MobileNetV3Space", "StageSettings", "SupernetSettings", "TimmModel"]

_WITH_OPTIONS = ("multi_stage_vit",)


class StageSettings(Section):
    """One elastic stage of inverted-residual blocks."""

    width: Count
    """Output channels."""
    stride: Literal[1, 2] = 1
    """Of the first block."""
    depths: Depths | None = None
    """Choices for the number of blocks, if other than the space's."""
    kernels: Kernels | None = None
    """Choices for the kernels, if other than the space's."""
    expands: Expands | None = None
    """Choices for the expansions, if other than the space's."""
    act: Literal["relu", "relu6", "hard_swish", "silu"] = "hard_swish"
    """Activation."""
    se: bool = False
    """Whether blocks have squeeze-and-excitation."""


class MobileNetV3Space(Section):
    """A space of one's own, of the class of the once-for-all MobileNetV3."""

    stages: Annotated[tuple[StageSettings, ...], Field(min_length=1)]
    """The elastic stages."""
    kernels: Kernels = CHOICES["kernels"]
    """Choices for the side of the depthwise kernels."""
    expands: Expands = CHOICES["expands"]
    """Choices for the width inside a block, as a multiple."""
    depths: Depths = CHOICES["depths"]
    """Choices for the number of blocks of a stage."""
    resolutions: Resolutions = CHOICES["resolutions"]
    """Choices for the side of the input images in pixels."""
    stem_width: Count = WIDTHS["stem_width"]
    """Channels of the stem and of the first block."""
    stem_stride: Literal[1, 2] = 2
    """Stride of the stem."""
    head_width: Count = WIDTHS["head_width"]
    """Channels before pooling."""
    feature_width: Count = WIDTHS["feature_width"]
    """Channels between pooling and classifier."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        reduction = self.stem_stride
        for stage in self.stages:
            reduction *= stage.stride
        if self.resolutions[0] < reduction:
            raise ValueError(
                f"resolution {self.resolutions[0]} is below the total stride {reduction}; raise it or lower a stride"
            )
        return self


class TimmModel(Section):
    """A timm model as the largest network. All other keys are what can be chosen in its family, such as `depths`: the
    parameters of `elastic_inverted_residual`, `elastic_transformer`, or of `elastic_traced` for any other network, with
    their defaults."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, tuple[int | float | tuple[int, ...], ...]]  # pyright: ignore[reportIncompatibleVariableOverride]

    model: str
    """Its name in timm, such as 'efficientnet_b0'."""
    pretrained: bool = False
    """Whether to begin with timm's pretrained weights."""
    model_args: dict[str, int | float | bool | str] = {}
    """Further arguments of timm.create_model, such as img_size and patch_size of a transformer."""
    family: Literal["own", "traced"] | None = None
    """'traced' goes by the dependency graph, which pruning needs; default the family made by hand where one is."""


class ExpertSettings(Section):
    """Weights of their own for every architecture, mixed from experts by a router (Mixture-of-Supernets)."""

    n: Count = 2
    """Experts of every layer; 1 is none."""
    neuron_wise: bool = False
    """Shares for every output of a layer, instead of the whole layer."""
    layers: tuple[str, ...] = ()
    """Patterns of the names of linear layers and 1x1 convolutions, such as '*.mlp.fc?'; default all of the blocks."""


class SupernetSettings(Section):
    """The elastic network."""

    name: str = "mobilenetv3"
    """A registered name ('mobilenetv3' is built from [supernet.space], 'elastic' from [supernet.timm], 'stitched' from
    `options`), one that an installed package brings, or 'package.module:factory' for a supernet of one's own."""
    space: MobileNetV3Space | None = None
    """The space, for name = 'mobilenetv3' only."""
    timm: TimmModel | None = None
    """The timm model, for name = 'elastic' only."""
    weights: str | None = None
    """What to begin with: a published checkpoint, a supernet.safetensors or the folder of a run; default none."""
    options: dict[str, Any] = {}
    """Arguments of the factory of a supernet of one's own, or of 'stitched' (`supernet.stitching.stitched`), or the
    sizes of 'multi_stage_vit'."""
    experts: ExpertSettings | None = None
    """Experts whose weights are mixed for every sub-network; default none."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.name == "mobilenetv3" and self.space is None:
            raise ValueError("name 'mobilenetv3' needs [supernet.space]; or take 'ofa_mobilenetv3_w1.0'")
        if self.name == "elastic" and self.timm is None:
            raise ValueError("name 'elastic' needs [supernet.timm] with the model")
        if self.name != "elastic" and self.timm is not None:
            raise ValueError("[supernet.timm] is for name 'elastic'; set it, or remove the section")
        if self.timm is not None and self.timm.pretrained and self.weights is not None:
            raise ValueError("weights and timm.pretrained both say what to begin with; remove timm.pretrained")
        if ":" in self.name and not is_address(self.name):
            raise ValueError(f"name {self.name!r} is not of the form 'package.module:factory'")
        if self.options and not self.is_own and self.name not in _WITH_OPTIONS:
            raise ValueError(
                "options are for a supernet of one's own, 'package.module:factory', and for 'stitched' and "
                f"'multi_stage_vit', not {self.name!r}"
            )
        if self.experts is not None and self.is_own:
            raise ValueError("experts are for the supernets here; a factory of one's own calls mix_experts itself")
        if self.name != "mobilenetv3" and self.space is not None:
            raise ValueError(f"{self.name!r} brings its own space; remove [supernet.space] or take name 'mobilenetv3'")
        return self

    @property
    def is_own(self) -> bool:
        """Whether it is made by a factory with options: one that is not ours, or that of stitched networks."""
        return ":" in self.name or self.name in FACTORIES or self.name in entry_points(group=ENTRY_POINTS).names

    @property
    def begins_trained(self) -> bool:
        """Whether its first weights are, or may be, those of a trained network."""
        return self.weights is not None or self.is_own or (self.timm is not None and self.timm.pretrained)

    @property
    def settings(self) -> dict[str, Any]:
        """Keyword arguments of `supernet.registry.open_supernet` beside name, classes and channels."""
        given = self.space or self.timm
        settings = dict(self.options) if given is None else given.model_dump(exclude_none=True)
        return settings if self.experts is None else {**settings, "experts": self.experts.model_dump()}
