"""The name under which everything of this project can be imported wherever it is installed: ``supernet_nas.search``.

In the repository this is the same module as ``search``. A wheel has nothing else called search, predictors, hardware or
experiments, which are folders that others have as well: there the packages lie in here (see setup.py).
``python -m supernet_nas`` is the command ``supernet``.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_PACKAGES = ("experiments", "hardware", "predictors", "search", "supernet")


class _OtherName(MetaPathFinder, Loader):
    """Imports ``supernet_nas.x`` as the module ``x``, where the former is no module of its own."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None):
        first, _, rest = name.partition(".")
        return ModuleSpec(name, self) if first == "supernet_nas" and rest.partition(".")[0] in _PACKAGES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(spec.name.partition(".")[2])
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        assert spec is not None
        module.__spec__ = spec.loader_state  # the import system has put that of the other name there


globals().setdefault("__path__", [])  # as a package, which may have modules inside
sys.meta_path.append(_OtherName())  # last: what lies in here comes first

if __name__ == "__main__":
    importlib.import_module("experiments.cli").main()
