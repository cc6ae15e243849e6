"""The server that makes a device of every browser that opens its address with the token."""

from __future__ import annotations

import contextlib
import hmac
import json
import secrets
import socket
import ssl
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field

from hardware.device import Device
from hardware.measurement import Measurement
from hardware.remote.board import Board, Progress
from hardware.remote.campaign import REFERENCE
from hardware.remote.onnxruntime_web import FILES, PROVIDER_FILES, VERSION
from hardware.remote.submission import Group, Key, Resolution, Strict, one_line, parse, printable

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
_LARGEST_BODY = 1 << 20  # bytes; a group of 8 networks with 400 repeats each has 0.1 MB
_MOST_CONNECTIONS = 64
_MOST_SESSIONS = 256
_SILENCE_SECONDS = 30.0  # of a connection in the middle of a request
_HEADERS = {
    # Only our own files; and no other page may frame this one or read from it.
    "Content-Security-Policy": "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; "
    "connect-src 'self'; worker-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    # With these two a page is isolated, which sharpens the clock of browsers from 100 to 5 µs.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class _Hello(Strict):
    """How a client introduces itself."""

    hardware: Annotated[str, Field(min_length=1, max_length=500)]
    browser: Annotated[str, Field(min_length=1, max_length=200)]
    provider: Literal["wasm", "webgpu"]
    resumes: Annotated[str, Field(max_length=64)] | None = None  # its session before it was closed


class _Model(Strict):
    key: Key
    resolution: Resolution


@dataclass(frozen=True)
class _Answer:
    content: bytes
    type: str = "application/json"
    status: HTTPStatus = HTTPStatus.OK
    cache: str = "no-store"


class _RefusedError(Exception):
    """A request that is answered with an error of one line."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


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
        self._http = _HttpServer((host, port), self)
        self._scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            try:
                context.load_cert_chain(*certificate)
            except (ssl.SSLError, OSError) as error:
                self._http.server_close()
                raise ValueError(
                    f"{certificate[0]} and {certificate[1]} are no certificate and key: {error}"
                ) from error
            self._http.context = context
            self._scheme = "https"

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

    def file(self, path: str) -> _Answer:
        """A file of the page or of the runtime: only names that were listed at the start are looked up."""
        found = self.files.get(path)
        if found is None:
            raise _RefusedError(HTTPStatus.NOT_FOUND, "there is no such page")
        cache = "max-age=86400" if path.startswith("/runtime/") else "no-cache"
        return _Answer(found.read_bytes(), _TYPES[found.suffix], cache=cache)

    def authorize(self, token: str) -> None:
        """Raises where the token is another."""
        if not hmac.compare_digest(token.encode(), self.token.encode()):
            raise _RefusedError(
                HTTPStatus.UNAUTHORIZED, "wrong token: open the address that `supernet device serve` prints now"
            )

    def post(self, path: str, session: str, body: bytes) -> _Answer:
        """The answer to a request of a client that has the token."""
        answers: dict[str, Callable[[str, Device, bytes], _Answer | dict[str, Any]]] = {
            "/api/lease": self._lease,
            "/api/model": self._model,
            "/api/results": self._results,
            "/api/renew": self._renew,
            "/api/release": self._release,
        }
        if path == "/api/hello":
            return _json(self._hello(body))
        if path not in answers:
            raise _RefusedError(HTTPStatus.NOT_FOUND, "there is no such request")
        with self._lock:
            device = self._sessions.get(session)
            if device is None:
                raise _RefusedError(HTTPStatus.GONE, "this session is over: say hello again")
            self._sessions.move_to_end(session)
        try:
            answer = answers[path](session, device, body)
        except ValueError as error:
            self.board.journal.write("refused", device, None, one_line(str(error)))
            self.on_event(f"{device.name}: refused: {one_line(str(error))}")
            raise
        return answer if isinstance(answer, _Answer) else _json(answer)

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

    def _model(self, session: str, device: Device, body: bytes) -> _Answer:
        wanted = parse(_Model, body)
        self.board.renew(session)
        jobs = {(job.key, job.resolution) for job in self.board.campaign.jobs(device)}
        if wanted.key != REFERENCE and (wanted.key, wanted.resolution) not in jobs:
            raise _RefusedError(HTTPStatus.NOT_FOUND, f"{printable(wanted.key)} is not to be measured")
        model = self.board.campaign.model(wanted.key, wanted.resolution, device.batch_size)
        return _Answer(model, "application/octet-stream")

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


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], devices: DeviceServer) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)
        self.devices = devices
        self.context: ssl.SSLContext | None = None
        self._free = threading.BoundedSemaphore(_MOST_CONNECTIONS)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            request.settimeout(_SILENCE_SECONDS)
            if self.context is not None:  # the handshake here, where a slow client holds up nobody else
                request = self.context.wrap_socket(request, server_side=True)
            super().process_request_thread(request, client_address)
        except OSError:
            self.shutdown_request(request)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "supernet"
    sys_version = ""
    timeout = _SILENCE_SECONDS

    @property
    def devices(self) -> DeviceServer:
        assert isinstance(self.server, _HttpServer)
        return self.server.devices

    def do_GET(self) -> None:
        self._answer(lambda: self.devices.file(urlsplit(self.path).path))

    def do_POST(self) -> None:
        def answer() -> _Answer:
            scheme, _, token = self.headers.get("Authorization", "").partition(" ")
            self.devices.authorize(token if scheme == "Bearer" else "")
            body = self._body()
            return self.devices.post(urlsplit(self.path).path, self.headers.get("X-Session", ""), body)

        self._answer(answer)

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or not length.isascii():
            raise _RefusedError(HTTPStatus.LENGTH_REQUIRED, "a request must say how long it is")
        if len(length) > 12 or int(length) > _LARGEST_BODY:
            raise _RefusedError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"{length[:24]} bytes are too many; at most {_LARGEST_BODY:,}"
            )
        return self.rfile.read(int(length))

    def _answer(self, make: Callable[[], _Answer]) -> None:
        try:
            answer = make()
        except _RefusedError as error:
            answer = _json({"error": str(error)}, error.status)
            self.close_connection = True  # the body may not have been read
        except ValueError as error:
            answer = _json({"error": one_line(str(error))}, HTTPStatus.BAD_REQUEST)
        except OSError as error:
            self.close_connection = True
            if isinstance(error, TimeoutError | ConnectionError):
                return
            answer = _json({"error": one_line(str(error))}, HTTPStatus.INSUFFICIENT_STORAGE)
            self.devices.on_event(f"the run cannot be written: {one_line(str(error))}")
        self.send_response(answer.status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", answer.type)
        self.send_header("Content-Length", str(len(answer.content)))
        self.send_header("Cache-Control", answer.cache)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(answer.content)

    def log_message(self, format: str, *args: Any) -> None:
        """What is worth saying goes through `on_event`."""


def _json(data: dict[str, Any], status: HTTPStatus = HTTPStatus.OK) -> _Answer:
    return _Answer(json.dumps(data, allow_nan=False).encode(), status=status)


def _name(host: str) -> str:
    """A host as it stands in an address that others can open."""
    if host in ("0.0.0.0", "::"):
        # "Connecting" a datagram socket sends nothing, but says from which address of ours others would be reached.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
            probe.connect(("192.0.2.1", 9))
            return probe.getsockname()[0]
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host
