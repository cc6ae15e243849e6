"""The server of devices elsewhere: what it believes, what it refuses, and that nothing is lost by it."""

import json
import shutil
import ssl
import subprocess
import threading
import urllib.error
import urllib.request
from dataclasses import replace
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest

from experiments.measuring.remote import RunCampaign, journal
from experiments.run_folder import RunFolder
from hardware import Device, Measurement
from hardware.profiling import Sampling
from hardware.remote.board import Board
from hardware.remote.campaign import Job
from hardware.remote.server import DeviceServer
from hardware.remote.submission import Group, Result, believed, parse

TOKEN = "a token of the tests"


@pytest.fixture(scope="module")
def started(recipe_path, tmp_path_factory):
    """A run with its initial plan and nothing measured."""
    run = RunFolder.start(recipe_path, tmp_path_factory.mktemp("runs") / "run")
    RunCampaign(run, "phone")
    return run


@pytest.fixture
def run(started, tmp_path):
    """A copy for one test. The supernet is shared: nothing changes it."""
    shutil.copytree(started.path, tmp_path / "run")
    copy = RunFolder(tmp_path / "run")
    copy.__dict__.update(untrained_supernet=started.untrained_supernet, data=started.data)
    return copy


@pytest.fixture
def server(run, tmp_path):
    devices = DeviceServer(Board(RunCampaign(run, "phone"), journal(run)), tmp_path, token=TOKEN)
    thread = threading.Thread(target=devices.serve_forever)
    thread.start()
    yield devices
    devices.close()
    thread.join()


class Client:
    """A client that can also do what ours would not."""

    def __init__(self, server: DeviceServer, hardware: str = "Phone, 8 cores", token: str = TOKEN) -> None:
        self.address, self.token, self.session = server.address.partition("#")[0], token, ""
        self.hello = {"hardware": hardware, "browser": "Firefox 150", "provider": "wasm"}

    def ask(self, request, data=None):
        """Status and content of the answer; text is posted as it is."""
        body = data if isinstance(data, str) else "" if data is None else json.dumps(data)
        headers = {"Authorization": f"Bearer {self.token}", "X-Session": self.session}
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
        self.session = welcome["session"]
        return welcome

    def lease(self):
        status, content = self.ask("lease")
        assert status == 200
        return content["jobs"]


OCTETS = "application/octet-stream"


def group(*jobs, seconds=1e-3, n=20, **changes):
    results = [
        {"key": j["key"], "resolution": j["resolution"], "seconds": [seconds * (1 + i / 1000) for i in range(n)],
         "calls_per_repeat": 1, **changes} for j in jobs
    ]  # fmt: skip
    return {"reference_seconds": [1e-3] * 20, "results": results}


def measured(run, device=None):
    with run.store() as store:
        return {(m.key, m.device.name): m for d in store.devices() for m in store.measurements(d)}


def test_a_client_measures_everything_there_is(run, server):
    client = Client(server)
    assert client.start()["progress"] == {"total": 12, "done": 0, "failed": 0, "lent": 0}
    status, model = client.ask(
        "model", {"key": client.lease()[0]["key"], "resolution": client.lease()[0]["resolution"]}
    )
    assert status == 200 and b"images" in model
    answer = {}
    while jobs := client.lease():
        status, answer = client.ask("results", group(*jobs))
        assert status == 200 and len(answer["added"]) == len(jobs) and not answer["refused"]
    assert answer["progress"] == {"total": 12, "done": 12, "failed": 0, "lent": 0}
    planned = {arch.id for plan in run.all_plans() for arch in plan.archs}
    assert {key for key, _ in measured(run)} == planned
    one = next(iter(measured(run).values()))
    assert one.device.runtime == "onnxruntime-web" and one.device.runtime_version == "1.30.0, Firefox 150"
    assert len(one.seconds) == 20 and len(one.reference_seconds) == 20
    assert run.added_devices() == {"phone": one.device}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seconds": [float("nan")] * 20}, "finite"),
        ({"seconds": [float("inf")] * 20}, "finite"),
        ({"seconds": [-1e-3] * 20}, "greater than 0"),
        ({"seconds": [0.0] * 20}, "greater than 0"),
        ({"seconds": [None] * 20}, "valid number"),
        ({"seconds": ["0.001"] * 20}, "valid number"),
        ({"seconds": [True] * 20}, "valid number"),
        ({"seconds": [1e-3] * 5}, "at least 6"),
        ({"seconds": [1e-3] * 10_001}, "at most 10000"),
        ({"seconds": [1e9] * 20}, "less than or equal to 600"),
        ({"calls_per_repeat": 0}, "greater than or equal to 1"),
        ({"calls_per_repeat": 1.5}, "valid integer"),
        ({"key": "k" * 65}, "at most 64"),
        ({"path": "/etc/passwd"}, "not permitted"),
    ],
)
def test_a_post_that_is_not_what_it_has_to_be_is_refused_whole_and_written_down(run, server, change, message):
    client = Client(server)
    client.start()
    job, other, *_ = client.lease()
    post = group(job, other)
    post["results"][0] |= change
    status, error = client.ask("results", post)
    assert status == 400 and message in error and error.startswith("results.0.")
    assert not measured(run)
    (line,) = journal(run).path.read_text().splitlines()
    assert json.loads(line)["event"] == "refused" and message in json.loads(line)["reason"]
    status, answer = client.ask("results", group(job, other))  # the client can still do better
    assert status == 200 and len(answer["added"]) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seconds": [1e-9] * 20}, "cannot take 1e-09 s"),
        ({"seconds": [1e-3] * 41}, "at most 40 were asked for"),
        ({"key": "0123456789"}, "never asked for"),
        ({"resolution": 999}, "never asked for"),
        ({"key": "../../recipe"}, "never asked for"),
    ],
)
def test_a_result_that_cannot_be_true_does_not_cost_the_others(run, server, change, message):
    client = Client(server)
    client.start()
    job, other, *_ = client.lease()
    post = group(job, other)
    post["results"][0] |= change
    status, answer = client.ask("results", post)
    assert status == 200 and [m["key"] for m in answer["added"]] == [other["key"]]
    (reason,) = answer["refused"]
    assert message in reason and "\n" not in reason
    assert {key for key, _ in measured(run)} == {other["key"]}
    assert any(message in json.loads(line)["reason"] for line in journal(run).path.read_text().splitlines())


def test_what_is_refused_three_times_is_not_asked_for_again(run, server):
    client = Client(server)
    client.start()
    job, *_ = client.lease()
    for _ in range(3):
        assert job in client.lease()
        client.ask("results", group(job, seconds=1e-9))
    assert job not in client.lease()
    assert client.ask("renew")[1]["progress"]["failed"] == 1


@pytest.mark.parametrize("body", ["", "[]", "null", "{", '{"results": 7}', "[" * 100_000, '{"results": [[]]}'])
def test_what_is_no_post_at_all_is_refused(run, server, body):
    client = Client(server)
    client.start()
    status, _ = client.ask("results", body)
    assert status == 400 and not measured(run)


@pytest.mark.parametrize("length", ["1048577", "1000000000000", "9" * 5000, "-1", "many", None])
def test_a_body_that_is_too_large_is_not_even_read(server, length):
    connection = HTTPConnection(urlsplit(server.address).netloc, timeout=20)
    connection.putrequest("POST", "/api/results")
    connection.putheader("Authorization", f"Bearer {TOKEN}")
    if length is not None:
        connection.putheader("Content-Length", length)
    connection.endheaders()
    answer = connection.getresponse()  # although not a byte of the body was sent
    assert answer.status in (411, 413) and b"error" in answer.read()


@pytest.mark.parametrize("token", ["", "wrong", TOKEN + "x", TOKEN[:-1], "ü"])
def test_without_the_token_nothing_is_answered(run, server, token):
    client = Client(server, token=token.encode().decode("latin-1"))
    for request in ("hello", "lease", "model", "results", "renew", "release", "nothing"):
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


def test_models_are_handed_out_only_for_what_is_planned(server):
    client = Client(server)
    client.start()
    assert client.ask("model", {"key": "reference", "resolution": 1})[0] == 200
    for key in ("../../supernet.safetensors", "0123456789"):
        status, error = client.ask("model", {"key": key, "resolution": 16})
        assert status == 404 and "is not to be measured" in error


def test_a_session_that_nobody_knows_has_to_say_hello_again(server):
    client = Client(server)
    client.session = "made up"
    assert client.ask("lease") == (410, "this session is over: say hello again")


def test_two_clients_of_equal_devices_share_the_work(run, server):
    one, two = Client(server), Client(server)
    assert one.start()["device"] == two.start()["device"] == "phone"
    first, second = one.lease(), two.lease()
    assert len(first) == 8 and len(second) == 4 and not {j["key"] for j in first} & {j["key"] for j in second}
    assert one.lease() == first  # asked again, it has what it had
    for client, jobs in ((one, first), (two, second)):
        assert len(client.ask("results", group(*jobs))[1]["added"]) == len(jobs)
    assert len(measured(run)) == 12 and not one.lease() and not two.lease()


def test_two_clients_of_different_devices_are_two_devices(run, server):
    one, two = Client(server), Client(server, hardware="Tablet, 4 cores")
    assert one.start()["device"] == "phone"
    assert two.start()["device"] == "phone-wasm"
    assert Client(server, hardware="Laptop").start()["device"] == "phone-2"
    assert [j["key"] for j in one.lease()] == [j["key"] for j in two.lease()]
    for client in (one, two):
        client.ask("results", group(*client.lease()))
    assert len(measured(run)) == 16 and {name for _, name in measured(run)} == {"phone", "phone-wasm"}


def test_the_same_result_twice_is_kept_once(run, server):
    client = Client(server)
    client.start()
    job, *_ = client.lease()
    assert len(client.ask("results", group(job, seconds=1e-3))[1]["added"]) == 1
    status, answer = client.ask("results", group(job, seconds=2e-3))
    assert status == 200 and answer["added"] == [] and answer["known"] == 1
    (measurement,) = measured(run).values()
    assert measurement.median < 1.1e-3


def test_a_network_that_does_not_run_is_written_down_and_never_tried_again(run, server):
    client = Client(server)
    client.start()
    job, *_ = client.lease()
    failure = {"key": job["key"], "resolution": job["resolution"], "reason": "no kernel for Frobnicate\nat 0x1"}
    status, answer = client.ask("results", {"failures": [failure]})
    assert status == 200 and answer["progress"]["failed"] == 1
    assert job not in client.lease()
    (line,) = journal(run).path.read_text().splitlines()
    assert json.loads(line)["reason"] == "no kernel for Frobnicate at 0x1"
    # A server that is started again, after a kill in the middle of a line, knows it.
    with journal(run).path.open("a") as file:
        file.write('{"time": 17')
    again, device = Board(RunCampaign(run, "phone"), journal(run)), run.added_device("phone")
    assert again.progress(device).failed == 1
    assert job["key"] not in {j.key for j in again.lease("client", device, 100)}
    again.journal.write("failed", device, ("0123456789", 16), "later")
    assert len(journal(run).failed(device.fingerprint)) == 2


def test_a_device_that_is_gone_loses_what_it_was_lent(run):
    now = 0.0
    board = Board(RunCampaign(run, "phone"), journal(run), lease_seconds=60, clock=lambda: now)
    device = board.campaign.register(Device("", "Phone", "onnxruntime-web", "1", "wasm", 1, 1))
    gone = board.lease("gone", device, 8)
    assert not {job.key for job in gone} & {job.key for job in board.lease("here", device, 8)}
    now = 59.0
    board.renew("here")
    now = 61.0
    assert {job.key for job in gone} <= {job.key for job in board.lease("here", device, 12)}
    # What it measured nevertheless is still taken.
    late = parse(Group, json.dumps(group({"key": gone[0].key, "resolution": gone[0].resolution})))
    assert len(board.accept("gone", device, late).added) == 1


def test_a_client_that_comes_back_has_at_once_what_it_had(server):
    client = Client(server)
    session = client.start()["session"]
    first = client.lease()
    client.start(resumes=session)
    assert client.session != session and client.lease() == first


def test_a_run_that_cannot_be_written_loses_nothing(run, server):
    client = Client(server)
    client.start()
    jobs = client.lease()
    for path in run.path.glob("store.sqlite*"):
        path.unlink()
    (run.path / "store.sqlite").mkdir()
    status, error = client.ask("results", group(*jobs))
    assert status == 507 and "cannot use the store" in error
    (run.path / "store.sqlite").rmdir()
    assert len(client.ask("results", group(*jobs))[1]["added"]) == 8


def test_what_a_client_tells_of_itself_is_text_and_nothing_else(run, server):
    client = Client(server, hardware="../../x\x1b[31m\n\u202e" + "y" * 400)
    welcome = client.start()
    (device,) = run.added_devices().values()
    assert device.hardware.isprintable() and len(device.hardware) <= 120
    assert welcome["device"] == "phone" and [path.name for path in run.devices.iterdir()] == ["phone.json"]
    for change in ({"hardware": ""}, {"hardware": "\n"}, {"hardware": "x" * 501}, {"provider": "webgl"}, {"name": "x"}):
        assert client.ask("hello", {**client.hello, **change})[0] == 400


# -- what is believed -------------------------------------------------------------------------------------------------

DEVICE = Device("phone", "Phone", "onnxruntime-web", "1", "wasm", 1, 1)
JOB = Job("0123456789", 224, 200_000_000)


def judge(seconds: float, reference: float = 1e-3, level: float | None = None, **changes) -> Measurement:
    result = Result(key=JOB.key, resolution=224, seconds=[seconds] * 20, calls_per_repeat=1)
    return believed(result, JOB, replace(DEVICE, **changes), [reference] * 20, (), level, Sampling())


def test_a_time_is_believed_only_if_the_device_could_do_it():
    assert judge(0.02).median == 0.02
    with pytest.raises(ValueError, match="no wasm does 200,000,000 multiply-accumulates"):
        judge(1e-4)
    with pytest.raises(ValueError, match="no wasm does 1,600,000,000 multiply"):
        judge(1e-3, batch_size=8)
    assert judge(1e-4, provider="webgpu").median == 1e-4
    with pytest.raises(ValueError, match="times the pace of the reference network"):
        judge(1e-3, reference=100.0)


def test_a_reference_network_off_its_level_is_a_warning():
    assert judge(0.02, level=1.02e-3).warnings == ()
    (warning,) = judge(0.02, level=0.5e-3).warnings
    assert "100% slower than on this device before" in warning


def test_a_stretch_in_which_the_reference_network_was_slow_is_marked():
    factors = [1.5 if 8 <= turn < 14 else 1.0 for turn in range(30)]
    starts = [float(turn) for turn in range(30)]
    result = Result(
        key=JOB.key, resolution=224, seconds=[0.02 * f for f in factors], started=starts, calls_per_repeat=1
    )
    found = believed(result, JOB, DEVICE, [1e-3 * f for f in factors], starts, None, Sampling())
    assert set(found.seconds) == {0.02} and found.disturbed == tuple((float(t), 0.02 * 1.5) for t in range(8, 14))
    assert set(found.reference_seconds) == {1e-3} and len(found.started) == 24 == len(found.reference_started)
    short = result.model_copy(update={"seconds": result.seconds[:16], "started": starts[:16]})
    found = believed(short, JOB, DEVICE, [1e-3 * f for f in factors], starts, None, Sampling())
    assert len(found.seconds) == 16 and not found.disturbed  # too few others are left
    with pytest.raises(ValueError, match="30 repeats, 3 with a start"):
        believed(result.model_copy(update={"started": starts[:3]}), JOB, DEVICE, [1e-3] * 30, starts, None, Sampling())
    with pytest.raises(ValueError, match="30 repeats, the reference network beside it 20"):
        believed(result, JOB, DEVICE, [1e-3] * 20, starts[:20], None, Sampling())


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
def test_it_serves_by_https_with_a_certificate(run, tmp_path):
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", certificate, "-keyout", key]
    subprocess.run(command, check=True, capture_output=True)
    board = Board(RunCampaign(run, "phone"), journal(run))
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
