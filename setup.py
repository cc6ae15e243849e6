"""Builds a wheel in which only two names are at the top: ``supernet``, and ``supernet_nas`` with all other packages."""

import re
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

INSIDE = ("experiments", "hardware", "predictors", "search")
_IMPORT = re.compile(rf"^(\s*(?:from|import)\s+)({'|'.join(INSIDE)})(?=[.\s])", re.MULTILINE)
_MAIN = """from supernet_nas.experiments.cli import main

main()
"""


class InOneNamespace(build_py):
    """Copies packages as usual, and then moves those with common names into ``supernet_nas``."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            gather(Path(self.build_lib))


def gather(built: Path) -> None:
    """Move the packages in a folder of built files into one, and have them import each other there."""
    home = built / "supernet_nas"
    shutil.rmtree(home, ignore_errors=True)  # of a build before
    home.mkdir()
    (built / "supernet_nas.py").rename(home / "__init__.py")
    (home / "__main__.py").write_text(_MAIN)
    for package in INSIDE:
        (built / package).rename(home / package)
        for path in (home / package).rglob("*.py"):
            path.write_text(_IMPORT.sub(r"\1supernet_nas.\2", path.read_text(encoding="utf-8")), encoding="utf-8")


setup(cmdclass={"build_py": InOneNamespace})
