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
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from experiments import pipeline
from experiments.measuring.remote import RunWork, refusals
from experiments.progress import Reporter
from experiments.quantities import Limit, latency
from experiments.querying import answer, goal_results
from experiments.run_folder import RunFolder
from hardware.remote import onnxruntime_web
from hardware.remote.board import Board
from hardware.remote.server import DeviceServer
from hardware.remote.submission import Posted, parse

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PAGE = Path(onnxruntime_web.__file__).parent / "browser"


@pytest.fixture(scope="module")
def runtime():
    return onnxruntime_web.runtime_folder()


class Serving:
    """A server in this process, with what it said."""

    def __init__(self, run: RunFolder, name: str, runtime: Path, work: RunWork | None = None) -> None:
        self.said: list[str] = []
        self.run = run
        work = work or RunWork(run, name)
        work.sampling = replace(work.sampling, session_networks=10)  # so that there is more than one session
        # Whoever is killed loses its jobs soon, lest the tests wait for it.
        board = Board(work, refusals(run), lease_seconds=4)
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
        """Every measurement of a device by key."""
        if name not in self.run.added_devices():
            return {}
        with self.run.store() as store:
            return {key: m for (key, _), m in store.measurements(self.run.added_device(name)).items()}

    def sessions(self, name):
        with self.run.store() as store:
            return store.sessions(self.run.added_device(name))

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
            wait(lambda: len(serving.measured("phone")) >= 10)
        first = serving.sessions("phone")[0]
        # A session was done; the rest was being measured when the browser was killed.
        assert len(first.names) == 10 and len(serving.measured("phone")) < 12
        with Page(serving.address, tmp_path / "profile"):
            everything = wait(lambda: len(found := serving.measured("phone")) == 12 and found)
        sessions = serving.sessions("phone")
        assert sessions[0].id == first.id and len(set(sessions[0].names) & set(sessions[-1].names)) >= 8
    device = first.device
    assert device.provider == "wasm" and re.fullmatch(r"1\.30\.0, \w+ \d+", device.runtime_version)
    assert list(run.added_devices()) == ["phone"]
    assert any("back again" in line or line.count("connected") for line in serving.said)
    space = run.untrained_supernet.space
    assert everything[space.largest.id].latency > 1.3 * everything[space.smallest.id].latency
    for session in sessions:
        assert session.n_turns == 20 and not np.isnan(session.started).any()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install it (Debian: apt-get install chromium)")
def test_a_browser_measures_with_webgpu(run, runtime, tmp_path):
    work = RunWork(run, "tablet", n=2)
    with Serving(run, "tablet", runtime, work) as serving:
        address = serving.address.replace("/#", "/?provider=webgpu#")
        with Page(address, tmp_path / "profile", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"):
            found = wait(lambda: len(found := serving.measured("tablet")) == 2 and found, seconds=240)
    device = run.added_device("tablet")
    assert device.provider == "webgpu" and "swiftshader" in device.hardware
    space = run.untrained_supernet.space
    assert found[space.largest.id].latency > 1.2 * found[space.smallest.id].latency


def asked_side_by_side(run, report):
    """Search: how many sub-networks have to be measured side by side before it ends, or None where it ended."""
    try:
        pipeline.search(run, report, "laptop")
    except ValueError as error:
        found = re.match(r"laptop has (\d+) sub-networks still to measure side by side", str(error))
        assert found, error
        return int(found[1])
    return None


def test_the_same_client_measures_under_node_and_all_the_verbs_use_it(finished_run, node, runtime, tmp_path):
    shutil.copytree(finished_run, tmp_path / "run")
    run, report = RunFolder(tmp_path / "run"), Reporter()
    before = json.loads(run.front.read_text())["goals"]
    with Serving(run, "laptop", runtime) as serving:
        printed = serving.node(node, runtime)
        progress = printed[-1]["progress"]
        assert progress["finished"] and progress["done"] == progress["total"] == len(serving.measured("laptop"))
        n_first = progress["done"]
        pipeline.fit(run, report, "laptop")
        with pytest.raises(ValueError, match=r"laptop has \d sub-networks still to measure: `supernet device serve"):
            pipeline.search(run, report, "laptop")
        proposed = run.plan("round", number=1, device="laptop")
        assert proposed is not None and len(proposed.archs) == 4
        serving.node(node, runtime)  # only what the search proposed
        assert len(serving.measured("laptop")) == n_first + len(proposed.archs)
        # What was measured side by side may bring a runner-up near the front, which is then asked for beside the rest.
        n_asked = 0
        while (asked := asked_side_by_side(run, report)) is not None:
            assert asked > n_asked, "the same ones are not asked for twice"
            n_asked = asked
            assert serving.node(node, runtime)[-1]["progress"]["finished"]
        assert n_asked and any(session.purpose == "final" for session in serving.sessions("laptop"))
    name, results = goal_results(run.path, "laptop")
    assert name == "laptop" and results["devices"]["laptop"]["device"]["runtime"] == "onnxruntime-web"
    assert len(results["candidates"]) == n_first + len(proposed.archs)
    slowest = max(c["values"]["latency@laptop"] for c in results["candidates"])
    (best,) = answer(results, [Limit(latency("laptop"), slowest, upper=True)], top=1)
    card = pipeline.export(run, best["id"], "laptop", tmp_path / "bundle", report)
    assert card["fingerprint"] == results["devices"]["laptop"]["fingerprint"]
    # The devices of the recipe are as they were, and stay the only ones that are searched without a name.
    assert {name: json.loads(run.front.read_text())["goals"][name] for name in before} == before
    pipeline.search(run, report)
    assert list(json.loads(run.front.read_text())["goals"]) == [*before, "laptop"]


class OneBroken(RunWork):
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
    work = OneBroken(run, "laptop")
    broken = work.planned("laptop")[3]
    with Serving(run, "laptop", runtime, work) as serving:
        printed = serving.node(node, runtime)
        progress = printed[-1]["progress"]
        assert (progress["done"], progress["failed"], progress["finished"]) == (11, 1, True)
        assert broken.key not in serving.measured("laptop")
        with run.store() as store:
            (failure,) = store.failures(run.added_device("laptop"))
        assert (failure.key, failure.resolution) == broken.name and "Frobnicate" in failure.reason
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
        measuring = [node, str(PAGE / "node.mjs"), address[0], str(runtime)]
        subprocess.run(measuring, check=True, stdout=subprocess.DEVNULL, timeout=200)
        said = process.stdout.read()
        assert process.wait(timeout=30) == 0
    assert re.search(r"laptop: 8 of 8 measured; session of 8 networks, 20 turns, relative latencies to ±\d", said)
    assert said.rstrip().endswith("everything planned is measured")


# -- the client alone, with a server and a runtime of our own ---------------------------------------------------------

CLIENT = """
import { Client } from "BROWSER/client.js";
const { work, milliseconds, sampling, hides, breaks, remembered } = JSON.parse(process.argv[1]);
const posted = [];
let runs = 0, isWarm = false, leased = 0; // runs since the first turn
const progress = { total: 9, done: 0, failed: 0, lent: 0, finished: true };
const welcome = { client: "c", fingerprint: "f", sampling, runtime: {}, silence_seconds: 100, progress };
const answers = {
  hello: () => welcome,
  lease: () => (leased++ ? { purpose: "planned", anchors: [], jobs: [], progress } : { ...work, progress }),
  session: (data) => (posted.push(data), { results: [], refused: [], known: false, progress }),
  renew: () => ({ progress }),
};
globalThis.fetch = async (url, { body }) => {
  const request = url.split("/").at(-1), data = body ? JSON.parse(body) : null;
  const name = new TextEncoder().encode(data?.key ?? "");
  return { ok: true, status: 200, json: async () => answers[request](data), arrayBuffer: async () => name.buffer };
};
const view = { hidden: false, shown: async () => {} };
const memory = new Map(Object.entries(remembered));
const spin = (ms) => { for (const end = performance.now() + ms; performance.now() < end; ); };
const client = new Client({
  address: "http://x", token: "t", hardware: "h", browser: "b", provider: "wasm", untilDone: true, view,
  memory: { getItem: (key) => memory.get(key), setItem: (key, value) => memory.set(key, value) },
  show: ({ type }) => { if (type === "measuring") [runs, isWarm] = [0, true]; },
  load: async () => ({
    Tensor: class {},
    InferenceSession: { create: async (model) => {
      const key = new TextDecoder().decode(model);
      if (key === "bad") throw new Error("no such operator");
      return { inputMetadata: [{ name: "images", shape: [1] }], release: async () => {}, run: async () => {
        if (++runs > breaks && isWarm) throw new Error("context lost");
        if (hides.includes(runs) && isWarm) view.hidden = true;
        spin(milliseconds);
      } };
    } },
  }),
});
let error = null;
try { await client.run(); } catch (found) { error = found.message; }
console.log(JSON.stringify({ posted, error, runs, unsent: memory.get("unsent") }));
process.exit();
"""
QUICK = {
    "relative_half_width": 1.0, "min_turns": 10, "max_turns": 20, "max_seconds": 10.0, "min_repeat_seconds": 1e-4,
    "settling_seconds": 1e-4, "session_networks": 40, "turn_seconds": 10.0, "seed": 0,
}  # fmt: skip


def client(
    node,
    keys,
    milliseconds=0.5,
    anchors=("a", "b"),
    purpose="planned",
    hides=(),
    breaks=10**9,
    remembered=(),
    **changes,
):
    """What the client posts for such a lease."""
    jobs = {key: {"key": key, "resolution": 8, "label": ""} for key in (*anchors, *keys)}
    work = {"purpose": purpose, "anchors": [jobs[key] for key in anchors], "jobs": [jobs[key] for key in keys]}
    told = {"work": work, "milliseconds": milliseconds, "sampling": QUICK | changes, "hides": hides, "breaks": breaks}
    told["remembered"] = dict(remembered)
    script = CLIENT.replace("BROWSER", PAGE.as_uri())
    command = [node, "--input-type=module", "-e", script, json.dumps(told)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_anchors_and_jobs_are_one_session_and_a_network_that_does_not_load_costs_no_other(node):
    done = client(node, ["a", "bad", "c"])
    (posted,) = done["posted"]
    session = parse(Posted, json.dumps(posted)).session
    assert [network.key for network in session.networks] == ["a", "b", "c"] and len(session.turns) == 10
    assert [(failure.key, failure.reason) for failure in session.failures] == [("bad", "no such operator")]
    assert done["error"] is None and done["unsent"] == "" and 0 <= posted["ago"] < 5


def test_a_turn_that_would_take_too_long_has_fewer_networks_but_for_a_final_session(node):
    keys = list("cdefghij")
    for purpose, n in (("planned", 2 + 4), ("final", 2 + 8)):
        (posted,) = client(node, keys, purpose=purpose, turn_seconds=1e-3)["posted"]
        assert len(posted["session"]["networks"]) == n and posted["session"]["purpose"] == purpose
    (posted,) = client(node, keys, milliseconds=2, turn_seconds=2.1e-2)["posted"]  # four milliseconds for each
    assert len(posted["session"]["networks"]) == 6


def test_turns_of_a_hidden_page_are_taken_again(node):
    done = client(node, ["c"], hides=[15, 16, 35])  # in two turns of six runs
    assert len(done["posted"][0]["session"]["turns"]) == 10 and done["runs"] == 12 * 6


def test_a_device_that_is_lost_posts_what_it_has_and_blames_no_network(node):
    done = client(node, ["c"], relative_half_width=1e-9, breaks=75)
    assert "the device stopped working (context lost)" in done["error"]
    (posted,) = done["posted"]
    assert len(posted["session"]["turns"]) == 12 and not posted["session"]["failures"]


def test_where_not_even_an_anchor_runs_no_network_is_blamed(node):
    done = client(node, ["c"], anchors=("bad",))
    assert "no network runs here: no such operator" in done["error"] and not done["posted"]


def test_what_was_measured_before_the_page_was_closed_is_posted_first(node):
    session = {"purpose": "planned", "networks": [], "turns": [], "failures": []}
    for fingerprint, n_posted in (("f", 2), ("of another device", 1)):
        unsent = json.dumps({"fingerprint": fingerprint, "session": session, "ended": 1000 * (time.time() - 3600)})
        done = client(node, ["c"], remembered={"unsent": unsent}.items())
        assert len(done["posted"]) == n_posted
        if n_posted == 2:
            assert 3599 < done["posted"][0]["ago"] < 3660


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
