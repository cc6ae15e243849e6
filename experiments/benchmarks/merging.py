"""python experiments/benchmarks/merging.py RUN --out runs/merging

What is one supernet worth that was merged of two fine-tuned copies (Model Breadcrumbs, Davari & Belilovsky 2023)? Two
tasks are made of the images of a run with composed digits: the digits upside down, and the digits as their negatives;
each as a folder of images. A copy of the run's supernet is fine-tuned on each by `supernet train`, and the two are
merged by several scales, without masks (task arithmetic, Ilharco et al. 2023) and with them. Accuracy on the test
images of both tasks, which no training has seen. Interrupted, the same command carries on.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from experiments.merging import merge_runs
from experiments.progress import Reporter
from experiments.run_folder import RunFolder
from supernet.files import write_json

_TASKS = {"upside-down": lambda pixels: pixels[::-1, ::-1], "negative": lambda pixels: 255 - pixels}
_FRESH = 1000  # an epoch that no training has reached
_TRAINING = """[training]
method = "single_stage"
schedule = {{ epochs = {epochs}, peak_lr = 0.03 }}
label_weight = [1.0, 0.5]
"""


def images(run: RunFolder, task: str, folder: Path, n: int) -> None:
    """Folders of `n` training images, composed afresh, and of the test images, by class."""
    how = run.data.preprocessing
    assert how is not None  # composed digits are made like images of files
    train = islice(run.data.train_batches(_FRESH), -(-n // run.recipe.data.batch_size))
    for split, batches in {"train": train, "test": run.data.evaluation_batches("test", 250)}.items():
        number = 0
        for batch, labels in batches:
            grey = (batch[:, 0].numpy() * how.std[0] + how.mean[0]).clip(0, 1)
            for pixels, label in zip((grey * 255).round().astype(np.uint8), labels.tolist(), strict=True):
                (folder / split / str(label)).mkdir(parents=True, exist_ok=True)
                changed = Image.fromarray(np.ascontiguousarray(_TASKS[task](pixels)))
                changed.save(folder / split / str(label) / f"{number}.png")
                number += 1


def tuned(run: RunFolder, task: str, out: Path, options: argparse.Namespace) -> RunFolder:
    """A copy of the supernet that was fine-tuned on a task."""
    data, recipe = out / "data" / task, out / f"{task}.toml"
    if not recipe.exists():
        images(run, task, data, options.images)
        text = (run.path / "recipe.toml").read_text(encoding="utf-8")
        root = f'[data]\nsource = "folder"\nroot = "{data.resolve()}"\nin_channels = 1\nbatch_size = 64\nworkers = 0\n'
        text = re.sub(r"\[data\]\n(?:(?!\[).*\n)*", root + "\n", text)
        text = re.sub(r"\[training\]\n(?:(?!\[).*\n)*", _TRAINING.format(epochs=options.epochs) + "\n", text)
        text = text.replace("[supernet.space]", f'[supernet]\nweights = "{run.path.resolve()}"\n\n[supernet.space]')
        recipe.write_text(text, encoding="utf-8")
    subprocess.run(
        [sys.executable, "-m", "experiments", "train", str(recipe), "--out", str(out / task)], check=True
    )  # which is done at once where it was done before
    return RunFolder(out / task)


def main() -> None:
    """Fine-tune what is missing, merge, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run of the demo's recipe")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results, kept for the next time")
    parser.add_argument("--images", type=int, default=5000, help="for training, of each task")
    parser.add_argument("--epochs", type=int, default=4, help="of fine-tuning")
    parser.add_argument("--scales", type=float, nargs="+", default=[0.3, 0.5, 0.7, 1.0], help="of the changes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    run = RunFolder(options.run)
    copies = [tuned(run, task, options.out, options) for task in _TASKS]
    report = Reporter(Console(quiet=True))
    found: list[dict[str, Any]] = []
    table = Table("left out", "scale", *(f"{task}, {end}" for task in _TASKS for end in ("smallest", "largest")))
    for smallest, largest in ((0.0, 0.0), (0.85, 0.01), (0.5, 0.01), (0.0, 0.01)):
        for scale in options.scales:
            file = options.out / f"merged-{smallest}-{largest}-{scale}.safetensors"
            file.unlink(missing_ok=True)
            rows = merge_runs(run, copies, file, report, scale=scale, smallest=smallest, largest=largest)
            found.append({"smallest": smallest, "largest": largest, "scale": scale, "rows": rows})
            cells = [f"{row['merged']:.1%}" for row in rows]
            table.add_row(f"{smallest:.0%} and {largest:.0%}", f"{scale:g}", *cells)
    for way in ("base", "own"):
        table.add_row(
            f"the {way if way == 'base' else 'copy alone'}", "", *(f"{row[way]:.1%}" for row in found[-1]["rows"])
        )
    Console(width=120).print(table)
    write_json(options.out / "merging.json", {"provenance": run.provenance, "found": found})


if __name__ == "__main__":
    main()
