"""The PostgreSQL that comes with turbo: see turbo.embedded.server."""

from turbo.embedded.programs import (
    DIRECTORIES,
    NEWEST,
    PASSWORD_FILE,
    SERVER_USER,
    EmbeddedError,
    binaries,
    major,
    package,
)
from turbo.embedded.server import (
    Server,
    cluster_version,
    default_data_dir,
    free_port,
    guarded,
    running,
    start,
    temporary,
    wait_gone,
)

__all__ = [
    "DIRECTORIES",
    "NEWEST",
    "PASSWORD_FILE",
    "SERVER_USER",
    "EmbeddedError",
    "Server",
    "binaries",
    "cluster_version",
    "default_data_dir",
    "free_port",
    "guarded",
    "major",
    "package",
    "running",
    "start",
    "temporary",
    "wait_gone",
]
