"""The server of the page: four files and two questions, on loopback.

Built on Starlette and uvicorn, which MLflow brings anyway, and plain HTML: no package more, and nothing that is fetched from anywhere.
(Gradio and its like bring some forty packages, fonts and counters of their own.) Only `symnet.predict` computes.
"""

import json
import logging
import socket
from collections.abc import Callable, Iterator
from importlib.resources import files

import torch
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from symnet.data.classes import class_names
from symnet.errors import UserError
from symnet.predict import Predictor
from symnet.web.question import answer, read_question

LARGEST = 128 << 20  # bytes of a question, whose pictures are in base64
LOOPBACK = ("127.0.0.1", "localhost")
PAGE = {"page.html": "text/html", "page.css": "text/css", "page.js": "text/javascript", "paint.js": "text/javascript"}
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def make_app(predictor: Predictor, host: str) -> Starlette:
    """The application. On loopback it answers to loopback's names only: another one is a page elsewhere that reached us by DNS."""
    cell, names = predictor.run.cell, class_names(predictor.run.settings.data.classes)
    about = {
        "run": f"{cell.dataset}, {cell.backbone}, fold {cell.fold}, {cell.method}, {predictor.shots}-shot",
        "shots": predictor.shots,
        "novel": [name for name in names if not predictor.seen(name)],
        "base": [name for name in names if predictor.seen(name)],
        "largest": LARGEST // 4 * 3,
    }

    async def tell(request: Request) -> Response:
        return JSONResponse(about, headers=HEADERS)

    async def segment(request: Request) -> Response:
        if request.headers.get("content-type") != "application/json":  # another page may send any other kind without being asked
            return Response("expected application/json", 415)
        body = await request.body()
        return StreamingResponse(lines(predictor, body), media_type="application/x-ndjson", headers=HEADERS)

    routes = [Route("/", _file("page.html")), *(Route(f"/{name}", _file(name)) for name in PAGE if name != "page.html")]
    routes += [Route("/about", tell), Route("/segment", segment, methods=["POST"])]
    allowed = [*LOOPBACK] if host in LOOPBACK else ["*"]
    guards = [Middleware(TrustedHostMiddleware, allowed_hosts=allowed), Middleware(RequestBodyLimitMiddleware, max_body_size=LARGEST)]
    return Starlette(routes=routes, middleware=guards)


def lines(predictor: Predictor, body: bytes) -> Iterator[str]:
    """The answer, a piece a line; what went wrong is the last one."""
    try:
        for piece in answer(predictor, read_question(body)):
            yield json.dumps(piece) + "\n"
    except UserError as error:
        yield json.dumps({"error": str(error)}) + "\n"
    except torch.OutOfMemoryError:
        yield (
            json.dumps({"error": "the GPU's memory does not hold this; stop what else runs there, or start the page with --device cpu"})
            + "\n"
        )
    except Exception:
        logging.getLogger(__name__).exception("a question failed")
        yield json.dumps({"error": "the server failed; where it was started it says why"}) + "\n"


def serve(predictor: Predictor, host: str, port: int) -> None:
    """Serve until interrupted; port 0 takes a free one. Prints the address. Raises `UserError` where it cannot be taken."""
    try:
        door = socket.create_server((host, port))
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: {error.strerror}; give another --port (0: any that is free)") from None
    with door:
        print(f"symnet is at http://{host}:{door.getsockname()[1]} (Ctrl-C ends it)", flush=True)
        uvicorn.Server(uvicorn.Config(make_app(predictor, host), log_level="warning")).run(sockets=[door])


def _file(name: str) -> Callable[[Request], Response]:
    """A file of the page, read once."""
    content = files(__package__).joinpath(name).read_bytes()
    return lambda _: Response(content, media_type=PAGE[name], headers=HEADERS)
