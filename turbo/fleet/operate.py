"""install, start, stop, uninstall: what the operator wants of many workers, whatever manages them.

Nothing here decides by what was done before: each verb looks, and does what is missing. A stop tells all its workers before it
waits for the first, so that they drain side by side.
"""

import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import yaml

from turbo.fleet.instance import Host, Instance
from turbo.fleet.launchctl import Launchctl
from turbo.fleet.manager import Job, JobState, Manager
from turbo.fleet.model import Fleet
from turbo.fleet.remote_files import drain_seconds_in, too_little_time
from turbo.fleet.shell import DryShell, FleetError, HostShell
from turbo.fleet.systemctl import Systemctl

MANAGERS: Mapping[str, type[Manager]] = {"launchd": Launchctl, "systemd": Systemctl}
POLL_SECONDS = 0.5
START_SECONDS = 15.0
"""How long a manager may take to start a process, past the throttle."""
STEADY_SECONDS = 1.0
"""A worker whose configuration is wrong is gone sooner."""
OLD_NEWS_SECONDS = 2.0
"""So long after a start, a manager may still tell how the run before it ended."""
KILL_SECONDS = 10.0
"""Past the KILL, until the manager says so."""


def chosen(fleet: Fleet, names: Sequence[str]) -> tuple[Host, ...]:
    """The hosts that were asked for; all, where none was named. Raises LookupError with what to write."""
    known = {host.name: host for host in fleet.hosts}
    for name in names:
        if name not in known:
            raise LookupError(f"no host {name!r} in {fleet.file}; there are {', '.join(known)}")
    return tuple(known[name] for name in dict.fromkeys(names)) or fleet.hosts


def reachable(hosts: Sequence[Host]) -> None:
    """Two hosts cannot both be this machine. Raises LookupError."""
    here = [host.name for host in hosts if host.ssh is None]
    if len(here) > 1:
        raise LookupError(f"{' and '.join(here)} have no `ssh`: which of them is this machine? Give --host {here[0]}")


class Operator:
    """The hosts' managers, and what is said to the person meanwhile."""

    def __init__(self, hosts: Sequence[Host], say: Callable[[str], None], *, dry: bool = False) -> None:
        reachable(hosts)
        self.hosts = hosts
        self.say = say
        self.dry = dry
        self.managers = {
            host.name: MANAGERS[host.manager](DryShell(host, say) if dry else HostShell(host)) for host in hosts
        }

    @property
    def instances(self) -> Iterable[Instance]:
        return (one for host in self.hosts for one in host.instances)

    def manager(self, one: Instance) -> Manager:
        return self.managers[one.host]

    def tell(self, one: Instance, what: str) -> None:
        """A line about a worker; a dry run prints commands only."""
        if not self.dry:
            self.say(f"{one.name} on {one.host}: {what}")

    # ── install ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def install(self, *, prune: bool = False) -> None:
        """Put the service files there; they start at the next login or boot, or with `start`. Raises FleetError."""
        for host in self.hosts:
            manager = self.managers[host.name]
            for one in {(i.executable, i.config, i.env_file, i.drain_seconds): i for i in host.instances}.values():
                self._preflight(manager, one)
            changed = manager.install(host.instances)
            looked = manager.look([one.service for one in host.instances])
            for one in host.instances:
                job = looked[one.service]
                runs = "; it runs by the old file until `turbo fleet restart`" if job.active else ""
                self.tell(one, f"installed{runs}" if one.service in changed else "is installed")
            left = [name for name in looked if name not in {one.service for one in host.instances}]
            for name in left if prune else ():
                self._remove(manager, name, looked[name])
            if left and not prune and not self.dry:
                self.say(
                    f"{host.name}: {', '.join(left)} installed, and no longer in the fleet file; "
                    "`turbo fleet install --prune` stops and removes what is left over"
                )
            for note in manager.notes():
                self.say(note)

    def _preflight(self, manager: Manager, one: Instance) -> None:
        """Whether the worker could start as it will be started: in its bare environment, from its directory."""
        environment = " ".join(shlex.quote(f"{k}={v}") for k, v in one.environment.items())
        check = [one.executable, "config", "check", one.config, *(["--env-file", one.env_file] if one.env_file else [])]
        manager.checked(
            f"cd {shlex.quote(one.home)} && test -x {shlex.quote(one.executable)} || "
            f"{{ echo {shlex.quote(f'no program {one.executable}, or no directory {one.home}')} >&2; exit 1; }}; "
            f"env -i {environment} {shlex.join(check)}",
            f"{one.name} could not start",
        )
        there = manager.checked(f"cat {shlex.quote(one.config)}", f"cannot read {one.config}").out
        configured = None if self.dry else drain_seconds_in(yaml.safe_load(there))
        if configured is not None and configured > one.drain_seconds:
            raise FleetError(f"{one.host}: {too_little_time(one, configured)}")

    def _remove(self, manager: Manager, name: str, job: Job) -> None:
        if job.active or job.loaded:
            # Its drain is in a file that nobody has any more: wait for it as long as it takes.
            manager.begin_stop(name)
            while not self.dry and holds(manager.state(name)):
                time.sleep(POLL_SECONDS)
        manager.forget(name)
        if not self.dry:
            self.say(f"{name} on {manager.host.name}: removed")

    def uninstall(self) -> None:
        """Stop, and take the service files away. Logs and state stay. Raises FleetError."""
        self.stop()
        for host in self.hosts:
            manager = self.managers[host.name]
            looked = manager.look([one.service for one in host.instances])
            for one in host.instances:
                if self.dry or looked[one.service].state is not JobState.ABSENT:
                    manager.forget(one.service)
                    self.tell(one, "removed")

    # ── start and stop ──────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Start what does not run. Raises FleetError: what is not installed, what does not stay up."""
        started = []
        for host in self.hosts:
            manager = self.managers[host.name]
            looked = manager.look([one.service for one in host.instances])
            for one in host.instances:
                job = looked[one.service]
                self._installed(one, job)
                if job.state is JobState.RUNNING and not self.dry:
                    self.tell(one, f"runs already (pid {job.pid})")
                    continue
                manager.start(one.service)
                started.append(one)
        for one in started:
            self.tell(one, f"started (pid {self.steady(one)})")

    def _installed(self, one: Instance, job: Job) -> None:
        if job.state is JobState.ABSENT and not self.dry:
            raise FleetError(f"{one.name} is not installed on {one.host}: turbo fleet install --host {one.host}")

    def steady(self, one: Instance) -> int | None:
        """Its pid, once it has run for a moment. Raises FleetError when it ends, or is never started."""
        manager, begun = self.manager(one), time.monotonic()
        since: tuple[int | None, float] = (None, 0.0)
        while True:
            job = manager.state(one.service, JobState.RUNNING)
            if self.dry:
                return None
            now = time.monotonic()
            if job.state is JobState.RUNNING and job.pid == since[0] and now - since[1] >= STEADY_SECONDS:
                return job.pid
            another = since[0] is not None and job.pid != since[0]
            ended = job.state is not JobState.RUNNING and job.why and now - begun > OLD_NEWS_SECONDS
            if another or ended or now - begun > START_SECONDS + one.throttle_seconds:
                raise FleetError(f"{one.name} on {one.host} does not stay up{ended_how(job)}; see {one.logs} there")
            if job.state is JobState.RUNNING and since[0] is None:
                since = (job.pid, now)
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Drain all, side by side; they stay down until `start`, or the next login or boot. Raises FleetError."""
        stopping = []
        for host in self.hosts:
            manager = self.managers[host.name]
            looked = manager.look([one.service for one in host.instances])
            for one in host.instances:
                job = looked[one.service]
                if not self.dry and not holds(job):
                    self.tell(one, "is not installed" if job.state is JobState.ABSENT else "is down")
                    continue
                manager.begin_stop(one.service)
                stopping.append(one)
        for one in stopping:
            self.down(one)
            self.tell(one, "stopped")

    def down(self, one: Instance, meanwhile: Callable[[], Any] = lambda: None) -> Job:
        """Wait until its drain is over and the manager has let go of it. Raises FleetError."""
        manager, end = self.manager(one), time.monotonic() + one.stop_seconds + KILL_SECONDS
        while True:
            job = manager.state(one.service)
            if self.dry or not holds(job):
                return job
            if time.monotonic() > end:
                raise FleetError(
                    f"{one.name} on {one.host} has not stopped within {one.stop_seconds + KILL_SECONDS:.0f} s; see {one.logs} there"
                )
            meanwhile()
            time.sleep(POLL_SECONDS)


def ended_how(job: Job) -> str:
    return f" ({job.why})" if job.why else ""


def holds(job: Job) -> bool:
    """Whether a stop has something to do."""
    return job.active or job.loaded
