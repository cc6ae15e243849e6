"""What predictors of a run can know without measuring its networks: their costs, their blocks, and other devices."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from experiments.measuring.block_profiles import measured_blocks
from experiments.quantities import Quantity
from experiments.run_folder import RunFolder
from hardware.device import Device
from predictors.cost_terms import KnownCosts
from predictors.earlier import Earlier
from predictors.known_devices import KnownDevice, KnownDevices
from predictors.protocol import Values
from predictors.registry import Subject, create_predictor, suitable_predictors
from predictors.selection import fit_best
from predictors.storage import load_predictor, save_predictor
from supernet.architecture import Architecture
from supernet.files import read_json, write_json
from supernet.space import Genes

__all__ = ["EARLIER", "forget_known_devices", "keep_earlier", "keep_known_device", "known_devices", "subject"]

EARLIER = "earlier"
"""The folder of a run with what earlier runs know of its space."""


def subject(run: RunFolder, quantity: Quantity) -> Subject:
    """What predictors of a quantity can know of the networks of a run without measuring them."""
    found = _counted(run)
    if quantity.kind.source == "score":
        return replace(found, earlier=_earlier(run, quantity))
    if quantity.kind.name != "latency" or quantity.device is None:
        return found
    return replace(found, blocks=measured_blocks(run, quantity.device), devices=known_devices(run, quantity.device))


def keep_known_device(
    run: RunFolder, device: str, known: Device, archs: Sequence[Architecture], seconds: Sequence[float]
) -> None:
    """Write down what is known of another device, with a predictor of it, for those of `device` to learn from.

    It is a copy: what becomes of the other device later, or of the run that it was measured for, changes nothing here.
    What is there of the same values is kept.

    Raises:
        ValueError: too few architectures.
    """
    folder = _folder(run, device) / known.name
    path = folder / "device.json"
    content = {
        "device": known.to_dict(),
        "architectures": [arch.to_dict() for arch in archs],
        "seconds": [float(one) for one in seconds],
    }
    if path.exists() and content.items() <= read_json(path).items():
        return
    genes, y = run.untrained_supernet.space.encode(archs), np.array(seconds)
    makers = suitable_predictors(_counted(run), "relative", run.recipe.seed, run.recipe.fit.predictors)
    best = fit_best(makers, genes, y, target="relative")
    folder.mkdir(parents=True, exist_ok=True)
    save_predictor(best.predictor, folder / "predictor.json")
    write_json(path, {"provenance": run.provenance, "chosen": best.name, **content})


def forget_known_devices(run: RunFolder, device: str, keep: Collection[str]) -> None:
    """Have `device` learn from no others than those of these names."""
    for path in _folder(run, device).glob("*/device.json"):
        if path.parent.name not in keep:
            shutil.rmtree(path.parent)


def known_devices(run: RunFolder, device: str) -> KnownDevices | None:
    """The devices that predictors of this one learn from; None where there are none.

    Raises:
        ValueError: a file is damaged or of another space.
    """
    paths = sorted(_folder(run, device).glob("*/device.json"))
    if not paths:
        return None
    return KnownDevices(run.untrained_supernet.space, [_read(run, path) for path in paths])


def keep_earlier(run: RunFolder, archive: RunFolder, quantity: Quantity) -> bool:
    """Write down what another run of the space predicts of a quantity that is scored; whether it predicts anything.

    It is a copy: what becomes of the other run changes nothing here.

    Raises:
        ValueError: its predictor cannot be used here.
    """
    card = archive.predictors / f"{quantity.name}.card.json"
    if not card.exists():
        return False
    folder = run.path / EARLIER / archive.path.name
    chosen = read_json(card)["chosen"]
    like = create_predictor(chosen, _counted(run), quantity.kind.learned or "value", run.recipe.seed)
    found = load_predictor(archive.predictors / f"{quantity.name}.json", like)
    folder.mkdir(parents=True, exist_ok=True)
    save_predictor(found, folder / f"{quantity.name}.json")
    write_json(folder / f"{quantity.name}.card.json", {"provenance": archive.provenance, "chosen": chosen})
    return True


def _earlier(run: RunFolder, quantity: Quantity) -> Earlier | None:
    models = {}
    for card in sorted((run.path / EARLIER).glob(f"*/{quantity.name}.card.json")):
        target = quantity.kind.learned or "value"
        like = create_predictor(read_json(card)["chosen"], _counted(run), target, run.recipe.seed)
        models[card.parent.name] = load_predictor(card.with_name(f"{quantity.name}.json"), like).predict
    return Earlier(run.untrained_supernet.space, models) if models else None


def _read(run: RunFolder, path: Path) -> KnownDevice:
    content = read_json(path)
    device = Device.from_dict(content["device"])
    like = create_predictor(content["chosen"], _counted(run), "relative", run.recipe.seed)
    predictor = load_predictor(path.with_name("predictor.json"), like)
    genes = run.untrained_supernet.space.encode([Architecture.from_dict(arch) for arch in content["architectures"]])
    return KnownDevice(device.name, device.hardware, genes, np.array(content["seconds"]), predictor.predict)


def _folder(run: RunFolder, device: str) -> Path:
    return run.predictors / device / "known"


def _counted(run: RunFolder) -> Subject:
    supernet = run.untrained_supernet
    if (table := supernet.cost_table) is not None:
        return Subject(supernet.space, table)

    def count(name: str, genes: Genes) -> Values:
        return getattr(supernet.costs(genes), name).astype(float)

    names = ("macs", "parameters", "activations")
    return Subject(supernet.space, KnownCosts(supernet.space, {name: partial(count, name) for name in names}))
