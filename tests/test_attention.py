"""Attention while training: random groups of tokens with a dense finish, and a teacher's relations among tokens."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from supernet import SearchSpace, Stage, elastic
from supernet.networks.timm_supernet import TimmSupernet
from supernet.training import (
    AttentionRelation,
    Distillation,
    Engine,
    Pathways,
    Schedule,
    Trainer,
    fine_tuning,
    plain,
    single_stage,
    with_pathways,
    with_relation,
)
from supernet.training.attention_modes import RecordedAttention, SubsampledAttention, shuffled, subsampled
from supernet.training.gradients import accumulate_gradients, freeze

SPACE = SearchSpace((16,), (Stage.uniform((1, 2), heads=(1, 2)),))


def _qkv(tokens: int = 17, channels: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, tokens, channels, generator=generator, requires_grad=True) for _ in range(3))
    return q, k, v


def _transformer() -> TimmSupernet:
    torch.manual_seed(0)
    args = {"img_size": 16, "patch_size": 4, "num_classes": 10, "in_chans": 1}
    return elastic("test_vit", model_args=args, depths=(4, 6), heads=(1, 2), mlp_ratios=(1, 3))


class Noise:
    """Random images."""

    steps_per_epoch = 5

    def train_batches(
        self, epoch: int, skip: int = 0, rank: int = 0, n_ranks: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(skip, self.steps_per_epoch):
            generator = torch.Generator().manual_seed(100 * epoch + step)
            yield torch.randn(8, 1, 16, 16, generator=generator), torch.randint(10, (8,), generator=generator)


# -- groups of tokens --------------------------------------------------------------------------------------------------


def test_one_group_is_dense_with_its_gradients() -> None:
    qkv = _qkv()
    dense = F.scaled_dot_product_attention(*qkv)
    gradients = torch.autograd.grad(dense.square().sum(), qkv)
    one = subsampled(*qkv, Pathways(groups=1))
    torch.testing.assert_close(one, dense)
    torch.testing.assert_close(torch.autograd.grad(one.square().sum(), qkv), gradients)


@pytest.mark.parametrize("window", [None, 4])
def test_a_token_attends_to_its_group_and_to_those_for_the_whole_image(window: int | None) -> None:
    query, key, _ = _qkv()
    value = torch.eye(17).expand(2, 3, 17, 17)  # what comes out is who was attended to
    torch.manual_seed(1)
    seen = subsampled(query, key, value, Pathways(groups=4, window=window))[0, 0] > 0
    assert seen[0].all() and seen[:, 0].all()  # the class token
    assert (seen[1:].sum(dim=1) == 5).all()  # 16 tokens in 4 groups, and the class token
    assert (seen[1:, 1:].sum(dim=0) == 4).all()  # every token by one group
    if window is None:
        assert all((seen[i : i + 4] == seen[i]).all() for i in range(1, 17, 4))  # each in its own place again
    else:
        assert seen.diagonal().all() and torch.equal(seen, seen.T)


def test_any_two_tokens_meet_and_near_ones_more_often_with_windows() -> None:
    query, key, _ = _qkv()
    value = torch.eye(17).expand(2, 3, 17, 17)
    torch.manual_seed(0)

    def share(window: int | None) -> Tensor:
        draws = [subsampled(query, key, value, Pathways(4, window, prefix=0))[0, 0] > 0 for _ in range(200)]
        return torch.stack(draws).double().mean(0)

    free, near = share(None), share(6)
    assert free.min() > 0.1 and free[~torch.eye(17, dtype=torch.bool)].std() < 0.05
    neighbours = near.diagonal(1).mean()
    assert neighbours > free.diagonal(1).mean() + 0.2 and neighbours > near.diagonal(8).mean() + 0.2


def test_with_uniform_attention_the_mean_over_draws_is_dense() -> None:
    _, key, value = _qkv()
    query = torch.zeros_like(key)  # all weights alike
    torch.manual_seed(0)
    draws = torch.stack([subsampled(query, key, value, Pathways(4, prefix=0)).detach() for _ in range(1000)])
    spread = draws.std(dim=0) / 1000**0.5
    assert ((draws.mean(0) - F.scaled_dot_product_attention(query, key, value)).abs() < 5 * spread).all()


def test_orders_are_permutations_and_windows_keep_them_near() -> None:
    torch.manual_seed(0)
    for n, window in [(16, None), (16, 4), (17, 5), (1, 3)]:
        assert sorted(shuffled(n, window).tolist()) == list(range(n))
    moved = torch.stack([(shuffled(100, 5) - torch.arange(100)).abs() for _ in range(50)])
    assert moved.float().mean() > 0 and moved.max() < 5


def test_attention_costs_as_much_less_as_it_sees() -> None:
    query, key, value = _qkv(tokens=64)

    def flops(groups: int) -> int:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            subsampled(query, key, value, Pathways(groups, prefix=0))
        return counter.get_total_flops()

    assert flops(1) == 4 * flops(4) > 0


def test_only_what_learns_is_subsampled() -> None:
    net = _transformer()
    images = torch.randn(4, 1, 16, 16)
    with torch.no_grad():
        dense = net(images, net.space.largest)
    with SubsampledAttention(Pathways()) as mode:
        assert not torch.allclose(net(images, net.space.largest), dense, atol=1e-4) and mode.n_calls == 6
        with torch.no_grad():
            torch.testing.assert_close(net(images, net.space.largest), dense)
        q, k, v = _qkv()
        masked = F.scaled_dot_product_attention(q, k, v, attn_mask=torch.ones(17, 17, dtype=torch.bool))
    torch.testing.assert_close(masked, F.scaled_dot_product_attention(q, k, v))
    assert mode.n_calls == 6


def test_the_end_of_the_last_phase_is_dense() -> None:
    net = _transformer()
    pathways = Pathways(groups=4, dense=0.25)
    first, last = with_pathways(single_stage(net.space, Schedule(2, 0.1), warmup=Schedule(1, 0.1)), pathways)
    assert first.pathways == replace(pathways, dense=0.0) and last.pathways == pathways
    assert pathways.at(0.74) is not None and pathways.at(0.75) is None and Pathways(groups=1).at(0) is None


def test_training_with_groups_resumes_with_the_same_bits(tmp_path: Path) -> None:
    def trainer(net: TimmSupernet, folder: Path | None) -> Trainer:
        phases = plain(net.space, Schedule(1, 0.01)) + fine_tuning(net.space, Schedule(2, 0.01))
        return Trainer(net, with_pathways(phases, Pathways(dense=0.3)), Noise(), folder=folder)

    whole, resumed = _transformer(), _transformer()
    trainer(whole, None).run()
    interrupted = trainer(_transformer(), tmp_path)

    def stop(record: object) -> None:
        if getattr(record, "step", 0) == 8:
            raise KeyboardInterrupt

    interrupted.save_steps = 3
    with pytest.raises(KeyboardInterrupt):
        interrupted.run(stop)
    trainer(resumed, tmp_path).run()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_networks_without_attention_are_refused_in_the_first_step(small_supernet: TimmSupernet) -> None:
    phases = with_pathways(plain(small_supernet.space, Schedule(1, 0.1)), Pathways())

    class Images(Noise):
        def train_batches(
            self, epoch: int, skip: int = 0, rank: int = 0, n_ranks: int = 1
        ) -> Iterator[tuple[Tensor, Tensor]]:
            size = max(small_supernet.space.resolutions)
            channels = next(small_supernet.parameters()).shape[1]
            yield torch.randn(8, channels, size, size), torch.zeros(8, dtype=torch.long)

    with pytest.raises(ValueError, match=r"phase 'plain' subsamples attention, and \w+ has none without"):
        Trainer(small_supernet, phases, Images()).run()


def test_compiled_blocks_are_refused() -> None:
    net = _transformer()
    for phases in (
        with_pathways(plain(net.space, Schedule(1, 0.1)), Pathways()),
        with_relation(fine_tuning(net.space, Schedule(1, 0.1), teacher="frozen"), AttentionRelation()),
    ):
        with pytest.raises(ValueError, match=r"watches attention .* set compile to False"):
            Trainer(net, phases, Noise(), engine=Engine(compile=True)).run()


@pytest.mark.parametrize("wrong", [{"groups": 0}, {"window": 1}, {"dense": 1.0}, {"prefix": -1}])
def test_impossible_pathways_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong)).removesuffix("s")):
        Pathways(**wrong)  # type: ignore[arg-type]


# -- relations among tokens --------------------------------------------------------------------------------------------


def test_a_student_that_attends_as_its_teacher_has_no_loss_whatever_turns_inside_a_head() -> None:
    q, k, v = _qkv()
    relation = AttentionRelation(heads=3)
    assert relation((q, k, v), (q, k, v)) == 0
    turn, _ = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(3)))
    assert relation((q @ turn, k @ turn, v), (q, k, v)) < 1e-10
    assert relation((q, k, v.flip(-2)), (q, k, v)) > 0.1


def test_relations_compare_networks_of_any_heads_and_channels() -> None:
    generator = torch.Generator().manual_seed(0)
    student = [torch.randn(2, 3, 17, 4, generator=generator, requires_grad=True) for _ in range(3)]
    teacher = [torch.randn(2, 4, 17, 8, generator=generator, requires_grad=True) for _ in range(3)]
    q, k, v = student
    loss = AttentionRelation(heads=2, weight=0.5)((q, k, v), (teacher[0], teacher[1], teacher[2]))
    loss.backward()
    assert torch.isfinite(loss) and all(x.grad is not None and x.grad.abs().sum() > 0 for x in student)
    assert all(x.grad is None for x in teacher)
    flat = [x.detach().transpose(1, 2).reshape(2, 17, -1) for x in (q, teacher[0])]  # by hand, one relation head
    first, second = (x @ x.transpose(1, 2) / x.shape[-1] ** 0.5 for x in flat)
    whole = AttentionRelation()
    torch.testing.assert_close(F.mse_loss(whole.relations(q), whole.relations(teacher[0])), F.mse_loss(first, second))
    with pytest.raises(ValueError, match="5 relation heads do not divide the 12 channels"):
        AttentionRelation(5)((q, k, v), (q, k, v))
    with pytest.raises(ValueError, match="0 relation heads"):
        AttentionRelation(0)
    with pytest.raises(ValueError, match="weight 0 of the relations"):
        AttentionRelation(weight=0)


def test_the_last_attention_is_what_is_compared() -> None:
    net = _transformer()
    images = torch.randn(2, 1, 16, 16)
    with RecordedAttention() as recorded:
        net(images, net.space.smallest)
    assert recorded.last is not None and recorded.last[0].shape == (2, 1, 17, 32)


@pytest.mark.parametrize("teacher", ["frozen", "in place"])
def test_the_loss_of_a_step_has_the_relations_of_its_teacher(teacher: str) -> None:
    net, images, labels = _transformer(), torch.randn(8, 1, 16, 16), torch.arange(8)
    archs = [net.space.largest, net.space.smallest]
    bare = Distillation(teacher=teacher)  # type: ignore[arg-type]
    frozen = freeze(net.extract(net.space.largest)) if teacher == "frozen" else None
    relation = AttentionRelation(heads=1, weight=3.0)
    with RecordedAttention() as recorded, torch.no_grad():
        net(images, archs[0])
        first = recorded.last
        net(images, archs[1])
    assert first is not None and recorded.last is not None
    expected = float(relation(recorded.last, first))
    before = accumulate_gradients(net, images, labels, archs, bare, teacher=frozen)
    after = accumulate_gradients(net, images, labels, archs, replace(bare, relation=relation), teacher=frozen)
    torch.testing.assert_close(after - before, torch.tensor([0.0, expected]), atol=1e-4, rtol=1e-4)
    assert expected > 0.01


def test_relations_need_a_frozen_teacher() -> None:
    relation, schedule = AttentionRelation(), Schedule(2, 0.1)
    for largest in (None, Schedule(1, 0.1)):
        phases = fine_tuning(SPACE, schedule, teacher="frozen", largest=largest)
        related = with_relation(phases, relation)
        assert isinstance(related[-1].loss, Distillation) and related[-1].loss.relation == relation
        assert related[:-1] == phases[:-1]
    for in_place in (single_stage(SPACE, schedule), fine_tuning(SPACE, schedule)):
        with pytest.raises(ValueError, match="a teacher in place run away"):
            with_relation(in_place, relation)
    with pytest.raises(ValueError, match="no phase has one"):
        with_relation(plain(SPACE, Schedule(2, 0.1)), relation)
