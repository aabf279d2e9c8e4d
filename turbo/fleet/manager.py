"""The interface of a service manager. launchctl.py and systemctl.py implement it.

    absent ──install──▶ down ──start──▶ running ──begin_stop──▶ (stopping) ──▶ down
                          ▲ exit 0         │ any other end
                          └────────────────┴──▶ waiting, for the throttle ──▶ running

Every verb is idempotent: it names the desired state and does what is missing. `begin_stop` returns at once; `state` and `jobs`
show when the drain has ended.
"""

import shlex
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import ClassVar

from turbo.fleet.instance import Instance
from turbo.fleet.model import NAME
from turbo.fleet.render import service_file
from turbo.fleet.shell import Done, FleetError, Shell

MARK = "@@turbo "
"""Starts a marker line in the output of a script."""


class JobState(StrEnum):
    ABSENT = "absent"  # no file
    DOWN = "down"
    WAITING = "waiting"  # failed; started again after the throttle
    RUNNING = "running"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Job:
    """The manager's view of a service. `why`: how its last run failed. `file`: the installed service file. `loaded`: launchd
    still has its label, and would reject it a second time."""

    state: JobState
    pid: int | None = None
    why: str = ""
    file: str | None = None
    loaded: bool = False

    @property
    def active(self) -> bool:
        """Whether it runs, or will be started without a command."""
        return self.state in (JobState.WAITING, JobState.RUNNING, JobState.STOPPING)


class Manager(ABC):
    """The service manager of one host."""

    program: ClassVar[str]
    suffix: ClassVar[str]
    below_home: ClassVar[str]

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        self.host = shell.host
        self.directory = f"{self.host.instances[0].home.rstrip('/')}/{self.below_home}"
        """The directory of the service files."""

    @abstractmethod
    def start(self, name: str) -> None:
        """Start it unless it runs. Raises FleetError."""

    @abstractmethod
    def begin_stop(self, name: str) -> None:
        """Send TERM, and keep it down; a drain may follow. Raises FleetError."""

    @abstractmethod
    def registered(self, names: Sequence[str]) -> None:
        """The files of these services are new or changed. Raises FleetError."""

    @abstractmethod
    def forget(self, name: str) -> None:
        """Remove a service that is down, its file last. Raises FleetError."""

    @abstractmethod
    def _states(self, names: Sequence[str]) -> dict[str, Job]:
        """The manager's view of each; never ABSENT. Raises FleetError."""

    def notes(self) -> list[str]:
        """Remarks about this host's configuration: `problem; remedy`."""
        return []

    # ── common to both ───────────────────────────────────────────────────────────────────────────────────

    def jobs(self, names: Sequence[str]) -> dict[str, Job]:
        """The named services, and every other service on the host with the fleet's label. Raises FleetError."""
        files = self.files()
        everything = list(dict.fromkeys([*names, *files]))
        states = self._states(everything) if everything else {}
        jobs = {}
        for name, job in states.items():
            absent = name not in files and not job.active
            jobs[name] = Job(JobState.ABSENT) if absent else replace(job, file=files.get(name))
        return jobs

    def state(self, name: str, assume: JobState = JobState.DOWN) -> Job:
        """The state of one service; a dry run returns `assume`. Raises FleetError."""
        states = self._states([name])
        return Job(assume) if self.shell.dry else states[name]

    def files(self) -> dict[str, str]:
        """The installed services with the fleet's label, and the contents of their files."""
        pattern = f"{self.host.label}.*{self.suffix}"
        done = self.run(
            f"cd {shlex.quote(self.directory)} 2>/dev/null || exit 0; "
            f'for f in {pattern}; do test -f "$f" || continue; echo; echo \'{MARK}\'"$f"; cat "$f"; done'
        )
        files = {name.removesuffix(self.suffix): text for name, text in sections(done.out).items()}
        return {name: text for name, text in files.items() if NAME.fullmatch(name)}

    def install(self, instances: Sequence[Instance]) -> list[str]:
        """Write the service files that are missing or differ. Returns the services written."""
        there = self.files()
        changed = []
        for instance in instances:
            name, text = service_file(instance)
            if there.get(instance.service) == text:
                continue
            new = shlex.quote(f"{self.directory}/.{name}.new")
            self.checked(
                f"umask 022; mkdir -p {shlex.quote(self.directory)} && cat >{new} && mv {new} {self.path(instance.service)}",
                f"cannot write {self.directory}/{name}",
                stdin=text,
            )
            changed.append(instance.service)
        for log_dir in dict.fromkeys(instance.log_dir for instance in instances):
            self.checked(f"umask 077; mkdir -p {shlex.quote(log_dir)}", f"cannot make {log_dir}")
        self.registered([instance.service for instance in instances])
        return changed

    def path(self, name: str) -> str:
        """A service's file, quoted for sh."""
        return shlex.quote(f"{self.directory}/{name}{self.suffix}")

    def run(self, line: str, *, stdin: str | None = None, assume: Done = Done()) -> Done:  # noqa: B008 - frozen
        return self.shell.run(line, stdin=stdin, assume=assume)

    def checked(self, line: str, what: str, *, stdin: str | None = None) -> Done:
        """Run it. Raises FleetError unless it succeeds; `what` starts the message."""
        done = self.run(line, stdin=stdin)
        if done.code != 0:
            raise FleetError(f"{self.host.name}: {what}: {done.complaint}")
        return done


def sections(text: str) -> Mapping[str, str]:
    """Output split at the MARK lines: name → the text that follows. The line break before a MARK comes from the script."""
    parts: dict[str, str] = {}
    for part in ("\n" + text).split(f"\n{MARK}")[1:]:
        name, _, rest = part.partition("\n")
        parts[name] = rest
    return parts
