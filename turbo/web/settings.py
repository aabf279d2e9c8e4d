"""What `turbo web` was started with."""

from dataclasses import dataclass, field
from pathlib import Path

from turbo.config.web import WebSection


@dataclass(frozen=True, slots=True)
class WebSettings:
    """`dsn`: the role of this login decides what the page may do. `directory`: where links and sign-ins are kept.
    `listen_dsn`: where it listens, if that is another way to the database."""

    dsn: str
    directory: Path
    web: WebSection = field(default_factory=WebSection)
    listen_dsn: str = ""

    @property
    def https(self) -> bool:
        """Whether people reach the page by HTTPS: its own, or a proxy's."""
        return self.web.certfile is not None or (self.web.url or "").startswith("https://")
