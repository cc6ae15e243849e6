"""What of a network is refused before anything is done with it: one line each, with the way out."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["check_module"]


def check_module(module: nn.Module) -> None:
    """Refuse what cannot be watched or put together again.

    Raises:
        ValueError: compiled, scripted, quantised, parametrised or hooked modules; half precision; several devices.
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"a {type(module).__name__} is not an nn.Module")
    kind = type(module).__name__
    if hasattr(module, "_orig_mod"):
        raise ValueError("the network is compiled; give the one before torch.compile, its ._orig_mod")
    if isinstance(module, torch.jit.ScriptModule):
        raise ValueError(f"a {kind} is a TorchScript module, whose code is gone; give the module it was made from")
    if isinstance(module, torch.fx.GraphModule):
        raise ValueError(
            f"a {kind} is a traced graph, whose sizes are written into it; give the module it is made from"
        )
    for name, part in module.named_modules():
        where = f"{name or 'the network'} ({type(part).__name__})"
        if "quantized" in type(part).__module__ or type(part).__module__.startswith("torch.ao"):
            raise ValueError(
                f"{where} is quantised; give the network before quantisation, and quantise what it exports"
            )
        if hasattr(part, "parametrizations"):
            raise ValueError(f"{where} is parametrised; call torch.nn.utils.parametrize.remove_parametrizations first")
        if any(isinstance(p, nn.UninitializedParameter) for p in part.parameters(recurse=False)):
            raise ValueError(f"{where} has no weights yet; run the network once first")
        if part._forward_hooks or part._forward_pre_hooks or part._backward_hooks:
            raise ValueError(f"{where} has hooks, which would be run on sub-networks, too; remove them first")
    devices = {p.device for p in module.parameters()}
    if len(devices) > 1:
        listed = ", ".join(sorted(map(str, devices)))
        raise ValueError(f"the network's parameters are on several devices ({listed}); move it to one with .to(device)")
    for name, parameter in module.named_parameters():
        if parameter.dtype in (torch.float16, torch.bfloat16):
            word = str(parameter.dtype).removeprefix("torch.")
            raise ValueError(f"{name} is {word}; call .float() first, and train with a precision of the recipe's")
