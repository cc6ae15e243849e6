"""The sections of a recipe: what can be chosen about data, network, search and baselines."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import entry_points
from inspect import signature
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from predictors.registry import predictor_names
from search.tactic import FEWEST, POPULATION, check_tactic
from supernet.ofa.config import CHOICES, WIDTHS
from supernet.protocol import ENTRY_POINTS

__all__ = [
    "DIGITS_IMAGES",
    "Address",
    "AugmentationSettings",
    "BaselineSettings",
    "DataSettings",
    "FitSettings",
    "MobileNetV3Space",
    "ScoreSettings",
    "SearchSettings",
    "Section",
    "StageSettings",
    "SupernetSettings",
    "TimmModel",
]


_ADDRESS = r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*"


def _address(text: str) -> str:
    if not re.fullmatch(_ADDRESS, text):
        raise ValueError(f"{text!r} is not of the form 'package.module:function'")
    return text


def _odd(value: int) -> int:
    if value < 3 or value % 2 == 0:
        raise ValueError(f"{value} is not an odd number from 3 on; take 3, 5 or 7")
    return value


def _multiple_of_four(value: int) -> int:
    if value < 8 or value % 4:
        raise ValueError(f"{value} is not a multiple of 4 from 8 on; the nearest is {max(8, 4 * round(value / 4))}")
    return value


def _above_zero(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ValueError(f"{value!r} is not a number above 0, such as 3 or 4.5")
    return value


def _ascending(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if list(values) != sorted(set(values)):
        raise ValueError(f"{list(values)} must ascend and not repeat; write {sorted(set(values))}")
    return values


Address = Annotated[str, AfterValidator(_address)]
Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Part = Annotated[float, Field(gt=0, lt=1)]
Portion = Annotated[float, Field(gt=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
Below1 = Annotated[float, Field(ge=0, lt=1)]
Kernels = Annotated[tuple[Annotated[int, AfterValidator(_odd)], ...], Field(min_length=1), AfterValidator(_ascending)]
Expand = Annotated[int | float, BeforeValidator(_above_zero)]  # an integer stays one: identifiers depend on it
Expands = Annotated[tuple[Expand, ...], Field(min_length=1), AfterValidator(_ascending)]
Depths = Annotated[tuple[Count, ...], Field(min_length=1), AfterValidator(_ascending)]
Resolutions = Annotated[
    tuple[Annotated[int, AfterValidator(_multiple_of_four)], ...], Field(min_length=1), AfterValidator(_ascending)
]


class Section(BaseModel):
    """Unchangeable, and without keys or kinds of value that were not asked for."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def default(part: Callable[..., Any], name: str) -> Any:
    """The default that a part of ours has for a parameter: it is written there and nowhere else."""
    return signature(part).parameters[name].default


class AugmentationSettings(Section):
    """What happens to training images; only for images from files."""

    crop_scale: tuple[Portion, Portion] = (0.08, 1.0)
    """Share of the area that a random crop keeps: from, to."""
    flip: Share = 0.5
    """Probability of a horizontal flip."""
    color_jitter: Annotated[float, Field(ge=0)] = 0.0
    """Strength of random brightness, contrast and saturation."""
    auto_augment: str | None = None
    """A policy in timm's notation, such as 'rand-m9-mstd0.5'."""
    random_erasing: Share = 0.0
    """Probability that a rectangle is erased."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.crop_scale[0] > self.crop_scale[1]:
            raise ValueError(f"crop_scale {list(self.crop_scale)} must go from the smaller to the larger share")
        return self


DIGITS_IMAGES = {"train": 20_000, "validation": 2_000, "test": 4_000}
"""Of the embedded digits, which are composed to any number, where a recipe says nothing."""


class DataSettings(Section):
    """Images and their splits."""

    source: str = "digits"
    """'digits' (embedded), 'folder', 'tar', 'wds', 'torch/NAME' or 'hfds/NAME' as timm.data names them, or
    'package.module:function' for data of one's own."""
    root: str | None = None
    """Folder or .tar file of the images, for every source but 'digits'."""
    batch_size: Count = 64
    """Training images per step."""
    train_images: Count | None = None
    """Images per epoch; default 20,000 for 'digits', else all."""
    validation_images: Count | None = None
    """Validation images; default 2,000 for 'digits', else all."""
    test_images: Count | None = None
    """Test images; default 4,000 for 'digits', else all."""
    validation_fraction: Part = 0.1
    """Share of the training images for validation if it has no folder."""
    test_fraction: Part = 0.2
    """Share of the training images for the test if it has no folder."""
    in_channels: Literal[1, 3] = 3
    """1: grey, 3: colour; 'digits' are always grey."""
    evaluation_crop: Portion = 0.875
    """Share of the side that the centre crop of an evaluation image keeps; 1 for small images."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Processes that read images; changes the speed only."""
    cache: bool = False
    """Whether every image is decoded once and kept in the run's folder: faster for small images; speed only."""
    shuffle_shards: Count | None = None
    """Shards that training reads at a time, mixing their images, for slow storage; default all. Only for 'wds'."""
    augmentation: AugmentationSettings = AugmentationSettings()
    """What happens to training images from files."""
    folders: dict[Literal["train", "validation", "test"], str] = {}
    """Which folder of root is which split ('.' is root), where their names do not tell; default by their names."""
    labels: str | None = None
    """A CSV file in root with the columns file, label and, if wanted, split; default folders are classes."""
    on_damaged: Literal["refuse", "skip"] = "refuse"
    """Whether an image that cannot be read ends the run, or is left out, which opens all of them once at the start."""
    balanced: bool = False
    """Whether an epoch has every class equally often, instead of every image once."""
    class_weights: tuple[Rate, ...] = ()
    """Weight of every class in the loss, in the order of the classes, for classes of which there are few or that matter
    more; default all alike. Another way is `balanced`."""
    mean: tuple[float, ...] | None = None
    """Of the channels of all images, in [0, 1]; default that of the pretrained weights, else ImageNet's."""
    std: tuple[Rate, ...] | None = None
    """Standard deviation of the channels; default as for the mean."""
    interpolation: Literal["bicubic", "bilinear"] | None = None
    """How images are resized; default as for the mean, else 'bicubic'."""
    exif: bool = True
    """Whether photos are turned upright as their EXIF orientation says."""
    options: dict[str, Any] = {}
    """Arguments of the function of data of one's own."""

    @property
    def is_own(self) -> bool:
        """Whether a function that is not ours gives the data."""
        return re.fullmatch(_ADDRESS, self.source) is not None

    @property
    def is_from_files(self) -> bool:
        """Whether images are read from files."""
        return self.source != "digits" and not self.is_own

    @property
    def digest_of_splits(self) -> str:
        """All that decides which images are in which split."""
        keys = {"source", "folders", "labels", "validation_fraction", "test_fraction"}
        return self.model_dump_json(include={*keys, "train_images", "validation_images", "test_images"})

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.options and not self.is_own:
            raise ValueError(f"options are for data of one's own, 'package.module:function', not {self.source!r}")
        if self.is_own:
            if foreign := sorted(self.model_fields_set - {"source", "batch_size", "options", "class_weights"}):
                raise ValueError(f"{foreign[0]} has no meaning for {self.source!r}, whose function decides; remove it")
            return self
        from_files = {
            "root", "validation_fraction", "test_fraction", "in_channels", "evaluation_crop", "cache", "augmentation",
            "folders", "labels", "on_damaged", "balanced", "mean", "std", "interpolation", "exif",
        } & self.model_fields_set  # fmt: skip
        if self.source == "digits" and from_files:
            raise ValueError(f"{sorted(from_files)[0]} has no meaning for source 'digits'; remove it or set source")
        if self.shuffle_shards is not None and self.source != "wds":
            raise ValueError(f"shuffle_shards is for source 'wds', not {self.source!r}; remove it")
        for key, given in (("folders", self.folders), ("labels", self.labels)):
            if given and self.source not in ("", "folder", "tar"):
                raise ValueError(f"{key} is for source 'folder' or 'tar', not {self.source!r}; remove it")
        if self.folders and self.labels:
            raise ValueError("folders and labels both say what is in which split; remove one")
        for key, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != self.in_channels:
                raise ValueError(
                    f"{key} {list(values)} must have one number per channel, and there are {self.in_channels}"
                )
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std belong together; give both or neither")
        if self.source in ("", "folder", "tar", "wds") and not self.root:
            raise ValueError(f"source {self.source!r} needs root, the folder or .tar file of the images")
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"validation_fraction {self.validation_fraction} and test_fraction {self.test_fraction} leave nothing "
                "to train on; lower one"
            )
        if self.train_images is not None and self.train_images < self.batch_size:
            raise ValueError(f"train_images {self.train_images} are fewer than one batch of {self.batch_size}")
        return self


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
    parameters of `elastic_inverted_residual`, `elastic_resnet`, `elastic_transformer`, or of `elastic_traced` for any
    other network, with their defaults."""

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
    """A registered name ('mobilenetv3' is built from [supernet.space], 'elastic' from [supernet.timm]), one that an
    installed package brings, or 'package.module:factory' for a supernet of one's own."""
    space: MobileNetV3Space | None = None
    """The space, for name = 'mobilenetv3' only."""
    timm: TimmModel | None = None
    """The timm model, for name = 'elastic' only."""
    weights: str | None = None
    """What to begin with: a published checkpoint, a supernet.safetensors or the folder of a run; default none."""
    options: dict[str, Any] = {}
    """Arguments of the factory of a supernet of one's own."""
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
        if ":" in self.name and not re.fullmatch(_ADDRESS, self.name):
            raise ValueError(f"name {self.name!r} is not of the form 'package.module:factory'")
        if self.options and not self.is_own:
            raise ValueError(f"options are for a supernet of one's own, 'package.module:factory', not {self.name!r}")
        if self.experts is not None and self.is_own:
            raise ValueError("experts are for the supernets here; a factory of one's own calls mix_experts itself")
        if self.name != "mobilenetv3" and self.space is not None:
            raise ValueError(f"{self.name!r} brings its own space; remove [supernet.space] or take name 'mobilenetv3'")
        return self

    @property
    def is_own(self) -> bool:
        """Whether it is made by a factory that is not ours."""
        return ":" in self.name or self.name in entry_points(group=ENTRY_POINTS).names

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


class ScoreSettings(Section):
    """How many sub-networks are scored on the validation split, and how."""

    n_architectures: Annotated[int, Field(ge=8)] = 100
    """The same for accuracy; see measure.n_architectures."""
    calibration_images: Count = 2000
    """Training images that set the BatchNorm statistics."""
    batch_size: Count = 200
    """Images per batch of calibration and evaluation."""
    correction_images: Annotated[int, Field(ge=0)] = 0
    """Of the calibration images, on how many the layers of every sub-network are fitted to the largest network by least
    squares: some hundred, for a pretrained network that is not trained as a supernet; 0: its weights stay."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.correction_images > self.calibration_images:
            raise ValueError(
                f"correction_images {self.correction_images} are taken of the {self.calibration_images} "
                "calibration_images; lower it or raise these"
            )
        return self


def _known_predictor(name: str) -> str:
    if name not in predictor_names():
        raise ValueError(f"{name!r} is not possible; choose {', '.join(map(repr, predictor_names()))}")
    return name


class FitSettings(Section):
    """What learns from the measured and scored sub-networks."""

    predictors: tuple[Annotated[str, AfterValidator(_known_predictor)], ...] = ()
    """Registered names, of which the one with the smallest cross-validated error is taken; default all that suit."""


class SearchSettings(Section):
    """The search; every round measures and scores what it proposes and fits the predictors again."""

    evaluations: Count = 60
    """Sub-networks that the search measures and scores, beyond the first ones."""
    minutes: Annotated[float, Field(gt=0)] | None = None
    """After so long no round begins any more; default no limit."""
    until: Literal["no gain"] | None = None
    """'no gain': also end when a round is expected to add less than 0.2 % of the hypervolume."""
    batch: Count | None = None
    """Sub-networks of a round; default 1 to 16, by what a round costs beside them."""
    focused: Annotated[int, Field(ge=0)] = 5
    """Sub-networks per device at the end for the best within the constraints, where there are any."""
    tactic: str = "nsga2"
    """What decides where to look: a registered name, such as 'nsga2', 'nsga3' or 'random'."""
    population: Annotated[int, Field(ge=FEWEST)] = POPULATION
    """Candidates that the tactic thinks of at a time."""
    options: dict[str, str | int | float | bool] = {}
    """Whatever the tactic understands beyond this."""
    model_calls: Count = 5_000
    """Candidates that a round predicts for each device."""
    objectives: tuple[str, ...] = ()
    """What is traded, such as ['accuracy', 'latency@phone', 'size']; default, for each device, accuracy and latency."""
    constraints: tuple[str, ...] = ()
    """What candidates must keep, such as ['size <= 5MB', 'latency@phone <= 12ms']."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.model_calls < self.population:
            raise ValueError(f"model_calls {self.model_calls} must be at least the population {self.population}")
        if "population" in self.options:
            raise ValueError("population is a key of [search] itself; move it out of options")
        check_tactic(self.tactic, self.tactic_options)
        return self

    @property
    def tactic_options(self) -> dict[str, Any]:
        """Keyword arguments of `search.create_tactic`."""
        return {"population": self.population, **self.options}


class BaselineSettings(Section):
    """What the front is compared with, beside random search and uniform scaling."""

    timm_models: tuple[str, ...] = ()
    """Timm models that are trained in the same way."""
    onnx: tuple[str, ...] = ()
    """ONNX files of your own, seen from the folder of the recipe: classifiers of the same classes, as they are."""
    controls: tuple[Literal["random search, filtered", "local search"], ...] = ()
    """More ways of choosing sub-networks at the cost of the search, each of which evaluates as many."""
    epochs: Count | None = None
    """Their epochs; default as many as the supernet's whole training."""
    peak_lr: Rate | None = None
    """Their highest learning rate; default the supernet's, and 0.1 for 256 images where that is not trained."""
