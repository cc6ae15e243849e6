"""Fine-tuned copies of the supernet of a run, each trained for a task of its own, as one supernet for all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from experiments.progress import Reporter
from experiments.run_folder import RunFolder
from experiments.scoring.scorer import Scorer
from supernet.architecture import Architecture
from supernet.files import replacing
from supernet.networks.merging import breadcrumbs

__all__ = ["merge_runs"]


class _OtherWeights(Scorer):
    """Scores sub-networks on the data of a run with other weights than its own."""

    def __init__(self, run: RunFolder, tensors: dict[str, Tensor]) -> None:
        super().__init__(run)
        self._supernet = run.new_supernet()
        self._supernet.load_state_dict(tensors)
        self._supernet.eval()
        content = hashlib.sha256()
        for name in sorted(tensors):
            content.update(name.encode() + tensors[name].contiguous().numpy().tobytes())
        self._content = content.hexdigest()

    @cached_property
    def digest(self) -> str:
        """As of the supernet's own, with these weights."""
        return hashlib.sha256(f"{super().digest} {self._content}".encode()).hexdigest()[:16]

    @property
    def _correction_images(self) -> int:
        return 0

    def _extracted(self, arch: Architecture) -> nn.Module:
        return self._supernet.extract(arch)


def merge_runs(
    base: RunFolder, tuned: Sequence[RunFolder], out: Path, report: Reporter, **shares: float
) -> list[dict[str, Any]]:
    """Write the merged weights (`breadcrumbs`), which `supernet.weights` of a recipe takes, and score them on the test
    split of every copy, beside the base and the copy itself.

    Args:
        base: whose weights the copies began with.
        tuned: runs of the same space, each with data of its own.
        out: the new file.
        shares: of `breadcrumbs`.

    Returns:
        For every copy and for its smallest and its largest sub-network a row: run, network, base, own, merged.

    Raises:
        ValueError: the file exists, a copy is of another space or other classes, or is not trained.
    """
    if out.exists() or out.suffix != ".safetensors":
        raise ValueError(f"{out}: give a new file that ends in .safetensors with --out")
    space = base.untrained_supernet.space
    for run in tuned:
        if run.untrained_supernet.space != space:
            raise ValueError(f"{run.path} has another space than {base.path}: only copies of one supernet are merged")
        if run.n_outputs != base.n_outputs:
            raise ValueError(f"{run.path} has {run.n_outputs} outputs, {base.path} has {base.n_outputs}")
    first = dict(base.supernet.state_dict())
    parameters = [name for name, _ in base.supernet.named_parameters()]
    merged = breadcrumbs(first, [dict(run.supernet.state_dict()) for run in tuned], parameters, **shares)
    rows, ends = [], {"smallest": space.smallest, "largest": space.largest}
    for run in tuned:
        name = run.task.metric.name
        ways = {"base": _OtherWeights(run, first), "own": Scorer(run), "merged": _OtherWeights(run, merged)}
        found = {way: scorer.score(list(ends.values()), "test", report) for way, scorer in ways.items()}
        for which, arch in ends.items():
            scores = {way: found[way][arch.id].metrics[name] for way in ways}
            rows.append({"run": str(run.path), "network": which, "metric": name, **scores})
    with replacing(out) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in merged.items()}, temporary)
    return rows
