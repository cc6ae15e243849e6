"""The server that makes a device of every browser that opens its address with the token."""

from __future__ import annotations

import contextlib
import hmac
import secrets
import socket
import ssl
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from hardware.device import Device
from hardware.remote.board import Board, DeviceProgress, Outcome
from hardware.remote.onnxruntime_web import FILES, PROVIDER_FILES, VERSION
from hardware.remote.submission import LONGEST_HARDWARE, Key, Posted, Resolution, Strict, one_line, parse, printable
from hardware.remote.transport import Answer, HttpServer, RefusedError, json_answer
from hardware.remote.work import Job

__all__ = ["DeviceServer"]

_PAGE = Path(__file__).parent / "browser"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
}
_MOST_CLIENTS = 256


class _Hello(Strict):
    """How a client introduces itself."""

    hardware: Annotated[str, Field(min_length=1, max_length=LONGEST_HARDWARE)]
    browser: Annotated[str, Field(min_length=1, max_length=200)]
    provider: Literal["wasm", "webgpu"]
    resumes: Annotated[str, Field(max_length=64)] | None = None  # the client that it was before it was closed


class _Model(Strict):
    key: Key
    resolution: Resolution


class DeviceServer:
    """Serves the page, the runtime and the jobs of a board; ``serve_forever`` until ``close``.

    Without the token nothing but the page's own files is answered. What clients post is checked field by field and
    used for nothing but measurements of jobs that were planned. Several clients may work at once.

    Args:
        board: the work.
        runtime: the folder of onnxruntime-web.
        host: the address to listen on; anything but a loopback address is open to the network.
        port: 0 for any that is free.
        batch_size: images in every call.
        token: at least 16 characters that clients must know; default a random one.
        certificate: PEM files of a certificate and its key, to serve by HTTPS.
        on_event: called with a line for people whenever something happened.
        on_session: called with what became of a session that was posted.

    Raises:
        OSError: the address cannot be listened on.
        ValueError: the token is too short, or the certificate cannot be used.
    """

    def __init__(
        self,
        board: Board,
        runtime: Path,
        host: str = "127.0.0.1",
        port: int = 0,
        batch_size: int = 1,
        token: str | None = None,
        certificate: tuple[Path, Path] | None = None,
        on_event: Callable[[str], None] = lambda text: None,
        on_session: Callable[[Device, Outcome, DeviceProgress], None] = lambda device, outcome, progress: None,
    ) -> None:
        self.board = board
        self.batch_size = batch_size
        self.token = secrets.token_urlsafe(24) if token is None else token
        if len(self.token) < 16:
            raise ValueError("the token must have at least 16 characters")
        self.on_event = on_event
        self.on_session = on_session
        self.files = {f"/{path.name}": path for path in _PAGE.iterdir() if path.suffix in _TYPES}
        self.files |= {f"/runtime/{name}": runtime / name for name in FILES}
        self.files["/"] = self.files["/index.html"]
        self._clients: OrderedDict[str, Device] = OrderedDict()
        self._dismissed: set[str] = set()  # clients that know that nothing is left, or that went away
        self._lock = threading.Lock()
        context = None if certificate is None else _context(*certificate)
        self._scheme = "http" if context is None else "https"
        self._http = HttpServer((host, port), self, context)

    @property
    def address(self) -> str:
        """What a browser opens; the token is after the #, which browsers do not send, so no log has it."""
        host, port = self._http.server_address[:2]
        return f"{self._scheme}://{_name(str(host))}:{port}/#{self.token}"

    def serve_forever(self) -> None:
        """Answer until `close` is called from another thread."""
        self._http.serve_forever(poll_interval=0.1)

    def close(self) -> None:
        """Stop answering."""
        self._http.shutdown()
        self._http.server_close()

    def clients(self) -> dict[str, Device]:
        """The clients that introduced themselves, the last heard of last."""
        with self._lock:
            return dict(self._clients)

    @property
    def is_finished(self) -> bool:
        """Whether somebody came and everything planned is measured."""
        devices = self.clients().values()
        return bool(devices) and all(self.board.progress(device).finished for device in devices)

    @property
    def is_known_to_be_finished(self) -> bool:
        """Whether every client has been told, too: whoever has not would ask on and on."""
        with self._lock:
            told = self._dismissed.issuperset(self._clients)
        return told and self.is_finished

    # -- what is answered ---------------------------------------------------------------------------------------------

    def file(self, path: str) -> Answer:
        """A file of the page or of the runtime: only names that were listed at the start are looked up."""
        found = self.files.get(path)
        if found is None:
            raise RefusedError(HTTPStatus.NOT_FOUND, "there is no such page")
        cache = "max-age=86400" if path.startswith("/runtime/") else "no-cache"
        return Answer(found, _TYPES[found.suffix], cache=cache)

    def authorize(self, token: str) -> None:
        """Raises where the token is another."""
        if not hmac.compare_digest(token.encode(), self.token.encode()):
            raise RefusedError(
                HTTPStatus.UNAUTHORIZED, "wrong token: open the address that `supernet device serve` prints now"
            )

    def post(self, path: str, client: str, body: bytes) -> Answer:
        """The answer to a request of a client that has the token."""
        answers: dict[str, Callable[[str, Device, bytes], Answer | dict[str, Any]]] = {
            "/api/lease": self._lease,
            "/api/model": self._model,
            "/api/session": self._session,
            "/api/renew": self._renew,
            "/api/release": self._release,
        }
        if path == "/api/hello":
            return json_answer(self._hello(body))
        if path not in answers:
            raise RefusedError(HTTPStatus.NOT_FOUND, "there is no such request")
        with self._lock:
            device = self._clients.get(client)
            if device is None:
                raise RefusedError(HTTPStatus.GONE, "this client is not known any more: say hello again")
            self._clients.move_to_end(client)
        try:
            answer = answers[path](client, device, body)
        except ValueError as error:
            self.board.refusals.add(device, None, one_line(str(error)))
            self.on_event(f"{device.name}: refused: {one_line(str(error))}")
            raise
        return answer if isinstance(answer, Answer) else json_answer(answer)

    def _hello(self, body: bytes) -> dict[str, Any]:
        hello = parse(_Hello, body)
        hardware, browser = printable(hello.hardware, LONGEST_HARDWARE), printable(hello.browser, 60)
        if not hardware or not browser:
            raise ValueError("hardware and browser: nothing in them can be printed")
        source = self.board.source
        device = source.register(
            Device(
                name="",
                hardware=hardware,
                runtime="onnxruntime-web",
                runtime_version=f"{VERSION}, {browser}",
                provider=hello.provider,
                threads=1,
                batch_size=self.batch_size,
            )
        )
        client = secrets.token_urlsafe(16)
        with self._lock:
            before = self._clients.get(hello.resumes or "")
            if before == device:
                del self._clients[hello.resumes or ""]
                self.board.release(hello.resumes or "")
            self._clients[client] = device
            while len(self._clients) > _MOST_CLIENTS:
                self.board.release(self._clients.popitem(last=False)[0])
        self.on_event(f"{device}: {'back again' if before == device else 'connected'}")
        return {
            "client": client,
            "device": device.name,
            "fingerprint": device.fingerprint,
            "description": str(device),
            "title": source.title,
            "sampling": asdict(source.sampling),
            "runtime": PROVIDER_FILES[hello.provider],
            "silence_seconds": self.board.lease_seconds,
            "progress": self._progress(device),
        }

    def _lease(self, client: str, device: Device, body: bytes) -> dict[str, Any]:
        work, progress = self.board.lease(client, device), self._progress(device)
        with self._lock:
            (self._dismissed.discard if work.jobs or not progress["finished"] else self._dismissed.add)(client)
        return {
            "purpose": work.purpose,
            "anchors": [_described(job) for job in work.anchors],
            "jobs": [_described(job) for job in work.jobs],
            "progress": progress,
        }

    def _model(self, client: str, device: Device, body: bytes) -> Answer:
        wanted = parse(_Model, body)
        self.board.renew(client)
        if (wanted.key, wanted.resolution) not in self.board.jobs(device):
            raise RefusedError(HTTPStatus.NOT_FOUND, f"{printable(wanted.key)} is not to be measured")
        model = self.board.source.model(wanted.key, wanted.resolution, device.batch_size)
        return Answer(model, "application/octet-stream")

    def _session(self, client: str, device: Device, body: bytes) -> dict[str, Any]:
        posted = parse(Posted, body)
        outcome = self.board.accept(client, device, posted.session, ago=posted.ago)
        progress = self.board.progress(device)
        if outcome.session is not None and not outcome.known:
            self.on_session(device, outcome, progress)
        for reason in outcome.refused:
            self.on_event(f"{device.name}: refused: {reason}")
        for failure in posted.session.failures:
            self.on_event(f"{device.name}: cannot run {printable(failure.key)}: {one_line(failure.reason)}")
        return {
            "results": [asdict(result) for result in outcome.results],
            "known": outcome.known,
            "refused": outcome.refused,
            "progress": self._progress(device),
        }

    def _renew(self, client: str, device: Device, body: bytes) -> dict[str, Any]:
        self.board.renew(client)
        return {"progress": self._progress(device)}

    def _release(self, client: str, device: Device, body: bytes) -> dict[str, Any]:
        self.board.release(client)
        with self._lock:
            self._dismissed.add(client)
        self.on_event(f"{device.name}: closed")
        return {}

    def _progress(self, device: Device) -> dict[str, Any]:
        progress = self.board.progress(device)
        return {**asdict(progress), "finished": progress.finished}


def _described(job: Job) -> dict[str, Any]:
    return {"key": job.key, "resolution": job.resolution, "label": job.label}


def _context(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key)
    except (ssl.SSLError, OSError) as error:
        raise ValueError(f"{certificate} and {key} are no certificate and key: {error}") from error
    return context


def _name(host: str) -> str:
    """A host as it stands in an address that others can open."""
    if host in ("0.0.0.0", "::"):
        # "Connecting" a datagram socket sends nothing, but says from which address of ours others would be reached.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
            probe.connect(("192.0.2.1", 9))
            return probe.getsockname()[0]
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host
