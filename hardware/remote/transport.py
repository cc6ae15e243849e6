"""HTTP for the server of devices: sizes, silences and connections have limits, every answer has safe headers."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from hardware.remote.submission import one_line

__all__ = ["Answer", "Application", "HttpServer", "RefusedError", "json_answer"]

_LARGEST_BODY = 1 << 25  # bytes; a session of 300 networks and 2,000 turns has 25 MB, one of 40 and 100 has 0.1 MB
_MOST_CONNECTIONS = 64
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


@dataclass(frozen=True)
class Answer:
    """What is sent back."""

    content: bytes | Path  # a file is not read into memory: anybody may ask for those of the page
    type: str = "application/json"
    status: HTTPStatus = HTTPStatus.OK
    cache: str = "no-store"


class RefusedError(Exception):
    """A request that is answered with an error of one line."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class Application(Protocol):
    """What is served. Each method may raise `RefusedError`, or ValueError where a client posted something wrong."""

    on_event: Callable[[str], None]

    def file(self, path: str) -> Answer:
        """The answer to a GET."""
        ...

    def authorize(self, token: str) -> None:
        """Called with the token of a POST before its body is read."""
        ...

    def post(self, path: str, client: str, body: bytes) -> Answer:
        """The answer to a POST."""
        ...


def json_answer(data: dict[str, Any], status: HTTPStatus = HTTPStatus.OK) -> Answer:
    """Plain data as an answer."""
    return Answer(json.dumps(data, allow_nan=False).encode(), status=status)


class HttpServer(ThreadingHTTPServer):
    """Answers every connection in a thread of its own.

    Args:
        address: host and port.
        application: what is served.
        context: to serve by TLS.

    Raises:
        OSError: the address cannot be listened on.
    """

    daemon_threads = True

    def __init__(
        self, address: tuple[str, int], application: Application, context: ssl.SSLContext | None = None
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)
        self.application = application
        self.context = context
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
    def application(self) -> Application:
        assert isinstance(self.server, HttpServer)
        return self.server.application

    def do_GET(self) -> None:
        self._answer(lambda: self.application.file(urlsplit(self.path).path))

    def do_POST(self) -> None:
        def answer() -> Answer:
            scheme, _, token = self.headers.get("Authorization", "").partition(" ")
            self.application.authorize(token if scheme == "Bearer" else "")
            body = self._body()
            return self.application.post(urlsplit(self.path).path, self.headers.get("X-Client", ""), body)

        self._answer(answer)

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or not length.isascii():
            raise RefusedError(HTTPStatus.LENGTH_REQUIRED, "a request must say how long it is")
        if len(length) > 12 or int(length) > _LARGEST_BODY:
            raise RefusedError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"{length[:24]} bytes are too many; at most {_LARGEST_BODY:,}"
            )
        return self.rfile.read(int(length))

    def _answer(self, make: Callable[[], Answer]) -> None:
        try:
            answer = make()
        except RefusedError as error:
            answer = json_answer({"error": str(error)}, error.status)
            self.close_connection = True  # the body may not have been read
        except ValueError as error:
            answer = json_answer({"error": one_line(str(error))}, HTTPStatus.BAD_REQUEST)
        except OSError as error:
            self.close_connection = True
            if isinstance(error, TimeoutError | ConnectionError):
                return
            answer = json_answer({"error": one_line(str(error))}, HTTPStatus.INSUFFICIENT_STORAGE)
            self.application.on_event(f"the run cannot be written: {one_line(str(error))}")
        self.send_response(answer.status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", answer.type)
        content = answer.content
        length = content.stat().st_size if isinstance(content, Path) else len(content)
        self.send_header("Content-Length", str(length))
        self.send_header("Cache-Control", answer.cache)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if isinstance(content, Path):
            with content.open("rb") as file:
                shutil.copyfileobj(file, self.wfile)
        else:
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """What is worth saying goes through `on_event`."""
