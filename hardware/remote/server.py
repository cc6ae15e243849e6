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
from hardware.measurement import Measurement
from hardware.remote.board import Board, Progress
from hardware.remote.campaign import REFERENCE
from hardware.remote.onnxruntime_web import FILES, PROVIDER_FILES, VERSION
from hardware.remote.submission import Group, Key, Resolution, Strict, one_line, parse, printable
from hardware.remote.transport import Answer, HttpServer, RefusedError, json_answer

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
_MOST_SESSIONS = 256


class _Hello(Strict):
    """How a client introduces itself."""

    hardware: Annotated[str, Field(min_length=1, max_length=500)]
    browser: Annotated[str, Field(min_length=1, max_length=200)]
    provider: Literal["wasm", "webgpu"]
    resumes: Annotated[str, Field(max_length=64)] | None = None  # its session before it was closed


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
        on_measurement: Callable[[Measurement, Progress], None] = lambda measurement, progress: None,
    ) -> None:
        self.board = board
        self.batch_size = batch_size
        self.token = secrets.token_urlsafe(24) if token is None else token
        if len(self.token) < 16:
            raise ValueError("the token must have at least 16 characters")
        self.on_event = on_event
        self.on_measurement = on_measurement
        self.files = {f"/{path.name}": path for path in _PAGE.iterdir() if path.suffix in _TYPES}
        self.files |= {f"/runtime/{name}": runtime / name for name in FILES}
        self.files["/"] = self.files["/index.html"]
        self._sessions: OrderedDict[str, Device] = OrderedDict()
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

    def sessions(self) -> dict[str, Device]:
        """The clients that introduced themselves, the last heard of last."""
        with self._lock:
            return dict(self._sessions)

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

    def post(self, path: str, session: str, body: bytes) -> Answer:
        """The answer to a request of a client that has the token."""
        answers: dict[str, Callable[[str, Device, bytes], Answer | dict[str, Any]]] = {
            "/api/lease": self._lease,
            "/api/model": self._model,
            "/api/results": self._results,
            "/api/renew": self._renew,
            "/api/release": self._release,
        }
        if path == "/api/hello":
            return json_answer(self._hello(body))
        if path not in answers:
            raise RefusedError(HTTPStatus.NOT_FOUND, "there is no such request")
        with self._lock:
            device = self._sessions.get(session)
            if device is None:
                raise RefusedError(HTTPStatus.GONE, "this session is over: say hello again")
            self._sessions.move_to_end(session)
        try:
            answer = answers[path](session, device, body)
        except ValueError as error:
            self.board.journal.write("refused", device, None, one_line(str(error)))
            self.on_event(f"{device.name}: refused: {one_line(str(error))}")
            raise
        return answer if isinstance(answer, Answer) else json_answer(answer)

    def _hello(self, body: bytes) -> dict[str, Any]:
        hello = parse(_Hello, body)
        hardware, browser = printable(hello.hardware), printable(hello.browser, 60)
        if not hardware or not browser:
            raise ValueError("hardware and browser: nothing in them can be printed")
        campaign = self.board.campaign
        device = campaign.register(
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
        session = secrets.token_urlsafe(16)
        with self._lock:
            before = self._sessions.get(hello.resumes or "")
            if before == device:
                del self._sessions[hello.resumes or ""]
                self.board.release(hello.resumes or "")
            self._sessions[session] = device
            while len(self._sessions) > _MOST_SESSIONS:
                self.board.release(self._sessions.popitem(last=False)[0])
        self.on_event(f"{device}: {'back again' if before == device else 'connected'}")
        return {
            "session": session,
            "device": device.name,
            "fingerprint": device.fingerprint,
            "description": str(device),
            "title": campaign.title,
            "sampling": asdict(campaign.sampling),
            "runtime": PROVIDER_FILES[hello.provider],
            "reference": REFERENCE,
            "silence_seconds": self.board.lease_seconds,
            "progress": self._progress(device),
        }

    def _lease(self, session: str, device: Device, body: bytes) -> dict[str, Any]:
        jobs = self.board.lease(session, device, self.board.campaign.sampling.group_size)
        return {
            "jobs": [{"key": job.key, "resolution": job.resolution, "label": job.label} for job in jobs],
            "level": self.board.level(device),
            "progress": self._progress(device),
        }

    def _model(self, session: str, device: Device, body: bytes) -> Answer:
        wanted = parse(_Model, body)
        self.board.renew(session)
        jobs = {(job.key, job.resolution) for job in self.board.campaign.jobs(device)}
        if wanted.key != REFERENCE and (wanted.key, wanted.resolution) not in jobs:
            raise RefusedError(HTTPStatus.NOT_FOUND, f"{printable(wanted.key)} is not to be measured")
        model = self.board.campaign.model(wanted.key, wanted.resolution, device.batch_size)
        return Answer(model, "application/octet-stream")

    def _results(self, session: str, device: Device, body: bytes) -> dict[str, Any]:
        group = parse(Group, body)
        outcome = self.board.accept(session, device, group)
        progress = self.board.progress(device)
        for measurement in outcome.added:
            self.on_measurement(measurement, progress)
        for reason in outcome.refused:
            self.on_event(f"{device.name}: refused: {reason}")
        for failure in group.failures:
            self.on_event(f"{device.name}: cannot run {printable(failure.key)}: {one_line(failure.reason)}")
        return {
            "added": [{"key": m.key, "median": m.median, "interval": m.interval} for m in outcome.added],
            "known": outcome.known,
            "refused": outcome.refused,
            "progress": asdict(progress),
        }

    def _renew(self, session: str, device: Device, body: bytes) -> dict[str, Any]:
        self.board.renew(session)
        return {"progress": self._progress(device)}

    def _release(self, session: str, device: Device, body: bytes) -> dict[str, Any]:
        self.board.release(session)
        self.on_event(f"{device.name}: closed")
        return {}

    def _progress(self, device: Device) -> dict[str, Any]:
        return asdict(self.board.progress(device))


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
