"""Plans are typed: what a plan is stands in it, so nothing depends on how its file is called."""

from pathlib import Path

import pytest

from experiments.plans import baseline_plans, search_plans
from experiments.run_folder import RunFolder


@pytest.fixture
def run(recipe_path: Path, tmp_path: Path) -> RunFolder:
    return RunFolder.start(recipe_path, tmp_path / "run")


def test_rounds_come_in_the_order_of_their_numbers_and_a_device_sees_its_own(run: RunFolder) -> None:
    arch = run.untrained_supernet.space.smallest
    for number in (10, 2, 1):
        run.write_plan("round", [arch], [{}], number=number)
    for device in ("phone", "10-phone", "final"):  # names that look like parts of a file's name
        run.write_plan("round", [arch], [{}], number=1, device=device)
        run.write_plan("final", [arch], [{}], device=device)
    run.write_plan("uniform", [arch], [{}])
    run.write_plan("initial", [arch], [{"origin": "a test"}])
    assert [(plan.kind, plan.number) for plan in search_plans(run)] == [
        ("initial", None),
        ("round", 1),
        ("round", 2),
        ("round", 10),
    ]
    assert [plan.device for plan in search_plans(run, "10-phone")][-1] == "10-phone"
    assert len(search_plans(run, "10-phone")) == 5
    assert [plan.kind for plan in baseline_plans(run)] == ["uniform"]
    assert run.plan("final", device="final") is not None and run.plan("final", device="laptop") is None
    found = run.plan("initial")
    assert found is not None and found.archs == (arch,) and found.notes == ({"origin": "a test"},)
