"""Training on two processes: the gradient of one on the joined batch, and exact resume whoever is killed.

Run under torchrun, this file is also what the processes of the tests do; see the end.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from supernet import Architecture, create_supernet
from supernet.networks.timm_supernet import TimmSupernet
from supernet.space.nested import NestedFamily
from supernet.training import (
    Attentive,
    CrossEntropy,
    Distillation,
    Engine,
    InPlaceDistillation,
    Largest,
    MacBins,
    Nested,
    Phase,
    Progress,
    Sandwich,
    Schedule,
    Shift,
    Trainer,
    Uniform,
    World,
    join,
    only,
)
from supernet.training.batch_norm import SynchronisedBatchNorm
from supernet.training.distributed import agree
from supernet.training.gradients import accumulate_gradients, freeze
from supernet.training.optimisation import Optimisation
from supernet.training.step import Stepper, StepResult

pytestmark = pytest.mark.slow

N = 2


def _supernet() -> TimmSupernet:
    return create_supernet(
        "mobilenetv3", num_classes=10, in_chans=1, depths=[1, 2], kernels=[3, 5], expands=[2, 3, 4], resolutions=[6, 8],
        stages=[{"width": 8, "stride": 2}, {"width": 12, "se": True}],
        stem_width=8, stem_stride=1, head_width=24, feature_width=32,
    )  # fmt: skip


def _batch(step: int = 0, n: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    labels = torch.randint(10, (n,), generator=generator)
    return torch.randn(n, 1, 8, 8, generator=generator) + labels.view(-1, 1, 1, 1) / 5, labels


class Noise:
    """Random images, the same for the same epoch."""

    steps_per_epoch = 5

    def train_batches(
        self, epoch: int, skip: int = 0, rank: int = 0, n_ranks: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(skip, self.steps_per_epoch):
            images, labels = _batch(100 * epoch + step)
            yield images[rank::n_ranks], labels[rank::n_ranks]


# -- one step ---------------------------------------------------------------------------------------------------------


def _phases(net: TimmSupernet) -> dict[str, Phase]:
    """Every sampler, every kind of teacher, and what shares out images."""
    space, bins = net.space, MacBins(net, n_bins=4)
    family = Nested(NestedFamily.between(space, 4))
    schedule = Schedule(2, 0.1)
    return {
        "largest": Phase("x", space, schedule, Largest(), CrossEntropy()),
        "uniform": Phase("x", space, schedule, Uniform(2), Distillation()),
        "sandwich": Phase("x", space, schedule, Sandwich(2), InPlaceDistillation((0.5, 0.0)), regularise="largest"),
        "bins": Phase("x", space, schedule, Uniform(2, bins), CrossEntropy()),
        "nested": Phase("x", space, schedule, Uniform(2, family), CrossEntropy(), split_batch=True),
        "attentive": Phase("x", space, schedule, Attentive(Sandwich(1, bins)), Distillation()),
        "shift": Phase("x", space, schedule, Shift(Sandwich(1, bins), every=1), CrossEntropy()),
        "accumulated": Phase("x", space, schedule, Sandwich(1), CrossEntropy()),
        "opening": Phase("x", space, schedule, Sandwich(2), opening=((0.3, space.restrict(depth=(2,), expand=(4,))),)),
    }


class Recorded(Optimisation):
    """Keeps the gradients that an update was made from."""

    def update(self, loss: float | None = None) -> None:
        self.gradients = {n: p.grad.clone() for n, p in self._module.named_parameters() if p.grad is not None}
        super().update(loss)


def _step(name: str, world: World, synchronised: bool) -> tuple[dict[str, Tensor], dict[str, Tensor], StepResult]:
    """Gradients, buffers and result of one step in double precision, in which rounding hides nothing."""
    net = _supernet().double()
    phase, engine = _phases(net)[name], Engine(
        sync_batch_norm=synchronised, accumulation=2 if name == "accumulated" else 1
    )  # fmt: skip
    teacher = freeze(net.extract(net.space.smallest)) if phase.loss.teacher == "frozen" else None
    optimisation = Recorded(net.train(), phase, 1, optimizer="sgd", weight_decay=0.0, momentum=0.9)
    sampler: Any = phase.sampler
    images, labels = _batch()
    result = Stepper(net, engine, world, seed=5).run(
        images[world.rank :: world.size].double(),
        labels[world.rank :: world.size],
        phase=phase,
        optimisation=optimisation,
        teacher=teacher,
        sampler_state=sampler.start(net.space) if hasattr(sampler, "start") else {},
        step=3,
        step_of_phase=0,
        progress=0.2,
        wishes=(world.rank == 1, False),
        timed=True,
    )
    return optimisation.gradients, {n: b.clone() for n, b in net.named_buffers()}, result


def _alone(name: str, rows: slice, archs: Sequence[Architecture]) -> dict[str, Tensor]:
    """The gradients of part of the batch, by the function that knows nothing of processes."""
    net = _supernet().double().train()
    phase = _phases(net)[name]
    teacher = freeze(net.extract(net.space.smallest)) if phase.loss.teacher == "frozen" else None
    images, labels = _batch()
    accumulate_gradients(
        net, images[rows].double(), labels[rows], archs, phase.loss, 0.2, teacher, phase.regularise,
        accumulation=2 if name == "accumulated" else 1, split_batch=phase.split_batch,
    )  # fmt: skip
    return {n: p.grad for n, p in net.named_parameters() if p.grad is not None}


def _gradients(world: World, out: Path) -> None:
    """What two processes do for the tests of a step."""
    found: dict[str, Any] = {}
    for name in _phases(_supernet()):
        for synchronised in (True, False):
            gradients, buffers, result = _step(name, world, synchronised)
            found[f"{name} {synchronised}"] = {
                "gradients": gradients,
                "buffers": buffers,
                "losses": result.losses.values(),
                "archs": [arch.to_dict() for arch in result.archs],
                "wishes": result.wishes,
                "n_images": result.n_images,
            }
    net = _supernet().train()
    net(_batch()[0], net.space.smallest if world.rank else net.space.largest).sum().backward()
    try:
        agree(world, net, 8, (), torch.zeros(1))
    except ValueError as error:
        found["disagreement"] = str(error)
    torch.save(found, out / f"rank-{world.rank}.pt")


def _processes(world: World, out: Path) -> None:
    """What two processes do: the steps, a whole run, and one in which some kill themselves and are started again."""
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        _gradients(world, out)
        _train(world, out / "undisturbed")
    _train(world, out / "killed", {"0": [1, 13], "1": [0, 16]})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes did all of that; one torchrun, since each takes many seconds to begin."""
    out = tmp_path_factory.mktemp("processes")
    for name in ("undisturbed", "killed"):
        (out / name).mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={N}"]
    command += ["--max-restarts=2", __file__, str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def two_processes(folder: Path) -> list[dict[str, Any]]:
    """What each found in the steps."""
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(N)]


CASES = list(_phases(_supernet()))


@pytest.mark.parametrize("name", CASES)
def test_two_processes_have_the_gradient_of_one_on_the_joined_batch(
    name: str, two_processes: list[dict[str, Any]]
) -> None:
    gradients, buffers, result = _step(name, World(), synchronised=True)
    for process in two_processes:
        found = process[f"{name} True"]
        assert found["archs"] == [arch.to_dict() for arch in result.archs]
        assert found["gradients"].keys() == gradients.keys()
        for parameter, gradient in gradients.items():
            torch.testing.assert_close(found["gradients"][parameter], gradient, atol=1e-9, rtol=1e-9, msg=parameter)
        for buffer, value in buffers.items():
            torch.testing.assert_close(found["buffers"][buffer], value, atol=1e-9, rtol=1e-9, msg=buffer)
        assert found["losses"] == pytest.approx(result.losses.values(), abs=1e-9)
        assert found["wishes"] == [True, False] and found["n_images"] == 16


@pytest.mark.parametrize("name", CASES)
def test_without_synchronised_norms_it_is_the_mean_of_the_halves(
    name: str, two_processes: list[dict[str, Any]]
) -> None:
    archs = [Architecture.from_dict(arch) for arch in two_processes[0][f"{name} False"]["archs"]]
    halves = [_alone(name, slice(rank, None, N), archs) for rank in range(N)]
    joined = _alone(name, slice(None), archs)
    differs = False
    for process in two_processes:
        found = process[f"{name} False"]["gradients"]
        assert found.keys() == halves[0].keys()
        for parameter, gradient in found.items():
            mean = (halves[0][parameter] + halves[1][parameter]) / 2
            torch.testing.assert_close(gradient, mean, atol=1e-9, rtol=1e-9, msg=parameter)
            differs |= not torch.allclose(gradient, joined[parameter], atol=1e-6)
    assert differs  # else the test above would say nothing about norms


def test_processes_that_ran_different_blocks_are_refused(two_processes: list[dict[str, Any]]) -> None:
    for process in two_processes:
        assert "trained different blocks" in process["disagreement"]


def test_synchronised_norms_are_torchs_own_on_one_process() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((6, 4), (6, 4, 5, 3)):
        x = (3 + torch.randn(shape, generator=generator)).requires_grad_()
        ours, theirs = nn.BatchNorm2d(4) if len(shape) == 4 else nn.BatchNorm1d(4), None
        theirs = type(ours)(4)
        gradients = []
        for norm, mode in ((ours, True), (theirs, False)):
            x.grad = None
            with SynchronisedBatchNorm(World()) if mode else torch.enable_grad():
                (norm(x) ** 3).sum().backward()
            assert x.grad is not None
            gradients.append([x.grad.clone(), norm.weight.grad, norm.bias.grad])
        for found, expected in zip(*gradients, strict=True):
            torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-5)
        torch.testing.assert_close(dict(ours.named_buffers()), dict(theirs.named_buffers()))
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


# -- a whole run ------------------------------------------------------------------------------------------------------


def _trainer(world: World, folder: Path | None) -> Trainer:
    """All that has a state: momenta of AdamW, an average, micro-batches, an adaptive sampler, dropout, a teacher."""
    net = _supernet()
    net._template[0].drop_rate = 0.2  # type: ignore[attr-defined]
    shift = Shift(Sandwich(1, MacBins(net, n_bins=4)), every=2)
    phases = (
        Phase("largest", net.space, Schedule(1, 0.01), Largest()),
        Phase("shift", net.space, Schedule(3, 0.01, 0.5), shift, Distillation(), clip=1.0),
    )
    engine = Engine(optimizer="adamw", accumulation=2, ema=0.8)
    return Trainer(net, phases, Noise(), seed=3, engine=engine, world=world, folder=folder, save_steps=2)


def _train(world: World, out: Path, kills: Mapping[str, list[int]] | None = None) -> None:
    """A whole run; in each attempt one process kills itself, as `kills` say: which, and before which step."""
    kill = (kills or {}).get(os.environ["TORCHELASTIC_RESTART_COUNT"])
    trainer = _trainer(world, out / "checkpoints" if world.is_first else out / "not written to")

    class Deadly(Noise):
        """A process dies before the images of a step, so also one that prints nothing."""

        def train_batches(
            self, epoch: int, skip: int = 0, rank: int = 0, n_ranks: int = 1
        ) -> Iterator[tuple[Tensor, Tensor]]:
            for i, batch in enumerate(super().train_batches(epoch, skip, rank, n_ranks), start=skip):
                if kill == [world.rank, epoch * self.steps_per_epoch + i]:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield batch

    trainer.data = Deadly()

    def on_step(progress: Progress) -> None:
        (out / "steps.txt").open("a").write(f"{progress.step}\n")

    trainer.run(only(Progress, on_step))
    assert isinstance(trainer.supernet, nn.Module)
    torch.save(trainer.supernet.state_dict(), out / f"weights-{world.rank}.pt")


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> dict[str, Tensor]:
    """Weights after a whole run that nothing happened to."""
    paths = (folder / "undisturbed" / f"weights-{rank}.pt" for rank in range(N))
    first, second = (torch.load(path, weights_only=True) for path in paths)
    for name, value in first.items():
        if not name.endswith(("running_mean", "running_var")):
            assert torch.equal(second[name], value), name
    return first


def test_torchrun_recovers_from_killed_processes(folder: Path, undisturbed: dict[str, Tensor]) -> None:
    out = folder / "killed"
    weights = torch.load(out / "weights-0.pt", weights_only=True)
    for name, value in undisturbed.items():
        assert torch.equal(weights[name], value), name
    steps = [int(line) for line in (out / "steps.txt").read_text().split()]
    # Saved every second step and at the end of each epoch of 5, so at most one step is done again.
    assert steps == [*range(1, 14), 13, 14, 15, 16, 17, 18, 19, 20]
    assert [json.loads(line)["epoch"] for line in (out / "checkpoints/epochs.jsonl").open()] == [0, 1, 2, 3]
    assert not (out / "not written to").exists()  # the first process alone writes, and alone needs to read


def test_sigterm_stops_all_processes_after_a_step_and_fewer_carry_on(
    begin_two: Callable[..., list[Any]], command: Any, recipe_path: Path, tmp_path: Path
) -> None:
    recipe, run = tmp_path / "recipe.toml", tmp_path / "run"
    recipe.write_text(recipe_path.read_text().replace("schedule = { epochs = 2", "schedule = { epochs = 4"))
    verb = ("train", str(recipe), "--out", str(run))
    both = begin_two(*verb)
    while not (run / "checkpoints" / "epochs.jsonl").exists():
        assert not any(process.has_ended for process in both), [process.end() for process in both]
        time.sleep(0.02)
    for process in both:  # torchrun passes it on to all
        os.kill(process.pid, signal.SIGTERM)
    first, second = (process.end() for process in both)
    said = [line for line in first.stderr.splitlines() if line.startswith("supernet: stopped after step")]
    assert (first.returncode, second.returncode) == (143, 143) and len(said) == 1, (first, second)
    assert "supernet:" not in second.stderr
    step = int(said[0].split()[4])
    assert step < 50 and sorted((run / "checkpoints").glob(f"step-{step:09d}-*.pt")), said
    assert not (run / "supernet.safetensors").exists()
    assert first.stdout.count("train\n") == 1 and not second.stdout  # the first process alone talks
    done = command(*verb)
    assert (run / "supernet.safetensors").exists(), done.stdout + done.stderr
    assert f"carrying on from step {step} of 50" in done.stdout
    assert "the checkpoint is by 2 processes, now there are 1" in done.stdout
    lines = [json.loads(line) for line in (run / "checkpoints" / "epochs.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(5))
    assert all(line["validation"].keys() == {"largest", "middle", "smallest"} for line in lines)


def test_a_process_that_waits_for_a_dead_one_leaves_after_sigterm() -> None:
    """The main thread holds still as it does in a message that never comes, and runs no handler."""
    script = """if True:
        import ctypes
        from supernet.training import interruption
        interruption._PATIENCE_SECONDS = 0.5
        with interruption.StopSignals(n_processes=2):
            print("waiting", flush=True)
            lock = ctypes.create_string_buffer(256)
            libc = ctypes.CDLL(None)
            libc.sem_init(lock, 0, 0)
            while True:
                libc.sem_wait(lock)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 143 and "no answer from the other processes" in errors
    assert errors.count("\n") == 1


if __name__ == "__main__":
    torch.set_num_threads(1)
    with join() as joined:
        _processes(joined, Path(sys.argv[1]))
