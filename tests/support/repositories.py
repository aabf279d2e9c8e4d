"""Real git repositories for tests of workspaces, and the truth about whether a person's checkout was touched."""

import asyncio
import contextlib
import hashlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.waiting import until
from turbo.domain.outcome import Outcome
from turbo.domain.run import Run, StopSignal
from turbo.domain.task import Task
from turbo.executors.checks.loop import Checks
from turbo.executors.command import CommandExecutor
from turbo.host.state_dir import StateDir
from turbo.process.journal import Journal
from turbo.workspaces.area import Exclusive, no_lock
from turbo.workspaces.worktrees import Worktrees, WorktreeSettings

OWN = Path(__file__).parents[2]

IDENTITY = {
    "GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@example.org",
}  # fmt: skip


def git(where: Path, *arguments: str, **variables: str) -> str:
    """git as a person runs it. Raises CalledProcessError."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    done = subprocess.run(
        ["git", "-C", where, *arguments], env=clean | IDENTITY | variables, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def repository(path: Path, **files: str) -> Path:
    """A repository with one commit on `main`."""
    path.mkdir(parents=True)
    git(path, "init", "--quiet", "--initial-branch=main")
    commit(path, "first", **({"readme": "hello\n"} | files))
    return path


def commit(path: Path, message: str, **files: str) -> str:
    for name, text in files.items():
        (path / name).write_text(text)
    git(path, "add", "--all")
    git(path, "commit", "--quiet", "--message", message)
    return git(path, "rev-parse", "HEAD")


def own_clone(path: Path) -> Path:
    """A clone of turbo's own repository, with a branch checked out and something unfinished lying about."""
    git(OWN, "clone", "--quiet", "--no-hardlinks", str(OWN), str(path))
    git(path, "switch", "--quiet", "--create", "my-work")
    (path / "README.md").write_text("half a thought")
    (path / "new").write_text("not added")
    (path / "staged").write_text("added, not committed")
    git(path, "add", "staged")
    return path


def checkout(repo: Path) -> Mapping[str, str]:
    """Everything that is a person's in a checkout, by hash: files, index, HEAD, configuration, and every ref that turbo did
    not make."""
    git_dir = Path(git(repo, "rev-parse", "--absolute-git-dir"))
    files = hashlib.sha256()
    for path in sorted(p for p in repo.rglob("*") if git_dir not in (p, *p.parents)):
        files.update(f"{path.relative_to(repo)}\0{path.lstat().st_mode}\0".encode())
        files.update(path.read_bytes() if path.is_file() else b"")
    refs = git(repo, "for-each-ref", "--format=%(refname) %(objectname)").splitlines()
    return {
        "files": files.hexdigest(),
        "index": hashlib.sha256((git_dir / "index").read_bytes()).hexdigest(),
        "HEAD": (git_dir / "HEAD").read_text(),
        "config": (git_dir / "config").read_text(),
        "refs": "\n".join(ref for ref in refs if not ref.startswith("refs/heads/turbo/")),
        "reflog": (git_dir / "logs" / "HEAD").read_text() if (git_dir / "logs" / "HEAD").exists() else "",
    }


@dataclass
class GitHost:
    """A git host on loopback (`git daemon`) with one repository; to stop, and to start again at its port."""

    origin: Path
    port: int = 0
    daemon: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"git://127.0.0.1:{self.port}/{self.origin.name}"

    def start(self) -> None:
        command = ["git", "daemon", "--reuseaddr", "--export-all", "--listen=127.0.0.1", f"--port={self.port}"]
        where = [f"--base-path={self.origin.parent}", str(self.origin.parent)]
        self.daemon = subprocess.Popen([*command, *where], stderr=subprocess.DEVNULL, start_new_session=True)
        until(self.reachable, what="git daemon")

    def stop(self) -> None:
        daemon, self.daemon = self.daemon, None
        if daemon is not None:
            os.killpg(daemon.pid, signal.SIGKILL)
            daemon.wait()

    def reachable(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def clone(self, path: Path) -> Path:
        git(self.origin, "clone", "--quiet", self.url, str(path))
        return path


@contextlib.contextmanager
def git_host(path: Path) -> Iterator[GitHost]:
    """Up, and reachable."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    one = GitHost(repository(path / "origin"), port)
    one.start()
    try:
        yield one
    finally:
        one.stop()


@dataclass
class Workshop:
    """A `command` executor with workspaces, without a worker: `outcome = await shop.run("t1", "echo hi >f")`."""

    path: Path
    repo: Path
    exclusive: Exclusive = no_lock
    environment: dict[str, str] = field(default_factory=dict)
    going_on: set[str] = field(default_factory=set)
    claims: int = 0
    host: str = "here"
    told: "list[dict[str, object]]" = field(
        default_factory=list
    )  # what runs told of their worktrees: of all hosts, if they share it

    def __post_init__(self) -> None:
        self.state = StateDir(self.path / "state")
        self.journal = Journal(self.path / "journal")

    def place(self, **settings: object) -> Worktrees:
        return Worktrees(
            "shop",
            WorktreeSettings(**({"repo": self.repo} | settings)),  # type: ignore[arg-type]
            root=self.state.workspaces,
            locks=self.state.locks,
            host=self.host,
            journal=self.journal,
            exclusive=self.exclusive,
            env=IDENTITY | self.environment,
            grace_seconds=1.0,
            goes_on=self.goes_on,
            earlier=self.earlier,
        )

    async def earlier(self, task_id: str) -> list[dict[str, object]]:
        """As the audit trail has it."""
        pushed = [one for one in self.told if one.get("pushed") is True]
        own = [one for one in self.told if one["task"] == task_id]
        return [(self.told or [{}])[-1], (pushed or [{}])[-1], (own or [{}])[0]]

    async def goes_on(self, task_id: str) -> bool:
        return task_id in self.going_on

    async def probe(self, **settings: object) -> dict[str, Outcome]:
        """What each probe of the executor says."""
        probes = self.place(**settings).dependencies(lambda: {**os.environ, **self.environment})
        return {name: await probe() for name, probe in probes.items()}

    def task(self, task_id: str, stop: StopSignal | None = None, **fields: object) -> Run:
        self.claims += 1
        known = {"task_type": "x", "task_description": "x", "timeout_seconds": 60.0, "fencing_token": self.claims}
        task = Task(task_id=task_id, **(known | fields))  # type: ignore[arg-type]
        return Run(task, self.path / "work", self.path / "log", stop=stop or StopSignal())

    async def run(
        self, task_id: str, script: str = "true", *, stop: StopSignal | None = None, data: object = None,
        retry_count: int = 0, work: Mapping[str, object] | None = None,
        checks: Checks | None = None, **settings: object,
    ) -> Outcome:  # fmt: skip
        """`work`: the fields of a task that belongs to others. `checks`: what its work must pass."""
        executor = CommandExecutor(
            "shop",
            ["/bin/sh", "-ec", script],
            journal=self.journal,
            work_area=self.place(**settings),
            env=IDENTITY | self.environment,
            grace_seconds=1.0,
            checks=checks,
        )
        run = self.task(task_id, stop, input_data=data, retry_count=retry_count, **(work or {}))
        outcome = await asyncio.wait_for(executor.run(run), 60)
        if isinstance(space := outcome.extra.get("workspace"), dict):
            self.told.append({**space, "task": task_id})
        return outcome


def told(outcome: Outcome) -> dict[str, object]:
    """`output_data.workspace`."""
    found = outcome.extra.get("workspace")
    assert isinstance(found, dict), outcome
    return found
