"""One registry of criteria, for sorting and pruning: laws of each, in all families."""

from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

from supernet import elastic
from supernet.networks.importance import IMPORTANCES, gradients_of, importance_named, scores_of
from supernet.testing import randomize


def batches(size: int = 32):
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(8, 3, size, size, generator=generator), torch.arange(8) % 10) for _ in range(2)]


FAMILIES = {
    "inverted residual": ("test_efficientnet", {}),
    "residual": ("test_resnet", {}),
    "transformer": ("test_vit", {"img_size": 32, "patch_size": 8}),
    "traced": ("test_convnext", {}),
}


def model_of(family: str) -> nn.Module:
    name, arguments = FAMILIES[family]
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10, **arguments)
    randomize(model)
    return model.eval()


@pytest.mark.parametrize("name", IMPORTANCES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_criterion_sorts_every_family_and_the_largest_network_computes_the_same(family, name):
    model = model_of(family)
    images, _ = batches()[0]
    choices: dict[str, Any] = {} if family == "transformer" else {"resolutions": (32,)}
    supernet: Any = elastic(model, importance=None, **choices)
    before = [p.clone() for p in supernet.parameters()]
    with gradients_of(supernet, batches(), call=lambda x: supernet(x, supernet.space.largest)):
        supernet.sort_channels(importance_named(name))
    supernet.eval()
    with torch.no_grad():
        torch.testing.assert_close(supernet(images, supernet.space.largest), model(images), rtol=1e-4, atol=1e-4)
    assert any(not torch.equal(a, b) for a, b in zip(before, supernet.parameters(), strict=True))
    assert all(p.grad is None for p in supernet.parameters())


def test_gradients_move_with_the_weights_that_are_sorted():
    model = model_of("residual")
    supernet: Any = elastic(model, importance=None)
    call = lambda x: supernet(x, supernet.space.largest)  # noqa: E731
    with gradients_of(supernet, batches(), call=call):
        supernet.sort_channels()
        moved = {name: p.grad.clone() for name, p in supernet.named_parameters() if p.grad is not None}
    with gradients_of(supernet, batches(), call=call):
        for name, parameter in supernet.named_parameters():
            if parameter.grad is not None:
                torch.testing.assert_close(moved[name], parameter.grad, rtol=1e-3, atol=1e-5)


def test_the_laws_of_the_criteria():
    weights = torch.tensor([[1.0, -2.0], [3.0, 4.0], [0.0, 0.0]])
    gradients = torch.tensor([[1.0, -2.0], [-4.0, 3.0], [1.0, 1.0]])
    found = {name: one.units(weights, gradients) for name, one in IMPORTANCES.items()}
    assert found["l1"].tolist() == [3, 7, 0] and found["l2"].tolist() == pytest.approx([5**0.5, 5, 0])
    assert found["taylor1"].tolist() == [5, 0, 0] and found["taylor2"].tolist() == [12.5, 0, 0]
    assert found["cosine"].tolist() == pytest.approx([2, 1, 1])
    parts = [found["l2"], found["l2"] / 2, found["cosine"], found["taylor1"], found["taylor2"]]
    assert torch.allclose(found["blended"], torch.stack([0.2 * part / part.norm() for part in parts]).sum(dim=0))


def test_taylor_of_the_first_order_foretells_what_removing_a_channel_costs():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3))
    x, y = torch.randn(64, 6), torch.randint(3, (64,))
    loss = nn.functional.cross_entropy
    with torch.no_grad():
        reader = net[2].get_parameter("weight")
        reader.mul_(0.1)  # a first order is for small steps
    with gradients_of(net, [(x, y)]):
        foretold = scores_of(importance_named("taylor1"), [reader])
    costs = []
    with torch.no_grad():
        whole = loss(net(x), y)
        for i in range(12):
            kept = reader[:, i].clone()
            reader[:, i] = 0
            costs.append(float((loss(net(x), y) - whole).abs()))
            reader[:, i] = kept
    assert np.corrcoef(foretold, costs)[0, 1] > 0.95


def test_what_cannot_be_judged_is_said():
    model = model_of("residual")
    with pytest.raises(ValueError, match="'taylor1' needs gradients"):
        elastic(model, importance="taylor1")
    with pytest.raises(ValueError, match="no importance 'l3'"):
        elastic(model, importance="l3")
    with pytest.raises(ValueError, match="no images"), gradients_of(model, []):
        pass
