"""The HTTP application: routes behind the gate, and every error in one shape."""

import contextlib
import logging
from collections.abc import AsyncIterator, Collection
from importlib import metadata
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from tunewright.errors import TunewrightError
from tunewright.serve import feedback_routes, native_routes, openai_routes, page_routes
from tunewright.serve.faults import Fault, as_fault, of_validation
from tunewright.serve.gate import Gate
from tunewright.serve.keys import Keys
from tunewright.serve.service import Service

_LOG = logging.getLogger("tunewright.serve")


def create_app(service: Service, *, keys: Keys | None, hosts: Collection[str] | None) -> Gate:
    """Everything that answers HTTP.

    Args:
        service: Tasks and engine.
        keys: Who may ask; None for everybody who can reach it.
        hosts: Names it answers to; None for any.
    """
    app = routes(service)
    return Gate(app, keys=keys, hosts=hosts, limits=service.limits, metrics=service.metrics)


def routes(service: Service) -> FastAPI:
    """The routes alone."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title="Tunewright", version=metadata.version("tunewright"), lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.include_router(native_routes.router(service))
    app.include_router(openai_routes.router(service))
    app.include_router(feedback_routes.router(service))
    app.include_router(page_routes.router(service))
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    for kind in (Fault, TunewrightError, Exception):
        app.add_exception_handler(kind, _on_error)
    return app


def _reply(fault: Fault) -> Response:
    return JSONResponse(fault.body(), status_code=fault.status, headers=fault.headers)


async def _on_error(_: Request, error: Exception) -> Response:
    """The sender hears a name for it; the log has the sentence, or the traceback, as the framework raises it again."""
    if isinstance(error, TunewrightError):  # a registry or a folder that cannot be read
        _LOG.error("%s", error)
    return _reply(as_fault(error))


async def _on_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _reply(of_validation(error.errors()))


async def _on_http(_: Request, error: Exception) -> Response:
    """What the framework says: no such path, not this method, a body that is no JSON."""
    assert isinstance(error, HTTPException)
    codes: dict[int, tuple[str, str]] = {
        400: ("invalid_json", "the body is not valid JSON."),
        404: ("not_found", "there is no such path. GET /openapi.json lists all."),
        405: ("method_not_allowed", "the path does not know this method."),
    }
    code, message = codes.get(error.status_code, ("http_error", str(error.detail)))
    headers: dict[str, Any] = dict(error.headers) if error.headers is not None else {}
    return _reply(Fault(error.status_code, code, message, headers=headers))
