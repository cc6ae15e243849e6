"""Bundles: made, run as a stranger runs them, imported, and refused when something is wrong; and all of it over ssh."""

import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.measuring.remote import journal
from experiments.measuring.remote_bundles import BundleSettings, import_results, make_bundle, measure_over_ssh
from experiments.progress import Reporter
from experiments.run_folder import RunFolder
from hardware.device import cpu_description
from hardware.remote import measure
from hardware.remote.ssh import Host

SSHD = shutil.which("sshd") or shutil.which("/usr/sbin/sshd")
REPORT = Reporter()


def script(folder, *arguments, **changes):
    """The bundle's script in an interpreter that sees nothing of ours."""
    command = [sys.executable, "-I", str(folder / "measure.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, cwd="/", **changes)


def measured(run, name):
    with run.store() as store:
        return store.measurements(run.added_device(name)) if name in run.added_devices() else []


@pytest.fixture(scope="module")
def bundled(recipe_path, tmp_path_factory):
    """A run and a bundle of it that was run; tests work on copies."""
    folder = tmp_path_factory.mktemp("bundled")
    run = RunFolder.start(recipe_path, folder / "run")
    make_bundle(run, BundleSettings("board", batch_size=2), folder / "bundle", REPORT)
    done = script(folder / "bundle")
    assert done.returncode == 0 and "everything is measured" in done.stdout, done.stderr
    return folder


@pytest.fixture
def copy(bundled, tmp_path):
    shutil.copytree(bundled, tmp_path / "copy")
    return tmp_path / "copy"


def test_what_comes_back_is_in_the_store(copy):
    run, results = RunFolder(copy / "run"), copy / "bundle" / "results.jsonl"
    imported = import_results(run, results)
    assert (imported.added, imported.known, imported.failed, imported.refused) == (12, 0, 0, ())
    everything = measured(run, "board")
    assert {m.key for m in everything} == {arch.id for plan in run.all_plans() for arch in plan.archs}
    device = everything[0].device
    assert device.batch_size == 2 and device.runtime == "onnxruntime" and device.hardware == cpu_description()
    medians = {m.key: m.median for m in everything}
    space = run.untrained_supernet.space
    assert medians[space.largest.id] > 1.3 * medians[space.smallest.id]
    again = import_results(run, results)
    assert (again.added, again.known) == (0, 12)
    with pytest.raises(ValueError, match="nothing left to measure for board"):
        make_bundle(run, BundleSettings("board", batch_size=2), copy / "more", REPORT)
    with pytest.raises(ValueError, match=r"for batch 1 .* give another name"):
        make_bundle(run, BundleSettings("board"), copy / "more", REPORT)
    assert not (copy / "more").exists()


def test_the_script_needs_only_numpy_and_onnxruntime_and_an_old_python(bundled):
    source = (bundled / "bundle" / "measure.py").read_text()
    modules = {
        line.split()[1].partition(".")[0]
        for line in source.splitlines()
        if line.lstrip().startswith(("import ", "from "))
    }
    assert modules - sys.stdlib_module_names == {"numpy", "onnxruntime"}
    import ast

    ast.parse(source, feature_version=(3, 9))


def test_it_can_be_killed_and_carries_on(copy):
    bundle = copy / "bundle"
    whole = (bundle / "results.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    (bundle / "results.jsonl").write_bytes(lines[0] + lines[1] + lines[2][:100])  # killed while it wrote
    run = RunFolder(copy / "run")
    early = import_results(run, bundle / "results.jsonl")  # also what is there so far can be taken
    assert early.added == 8
    done = script(bundle)
    assert done.returncode == 0 and "12 of 12" in done.stdout
    now = (bundle / "results.jsonl").read_bytes().splitlines(keepends=True)
    assert now[:2] == lines[:2] and len(now) == 3
    late = import_results(run, bundle / "results.jsonl")
    assert (late.added, late.known) == (4, 8)
    assert "everything is measured" in script(bundle).stdout


def edited(content):
    content["results"][0]["seconds"] = [s / 2 for s in content["results"][0]["seconds"]]


def test_a_result_edited_by_hand_is_refused_and_nothing_of_it_is_taken(copy):
    run, path = RunFolder(copy / "run"), copy / "bundle" / "results.jsonl"
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
    """Whoever has the bundle can compute them, so everything is judged again."""
    run, path = RunFolder(copy / "run"), copy / "bundle" / "results.jsonl"
    contents = [json.loads(line)["content"] for line in path.read_text().splitlines()]

    def forge(change):
        previous, text = "", ""
        for content in [contents[0], change(json.loads(json.dumps(contents[1])))]:
            previous = measure.chained(contents[0]["manifest"], previous, content)
            text += json.dumps({"content": content, "digest": previous}) + "\n"
        path.write_text(text)

    def with_results(change):
        return lambda content: content | {"results": change(content["results"])}

    for change, message in [
        (with_results(lambda r: [*r, r[0]]), "is in it 2 times"),
        (with_results(lambda r: [r[0] | {"key": "0123456789"}]), "0123456789 at .* px is not in the bundle"),
        (with_results(lambda r: [r[0] | {"seconds": [-1.0] * 20}]), "greater than 0"),
        (with_results(lambda r: [r[0] | {"seconds": [1e-3] * 5}]), "at least 6"),
        (lambda content: content | {"more": 1}, "not permitted"),
    ]:
        forge(change)
        with pytest.raises(ValueError, match=message):
            import_results(run, path)
        assert not run.added_devices()
    forge(with_results(lambda r: [r[0] | {"seconds": [1e-9] * 20}, *r[1:]]))
    imported = import_results(run, path)
    assert imported.added == 7 and len(imported.refused) == 1 and "cannot take 1e-09 s" in imported.refused[0]
    assert "refused" in journal(run).path.read_text()


def test_results_of_another_run_or_device_are_refused(copy, recipe_path, tmp_path):
    run, path = RunFolder(copy / "run"), copy / "bundle" / "results.jsonl"
    other = RunFolder.start(recipe_path, tmp_path / "other")
    with pytest.raises(ValueError, match=r"of a bundle that .* does not know"):
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


@pytest.mark.parametrize("damaged", ["models/reference.onnx", "measure.py", "manifest.json"])
def test_a_bundle_that_was_damaged_on_the_way_does_not_measure(copy, damaged):
    bundle = copy / "bundle"
    (bundle / "results.jsonl").unlink()
    text = (bundle / damaged).read_bytes()
    (bundle / damaged).write_bytes(
        text.replace(b'"threads": 1', b'"threads": 2') if damaged == "manifest.json" else text + b"\n"
    )
    done = script(bundle)
    if (
        damaged == "manifest.json"
    ):  # it is what everything else is checked against: its results are of no bundle we know
        with pytest.raises(ValueError, match=r"of a bundle that .* does not know"):
            import_results(RunFolder(copy / "run"), bundle / "results.jsonl")
    else:
        assert done.returncode == 2 and done.stderr == (
            f"measure.py: {damaged} is not the file that was shipped; copy the folder again\n"
        )


def test_results_of_another_machine_are_not_carried_on(copy):
    bundle = copy / "bundle"
    _, identity = measure.read_manifest(str(bundle))
    content = {"manifest": identity, "device": {"hardware": "another", "runtime_version": "1"}}
    line = {"content": content, "digest": measure.chained(identity, "", content)}
    (bundle / "results.jsonl").write_text(json.dumps(line) + "\n")
    done = script(bundle)
    assert done.returncode == 2 and "is of another device" in done.stderr and done.stderr.count("\n") == 1


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
        "ForceCommand": f'cd {folder}/home && eval "$SSH_ORIGINAL_COMMAND"',
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
def run(bundled, tmp_path):
    shutil.copytree(bundled / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "devices")
    return RunFolder(tmp_path / "run")


def test_one_command_measures_over_ssh_and_leaves_nothing_there(run, host):
    home, there = host
    imported = measure_over_ssh(run, BundleSettings("pi"), there, REPORT)
    assert imported.added == 12 and len(measured(run, "pi")) == 12
    assert list((home / ".cache" / "supernet-nas").iterdir()) == []
    assert [path.suffix for path in (run.devices / "bundles").iterdir()] == [".json"]


def test_a_host_that_is_gone_in_the_middle_loses_nothing(run, host):
    home, there = host

    class Gone(Host):
        """The connection ends after the first group, while the script goes on there."""

        def measure(self, bundle, on_line):
            lines = 0

            def count(line):
                nonlocal lines
                on_line(line)
                lines += 1
                if lines == 2:
                    raise OSError("the connection is gone")

            super().measure(bundle, count)

    settings = BundleSettings("pi")
    gone = Gone(there.name, there.ssh, there.python)
    with pytest.raises(OSError, match="the connection is gone"):
        measure_over_ssh(run, settings, gone, REPORT)
    assert len(measured(run, "pi")) == 8
    assert len(list((home / ".cache" / "supernet-nas").iterdir())) == 1
    imported = None
    while imported is None:
        try:
            imported = measure_over_ssh(run, settings, there, REPORT)
        except OSError as error:  # what is left of it there has not noticed yet that nobody listens
            assert "another measure.py is at work" in str(error)
    assert (imported.added, imported.known) == (4, 8)
    assert len(measured(run, "pi")) == 12


def test_hosts_that_cannot_measure_are_one_line(run, host):
    _, there = host
    for other, message in [
        (Host("127.0.0.1", ["ssh", "-F", "none", "-p", "1"]), "cannot work on 127.0.0.1: .*refused"),
        (Host(there.name, there.ssh, "no-such-python"), "ended early: .*no-such-python: not found"),
        (Host(there.name, there.ssh, "/usr/bin/false"), "ended early: it ended with code 1"),
    ]:
        with pytest.raises(OSError, match=message) as caught:
            measure_over_ssh(run, BundleSettings("pi", n=1), other, REPORT)
        assert "\n" not in str(caught.value)
        assert not run.added_devices()
    for name in ("-oProxyCommand=touch x", "", "a b"):
        with pytest.raises(ValueError, match="not the name of a host"):
            Host(name)
