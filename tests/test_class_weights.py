"""Weights of classes: in the loss with the labels of every method, and one for each class or refused."""

import pytest
import torch
from torch.nn import functional as F

from experiments.run_folder import RunFolder
from experiments.settings.recipe import load_recipe
from experiments.training.beginning import check_beginning
from experiments.training.phases import alone_phases, training_phases

WEIGHTS = (1.0, 2.0, 0.5, 1.0, 9.0, 1.0, 1.0, 1.0, 1.0, 3.0)


def weighted(recipe_path, folder, weights=WEIGHTS):
    path = folder / "weighted.toml"
    path.write_text(recipe_path.read_text().replace("[data]", f"[data]\nclass_weights = {list(weights)}"))
    return path


def test_every_phase_weighs_the_labels_and_none_the_teacher(recipe_path, tmp_path, small_supernet):
    recipe = load_recipe(weighted(recipe_path, tmp_path))
    logits, labels = torch.randn(8, 10, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 5
    smoothing = recipe.optimisation.label_smoothing
    expected = F.cross_entropy(logits, labels, torch.tensor(WEIGHTS), label_smoothing=smoothing)
    phases = training_phases(recipe, small_supernet)
    alone = alone_phases(recipe, small_supernet, small_supernet.space, 1)
    for phase in (*phases, *alone):
        torch.testing.assert_close(phase.loss(logits, labels, None, 0.0), expected)
    plain = training_phases(load_recipe(recipe_path), small_supernet)
    teacher, at_the_end = torch.randn(8, 10), 0.999999
    torch.testing.assert_close(
        phases[-1].loss(logits, labels, teacher, at_the_end), plain[-1].loss(logits, labels, teacher, at_the_end)
    )


def test_weights_that_do_not_fit_are_refused_before_training(recipe_path, tmp_path):
    run = RunFolder.start(weighted(recipe_path, tmp_path, WEIGHTS[:4]), tmp_path / "run")
    with pytest.raises(ValueError, match="has 4 numbers, and there are 10 classes"):
        check_beginning(run)
    with pytest.raises(ValueError, match="class_weights"):
        load_recipe(weighted(recipe_path, tmp_path, (1.0, -1.0)))
