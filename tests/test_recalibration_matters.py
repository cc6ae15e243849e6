"""Statistics tracked while a supernet trains belong to no sub-network: on the demo's data and space, measured."""

import numpy as np
import pytest

from experiments.data.digits import ComposedDigits
from supernet import create_supernet, recalibrate
from supernet.scoring.calibration import evaluate
from supernet.training import Schedule, Trainer, single_stage

pytestmark = pytest.mark.slow


def test_recalibrated_subnets_are_far_better_than_with_tracked_statistics():
    data = ComposedDigits(seed=0, train_images=3200, validation_images=400, test_images=10)
    supernet = create_supernet(
        "mobilenetv3",
        num_classes=10,
        in_chans=1,
        stages=[{"width": 16, "stride": 2, "act": "relu"}, {"width": 32, "stride": 2, "se": True}],
        kernels=[3, 5],
        expands=[2, 3, 4],
        depths=[1, 2, 3],
        resolutions=[20, 24, 28, 32],
        stem_width=8,
        head_width=128,
        feature_width=128,
    )
    phases = single_stage(supernet.space, Schedule(5, 0.1), n_random=1, warmup=Schedule(2, 0.1))
    Trainer(supernet, phases, data).run()
    images, calibration = list(data.evaluation_batches("validation", 200)), list(data.calibration_batches(500, 250))
    gains, accuracies = [], []
    for arch in supernet.space.sample(8, np.random.default_rng(1)):
        subnet = supernet.extract(arch).eval()
        tracked = evaluate(subnet, images, arch.resolution).value
        accuracies.append(evaluate(recalibrate(subnet, calibration, arch.resolution), images, arch.resolution).value)
        gains.append(accuracies[-1] - tracked)
    print(np.round(accuracies, 3), np.round(gains, 3))
    assert np.mean(accuracies) > 0.35  # chance is 0.1
    assert np.mean(gains) > 0.1
