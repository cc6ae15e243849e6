"""The sections of a recipe: what can be chosen about data, scores, predictors, search and baselines."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from experiments.settings.values import Count, Part, Portion, Rate, Section, Share, is_address
from predictors.registry import predictor_names
from search.tactic import FEWEST, POPULATION, check_tactic

__all__ = [
    "DIGITS_IMAGES",
    "AugmentationSettings",
    "BaselineSettings",
    "DataSettings",
    "FitSettings",
    "ScoreSettings",
    "SearchSettings",
]


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
        return is_address(self.source)

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
