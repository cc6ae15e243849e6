"""Kits: made, run as a stranger runs them, imported, and refused when something is wrong; and all of it over ssh."""

import ast
import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments.measuring import remote
from experiments.measuring.kits import KitSettings, import_results, make_kit, measure_over_ssh
from experiments.measuring.remote import StoredProfiler, refusals
from experiments.progress import Reporter
from experiments.run_folder import RunFolder
from hardware.loop.cpu import cpu_description
from hardware.remote import measure
from hardware.remote.ssh import Host

pytestmark = pytest.mark.slow

SSHD = shutil.which("sshd") or shutil.which("/usr/sbin/sshd")
REPORT = Reporter()


def script(folder, *arguments, **changes):
    """The kit's script in an interpreter that sees nothing of ours."""
    command = [sys.executable, "-I", str(folder / "measure.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, cwd="/", **changes)


def sessions(run, name):
    with run.store() as store:
        return store.sessions(run.added_device(name)) if name in run.added_devices() else []


def measured(run, name):
    """Every measurement of a device by key."""
    with run.store() as store:
        return {key: m for (key, _), m in store.measurements(run.added_device(name)).items()}


@pytest.fixture(scope="module", autouse=True)
def _small_sessions():
    """Eight anchors and two networks beside them, so that there is more than one session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote, "_SESSION_NETWORKS", 10)
        yield


@pytest.fixture(scope="module")
def made(recipe_path, tmp_path_factory):
    """A run and a kit of it that was run; tests work on copies."""
    folder = tmp_path_factory.mktemp("made")
    run = RunFolder.start(recipe_path, folder / "run")
    make_kit(run, KitSettings("board", batch_size=2), folder / "kit", REPORT)
    done = script(folder / "kit")
    assert done.returncode == 0 and "everything is measured" in done.stdout, done.stderr
    return folder


@pytest.fixture
def copy(made, tmp_path):
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def test_what_comes_back_is_in_the_store(copy):
    run, results = RunFolder(copy / "run"), copy / "kit" / "results.jsonl"
    imported = import_results(run, results)
    assert (imported.added, imported.failed, imported.refused) == (12, 0, ())
    first, second = sessions(run, "board")
    assert len(first.names) == len(second.names) == 10 and len(set(first.names) & set(second.names)) == 8
    assert first.n_turns == 20 and not np.isnan(first.started).any() and first.began < second.began < time.time()
    everything = measured(run, "board")
    assert everything.keys() == {arch.id for plan in run.all_plans() for arch in plan.archs}
    device = first.device
    assert device.batch_size == 2 and device.runtime == "onnxruntime" and device.hardware == cpu_description()
    space = run.untrained_supernet.space
    assert everything[space.largest.id].latency > 1.3 * everything[space.smallest.id].latency
    again = import_results(run, results)
    assert again.added == 0 and all(outcome.known for outcome in again.outcomes) and len(sessions(run, "board")) == 2
    with pytest.raises(ValueError, match="nothing left to measure for board"):
        make_kit(run, KitSettings("board", batch_size=2), copy / "more", REPORT)
    with pytest.raises(ValueError, match=r"for batch 1 .* give another name"):
        make_kit(run, KitSettings("board"), copy / "more", REPORT)
    assert not (copy / "more").exists()


def test_what_is_compared_is_measured_in_one_session(copy):
    run = RunFolder(copy / "run")
    import_results(run, copy / "kit" / "results.jsonl")
    (plan,) = run.all_plans()
    archs = plan.archs[-4:]
    names = [(arch.id, arch.resolution) for arch in archs]
    StoredProfiler(run, "board").require(names)
    run.write_plan("final", archs, [{}] * len(archs), device="board")
    with pytest.raises(ValueError, match="4 sub-networks still to measure side by side"):
        StoredProfiler(run, "board").require(names, final=True)
    make_kit(run, KitSettings("board", batch_size=2, n=1), copy / "final", REPORT)
    assert script(copy / "final").returncode == 0
    import_results(run, copy / "final" / "results.jsonl")
    last = sessions(run, "board")[-1]
    assert last.purpose == "final" and set(last.names) >= set(names) and len(last.names) == 12
    StoredProfiler(run, "board").require(names, final=True)


def test_the_script_needs_only_numpy_and_onnxruntime_and_an_old_python(made):
    files = sorted((made / "kit").rglob("*.py"))
    names = [str(file.relative_to(made / "kit")) for file in files]
    loop = [f"hardware/loop/{name}.py" for name in ("__init__", "cpu", "turns")]
    assert names == ["hardware/__init__.py", *loop, "measure.py"]
    for file in files:
        tree = ast.parse(file.read_text(), feature_version=(3, 9))
        names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        assert {name.partition(".")[0] for name in names} <= {
            *sys.stdlib_module_names,
            "hardware",
            "numpy",
            "onnxruntime",
        }


def test_it_keeps_no_identifier_of_the_device(made, tmp_path):
    """As onnxruntime does from 1.29 on Linux, with a thread for it beside what is measured."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ORT_") and name != "CI"}
    shutil.copytree(made / "kit", tmp_path / "kit")
    (tmp_path / "kit" / "results.jsonl").unlink()
    (tmp_path / "home").mkdir()
    assert script(tmp_path / "kit", env=kept | {"HOME": str(tmp_path / "home")}).returncode == 0
    assert list((tmp_path / "home").rglob("*")) == []


def test_it_can_be_killed_and_carries_on(copy):
    kit = copy / "kit"
    whole = (kit / "results.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    assert len(lines) == 3  # what it is, and two sessions of less than ten seconds
    (kit / "results.jsonl").write_bytes(lines[0] + lines[1] + lines[2][:100])  # killed while it wrote
    run = RunFolder(copy / "run")
    early = import_results(run, kit / "results.jsonl")  # also what is there so far can be taken
    assert early.added == 10
    done = script(kit)
    assert done.returncode == 0 and "12 of 12" in done.stdout
    now = (kit / "results.jsonl").read_bytes().splitlines(keepends=True)
    assert now[:2] == lines[:2] and len(now) == 3
    late = import_results(run, kit / "results.jsonl")
    assert late.added == 2 and [outcome.known for outcome in late.outcomes] == [True, False]
    assert "everything is measured" in script(kit).stdout


def rewritten(path, contents):
    """A result file of these contents, with digests that fit."""
    previous, text = "", ""
    for content in contents:
        previous = measure.chained(contents[0]["manifest"], previous, content)
        text += json.dumps({"content": content, "digest": previous}) + "\n"
    path.write_text(text)


def read(path):
    return [json.loads(line)["content"] for line in path.read_text().splitlines()]


def test_a_session_that_was_imported_in_part_is_continued(copy):
    run, path = RunFolder(copy / "run"), copy / "kit" / "results.jsonl"
    head, first, _ = read(path)
    parts = [first | {"turns": first["turns"][start:stop]} for start, stop in ((0, 5), (5, 8), (8, 20))]
    rewritten(path, [head, parts[0]])
    assert import_results(run, path).added == 0  # five turns say nothing
    rewritten(path, [head, *parts[:2]])
    assert import_results(run, path).added == 10
    rewritten(path, [head, *parts])
    import_results(run, path)
    (session,) = sessions(run, "board")
    assert session.n_turns == 20
    assert session.seconds[:, 19].tolist() == first["turns"][19]["seconds"]
    # A script that is started again does not take eight turns for a measurement.
    rewritten(path, [head, *parts[:2]])
    done = script(copy / "kit")
    assert done.returncode == 0 and len(read(path)) == 5


@pytest.mark.parametrize("began", [0.0, 4e9])
def test_a_clock_that_is_wrong_is_told_and_costs_nothing(copy, began):
    run, path = RunFolder(copy / "run"), copy / "kit" / "results.jsonl"
    head, first, _ = read(path)
    rewritten(path, [head, first | {"began": began}])
    imported = import_results(run, path)
    (session,) = sessions(run, "board")
    assert abs(session.began - time.time()) < 60 and "clock of the device was wrong" in session.notes[0]
    assert "clock" in str(imported)


def edited(content):
    content["turns"][0]["seconds"] = [s / 2 for s in content["turns"][0]["seconds"]]


def test_a_result_edited_by_hand_is_refused_and_nothing_of_it_is_taken(copy):
    run, path = RunFolder(copy / "run"), copy / "kit" / "results.jsonl"
    lines = path.read_text().splitlines()
    row = json.loads(lines[1])
    edited(row["content"])
    forgeries = {
        "line 2 is not as it was written": [lines[0], json.dumps(row), *lines[2:]],
        "line 2 is not as": [lines[0], lines[2]],  # one taken out
        "line 3 is not as": [*lines[:2], lines[1]],  # one twice
        "line 1 is not as": [lines[0].replace("cores", "kores"), *lines[1:]],
        "line 3 is not a line of results": [*lines[:2], "[1, 2]"],
        "or has not even its first line": [],
    }
    for message, forged in forgeries.items():
        path.write_text("".join(f"{line}\n" for line in forged))
        with pytest.raises(ValueError, match=message) as caught:
            import_results(run, path)
        assert "\n" not in str(caught.value)
        assert not run.added_devices()


def test_digests_that_fit_do_not_help_what_cannot_be_true(copy):
    """Whoever has the kit can compute them, so everything is judged again."""
    run, path = RunFolder(copy / "run"), copy / "kit" / "results.jsonl"
    head, first, second = read(path)

    def with_turn(change):
        return first | {"turns": [first["turns"][0] | change(first["turns"][0]), *first["turns"][1:]]}

    for contents, message in [
        ([first, second, first], "a session goes on after another one"),
        ([first | {"networks": [n | {"key": "0123456789"} for n in first["networks"]]}], "is in it twice"),
        ([first | {"networks": [first["networks"][0] | {"key": "0123456789"}, *first["networks"][1:]]}],
         "0123456789 at .* px is not in the kit"),
        ([with_turn(lambda turn: {"seconds": [-1.0] * 10})], "greater than 0"),
        ([with_turn(lambda turn: {"seconds": [1e-3] * 5})], "turn 0 has 5 repeats of 10 networks"),
        ([first | {"more": 1}], "not permitted"),
        ([first, second | {"session": first["session"]}], "other networks than it began with"),
    ]:  # fmt: skip
        rewritten(path, [head, *contents])
        with pytest.raises(ValueError, match=message):
            import_results(run, path)
        assert not run.added_devices()
    turns = [turn | {"seconds": [*turn["seconds"][:9], 1e-9]} for turn in first["turns"]]
    rewritten(path, [head, first | {"turns": turns}])
    imported = import_results(run, path)
    assert imported.added == 9 and len(imported.refused) == 1 and "cannot take 1e-09 s" in imported.refused[0]
    assert "cannot take 1e-09 s" in refusals(run).path.read_text()


def test_results_of_another_run_or_device_are_refused(copy, recipe_path, tmp_path):
    run, path = RunFolder(copy / "run"), copy / "kit" / "results.jsonl"
    other = RunFolder.start(recipe_path, tmp_path / "other")
    with pytest.raises(ValueError, match=r"of a kit that .* does not know"):
        import_results(other, path)
    import_results(run, path)
    (run.devices / "phone.json").write_text(
        json.dumps(run.added_device("board").to_dict() | {"hardware": "Phone", "name": "phone"})
    )
    with pytest.raises(ValueError, match=r"phone: Phone, .* this result is of another device"):
        import_results(run, path, "phone")
    for name in ("one", "../x", "", "a b"):
        with pytest.raises(ValueError, match="name"):
            import_results(run, path, name)


@pytest.mark.parametrize("damaged", ["models", "hardware/loop/turns.py", "measure.py", "manifest.json"])
def test_a_kit_that_was_damaged_on_the_way_does_not_measure(copy, damaged):
    kit = copy / "kit"
    (kit / "results.jsonl").unlink()
    if damaged == "models":
        damaged = min(path.relative_to(kit).as_posix() for path in kit.glob("models/*"))
    text = (kit / damaged).read_bytes()
    (kit / damaged).write_bytes(
        text.replace(b'"threads": 1', b'"threads": 2') if damaged == "manifest.json" else text + b"\n"
    )
    done = script(kit)
    if damaged == "manifest.json":
        # It is what everything else is checked against: its results are of no kit we know.
        with pytest.raises(ValueError, match=r"of a kit that .* does not know"):
            import_results(RunFolder(copy / "run"), kit / "results.jsonl")
    else:
        assert done.returncode == 2 and done.stderr == (
            f"measure.py: {damaged} is not the file that was shipped; copy the folder again\n"
        )


def test_results_of_another_machine_or_runtime_are_set_aside(copy):
    kit = copy / "kit"
    head, first, _ = read(kit / "results.jsonl")
    rewritten(kit / "results.jsonl", [head | {"device": head["device"] | {"hardware": "another"}}, first])
    before = (kit / "results.jsonl").read_bytes()
    done = script(kit)
    assert done.returncode == 0 and "begins anew" in done.stderr and done.stderr.count("\n") == 1
    assert (kit / "results-2.jsonl").read_bytes() == before
    assert import_results(RunFolder(copy / "run"), kit / "results.jsonl").added == 12


def test_what_people_say_of_a_device_is_part_of_what_it_is(copy):
    run = RunFolder(copy / "run")
    import_results(run, copy / "kit" / "results.jsonl")
    make_kit(run, KitSettings("cold", batch_size=2, n=1, hardware="15 W mode"), copy / "cold", REPORT)
    assert script(copy / "cold").returncode == 0
    device = import_results(run, copy / "cold" / "results.jsonl").device
    assert device.hardware == f"{cpu_description()}, 15 W mode" and device != run.added_device("board")
    with pytest.raises(ValueError, match=r"15 W mode.* for '30 W mode' give another name by --device"):
        make_kit(run, KitSettings("cold", batch_size=2, hardware="30 W mode"), copy / "other", REPORT)


def test_a_runtime_that_knows_no_network_is_the_reason_and_may_be_replaced(copy, tmp_path):
    kit = copy / "kit"
    (kit / "results.jsonl").unlink()
    (tmp_path / "onnxruntime").mkdir()
    text = """
__version__ = "1.0"
class SessionOptions:
    def add_session_config_entry(self, *entry): pass
class InferenceSession:
    def __init__(self, path, *more, **options): raise RuntimeError(f"{path}: unsupported model IR version")
"""
    (tmp_path / "onnxruntime" / "__init__.py").write_text(text)
    command = [sys.executable, str(kit / "measure.py")]
    old = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=old, timeout=200, check=False)
    assert done.returncode == 2 and "unsupported model IR version" in done.stderr and done.stderr.count("\n") == 1
    assert str(kit) not in done.stderr
    with pytest.raises(ValueError, match="nothing was measured yet"):
        import_results(RunFolder(copy / "run"), kit / "results.jsonl")
    assert script(kit).returncode == 0
    assert import_results(RunFolder(copy / "run"), kit / "results.jsonl").added == 12


# -- over ssh ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """A real sshd on this machine, for this user, with keys of its own; and how to reach it."""
    if SSHD is None:
        pytest.skip("no sshd: install it (Debian: apt-get install openssh-server)")
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "home").mkdir()
    options = {
        "ListenAddress": "127.0.0.1", "HostKey": folder / "host", "AuthorizedKeysFile": folder / "user.pub",
        "StrictModes": "no", "UsePAM": "no", "PidFile": "none",
        # A shell that greets, without the end of the line.
        "ForceCommand": f'printf "Welcome. Quota: 12 of 50 GB"; cd {folder}/home && eval "$SSH_ORIGINAL_COMMAND"',
    }  # fmt: skip
    (folder / "config").write_text("".join(f"{name} {value}\n" for name, value in options.items()))
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where sshd locks itself in
    server = subprocess.Popen([SSHD, "-D", "-e", "-p", str(port), "-f", folder / "config"], stderr=subprocess.DEVNULL)
    ssh = ["ssh", "-F", "none", "-p", str(port), "-i", str(folder / "user"), "-o", "StrictHostKeyChecking=no"]
    ssh += ["-o", f"UserKnownHostsFile={folder}/known", "-o", "LogLevel=ERROR"]
    for _ in range(100):
        if subprocess.run([*ssh, f"{getpass.getuser()}@127.0.0.1", "true"], capture_output=True).returncode == 0:
            break
        time.sleep(0.1)
    yield folder / "home", Host(f"{getpass.getuser()}@127.0.0.1", ssh, sys.executable)
    server.terminate()
    server.wait()


@pytest.fixture
def run(made, tmp_path):
    shutil.copytree(made / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "devices")
    return RunFolder(tmp_path / "run")


def test_one_command_measures_over_ssh_and_leaves_nothing_there(run, host):
    home, there = host
    imported = measure_over_ssh(run, KitSettings("pi"), there, REPORT)
    assert imported is not None and imported.added == 12 and len(measured(run, "pi")) == 12
    assert measure_over_ssh(run, KitSettings("pi"), there, REPORT) is None  # there is nothing left
    assert list((home / ".cache" / "supernet-nas").iterdir()) == []
    assert [path.suffix for path in (run.devices / "kits").iterdir()] == [".json"]


def test_a_host_that_is_gone_in_the_middle_loses_nothing(run, host):
    home, there = host

    class Gone(Host):
        """The connection ends after the first session, while the script goes on there."""

        def measure(self, kit, on_line):
            lines = 0

            def count(line):
                nonlocal lines
                on_line(line)
                lines += 1
                if lines == 2:
                    raise OSError("the connection is gone")

            super().measure(kit, count)

    settings = KitSettings("pi")
    gone = Gone(there.name, there.ssh, there.python)
    with pytest.raises(OSError, match="the connection is gone"):
        measure_over_ssh(run, settings, gone, REPORT)
    assert len(measured(run, "pi")) == 10
    assert len(list((home / ".cache" / "supernet-nas").iterdir())) == 1
    imported = None
    while imported is None:
        try:
            imported = measure_over_ssh(run, settings, there, REPORT)
        except OSError as error:  # what is left of it there has not noticed yet that nobody listens
            assert "another measure.py is at work" in str(error)
    assert imported.added == 2 and imported.outcomes[0].known
    assert len(measured(run, "pi")) == 12


def test_hosts_that_cannot_measure_are_one_line(run, host):
    _, there = host
    for other, message in [
        (Host("127.0.0.1", ["ssh", "-F", "none", "-p", "1"]), "cannot work on 127.0.0.1: .*refused"),
        (Host(there.name, there.ssh, "no-such-python"), "ended early: .*no-such-python: not found"),
        (Host(there.name, there.ssh, "/usr/bin/false"), "ended early: it ended with code 1"),
    ]:
        with pytest.raises(OSError, match=message) as caught:
            measure_over_ssh(run, KitSettings("pi", n=1), other, REPORT)
        assert "\n" not in str(caught.value)
        assert not run.added_devices()
    for name in ("-oProxyCommand=touch x", "", "a b"):
        with pytest.raises(ValueError, match="not the name of a host"):
            Host(name)
