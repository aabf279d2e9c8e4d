"""One worker process of the fleet: its command, environment and files, and how it is stopped."""

import math
from dataclasses import dataclass
from typing import Literal

Manager = Literal["launchd", "systemd"]

STOP_MARGIN_SECONDS = 15
"""Between the end of a drain and the service manager's KILL: time to end agents and record results."""

ASSUMED_DRAIN_SECONDS = 30.0
"""The default of worker.drain_seconds."""


@dataclass(frozen=True, slots=True)
class Instance:
    """A worker process. Paths are absolute, and those of its host."""

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
        """The log that the worker writes and rotates."""
        return f"{self.log_dir}/{self.name}.log"

    @property
    def stderr_file(self) -> str:
        """Standard error, for errors before the log is open. The service manager appends to it."""
        return f"{self.log_dir}/{self.name}.stderr.log"

    @property
    def logs(self) -> str:
        """Where to find its output, for a message: its log, and its service manager's stderr."""
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
        """The whole environment. Secrets are in the env file."""
        lang = "en_US.UTF-8" if self.manager == "launchd" else "C.UTF-8"
        return {"PATH": ":".join(self.path), "HOME": self.home, "LANG": lang}

    @property
    def stop_seconds(self) -> int:
        """Seconds from TERM to KILL."""
        return math.ceil(self.drain_seconds) + STOP_MARGIN_SECONDS


@dataclass(frozen=True, slots=True)
class Host:
    """A machine, or one user on it. `ssh`: how to reach it; None: this machine."""

    name: str
    manager: Manager
    ssh: str | None
    address: str
    instances: tuple[Instance, ...]
    label: str
    """The prefix of its service names. It finds services that are installed but no longer in the file."""
    notes: tuple[str, ...] = ()
    """Remarks that are not errors."""
