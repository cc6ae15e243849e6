"""What can be known before a training is refused before it, in one line; and one process at a time works in a run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import timm
import torch

from experiments.editing import binding, changes, has_effect
from experiments.lock import hold
from experiments.run_folder import RunFolder
from experiments.settings.recipe import load_recipe
from experiments.training.beginning import check_beginning, check_whole_way
from supernet import elastic


@pytest.fixture
def begun(recipe_path, tmp_path):
    """A run of the small recipe with something replaced."""

    def begin(*replaced: tuple[str, str]) -> RunFolder:
        text = recipe_path.read_text()
        for old, new in replaced:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "r.toml").write_text(text)
        return RunFolder.start(tmp_path / "r.toml", tmp_path / "run")

    return begin


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"lcnet_035"', '"vit_tiny_patch16_224"', r"does not take images of 20 pixels \(its own size is 224\)"),
        ('"lcnet_035"', '"swin_tiny_patch4_window7_224"', "baselines.timm_models: swin_tiny.* does not take images"),
        ('"lcnet_035"', '"nothing_like_it"', "timm has no model 'nothing_like_it'"),
        ("depths = [1, 2]\nresolutions = [16, 20]", "depths = [1]\nresolutions = [16]", None),
        (
            "kernels = [3, 5]\nexpands = [2, 3]\ndepths = [1, 2]\nresolutions = [16, 20]",
            "kernels = [3]\nexpands = [2]\ndepths = [1, 2]\nresolutions = [16]",
            "the space has 4 sub-networks, and predictors learn from at least 8",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_it_is_paid_for(begun, old, new, says):
    run = begun((old, new))
    if says is None:
        check_beginning(run)
        check_whole_way(run)
        return
    with pytest.raises(ValueError, match=says) as caught:
        check_beginning(run)
        check_whole_way(run)
    assert "\n" not in str(caught.value)


def test_too_few_images_are_told_for_calibration_and_for_int8(begun, tmp_path):
    ends = (
        ("calibration_images = 128", "calibration_images = 129"),
        ("resolutions = [16, 20]", "resolutions = [8, 20]"),
    )
    with pytest.raises(ValueError, match=r"leave a last batch of 1: .*take 128 images"):
        check_beginning(begun(*ends))
    shutil.rmtree(tmp_path / "run")
    run = begun(
        ("batch_size = 1\n", 'batch_size = 1\nprecision = "int8"\n'),
        ("quantization_images = 16", "quantization_images = 641"),
    )
    with pytest.raises(ValueError, match=r"measure.quantization_images 641 are more than the 640 training images"):
        check_beginning(run)


def test_a_device_that_this_machine_lacks_is_named_with_a_way_out(begun):
    check_whole_way(begun())
    run = begun(('name = "one"\n', 'name = "one"\nruntime = "torch"\nprovider = "cuda"\n'))
    if torch.cuda.is_available():
        pytest.skip("this machine has it")
    with pytest.raises(ValueError, match=r"device 'one': .*`supernet train`"):
        check_whole_way(run)


def test_full_shared_memory_is_told_instead_of_hanging(begun, monkeypatch, tmp_path):
    from experiments.training import beginning

    pictures = tmp_path / "pictures"
    for name in ("ant", "bee"):
        (pictures / name).mkdir(parents=True)
        for i in range(100):
            shutil.copy(Path(__file__).parents[1] / "docs" / "front.png", pictures / name / f"{i}.png")
    old = "batch_size = 64\ntrain_images = 640\nvalidation_images = 200\ntest_images = 200\n"
    run = begun((old, 'source = "folder"\nroot = "pictures"\nbatch_size = 8\nworkers = 2\n'))
    check_images = {"calibration_images": 64}
    recipe = run.recipe.model_copy(update={"score": run.recipe.score.model_copy(update=check_images)})
    run.recipe = recipe
    check_beginning(run)
    free = shutil.disk_usage("/")._replace(free=100_000)
    monkeypatch.setattr(beginning.shutil, "disk_usage", lambda path: free)
    with pytest.raises(ValueError, match=r"data.workers 2 .* and /dev/shm has 0 MB: lower data.workers"):
        check_beginning(run)


@pytest.mark.parametrize(("n_random", "processes", "multiple"), [(2, 1, 4), (4, 1, 6), (2, 32, 128)])
def test_images_that_cannot_be_shared_out_are_told_before_the_first_phase(begun, n_random, processes, multiple):
    split = f'method = "gradual_shrinking"\nn_random = {n_random}\nsplit_batch = true\n'
    run = begun(('method = "single_stage"\n', split))
    if 64 % multiple == 0:
        check_beginning(run, processes)
        return
    with pytest.raises(ValueError, match=f"batch_size 64 .* {n_random + 2} sub-networks .* a multiple of {multiple}$"):
        check_beginning(run, processes)


@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        ("test_efficientnet", {"global_pool": "maximum"}), ("test_resnet", {"act_layer": "reluu"}),
        ("test_vit", {"img_size": 32, "patch_size": 0}), ("test_resnet", {"checkpoint_path": "/nowhere.pth"}),
        ("test_resnet", {"unheard_of": 1}),
    ],
)  # fmt: skip
def test_what_timm_refuses_is_one_line_whatever_it_raises(model, arguments):
    with pytest.raises(ValueError, match=f"timm cannot make '{model}' with {next(iter(arguments))}") as caught:
        elastic(model, model_args=arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        ("test_resnet", {"act_layer": "prelu"}),
        ("mobilenetv3_small_050", {"num_classes": 0, "global_pool": ""}),
        ("mobilenetv3_small_050", {"num_classes": 0}),
    ],
)
def test_costs_of_odd_models_are_counted_as_they_are(model, arguments):
    supernet = elastic(timm.create_model(model, **arguments), resolutions=(64,))
    arch = supernet.space.largest
    subnet = supernet.extract(arch).eval()
    macs = 0

    def count(module: torch.nn.Conv2d, given: object, made: torch.Tensor) -> None:
        nonlocal macs
        macs += made.shape[2] * made.shape[3] * module.weight.numel()

    for module in subnet.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(count)
        if isinstance(module, torch.nn.Linear):
            macs += module.weight.numel()
    subnet(torch.zeros(1, 3, 64, 64))
    genes = supernet.space.encode([arch])
    assert int(supernet.macs(genes)[0]) == macs
    assert int(supernet.n_parameters(genes)[0]) == sum(p.numel() for p in subnet.parameters())


# -- the recipe of a run that has begun -------------------------------------------------------------------------------


def test_what_the_weights_depend_on_is_told_by_its_keys(recipe_path, tmp_path):
    one = load_recipe(recipe_path)
    (tmp_path / "other.toml").write_text(
        recipe_path.read_text()
        .replace('title = "A small run"', 'title = "Another"\nseed = 1')
        .replace('name = "eight"\nbatch_size = 8', 'name = "four"\nbatch_size = 4')
        .replace("batch_size = 64\ntrain", "batch_size = 32\ntrain")
    )
    found = changes(one, load_recipe(tmp_path / "other.toml"))
    assert found["data.batch_size"] == (64, 32) and found["devices.four.batch_size"] == (None, 4)
    assert {key for key in found if binding(key)} == {"seed", "data.batch_size"}
    assert not has_effect("title") and not has_effect("data.root") and not has_effect("engine.keep")
    assert has_effect("devices.four.threads") and not binding("task.metric") and binding("task.loss")


@pytest.mark.slow
def test_a_trained_run_takes_another_device_and_more_evaluations(command, finished_run, recipe_path, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    weights = (run / "supernet.safetensors").read_bytes()
    recipe = tmp_path / "small.toml"
    text = recipe_path.read_text().replace('name = "eight"\nbatch_size = 8', 'name = "two"\nbatch_size = 2')
    recipe.write_text(text.replace("evaluations = 4", "evaluations = 6").replace("A small run", "A new title"))
    done = command("run", recipe, "--out", run)
    assert "search.evaluations was 4 and is 6" in done.stdout and "to be made anew" in done.stdout
    assert "12 sub-networks scored" not in done.stdout  # what was scored is kept
    assert (run / "supernet.safetensors").read_bytes() == weights
    assert "A new title" in (run / "report.html").read_text()
    assert command("query", run, "--device", "two").stdout
    assert "eight" in command("query", run, "--device", "eight", check=2).stderr
    done = command("run", recipe, "--out", run)
    assert "finished already" in done.stdout and "was" not in done.stdout.partition("finished")[0]
    assert load_recipe(run / "recipe.toml").search.evaluations == 6


def test_a_run_that_has_not_begun_takes_any_recipe(begun, recipe_path, tmp_path):
    run = begun()
    assert begun(("peak_lr = 0.1", "peak_lr = 0.3")).recipe != run.recipe
    (tmp_path / "run" / "plans").mkdir()
    with pytest.raises(ValueError, match=r"training.largest.peak_lr was 0.3 and is 0.1"):
        begun()


def test_relative_images_are_seen_from_the_recipe_and_found_when_run_and_images_move(begun, tmp_path):
    old = "batch_size = 64\ntrain_images = 640\nvalidation_images = 200\ntest_images = 200\n"
    for name in ("ant", "bee"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(50):
            (tmp_path / "pictures" / name / f"{i}.png").write_bytes(b"")
    begun((old, 'source = "folder"\nroot = "pictures"\nbatch_size = 8\n'))
    assert RunFolder(tmp_path / "run").data.n_images("train") == 70
    (tmp_path / "elsewhere").mkdir()
    for name in ("run", "pictures"):
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)
    assert RunFolder(tmp_path / "elsewhere" / "run").data.n_images("train") == 70


# -- one process at a time --------------------------------------------------------------------------------------------

HOLDER = "import sys, time; from pathlib import Path; from experiments.lock import hold\n"
HOLDER += "kept = hold(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"


def test_the_second_process_is_told_who_is_the_first_and_a_kill_leaves_nothing(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    ) as first:
        assert first.stdout is not None and first.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=f"is in use by process {first.pid} on .* since"):
            hold(tmp_path)
        first.send_signal(signal.SIGKILL)
    deadline, kept = time.monotonic() + 10, None
    while time.monotonic() < deadline:
        try:
            kept = hold(tmp_path)
            break
        except ValueError:
            time.sleep(0.05)
    assert kept is not None and f"process {os.getpid()}" in (tmp_path / ".in-use").read_text()


@pytest.mark.slow
def test_a_verb_is_refused_while_another_process_works_in_the_run(command, finished_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    ) as first:
        assert first.stdout is not None and first.stdout.readline() == "held\n"
        for verb in ("fit", "search", "compare"):
            assert "is in use by process" in command(verb, run, check=2).stderr
        assert command("query", run, "--device", "one").stdout  # reading is free
        first.kill()
