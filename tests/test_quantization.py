"""8-bit files and the accuracy of files: by running them."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from experiments.scoring.onnx_score import fixed_batches, onnx_score
from hardware import OnnxRuntimeProfiler, Workload, export_onnx
from hardware.onnx.export import export_onnx_of_any_size
from hardware.onnx.quantization import is_quantized, quantize_onnx
from hardware.onnx.workload import onnx_file

IMAGES = np.random.default_rng(0).standard_normal((40, 3, 16, 16), dtype=np.float32)


def net() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5)
    return module.eval()


@pytest.fixture(scope="module")
def exact() -> bytes:
    return export_onnx(net(), (8, 3, 16, 16))


@pytest.fixture(scope="module")
def quantized(exact) -> bytes:
    return quantize_onnx(exact, [IMAGES[:24], IMAGES[24:]])


def logits(model: bytes) -> np.ndarray:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    batches = [np.asarray(session.run(None, {"images": IMAGES[i : i + 8]})[0]) for i in range(0, 40, 8)]
    return np.concatenate(batches)


def test_an_int8_file_computes_nearly_the_same_in_integers(exact, quantized):
    assert is_quantized(quantized) and not is_quantized(exact)
    error = np.abs(logits(quantized) - logits(exact)).max() / np.abs(logits(exact)).max()
    assert 1e-6 < error < 0.05


def test_a_file_with_its_weights_beside_it_becomes_the_same_int8_file(exact, quantized, tmp_path):
    large = export_onnx_of_any_size(net(), (8, 3, 16, 16), tmp_path / "model.onnx", at_most=1000)
    assert large == tmp_path / "model.onnx"
    np.testing.assert_array_equal(logits(quantize_onnx(large, [IMAGES[:24], IMAGES[24:]])), logits(quantized))
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "model.onnx.data"}


def test_ranges_come_from_the_images(exact, quantized):
    """From images a hundredth as bright, the ranges are too small for these, and nothing is right any more."""
    dim = quantize_onnx(exact, [IMAGES * 0.01])
    error = [np.abs(logits(model) - logits(exact)).max() for model in (quantized, dim)]
    assert error[1] > 10 * error[0]


def test_quantising_without_images_is_refused(exact):
    with pytest.raises(ValueError, match="calibration images; got none"):
        quantize_onnx(exact, [])


def test_the_accuracy_of_a_file_is_that_of_the_network(exact):
    with torch.inference_mode():
        answers = net()(torch.from_numpy(IMAGES)).argmax(1).numpy()
    labels = answers.copy()
    labels[:10] = (labels[:10] + 1) % 10  # ten of forty wrong
    # Batches that do not fit the file's, the last not full.
    batches = [(IMAGES[i : i + 7], labels[i : i + 7]) for i in range(0, 40, 7)]
    assert onnx_score(exact, batches) == pytest.approx(0.75)
    assert onnx_score(exact, [(IMAGES[:3], labels[:3])]) == 0.0
    with pytest.raises(ValueError, match="got none"):
        onnx_score(exact, [])
    with pytest.raises(ValueError, match=r"takes images \[3, 16, 16\], given were \[3, 8, 8\]"):
        onnx_score(exact, [(IMAGES[:8, :, :8, :8], labels[:8])])


@pytest.mark.parametrize("sizes", [[40], [1] * 40, [7, 7, 7, 7, 7, 5], [3, 0, 37], [16, 24]])
@pytest.mark.parametrize("size", [1, 8, 16, 64])
def test_batches_of_a_fixed_size_hold_every_image_once_and_in_order(sizes, size):
    starts = np.cumsum([0, *sizes[:-1]])
    found = list(fixed_batches((IMAGES[a : a + n] for a, n in zip(starts, sizes, strict=True)), size))
    assert all(len(batch) == size for batch, _ in found)
    assert np.array_equal(np.concatenate([batch[:n] for batch, n in found]), IMAGES)


def test_a_device_takes_only_files_of_its_precision(exact, quantized, tmp_path):
    shape = (8, 3, 16, 16)
    assert is_quantized(onnx_file(Workload("net", net(), 16), shape, int8=True))
    assert not is_quantized(onnx_file(Workload("net", net(), 16), shape))
    path = tmp_path / "model.onnx"
    path.write_bytes(quantized)
    for model in (quantized, path):
        with pytest.raises(ValueError, match="the file of 'net' is quantised, the device is for files that are not"):
            OnnxRuntimeProfiler("ort", 8).prepare(Workload("net", model, 16))
    with pytest.raises(ValueError, match="is not quantised, the device is for int8"):
        OnnxRuntimeProfiler("ort", 8, precision="int8").prepare(Workload("net", exact, 16))
    prepared = OnnxRuntimeProfiler("ort", 8, precision="int8").prepare(Workload("net", path, 16))
    assert prepared.run(1) > 0 and prepared.extras["file_bytes"] == len(quantized)


def test_calibration_images_of_a_profiler_reach_the_file(exact):
    seen = []

    def calibration(workload: Workload):
        seen.append(workload.key)
        yield IMAGES

    profiler = OnnxRuntimeProfiler("ort", 8, precision="int8", calibration=calibration)
    profiler.prepare(Workload("net", net(), 16))
    assert seen == ["net"]
