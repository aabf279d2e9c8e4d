"""One process of the fleet: its command, environment and files, and how it is stopped."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

Manager = Literal["launchd", "systemd"]

STOP_MARGIN_SECONDS = 15
"""Between the end of a drain and the service manager's KILL: time to end agents and record results."""

ASSUMED_DRAIN_SECONDS = 30.0
"""The default of worker.drain_seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance(ABC):
    """A process that its host's service manager keeps running. Paths are absolute, and those of its host."""

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
    env_file: str | None
    throttle_seconds: int

    @property
    @abstractmethod
    def description(self) -> str:
        """What it is, for the service manager."""

    @property
    @abstractmethod
    def arguments(self) -> tuple[str, ...]:
        """The command, its program first."""

    @property
    @abstractmethod
    def stop_seconds(self) -> int:
        """Seconds from TERM to KILL."""

    @property
    @abstractmethod
    def logs(self) -> str:
        """Where to find its output, for a message."""

    @property
    def stderr_file(self) -> str:
        """Standard error under launchd, which appends to it."""
        return f"{self.log_dir}/{self.name}.stderr.log"

    @property
    def stderr(self) -> str:
        """Where its service manager puts standard error, for a message."""
        return self.stderr_file if self.manager == "launchd" else "`journalctl --user`"

    @property
    def environment(self) -> dict[str, str]:
        """The whole environment. Secrets are in the env file."""
        lang = "en_US.UTF-8" if self.manager == "launchd" else "C.UTF-8"
        return {"PATH": ":".join(self.path), "HOME": self.home, "LANG": lang}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInstance(Instance):
    """A `turbo worker`."""

    metrics_port: int
    slots: int | None
    queues: tuple[str, ...]
    drain_seconds: float

    @property
    def description(self) -> str:
        return f"turbo worker {self.name}"

    @property
    def log_file(self) -> str:
        """The log that the worker writes and rotates. Its standard error has errors from before this is open."""
        return f"{self.log_dir}/{self.name}.log"

    @property
    def logs(self) -> str:
        return f"{self.log_file} and {self.stderr}"

    @property
    def arguments(self) -> tuple[str, ...]:
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
    def stop_seconds(self) -> int:
        return math.ceil(self.drain_seconds) + STOP_MARGIN_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class WebInstance(Instance):
    """A `turbo web`. Its address, its certificate and who may do what are in the section web of its worker.yaml."""

    port: int | None
    read_only: bool

    @property
    def description(self) -> str:
        return "turbo web"

    @property
    def logs(self) -> str:
        return self.stderr

    @property
    def arguments(self) -> tuple[str, ...]:
        words = [self.executable, "web", "--config", self.config, "--no-link"]
        if self.port is not None:
            words += ["--port", str(self.port)]
        if self.read_only:
            words += ["--read-only"]
        if self.env_file is not None:
            words += ["--env-file", self.env_file]
        return tuple(words)

    @property
    def stop_seconds(self) -> int:
        return STOP_MARGIN_SECONDS


@dataclass(frozen=True, slots=True)
class Host:
    """A machine, or one user on it. `ssh`: how to reach it; None: this machine."""

    name: str
    manager: Manager
    ssh: str | None
    address: str
    instances: tuple[Instance, ...]
    """Its workers, then its page if it has one."""
    label: str
    """The prefix of its service names. It finds services that are installed but no longer in the file."""
    notes: tuple[str, ...] = ()
    """Remarks that are not errors."""

    @property
    def workers(self) -> tuple[WorkerInstance, ...]:
        return tuple(instance for instance in self.instances if isinstance(instance, WorkerInstance))
