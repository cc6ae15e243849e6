"""Sub-networks of a trained network without more training: what reads a narrowed input is fitted by least squares."""

from __future__ import annotations

import copy
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from supernet.architecture import Architecture
from supernet.scoring.calibration import batch_norms, recalibrate
from supernet.scoring.images import resize
from supernet.space import SearchSpace

__all__ = ["correct"]

_RIDGE = 0.01
_AT_ONCE = 16  # images whose patches are in memory together


def correct(supernet: Any, arch: Architecture, images: Iterable[Tensor], ridge: float = _RIDGE) -> Any:
    """Sub-network `arch` with its layers fitted to what the largest network computes on some images, in closed form.

    Layer by layer, in the order in which they run: its inputs are those that the sub-network has by now, its targets
    what the same layer of the largest network puts out. The least change of the weights that was cut out does it
    (ridge regression towards them; reconstruction as in channel pruning by He et al. 2017 and optimal brain
    compression by Frantar and Alistarh 2022). Layers of a part that was not cut keep their weights, since there is
    nothing to mend. BatchNorms keep the statistics that the largest network has on these images: what cannot be told
    from fewer channels is fitted with a smaller spread, and statistics of its own would blow it up again.

    Args:
        supernet: whose largest network has been trained, such as one made of a pretrained model.
        arch: the sub-network.
        images: batches (n, channels, height, width), a few hundred images in all; they pass through at once.
        ridge: penalty on changes of weights, in units of the mean square of the inputs.

    Returns:
        What ``supernet.extract(arch)`` returns, in eval mode, with other weights.

    Raises:
        ValueError: there are no images, or `arch` is not in the space.
    """
    batches = list(images)
    if not batches:
        raise ValueError("correcting a sub-network needs images; got none")
    space: SearchSpace = supernet.space
    largest: Any = replace(space.largest, resolution=arch.resolution)
    student, teacher = supernet.extract(arch).eval(), supernet.extract(largest).eval()
    if batches[0].ndim == 4:
        batches = [resize(batch, arch.resolution) for batch in batches]
    whole = torch.cat(batches).to(next(student.parameters()).device)
    numbered = _numbered(supernet, arch)
    recalibrate(teacher, batches)  # what a supernet tracked while it trained belongs to none of its networks
    _take_statistics(student, teacher, numbered)
    targets = _Targets(teacher, whole, _kept_outputs(numbered, student, teacher))
    hooks = [student.get_submodule(name).register_forward_pre_hook(_Fit(name, targets, ridge)) for name in targets.kept]
    try:
        with torch.no_grad(), targets:
            student(whole)
    finally:
        for hook in hooks:
            hook.remove()
    return student


@dataclass
class _Fit:
    """Before a layer of the sub-network runs for the first time, its weights are fitted to its inputs."""

    name: str
    targets: _Targets
    ridge: float
    done: bool = False

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if self.done:
            return
        self.done = True
        wanted = self.targets.of(self.name)
        if wanted is None:
            return
        own = cast(Any, layer)
        groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
        found = layer.forward(inputs[0])  # not through __call__, which would come back here
        if found.shape != wanted.shape:
            return
        centred = own.bias is not None
        gram: Any = 0
        cross: Any = 0
        sums: Any = 0
        residual_sums: Any = 0
        n = 0
        for x, part in zip(inputs[0].split(_AT_ONCE), (wanted - found).split(_AT_ONCE), strict=True):
            rows, residual = _rows(layer, x, groups), _outputs(layer, part, groups)
            gram = gram + rows.transpose(1, 2) @ rows
            cross = cross + rows.transpose(1, 2) @ residual
            sums, residual_sums = sums + rows.sum(1), residual_sums + residual.sum(1)
            n += rows.shape[1]
        if centred:
            gram = gram - sums[:, :, None] * sums[:, None, :] / n
            cross = cross - sums[:, :, None] * residual_sums[:, None, :] / n
        scale = gram.diagonal(dim1=1, dim2=2).mean(dim=1)
        live = scale > 0  # a group whose inputs never change has nothing to fit
        eye = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
        penalty = torch.where(live, self.ridge * scale, 1.0)
        change = torch.linalg.solve(gram + penalty[:, None, None] * eye, cross)
        change = torch.where(live[:, None, None], change, torch.zeros_like(change))
        own.weight += change.transpose(1, 2).reshape(own.weight.shape).to(own.weight.dtype)
        if centred:
            shift = residual_sums / n - (sums[:, None, :] @ change)[:, 0] / n
            own.bias += shift.reshape(-1).to(own.bias.dtype)


class _Targets:
    """The largest network, run in step with the sub-network in a thread of its own: one layer's output at a time.

    So no more than what both networks need at one moment is in memory.
    """

    def __init__(self, teacher: nn.Module, images: Tensor, kept: dict[str, Tensor]) -> None:
        self.kept = kept
        self._images, self._teacher = images, teacher
        self._answers: queue.Queue[tuple[str, Tensor] | Exception | None] = queue.Queue(1)
        self._stopped = threading.Event()
        self._waiting: dict[str, Tensor] = {}
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Targets:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        while self._thread.is_alive():  # it may wait for room
            try:
                self._answers.get(timeout=0.05)
            except queue.Empty:
                continue

    def of(self, name: str) -> Tensor | None:
        """What a layer of the largest network puts out where the sub-network's does, or None where it never runs."""
        while name not in self._waiting:
            answer = self._answers.get()
            if isinstance(answer, Exception):
                raise answer
            if answer is None:
                self._answers.put(None)
                return None
            self._waiting[answer[0]] = answer[1]
        return self._waiting.pop(name)

    def _run(self) -> None:
        seen: set[str] = set()

        def teller(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
            def tell(layer: nn.Module, _: Any, output: Tensor) -> None:
                if name not in seen and not self._stopped.is_set():
                    seen.add(name)
                    axis = -3 if isinstance(layer, nn.Conv2d) else -1
                    self._answers.put((name, output.index_select(axis, self.kept[name])))

            return tell

        hooks = [self._teacher.get_submodule(name).register_forward_hook(teller(name)) for name in self.kept]
        try:
            with torch.no_grad():
                self._teacher(self._images)
            self._answers.put(None)
        except Exception as error:  # for the thread that asks
            self._answers.put(error)
        finally:
            for hook in hooks:
                hook.remove()


def _numbered(supernet: Any, arch: Architecture) -> Any:
    """The sub-network of a copy whose every weight is its own number: what was cut out can be read off."""
    numbered = copy.deepcopy(supernet).double()
    with torch.no_grad():
        means = (norm.running_mean for norm in batch_norms(numbered) if norm.running_mean is not None)
        for tensor in (*numbered.parameters(), *means):
            tensor.copy_(torch.arange(tensor.numel(), device=tensor.device).view_as(tensor))
    return numbered.extract(arch)


def _take_statistics(student: nn.Module, teacher: nn.Module, numbered: nn.Module) -> None:
    """The BatchNorms of the sub-network get the statistics of the largest network, since they see the same."""
    for name, norm in student.named_modules():
        if isinstance(norm, _BatchNorm) and norm.running_mean is not None:
            original = cast(Any, teacher.get_submodule(name))
            kept = cast(Any, numbered.get_submodule(name)).running_mean.long()
            norm.running_mean.copy_(original.running_mean[kept])
            cast(Tensor, norm.running_var).copy_(original.running_var[kept])


def _kept_outputs(numbered: nn.Module, student: nn.Module, teacher: nn.Module) -> dict[str, Tensor]:
    """Which outputs (n,) of each layer of the largest network the sub-network has, for layers that can be fitted."""
    device = next(student.parameters()).device
    found: dict[str, Tensor] = {}
    for name, layer in _layers(student):
        try:
            original = cast(Any, teacher.get_submodule(name))
        except AttributeError:
            continue
        numbers = cast(Any, numbered.get_submodule(name)).weight.detach()
        outputs = numbers.flatten(1).div(original.weight[0].numel(), rounding_mode="floor")
        whole = bool((numbers == numbers.round()).all()) and bool((outputs == outputs[:, :1]).all())
        if type(original) is type(layer) and whole:  # else its kernel is transformed
            found[name] = outputs[:, 0].long().to(device)
    return found


def _layers(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in network.named_modules():
        kind = next((kind for kind in (nn.Conv2d, nn.Linear) if isinstance(module, kind)), None)
        if kind is None or type(module).forward is not kind.forward:  # one of its own may pad, or transform its kernel
            continue
        if not isinstance(module, nn.Conv2d) or (module.padding_mode == "zeros" and isinstance(module.padding, tuple)):
            yield name, module


def _rows(layer: nn.Module, x: Tensor, groups: int) -> Tensor:
    """(groups, n_rows, n_inputs) what each output is computed from, in double precision."""
    if not isinstance(layer, nn.Conv2d):
        return x.reshape(1, -1, x.shape[-1]).double()
    patches = nn.functional.unfold(
        x,
        layer.kernel_size,
        cast(Any, layer.dilation),
        cast(Any, layer.padding),
        cast(Any, layer.stride),
    ).double()
    return patches.unflatten(1, (groups, -1)).permute(1, 0, 3, 2).flatten(1, 2)


def _outputs(layer: nn.Module, y: Tensor, groups: int) -> Tensor:
    """(groups, n_rows, n_outputs) in the same order."""
    if not isinstance(layer, nn.Conv2d):
        return y.reshape(1, -1, y.shape[-1]).double()
    return y.double().flatten(2).unflatten(1, (groups, -1)).permute(1, 0, 3, 2).flatten(1, 2)
