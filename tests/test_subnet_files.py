import numpy as np
import pytest
import torch
from timm.models import MobileNetV3

from supernet import load_subnet
from supernet.subnet import save_subnet


@pytest.fixture
def bundle(small_supernet, tmp_path):
    arch = small_supernet.space.sample(1, np.random.default_rng(0))[0]
    subnet = small_supernet.extract(arch)
    save_subnet(subnet, arch, small_supernet.definition, tmp_path)
    x = torch.randn(2, 1, arch.resolution, arch.resolution)
    return tmp_path, x, subnet(x)


def test_a_subnet_comes_back_without_its_supernet(bundle):
    directory, x, logits = bundle
    subnet = load_subnet(directory)
    assert isinstance(subnet, MobileNetV3) and not subnet.training
    torch.testing.assert_close(subnet(x), logits)
    subnet.train()(x).sum().backward()
    assert all(p.grad is not None for p in subnet.parameters())


@pytest.mark.parametrize("name", ["model.safetensors", "arch.json"])
def test_a_damaged_bundle_is_refused_in_one_line(bundle, name):
    directory, _, _ = bundle
    content = (directory / name).read_bytes()
    (directory / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="damaged") as error:
        load_subnet(directory)
    assert "\n" not in str(error.value)
    (directory / name).unlink()
    with pytest.raises(ValueError, match=f"is not a bundle: {name} is missing"):
        load_subnet(directory)
