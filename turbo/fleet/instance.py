"""One worker process of the fleet: what is started, with which arguments and environment, and how it is stopped."""

import math
from dataclasses import dataclass
from typing import Literal

Manager = Literal["launchd", "systemd"]

STOP_MARGIN_SECONDS = 15
"""Between the end of a drain and the service manager's KILL: ended agents go, results are recorded."""

ASSUMED_DRAIN_SECONDS = 30.0
"""What a worker.yaml that says nothing means."""


@dataclass(frozen=True, slots=True)
class Instance:
    """A worker process. Paths are absolute and as the host knows them."""

    host: str
    manager: Manager
    name: str
    service: str
    """launchd's label, and systemd's unit without `.service`."""
    executable: str
    config: str
    home: str
    path: tuple[str, ...]
    log_dir: str
    metrics_port: int
    slots: int | None
    queues: tuple[str, ...]
    env_file: str | None
    drain_seconds: float
    throttle_seconds: int

    @property
    def log_file(self) -> str:
        """What the worker writes and rotates."""
        return f"{self.log_dir}/{self.name}.log"

    @property
    def stderr_file(self) -> str:
        """What Python says before the log is open. The service manager appends to it."""
        return f"{self.log_dir}/{self.name}.stderr.log"

    @property
    def logs(self) -> str:
        """Where to read what it said, in words: its own log, and where its service manager puts stderr."""
        return f"{self.log_file} and {self.stderr_file if self.manager == 'launchd' else '`journalctl --user`'}"

    @property
    def arguments(self) -> tuple[str, ...]:
        """The command, its program first."""
        words = [self.executable, "worker", "--config", self.config, "--name", self.name]
        if self.slots is not None:
            words += ["--slots", str(self.slots)]
        for queue in self.queues:
            words += ["--queue", queue]
        words += ["--metrics-port", str(self.metrics_port)]
        if self.env_file is not None:
            words += ["--env-file", self.env_file]
        return (*words, "--log-file", self.log_file)

    @property
    def environment(self) -> dict[str, str]:
        """All of it. No secret: those are in the env file."""
        lang = "en_US.UTF-8" if self.manager == "launchd" else "C.UTF-8"
        return {"PATH": ":".join(self.path), "HOME": self.home, "LANG": lang}

    @property
    def stop_seconds(self) -> int:
        """From TERM to KILL."""
        return math.ceil(self.drain_seconds) + STOP_MARGIN_SECONDS


@dataclass(frozen=True, slots=True)
class Host:
    """A machine, or one user on it. `ssh`: how to get there; None: it is this machine."""

    name: str
    manager: Manager
    ssh: str | None
    address: str
    instances: tuple[Instance, ...]
    label: str
    """How its services' names begin: so those are found that are installed and no longer in the file."""
    notes: tuple[str, ...] = ()
    """What is no error, but worth a word."""
