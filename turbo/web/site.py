"""What every page gets: settings, database, live channels, templates."""

import time
from http import HTTPStatus
from typing import Any

from jinja2 import Environment
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse

from turbo.client.transcript_bells import TranscriptBells
from turbo.web.database import SharedSessions
from turbo.web.hub import Hub, Poller
from turbo.web.settings import WebSettings
from turbo.web.sign_in import SignIns
from turbo.web.text import environment


class Site:
    """One running `turbo web`."""

    def __init__(self, settings: WebSettings) -> None:
        self.settings = settings
        self.database = SharedSessions(settings.dsn)
        self.hub = Hub()
        self.bells = TranscriptBells(settings.listen_dsn or settings.dsn)
        self.sign_ins = SignIns(settings.directory)
        self._templates: Environment = environment()

    @property
    def read_only(self) -> bool:
        return self.settings.web.read_only

    def page(self, request: Request, template: str, http_status: int = HTTPStatus.OK, **values: Any) -> HTMLResponse:
        """A whole page. Its template extends base.html."""
        values |= {
            "path": request.url.path,
            "site": self,
            "person": request.scope.get("turbo.person"),
            "now": f"{time.time():.2f}",
        }
        return HTMLResponse(self._templates.get_template(template).render(values), http_status)

    def fragment(self, template: str, **values: Any) -> str:
        """The HTML of a live section."""
        return self._templates.get_template(template).render(values | {"site": self})

    def live(self, key: tuple[str, ...], poller: Poller) -> Response:
        """The server-sent events of a page."""
        return StreamingResponse(
            self.hub.listen(key, poller), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
        )

    async def close(self) -> None:
        await self.hub.close()
        await self.bells.close()
        await self.database.close()
