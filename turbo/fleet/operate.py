"""install, start, stop, uninstall: commands for many workers and pages, with any service manager.

Each verb reads the current state and does what is missing; it keeps no state between commands. A stop signals all workers
before it waits for the first, so that they drain in parallel.
"""

import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import yaml

from turbo.fleet.instance import Host, Instance, WorkerInstance
from turbo.fleet.launchctl import Launchctl
from turbo.fleet.manager import Job, JobState, Manager
from turbo.fleet.model import Fleet
from turbo.fleet.remote_files import drain_seconds_in, too_little_time
from turbo.fleet.shell import DryShell, FleetError, HostShell
from turbo.fleet.systemctl import Systemctl

MANAGERS: Mapping[str, type[Manager]] = {"launchd": Launchctl, "systemd": Systemctl}
POLL_SECONDS = 0.5
START_SECONDS = 15.0
"""How long a manager may take to start a process, beyond the throttle."""
STEADY_SECONDS = 1.0
"""A worker with a wrong configuration exits sooner than this."""
STALE_SECONDS = 2.0
"""For this long after a start, a manager may still report how the previous run ended."""
KILL_SECONDS = 10.0
"""After the KILL, how long the manager may take to report the end."""


def chosen(fleet: Fleet, names: Sequence[str]) -> tuple[Host, ...]:
    """The named hosts, or all if none is named. Raises LookupError for an unknown name."""
    known = {host.name: host for host in fleet.hosts}
    for name in names:
        if name not in known:
            raise LookupError(f"no host {name!r} in {fleet.file}; known: {', '.join(known)}")
    return tuple(known[name] for name in dict.fromkeys(names)) or fleet.hosts


def reachable(hosts: Sequence[Host]) -> None:
    """Two hosts cannot both be this machine. Raises LookupError."""
    here = [host.name for host in hosts if host.ssh is None]
    if len(here) > 1:
        raise LookupError(
            f"{' and '.join(here)} have no `ssh`, but only one can be this machine: give --host {here[0]}"
        )


class Operator:
    """The hosts' managers, and the reports of progress."""

    def __init__(self, hosts: Sequence[Host], report: Callable[[str], None], *, dry: bool = False) -> None:
        reachable(hosts)
        self.hosts = hosts
        self.report = report
        self.dry = dry
        self.managers = {
            host.name: MANAGERS[host.manager](DryShell(host, report) if dry else HostShell(host)) for host in hosts
        }

    @property
    def instances(self) -> Iterable[Instance]:
        return (instance for host in self.hosts for instance in host.instances)

    def manager(self, instance: Instance) -> Manager:
        return self.managers[instance.host]

    def report_on(self, instance: Instance, what: str) -> None:
        """Report a line about a worker; a dry run prints commands only."""
        if not self.dry:
            self.report(f"{instance.name} on {instance.host}: {what}")

    # ── install ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def install(self, *, prune: bool = False) -> None:
        """Write the service files; workers start at the next login or boot, or with `start`. Raises FleetError."""
        for host in self.hosts:
            manager = self.managers[host.name]
            for instance in {(i.executable, i.config, i.env_file, i.stop_seconds): i for i in host.instances}.values():
                self._preflight(manager, instance)
            changed = manager.install(host.instances)
            jobs = manager.jobs([instance.service for instance in host.instances])
            for instance in host.instances:
                job = jobs[instance.service]
                runs = "; it runs with the old file until `turbo fleet restart`" if job.active else ""
                self.report_on(instance, f"installed{runs}" if instance.service in changed else "already installed")
            left = [name for name in jobs if name not in {instance.service for instance in host.instances}]
            for name in left if prune else ():
                self._remove(manager, name, jobs[name])
            if left and not prune and not self.dry:
                self.report(
                    f"{host.name}: {', '.join(left)} installed but no longer in the fleet file; "
                    "`turbo fleet install --prune` stops and removes them"
                )
            for note in manager.notes():
                self.report(note)

    def _preflight(self, manager: Manager, instance: Instance) -> None:
        """Check that the worker can start, in its bare environment and from its directory. Raises FleetError."""
        environment = " ".join(shlex.quote(f"{k}={v}") for k, v in instance.environment.items())
        check = [
            instance.executable,
            "config",
            "check",
            instance.config,
            *(["--env-file", instance.env_file] if instance.env_file else []),
        ]
        manager.checked(
            f"cd {shlex.quote(instance.home)} && test -x {shlex.quote(instance.executable)} || "
            f"{{ echo {shlex.quote(f'no program {instance.executable}, or no directory {instance.home}')} >&2; exit 1; }}; "
            f"env -i {environment} {shlex.join(check)}",
            f"{instance.name} cannot start",
        )
        if not isinstance(instance, WorkerInstance):
            return
        there = manager.checked(f"cat {shlex.quote(instance.config)}", f"cannot read {instance.config}").out
        configured = None if self.dry else drain_seconds_in(yaml.safe_load(there))
        if configured is not None and configured > instance.drain_seconds:
            raise FleetError(f"{instance.host}: {too_little_time(instance, configured)}")

    def _remove(self, manager: Manager, name: str, job: Job) -> None:
        if job.active or job.loaded:
            # The file with its drain time is gone, so wait without a limit.
            manager.begin_stop(name)
            while not self.dry and holds(manager.state(name)):
                time.sleep(POLL_SECONDS)
        manager.forget(name)
        if not self.dry:
            self.report(f"{name} on {manager.host.name}: removed")

    def uninstall(self) -> None:
        """Stop, and remove the service files. Logs and state stay. Raises FleetError."""
        self.stop()
        for host in self.hosts:
            manager = self.managers[host.name]
            jobs = manager.jobs([instance.service for instance in host.instances])
            for instance in host.instances:
                if self.dry or jobs[instance.service].state is not JobState.ABSENT:
                    manager.forget(instance.service)
                    self.report_on(instance, "removed")

    # ── start and stop ──────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Start the workers that are not running. Raises FleetError for one that is not installed or does not stay up."""
        started = []
        for host in self.hosts:
            manager = self.managers[host.name]
            jobs = manager.jobs([instance.service for instance in host.instances])
            for instance in host.instances:
                job = jobs[instance.service]
                self._installed(instance, job)
                if job.state is JobState.RUNNING and not self.dry:
                    self.report_on(instance, f"already running (pid {job.pid})")
                    continue
                manager.start(instance.service)
                started.append(instance)
        for instance in started:
            self.report_on(instance, f"started (pid {self.steady(instance)})")

    def _installed(self, instance: Instance, job: Job) -> None:
        if job.state is JobState.ABSENT and not self.dry:
            raise FleetError(
                f"{instance.name} is not installed on {instance.host}: turbo fleet install --host {instance.host}"
            )

    def steady(self, instance: Instance) -> int | None:
        """Its pid, once it has run for STEADY_SECONDS. Raises FleetError if it ends or never starts."""
        manager, begun = self.manager(instance), time.monotonic()
        since: tuple[int | None, float] = (None, 0.0)
        while True:
            job = manager.state(instance.service, JobState.RUNNING)
            if self.dry:
                return None
            now = time.monotonic()
            if job.state is JobState.RUNNING and job.pid == since[0] and now - since[1] >= STEADY_SECONDS:
                return job.pid
            another = since[0] is not None and job.pid != since[0]
            ended = job.state is not JobState.RUNNING and job.why and now - begun > STALE_SECONDS
            if another or ended or now - begun > START_SECONDS + instance.throttle_seconds:
                raise FleetError(
                    f"{instance.name} on {instance.host} does not stay up{ended_how(job)}; see {instance.logs} there"
                )
            if job.state is JobState.RUNNING and since[0] is None:
                since = (job.pid, now)
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Drain all in parallel; they stay down until `start`, or the next login or boot. Raises FleetError."""
        stopping = []
        for host in self.hosts:
            manager = self.managers[host.name]
            jobs = manager.jobs([instance.service for instance in host.instances])
            for instance in host.instances:
                job = jobs[instance.service]
                if not self.dry and not holds(job):
                    self.report_on(instance, "is not installed" if job.state is JobState.ABSENT else "is down")
                    continue
                manager.begin_stop(instance.service)
                stopping.append(instance)
        for instance in stopping:
            self.down(instance)
            self.report_on(instance, "stopped")

    def down(self, instance: Instance, meanwhile: Callable[[], Any] = lambda: None) -> Job:
        """Wait until the drain has ended and the manager has unloaded the service. Raises FleetError."""
        manager, end = self.manager(instance), time.monotonic() + instance.stop_seconds + KILL_SECONDS
        while True:
            job = manager.state(instance.service)
            if self.dry or not holds(job):
                return job
            if time.monotonic() > end:
                raise FleetError(
                    f"{instance.name} on {instance.host} has not stopped within "
                    f"{instance.stop_seconds + KILL_SECONDS:.0f} s; see {instance.logs} there"
                )
            meanwhile()
            time.sleep(POLL_SECONDS)


def ended_how(job: Job) -> str:
    return f" ({job.why})" if job.why else ""


def holds(job: Job) -> bool:
    """Whether there is anything to stop."""
    return job.active or job.loaded
