"""ONNX files of one's own as baselines: costs as counted, scores as those of the network, and what does not fit."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from torch import nn

from experiments.own_files import own_files, score_file
from experiments.progress import Reporter
from experiments.run_folder import RunFolder
from experiments.scoring.scorer import Scorer
from hardware.onnx.export import export_onnx
from hardware.onnx.file_costs import file_costs
from hardware.onnx.finishing import BATCH, free_batch


def test_costs_of_a_file_are_those_of_its_network(small_supernet):
    arch = small_supernet.space.largest
    shape = (3, 1, arch.resolution, arch.resolution)
    file = onnx.load_from_string(export_onnx(small_supernet.extract(arch).eval(), shape))
    macs, parameters = file_costs(file)
    genes = small_supernet.space.encode([arch])
    assert macs == small_supernet.macs(genes)[0]
    # What normalises is folded into weights, or has statistics beside them.
    assert parameters == pytest.approx(int(small_supernet.n_parameters(genes)[0]), rel=0.1)
    matrix = export_onnx(nn.Sequential(nn.Flatten(), nn.Linear(12, 5, bias=False)), (4, 3, 2, 2))
    assert file_costs(onnx.load_from_string(matrix)) == (60, 60)


def with_files(run, *paths):
    folder = RunFolder(run)
    baselines = folder.recipe.baselines.model_copy(update={"onnx": tuple(map(str, paths))})
    folder.__dict__["recipe"] = folder.recipe.model_copy(update={"baselines": baselines})
    return folder


def test_a_file_scores_what_its_network_scores(finished_run, tmp_path):
    folder = RunFolder(finished_run)
    scorer = Scorer(folder)
    arch = folder.untrained_supernet.space.smallest
    shape = (BATCH, 1, arch.resolution, arch.resolution)
    model = export_onnx(scorer.subnet(arch).eval(), shape)
    known = scorer.score([arch], "test", Reporter())[arch.id].metrics["accuracy"]
    for name, content in (("free", free_batch(model, shape)), ("fixed", model)):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(content)
        (own,) = own_files(with_files(finished_run, path))
        assert (own.name, own.resolution) == (name, arch.resolution)
        assert own.macs == folder.untrained_supernet.macs(folder.untrained_supernet.space.encode([arch]))[0]
        assert score_file(folder, own)["test"] == pytest.approx(known, abs=0.011)  # two images of 200


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing", r"cannot be read: .*No such file"),
        ("garbage", "cannot be read"),
        ("channels", r"takes \[2, 3, 20, 20\]; images of this run are \[n, 1, size, size\]"),
        ("classes", r"returns \[2, 7\] for 2 images, not \[2, 10\]"),
        ("inputs", "takes 2 inputs"),
        ("operator", "does not run on 2 images of 20 pixels"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(finished_run, tmp_path, what, message):
    path = tmp_path / "own.onnx"
    channels, classes = (3 if what == "channels" else 1), (7 if what == "classes" else 10)
    model = onnx.load_from_string(
        export_onnx(nn.Sequential(nn.Flatten(), nn.Linear(channels * 400, classes)), (2, channels, 20, 20))
    )
    if what == "inputs":
        model.graph.input.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, [1]))
    if what == "operator":
        model.graph.node[0].op_type = "Nothing"
    if what != "missing":
        path.write_bytes(b"no file of ours" if what == "garbage" else model.SerializeToString())
    with pytest.raises(ValueError, match=message) as refused:
        own_files(with_files(finished_run, path))
    assert str(refused.value).startswith(f"baselines.onnx: {path}") and "\n" not in str(refused.value)


def test_two_files_of_one_name_are_refused(finished_run, tmp_path):
    paths = [tmp_path / "a" / "own.onnx", tmp_path / "b" / "own.onnx"]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(export_onnx(nn.Sequential(nn.Flatten(), nn.Linear(400, 10)), (2, 1, 20, 20)))
    with pytest.raises(ValueError, match="two files are called own"):
        own_files(with_files(finished_run, *paths))
    (own,) = own_files(with_files(finished_run, paths[0]))
    assert own.macs == 4000 and np.isclose(own.parameters, 4010)
