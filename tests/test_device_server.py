"""The server of devices elsewhere: what it believes, what it refuses, and that nothing is lost by it."""

import json
import math
import random
import shutil
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from dataclasses import replace
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest

from experiments.measuring.campaign import run_campaign
from experiments.measuring.remote import RunWork, refusals
from experiments.progress import Reporter
from experiments.run_folder import RunFolder
from hardware import Device
from hardware.remote.board import Board
from hardware.remote.judging import judge
from hardware.remote.server import DeviceServer
from hardware.remote.submission import Part, Posted, Submission, joined, parse
from hardware.remote.work import Job

TOKEN = "a token of the tests"


@pytest.fixture(scope="module")
def started(recipe_path, tmp_path_factory):
    """A run with its initial plan and nothing measured."""
    run = RunFolder.start(recipe_path, tmp_path_factory.mktemp("runs") / "run")
    RunWork(run, "phone")
    return run


@pytest.fixture
def run(started, tmp_path):
    """A copy for one test. The supernet is shared: nothing changes it."""
    shutil.copytree(started.path, tmp_path / "run")
    copy = RunFolder(tmp_path / "run")
    copy.__dict__.update(untrained_supernet=started.untrained_supernet, data=started.data)
    return copy


def work_source(run, session_networks=10):
    """The run's twelve networks, eight of which are anchors, for sessions of ten."""
    made = RunWork(run, "phone")
    made.sampling = replace(made.sampling, session_networks=session_networks)
    return made


@pytest.fixture
def server(run, tmp_path):
    devices = DeviceServer(Board(work_source(run), refusals(run)), tmp_path, token=TOKEN)
    thread = threading.Thread(target=devices.serve_forever)
    thread.start()
    yield devices
    devices.close()
    thread.join()


class Client:
    """A client that can also do what ours would not."""

    def __init__(self, server: DeviceServer, hardware: str = "Phone, 8 cores", token: str = TOKEN) -> None:
        self.address, self.token, self.client = server.address.partition("#")[0], token, ""
        self.hello = {"hardware": hardware, "browser": "Firefox 150", "provider": "wasm"}

    def ask(self, request, data=None):
        """Status and content of the answer; text is posted as it is."""
        body = data if isinstance(data, str) else "" if data is None else json.dumps(data)
        headers = {"Authorization": f"Bearer {self.token}", "X-Client": self.client}
        asked = urllib.request.Request(f"{self.address}api/{request}", body.encode(), headers, method="POST")
        try:
            with urllib.request.urlopen(asked, timeout=60) as answer:
                content = answer.read()
                return answer.status, json.loads(content) if answer.headers["Content-Type"] != OCTETS else content
        except urllib.error.HTTPError as error:
            content = json.loads(error.read())
            assert "\n" not in content["error"] and len(content["error"]) <= 300
            return error.code, content["error"]

    def start(self, **changes):
        status, welcome = self.ask("hello", {**self.hello, **changes})
        assert status == 200
        self.client = welcome["client"]
        return welcome

    def lease(self):
        status, content = self.ask("lease")
        assert status == 200
        return content

    def measure(self, work=None, **changes):
        """Post a session of everything that is lent; returns the answer."""
        status, answer = self.ask("session", posted(everything(work or self.lease()), **changes))
        assert status == 200, answer
        return answer


OCTETS = "application/octet-stream"


def everything(work):
    """Anchors and jobs of a lease, each once."""
    return work["anchors"] + [job for job in work["jobs"] if job not in work["anchors"]]


def posted(jobs, seconds=None, level=1e-3, seed=0, **changes):
    """A session of these jobs as a client posts it; `seconds` by number of the job are another time than usual."""
    rng, seconds = random.Random(seed), seconds or {}
    networks = [{"key": job["key"], "resolution": job["resolution"], "calls_per_repeat": 1} for job in jobs]
    turns = []
    for turn in range(20):
        mood = math.exp(0.2 * math.sin(turn / 3))
        values = [seconds.get(i, level * (1 + i) * mood * math.exp(rng.gauss(0, 0.01))) for i in range(len(jobs))]
        turns.append({"started": [turn + i / 1000 for i in range(len(jobs))], "seconds": values})
    return {"session": {"networks": networks, "turns": turns, "failures": [], **changes}}


def measured(run):
    """Every measurement of the run by key and name of the device."""
    with run.store() as store:
        return {(m.key, m.device.name): m for d in store.devices() for m in store.measurements(d).values()}


def sessions(run):
    with run.store() as store:
        return [session for device in store.devices() for session in store.sessions(device)]


def test_a_client_measures_everything_there_is(run, server):
    client = Client(server)
    progress = client.start()["progress"]
    assert progress == {"total": 12, "done": 0, "failed": 0, "lent": 0, "side_by_side": 0, "finished": False}
    work = client.lease()
    assert work["purpose"] == "planned" and len(work["anchors"]) == 8 and len(work["jobs"]) == 10
    job = work["jobs"][0]
    status, model = client.ask("model", {"key": job["key"], "resolution": job["resolution"]})
    assert status == 200 and b"images" in model
    began, answer = time.time(), {}
    for n_networks, n_new in ((10, 10), (10, 2)):  # anchors are in both, and are measured once for themselves
        work = client.lease()
        answer = client.measure(work)
        assert len(answer["results"]) == n_networks and sum(r["new"] for r in answer["results"]) == n_new
        assert not answer["refused"]
    assert answer["progress"]["done"] == 12 and answer["progress"]["finished"] and not client.lease()["jobs"]
    assert {key for key, _ in measured(run)} == {arch.id for plan in run.all_plans() for arch in plan.archs}
    one, other = sessions(run)
    assert one.device.runtime == "onnxruntime-web" and one.device.runtime_version == "1.30.0, Firefox 150"
    assert run.added_devices() == {"phone": one.device}
    assert one.seconds.shape == (10, 20) and len(set(one.names) & set(other.names)) == 8
    assert began - 30 < one.began < time.time() - 18  # its last turn, 19 s after the first, was just now


def test_the_answer_is_the_analysis_of_the_session(server):
    client = Client(server)
    client.start()
    results = client.measure()["results"]
    for i, result in enumerate(results):
        low, high = result["interval"]
        assert low < result["latency"] < high
        # Relative latencies are known to the noise of a call, although the machine's speed moves by far more.
        assert result["latency"] / results[0]["latency"] == pytest.approx(1 + i, rel=0.02)
        assert (high - low) / result["latency"] < 0.05


def turn_changed(change):
    def changed(session):
        session["turns"][3] |= change(session["turns"][3])
        return session

    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (turn_changed(lambda t: {"seconds": [float("nan"), *t["seconds"][1:]]}), "finite"),
        (turn_changed(lambda t: {"seconds": [float("inf"), *t["seconds"][1:]]}), "finite"),
        (turn_changed(lambda t: {"seconds": [-1e-3, *t["seconds"][1:]]}), "greater than 0"),
        (turn_changed(lambda t: {"seconds": [0.0, *t["seconds"][1:]]}), "greater than 0"),
        (turn_changed(lambda t: {"seconds": ["0.001", *t["seconds"][1:]]}), "valid number"),
        (turn_changed(lambda t: {"seconds": [True, *t["seconds"][1:]]}), "valid number"),
        (turn_changed(lambda t: {"seconds": [601.0, *t["seconds"][1:]]}), "less than or equal to 600"),
        (turn_changed(lambda t: {"started": [-1.0, *t["started"][1:]]}), "greater than or equal to 0"),
        (turn_changed(lambda t: {"seconds": t["seconds"][1:]}), "turn 3 has 9 repeats of 10 networks"),
        (turn_changed(lambda t: {"started": t["started"][1:]}), "turn 3"),
        (turn_changed(lambda t: {"seconds": [None, *t["seconds"][1:]]}), "a start without a repeat"),
        (turn_changed(lambda t: {"doubt": "why not"}), "not permitted"),
        (lambda s: s | {"turns": s["turns"][:5]}, "at least 6"),
        (lambda s: s | {"turns": s["turns"] * 101}, "at most 2000"),
        (lambda s: s | {"networks": s["networks"] * 31, "turns": []}, "at most 300"),
        (lambda s: s | {"networks": [*s["networks"][1:], s["networks"][1]]}, "is in it twice"),
        (lambda s: s | {"networks": [s["networks"][0] | {"calls_per_repeat": 0}]}, "greater than or equal to 1"),
        (lambda s: s | {"networks": [s["networks"][0] | {"calls_per_repeat": 1.5}]}, "valid integer"),
        (lambda s: s | {"networks": [s["networks"][0] | {"key": "k" * 65}]}, "at most 64"),
        (lambda s: s | {"networks": [s["networks"][0] | {"path": "/etc/passwd"}]}, "not permitted"),
        (lambda s: s | {"purpose": "blocks"}, "purpose"),
        (lambda s: s | {"turns": s["turns"] * 3}, "at most 20 were asked for"),
        (lambda s: s | {"networks": s["networks"][8:], "turns": [
            {name: values[8:] for name, values in turn.items()} for turn in s["turns"]]}, "0 of the anchors"),
    ],
)  # fmt: skip
def test_a_session_that_is_not_what_it_has_to_be_is_refused_whole_and_written_down(run, server, change, message):
    client = Client(server)
    client.start()
    post = posted(everything(client.lease()))
    status, error = client.ask("session", {"session": change(json.loads(json.dumps(post["session"])))})
    assert status == 400 and message in error
    assert not sessions(run)
    (line,) = refusals(run).path.read_text().splitlines()
    assert message in json.loads(line)["reason"]
    status, answer = client.ask("session", post)  # the client can still do better
    assert status == 200 and len(answer["results"]) == 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda post: posted(everything(post), seconds={9: 1e-9}), "cannot take 1e-09 s"),
        (lambda post: posted([*everything(post)[:9], {"key": "0123456789", "resolution": 16}]), "never asked for"),
        (lambda post: posted([*everything(post)[:9], everything(post)[9] | {"resolution": 999}]), "never asked for"),
        (lambda post: posted([*everything(post)[:9], {"key": "../../recipe", "resolution": 16}]), "never asked for"),
        (lambda post: posted(everything(post), level=20.0, seconds={9: 0.004}), "times the pace of the anchors"),
    ],
)
def test_a_network_that_cannot_be_true_does_not_cost_the_others(run, server, change, message):
    client = Client(server)
    client.start()
    work = client.lease()
    status, answer = client.ask("session", change(work))
    assert status == 200
    assert [r["key"] for r in answer["results"]] == [job["key"] for job in everything(work)[:9]]
    (reason,) = answer["refused"]
    assert message in reason and "\n" not in reason
    assert {key for key, _ in measured(run)} == {job["key"] for job in everything(work)[:9]}
    assert any(message in json.loads(line)["reason"] for line in refusals(run).path.read_text().splitlines())


def test_a_single_time_that_cannot_be_true_is_left_out(run, server):
    client = Client(server)
    client.start()
    post = posted(everything(client.lease()))
    post["session"]["turns"][5]["seconds"][2] = 1e-9
    assert client.ask("session", post)[0] == 200
    (session,) = sessions(run)
    assert [(int(i), int(j)) for i, j in zip(*(~(session.seconds > 0)).nonzero(), strict=True)] == [(2, 5)]


def test_what_is_refused_three_times_is_not_asked_for_again(run, server):
    client = Client(server)
    client.start()
    work = client.lease()
    job = everything(work)[9]
    for seed in range(3):
        assert job in client.lease()["jobs"]
        client.measure(work, seconds={9: 1e-9}, seed=seed)
    assert job not in client.lease()["jobs"]
    assert client.ask("renew")[1]["progress"]["failed"] == 1
    with run.store() as store:
        (failure,) = store.failures(run.added_device("phone"))
    assert failure.key == job["key"] and failure.reason.startswith("refused 3 times")


@pytest.mark.parametrize("body", ["", "[]", "null", "{", '{"session": 7}', "[" * 100_000, '{"session": [[]]}'])
def test_what_is_no_post_at_all_is_refused(run, server, body):
    client = Client(server)
    client.start()
    status, _ = client.ask("session", body)
    assert status == 400 and not measured(run)


@pytest.mark.parametrize("length", ["33554433", "1000000000000", "9" * 5000, "-1", "many", None])
def test_a_body_that_is_too_large_is_not_even_read(server, length):
    connection = HTTPConnection(urlsplit(server.address).netloc, timeout=20)
    connection.putrequest("POST", "/api/session")
    connection.putheader("Authorization", f"Bearer {TOKEN}")
    if length is not None:
        connection.putheader("Content-Length", length)
    connection.endheaders()
    answer = connection.getresponse()  # although not a byte of the body was sent
    assert answer.status in (411, 413) and b"error" in answer.read()


@pytest.mark.parametrize("token", ["", "wrong", TOKEN + "x", TOKEN[:-1], "ü"])
def test_without_the_token_nothing_is_answered(run, server, token):
    client = Client(server, token=token.encode().decode("latin-1"))
    for request in ("hello", "lease", "model", "session", "renew", "release", "nothing"):
        status, error = client.ask(request, client.hello)
        assert status == 401 and error.startswith("wrong token")
    assert not run.devices.exists()


@pytest.mark.parametrize(
    "path",
    [
        "/../recipe.toml",
        "/runtime/../../recipe.toml",
        "//etc/passwd",
        "/%2e%2e/recipe.toml",
        "/server.py",
        "/api/lease",
    ],
)
def test_only_listed_files_are_served(server, path):
    connection = HTTPConnection(urlsplit(server.address).netloc, timeout=20)
    connection.putrequest("GET", path, skip_host=True)
    connection.putheader("Host", "x")
    connection.endheaders()
    assert connection.getresponse().status == 404


def test_the_page_may_load_nothing_of_others_and_its_clock_is_sharp(server):
    with urllib.request.urlopen(server.address.partition("#")[0]) as page:
        headers = page.headers
        assert b"page.js" in page.read()
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self' 'wasm-unsafe-eval';")
    assert "unsafe-inline" not in headers["Content-Security-Policy"]
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"


def test_the_largest_session_fits(server):
    client = Client(server)
    client.start()
    numbers = [0.012345678901234567] * 300
    networks = [{"key": f"{i:064}", "resolution": 100_000, "calls_per_repeat": 1_000_000} for i in range(300)]
    turns = [{"started": [12345.123456] * 300, "seconds": numbers}] * 2000
    status, error = client.ask("session", {"session": {"networks": networks, "turns": turns}})
    assert status == 400 and "at most 20 were asked for" in error  # it was read to its end


def test_models_are_handed_out_only_for_what_is_planned(server):
    client = Client(server)
    client.start()
    anchor = client.lease()["anchors"][0]
    assert client.ask("model", {"key": anchor["key"], "resolution": anchor["resolution"]})[0] == 200
    for key in ("../../supernet.safetensors", "0123456789"):
        status, error = client.ask("model", {"key": key, "resolution": 16})
        assert status == 404 and "is not to be measured" in error


def test_a_client_that_nobody_knows_has_to_say_hello_again(server):
    client = Client(server)
    client.client = "made up"
    status, error = client.ask("lease")
    assert status == 410 and "say hello again" in error


def test_two_clients_of_equal_devices_share_the_work(run, server):
    one, two = Client(server), Client(server)
    assert one.start()["device"] == two.start()["device"] == "phone"
    first, second = one.lease(), two.lease()
    assert first["anchors"] == second["anchors"]  # in both sessions
    keys = [{job["key"] for job in work["jobs"]} for work in (first, second)]
    assert [len(one) for one in keys] == [10, 2] and not keys[0] & keys[1]
    assert one.lease()["jobs"] == first["jobs"]  # asked again, it has what it had
    for client, work in ((one, first), (two, second)):
        assert len(client.measure(work)["results"]) == 10
    assert len(measured(run)) == 12 and not one.lease()["jobs"] and not two.lease()["jobs"]


def test_two_clients_of_different_devices_are_two_devices(run, server):
    one, two = Client(server), Client(server, hardware="Tablet, 4 cores")
    assert one.start()["device"] == "phone"
    assert two.start()["device"] == "phone-wasm"
    assert Client(server, hardware="Laptop").start()["device"] == "phone-2"
    assert one.lease()["jobs"] == two.lease()["jobs"]
    for client in (one, two):
        client.measure()
    assert len(measured(run)) == 20 and {name for _, name in measured(run)} == {"phone", "phone-wasm"}


def test_what_is_posted_twice_is_one_session(run, server):
    client = Client(server)
    client.start()
    work = client.lease()
    assert client.measure(work)["known"] is False
    answer = client.measure(work)
    assert answer["known"] is True and not any(result["new"] for result in answer["results"])
    assert len(sessions(run)) == 1
    client.measure(work, seed=1)  # measured again is another one
    assert len(sessions(run)) == 2 and len(measured(run)) == 10


def test_a_network_that_does_not_run_is_written_down_and_not_tried_again(command, run, server):
    client = Client(server)
    client.start()
    work = client.lease()
    anchor, job = work["anchors"][0], everything(work)[9]
    for failed in (job, anchor):
        failure = {
            "key": failed["key"],
            "resolution": failed["resolution"],
            "reason": "no kernel for Frobnicate\nat 0x1",
        }
        status, answer = client.ask("session", {"session": {"failures": [failure]}})
        assert status == 200 and not answer["results"]
    assert answer["progress"]["failed"] == 2
    left = client.lease()
    assert job not in left["jobs"] and anchor not in left["jobs"] and anchor not in left["anchors"]
    # A server that is started again knows it.
    again, device = Board(RunWork(run, "phone"), refusals(run)), run.added_device("phone")
    with run.store() as store:
        assert [failure.reason for failure in store.failures(device)] == ["no kernel for Frobnicate at 0x1"] * 2
    assert again.progress(device).failed == 2
    assert job["key"] not in {j.key for j in again.lease("client", device).jobs}
    command("measurements", "retry", run.path)
    assert again.progress(device).failed == 0 and job["key"] in {j.key for j in again.work(device).jobs}


def test_a_device_that_is_gone_loses_what_it_was_lent(run):
    now = 0.0
    board = Board(work_source(run), refusals(run), lease_seconds=60, clock=lambda: now)
    device = board.source.register(Device("", "Phone", "onnxruntime-web", "1", "wasm", 1, 1))
    gone = board.lease("gone", device).jobs
    here = board.lease("here", device).jobs
    assert here and not set(gone) & set(here)
    now = 59.0
    board.renew("here")
    now = 61.0
    assert board.progress(device).lent == len(here)
    assert set(gone) & set(board.lease("here", device).jobs)
    # What it measured nevertheless is still taken.
    jobs = [{"key": job.key, "resolution": job.resolution} for job in gone]
    late = parse(Posted, json.dumps(posted(jobs))).session
    assert board.accept("gone", device, late).n_new == 10


def test_what_is_compared_is_measured_side_by_side_by_one_client(run, server):
    one, two = Client(server), Client(server)
    one.start()
    two.start()
    one.measure()
    one.measure()
    assert one.lease()["progress"]["finished"]
    archs = run.plan("initial").archs[-3:]
    run.write_plan("final", archs, [{}] * 3, device="phone")
    work = one.lease()
    assert work["purpose"] == "final" and {job["key"] for job in work["jobs"]} == {arch.id for arch in archs}
    assert len(everything(work)) == 11  # more than a session has otherwise
    assert work["progress"]["side_by_side"] == 3 and not work["progress"]["finished"]
    assert not two.lease()["jobs"]  # to one client at a time
    post = posted(everything(work)[:-1], purpose="final")
    assert two.ask("session", post)[0] == 200 and sessions(run)[-1].purpose == "planned"  # it has not all of them
    progress = one.measure(work, purpose="final")["progress"]
    assert progress["finished"] and [session.purpose for session in sessions(run)].count("final") == 1
    assert not one.lease()["jobs"] and not two.lease()["jobs"]
    one.measure(work, purpose="final", seed=1)  # once more, unasked: it does not change the level of all
    assert [session.purpose for session in sessions(run)].count("final") == 1


def test_a_run_that_is_on_another_level_is_told(run):
    board = Board(work_source(run), refusals(run))
    device = board.source.register(Device("", "Phone", "onnxruntime-web", "1", "wasm", 1, 1))

    def accept(**changes):
        work = board.lease("client", device)
        jobs = [{"key": job.key, "resolution": job.resolution} for job in (*work.anchors, *work.beside)]
        return board.accept("client", device, parse(Posted, json.dumps(posted(jobs, **changes))).session)

    assert accept().doubts == ()
    (doubt,) = accept(level=2e-3).doubts
    assert "2.0 times slower" in doubt
    board = Board(board.source, refusals(run))  # another server knows the sessions before
    (doubt,) = accept(seed=1).doubts
    assert "2.0 times faster" in doubt


def test_a_client_that_comes_back_has_at_once_what_it_had(server):
    client = Client(server)
    before = client.start()["client"]
    first = client.lease()
    client.start(resumes=before)
    assert client.client != before and client.lease() == first


def test_a_run_that_cannot_be_written_loses_nothing(run, server):
    client = Client(server)
    client.start()
    post = posted(everything(client.lease()))
    for path in run.path.glob("store.sqlite*"):
        path.unlink()
    (run.path / "store.sqlite").mkdir()
    status, error = client.ask("session", post)
    assert status == 507 and "cannot use the store" in error
    (run.path / "store.sqlite").rmdir()
    assert len(client.ask("session", post)[1]["results"]) == 10


def test_what_a_client_tells_of_itself_is_text_and_nothing_else(run, server):
    client = Client(server, hardware="../../x\x1b[31m\n\u202e" + "y" * 400)
    welcome = client.start()
    (device,) = run.added_devices().values()
    assert device.hardware.isprintable() and len(device.hardware) <= 500
    assert welcome["device"] == "phone" and [path.name for path in run.devices.iterdir()] == ["phone.json"]
    for change in ({"hardware": ""}, {"hardware": "\n"}, {"hardware": "x" * 501}, {"provider": "webgl"}, {"name": "x"}):
        assert client.ask("hello", {**client.hello, **change})[0] == 400


# -- what is believed -------------------------------------------------------------------------------------------------

DEVICE = Device("phone", "Phone", "onnxruntime-web", "1", "wasm", 1, 1)
JOBS = {(key, 224): Job(key, 224, 200_000_000) for key in ("anchor", "another", "network")}


def judged(seconds, beside=0.02, anchors=(("anchor", 224), ("another", 224)), **changes):
    networks = [{"key": key, "resolution": 224, "calls_per_repeat": 1} for key, _ in JOBS]
    turns = [{"started": [0.0] * 3, "seconds": [beside, beside, seconds]}] * 8
    session = parse(Submission, json.dumps({"networks": networks, "turns": turns}))
    return judge(session, replace(DEVICE, **changes), JOBS, anchors, 100).refused


def test_a_time_is_believed_only_if_the_device_could_do_it():
    assert judged(0.02) == {}
    assert "no wasm does 200,000,000 multiply-accumulates" in judged(1e-4)["network", 224]
    assert "no wasm does 1,600,000,000 multiply" in judged(1e-3, batch_size=8)["network", 224]
    assert judged(1e-4, provider="webgpu") == {}
    assert "times the pace of the anchors" in judged(1e-2, beside=100.0)["network", 224]
    with pytest.raises(ValueError, match="1 of the anchors; it needs at least 2"):
        judged(0.02, anchors=[("anchor", 224), ("elsewhere", 224)])
    assert judged(0.02, anchors=[]) == {}  # work without


def test_parts_of_a_session_are_one():
    networks = [{"key": "a", "resolution": 8, "calls_per_repeat": 2}]
    turns = [{"started": [0.5], "seconds": [1e-3]}]
    part = {"session": "0123456789abcdef", "began": 1.7e9, "networks": networks, "turns": turns}
    parts = [parse(Part, json.dumps(part))] * 3
    assert len(joined(parts).turns) == 3
    other = parse(Part, json.dumps(part | {"networks": [networks[0] | {"key": "b"}]}))
    with pytest.raises(ValueError, match="other networks than it began with"):
        joined([*parts, other])
    with pytest.raises(ValueError, match="at most 2000"):
        joined(parts * 700)
    for change in ({"session": "x"}, {"began": "now"}, {"began": float("nan")}):
        with pytest.raises(ValueError):
            parse(Part, json.dumps(part | change))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
def test_it_serves_by_https_with_a_certificate(run, tmp_path):
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", certificate, "-keyout", key]
    subprocess.run(command, check=True, capture_output=True)
    board = Board(RunWork(run, "phone"), refusals(run))
    with pytest.raises(ValueError, match="are no certificate and key"):
        DeviceServer(board, tmp_path, certificate=(key, key))
    server = DeviceServer(board, tmp_path, certificate=(certificate, key))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        assert server.address.startswith("https://127.0.0.1:")
        trusting = ssl.create_default_context(cafile=str(certificate))
        with urllib.request.urlopen(server.address.partition("#")[0], context=trusting) as page:
            assert b"page.js" in page.read()
        with pytest.raises(OSError):  # whoever speaks plain HTTP to it
            urllib.request.urlopen(server.address.partition("#")[0].replace("https", "http"), timeout=20)
    finally:
        server.close()
        thread.join()


def test_a_campaign_for_an_added_device_is_served(run):
    board = Board(work_source(run), refusals(run))
    device = board.source.register(Device("", "Phone", "onnxruntime-web", "1", "wasm", 1, 1))
    n_planned = len(board.open(device))
    with pytest.raises(ValueError, match="phone has 16 sub-networks still to measure: `supernet device serve"):
        run_campaign(run, Reporter(), device=device.name, n=16)
    assert n_planned < 16 and len({job.name for job in board.open(device)}) == 16
    assert len(board.open(replace(device, name="tablet", hardware="Tablet"))) == n_planned


def test_it_is_over_when_every_client_has_heard_that_nothing_is_left(server):
    """One that was not told would ask a server that has ended on and on."""
    assert not server.is_finished and not server.is_known_to_be_finished
    first, second = Client(server), Client(server)
    first.start()
    second.start()
    while (work := first.lease())["jobs"]:
        first.measure(work)
    assert server.is_finished and not server.is_known_to_be_finished
    assert second.lease()["jobs"] == []
    assert server.is_known_to_be_finished
    third = Client(server)
    third.start()
    assert not server.is_known_to_be_finished
    third.ask("release")
    assert server.is_known_to_be_finished
