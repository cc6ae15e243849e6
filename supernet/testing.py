"""The laws of a supernet as a test class to inherit from; needs pytest."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from supernet.architecture import Architecture

__all__ = ["SupernetContract", "randomize"]

_M = TypeVar("_M", bound=nn.Module)


def randomize(module: _M, seed: int = 0) -> _M:
    """The module in eval mode with no weight or statistic left at 0 or 1, where it would hide what it does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2.0, generator=generator)
            elif tensor.is_floating_point():
                size = 0.02 + 0.1 * tensor.abs().mean()
                tensor.add_(size * torch.randn(tensor.shape, generator=generator))
    return module.eval()


class SupernetContract:
    """Tests that hold for every supernet.

    A test class inherits from this one and gives the fixture ``supernet`` (an `nn.Module` with `space`, `extract` and
    the call), best through `randomize`; where the images are not square and of 3 channels also the method `images`;
    and, where there is one, the fixture ``original``, the network that the largest architecture must equal.
    """

    n_archs = 8
    """Architectures drawn for each law, beside the smallest and the largest."""

    @pytest.fixture
    def original(self) -> nn.Module | None:
        """The network that the largest architecture must equal; None where there is none."""
        return None

    def images(self, arch: Architecture) -> Tensor:
        """A batch that `arch` takes, always the same."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(8, 3, arch.resolution, arch.resolution, generator=generator)

    def archs(self, supernet: Any) -> list[Architecture]:
        """The smallest, the largest and some others."""
        space = supernet.space
        return [space.smallest, space.largest, *space.sample(self.n_archs, np.random.default_rng(0))]

    def test_encoding_loses_nothing(self, supernet: Any) -> None:
        archs, space = self.archs(supernet), supernet.space
        genes = space.encode(archs)
        assert space.decode(genes) == archs
        assert (space.canonical(genes) == genes).all()
        assert all(arch in space for arch in archs)

    def test_an_extracted_network_computes_what_the_supernet_computes(self, supernet: Any) -> None:
        supernet.eval()
        with torch.no_grad():
            for arch in self.archs(supernet):
                x = self.images(arch)
                torch.testing.assert_close(supernet.extract(arch).eval()(x), supernet(x, arch), rtol=1e-5, atol=1e-6)

    def test_the_largest_architecture_is_the_original_network(self, supernet: Any, original: nn.Module | None) -> None:
        if original is None:
            pytest.skip("no original network was given")
        supernet.eval()
        with torch.no_grad():
            x = self.images(supernet.space.largest)
            expected = original.eval()(x)
            scale = float(expected.abs().max())
            torch.testing.assert_close(supernet(x, supernet.space.largest), expected, rtol=0, atol=1e-5 * scale)

    def test_the_architecture_decides_what_is_computed(self, supernet: Any) -> None:
        supernet.eval()
        largest = supernet.space.largest
        smallest = replace(supernet.space.smallest, resolution=largest.resolution)
        if smallest == largest:
            pytest.skip("only the resolution can be chosen")
        with torch.no_grad():
            x = self.images(largest)
            assert not torch.allclose(supernet(x, smallest), supernet(x, largest), rtol=1e-4)

    def test_nothing_is_remembered_between_calls(self, supernet: Any) -> None:
        supernet.eval()
        first, second = supernet.space.smallest, supernet.space.largest
        with torch.no_grad():
            before = supernet(self.images(first), first)
            supernet(self.images(second), second)
            supernet.extract(second)
            assert torch.equal(supernet(self.images(first), first), before)

    def test_gradients_of_two_architectures_add_up(self, supernet: Any) -> None:
        first, second = supernet.space.smallest, supernet.space.largest
        one, two, both = (copy.deepcopy(supernet).eval() for _ in range(3))
        self._loss(one, first).backward()
        self._loss(two, second).backward()
        (self._loss(both, first) + self._loss(both, second)).backward()
        for (name, p), q, r in zip(both.named_parameters(), one.parameters(), two.parameters(), strict=True):
            expected = sum(grad for grad in (q.grad, r.grad) if grad is not None)
            if p.grad is None:
                assert isinstance(expected, int), f"{name} has no gradient"
            else:
                scale = float(p.grad.abs().max())
                torch.testing.assert_close(p.grad, expected, rtol=1e-4, atol=1e-5 * scale, msg=name)

    def test_gradients_reach_what_is_active_and_nothing_else(self, supernet: Any) -> None:
        """What got no gradient can change without changing the logits; what is absent got None, not zeros.

        With a gradient of zeros, weight decay and momentum would still move what did not take part.
        """
        for arch in (supernet.space.smallest, supernet.space.largest):
            exact = copy.deepcopy(supernet).double()
            changed, generator = copy.deepcopy(exact).eval(), torch.Generator().manual_seed(1)
            # A unit that rectifies away all it gets has no gradient; it is unlikely to do so in both modes.
            networks = [copy.deepcopy(exact).train(mode) for mode in (True, False)]
            for network in networks:
                self._loss(network, arch, torch.float64).backward()
            named = zip(changed.named_parameters(), *(network.parameters() for network in networks), strict=True)
            with torch.no_grad():
                for (name, parameter), *alike in named:
                    grads = [p.grad for p in alike if p.grad is not None]
                    assert not grads or any(grad.any() for grad in grads), f"{name} got zeros instead of no gradient"
                    reached = torch.stack([grad != 0 for grad in grads]).any(dim=0) if grads else torch.tensor(False)
                    # So little that no rectified unit wakes up.
                    noise = 1e-6 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                    parameter.add_(noise.masked_fill(reached, 0.0))
                x = self.images(arch).double()
                expected = exact.eval()(x, arch)
                atol = 1e-9 * float(expected.abs().max())
                message = f"{arch} depends on parameters that got no gradient"
                assert torch.allclose(changed(x, arch), expected, rtol=0, atol=atol), message

    def test_an_extracted_network_has_weights_of_its_own(self, supernet: Any) -> None:
        supernet.eval()
        arch = supernet.space.smallest
        with torch.no_grad():
            before = supernet(self.images(arch), arch)
        subnet = supernet.extract(arch)
        assert all(parameter.requires_grad and parameter.is_leaf for parameter in subnet.parameters())
        with torch.no_grad():
            for parameter in subnet.parameters():
                parameter.zero_()
            assert torch.equal(supernet(self.images(arch), arch), before)

    def test_copies_are_independent(self, supernet: Any) -> None:
        supernet.eval()
        arch, other = supernet.space.largest, copy.deepcopy(supernet)
        with torch.no_grad():
            before = supernet(self.images(arch), arch)
            assert torch.equal(other(self.images(arch), arch), before)
            for parameter in other.parameters():
                parameter.zero_()
            assert torch.equal(supernet(self.images(arch), arch), before)
            assert not torch.equal(other(self.images(arch), arch), before)

    def _loss(self, supernet: Any, arch: Architecture, dtype: torch.dtype = torch.float32) -> Tensor:
        logits = supernet(self.images(arch).to(dtype), arch)
        weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))
        return (logits * weights).sum()
