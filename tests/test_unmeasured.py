"""What nobody measured, as predicted: the best that surely keeps its limits, against all of a space and on a run."""

import json

import numpy as np
import pytest

from search.focusing import surest
from supernet.space import SearchSpace, Stage


@pytest.fixture(scope="module")
def space():
    """1,024 architectures."""
    return SearchSpace((8,), (Stage((1,), ({},)),), {f"setting{i}": (0, 1, 2, 3) for i in range(5)})


def test_the_surest_are_the_best_of_all_that_keep_the_limit(space):
    rng = np.random.default_rng(0)
    worth, cost = rng.random((5, 4)), rng.random((5, 4))
    settings = slice(1, 6)  # columns of the genes; the resolution comes before, the depth after them

    def loss(genes):
        return -worth[range(5), genes[:, settings]].sum(axis=1)

    def chance(genes):
        return 1 / (1 + np.exp(8 * (cost[range(5), genes[:, settings]].sum(axis=1) - 2)))

    everything = np.zeros((1024, 7), dtype=np.int64)
    everything[:, settings] = np.stack(np.meshgrid(*[range(4)] * 5), axis=-1).reshape(-1, 5)
    kept = everything[chance(everything) >= 0.9]
    known = kept[np.argsort(loss(kept))[:1]]  # the best is known already
    found = surest(space, loss, chance, known, 3, 0.9, seed=1)
    assert loss(found) == pytest.approx(np.sort(loss(kept))[1:4])
    assert len(surest(space, loss, lambda genes: np.zeros(len(genes)), known, 3, 0.9, seed=1)) == 0


@pytest.mark.slow
def test_query_lists_what_was_not_measured(command, finished_run):
    front = json.loads((finished_run / "front.json").read_text())["goals"]["one"]
    times = sorted(one["values"]["latency@one"] for one in front["candidates"])
    text = f"{1e6 * times[len(times) // 2]:.1f}us"
    asked = ("query", finished_run, "--device", "one", "--latency", text, "--unmeasured", "--probability", "80%")
    rows = json.loads(command(*asked, "--top", 2, "--json").stdout)["unmeasured"]
    measured = {one["id"] for one in front["candidates"]}
    assert len(rows) == 2 and not measured & {row["id"] for row in rows}
    for row in rows:
        low, high = row["intervals"]["latency@one"]
        assert low < row["predicted"]["latency@one"] < high and 0.8 <= row["probability"] <= 1
        assert row["predicted"]["latency@one"] < float(text[:-2]) / 1e6
    said = command(*asked).stdout
    assert rows[0]["id"] in said and "keeps the limits" in said and "supernet search" in said
    wrong = command("query", finished_run, "--device", "one", "--latency", "0.001us", "--unmeasured", check=2).stderr
    assert "no measured sub-network" in wrong and "nothing that was not measured is predicted to keep" in wrong
    assert "--unmeasured goes with" in command(*asked, "--csv", check=2).stderr
