"""Fine-tuned copies of one supernet become one."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from supernet.networks.merging import breadcrumbs


def test_the_largest_and_the_smallest_changes_of_every_parameter_are_left_out():
    base = {"w": torch.zeros(2, 5), "b": torch.ones(10), "running_mean": torch.zeros(3)}
    change = torch.tensor([9.0, -1.0, 2.0, -8.0, 3.0, 4.0, 5.0, -6.0, 7.0, -0.1])
    tuned = {"w": change.view(2, 5), "b": 1 - 10 * change, "running_mean": torch.ones(3)}
    merged = breadcrumbs(base, [tuned], ["w", "b"], scale=0.5, smallest=0.3, largest=0.2)
    kept = torch.tensor([0.0, 0, 0, 0, 3, 4, 5, -6, 7, 0])
    torch.testing.assert_close(merged["w"], 0.5 * kept.view(2, 5))
    torch.testing.assert_close(merged["b"], 1 - 5 * kept)  # each parameter by its own sizes
    assert torch.equal(merged["running_mean"], base["running_mean"]) and torch.equal(base["w"], torch.zeros(2, 5))


def test_changes_of_several_copies_are_added_and_nothing_left_out_is_all_of_them():
    generator = torch.Generator().manual_seed(0)
    base, one, two = ({"w": torch.randn(20, generator=generator)} for _ in range(3))
    whole = breadcrumbs(base, [one, two], ["w"], scale=1, smallest=0, largest=0)
    torch.testing.assert_close(whole["w"], one["w"] + two["w"] - base["w"])
    alone = [breadcrumbs(base, [copy], ["w"])["w"] - base["w"] for copy in (one, two)]
    torch.testing.assert_close(breadcrumbs(base, [one, two], ["w"])["w"], base["w"] + alone[0] + alone[1])


def test_copies_of_something_else_and_shares_that_leave_nothing_are_refused():
    base = {"w": torch.zeros(3)}
    for tuned, shares, why in (
        ([{"w": torch.zeros(4)}], {}, "of shape"),
        ([{}], {}, "missing"),
        ([], {}, "no fine-tuned copy"),
        ([base], {"smallest": 0.9, "largest": 0.1}, "leaves nothing"),
    ):
        with pytest.raises(ValueError, match=why):
            breadcrumbs(base, tuned, ["w"], **shares)


def test_runs_are_merged_by_the_command_and_scored_on_the_data_of_each(command, copied_run, tmp_path):
    generator = torch.Generator().manual_seed(0)
    first = load_file(copied_run / "supernet.safetensors")
    for name in ("a", "b"):
        shutil.copytree(copied_run, tmp_path / name)
        changed = {
            key: tensor + 0.02 * torch.randn(tensor.shape, generator=generator)
            if tensor.is_floating_point()
            else tensor
            for key, tensor in first.items()
        }
        save_file(changed, tmp_path / name / "supernet.safetensors")
    out = tmp_path / "merged.safetensors"
    told = command("merge", copied_run, tmp_path / "a", tmp_path / "b", "--out", out, "--largest", "2%").stdout
    assert told.count("largest") == 2 and told.count("%") == 12
    merged = load_file(out)
    assert merged.keys() == first.keys()
    moved = [float((merged[key] != first[key]).float().mean()) for key in first if first[key].ndim == 4]
    assert all(0.05 < share < 0.35 for share in moved)  # 13 % of each of two
    for wrong, why in (
        (["--out", out], "give a new file"),
        (["--out", tmp_path / "c.safetensors", "--scale", "-1"], "must be above 0"),
        (["--out", tmp_path / "c.safetensors", "--smallest", "100%"], "leaves nothing"),
    ):
        assert why in command("merge", copied_run, tmp_path / "a", *wrong, check=2).stderr
    assert not (tmp_path / "c.safetensors").exists()
