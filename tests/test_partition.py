"""Parts of a space by cost: compact, ordered by inclusion, each a space and a supernet of its own."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from supernet import SearchSpace, Stage, create_supernet, elastic
from supernet.networks.timm_supernet import TimmSupernet
from supernet.space.partition import between
from supernet.space.relation import Relation

PUBLISHED = SearchSpace(tuple(range(128, 225, 4)), (Stage.uniform((2, 3, 4), kernel=(3, 5, 7), expand=(3, 4, 6)),) * 5)


def transformer() -> TimmSupernet:
    args = {"img_size": 32, "patch_size": 8, "num_classes": 10, "in_chans": 1}
    return elastic(
        "test_vit", model_args=args, depths=(3, 4, 5, 6), heads=(1, 2), mlp_ratios=(1, 2, 3), embed_dims=(32, 48, 64)
    )


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("make", [transformer, lambda: create_supernet("ofa_resnet50d")], ids=["vit", "resnet50d"])
def test_parts_are_ordered_by_inclusion_and_even_in_cost(make, k: int) -> None:
    with torch.device("meta"):
        net = make()
    space = net.space
    parts = space.partition(by=net.macs, k=k)
    assert len(parts) == k and parts[0].smallest == space.smallest and parts[-1].largest == space.largest
    for before, after in pairwise(parts):
        assert before.largest == after.smallest and before.size < space.size
    rng = np.random.default_rng(0)
    ends = np.log(net.macs(space.encode([parts[0].smallest, *(part.largest for part in parts)])))
    for part, (low, high) in zip(parts, pairwise(ends), strict=True):
        drawn = part.sample(50, rng)
        assert all(arch in space for arch in drawn)
        macs = np.log(net.macs(space.encode(drawn)))
        assert (macs >= low - 1e-9).all() and (macs <= high + 1e-9).all()
    assert np.abs(np.diff(ends) - (ends[-1] - ends[0]) / k).max() < 0.2 * (ends[-1] - ends[0])
    if k == 1:
        assert parts == (space,)


def test_a_part_is_a_supernet_of_its_own() -> None:
    for net in (transformer(), create_supernet("mobilenetv3", 10, 1, **_SMALL)):
        net.eval()
        for part in net.space.partition(by=net.macs, k=2):
            own = elastic(net.extract(part.largest), space=part, importance=None).eval()
            assert own.space == part
            arch = part.sample(1, np.random.default_rng(1))[0]
            images = torch.randn(2, 1, 32, 32)
            if arch.resolution == 32:
                torch.testing.assert_close(own(images, part.largest), net(images, part.largest))
            assert own.n_parameters(part.encode([arch])) == net.n_parameters(net.space.encode([arch]))


_SMALL = {
    "stages": [{"width": 8, "stride": 2}, {"width": 12, "se": True}], "depths": [1, 2], "kernels": [3, 5],
    "expands": [2, 3, 4], "resolutions": [32], "stem_width": 8, "head_width": 24, "feature_width": 32,
}  # fmt: skip


def test_relations_of_what_is_left_stay() -> None:
    stages = (Stage.uniform((1, 2, 3), width=(1, 2)), Stage.uniform((1, 2, 3), width=(1, 2)))
    space = SearchSpace((32,), stages, relations=(Relation.parse("stage1.depth <= stage2.depth"),))
    for part in space.partition(by=lambda genes: genes.sum(axis=1) + 1.0, k=2):
        assert part.relations == space.relations and all(arch in space for arch in part)


def test_too_many_parts_and_ends_the_wrong_way_are_refused() -> None:
    space = SearchSpace((32,), (Stage.uniform((1, 2), kernel=(3, 5)),))
    with pytest.raises(ValueError, match="too few choices for 9 parts: there are"):
        space.partition(by=lambda genes: genes.sum(axis=1) + 1.0, k=9)
    with pytest.raises(ValueError, match="in 0 parts"):
        space.partition(by=lambda genes: genes.sum(axis=1) + 1.0, k=0)
    low, high = PUBLISHED.encode([PUBLISHED.smallest, PUBLISHED.largest])
    assert between(PUBLISHED, low, high) == PUBLISHED
    with pytest.raises(ValueError, match="resolution begins above its end"):
        between(PUBLISHED, high, low)
