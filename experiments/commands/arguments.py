"""Arguments and options that several verbs have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["AddedDevice", "Batch", "Budget", "DeviceName", "Out", "RecipePath", "RunPath"]

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a TOML file.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, such as runs/digits.")]
Out = Annotated[Path | None, typer.Option("--out", help="The folder of the run.  [default: runs/NAME OF THE RECIPE]")]
AddedDevice = Annotated[
    str | None, typer.Option("--device", help="Only for this device, such as one that was added to the run.")
]
Budget = Annotated[str | None, typer.Option("--budget", help="The longest latency that is of use, such as 5ms.")]
Batch = Annotated[
    str | None,
    typer.Option("--batch", help="'any' for a file that takes any number of images.  [default: the device's]"),
]
DeviceName = Annotated[str | None, typer.Option("--device", help="A device of the recipe, by name.")]
