"""The page at `/`, made from the registry and the figures of the moment."""

import asyncio
import dataclasses

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from tunewright.releases.state import State
from tunewright.serve import page
from tunewright.serve.gate import context_of
from tunewright.serve.metrics import NO_FIGURES
from tunewright.serve.page import TaskView
from tunewright.serve.service import Service

_MOST_TASKS = 100
_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
_MOST_CHANGES = 10


def router(service: Service) -> APIRouter:
    """The route."""
    routes = APIRouter()
    known = _Registry(service.state) if service.state is not None else None

    @routes.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def overview(request: Request) -> Response:
        """Tasks, figures and a playground; a question for the key where one is needed."""
        if context_of(request.scope).wants_key:
            return HTMLResponse(page.ask_for_key(), headers=_HEADERS | {"content-security-policy": page.policy()})
        names = service.names(request)
        views = await asyncio.to_thread(_views, service, known, names[:_MOST_TASKS])
        html = page.render(
            views,
            num_tasks=len(names),
            waiting_rows=service.metrics.waiting_rows(),
            keeps_feedback=service.state is not None,
        )
        return HTMLResponse(html, headers=_HEADERS | {"content-security-policy": page.policy()})

    return routes


class _Registry:
    """What the registry says of tasks, read again only when it has changed."""

    def __init__(self, state: State) -> None:
        self._state, self._seen = state, -1
        self._views: dict[str, TaskView] = {}

    def views(self, names: list[str]) -> dict[str, TaskView]:
        """Raises StateError where it cannot be read."""
        seen = self._state.change_counter()
        if seen != self._seen:
            self._views, self._seen = {}, seen
        missing = set(names) - set(self._views)
        if missing:
            self._views |= {view.name: view for view in self._read(missing)}
        return self._views

    def _read(self, names: set[str]) -> list[TaskView]:
        return [
            TaskView(
                name=entry.name,
                live=entry.live.version,
                shadow=None if entry.shadow is None else entry.shadow.version,
                shadow_share=entry.shadow_share,
                versions=self._state.versions(entry.name),
                history=self._state.promotions(entry.name)[: -_MOST_CHANGES - 1 : -1],
            )
            for entry in self._state.tasks()
            if entry.name in names and entry.live is not None
        ]


def _views(service: Service, known: _Registry | None, names: list[str]) -> list[TaskView]:
    """Of the tasks that are served at this moment."""
    found = {} if known is None else known.views(names)
    figures = service.metrics.figures()
    views = []
    for name in names:
        live = service.tasks.live(name)
        if live is not None:
            view = found.get(name, TaskView(name=name, live=live.version))
            views.append(dataclasses.replace(view, figures=figures.get(name, NO_FIGURES)))
    return views
