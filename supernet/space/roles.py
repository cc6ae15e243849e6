"""What a choice is for: training and recipes speak of roles, so that a supernet names its choices as it likes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

__all__ = ["ROLES", "Role", "roles_of"]

Role = Literal["resolution", "depth", "switch", "kernel", "middle_width", "heads", "outer_width", "embedding"]
"""`switch` leaves a layer out; a middle width is inside a block, an outer width between blocks."""

ROLES: Mapping[str, Role] = {
    "resolution": "resolution",
    "depth": "depth",
    # inverted residual networks and the published ResNet50-D
    "kernel": "kernel",
    "expand": "middle_width",
    "width": "outer_width",
    # the stem of the published ResNet50-D
    "stem_residual": "switch",
    "stem_mid_width": "outer_width",
    "stem_out_width": "outer_width",
    # transformers
    "heads": "heads",
    "mlp_ratio": "middle_width",
    "embed_dim": "embedding",
}
"""The role of every choice of the families here, by its name."""


def roles_of(supernet: Any) -> Mapping[str, Role]:
    """The roles of a supernet's choices: those here, and what its member `roles` says, where it has one.

    Raises:
        ValueError: a role that there is not.
    """
    own: Mapping[str, Role] = getattr(supernet, "roles", {})
    for name, role in own.items():
        if role not in get_args(Role):
            raise ValueError(f"role {role!r} of the choice {name!r}; possible are {', '.join(get_args(Role))}")
    roles: dict[str, Role] = {**ROLES}
    roles.update(own)
    return roles
