"""Architectures in the dictionary form in which published once-for-all sub-networks come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from supernet.architecture import Architecture, Block, Number, Settings
from supernet.space import SearchSpace, Stage

__all__ = ["CHOICES", "WIDTHS", "from_ofa", "to_ofa"]

CHOICES: Mapping[str, tuple[int, ...]] = {
    "kernels": (3, 5, 7),
    "expands": (3, 4, 6),
    "depths": (2, 3, 4),
    "resolutions": (224,),
}
WIDTHS = {"stem_width": 16, "head_width": 960, "feature_width": 1280}
"""Of the once-for-all MobileNetV3 (Cai et al. 2020), and of networks of its class where nothing else is said."""

# Block positions per stage as the published lists count them, also where a space has been restricted.
_INVERTED_POSITIONS = {5: (4, 4, 4, 4, 4), 6: (4, 4, 4, 4, 4, 1)}
_RESIDUAL_BASE, _RESIDUAL_EXTRA = (2, 2, 4, 2), 2
_RESIDUAL_WIDTHS = (0.65, 0.8, 1.0)
_LARGEST = float("inf")  # of an entry that has been left out
_STEM_KEPT = 2  # d[0] of the ResNet; with 0 and 1 its stem goes without the residual convolution


def from_ofa(space: SearchSpace, config: Mapping[str, Any]) -> Architecture:
    """The architecture of a published dictionary (Once-for-All, Cai et al. 2020).

    MobileNetV3 and ProxylessNAS: ``ks`` and ``e`` have an entry for every block position, whether the block exists or
    not, ``d`` has the depth of every stage. The entry of the last, single block of ProxylessNAS may be left out; it
    then has its largest settings. ResNet: ``d`` has the stem (2 keeps its residual convolution) and the extra blocks of
    every stage, ``e`` has 18 entries, and ``w`` has 6 indices into 0.65, 0.8 and 1.0: stem (inside and out), stages.

    A single number stands for a list of it. ``r`` is a number or a list of one, and without it the resolution is the
    largest. ``wid`` is None.

    Raises:
        ValueError: an entry is missing, unknown or impossible, or the space has no published form.
    """
    arch = _residual_from_ofa(space, config) if _is_residual(space) else _inverted_from_ofa(space, config)
    space.encode([arch])
    return arch


def to_ofa(space: SearchSpace, arch: Architecture) -> dict[str, Any]:
    """The published dictionary of an architecture; entries of absent blocks have their smallest choice.

    Raises:
        ValueError: the architecture is not in the space, or the space has no published form.
    """
    space.encode([arch])
    if _is_residual(space):
        positions = [base + _RESIDUAL_EXTRA for base in _RESIDUAL_BASE]
        extra = [len(stage) - base for stage, base in zip(arch.stages, _RESIDUAL_BASE, strict=True)]
        settings = arch.settings
        widths = [settings.stem_mid_width, settings.stem_out_width, *(stage[0].width for stage in arch.stages)]
        return {
            "d": [_STEM_KEPT if settings.stem_residual else 0, *extra],
            "e": _filled(space, arch, positions, "expand"),
            "w": [_RESIDUAL_WIDTHS.index(width) for width in widths],
            "r": [arch.resolution],
        }
    positions = _inverted_positions(space)
    return {
        "wid": None,
        "ks": _filled(space, arch, positions, "kernel"),
        "e": _filled(space, arch, positions, "expand"),
        "d": list(arch.depths),
        "r": [arch.resolution],
    }


def _is_residual(space: SearchSpace) -> bool:
    return set(space.settings) == {"stem_residual", "stem_mid_width", "stem_out_width"}


def _inverted_positions(space: SearchSpace) -> tuple[int, ...]:
    positions = _INVERTED_POSITIONS.get(len(space.stages), ())
    blocks = [_choices(stage, b) for stage in space.stages for b in range(len(stage.blocks))]
    fits = all(len(stage.blocks) <= n for stage, n in zip(space.stages, positions, strict=False))
    if not positions or not fits or space.settings or any(set(block) != {"kernel", "expand"} for block in blocks):
        raise ValueError(
            "this space has no published form; that is for the once-for-all MobileNetV3, ProxylessNAS and ResNet50-D"
        )
    return positions


def _inverted_from_ofa(space: SearchSpace, config: Mapping[str, Any]) -> Architecture:
    positions = _inverted_positions(space)
    _check_keys(config, needed=("ks", "e", "d"), absent=("w", "wid"))
    single = positions[-1] == 1  # the last stage of ProxylessNAS, which published dictionaries may leave out
    n = sum(positions)
    kernels = _entries(config, "ks", n, n - 1 if single else n)
    expands = _entries(config, "e", n, n - 1 if single else n)
    depths = _entries(config, "d", len(positions), len(positions) - 1 if single else len(positions))
    stages, start = [], 0
    for s, (stage, n_positions) in enumerate(zip(space.stages, positions, strict=True)):
        capped = n_positions == 1  # published depths go up to 4 for this stage too
        depth = _chosen(f"d[{s}]", depths[s], range(1, 5) if capped else stage.depths)
        blocks = []
        for b, i in enumerate(range(start, start + min(int(depth), n_positions))):
            known = _choices(stage, b)
            kernel = _chosen(f"ks[{i}]", kernels[i], known["kernel"])
            blocks.append(Block(kernel=kernel, expand=_chosen(f"e[{i}]", expands[i], known["expand"])))
        stages.append(tuple(blocks))
        start += n_positions
    return Architecture(_resolution(space, config), tuple(stages))


def _residual_from_ofa(space: SearchSpace, config: Mapping[str, Any]) -> Architecture:
    _check_keys(config, needed=("d", "e", "w"), absent=("ks", "wid"))
    depths = _entries(config, "d", 1 + len(_RESIDUAL_BASE))
    expands = _entries(config, "e", sum(_RESIDUAL_BASE) + _RESIDUAL_EXTRA * len(_RESIDUAL_BASE))
    widths = [
        _RESIDUAL_WIDTHS[int(_chosen(f"w[{i}]", index, range(len(_RESIDUAL_WIDTHS))))]
        for i, index in enumerate(_entries(config, "w", 2 + len(_RESIDUAL_BASE)))
    ]
    stem = _chosen("d[0]", depths[0], range(_STEM_KEPT + 1))
    stages, start = [], 0
    for s, (stage, base) in enumerate(zip(space.stages, _RESIDUAL_BASE, strict=True)):
        extras = [depth - base for depth in stage.depths]
        depth = base + int(_chosen(f"d[{s + 1}]", depths[s + 1], extras))
        blocks = [
            Block(expand=_chosen(f"e[{i}]", expands[i], _choices(stage, b)["expand"]), width=widths[2 + s])
            for b, i in enumerate(range(start, start + depth))
        ]
        stages.append(tuple(blocks))
        start += base + _RESIDUAL_EXTRA
    settings = Settings(stem_residual=int(stem == _STEM_KEPT), stem_mid_width=widths[0], stem_out_width=widths[1])
    return Architecture(_resolution(space, config), tuple(stages), settings)


def _filled(space: SearchSpace, arch: Architecture, positions: Sequence[int], name: str) -> list[Number]:
    entries: list[Number] = []
    for stage, blocks, n in zip(space.stages, arch.stages, positions, strict=True):
        entries += [block[name] for block in blocks]
        last = len(stage.blocks) - 1
        entries += [_choices(stage, min(b, last))[name][0] for b in range(len(blocks), n)]
    return entries


def _choices(stage: Stage, b: int) -> dict[str, tuple[Number, ...]]:
    return {**stage.shared, **stage.blocks[b]}


def _check_keys(config: Mapping[str, Any], needed: Sequence[str], absent: Sequence[str]) -> None:
    known = (*needed, "r", *absent)
    for name in config:
        if name not in known:
            raise ValueError(f"the published form of this space has no {name!r}; possible are {', '.join(known)}")
    for name in needed:
        if config.get(name) is None:
            raise ValueError(f"{name} is missing; the published form of this space needs {', '.join(needed)}")
    for name in absent:
        if config.get(name) is not None:
            raise ValueError(f"{name} = {config[name]!r} is no choice of this space; possible is None")


def _entries(config: Mapping[str, Any], name: str, n: int, at_least: int | None = None) -> list[Any]:
    """`n` entries; where a shorter list is allowed, it is continued with `_LARGEST`."""
    value = config[name]
    if not hasattr(value, "__len__"):
        return [value] * n
    entries = list(value)
    if not (at_least or n) <= len(entries) <= n:
        raise ValueError(f"{name} has {len(entries)} entries; the published form of this space has {n}")
    return entries + [_LARGEST] * (n - len(entries))


def _chosen(label: str, value: Any, choices: Sequence[Number]) -> Number:
    """`value` as the space writes it."""
    if value == _LARGEST:
        return choices[-1]
    for choice in choices:
        if value == choice:
            return choice
    raise ValueError(f"{label} = {value!r}; possible are {', '.join(f'{choice:g}' for choice in choices)}")


def _resolution(space: SearchSpace, config: Mapping[str, Any]) -> int:
    value: Any = _LARGEST if config.get("r") is None else config["r"]
    if hasattr(value, "__len__") and not isinstance(value, str):
        if len(value) != 1:
            raise ValueError(f"r = {value!r}; it is one number, or a list of one")
        value = value[0]
    return int(_chosen("r", value, space.resolutions))
