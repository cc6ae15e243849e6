"""Pruning by trials, of whole operators, and by learned shapes: the laws of each, on networks of a few layers."""

import itertools
import json
import random
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from supernet import elastic
from supernet.graph.flow import Flow
from supernet.graph.proof import difference
from supernet.networks.counting import COUNTS
from supernet.pruning.consensus import Consensus
from supernet.pruning.costs import Prices, counted, share_of_macs
from supernet.pruning.cric import Cric
from supernet.pruning.dhspg import Dhspg
from supernet.pruning.operators import Joint, Operators
from supernet.pruning.plan import Plan, Pruner
from supernet.pruning.spec import Pruning
from supernet.pruning.tas import Tas, interpolation
from supernet.pruning.units import Units
from supernet.subnet import load_subnet, save_subnet

IMAGES = torch.randn(48, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = (IMAGES[:, 0].flatten(1).argmax(1) % 10).long()


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.widen, self.norm = nn.Conv2d(width, 3 * width, 1, bias=False), nn.BatchNorm2d(3 * width)
        self.narrow, self.last = nn.Conv2d(3 * width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(self.narrow(torch.relu(self.norm(self.widen(x)))))


class Branches(nn.Module):
    """Several ways beside each other, of which one must stay, and a chain of which nothing can go."""

    def __init__(self, width: int, n: int) -> None:
        super().__init__()
        self.ways = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(n))
        self.chain = nn.Sequential(nn.Conv2d(width, width, 1), nn.ReLU(), nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.chain(torch.stack([way(x) for way in self.ways]).sum(0))


def supernet_of(seed: int = 0, branches: int = 0, blocks: int = 3) -> Any:
    torch.manual_seed(seed)
    stem = [nn.Conv2d(1, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    middle: list[nn.Module] = [nn.Sequential(*(Block(8) for _ in range(blocks)))]
    if branches:
        middle.append(Branches(8, branches))
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)]
    return elastic(nn.Sequential(*stem, *middle, *head), example_input=IMAGES[:2], multiple_of=1, importance=None)


def train(supernet: Any, pruner: Pruner, steps: int, seed: int = 0, optimizer: Any = None) -> None:
    """As the training loop does it: penalties, and the loss before the step."""
    if optimizer is None:
        optimizer = torch.optim.SGD(supernet.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4)
        pruner.attach(optimizer)
    torch.manual_seed(seed)
    supernet.train()
    for _ in range(steps):
        batch = torch.randperm(48)[:32]
        loss = nn.functional.cross_entropy(supernet(IMAGES[batch], supernet.space.largest), LABELS[batch])
        penalty = pruner.penalty()
        (loss if penalty is None else loss + penalty).backward()
        pruner.loss = float(loss.detach())
        optimizer.step()
        optimizer.zero_grad()
    supernet.eval()


def same(small: Any, supernet: Any) -> None:
    with torch.no_grad():
        torch.testing.assert_close(small.eval()(IMAGES), supernet(IMAGES, supernet.space.largest), rtol=1e-5, atol=1e-5)


# -- trials ------------------------------------------------------------------------------------------------------------


def test_trials_leave_no_trace_and_then_as_many_units_as_planned_go():
    supernet = supernet_of()
    units = Units(supernet)
    cric = Cric(units, Plan(0.5, 2, 6, 1), sampling=3, cycles=4)
    optimizer = torch.optim.SGD(supernet.parameters(), lr=0.02, momentum=0.9)
    cric.attach(optimizer)
    train(supernet, cric, 2, optimizer=optimizer)
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    moments = {p: optimizer.state[p]["momentum_buffer"].clone() for p in supernet.parameters()}
    losses, n = [], 0
    while cric._shrinks_from is None:
        assert not cric.settled
        train(supernet, cric, 1, seed=n, optimizer=optimizer)
        losses.append(cric._reference)
        n += 1
    assert n <= Cric.probing(units, 3, 4) and cric.settled
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())
    assert all(torch.equal(optimizer.state[p]["momentum_buffer"], moment) for p, moment in moments.items())
    assert int(cric.marked.sum()) == units.n // 2
    train(supernet, cric, 9, optimizer=optimizer)
    assert int((units.sums(units.parameters) == 0).sum()) == int(cric.gone.sum()) == units.n // 2
    same(cric.network(), supernet)


def test_a_set_that_wrecks_the_loss_is_kept():
    supernet = supernet_of()
    units = Units(supernet)
    cric = Cric(units, Plan(0.8, 1, 3, 1), sampling=1, cycles=1)
    optimizer = torch.optim.SGD(supernet.parameters(), lr=1e-4)
    cric.attach(optimizer)
    for step in range(1 + Cric.probing(units, 1, 1)):
        supernet(IMAGES, supernet.space.largest).mean().backward()
        cric.loss = 50.0 if 2 <= step <= 4 else 1.0  # while parts of the first set are left out
        optimizer.step()
    first = units.sets[0]
    assert bool(cric.marked.any()) and not bool(cric.marked[first.first : first.first + first.n].any())
    with pytest.raises(ValueError, match=r"set pruner\.loss"):
        other = Cric(Units(supernet_of()), Plan(0.8, 1, 3, 1))
        sgd = torch.optim.SGD(other.units.supernet.parameters(), lr=1e-4)
        other.attach(sgd)
        for _ in range(2):
            other.units.supernet(IMAGES, other.units.supernet.space.largest).mean().backward()
            sgd.step()


# -- operators ---------------------------------------------------------------------------------------------------------


def test_operators_are_what_can_be_left_out_and_nothing_else():
    supernet = supernet_of(branches=3)
    operators = Operators(supernet)
    assert operators.paths == ["3.0", "3.1", "3.2", "4.ways.0", "4.ways.1", "4.ways.2"]
    resnet: Any = elastic(timm.create_model("test_resnet", num_classes=5), family="traced")
    paths = Operators(resnet).paths
    assert paths and all(path.count(".") == 1 and path.startswith("layer") for path in paths)
    with pytest.raises(ValueError, match="can be erased"):
        layers = [nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 16, 3)]
        chain: Any = elastic(nn.Sequential(*layers), example_input=IMAGES[:2])
        Operators(chain)


def test_erased_operators_leave_the_output_as_it_is_and_the_network_connected():
    supernet = supernet_of(branches=3)
    operators = Operators(supernet)
    pruner = Dhspg(operators, Plan(0.4, 1, 6, 1), "l2")  # 4 of 6 would be too many ways in one place
    train(supernet, pruner, 9)
    assert int(operators.zero.sum()) == int(pruner.gone.sum()) == 4
    assert {path.rpartition(".")[0] for path, gone in zip(operators.paths, pruner.gone, strict=True) if not gone} == {
        "3", "4.ways",
    }  # fmt: skip
    small = pruner.network()
    same(small, supernet)
    assert len(small[3]) == len(small[4].ways) == 1
    again: Any = elastic(small, example_input=IMAGES[:2], multiple_of=1, importance=None)
    macs = [counted(net, "macs")(net.graph.full) for net in (again, supernet)]
    assert macs[0] / macs[1] == pytest.approx(operators.priced(share_of_macs(supernet), pruner.gone))


def test_a_path_is_never_cut():
    """H2SPG's law, on random graphs: accepted one by one, whatever the order, something always gets through."""
    rng = random.Random(0)
    n_cut = 0
    for _ in range(200):
        n = rng.randint(2, 14)
        sources = [sorted({rng.randint(-1, i - 1) for _ in range(rng.randint(1, 3))}) for i in range(n)]
        flow, without = Flow(sources, (n - 1,)), set[int]()
        for step in rng.sample(range(n), n):
            if flow.connected(without | {step}):
                without.add(step)
            else:
                n_cut += 1
        edges = {(s, i) for i in range(n) if i not in without for s in sources[i] if s < 0 or s not in without}
        reached, grown = {-1}, True
        while grown:
            further = {i for s, i in edges if s in reached} - reached
            reached, grown = reached | further, bool(further)
        assert n - 1 in reached
    assert n_cut > 200


# -- shapes ------------------------------------------------------------------------------------------------------------


def test_channels_are_stretched_by_means():
    x = torch.randn(5, 7)
    assert torch.equal(interpolation(5, 5) @ x, x)
    assert torch.allclose((interpolation(3, 6) @ x[:3]).mean(0), x[:3].mean(0))
    assert torch.allclose((interpolation(3, 5) @ torch.ones(3, 2)), torch.ones(5, 2))
    expected = nn.functional.adaptive_avg_pool1d(x[:3].T[None], 5)[0].T
    assert torch.allclose(interpolation(3, 5) @ x[:3], expected)


def test_the_expected_cost_is_the_mean_over_all_shapes():
    supernet = supernet_of(blocks=2)
    tas = Tas(Units(supernet), Plan(0.6, 1, 6, 1, share_of_macs(supernet)))
    assert isinstance(tas.units, Joint) and len(tas.widths) == 2 and len(tas._runs) == 1
    torch.manual_seed(0)
    for one in tas.logits:
        one.data.normal_()
    total = 0.0
    for shape in itertools.product(*(range(len(one)) for one in tas.logits)):
        p = np.prod([float(one.detach().softmax(0)[i]) for one, i in zip(tas.logits, shape, strict=True)])
        total += p * tas.cost_of(shape)
    assert float(tas.expected_cost().detach()) == pytest.approx(total, rel=1e-4)
    tas.expected_cost().backward()
    assert all(float(one.grad.abs().sum()) > 0 for one in tas.logits)  # type: ignore[union-attr]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_shape_is_found_near_its_target_and_learned_by_the_task(optimizer):
    supernet = supernet_of()
    tas = Tas(Units(supernet), Plan(0.6, 2, 30, 1, share_of_macs(supernet)), rate=0.1)
    kinds: dict[str, Any] = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}
    sgd = kinds[optimizer](supernet.parameters(), lr=0.01)
    tas.attach(sgd)
    train(supernet, tas, 2, optimizer=sgd)
    weights = [p.detach().clone() for p in supernet.parameters()]
    train(supernet, tas, 1, optimizer=sgd)  # of the weights: the logits wait
    assert all(float(one.detach().abs().max()) == 0 for one in tas.logits)
    assert any(not torch.equal(a, b) for a, b in zip(weights, supernet.parameters(), strict=True))
    weights = [p.detach().clone() for p in supernet.parameters()]
    supernet.train()
    nn.functional.cross_entropy(supernet(IMAGES, supernet.space.largest), LABELS).backward()
    assert all(float(one.grad.abs().sum()) > 0 for one in tas.logits)  # type: ignore[union-attr]  the task's alone
    sgd.step()
    assert all(torch.equal(a, b) for a, b in zip(weights, supernet.parameters(), strict=True))
    assert all(float(one.detach().abs().max()) > 0 for one in tas.logits)
    sgd.zero_grad()
    train(supernet, tas, 32, optimizer=sgd)
    left = tas.units.priced(share_of_macs(supernet), tas.gone)
    assert 0.57 <= left <= 0.6
    small = tas.network()
    same(small, supernet)
    again: Any = elastic(small, example_input=IMAGES[:2], multiple_of=1, importance=None)
    macs = [counted(net, "macs")(net.graph.full) for net in (again, supernet)]
    assert macs[0] / macs[1] == pytest.approx(left)


# -- budgets, resuming, files ------------------------------------------------------------------------------------------


def prices_of(supernet: Any, seed: int = 0) -> Prices:
    """Of a device that nobody has: some price for every count of every part, and a floor."""
    rng = np.random.default_rng(seed)
    table = rng.random((len(supernet.part_terms()), len(COUNTS))) * 1e-9
    return Prices((tuple(map(tuple, table.tolist())), ((0.0,) * len(COUNTS),) * len(table)), (1e-6, 0.0))


def test_a_latency_is_what_the_table_of_costs_gives_for_what_the_space_knows():
    supernet = supernet_of()
    prices = prices_of(supernet)
    cost = prices.of(supernet)
    archs = list(supernet.space.sample(8, np.random.default_rng(0)))
    genes = supernet.space.encode(archs)
    expected = 1e-6 + np.tensordot(supernet.cost_table.counts(genes), np.array(prices.prices[0]), axes=2)
    for arch, value in zip(archs, expected, strict=True):
        (run,), depth = supernet.runs, len(arch.stages[0])
        assert cost(supernet.kept(arch), dict.fromkeys(run.paths[depth:], 0.0)) == pytest.approx(float(value))
    with pytest.raises(ValueError, match="prices of 2 parts"):
        Prices((prices.prices[0][:2],), (0.0,)).of(supernet)


@pytest.mark.parametrize("by", ["hesso", "hesso_cric", "dhspg", "h2spg", "consensus", "tas"])
def test_every_rule_keeps_a_budget_of_latency_and_goes_on_where_it_stopped(by, tmp_path):
    first = supernet_of()
    prices = prices_of(first)
    whole = float(prices.of(first)(first.graph.full))
    settings = Pruning(0.7 * whole, by=by, of="latency", absolute=True, prices=prices, begin=0.05, end=0.9, periods=4)

    def begun(supernet: Any) -> tuple[Any, Pruner, Any]:
        optimizer = torch.optim.SGD(supernet.parameters(), lr=0.01, momentum=0.9)
        return supernet, settings.start(supernet, 60), optimizer

    supernet, pruner, optimizer = begun(first)
    pruner.attach(optimizer)
    for step in range(60):
        if step == 35:
            state = [supernet.state_dict(), pruner.state_dict(), optimizer.state_dict()]
            torch.save(state, tmp_path / "state.pt")
        train(supernet, pruner, 1, seed=step, optimizer=optimizer)
    other, resumed, again = begun(supernet_of(1))
    for one, kept in zip((other, resumed, again), torch.load(tmp_path / "state.pt", weights_only=True), strict=True):
        one.load_state_dict(kept)
    resumed.attach(again)
    for step in range(35, 60):
        train(other, resumed, 1, seed=step, optimizer=again)
    assert torch.equal(pruner.gone, resumed.gone)
    assert all(torch.equal(a, b) for a, b in zip(supernet.parameters(), other.parameters(), strict=True))
    cost = settings.cost(supernet)
    assert cost is not None
    left = pruner.units.priced(cost, pruner.gone)
    assert 0.4 * whole < left <= 0.7 * whole
    if by != "h2spg":  # whose steps are whole blocks
        assert left > 0.63 * whole
    removable = settings.removable(supernet)  # what a finished run knows is the weights alone
    zero = removable.zero
    assert removable.priced(cost, zero) == pytest.approx(left)
    small = removable.without(zero)
    same(small, supernet)
    supernet.definition = {"name": "x:y", "num_classes": 10, "in_chans": 1}
    units_kept, gone = removable.left(zero)
    folder = tmp_path / by
    folder.mkdir()
    save_subnet(small, supernet.space.largest, supernet.definition, folder, kept=units_kept, gone=list(gone))
    assert json.loads((folder / "arch.json").read_text())["gone"] == list(gone)
    loaded = load_subnet(folder, lambda **_: supernet_of(2))
    with torch.no_grad():
        assert difference(loaded(IMAGES), small.eval()(IMAGES)) < 1e-6


def test_gates_are_decided_at_the_end_of_their_plan():
    supernet = supernet_of()
    consensus = Consensus(Units(supernet), Plan(0.7, 1, 20, 1, share_of_macs(supernet)))
    train(supernet, consensus, 24)
    assert not consensus.gates._hooks and consensus.units.priced(share_of_macs(supernet), consensus.gone) <= 0.7
    same(consensus.network(), supernet)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"target": 0.5, "by": "hesso_cric"}, "train longer"),
        ({"target": 0.05, "by": "tas"}, "cannot be reached"),
        ({"target": 0.05, "by": "h2spg"}, "cannot be reached"),
        ({"target": 0.5, "of": "latency"}, "measure it"),
    ],
)
def test_what_cannot_be_is_refused_before_the_first_step(settings, why):
    with pytest.raises(ValueError, match=why):
        Pruning(**settings).start(supernet_of(), 20)
    with pytest.raises(ValueError, match="no rule 'lasso'"):
        Pruning(0.5, by="lasso")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="counted as a share"):
        Pruning(20, of="units", absolute=True)
