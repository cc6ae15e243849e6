"""python experiments/benchmarks/coverage.py --out runs/coverage.jsonl

Which networks become supernets by their dependency graph: all of timm's names and torchvision's models, by class, with
what is elastic of each and why others are refused. Without data, on torch's meta device; `--numeric 30` also builds
those up to 30 million parameters and checks that the largest sub-network equals the original, that extracted ones equal
calls, that units that are set to zero can be removed, and that an ONNX file of the smallest says the same as torch. It
carries on where it was stopped; one name per class comes first, so that the table means something early on.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import rich
import timm
import torch
from rich.table import Table
from torch import nn

from hardware import export_onnx, onnx_parity
from supernet.families.traced import TracedSupernet, elastic_traced, example_of
from supernet.graph.proof import prove
from supernet.testing import randomize

Make = Callable[[], tuple[nn.Module, Any]]


def main() -> None:
    """Look at every name that is not in the file yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/coverage.jsonl"), help="one line of JSON per name")
    parser.add_argument("--only", default="", help="names that contain this")
    parser.add_argument(
        "--numeric", type=float, default=0, metavar="MILLION", help="also check numbers up to this size"
    )
    parser.add_argument("--table", action="store_true", help="print the table of what there is, and look at nothing")
    parser.add_argument("--library", default="", choices=("", "timm", "torchvision"), help="of one library alone")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    known = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    if not options.table:
        done = {(row["library"], row["name"]) for row in known}
        for library, name, make in sorted_by_class(list(all_names(options.only))):
            if (library, name) in done or options.library not in ("", library):
                continue
            row = {"library": library, "name": name, **look_at(make, options.numeric * 1e6)}
            known.append(row)
            with options.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(name, row.get("refused") or f"{row['seconds']} s, {row['size']:.2g} sub-networks", flush=True)
    show(known)


def all_names(only: str) -> Iterator[tuple[str, str, Make]]:
    """Library, name, and what makes the network on the present device together with an input for it."""
    for name in timm.list_models():
        if only in name:
            yield "timm", name, lambda name=name: _from_timm(name)
    try:
        import torchvision
    except ImportError:
        return
    for name in torchvision.models.list_models():
        if only in name and "quantized" not in name:
            yield "torchvision", name, lambda name=name: _from_torchvision(name)


def _from_timm(name: str) -> tuple[nn.Module, Any]:
    model = timm.create_model(name)
    return model, example_of(model)


def _from_torchvision(name: str) -> tuple[nn.Module, Any]:
    import torchvision

    arguments: dict[str, Any] = {"weights": None}
    builder = torchvision.models.get_model_builder(name)
    if "weights_backbone" in builder.__annotations__:
        arguments["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        arguments["init_weights"] = False
    if any(kind in name for kind in ("rcnn", "retinanet", "fcos")):
        arguments |= {
            "min_size": 160,
            "max_size": 224,
        }  # they run on values, since the number of boxes follows from these
    model = builder(**arguments)
    if name.startswith("raft"):
        return model, (torch.zeros(1, 3, 128, 128), torch.zeros(1, 3, 128, 128))
    if "video" in builder.__module__:
        return model, torch.zeros(1, 3, 16, 224, 224)
    if "detection" in builder.__module__:
        return model, [torch.rand(3, 224, 224)]
    size = 299 if name == "inception_v3" else 224
    return model, torch.zeros(1, 3, size, size)


def sorted_by_class(names: list[tuple[str, str, Make]]) -> list[tuple[str, str, Make]]:
    """One name per module of the library first, then the second of each, and so on; always in the same order."""
    of_module: dict[str, list[tuple[str, str, Make]]] = defaultdict(list)
    for library, name, make in names:
        module = timm.models.model_entrypoint(name).__module__ if library == "timm" else library
        of_module[module].append((library, name, make))
    ranked = []
    for members in of_module.values():
        random.Random(0).shuffle(members)
        ranked += list(enumerate(members))
    return [member for _, member in sorted(ranked, key=lambda item: item[0])]


def look_at(make: Make, most_parameters: float) -> dict[str, Any]:
    """What becomes of one network."""
    try:
        with torch.device("meta"):
            model, example = make()
    except Exception:  # some cannot be made without data
        model, example = make()
    row: dict[str, Any] = {"class": type(model).__name__, "parameters": sum(p.numel() for p in model.parameters())}
    start = time.perf_counter()
    try:
        supernet = elastic_traced(model.eval(), example_input=example)
    except ValueError as error:
        try:  # what looks at values cannot do without them
            if not str(error).count("cannot be run") or row["parameters"] > 2e8:
                raise
            torch.manual_seed(0)
            model, example = make()
            supernet = elastic_traced(model.eval(), example_input=example)
        except ValueError as error:
            return {**row, "refused": str(error)}
    row |= {"seconds": round(time.perf_counter() - start, 1), **elastic_parts(supernet)}
    if row["parameters"] <= most_parameters:
        torch.manual_seed(0)
        model, example = make()
        if isinstance(example, torch.Tensor):
            example = torch.randn(example.shape)
        randomize(model)
        supernet = elastic_traced(model, example_input=example).eval()
        proof = prove(supernet, model, example)
        row |= {"holds": proof.holds, "proof": [proof.largest, proof.extracted, proof.removed, proof.fewer]}
        row |= onnx_parts(supernet, example)
    return row


def onnx_parts(supernet: TracedSupernet, example: Any) -> dict[str, Any]:
    """The largest difference between the smallest sub-network and its ONNX file, or why there is none."""
    if not isinstance(example, torch.Tensor):
        return {}
    subnet, shape = supernet.extract(supernet.space.smallest).eval(), tuple(example.shape)
    try:
        return {"onnx": float(onnx_parity(export_onnx(subnet, shape), subnet, shape))}
    except Exception as error:  # whatever an exporter says of a network that it does not know
        return {"onnx": f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"}


def elastic_parts(supernet: TracedSupernet) -> dict[str, Any]:
    """What of a network is elastic, and what it comes to."""
    genes = [gene for gene in supernet.space.genes if len(gene.choices) > 1]
    roles = Counter("depth" if gene.name == "depth" else supernet.roles[gene.name] for gene in genes)
    space = supernet.space
    smallest, largest = supernet.macs(space.encode([space.smallest, space.largest])).tolist()
    return {
        "roles": dict(roles),
        "size": float(space.size) if space.size < 1e300 else 1e300,
        "macs": [smallest, largest],
        "attention": any(group.heads for group in supernet.graph.groups),
        "blocks": sum(len(run.names) - max(1, run.n_fixed) for run in supernet.graph.runs),
        "problems": sorted(set(supernet.problems.values()))[:5],
    }


def counts(row: dict[str, Any]) -> bool:
    """Whether middle widths are elastic, and depth or heads where the network has residual blocks or attention."""
    roles = row.get("roles", {})
    more = "depth" in roles or "heads" in roles
    return "middle_width" in roles and (more or not (row["blocks"] or row["attention"]))


def strictly(row: dict[str, Any]) -> bool:
    """Whether middle widths are elastic, and depth or heads, whatever the network has."""
    roles = row.get("roles", {})
    return "middle_width" in roles and ("depth" in roles or "heads" in roles)


def show(rows: list[dict[str, Any]]) -> None:
    """The table by class, the sums, and the reasons of refusal."""
    table = Table("library", "class", "names", "counted", "width", "depth", "heads", "numbers hold", "ONNX", box=None)
    classes: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        classes[row["library"], row["class"]].append(row)
    for (library, name), members in sorted(classes.items()):
        table.add_row(library, name, *_numbers(members))
    for library in sorted({row["library"] for row in rows}):
        table.add_row(library, "all", *_numbers([row for row in rows if row["library"] == library]))
    rich.print(table)
    for library in sorted({row["library"] for row in rows}):
        of_it = [row for row in rows if row["library"] == library]
        n = sum(map(strictly, of_it))
        print(f"{library}: {n} of {len(of_it)} ({n / len(of_it):.1%}) have elastic widths, and depth or heads")
    why = Counter(row["refused"] for row in rows if "refused" in row)
    for reason, n in why.most_common():
        print(f"{n} refused: {reason}")


def _numbers(rows: list[dict[str, Any]]) -> list[str]:
    checked, exported = [row for row in rows if "holds" in row], [row for row in rows if "onnx" in row]
    return [
        str(len(rows)),
        str(sum(map(counts, rows))),
        *(str(sum(role in row.get("roles", {}) for row in rows)) for role in ("middle_width", "depth", "heads")),
        f"{sum(row['holds'] for row in checked)} of {len(checked)}" if checked else "",
        f"{sum(isinstance(row['onnx'], float) for row in exported)} of {len(exported)}" if exported else "",
    ]


if __name__ == "__main__":
    main()
