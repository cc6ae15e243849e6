"""Checkpoints: killed training ends with the same bits; damage falls back; another run is refused."""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import pytest
import torch
from torch import Tensor, nn

from supernet import create_supernet, elastic
from supernet.families.traced import TracedSupernet
from supernet.networks.timm_supernet import TimmSupernet
from supernet.pruning.costs import share_of_macs
from supernet.pruning.spec import Pruning
from supernet.pruning.units import Units
from supernet.training import (
    Engine,
    Progress,
    Schedule,
    Trainer,
    TrainingInterrupted,
    Uniform,
    gradual_shrinking,
    only,
    progressive_shrinking,
    pruning,
    single_stage,
)
from supernet.training.checkpoint import CheckpointFolder, as_plain, first_difference, load_checkpoint
from supernet.training.records import Epoch, Log

pytestmark = pytest.mark.slow

CHILD = "import runpy, sys; runpy.run_path(sys.argv[1])['_child'](sys.argv[2])\n"


class Noise:
    """Random images, the same for the same epoch."""

    steps_per_epoch = 5

    def train_batches(
        self, epoch: int, skip: int = 0, rank: int = 0, n_ranks: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(skip, self.steps_per_epoch):
            generator = torch.Generator().manual_seed(1000 * epoch + step)
            labels = torch.randint(10, (8,), generator=generator)
            images = torch.randn(8, 1, 8, 8, generator=generator) + labels.view(-1, 1, 1, 1) / 5
            yield images[rank::n_ranks], labels[rank::n_ranks]


def _supernet() -> TimmSupernet:
    net = create_supernet(
        "mobilenetv3", num_classes=10, in_chans=1, depths=[1, 2], kernels=[3, 5], expands=[2, 3, 4], resolutions=[6, 8],
        stages=[{"width": 8, "stride": 2}, {"width": 12, "se": True}],
        stem_width=8, stem_stride=1, head_width=24, feature_width=32,
    )  # fmt: skip
    net._template[0].drop_rate = 0.2  # the random numbers of dropout must come back too
    return net


def _trainer(folder: Path | None, **changes: object) -> Trainer:
    """Shrinking in five phases of two epochs: teacher, sorting and fresh optimisers are all on the way."""
    net, schedule = _supernet(), Schedule(2, 0.05, 0.5)
    phases = progressive_shrinking(
        net.space, schedule, schedule, schedule, schedule, subnets={"depth": 2, "middle_width": 2}
    )
    trainer = Trainer(net, phases, Noise(), seed=3, folder=folder, save_steps=3)
    for name, value in changes.items():
        setattr(trainer, name, value)
    return trainer


def _child(folder: str) -> None:
    """What the killed process runs: it says every step, and is slow enough to be killed before its end."""

    def say(progress: Progress) -> None:
        print(progress.step, flush=True)
        time.sleep(0.02)

    torch.set_num_threads(1)
    try:
        _trainer(Path(folder)).run(only(Progress, say))
    except TrainingInterrupted as interrupted:
        print(interrupted, file=sys.stderr)
        raise


def _weights(trainer: Trainer) -> dict[str, Tensor]:
    assert isinstance(trainer.supernet, torch.nn.Module)
    return {name: value.clone() for name, value in trainer.supernet.state_dict().items()}


def _assert_same_bits(trainer: Trainer, expected: dict[str, Tensor]) -> None:
    found = _weights(trainer)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.fixture(scope="module")
def undisturbed() -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    torch.set_num_threads(1)
    trainer = _trainer(None)
    epochs = trainer.run()
    return _weights(trainer), [dict(epoch.losses) for epoch in epochs]


class Interrupted(Exception):
    pass


def _run_until(trainer: Trainer, step: int) -> None:
    def stop(progress: Progress) -> None:
        if progress.step == step:
            raise Interrupted

    with pytest.raises(Interrupted):
        trainer.run(only(Progress, stop))


# -- resuming ---------------------------------------------------------------------------------------------------------


def test_killed_training_ends_with_the_same_bits(
    commands: Any, tmp_path: Path, undisturbed: tuple[dict[str, Tensor], list[dict[str, float]]]
) -> None:
    weights, losses = undisturbed
    (program := tmp_path.with_suffix(".py")).write_text(CHILD)
    rng, reached = random.Random(0), 0
    ends = {signal.SIGKILL: -signal.SIGKILL, signal.SIGUSR1: 143, signal.SIGINT: -signal.SIGINT}
    for how, last in zip(ends, (rng.randint(4, 18), rng.randint(19, 26), rng.randint(29, 39)), strict=True):
        child = commands.begin(__file__, tmp_path, program=program)
        while not child.has_ended and f"{last}\n" not in child.said().splitlines(keepends=True):
            time.sleep(0.005)
        os.kill(child.pid, how)
        done = child.end()
        reached, said = int(done.stdout.split()[-1]), done.stderr
        assert done.returncode == ends[how] and reached >= last, said
        if how == signal.SIGUSR1:  # where Ctrl-C is one line, the command line says it
            assert f"stopped after step {reached} of 50" in said and "carries on from here" in said
        if how != signal.SIGKILL:  # asked, and not killed, it has saved the very step that it stopped after
            assert (tmp_path / "epochs.jsonl").exists() and sorted(tmp_path.glob(f"step-{reached:09d}-*"))
    steps: list[int] = []
    trainer = _trainer(tmp_path)
    epochs = trainer.run(only(Progress, lambda progress: steps.append(progress.step)))
    assert steps[0] == reached + 1
    _assert_same_bits(trainer, weights)
    lines = [json.loads(line) for line in (tmp_path / "epochs.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(len(losses)))
    assert [dict(epoch.losses) for epoch in epochs] == losses == [line["losses"] for line in lines]


@pytest.mark.parametrize("stop", [1, 7, 10, 11, 33, 47])
def test_stopped_at_any_step_ends_with_the_same_bits(
    tmp_path: Path, stop: int, undisturbed: tuple[dict[str, Tensor], list[dict[str, float]]]
) -> None:
    _run_until(_trainer(tmp_path), stop)
    trainer = _trainer(tmp_path)
    trainer.run()
    _assert_same_bits(trainer, undisturbed[0])


def test_dropout_and_in_place_distillation_resume_too(tmp_path: Path) -> None:
    def trainer(folder: Path | None) -> Trainer:
        net = _supernet()
        phases = single_stage(net.space, Schedule(2, 0.1), warmup=Schedule(1, 0.1))
        return Trainer(net, phases, Noise(), folder=folder, save_seconds=0.0)

    _run_until(trainer(tmp_path), 12)
    whole, resumed = trainer(None), trainer(tmp_path)
    whole.run()
    resumed.run()
    _assert_same_bits(resumed, _weights(whole))


@pytest.mark.parametrize("stop", [8, 12, 17])
def test_ranges_that_open_resume_too(tmp_path: Path, stop: int) -> None:
    def trainer(folder: Path | None) -> Trainer:
        net = _supernet()
        phases = gradual_shrinking(net.space, Schedule(4, 0.1), Schedule(1, 0.1), opening=0.6, sort=True)
        assert {phase.space.size for phase in phases} == {net.space.size} and len(phases[1].opening) == 3
        return Trainer(net, phases, Noise(), folder=folder, save_seconds=0.0)

    _run_until(trainer(tmp_path), stop)
    whole, resumed = trainer(None), trainer(tmp_path)
    whole.run()
    resumed.run()
    _assert_same_bits(resumed, _weights(whole))


@pytest.mark.parametrize("stop", [4, 9, 14])
@pytest.mark.parametrize("by", ["hesso", "dhspg"])
def test_pruning_resumes_too(tmp_path: Path, stop: int, by: Literal["hesso", "dhspg"]) -> None:
    def trainer(folder: Path | None) -> Trainer:
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
        )  # fmt: skip
        net = elastic(model, example_input=torch.zeros(1, 1, 8, 8), multiple_of=1)
        phases = pruning(net.space, Schedule(4, 0.05), Pruning(0.6, by, begin=0.1, end=0.6, periods=3))
        return Trainer(net, phases, Noise(), folder=folder, save_seconds=0.0)

    _run_until(trainer(tmp_path), stop)
    whole, resumed = trainer(None), trainer(tmp_path)
    whole.run()
    resumed.run()
    _assert_same_bits(resumed, _weights(whole))
    units = Units(cast(TracedSupernet, whole.supernet))
    assert int(units.zero.sum()) > 0 and share_of_macs(units.supernet)(units.kept(units.zero)) <= 0.6


def test_an_average_of_weights_is_not_pruned(tmp_path: Path) -> None:
    net = elastic(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), example_input=torch.zeros(1, 4))
    phases = pruning(net.space, Schedule(1, 0.1), Pruning(0.5))
    with pytest.raises(ValueError, match="set ema to None"):
        Trainer(net, phases, Noise(), engine=Engine(ema=0.99)).run()


def test_damaged_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, undisturbed: tuple[dict[str, Tensor], list[dict[str, float]]]
) -> None:
    _run_until(_trainer(tmp_path), 20)
    before, newest = sorted(tmp_path.glob("*.pt"))
    newest.write_bytes(newest.read_bytes()[:-100])
    trainer, steps = _trainer(tmp_path), []
    with pytest.warns(RuntimeWarning, match=r"step-000000018.* is damaged.*falling back"):
        trainer.run(only(Progress, lambda progress: steps.append(progress.step)))
    assert steps[0] == int(before.name[5:14]) + 1
    assert newest.with_name(f"{newest.name}.damaged").exists()
    _assert_same_bits(trainer, undisturbed[0])


def test_another_recipe_is_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    _run_until(_trainer(tmp_path), 7)
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    phases = _trainer(None).phases
    longer = (phases[0], replace(phases[1], schedule=Schedule(3, 0.05, 0.5)), *phases[2:])
    other = (replace(phases[0], sampler=Uniform(2)), *phases[1:])
    for changes, message in (
        ({"phases": longer}, r"phases\.1\.schedule\.epochs was 2 and is 3; choose another folder"),
        ({"phases": other}, r"phases\.0\.sampler\.n was 1 and is 2"),
        ({"seed": 4}, "seed was 3 and is 4"),
        ({"identity": {"data": "other"}}, "identity"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            _trainer(tmp_path, **changes).run()
        assert "\n" not in str(error.value)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files


# -- the folder -------------------------------------------------------------------------------------------------------


def test_the_last_ones_are_kept(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "deep" / "down", keep=2)
    assert folder.read() is None
    for step in (1, 5, 40):
        folder.save(step, {"step": step, "tensor": torch.full((3,), step)})
    assert [path.name[:14] for path in sorted(folder.folder.iterdir())] == ["step-000000005", "step-000000040"]
    state = _newest(folder)
    assert state["step"] == 40 and torch.equal(state["tensor"], torch.full((3,), 40))


def test_the_last_good_one_is_kept_and_a_rollback_outranks_the_rest(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=2)
    folder.save(2, {"step": 2}, good=True)
    for step in (3, 4, 5):
        folder.save(step, {"step": step})
    assert [path.name[:14] for path in sorted(tmp_path.iterdir())] == [f"step-00000000{step}" for step in (2, 4, 5)]
    content = folder.read(good=True)
    assert content is not None and load_checkpoint(content) == {"step": 2} and _newest(folder) == {"step": 5}
    folder.save(5, {"step": 5, "validated": True}, good=True)  # takes the place of the other one at its step
    assert len(list(tmp_path.iterdir())) == 2 and _newest(folder) == {"step": 5, "validated": True}
    folder.save(2, {"step": 2, "rolled back": True}, rollbacks=1, good=True)
    assert _newest(folder) == {"step": 2, "rolled back": True}
    folder.save(3, {"step": 3, "again": True}, rollbacks=1)
    assert _newest(folder) == {"step": 3, "again": True}
    assert all("-r1-" in path.name for path in tmp_path.iterdir())


def _newest(folder: CheckpointFolder) -> dict[str, Any]:
    content = folder.read()
    assert content is not None
    return load_checkpoint(content)


@pytest.mark.parametrize("damage", ["truncated", "empty", "one bit"])
def test_all_damaged_is_an_error(tmp_path: Path, damage: str) -> None:
    folder = CheckpointFolder(tmp_path)
    content = bytearray((path := folder.save(1, {"step": 1})).read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"truncated": content[:100], "empty": b"", "one bit": bytes(content)}[damage])
    with (
        pytest.warns(RuntimeWarning, match="damaged"),
        pytest.raises(ValueError, match=r"every checkpoint .* is damaged"),
    ):
        folder.read()


def test_a_failed_write_leaves_the_one_before(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.save(1, {"step": 1})

    class Unwritable:
        def __reduce__(self) -> str:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        folder.save(2, {"bad": Unwritable()})
    assert _newest(folder) == {"step": 1} and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(ValueError, match="least is 1"):
        CheckpointFolder(tmp_path, keep=0)


def test_checkpoints_never_run_code(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.save(1, {"bad": Path})
    with pytest.raises(Exception, match=r"[Ww]eights"):
        _newest(folder)


def test_log_drops_what_is_not_done(tmp_path: Path) -> None:
    path = tmp_path / "epochs.jsonl"
    line = (
        '{"epoch": %d, "phase": "x", "step": 1, "lr": 0.1, "losses": {}, "images_per_second": 1.0, "validation": {}}\n'
    )
    path.write_text(line % 0 + line % 1 + line % 2 + '{"epoch": 3, "pha')
    assert [epoch.epoch for epoch in Log(path, Epoch).cut(lambda epoch: epoch.epoch < 2)] == [0, 1]
    assert path.read_text() == line % 0 + line % 1


def test_differences_are_named() -> None:
    plain = as_plain({"a": (1, 2.5), "schedule": Schedule(2, 0.1)})
    assert json.loads(json.dumps(plain)) == plain
    assert first_difference(plain, plain) is None
    assert first_difference({"a": [1, 2]}, {"a": [1, 3]}) == "a.1 was 2 and is 3"
    assert first_difference({"a": 1, "b": 2}, {"b": 2, "a": 1}) is not None  # the order of genes
    assert first_difference({"b": 1}, {"a": 2, "b": 1}, "x") == "x.a was not there and is 2"
    assert first_difference({"a": 2, "b": 1}, {"b": 3}) == "b was 1 and is 3"
    assert first_difference([1], [1, 2]) == "it was [1] and is [1, 2]"
    with pytest.raises(TypeError, match="cannot be part"):
        as_plain({"f": print})
