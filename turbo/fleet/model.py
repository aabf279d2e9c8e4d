"""fleet.yaml: hosts, the workers on them, and what they have in common.

    defaults ──▶ host ──▶ worker      (the nearest level that sets a key wins)

A host may override any default (another home, another PATH), a worker those that concern it. `~/` is the host's home. The
file is checked before anything is rendered: paths are absolute, names and ports are unique, there are no secrets, and every
worker has at least as much time to stop as its worker.yaml allows for a drain.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from turbo.config.loader import Document, Real, Section, Whole, load
from turbo.config.worker import queue_names
from turbo.domain.finding import Finding, fail
from turbo.fleet.instance import ASSUMED_DRAIN_SECONDS, Host, Instance, WebInstance, WorkerInstance
from turbo.fleet.remote_files import env_file_problem, too_little_time, worker_drain_seconds
from turbo.fleet.secrets import secrets

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
SSH = re.compile(
    r"(?:ssh://)?(?:[A-Za-z0-9_][A-Za-z0-9._-]*@)?(?P<host>[A-Za-z0-9_][A-Za-z0-9._-]*|\[[0-9A-Fa-f:]+\])(?::\d+)?/?"
)
FIRST_PORT = 9464

LOG_DIR = {"launchd": "~/Library/Logs/turbo", "systemd": "~/.local/state/turbo/log"}
PATHS = {
    "launchd": ("/opt/homebrew/bin", "/usr/local/bin", "/usr/bin", "/bin"),
    "systemd": ("/usr/local/bin", "/usr/bin", "/bin"),
}


def _absolute(path: str | None) -> str | None:
    if path is None:
        return None
    if not path.startswith(("/", "~/")):
        raise ValueError(f"{path!r} is not absolute: a service manager has no working directory; write /… or ~/…")
    if not path.isprintable():
        raise ValueError("has a control character")
    return path.rstrip("/") or "/"


def _plain(name: str | None) -> str | None:
    if name is not None and not NAME.fullmatch(name):
        raise ValueError(f"{name!r}: letters, digits, dot, _ and -, a letter or digit first (it becomes a file's name)")
    return name


class ServiceDefaults(Section):
    """Keys of a worker or a page that its host or the defaults may also set."""

    config: str | None = Field(default=None, description="Path of worker.yaml on the host. Required at some level.")
    env_file: str | None = Field(
        default=None,
        description="File with the service's TURBO_DSN, TURBO_LISTEN_DSN or PG* variables: KEY=VALUE lines, mode 0600.",
    )
    restart_throttle_seconds: Annotated[Whole, Field(ge=1, le=86_400)] | None = Field(
        default=None, description="Minimum time between two starts after a crash. null: 10."
    )

    _paths = field_validator("config", "env_file")(lambda v: _absolute(v))


class WorkerDefaults(ServiceDefaults):
    """Keys of a worker that its host or the defaults may also set."""

    drain_seconds: Annotated[Real, Field(ge=0, le=604_800)] | None = Field(
        default=None, description="How long a stop waits for running tasks. null: as in worker.yaml."
    )


class HostDefaults(WorkerDefaults):
    executable: str | None = Field(
        default=None, description="Path of the turbo program on the host. Required at some level."
    )
    label: str | None = Field(
        default=None, description="Prefix of the service names, label.worker. null: com.agent-turbo."
    )
    log_dir: str | None = Field(
        default=None,
        description="Directory of the workers' logs. null: ~/Library/Logs/turbo, ~/.local/state/turbo/log.",
    )
    home: str | None = Field(
        default=None, description="HOME of the workers; ~/ in this file means this directory. Required at some level."
    )
    path: list[str] | None = Field(default=None, min_length=1, description="PATH of the workers and their agents.")

    _host_paths = field_validator("executable", "log_dir")(lambda v: _absolute(v))
    _label = field_validator("label")(lambda v: _plain(v))

    @field_validator("home")
    @classmethod
    def _home(cls, home: str | None) -> str | None:
        if home is not None and not home.startswith("/"):
            raise ValueError(f"{home!r} is not absolute: write /…")
        return _absolute(home)

    @field_validator("path")
    @classmethod
    def _path(cls, path: list[str] | None) -> list[str] | None:
        for part in path or []:
            if ":" in part:
                raise ValueError(f"{part!r} contains a colon: write one directory per item")
        return path and [str(_absolute(part)) for part in path]


class WorkerEntry(WorkerDefaults):
    name: str = Field(description="Part of the worker id; with a count, name-1, name-2, …")
    count: Whole = Field(default=1, ge=1, le=1000, description="Number of processes.")
    slots: Annotated[Whole, Field(ge=1, le=1000)] | None = Field(
        default=None, description="Slots of each process. null: as in worker.yaml."
    )
    metrics_port: Whole = Field(
        default=FIRST_PORT,
        ge=1,
        le=65535,
        description="Metrics port of the first process; the others use the next ports.",
    )
    queues: list[str] | None = Field(
        default=None, min_length=1, description="Queues to serve. null: as in worker.yaml."
    )

    _name = field_validator("name")(lambda v: _plain(v))

    _queues = field_validator("queues")(lambda v: v and queue_names(v))

    @property
    def names(self) -> list[str]:
        return [self.name] if self.count == 1 else [f"{self.name}-{i}" for i in range(1, self.count + 1)]


class WebEntry(ServiceDefaults):
    """The page of a host: `web: {}` is enough. What else it needs is in the section web of its worker.yaml."""

    name: str = Field(default="web", description="Its service is label.name.")
    port: Annotated[Whole, Field(ge=1, le=65535)] | None = Field(
        default=None, description="Its port. null: as in worker.yaml."
    )
    read_only: bool = Field(default=False, description="Show everything, and change nothing.")

    _web_name = field_validator("name")(lambda v: _plain(v))


class HostSection(HostDefaults):
    manager: Literal["launchd", "systemd"] = Field(description="The host's service manager.")
    ssh: str | None = Field(default=None, description="[user@]host, as ssh knows it. null: this machine.")
    address: str | None = Field(
        default=None, description="Address for Prometheus. null: the ssh host, else 127.0.0.1 or the host's name."
    )
    workers: list[WorkerEntry] = Field(min_length=1, description="The worker processes on the host.")
    web: WebEntry | None = Field(default=None, description="The web page, served from this host. null: none.")

    @field_validator("ssh")
    @classmethod
    def _ssh(cls, ssh: str | None) -> str | None:
        if ssh is not None and not SSH.fullmatch(ssh):
            raise ValueError("write [user@]host or ssh://[user@]host:port; all else belongs in ~/.ssh/config")
        return ssh

    @field_validator("address")
    @classmethod
    def _address(cls, address: str | None) -> str | None:
        if address is not None and not re.fullmatch(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]", address):
            raise ValueError(f"{address!r}: write a host's name or address, without a port")
        return address


@dataclass(frozen=True, slots=True)
class Fleet:
    """A checked fleet file."""

    file: Path
    hosts: tuple[Host, ...]


class FleetConfig(Document):
    """fleet.yaml. Seconds and counts; paths are those of the hosts."""

    defaults: HostDefaults = Field(default=HostDefaults(), description="Defaults for hosts and workers.")
    hosts: dict[str, HostSection] = Field(min_length=1, description="Hosts by name: a machine, or one user on it.")

    @classmethod
    def other_kind(cls, keys: Collection[str], path: Path) -> str | None:
        if "executors" not in keys or "hosts" in keys:
            return None
        return (
            f"is a worker's file: turbo worker --config {path}; a fleet file has hosts "
            "(config/fleet.yaml is an example)"
        )

    @field_validator("hosts")
    @classmethod
    def _host_names(cls, hosts: dict[str, HostSection]) -> dict[str, HostSection]:
        for name in hosts:
            _plain(name)
        return hosts

    def problems(self) -> list[Finding]:
        findings = [p for name, host in self.hosts.items() for p in self._about(name, host)]
        return list(dict.fromkeys(findings))

    def _about(self, name: str, host: HostSection) -> Iterator[Finding]:
        at = f"hosts.{name}"
        for key in ("executable", "home"):
            if getattr(host, key) is None and getattr(self.defaults, key) is None:
                yield fail(f"{key} is missing: write defaults.{key}, or {at}.{key}", subject=at)
        names: dict[str, str] = {}
        ports: dict[int, str] = {}
        for i, worker in enumerate(host.workers):
            where = f"{at}.workers.{i}"
            if worker.config is None and host.config is None and self.defaults.config is None:
                yield fail(f"config is missing: write defaults.config, or {at}.config", subject=at)
            last = worker.metrics_port + worker.count - 1
            if last > 65535:
                what = f"{worker.count} workers from {worker.metrics_port} on exceed port 65535"
                yield fail(what, subject=f"{where}.metrics_port")
            for port, worker_name in enumerate(worker.names, worker.metrics_port):
                if worker_name.casefold() in names:  # they would share a file; a Mac's file names ignore case
                    yield fail(f"{worker_name!r} is the name of two workers of {name}", subject=f"{where}.name")
                elif port in ports:
                    what = f"{port} is given to both {ports[port]} and {worker_name}; each worker needs its own port"
                    yield fail(what, subject=f"{where}.metrics_port")
                names[worker_name.casefold()] = worker_name
                ports.setdefault(port, worker_name)
            for instance in self._resolved(name, host, worker)[:1]:
                yield from env_file_problem(
                    self._where("env_file", name, host.workers[i], f"workers.{i}"), instance.env_file
                )
                configured = worker_drain_seconds(Path(instance.config))
                if configured is not None and configured > instance.drain_seconds:
                    where_set = self._where("drain_seconds", name, worker, f"workers.{i}")
                    yield fail(too_little_time(instance, configured), subject=where_set)
        if host.web is not None:
            yield from self._about_web(name, host, host.web, names, ports)

    def _about_web(
        self, name: str, host: HostSection, web: WebEntry, names: dict[str, str], ports: dict[int, str]
    ) -> Iterator[Finding]:
        at = f"hosts.{name}.web"
        if web.config is None and host.config is None and self.defaults.config is None:
            yield fail(f"config is missing: write defaults.config, or {at}.config", subject=at)
        if web.name.casefold() in names:
            yield fail(f"{web.name!r} is the name of a worker of {name}, too", subject=f"{at}.name")
        if web.port in ports:
            what = f"{web.port} is the metrics port of {ports[web.port]}; the page needs its own"
            yield fail(what, subject=f"{at}.port")
        for instance in self._page(name, host):
            yield from env_file_problem(self._where("env_file", name, web, "web"), instance.env_file)

    def resolve(self, file: Path) -> Fleet:
        """Hosts and instances, with every default filled in. Call it when `problems` is empty."""
        local = [name for name, host in self.hosts.items() if host.ssh is None]
        hosts = []
        for name, host in self.hosts.items():
            instances: list[Instance] = []
            notes: list[str] = []
            for worker in host.workers:
                instances += self._resolved(name, host, worker)
                if self._drain(host, worker, instances[-1].config)[1]:
                    notes.append(
                        f"{worker.name} on {name}: the drain of {instances[-1].config} is not known here, "
                        f"{ASSUMED_DRAIN_SECONDS:.0f} s is assumed; set drain_seconds"
                    )
            instances += self._page(name, host)
            label = str(self._setting("label", host) or "com.agent-turbo")
            hosts.append(
                Host(name, host.manager, host.ssh, _address(name, host, local), tuple(instances), label, tuple(notes))
            )
        return Fleet(file, tuple(hosts))

    def _setting(self, key: str, *nearest_first: Section) -> object:
        for section in (*nearest_first, self.defaults):
            value = getattr(section, key, None)
            if value is not None:
                return value
        return None

    def _where(self, key: str, name: str, entry: ServiceDefaults, at: str) -> str:
        """The key path that sets `key` of the worker or page at hosts.NAME.AT."""
        host = self.hosts[name]
        if getattr(entry, key) is not None:
            return f"hosts.{name}.{at}.{key}"
        return f"hosts.{name}.{key}" if getattr(host, key) is not None else f"defaults.{key}"

    def _drain(self, host: HostSection, worker: WorkerEntry, config: str) -> tuple[float, bool]:
        """The worker's drain in seconds, and whether it is only assumed."""
        configured = self._setting("drain_seconds", worker, host)
        if isinstance(configured, int | float):
            return float(configured), False
        from_worker_file = worker_drain_seconds(Path(config))
        return (ASSUMED_DRAIN_SECONDS, True) if from_worker_file is None else (from_worker_file, False)

    def _common(self, name: str, host: HostSection, entry: ServiceDefaults) -> dict[str, Any] | None:
        """What all processes of an entry have in common: fields of Instance. None while a required key is missing."""
        home, executable = self._setting("home", host), self._setting("executable", host)
        config = self._setting("config", entry, host)
        if home is None or executable is None or config is None:
            return None

        def there(path: object) -> str:
            return re.sub(r"^~(?=/)", lambda _: str(home).rstrip("/"), str(path))

        env_file = self._setting("env_file", entry, host)
        path = self._setting("path", host) or PATHS[host.manager]
        assert isinstance(path, list | tuple)
        return {
            "host": name,
            "manager": host.manager,
            "executable": there(executable),
            "config": there(config),
            "home": str(home),
            "path": tuple(there(part) for part in path),
            "log_dir": there(self._setting("log_dir", host) or LOG_DIR[host.manager]),
            "env_file": None if env_file is None else there(env_file),
            "throttle_seconds": int(str(self._setting("restart_throttle_seconds", entry, host) or 10)),
        }

    def _service(self, host: HostSection, name: str) -> str:
        return f"{self._setting('label', host) or 'com.agent-turbo'}.{name}"

    def _resolved(self, name: str, host: HostSection, worker: WorkerEntry) -> list[WorkerInstance]:
        """The worker's instances; none while a required key is missing."""
        common = self._common(name, host, worker)
        if common is None:
            return []
        return [
            WorkerInstance(
                **common,
                name=worker_name,
                service=self._service(host, worker_name),
                metrics_port=port,
                slots=worker.slots,
                queues=tuple(worker.queues or ()),
                drain_seconds=self._drain(host, worker, common["config"])[0],
            )
            for port, worker_name in enumerate(worker.names, worker.metrics_port)
        ]

    def _page(self, name: str, host: HostSection) -> list[WebInstance]:
        """The host's page; none if it has none, or while a required key is missing."""
        web = host.web
        common = None if web is None else self._common(name, host, web)
        if web is None or common is None:
            return []
        service = self._service(host, web.name)
        return [WebInstance(**common, name=web.name, service=service, port=web.port, read_only=web.read_only)]


def load_fleet(file: Path) -> Fleet:
    """Read and check a fleet.yaml. Raises ConfigError: one message, one line per problem."""
    return load(file, FleetConfig, written=secrets, expanded=secrets).resolve(file)


def _address(name: str, host: HostSection, local: list[str]) -> str:
    if host.address is not None:
        return host.address
    if host.ssh is not None and (match := SSH.fullmatch(host.ssh)):
        return match["host"]
    return "127.0.0.1" if local == [name] else name
