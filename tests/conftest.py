"""Shared by all tests: one thread, and one small supernet of the published class."""

import pytest
import torch

from supernet import create_supernet
from supernet.inverted_residual import InvertedResidualSupernet

SMALL = {
    "stages": [{"width": 16, "stride": 2, "depths": [1, 2], "act": "relu"}, {"width": 24, "stride": 2, "se": True}],
    "depths": [1, 2, 3],
    "kernels": [3, 5, 7],
    "expands": [2, 3, 4],
    "resolutions": [24, 28, 32],
    "stem_width": 8,
    "head_width": 48,
    "feature_width": 64,
}


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def small_supernet() -> InvertedResidualSupernet:
    """A supernet of 10^5 architectures on 1-channel images, with weights and statistics that no test can hide behind."""
    supernet = create_supernet("mobilenetv3", num_classes=10, in_chans=1, **SMALL)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in supernet.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2.0, generator=generator)
            elif tensor.is_floating_point():
                tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
    return supernet.eval()
