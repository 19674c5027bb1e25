"""A reference service: lists over HTTP from a bundle of export.py.

    python examples/service/serve.py bundle --port 8000

docs/serving.md describes it. It keeps nothing of a request and writes none of it to a log.
"""

import asyncio
import socket
import sys
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import torch

from src.config.cli import OneLineParser
from src.config.modes import BLEND, PATHS
from src.dataset.store.exclusion import excludes_seen
from src.io.errors import UserError, run_command
from src.serving.answers import Answerer
from src.serving.batches import Batcher
from src.serving.bundle import open_bundle
from src.serving.bundle_files import CARD
from src.serving.item_search import ItemSearch
from src.serving.questions import JSON_SCHEMA, MAX_BODY, BadRequest, QuestionReader

try:
    import uvicorn
    from fastapi import FastAPI, Request, Response
    from fastapi.responses import FileResponse, JSONResponse
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect
except ModuleNotFoundError as error:
    MISSING = error.name
else:
    MISSING = None

PAGE = Path(__file__).with_name("page.html")
STOP_S = 30  # how long requests in flight may take to finish after SIGTERM
IN_FLIGHT = 1024  # connections and requests beyond these are answered with 503
SENTENCE = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
ITEM = {
    "type": "object",
    "required": ["item_id", "score"],
    "properties": {"item_id": {"type": "string"}, "score": {"type": "number"}},
}
LIST = {
    "type": "object",
    "required": ["domain", "path", "items"],
    "properties": {
        "domain": {"type": "string"},
        "path": {"type": "string", "description": "what made the list"},
        "items": {"type": "array", "items": ITEM},
    },
}
ANSWER = {
    "type": "object",
    "required": ["lists", "context_events", "skipped_events"],
    "properties": {
        "lists": {"type": "array", "items": LIST},
        "context_events": {"type": "integer"},
        "skipped_events": {"type": "integer"},
    },
}


def app_of(folder: Path, path: str = "auto", batch: int = 64, window: float = 0.002) -> Any:
    """The application that serves a bundle by a path: batches of up to `batch` requests, gathered
    for `window` seconds. UserError for a folder that is no bundle, or lacks the path."""
    bundle = open_bundle(folder)
    bundle.check_path(path)
    reader = QuestionReader(bundle, excludes_seen(bundle.repeat_share))
    answerer, search = Answerer(bundle, path), ItemSearch(bundle)
    answerer.answers([reader.read(b'{"events": []}')] * 2)  # what the first call prepares
    batcher = Batcher(answerer.answers, batch, window)

    @asynccontextmanager
    async def lifespan(app: "FastAPI") -> AsyncIterator[None]:
        task = asyncio.create_task(batcher.run())
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    app = FastAPI(
        title="Recommendations", version=str(bundle.facts["format"]), lifespan=lifespan,
        docs_url=None, redoc_url=None,  # pages that load scripts from the network
    )  # fmt: skip
    add_errors(app)

    @app.post("/recommend", **described(ANSWER, JSON_SCHEMA, 400, 413, 422))
    async def recommend(request: Request) -> Response:
        """The best items for a user with these events, per domain."""
        try:
            question = reader.read(await body_of(request))
            return JSONResponse(await batcher.ask(question))
        except ClientDisconnect:
            return Response(status_code=400)  # to nobody
        except BadRequest:
            raise
        except Exception as error:
            return fault(error)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """That the service answers, and what from."""
        return {
            "status": "ok",
            "run": bundle.facts["run"],
            "items": bundle.facts["items"],
            "domains": bundle.dataset.domain_names,
            "counted_until": bundle.end,
            "path": path,
        }

    @app.get("/model_card", response_class=FileResponse)
    async def model_card() -> Response:
        """The card of the model, Markdown."""
        return FileResponse(folder / CARD, media_type="text/markdown; charset=utf-8")

    @app.get("/items", **described({"type": "array", "items": {"type": "object"}}, None, 422))
    async def items(request: Request) -> Response:
        """Items of a domain whose id has a text in it, those with the most events first."""
        asked = request.query_params
        return JSONResponse(search.best(asked.get("domain", ""), asked.get("text", "")))

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE, media_type="text/html; charset=utf-8")

    return app


def described(answer: dict, body: dict | None, *statuses: int) -> dict[str, Any]:
    """What OpenAPI says of a route: its answer, its body, and the errors that it may give."""
    content = {"application/json": {"schema": answer}}
    responses: dict[int, Any] = {200: {"description": "the answer", "content": content}}
    for status in statuses:
        responses[status] = {
            "description": "what is wrong, in one sentence",
            "content": {"application/json": {"schema": SENTENCE}},
        }
    extra: dict[str, Any] = {}
    if body:
        extra["requestBody"] = {
            "required": True, "content": {"application/json": {"schema": body}}
        }  # fmt: skip
    else:
        extra["parameters"] = [
            {"name": name, "in": "query", "required": required, "schema": {"type": "string"}}
            for name, required in (("domain", True), ("text", False))
        ]
    return {"responses": responses, "openapi_extra": extra, "response_class": JSONResponse}


async def body_of(request: "Request") -> bytes:
    """The body of a request. BadRequest for one that is too large, before it is there whole."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise BadRequest(f"the body has more than {MAX_BODY} bytes", 413)
    return bytes(body)


def add_errors(app: "FastAPI") -> None:
    """Every error is one sentence; nothing of a request goes to the log."""

    @app.exception_handler(BadRequest)
    async def bad_request(request: Request, error: BadRequest) -> Response:
        return JSONResponse({"error": str(error)}, error.status)

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)


def fault(error: Exception) -> "Response":
    """The answer to a fault of the service, whose place goes to the log; its message could have
    data of the request."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(place.filename).name}, line {place.lineno}"
    print(f"error: {type(error).__name__} in {where}", file=sys.stderr, flush=True)
    return JSONResponse({"error": "the service has a fault; its log says where"}, 500)


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens. UserError where it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=IN_FLIGHT)
    except (OSError, OverflowError) as error:
        raise UserError(f"cannot listen at {host}:{port}: {error}") from None


def serve(app: Any, listener: socket.socket) -> None:
    """Answer until SIGTERM or SIGINT; what is in flight then is finished."""
    config = uvicorn.Config(
        app, access_log=False, log_level="warning", server_header=False,
        limit_concurrency=IN_FLIGHT, timeout_graceful_shutdown=STOP_S,
    )  # fmt: skip
    with suppress(KeyboardInterrupt):  # which uvicorn raises again when it has stopped
        uvicorn.Server(config).run([listener])


def main(words: list[str] | None = None) -> None:
    """Open the bundle and serve it. Raises UserError for mistakes."""
    parser = OneLineParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("bundle", type=Path, help="folder of export.py")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at")
    parser.add_argument("--port", type=int, default=8000, help="port to listen at")
    parser.add_argument(
        "--serve_path", default="auto", choices=("auto", *PATHS, BLEND), help="as of recommend.py"
    )
    parser.add_argument("--batch", type=int, default=64, help="requests to score together, at most")
    parser.add_argument(
        "--window_ms", type=float, default=2.0, help="how long to gather requests for a batch"
    )
    parser.add_argument("--threads", type=int, default=0, help="of torch; default: all cores")
    given = parser.parse_args(words)
    if MISSING:
        raise UserError(
            f"{MISSING} is not installed: pip install -r examples/service/requirements.txt"
        )
    if given.batch < 1 or given.window_ms < 0:
        raise UserError("--batch must be at least 1, and --window_ms at least 0")
    if given.threads:
        torch.set_num_threads(given.threads)
    app = app_of(given.bundle, given.serve_path, given.batch, given.window_ms / 1000)
    with listening(given.host, given.port) as listener:
        print(f"serving {given.bundle} at http://{given.host}:{given.port}", flush=True)
        serve(app, listener)
    print("stopped", flush=True)


if __name__ == "__main__":
    run_command(main)
