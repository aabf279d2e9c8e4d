"""What a service manager does for turbo. launchctl.py and systemctl.py are the two there are.

    absent ──install──▶ down ──start──▶ running ──begin_stop──▶ (stopping) ──▶ down
                          ▲ exit 0         │ any other end
                          └────────────────┴──▶ waiting, for the throttle ──▶ running

Every verb is idempotent: it says what is wanted, and does what is missing. `begin_stop` returns at once: a drain takes as long
as it takes, and `look` tells how it stands.
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
"""Begins a line of ours in what a script prints."""


class JobState(StrEnum):
    ABSENT = "absent"  # no file
    DOWN = "down"
    WAITING = "waiting"  # ended badly; started again after the throttle
    RUNNING = "running"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Job:
    """What the manager says of a service. `why`: how its last run ended, where that was no success. `file`: what is installed.
    `loaded`: launchd still has its label, and refuses it a second time."""

    state: JobState
    pid: int | None = None
    why: str = ""
    file: str | None = None
    loaded: bool = False

    @property
    def active(self) -> bool:
        """Something of it runs, or will without being asked."""
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
        """Where service files are."""

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
        """A service that is down goes, its file last. Raises FleetError."""

    @abstractmethod
    def _states(self, names: Sequence[str]) -> dict[str, Job]:
        """What the manager says of each; never ABSENT. Raises FleetError."""

    def notes(self) -> list[str]:
        """What about this host will be a surprise later."""
        return []

    # ── what is the same for both ───────────────────────────────────────────────────────────────────────────────────

    def jobs(self, names: Sequence[str]) -> dict[str, Job]:
        """Every service named, and every other one on the host that has the fleet's label. Raises FleetError."""
        files = self.files()
        everything = list(dict.fromkeys([*names, *files]))
        states = self._states(everything) if everything else {}
        jobs = {}
        for name, job in states.items():
            absent = name not in files and not job.active
            jobs[name] = Job(JobState.ABSENT) if absent else replace(job, file=files.get(name))
        return jobs

    def state(self, name: str, assume: JobState = JobState.DOWN) -> Job:
        """One service's; a dry run takes it for `assume`. Raises FleetError."""
        states = self._states([name])
        return Job(assume) if self.shell.dry else states[name]

    def files(self) -> dict[str, str]:
        """The installed services with the fleet's label, and what their files hold."""
        pattern = f"{self.host.label}.*{self.suffix}"
        done = self.run(
            f"cd {shlex.quote(self.directory)} 2>/dev/null || exit 0; "
            f'for f in {pattern}; do test -f "$f" || continue; echo; echo \'{MARK}\'"$f"; cat "$f"; done'
        )
        files = {name.removesuffix(self.suffix): text for name, text in sections(done.out).items()}
        return {name: text for name, text in files.items() if NAME.fullmatch(name)}

    def install(self, instances: Sequence[Instance]) -> list[str]:
        """Put the files there that are missing or differ. Returns the services written."""
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
        """Raises FleetError unless it succeeds; `what` begins the message."""
        done = self.run(line, stdin=stdin)
        if done.code != 0:
            raise FleetError(f"{self.host.name}: {what}: {done.complaint}")
        return done


def sections(text: str) -> Mapping[str, str]:
    """Output cut at the MARK lines: what follows each, under what it names. The line break before a MARK is the script's."""
    parts: dict[str, str] = {}
    for part in ("\n" + text).split(f"\n{MARK}")[1:]:
        name, _, rest = part.partition("\n")
        parts[name] = rest
    return parts
