"""A bundle as a repository of the Hugging Face hub, from which timm loads it."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from supernet.files import new_folder, read_json, write_json
from supernet.hub import NAME
from supernet.registry import supernet_names
from supernet.subnet import load_subnet

__all__ = ["push_to_hub", "write_hub_folder"]

_COPIED = ("model.safetensors", "model.onnx", "model.onnx.data", "arch.json", "card.json", "run.py")


def write_hub_folder(bundle: Path, out: Path) -> None:
    """Write a new folder in the layout of the hub.

    After ``import supernet.hub``, ``timm.create_model("local-dir:OUT", pretrained=True)`` loads it, with the
    preprocessing in its ``pretrained_cfg``.

    Raises:
        ValueError: `bundle` is no bundle or of a supernet that a package of one's own makes, or `out` is not empty.
        OSError: a file cannot be read or written.
    """
    for name in ("arch.json", "card.json", "model.safetensors", "README.md"):
        if not (bundle / name).is_file():
            raise ValueError(f"{bundle} is not a bundle: {name} is missing; make one with `supernet export`")
    made, card = read_json(bundle / "arch.json"), read_json(bundle / "card.json")
    if (name := made["supernet"]["name"]) not in supernet_names():
        raise ValueError(f"{bundle} is of a supernet of {name}, which timm cannot make: push its files by other means")
    with new_folder(out) as folder:
        for file in _COPIED:
            if (bundle / file).is_file():
                shutil.copyfile(bundle / file, folder / file)
        write_json(folder / "config.json", _config(made, card, load_subnet(bundle)))
        (folder / "README.md").write_text(_readme(bundle, card), encoding="utf-8")


def push_to_hub(bundle: Path, repository: str, private: bool = False) -> str:
    """Make a repository ``USER/NAME`` of a bundle, or a new commit of one that is there; returns its address.

    Raises:
        ValueError: as `write_hub_folder`, or the hub refuses.
        OSError: there is no network, or nobody is logged in.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    with tempfile.TemporaryDirectory() as folder:
        write_hub_folder(bundle, Path(folder) / "repository")
        api = HfApi(library_name="supernet-nas")
        try:
            name = api.create_repo(repository, private=private, exist_ok=True).repo_id
            api.upload_folder(
                repo_id=name, folder_path=Path(folder) / "repository", commit_message="A sub-network of supernet-nas"
            )
        except HFValidationError as error:
            raise ValueError(f"{repository!r} is no name of a repository: {_line(error)}") from error
        except Exception as error:  # of its own kinds and those of its http client
            raise OSError(f"cannot push to {repository}: {_line(error)}; log in with `hf auth login`") from error
    return f"https://huggingface.co/{name}"


def _config(made: Mapping[str, Any], card: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """``config.json`` as timm reads it."""
    given, size = card["input"], [int(n) for n in card["input"]["shape"][1:]]
    seen: dict[str, Any] = {
        "input_size": size,
        "fixed_input_size": False,
        "num_classes": made["supernet"]["num_classes"],
    }
    names = {id(module): name for name, module in model.named_modules()}
    seen["classifier"] = names.get(id(model.get_classifier()))  # type: ignore[operator]  # as every classifier of timm's
    seen["first_conv"] = next((name for name, one in model.named_modules() if isinstance(one, nn.Conv2d)), None)
    if "mean" in given:
        seen |= {
            "interpolation": given["interpolation"],
            "crop_pct": given["crop"] / given["resize"],
            "mean": given["mean"],
            "std": given["std"],
        }
    labels = {"label_names": card["classes"]} if card["classes"] else {}
    return {
        "architecture": NAME,
        "num_classes": seen["num_classes"],
        "model_args": {"supernet": made["supernet"], "subnet": made["architecture"]},
        "pretrained_cfg": seen,
        **labels,
    }


def _readme(bundle: Path, card: Mapping[str, Any]) -> str:
    tags = "" if card["task"] != "classification" else "pipeline_tag: image-classification\n"
    text = (bundle / "README.md").read_text(encoding="utf-8")
    return f"""---
library_name: timm
tags: [supernet-nas, neural-architecture-search, {json.dumps(card["device"]["runtime"])}]
{tags}---
{text}
## With timm
```python
import supernet.hub  # pip install supernet-nas
import timm

model = timm.create_model("hf-hub:USER/NAME", pretrained=True)
```
"""


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
