"""Networks taken apart: the pieces run as the network does, and the table knows which network has which."""

import json

import numpy as np
import pytest
import timm
import torch
from torch import nn

from hardware import export_onnx
from hardware.counting import count_macs
from predictors.card import error_card
from predictors.lookup import BlockSum
from predictors.ridge import RidgePredictor
from supernet import create_supernet, elastic
from supernet.networks.block_table import BlockTable, block_table
from supernet.networks.pieces import pieces_of

SPACE = {
    "stages": [{"width": 8, "stride": 2, "act": "relu"}, {"width": 16, "stride": 2, "se": True}],
    "depths": [1, 2, 3],
    "kernels": [3, 5],
    "expands": [2, 3],
    "resolutions": [16, 20],
    "stem_width": 8,
    "head_width": 32,
    "feature_width": 32,
}


def make(family):
    if family == "inverted residual":
        return create_supernet("mobilenetv3", num_classes=10, in_chans=1, **SPACE).eval()
    if family == "residual":
        model = timm.create_model("resnet14t", layers=(2, 1, 1, 2), in_chans=1)
        return elastic(model, resolutions=(32, 48), fractions=(0.5,)).eval()
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=3, in_chans=1)
    return elastic(model, resolutions=(32, 64), depths=(2, 3), embed_dims=(96, 192)).eval()


@pytest.fixture(scope="module", params=["inverted residual", "residual", "transformer"])
def found(request):
    """A supernet of each family and its table."""
    supernet = make(request.param)
    return supernet, block_table(supernet, channels=1)


@pytest.fixture(scope="module")
def mobile():
    supernet = make("inverted residual")
    return supernet, block_table(supernet, channels=1)


def taken_apart(supernet, arch):
    image = torch.randn(1, 1, arch.resolution, arch.resolution, generator=torch.Generator().manual_seed(0))
    return image, pieces_of(supernet.extract(arch).eval(), supernet.block_classes, image)


def test_the_table_says_which_pieces_a_network_has(found):
    supernet, table = found
    genes = supernet.space.sample_genes(12, np.random.default_rng(0))
    for row, arch in zip(table.lookup(genes), supernet.space.decode(genes), strict=True):
        _, pieces = taken_apart(supernet, arch)
        keys = {piece.name: piece.key for piece in pieces}
        places = zip(table.positions, row, strict=True)
        assert keys == {position.name: table.blocks[number].key for position, number in places if number >= 0}


def test_every_block_is_found_where_the_table_says_and_only_once(found):
    supernet, table = found
    assert len({block.key for block in table.blocks}) == len(table.blocks)
    assert all((position.table >= 0).all() for position in table.positions)
    for block in table.blocks[:: max(1, len(table.blocks) // 10)]:
        _, pieces = taken_apart(supernet, block.arch)
        (piece,) = [piece for piece in pieces if piece.name == block.place]
        assert (piece.key, piece.input_shape, piece.kind) == (block.key, block.input_shape, block.kind)


def test_the_pieces_hold_all_convolutions_and_linear_layers(found):
    supernet, _ = found
    for arch in (supernet.space.smallest, supernet.space.largest):
        image, pieces = taken_apart(supernet, arch)
        total = count_macs(supernet.extract(arch), image.shape)
        assert sum(count_macs(piece.module, (1, *piece.input_shape)) for piece in pieces) == total


def test_one_after_the_other_they_compute_what_the_network_computes(mobile):
    supernet, _ = mobile
    arch = supernet.space.largest
    image, pieces = taken_apart(supernet, arch)
    x = image
    for piece in pieces:
        assert x.shape[1:] == piece.input_shape
        x = piece.module(x)
    torch.testing.assert_close(x, supernet.extract(arch).eval()(image))


def test_equal_keys_are_equal_graphs(mobile):
    supernet, _ = mobile

    from onnx import load_from_string

    def graph(piece):
        model = load_from_string(export_onnx(piece.module, (1, *piece.input_shape)))
        attributes = [(node.op_type, sorted(map(str, node.attribute))) for node in model.graph.node]
        return str(attributes), str([tuple(weight.dims) for weight in model.graph.initializer])

    graphs: dict[str, set[tuple[object, ...]]] = {}
    for arch in supernet.space.sample(12, np.random.default_rng(0)):
        for piece in taken_apart(supernet, arch)[1]:
            graphs.setdefault(piece.key, set()).add((piece.input_shape, *graph(piece)))
    assert len(graphs) > 20 and all(len(same) == 1 for same in graphs.values())
    assert len(set().union(*graphs.values())) == len(graphs)  # and different keys are different graphs


def test_a_network_that_is_no_chain_is_refused():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.body(self.body(x))

    with pytest.raises(ValueError, match=r"body \(Conv2d\) does not run once on one tensor"):
        pieces_of(Twice(), (nn.Conv2d,), torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match="no block of a Conv2d can be left out"):
        pieces_of(Twice().body, (), torch.zeros(1, 3, 4, 4))


def test_a_table_of_some_resolutions_says_nothing_of_the_others(mobile):
    supernet, table = mobile
    some = block_table(supernet, 1, resolutions=(20,))
    assert {block.key for block in some.blocks} < {block.key for block in table.blocks}
    assert (some.positions[0].table == [-1, 0]).all()


def test_the_table_survives_json(mobile):
    supernet, table = mobile
    again = BlockTable.from_dict(supernet.space, json.loads(json.dumps(table.to_dict())))
    genes = supernet.space.sample_genes(50, np.random.default_rng(0))
    assert again.blocks == table.blocks and (again.lookup(genes) == table.lookup(genes)).all()
    with pytest.raises(ValueError, match="not a table of blocks"):
        BlockTable.from_dict(supernet.space, {"blocks": []})


def test_the_sum_of_blocks_is_learned_exactly_where_it_is_true(mobile):
    space, table = mobile[0].space, mobile[1]
    costs = np.random.default_rng(0).uniform(1e-5, 1e-3, len(table.blocks))
    genes = space.sample_genes(60, np.random.default_rng(1))
    latencies = 0.7 * np.append(costs, 0.0)[table.lookup(genes)].sum(axis=1) + 2e-4
    card = error_card(lambda: RidgePredictor(BlockSum(space, table.lookup, costs), "relative"), genes, latencies)
    assert card.mape < 1e-3 and card.kendall_tau > 0.999
    noise = BlockSum(space, table.lookup, np.random.default_rng(2).permutation(costs))
    assert noise.digest != BlockSum(space, table.lookup, costs).digest
    assert error_card(lambda: RidgePredictor(noise, "relative"), genes, latencies).kendall_tau < card.kendall_tau
    with pytest.raises(ValueError, match="must be positive"):
        BlockSum(space, table.lookup, np.append(costs[1:], np.nan))
