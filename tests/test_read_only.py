"""A run in a folder where nothing can be written, such as an archive: what reads works, what writes says so at once."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

# Permission bits do not bind whoever is root; a file system that is mounted for reading does.
MOUNTED = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" || exit 77; shift; exec "$@"'
COMMANDS = """
import json, sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from experiments.cli import main
for arguments in json.loads(sys.argv[1]):
    out, errors, code = StringIO(), StringIO(), 0
    sys.argv = ["supernet", *arguments]
    with redirect_stdout(out), redirect_stderr(errors):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    print(json.dumps([code, out.getvalue(), errors.getvalue()]))
"""


def test_reading_needs_no_writing_and_writing_is_refused_in_one_line(finished_run, tmp_path):
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare, to mount a folder for reading alone")
    run, best = tmp_path / "run", json.loads((finished_run / "plans" / "initial.json").read_text())
    shutil.copytree(finished_run, run)
    (run / ".in-use").unlink(missing_ok=True)
    key = best["architectures"][0]["id"]
    reading = [
        ["query", run, "--device", "one"],
        ["query", run, "--device", "one", "--front", "--csv"],
        ["measurements", "list", run],
        ["measurements", "show", run, key, "--device", "one"],
        ["measurements", "export", run, "--out", tmp_path / "table.csv"],
        ["measurements", "backup", run, "--out", tmp_path / "copy.sqlite"],
        ["compare", "--help"],
    ]
    writing = [
        ["query", run, "--device", "one", "--latency", "1s", "--verify"],
        ["compare", run],
        ["run", run / "recipe.toml", "--out", run],
        ["export", run, "--arch", key, "--out", tmp_path / "bundle"],
    ]
    asked = json.dumps([[str(argument) for argument in arguments] for arguments in [*reading, *writing]])
    shell = ["unshare", "--map-root-user", "--mount", "sh", "-c", MOUNTED, "sh", str(run)]
    done = subprocess.run(
        [*shell, sys.executable, "-c", COMMANDS, asked],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(reading) + len(writing)
    for arguments, (code, out, errors) in zip(reading, answers, strict=False):
        assert code == 0 and out, (arguments, errors)
    for arguments, (code, _, errors) in zip(writing, answers[len(reading) :], strict=True):
        assert code == 2 and f"supernet: {run} cannot be written to: copy it" in errors, (arguments, errors)
        assert errors.count("\n") == 1, errors
    assert not (tmp_path / "bundle").exists() and not (run / ".in-use").exists()
