"""Real clients: a headless Chromium and Node, with the same onnxruntime-web, measure for a real server."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from experiments import pipeline
from experiments.measuring.remote import RunCampaign, journal
from experiments.progress import Reporter
from experiments.querying import answer, device_results
from experiments.run_folder import RunFolder
from hardware.remote import onnxruntime_web
from hardware.remote.board import Board
from hardware.remote.server import DeviceServer

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PAGE = Path(onnxruntime_web.__file__).parent / "browser"


@pytest.fixture(scope="module")
def runtime():
    return onnxruntime_web.runtime_folder()


class Serving:
    """A server in this process, with what it said."""

    def __init__(self, run: RunFolder, name: str, runtime: Path, campaign: RunCampaign | None = None) -> None:
        self.said: list[str] = []
        self.run = run
        # Whoever is killed loses its jobs soon, lest the tests wait for it.
        board = Board(campaign or RunCampaign(run, name), journal(run), lease_seconds=4)
        self.server = DeviceServer(board, runtime, on_event=self.said.append)
        self.address = self.server.address
        self.thread = threading.Thread(target=self.server.serve_forever)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.close()
        self.thread.join()

    def measured(self, name):
        with self.run.store() as store:
            return store.measurements(self.run.added_device(name)) if name in self.run.added_devices() else []

    def node(self, node, runtime):
        """Everything there is, measured under Node; returns what the client printed."""
        command = [node, str(PAGE / "node.mjs"), self.address, str(runtime)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def run(recipe_path, tmp_path):
    return RunFolder.start(recipe_path, tmp_path / "run")


class Page:
    """A headless Chromium with one page open. Closing it is a kill: it has no time to say goodbye."""

    def __init__(self, address: str, profile: Path, *more: str) -> None:
        flags = ["--headless=new", "--no-first-run", f"--user-data-dir={profile}", *(more or ["--disable-gpu"])]
        flags += ["--no-sandbox"] if os.geteuid() == 0 else []
        self.process = subprocess.Popen(
            [str(CHROMIUM), *flags, address],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def wait(condition, seconds=120):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.1)
    return found


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install it (Debian: apt-get install chromium)")
def test_a_browser_measures_is_closed_and_carries_on_when_it_is_opened_again(run, runtime, tmp_path):
    with Serving(run, "phone", runtime) as serving:
        with Page(serving.address, tmp_path / "profile"):
            wait(lambda: len(serving.measured("phone")) >= 8)
        first = serving.measured("phone")
        assert len(first) < 12  # a group was done; the rest was being measured when the browser was killed
        with Page(serving.address, tmp_path / "profile"):
            everything = wait(lambda: len(found := serving.measured("phone")) == 12 and found)
        assert everything[: len(first)] == first
    device = everything[0].device
    assert device.provider == "wasm" and re.fullmatch(r"1\.30\.0, \w+ \d+", device.runtime_version)
    assert list(run.added_devices()) == ["phone"]
    assert any("back again" in line or line.count("connected") for line in serving.said)
    keys = [m.key for m in everything]
    supernet = run.untrained_supernet
    macs = supernet.macs(supernet.space.encode([a for p in run.all_plans() for a in p.archs if a.id in keys]))
    largest, smallest = (supernet.space.largest.id, supernet.space.smallest.id)
    medians = {m.key: m.median for m in everything}
    assert medians[largest] > 1.3 * medians[smallest] and len(macs) == 12
    for measurement in everything:
        assert len(measurement.seconds) >= 15 and len(measurement.reference_seconds) >= 15


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install it (Debian: apt-get install chromium)")
def test_a_browser_measures_with_webgpu(run, runtime, tmp_path):
    campaign = RunCampaign(run, "tablet", n=2)
    with Serving(run, "tablet", runtime, campaign) as serving:
        address = serving.address.replace("/#", "/?provider=webgpu#")
        with Page(address, tmp_path / "profile", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"):
            smallest, largest = wait(lambda: len(found := serving.measured("tablet")) == 2 and found, seconds=240)
    assert smallest.device.provider == "webgpu" and "swiftshader" in smallest.device.hardware
    assert largest.median > 1.2 * smallest.median


def test_the_same_client_measures_under_node_and_all_the_verbs_use_it(finished_run, node, runtime, tmp_path):
    shutil.copytree(finished_run, tmp_path / "run")
    run, report = RunFolder(tmp_path / "run"), Reporter()
    before = json.loads(run.front.read_text())["devices"]
    with Serving(run, "laptop", runtime) as serving:
        printed = serving.node(node, runtime)
        assert printed[-1]["progress"] == {"total": len(serving.measured("laptop")), "done": 16, "failed": 0, "lent": 0}
        pipeline.fit(run, report, "laptop")
        with pytest.raises(ValueError, match=r"laptop has \d sub-networks still to measure: `supernet device serve"):
            pipeline.search(run, report, "laptop")
        proposed = run.plan("device-laptop-001-round")
        assert proposed is not None and 1 <= len(proposed.archs) <= 2
        serving.node(node, runtime)  # only what the search proposed
        assert len(serving.measured("laptop")) == 16 + len(proposed.archs)
    pipeline.search(run, report, "laptop")
    name, results = device_results(run.path, "laptop")
    assert name == "laptop" and results["device"]["runtime"] == "onnxruntime-web"
    assert len(results["candidates"]) == 16 + len(proposed.archs)
    slowest = max(c["values"]["latency"] for c in results["candidates"])
    (best,) = answer(results, {"latency": slowest}, top=1)
    card = pipeline.export(run, best["id"], "laptop", tmp_path / "bundle", report)
    assert card["latency"]["median"] == best["latency"] and card["fingerprint"] == results["fingerprint"]
    # The devices of the recipe are as they were, and stay the only ones that are searched without a name.
    assert {name: json.loads(run.front.read_text())["devices"][name] for name in before} == before
    pipeline.search(run, report)
    assert list(json.loads(run.front.read_text())["devices"]) == [*before, "laptop"]


class OneBroken(RunCampaign):
    """The planned networks, one of which has an operator that no runtime has."""

    def model(self, key, resolution, batch_size):
        if key != self.planned(self.name)[3].key:
            return super().model(key, resolution, batch_size)
        ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 8, 8]) for name in ("images", "logits")]
        node = helper.make_node("Frobnicate", ["images"], ["logits"], domain="com.example")
        graph = helper.make_graph([node], "broken", ports[:1], ports[1:])
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
        return onnx.ModelProto.SerializeToString(helper.make_model(graph, opset_imports=opsets, ir_version=8))


def test_a_network_with_an_operator_that_is_missing_is_left_out_and_the_rest_is_measured(run, node, runtime):
    campaign = OneBroken(run, "laptop")
    broken = campaign.planned("laptop")[3]
    with Serving(run, "laptop", runtime, campaign) as serving:
        printed = serving.node(node, runtime)
        assert printed[-1]["progress"] == {"total": 12, "done": 11, "failed": 1, "lent": 0}
        assert broken.key not in {m.key for m in serving.measured("laptop")}
        ((where, reason),) = journal(run).reasons(run.added_device("laptop").fingerprint).items()
        assert where == (broken.key, broken.resolution) and "Frobnicate" in reason
        again = serving.node(node, runtime)
        assert not any(event["type"] == "loading" for event in again)


def test_the_command_serves_until_everything_is_measured(run, node, runtime):
    command = [
        sys.executable,
        "-m",
        "experiments",
        "device",
        "serve",
        run.path,
        "--device",
        "laptop",
        "--until-done",
        "--n",
        "8",
    ]
    with subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as process:
        assert process.stdout is not None
        address = re.search(r"http://127\.0\.0\.1:\d+/#\S{32}", process.stdout.readline())
        assert address is not None
        wrong = subprocess.run(
            [node, str(PAGE / "node.mjs"), address[0][:-1], str(runtime)], capture_output=True, text=True
        )
        assert wrong.returncode == 2 and wrong.stderr.startswith("supernet: wrong token")
        subprocess.run([node, str(PAGE / "node.mjs"), address[0], str(runtime)], check=True, stdout=subprocess.DEVNULL)
        said = process.stdout.read()
        assert process.wait(timeout=30) == 0
    assert said.count(" ms [") == 8 and said.rstrip().endswith("everything planned is measured")


# -- the runtime ------------------------------------------------------------------------------------------------------


def test_the_runtime_is_the_pinned_one_or_none(runtime, tmp_path, monkeypatch):
    for name in onnxruntime_web.FILES:
        os.link(runtime / name, tmp_path / name)
    assert onnxruntime_web.runtime_folder(tmp_path) == tmp_path
    name = next(iter(onnxruntime_web.FILES))
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=f"does not hold onnxruntime-web@1.30.0: {name} is missing"):
        onnxruntime_web.runtime_folder(tmp_path)
    (tmp_path / name).write_text("export const InferenceSession = steal;")
    with pytest.raises(ValueError, match="is not that of onnxruntime-web@1"):
        onnxruntime_web.runtime_folder(tmp_path)
    # Without npm, or with one that has no network, there is one line with the way out, and nothing half.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"npm is not installed .*--runtime-folder"):
        onnxruntime_web.runtime_folder()
    monkeypatch.setattr("shutil.which", lambda name: "false")
    with pytest.raises(ValueError, match=r"npm cannot fetch .*--runtime-folder"):
        onnxruntime_web.runtime_folder()
    assert list((tmp_path / "cache" / "supernet-nas").iterdir()) == []
