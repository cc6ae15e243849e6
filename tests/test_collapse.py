"""Training that collapses goes back to the last good checkpoint with a lower rate, so many times, also when killed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from supernet.training import (
    CollapseError,
    Phase,
    Progress,
    Record,
    Rollback,
    RollbackRecord,
    Schedule,
    Static,
    Trainer,
    only,
    plain,
)
from supernet.training.losses import Teacher
from supernet.training.optimisation import Optimisation

STEPS = 8


class Lines:
    """Points on a line, in order; the same in every epoch."""

    steps_per_epoch = STEPS

    def train_batches(self, epoch: int, skip: int = 0, rank: int = 0, n_ranks: int = 1):
        for step in range(skip, STEPS):
            x = torch.randn(8, 1, 2, 2, generator=torch.Generator().manual_seed(step))
            yield x[rank::n_ranks], (x.sum((1, 2, 3)) > 0).long()[rank::n_ranks]


@dataclass(frozen=True)
class Steep:
    """A fourth power: with a high rate the logits grow until they are not finite, with a low one they do not."""

    @property
    def teacher(self) -> Teacher:
        return "none"

    def __call__(self, logits: Tensor, labels: Tensor, teacher: Tensor | None, progress: float) -> Tensor:
        return ((logits - 3 * labels[:, None]) ** 4).mean()


def _net() -> Static:
    torch.manual_seed(0)
    return Static(nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), 2)


def _trainer(folder: Path | None, lr: float, epochs: int = 3, **options) -> Trainer:
    net = _net()
    return Trainer(
        net, (Phase("steep", net.space, Schedule(epochs, lr), loss=Steep()),), Lines(), folder=folder, **options
    )


def _lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rates_are_lowered_until_training_stays_finite(tmp_path: Path) -> None:
    seen: list[RollbackRecord] = []
    steps: list[tuple[int, float]] = []
    trainer = _trainer(tmp_path, 0.4, rollback=Rollback(at_most=8), save_steps=1, log_steps=1)

    def watch(record: Record) -> None:
        if isinstance(record, Progress):
            steps.append((record.step, record.lr))
        elif isinstance(record, RollbackRecord):
            seen.append(record)

    epochs = trainer.run(watch)
    assert len(epochs) == 3 and len(seen) >= 2
    assert [record.rate_factor for record in seen] == [0.5 ** (i + 1) for i in range(len(seen))]
    # The first epoch collapsed: nothing but the beginning was good, although every step was saved.
    assert all(record.back_to_step == 0 and "not finite" not in record.reason for record in seen[:1])
    assert all("the loss of the largest sub-network is" in record.reason for record in seen)
    assert all(torch.isfinite(p).all() for p in trainer.supernet.parameters())  # type: ignore[attr-defined]
    firsts = [lr for step, lr in steps if step == 1]
    assert firsts == pytest.approx([0.4 * 0.5**i for i in range(len(firsts))])
    assert _lines(tmp_path / "rollbacks.jsonl")[0]["rate_factor"] == 0.5
    assert len(_lines(tmp_path / "rollbacks.jsonl")) == len(seen)
    assert [line["step"] for line in _lines(tmp_path / "steps.jsonl")] == list(range(1, 3 * STEPS + 1))
    assert [line["epoch"] for line in _lines(tmp_path / "epochs.jsonl")] == [0, 1, 2]


def test_after_too_many_it_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CollapseError, match=r"after 2 rollbacks, at 0.25 times .*lower learning rate") as error:
        _trainer(tmp_path, 50.0, rollback=Rollback(at_most=2)).run()
    assert "\n" not in str(error.value)
    again: list[object] = []
    with pytest.raises(CollapseError, match="after 2 rollbacks"):  # the same command does not start to count anew
        _trainer(tmp_path, 50.0, rollback=Rollback(at_most=2)).run(only(RollbackRecord, again.append))
    assert not again
    with pytest.raises(CollapseError, match=r"in step \d+ .*lower learning rate than 50"):
        _trainer(None, 50.0).run()  # without a folder there is nothing to go back to


class Killed(Exception):
    pass


def _accuracies(found: Mapping[float, list[float]]):
    """A validation that finds, at each learning-rate factor, one accuracy after the other; and how it was called."""
    state = {"factor": 1.0, "calls": []}

    def validate(_: object) -> dict[str, float]:
        epoch = len([factor for factor, _ in state["calls"] if factor == state["factor"]])
        state["calls"].append((state["factor"], epoch))
        return {"largest": found[state["factor"]][epoch]}

    return validate, state


def test_a_fall_of_the_largest_network_is_a_collapse_that_survives_a_kill(tmp_path: Path) -> None:
    rule = Rollback(margin=0.1)

    def run(folder: Path, kill: bool) -> tuple[list[float], dict[str, Tensor], list[RollbackRecord]]:
        validate, state = _accuracies({1.0: [0.5, 0.6, 0.49], 0.5: [0.55, 0.8, 0.75]})
        records: list[RollbackRecord] = []

        def on_rollback(record: RollbackRecord) -> None:
            records.append(record)
            state["factor"] = record.rate_factor
            if kill:
                raise Killed

        trainer = _trainer(folder, 0.001, 5, rollback=rule, validate=validate, save_steps=3, keep=1)
        if kill:
            with pytest.raises(Killed):
                trainer.run(only(RollbackRecord, on_rollback))
            kill = False
            trainer = _trainer(folder, 0.001, 5, rollback=rule, validate=validate, save_steps=3, keep=1)
        epochs = trainer.run(only(RollbackRecord, on_rollback))
        net = trainer.supernet
        assert isinstance(net, nn.Module)
        return [epoch.validation["largest"] for epoch in epochs], dict(net.state_dict()), records

    accuracies, weights, records = run(tmp_path / "undisturbed", kill=False)
    assert accuracies == [0.5, 0.6, 0.55, 0.8, 0.75]  # 0.55 and 0.75 are within the margin of the best before
    assert len(records) == 1 and records[0].back_to_step == 2 * STEPS and records[0].step == 3 * STEPS
    assert "fallen from 60.0% to 49.0%" in records[0].reason
    killed, same, _ = run(tmp_path / "killed", kill=True)
    assert killed == accuracies
    assert all(torch.equal(same[name], value) for name, value in weights.items())
    assert len(_lines(tmp_path / "killed" / "rollbacks.jsonl")) == 1


def test_the_rate_after_a_rollback_follows_the_same_schedule() -> None:
    (phase,) = plain(_net().space, Schedule(2, 0.4, 1, 0.1))
    whole, half = (
        Optimisation(_net(), phase, 4, optimizer="sgd", weight_decay=0, momentum=0.9, rate_factor=factor)
        for factor in (1.0, 0.5)
    )
    half.load_state_dict(whole.state_dict())  # of the checkpoint that was gone back to
    for step in range(8):
        for optimisation in (whole, half):
            optimisation.set_rate(step)
        assert half.lr == pytest.approx(whole.lr / 2) and whole.lr > 0


@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"at_most": -1}, "0 is none"), ({"factor": 1.0}, "factor 1.0"), ({"margin": 0.0}, "margin 0.0")],
)
def test_rules_that_make_no_sense_are_refused(wrong: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Rollback(**wrong)
