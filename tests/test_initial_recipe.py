"""`supernet init` and `run --data`: a recipe for a folder of images that can be read, explained key by key."""

import tomllib

import numpy as np
import pytest
from PIL import Image

from experiments.initial_recipe import first_recipe, look_into
from experiments.settings.recipe import load_recipe
from experiments.settings.reference import recipe_schema


def images(folder, side, kind="RGB", n=12):
    rng = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            pixels = rng.integers(0, 256, (side, side + 4, 3), dtype=np.uint8)
            Image.fromarray(pixels).convert(kind).save(folder / name / f"{i}.png")
    return folder


@pytest.mark.parametrize(("side", "kind", "largest"), [(28, "L", 28), (70, "RGB", 68), (300, "RGB", 224), (9, "L", 16)])
def test_the_recipe_fits_what_is_in_the_folder(tmp_path, side, kind, largest):
    folder = images(tmp_path / "i", side, kind)
    found = look_into(folder)
    assert (found.side, found.grey, found.n_classes) == (side, kind == "L", 2)
    path = tmp_path / "r.toml"
    path.write_text(first_recipe(folder, found, "3ms"))
    recipe = load_recipe(path)
    assert recipe.data.in_channels == (1 if kind == "L" else 3) and recipe.search.constraints == ("latency@cpu <= 3ms",)
    space = recipe.supernet.space
    assert space is not None and max(space.resolutions) == largest and recipe.data.batch_size <= found.n_train
    assert recipe.score.calibration_images <= found.n_train
    assert "rules of thumb" in path.read_text()


def test_every_comment_is_a_key_that_can_be_switched_on(tmp_path):
    folder = images(tmp_path / "i", 32)
    text = first_recipe(folder, look_into(folder))
    lines = text.splitlines()
    keys = [line for line in lines if line.startswith("# ") and " = " in line and "   # " in line]
    assert len(keys) > 60 and any(line.startswith("# on_damaged = ") for line in keys)
    for line in keys:
        if "= ..." not in line:
            switched_on = "\n".join(one[2:] if one == line else one for one in lines)
            tomllib.loads(switched_on)


def test_init_writes_once_and_what_cannot_be_is_one_line(tmp_path, command):
    folder, out = images(tmp_path / "i", 32), tmp_path / "r.toml"
    assert "supernet run" in command("init", folder, "--out", out).stdout
    assert "2 classes" in command("data", out).stdout
    for arguments, message in (
        (("init", folder, "--out", out), "exists; give another file"),
        (("init", tmp_path / "none", "--out", tmp_path / "x"), "is not a folder"),
        (("init", folder, "--out", tmp_path / "x", "--budget", "soon"), "soon"),
        (("run",), "give either a RECIPE or --data FOLDER"),
        (("run", out, "--budget", "5ms"), "--budget belongs to --data"),
    ):
        done = command(*arguments, check=2)
        assert message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "x").exists()


def test_the_schema_knows_every_section_and_refuses_unknown_keys():
    import json

    schema = json.loads(recipe_schema())
    assert schema["additionalProperties"] is False
    assert {"data", "supernet", "training", "devices", "search"} <= schema["properties"].keys()
    assert schema["$defs"]["DataSettings"]["properties"]["on_damaged"]["enum"] == ["refuse", "skip"]
