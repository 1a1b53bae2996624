"""A web server on loopback that does what it is told, one answer a request: right, or wrong in one of many ways."""

import contextlib
import re
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """HTTP/1.0: the connection's end is the body's. `server.site` has the content and the answers to give."""

    def do_GET(self) -> None:
        site: Site = self.server.site  # type: ignore[attr-defined]
        with site.turn:
            site.requests.append((self.path, dict(self.headers)))
            answer = site.answers.pop(0) if site.answers else site.always
        with contextlib.suppress(ConnectionError):  # who asked has gone
            answer(self)

    def log_message(self, format: str, *values: Any) -> None:
        pass

    @property
    def content(self) -> bytes:
        return self.server.site.content  # type: ignore[attr-defined]

    def head(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def asked(self) -> int | None:
        """First byte that a Range asks for."""
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        return int(found[1]) if found else None


class Site:
    """The server. `requests`: path and headers of each so far."""

    def __init__(self, content: bytes) -> None:
        self.content, self.always = content, right()
        self.answers: list[Answer] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.turn = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.site = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self.server.server_port}/file.bin"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    @property
    def ranges(self) -> list[str | None]:
        return [headers.get("Range") for _, headers in self.requests]


def right(
    etag: str = '"one"', part: float = 1.0, stall: float = 0.0, slow: float = 0.0, length: bool = True, heed: bool = True, **headers: object
) -> Answer:
    """As asked, Range and If-Range heeded (unless not `heed`); only `part` of the body, then the end, or `stall` seconds of nothing."""

    def answer(handler: Handler) -> None:
        whole, start = handler.content, handler.asked()
        if start is None or not heed or handler.headers.get("If-Range", etag) != etag:
            start = 0
        body = whole[start:]
        told: dict[str, object] = {"ETag": etag} if etag else {}
        if length:
            told["Content_Length"] = len(body)
        if start:
            told["Content_Range"] = f"bytes {start}-{len(whole) - 1}/{len(whole)}"
        handler.head(206 if start else 200, **{**told, **headers})
        body = body[: int(len(body) * part)]
        for first in range(0, len(body), 4096):
            handler.wfile.write(body[first : first + 4096])
            handler.wfile.flush()
            time.sleep(slow)
        time.sleep(stall)

    return answer


def status(code: int, **headers: object) -> Answer:
    return lambda handler: handler.head(code, Content_Length=0, **headers)
