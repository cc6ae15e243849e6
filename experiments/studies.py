"""A run as studies of Optuna, for its dashboard: one study per goal, one trial per candidate."""

from __future__ import annotations

import warnings
from importlib import import_module
from pathlib import Path

import numpy as np

from experiments.querying import objectives
from experiments.run_folder import RunFolder
from search.front import Candidate
from search.tactics.optuna_adapter import trials
from supernet.files import read_json, replacing

__all__ = ["write_studies"]


def write_studies(run: RunFolder, out: Path) -> list[str]:
    """Write a new SQLite file that ``optuna-dashboard sqlite:///FILE`` shows; returns the names of the studies.

    Parameters of a trial are the choices of the genes that a sub-network has, values the objectives as they were
    measured, in their own directions and units.

    Raises:
        ValueError: Optuna is not installed, there is no front yet, or there is a file already.
    """
    run.require(run.front, "search")
    if out.exists():
        raise ValueError(f"{out} is there already; give another file with --out")
    space = run.untrained_supernet.space
    names = []
    with replacing(out) as temporary, warnings.catch_warnings():
        for name, results in read_json(run.front)["goals"].items():
            candidates = [Candidate.from_dict(one) for one in results["candidates"]]
            traded = objectives(results)
            values = np.array([[one.values[axis.name] for axis in traded] for one in candidates])
            genes = space.encode([one.arch for one in candidates])
            found = trials(space, genes, values.reshape(len(genes), len(traded)), np.zeros(len(genes)))
            optuna = import_module("optuna")
            before = optuna.logging.get_verbosity()
            optuna.logging.set_verbosity(optuna.logging.ERROR)
            try:
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of names of objectives
                study = optuna.create_study(
                    study_name=f"{run.path.name}: {name}",
                    storage=f"sqlite:///{temporary}",
                    directions=["maximize" if axis.kind.maximize else "minimize" for axis in traded],
                )
                study.set_metric_names([axis.name for axis in traded])
                study.add_trials(found)
            finally:
                optuna.logging.set_verbosity(before)
            names.append(study.study_name)
    return names
