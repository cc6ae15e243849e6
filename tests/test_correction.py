"""Sub-networks without training: what least squares has to give back, and what it must leave alone."""

from typing import Any

import pytest
import timm
import torch
from torch import nn

from supernet import elastic
from supernet.scoring.calibration import recalibrate
from supernet.scoring.correction import correct
from supernet.testing import randomize


class Redundant(nn.Module):
    """Two layers between which every second channel is a mixture of the others: nothing is lost without it."""

    def __init__(self, linear: bool) -> None:
        super().__init__()
        if linear:
            self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 8)
        else:
            self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1) if not linear else nn.Identity()
        self.head = nn.Linear(8, 4)
        weight, bias = self.first.get_parameter("weight"), self.first.get_parameter("bias")
        with torch.no_grad():
            mixture = torch.randn(8, 8)
            weight[8:] = (mixture @ weight[:8].flatten(1)).view_as(weight[:8])
            bias[8:] = mixture @ bias[:8] + linear

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(self.second(self.first(x))).flatten(1))


@pytest.mark.parametrize("linear", [True, False])
def test_what_the_other_channels_can_say_is_given_back_whole(linear):
    torch.manual_seed(0)
    model = Redundant(linear).eval()
    x = torch.randn(256, 8) if linear else torch.randn(64, 3, 8, 8)
    supernet: Any = elastic(model, example_input=x[:2], importance=None, multiple_of=1)
    arch = supernet.space.restrict(middle2=(1,)).smallest
    with torch.no_grad():
        wanted = model(x)
        cut, mended = supernet.extract(arch)(x), corrected(supernet, arch, x, 1e-8)(x)
    assert (cut - wanted).norm() > 0.1 * wanted.norm()
    assert (mended - wanted).norm() < 1e-3 * wanted.norm()


def corrected(supernet, arch, x, ridge=0.01):
    return correct(supernet, arch, [x], ridge)


def trained(name: str, **arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10, **arguments)
    randomize(model)
    return model.eval()


MODELS = {
    "inverted residual": ("test_efficientnet", {}),
    "residual": ("test_resnet", {}),
    "transformer": ("test_vit", {"img_size": 32, "patch_size": 8}),
    "traced": ("test_convnext", {}),
    "groups": ("test_regnet", {}) if timm.is_model("test_regnet") else ("test_resnet", {}),
}


@pytest.mark.parametrize("family", MODELS)
def test_sub_networks_come_nearer_to_the_largest_and_the_largest_stays(family):
    name, arguments = MODELS[family]
    seen = torch.randn(128, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    model = recalibrate(trained(name, **arguments), seen.split(64))
    choices: dict[str, Any] = {} if family == "transformer" else {"resolutions": (32,)}
    supernet: Any = elastic(model, **choices).eval()
    weights = [p.clone() for p in supernet.parameters()]
    arch = supernet.space.smallest
    with torch.no_grad():
        wanted = model(seen)  # on new noise nothing can be better: random networks have nothing in common on it
        plain = recalibrate(supernet.extract(arch), seen.split(64)).eval()
        mended = correct(supernet, arch, seen.split(64))
        assert distance(mended(seen), wanted) < 0.5 * distance(plain(seen), wanted)
        same = correct(supernet, supernet.space.largest, seen.split(64))
        torch.testing.assert_close(same(seen), wanted, rtol=1e-3, atol=1e-3)
    assert all(torch.equal(a, b) for a, b in zip(weights, supernet.parameters(), strict=True))


def distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Over the spread of the outputs from image to image, of which a random network has little."""
    return float((found - wanted).norm() / (wanted - wanted.mean(dim=0)).norm())


def test_without_images_it_says_so():
    supernet: Any = elastic(trained("test_resnet"), resolutions=(32,))
    with pytest.raises(ValueError, match="needs images"):
        correct(supernet, supernet.space.smallest, [])
