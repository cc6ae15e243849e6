"""Dropout and stochastic depth of supernets: in force while training, where asked of the largest alone, else never."""

import pytest
import torch
from torch import nn

from supernet import create_supernet, elastic
from supernet.networks.dropout import set_dropout
from supernet.networks.timm_supernet import TimmSupernet
from supernet.scoring.calibration import batch_statistics

FAMILIES = {
    "inverted residual": lambda: create_supernet(
        "mobilenetv3", 10, 1, stages=[{"width": 8}, {"width": 8}], depths=[1, 2], stem_width=8, resolutions=[32],
        head_width=16, feature_width=16,
    ),
    "traced": lambda: elastic("test_resnet", model_args={"num_classes": 10, "in_chans": 1}),
    "transformer": lambda: elastic("test_vit", model_args={"num_classes": 10, "in_chans": 1, "img_size": 32}),
}  # fmt: skip
IMAGES = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=FAMILIES)
def net(request: pytest.FixtureRequest) -> TimmSupernet:
    net = FAMILIES[request.param]()
    with torch.no_grad():
        for parameter in net.parameters():  # timm starts the branches of some blocks at 0
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return net


def _differ(net: TimmSupernet) -> bool:
    """Whether two passes of the largest network over the same images differ."""
    torch.manual_seed(0)
    with torch.no_grad():
        return not torch.equal(net(IMAGES, net.space.largest), net(IMAGES, net.space.largest))


@pytest.mark.parametrize("rates", [(0.5, 0.0), (0.0, 0.5)])
def test_rates_are_in_force_in_training_alone(net: TimmSupernet, rates: tuple[float, float]) -> None:
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    assert not _differ(net.train())
    assert _differ(net.set_dropout(*rates).train())
    with batch_statistics(net):  # what all but the largest are trained in
        assert not _differ(net)
    assert not _differ(net.eval())
    torch.testing.assert_close(net.extract(net.space.largest)(IMAGES), net(IMAGES, net.space.largest))
    assert net.state_dict().keys() == state.keys()
    assert not _differ(net.set_dropout().train())


def test_blocks_are_skipped_more_the_deeper_they_are() -> None:
    net = FAMILIES["transformer"]().set_dropout(drop_path_rate=0.3)
    rates = [getattr(path, "drop_prob", 0.0) for name, path in net.named_modules() if name.endswith("drop_path1")]
    assert rates == pytest.approx([0.3 * i / (len(rates) - 1) for i in range(len(rates))])


def test_what_has_no_place_for_it_is_refused() -> None:
    for rates in ((1.0, 0.0), (0.0, -0.1)):
        with pytest.raises(ValueError, match=r"not in \[0, 1\)"):
            set_dropout(nn.Flatten(), *rates)
    with pytest.raises(ValueError, match="Flatten has no dropout before its classifier"):
        set_dropout(nn.Flatten(), 0.1)
    with pytest.raises(ValueError, match="Flatten has no blocks"):
        set_dropout(nn.Flatten(), 0.0, 0.1)
