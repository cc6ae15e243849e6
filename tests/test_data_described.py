"""Data of others: found as it is meant, or refused in one line; what was found and left out is said."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from experiments.data import create_data
from experiments.data.pixels import as_pixels
from experiments.data.timm_data import TimmData
from experiments.settings.sections import DataSettings
from experiments.settings.supernet import SupernetSettings


def picture(value: int = 0, size: tuple[int, int] = (12, 10)) -> Image.Image:
    pixels = np.random.default_rng(value).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def fill(folder: Path, n: int, classes: tuple[str, ...] = ("ant", "bee"), ending: str = "png") -> Path:
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            picture(1000 * number + i).save(folder / name / f"{i}.{ending}")
    return folder


def opened(root: Path, **given: Any) -> TimmData:
    settings = {"source": "folder", "root": str(root), "batch_size": 4, "workers": 0, "evaluation_crop": 1.0, **given}
    begun, supernet, notes = (settings.pop(name, None) for name in ("begun", "supernet", "cache_folder"))
    data = create_data(
        DataSettings.model_validate(settings), seed=0, resolution=12, begun=begun, supernet=supernet,
        cache_folder=notes,
    )  # fmt: skip
    assert isinstance(data, TimmData)
    return data


def names(data: TimmData, split: str) -> list[str]:
    part: Any = data.splits[split]  # type: ignore[index]
    return [part.name(place) for place in part.readable.tolist()]


def said(data: TimmData) -> str:
    return "\n".join(data.description())


# -- which folder is which split --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "test"), ("Train", "Test"), ("TRAIN", "TESTING"), ("training", "testing"),
        ("train_images", "test_images"),
        ("images-train", "images-test"), ("TrainSet", "TestSet"), ("train2017", "test2017"),
        ("birds_train", "birds_test"),
        ("pack/train", "pack/test"), ("a/b/Training Images", "a/b/Test Images"), ("imgs/trainData", "imgs/testData"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("packed", [False, True])
def test_split_folders_are_found_by_any_usual_name(tmp_path, train, test, packed):
    fill(tmp_path / "x" / train, 6)
    fill(tmp_path / "x" / test, 3)
    root = tmp_path / "x"
    if packed:
        root = tmp_path / "all.tar"
        with tarfile.open(root, "w") as tar:
            tar.add(tmp_path / "x", arcname=".")
    data = opened(root)
    assert data.n_images("test") == 6 and data.n_images("train") + data.n_images("validation") == 12
    assert all(f"{test}/" in name for name in names(data, "test")) and data.classes == ("ant", "bee")


def test_validation_alone_is_the_test_whatever_it_is_called(tmp_path):
    fill(tmp_path / "Training", 8)
    fill(tmp_path / "Valid", 3)
    data = opened(tmp_path)
    assert data.n_images("test") == 6 and "taken out of" in said(data)


def test_superclasses_and_folders_of_images_inside_of_classes_are_read(tmp_path):
    fill(tmp_path / "a" / "insects", 6)
    fill(tmp_path / "a" / "birds", 6, ("owl",))
    assert opened(tmp_path / "a").classes == ("ant", "bee", "owl")
    for name in ("n01", "n02"):
        fill(tmp_path / "b" / "train" / name, 6, ("images",))
    assert opened(tmp_path / "b").classes == ("n01", "n02")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda root: (fill(root / "train", 4), fill(root / "extra", 4)), "beside that extra with 8 images"),
        (lambda root: (fill(root / "train", 4), fill(root / "Training", 4)), "Training and train for train"),
        (lambda root: fill(root, 4, ("bus", "car", "train")), "splits or classes"),
        (lambda root: fill(root, 4, ("train", "test")), "outside of class folders"),
        (lambda root: (fill(root / "train", 4), fill(root, 4, ("test",))), "outside of class folders"),
        (lambda root: (fill(root / "a", 4, ("train", "test")), fill(root / "b", 4, ("train", "test"))), "two class"),
        (lambda root: (fill(root / "x", 4, ("dog",)), fill(root / "y", 4, ("dog",))), "dog, x/dog and"),
        (lambda root: (fill(root, 4), fill(root / "ant", 4, ("small",))), "1 and 2 folders deep"),
        (lambda root: (root / "a").mkdir(), "Found 0 images"),
    ],
)  # fmt: skip
def test_what_nobody_can_tell_is_refused_in_one_line(tmp_path, make, says):
    make(tmp_path)
    with pytest.raises(ValueError, match=says) as caught:
        opened(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_way_out_of_such_refusals_works(tmp_path):
    fill(tmp_path / "a", 8, ("bus", "car", "train"))
    assert opened(tmp_path / "a", folders={"train": "."}).classes == ("bus", "car", "train")
    fill(tmp_path / "b" / "mine", 8)
    fill(tmp_path / "b" / "theirs", 4)
    fill(tmp_path / "b" / "train", 4)
    data = opened(tmp_path / "b", folders={"train": "mine", "test": "./theirs/"})
    assert data.n_images("test") == 8 and "8 images outside of the folders" in said(data)
    with pytest.raises(ValueError, match="lies in"):
        opened(tmp_path / "b", folders={"train": ".", "test": "theirs"})
    with pytest.raises(ValueError, match="no image in nowhere"):
        opened(tmp_path / "b", folders={"train": "mine", "test": "nowhere"})


# -- what is an image, and what a class -------------------------------------------------------------------------------


def test_stray_files_are_never_classes_and_are_said(tmp_path):
    fill(tmp_path / "train", 8)
    fill(tmp_path / "val", 4)
    for folder in (".ipynb_checkpoints", "__MACOSX", "ant/.thumbs"):
        (tmp_path / "train" / folder).mkdir()
        picture().save(tmp_path / "train" / folder / "0.png")
    for path in list((tmp_path / "train" / "bee").iterdir()):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\26\7")
    picture().save(tmp_path / "train" / "preview.png")
    (tmp_path / "train" / "ant" / "photo.heic").write_bytes(b"x")
    (tmp_path / "train" / "ant" / "notes.txt").write_text("x")
    data = opened(tmp_path)
    assert data.classes == ("ant", "bee") and data.n_images("train") + data.n_images("validation") == 16
    text = said(data)
    assert "preview.png" in text and "1 .heic" in text and "1 .txt" in text and "11 hidden" in text


def test_every_format_of_the_decoder_counts(tmp_path):
    endings = ("jpg", "jpeg", "jfif", "png", "webp", "tif", "tiff", "bmp", "gif", "ppm", "PNG", "v2.final.png")
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for ending in endings:
            picture().save(tmp_path / name / f"a.{ending}")
    data = opened(tmp_path, validation_fraction=0.1, test_fraction=0.1)
    assert sum(data.n_images(split) for split in ("train", "validation", "test")) == 2 * len(endings)
    assert len(list(data.train_batches(0))) == data.steps_per_epoch


def test_links_in_tar_files_are_what_they_lead_to(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(fill(tmp_path / "x", 8), arcname="x")
        for name, kind, target in (
            ("x/ant/soft.png", tarfile.SYMTYPE, "../../far/9.png"), ("x/bee/hard.png", tarfile.LNKTYPE, "far/8.png"),
            ("x/bee/gone.png", tarfile.SYMTYPE, "nowhere.png"),
        ):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
        for n in (8, 9):
            content = io.BytesIO()
            picture(n).save(content, "PNG")
            info = tarfile.TarInfo(f"far/{n}.png")
            info.size = len(content.getvalue())
            tar.addfile(info, io.BytesIO(content.getvalue()))
    data = opened(tmp_path / "a.tar", folders={"train": "x"})
    found = {name.rpartition("/")[2] for split in ("train", "validation", "test") for name in names(data, split)}
    assert {"soft.png", "hard.png"} <= found and "gone.png" not in found and "leads nowhere" in said(data)


@pytest.mark.parametrize("symbolic", [True, False])
def test_one_file_counts_once_and_is_in_one_split(tmp_path, symbolic):
    fill(tmp_path / "train", 8)
    fill(tmp_path / "val", 4)
    os.symlink("..", tmp_path / "train" / "ant" / "up")
    link = os.symlink if symbolic else os.link
    link(tmp_path / "train" / "ant" / "0.png", tmp_path / "train" / "ant" / "again.png")
    data = opened(tmp_path)
    assert data.n_images("train") + data.n_images("validation") == 16
    assert "1 names of files that links lead to twice" in said(data) and "ant/up" in said(data)
    link(tmp_path / "train" / "ant" / "0.png", tmp_path / "val" / "ant" / "mine.png")
    with pytest.raises(ValueError, match="one split only"):
        opened(tmp_path)
    (tmp_path / "val" / "ant" / "mine.png").unlink()
    link(tmp_path / "train" / "ant" / "0.png", tmp_path / "train" / "bee" / "other.png")
    with pytest.raises(ValueError, match="are one file"):
        opened(tmp_path)


def test_the_only_image_of_a_class_is_trained(tmp_path):
    fill(tmp_path, 30)
    fill(tmp_path, 1, tuple(f"rare{n}" for n in range(9)))
    fill(tmp_path, 2, tuple(f"pair{n}" for n in range(5)))
    data = opened(tmp_path)
    assert set(data.splits["train"].labels.tolist()) == set(range(16))
    assert "are not tested" in said(data) and "never trained" not in said(data)
    assert "never trained" in said(opened(tmp_path, train_images=20))


def test_labels_come_from_a_csv_file(tmp_path):
    fill(tmp_path, 12, ("all",))
    rows = [f"all/{n}.png;{'heron' if n % 2 else 'owl'};{'Test' if n > 8 else 'train'}" for n in range(11)]
    (tmp_path / "l.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(["Filename;Label;Split", *rows, ""]).encode())
    data = opened(tmp_path, labels="l.csv")
    assert data.classes == ("heron", "owl") and data.n_images("test") == 2
    assert "1 images outside" in said(data)
    (tmp_path / "l.csv").write_text("file,label\n" + "".join(f"{n},c{n % 2}\n" for n in range(12)))
    assert opened(tmp_path, labels="l.csv").n_classes == 2  # names without folder and ending
    for text, message in (
        ("image_id,what\n0,1\n", "no column 'file'"), ("file,label\nno.png,a\n", "line 2 names 'no.png'"),
        ("file,label\n0,\n", "line 2 has no label"), ("file,label\n0,a\n0,b\n", "is a and b"),
        ("file,label,split\n0,a,later\n", "split 'later'"),
    ):  # fmt: skip
        (tmp_path / "l.csv").write_text(text)
        with pytest.raises(ValueError, match=message):
            opened(tmp_path, labels="l.csv")


# -- pixels -----------------------------------------------------------------------------------------------------------


def test_sixteen_bits_keep_their_range_and_their_order(tmp_path):
    values = np.tile(np.arange(0, 65536, 257, dtype=np.uint16), (4, 1))
    for ending in ("png", "tif"):
        Image.fromarray(values).save(tmp_path / f"a.{ending}")
        found = np.asarray(as_pixels(Image.open(tmp_path / f"a.{ending}"), "L", True))
        assert (found == np.arange(256)).all()
    with pytest.raises(ValueError, match="32 bits"):
        as_pixels(Image.fromarray(np.array([[70000, -1]], np.int32)), "L", True)
    with pytest.raises(ValueError, match="real numbers"):
        as_pixels(Image.fromarray(np.zeros((2, 2), np.float32)), "RGB", True)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "La", "RGBa"]
)
def test_every_mode_is_what_pillow_makes_of_it(mode):
    source = picture(3).convert({"La": "LA", "RGBa": "RGBA", "HSV": "RGB"}.get(mode, mode)).convert(mode)
    for wanted in ("L", "RGB"):
        straight = source.convert({"La": "LA", "RGBa": "RGBA", "PA": "RGBA"}.get(mode, mode))
        assert np.array_equal(np.asarray(as_pixels(source, wanted, True)), np.asarray(straight.convert(wanted)))


def test_a_palette_with_transparency_keeps_its_colours(recwarn):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    image.info["transparency"] = b"\x00\xff"
    assert list(np.asarray(as_pixels(image, "RGB", True)).reshape(-1)) == [10, 20, 30, 40, 50, 60]
    assert not recwarn.list


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_upright_unless_asked_otherwise(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    fill(tmp_path / "d", 10)
    path = tmp_path / "d" / "ant" / "0.png"
    for path in (tmp_path / "d").rglob("*.png"):
        picture(5, (12, 12)).save(path, exif=exif)
    upright, as_stored = opened(tmp_path / "d"), opened(tmp_path / "d", exif=False)
    for data, expected in ((upright, ImageOps.exif_transpose(Image.open(path))), (as_stored, Image.open(path))):
        how = data.preprocessing
        pixels = (np.asarray(expected, np.float32) / 255 - how.mean) / how.std
        images, _ = next(data.evaluation_batches("test", 1))
        torch.testing.assert_close(images[0].permute(1, 2, 0), torch.tensor(pixels, dtype=torch.float32))


# -- how images are normalised, and which are shown -------------------------------------------------------------------


def timm_settings(model: str, pretrained: bool) -> SupernetSettings:
    return SupernetSettings.model_validate({"name": "elastic", "timm": {"model": model, "pretrained": pretrained}})


def test_mean_and_interpolation_are_those_of_the_pretrained_weights(tmp_path):
    fill(tmp_path, 10)
    half = opened(tmp_path, supernet=timm_settings("vit_tiny_patch16_224", True)).preprocessing
    assert half.mean == half.std == (0.5, 0.5, 0.5) and half.interpolation == "bicubic"
    tf = opened(tmp_path, supernet=timm_settings("mobilenetv3_small_100", True)).preprocessing
    assert tf.mean == (0.485, 0.456, 0.406)
    assert opened(tmp_path, supernet=timm_settings("resnet18.tv_in1k", True)).preprocessing.interpolation == "bilinear"
    fresh = opened(tmp_path, supernet=timm_settings("vit_tiny_patch16_224", False)).preprocessing
    assert fresh.mean == (0.485, 0.456, 0.406)
    grey = opened(tmp_path, supernet=timm_settings("vit_tiny_patch16_224", True), in_channels=1).preprocessing
    assert grey.mean == (0.5,)
    own = opened(
        tmp_path, supernet=timm_settings("vit_tiny_patch16_224", True), mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0)
    )
    assert own.preprocessing.mean == (0.1, 0.2, 0.3)
    images, _ = next(own.evaluation_batches("test", 1))
    assert -0.31 < float(images.min()) < float(images.max()) < 0.91


def test_balanced_shows_every_class_equally_often(tmp_path):
    fill(tmp_path, 100, ("many",))
    fill(tmp_path, 9, ("few",))
    data = opened(tmp_path, balanced=True)
    labels = torch.cat([labels for _, labels in data.train_batches(0)])
    assert abs(int((labels == 0).sum()) - int((labels == 1).sum())) <= 4
    order = data._order(1)
    few = order[data.splits["train"].labels[order] == data.classes.index("few")]
    counts = np.bincount(few)[np.unique(few)]
    assert counts.max() - counts.min() <= 1 and "data.balanced" in said(data)
    assert data.digest != opened(tmp_path).digest


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"mean": (0.5,), "std": (0.5,)}, "one number per channel"),
        ({"mean": (0.5, 0.5, 0.5)}, "belong together"),
        ({"folders": {"train": "."}, "labels": "l.csv"}, "remove one"),
        ({"source": "wds", "labels": "l.csv"}, "is for source 'folder'"),
        ({"augmentation": {"auto_augment": "rand-m9-x5"}}, "timm cannot make these transforms"),
        ({"augmentation": {"auto_augment": "autoaugment"}}, "timm cannot make these transforms"),
    ],
)
def test_settings_that_cannot_work_are_one_line(tmp_path, given, says):
    fill(tmp_path, 10)
    with pytest.raises(ValueError, match=says):
        opened(tmp_path, **given)


# -- images that cannot be read ---------------------------------------------------------------------------------------


def test_damaged_images_end_the_run_or_are_skipped_and_listed(tmp_path):
    fill(tmp_path / "d", 20)
    whole = opened(tmp_path / "d")
    bad = [names(whole, split)[1] for split in ("train", "validation", "test")]
    for path in bad:
        Path(path).write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"it is no image of a known format; replace or remove it"):
        list(opened(tmp_path / "d").train_batches(0))
    data = opened(tmp_path / "d", on_damaged="skip", cache_folder=tmp_path / "notes")
    assert [data.n_images(split) for split in data.splits] == [whole.n_images(split) - 1 for split in whole.splits]
    for path in bad:
        assert path in said(data)
    assert data.identity == whole.identity and data.digest != whole.digest  # trained on, but scored anew
    first, again = list(whole._order(0)), list(data._order(0))
    place = int(data.splits["train"].absent[0])
    assert [a for a in first if a != place] == [b for a, b in zip(first, again, strict=True) if a != place]
    assert place not in again and len(list(data.train_batches(0))) == whole.steps_per_epoch
    n_tested = sum(len(images) for images, _ in data.evaluation_batches("test", 4))
    assert n_tested == data.n_images("test")
    kept = next((tmp_path / "notes").glob("opened-*.json"))
    assert "no image of a known format" in json.loads(kept.read_text())[0]["reason"]
    cached = opened(tmp_path / "d", on_damaged="skip", cache=True, cache_folder=tmp_path / "notes")
    for (a, x), (b, y) in zip(data.train_batches(1), cached.train_batches(1), strict=True):
        assert torch.equal(a, b) and torch.equal(x, y)


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_a_run_keeps_its_splits_whatever_is_removed_and_added(tmp_path, kind):
    root = fill(tmp_path / "d", 20)

    def packed() -> Path:
        if kind == "folder":
            return root
        with tarfile.open(tmp_path / "d.tar", "w") as tar:
            tar.add(root, arcname=".")
        return tmp_path / "d.tar"

    first = opened(packed(), begun=tmp_path / "images.npz")
    split_of = {name[-9:]: split for split in first.splits for name in names(first, split)}
    gone = next(name for name, split in split_of.items() if split == "train")
    (root / gone.lstrip("/")[-9:].split("/", 1)[0][-3:] / gone.split("/")[-1]).unlink()
    picture(7).save(root / "ant" / "later.png")
    again = opened(packed(), begun=tmp_path / "images.npz")
    assert {name[-9:]: split for split in again.splits for name in names(again, split)} == {
        name: split for name, split in split_of.items() if name != gone
    }
    assert again.identity == first.identity and "came after the run had begun" in said(again)
    assert "skipped in train" in said(again)
    other = opened(packed(), begun=tmp_path / "images.npz", validation_fraction=0.3)
    assert other.n_images("validation") > again.n_images("validation")
    shutil.rmtree(root / "bee")
    fill(root, 1, ("bee",))
    with pytest.raises(ValueError, match=r"not in data.root any more"):
        opened(packed(), begun=tmp_path / "images.npz", validation_fraction=0.3)


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_command_describes_and_checks(tmp_path, command, recipe_path):
    fill(tmp_path / "pictures" / "Train", 40)
    fill(tmp_path / "pictures" / "Test", 10)
    recipe = tmp_path / "r.toml"
    old = "[data]\nbatch_size = 64\ntrain_images = 640\nvalidation_images = 200\ntest_images = 200\n"
    text = recipe_path.read_text()
    assert old in text
    recipe.write_text(text.replace(old, '[data]\nsource = "folder"\nroot = "pictures"\nbatch_size = 8\nworkers = 0\n'))
    done = command("data", recipe, "--check")  # the root is seen from the recipe
    assert "test: 20 images (20 .png; 12×10 pixels in 20 of them)" in done.stdout and "ant 36+4+10" in done.stdout
    (tmp_path / "pictures" / "Test" / "ant" / "3.png").write_bytes(b"")
    done = command("data", recipe, "--check", check=1)
    assert "ant/3.png" in done.stdout and "on_damaged" in done.stdout
    shutil.rmtree(tmp_path / "pictures")
    done = command("data", recipe, check=2)
    assert "does not exist" in done.stderr and done.stderr.count("\n") == 1
