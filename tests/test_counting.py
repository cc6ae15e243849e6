"""Counts of parts: kinds of layers are parts of the whole, and weighing by table is weighing."""

from typing import Any

import numpy as np
import pytest
import timm
from torch import nn

from predictors import CostTerms
from supernet import create_supernet, elastic
from supernet.networks.counting import COUNTS
from supernet.networks.measured import MeasuredSupernet
from supernet.networks.timm_supernet import TimmSupernet

STAGES: Any = [{"width": 8, "stride": 2, "act": "relu"}, {"width": 16, "stride": 2, "se": True}]
WIDTHS: Any = {"stem_width": 8, "head_width": 32, "feature_width": 32}
CHOICES: Any = {"depths": [1, 2], "kernels": [3, 5], "expands": [2, 3], "resolutions": [16, 20]}


def make(family) -> TimmSupernet[Any] | MeasuredSupernet:
    if family == "inverted residual":
        return create_supernet("mobilenetv3", num_classes=10, stages=STAGES, **WIDTHS, **CHOICES).eval()
    if family == "one's own":
        choices: Any = {"depths": [1, 2], "kernels": [3], "expands": [2, 3], "resolutions": [16]}
        supernet = create_supernet("mobilenetv3", num_classes=10, stages=STAGES[:1], **WIDTHS, **choices).eval()
        return MeasuredSupernet(_Bare(supernet), 3, None)
    if family == "residual":
        return elastic(timm.create_model("resnet14t", layers=(2, 1, 1, 2)), resolutions=(32, 48)).eval()
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=3)
    return elastic(model, resolutions=(32, 64), depths=(2, 3), embed_dims=(96, 192)).eval()


class _Bare(nn.Module):
    """A supernet that has three members and says nothing of its costs."""

    def __init__(self, supernet):
        super().__init__()
        self.inner, self.space = supernet, supernet.space

    def forward(self, images, arch):
        return self.inner(images, arch)

    def extract(self, arch):
        return self.inner.extract(arch)


@pytest.fixture(scope="module", params=["inverted residual", "residual", "transformer", "one's own"])
def found(request):
    supernet = make(request.param)
    return supernet, supernet.space.sample_genes(30, np.random.default_rng(0))


def test_kinds_of_layers_are_parts_of_the_whole(found):
    supernet, genes = found
    counts = dict(zip(COUNTS, np.moveaxis(supernet.cost_table.counts(genes), 2, 0), strict=True))
    costs = supernet.costs(genes)
    for name in ("macs", "parameters", "activations"):
        np.testing.assert_array_equal(counts[name], getattr(costs, name))
    kinds = counts["widening"] + counts["narrowing"] + counts["depth-wise"] + counts["pooled"]
    assert (kinds <= counts["macs"]).all()
    if isinstance(supernet, MeasuredSupernet):  # knows no layers, but one where there are MACs
        assert (counts["layers"] >= (counts["macs"] > 0)).all()
        return
    for layers, arch in zip(counts["layers"].sum(axis=1)[:3], supernet.space.decode(genes[:3]), strict=True):
        assert layers == sum(isinstance(m, nn.Conv2d | nn.Linear) for m in supernet.extract(arch).modules())


def test_weighing_by_table_is_weighing(found):
    supernet, genes = found
    table = supernet.cost_table
    weights = np.random.default_rng(1).standard_normal((len(table.parts), len(COUNTS)))
    expected = np.tensordot(table.counts(genes), weights, axes=2)
    dead = np.random.default_rng(2).integers(supernet.space.n_choices, size=genes.shape)
    scrambled = np.where(supernet.space.active(genes), genes, dead)
    np.testing.assert_allclose(table.weighted(scrambled, weights), expected, rtol=1e-9)
    several = table.weighted(scrambled, np.stack([weights, -weights], axis=2))
    np.testing.assert_allclose(several, np.stack([expected, -expected], axis=1), rtol=1e-9)


def test_terms_of_every_family_are_multiplied_by_table(found):
    supernet, genes = found
    terms = CostTerms(supernet.space, supernet.cost_table)
    assert "network activations" in terms.groups
    coefficients = np.random.default_rng(3).standard_normal(len(terms.names))
    np.testing.assert_allclose(terms.dot(genes, coefficients), terms(genes) @ coefficients, atol=1e-9)


def test_kinds_of_a_mobile_block():
    supernet = make("inverted residual")
    table = supernet.cost_table
    assert table is not None
    counts = table.counts(supernet.space.encode([supernet.space.smallest]))[0]
    of = {
        part.name: dict(zip(COUNTS, row.tolist(), strict=True)) for part, row in zip(table.parts, counts, strict=True)
    }
    block = of["blocks.2.0"]  # 8 channels in, 16 in the middle and out, a 3x3 kernel, from 4x4 to 2x2 pixels
    assert block["widening"] == 8 * 16 * 4**2
    assert block["depth-wise"] == 16 * 9 * 2**2
    assert block["narrowing"] == 16 * 16 * 2**2
    assert block["pooled"] > 0 and block["layers"] == 5
    assert table.stages[list(of).index("blocks.2.0")] == 1
