"""The work area of an executor with `workspace`: each task gets a worktree, in which its program runs.

    task ──its home locked──▶ no record ──▶ branch and worktree made ──▶ setup ──▶ the program ──▶ measured ──▶ kept, or removed
                 ├── record and worktree exist (a retry, a follow-up) ──▶ continued ─────────┘
                 └── the worktree is gone, its branch exists ──▶ a new worktree on that branch

The lock (turbo.executors.exclusive_directories) is held from the first step to the last. It becomes free only when a
killed worker's program is gone, so no two tasks are ever in one worktree.

All tasks of a conversation work in one worktree, that of the first; their commits are on its branch, one after the other.
From a row, git gets only `input_data.ref`, if `refs` allows it, and the task id in the branch's name.
"""

import asyncio
import dataclasses
import fnmatch
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from turbo.domain import dependency
from turbo.domain.limits import REF_BYTES, bytes_of, too_long
from turbo.domain.outcome import FailureKind, Outcome, OutcomeKind, Probe
from turbo.domain.run import Run, Snooze, StopSignal
from turbo.domain.states import StopCause
from turbo.domain.task import NO_TASK, Task
from turbo.process.environment import ChildEnvironment, EnvironmentRefused
from turbo.process.identity import Identity
from turbo.process.journal import Journal
from turbo.process.launch import SpawnFailed, at_home, obstacle
from turbo.process.output import text_of
from turbo.process.running import Ending, ProcessResult, ProcessSpec, run_process
from turbo.workspaces.area import Exclusive, Program
from turbo.workspaces.at_remote import (
    NOTHING_EARLIER,
    AsksEarlierWork,
    EarlierWork,
    bring_forward,
    earlier_work,
    fetch_branch,
    knows_no_earlier,
    note_pushed,
    push_branch,
    require_remote,
    stop_of_push,
)
from turbo.workspaces.changes import Changes, measure, snapshot
from turbo.workspaces.from_needs import Elsewhere, Handover, HandoverRefused, begin_at
from turbo.workspaces.git import Git, GitFailed, RemoteAway, Stopped
from turbo.workspaces.lifecycle import find_worktree, make_worktree, remove_worktree
from turbo.workspaces.names import branch_of, home_of, ref_problem
from turbo.workspaces.record import Policy, Record, Stage
from turbo.workspaces.repository import Repository, open_repository, repository_fault
from turbo.workspaces.shares import begin_share, judged_from
from turbo.workspaces.view import WorktreeView

log = logging.getLogger(__name__)

T = TypeVar("T")

SETUP_OUTPUT_CHARACTERS = 2000
PROBE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class WorktreeSettings:
    """`repo` is absolute. `ref`: where a new branch begins. `refs`: patterns (fnmatch) for `input_data.ref`.

    `branch`: a template. `fetch`: update a remote's branch first. `setup`: argv, run in a new worktree for at most
    `setup_seconds`. `git_config`: a configuration file for turbo's own git, instead of the user's. `from_needs`: a task begins at
    what its needs left (turbo.workspaces.from_needs). `push`: the remote that gets the branch after each run
    (turbo.workspaces.at_remote).
    """

    repo: Path
    ref: str = "HEAD"
    refs: tuple[str, ...] = ()
    branch: str = "turbo/{task_id}"
    fetch: bool = False
    setup: tuple[str, ...] = ()
    setup_seconds: float = 600.0
    git_config: Path | None = None
    from_needs: bool = False
    push: str | None = None
    policy: Policy = field(default_factory=Policy)


GoesOn = Callable[[str], Awaitable[bool]]
"""Whether, beside the task of this id, another one of its conversation is not over, and needs the worktree."""


async def goes_on_never(_task_id: str) -> bool:
    return False


class SetupFailed(Exception):
    """The message contains the output of setup."""


class Worktrees:
    """See `WorkArea`. `root`: the workspaces of the worker's database, which it may learn later.
    `locks`: its locks. `host`: its name, for people.

    `env` is what turbo's git gets of an executor's environment: not its account's secrets, which the repository's
    remotes, filters and credential helpers have no use for.
    `exclusive` limits a task's workspace to one run at a time (turbo.executors.exclusive_directories). `run_as`: whose the
    repository and the worktrees are, and as whom git, setup and the program run. Records and locks stay the worker's.
    `goes_on` is asked before a worktree is removed after a success; `earlier`, with `push`, before it is opened.
    `inside`: the journal for `setup`, which runs what the repository holds: with the executor's sandbox [default: `journal`].
    """

    fixed: Path | None = None

    def __init__(
        self,
        executor: str,
        settings: WorktreeSettings,
        *,
        root: Path | Callable[[], Path],
        locks: Path,
        host: str,
        journal: Journal,
        exclusive: Exclusive,
        env: Mapping[str, str] | None = None,
        grace_seconds: float = 5.0,
        run_as: Identity | None = None,
        goes_on: GoesOn = goes_on_never,
        earlier: AsksEarlierWork = knows_no_earlier,
        inside: Journal | None = None,
    ) -> None:
        self._run_as = run_as
        self._goes_on = goes_on
        self._asks_earlier = earlier
        self._env = ChildEnvironment(env or {}, owner=executor, run_as=run_as)
        self._executor = executor
        self._settings = settings
        self._root = root if callable(root) else lambda: root
        self._locks = locks
        self._host = host
        self._journal = journal
        self._inside = inside or journal
        self._exclusive = exclusive
        self._grace_seconds = grace_seconds
        self._unreached: str | None = None  # the remote that a task could not fetch from

    def _git(self, task: Task) -> Git:
        """git in the repository, as turbo runs it."""
        return Git(
            self._settings.repo,
            self._env.for_task(task),
            self._journal,
            config=self._settings.git_config,
            run_as=self._run_as,
        )

    def missing(self, environment: Mapping[str, str]) -> str | None:
        """See `WorkArea`."""
        repo = self._settings.repo
        if self._run_as is not None:  # the repository may be closed to us; its probe tells
            return obstacle("git", environment.get("PATH"), None, self._run_as)
        if not repo.is_dir():
            return f"workspace.repo {repo} is not a directory"
        if not (repo / ".git").exists() and not (repo / "HEAD").is_file():
            return f"workspace.repo {repo} is not a git repository (name its top directory)"
        if (config := self._settings.git_config) is not None and not config.is_file():
            return f"workspace.git_config {config} is not a file"
        if config is not None and not os.access(config, os.R_OK):
            return f"workspace.git_config {config} cannot be read by this worker"
        return obstacle("git", environment.get("PATH"), None)

    def dependencies(self, _environment: Callable[[], Mapping[str, str]]) -> Mapping[str, Probe]:
        """See `WorkArea`: the repository, and what is fetched from."""
        repo = self._settings.repo
        probes: dict[str, Probe] = {
            dependency.repository(repo): partial(self._probe, dependency.repository(repo), self._examine)
        }
        if self._settings.fetch or self._settings.push is not None:
            away = dependency.remotes(repo)
            probes[away] = partial(self._probe, away, self._ask_remote)
        return probes

    async def run(self, run: Run, environment: Mapping[str, str], program: Program) -> Outcome:
        """See `WorkArea`."""
        ref = self._requested_ref(run.task)
        if isinstance(ref, Outcome):
            return ref
        home = home_of(self._root(), self._settings.repo, run.task.directory_id)
        async with self._exclusive(home, run.task):
            git = replace(self._git(run.task), stop=run.stop, task_id=run.task.task_id)
            try:
                repository = await open_repository(git, self._locks)
                earlier = await self._earlier(repository, run.task)
                record, continued = await self._open(repository, ref, run.task, home, earlier)
                record = await self._set_up(repository, record, run, environment, home)
                share = await self._share(repository, record, run.task, home, earlier)
            except Elsewhere as error:
                raise Snooze(str(error), 0.0, host=error.host) from None
            except HandoverRefused as error:
                return _refused(f"workspace: {error}")
            except Stopped:
                return Outcome(OutcomeKind.CANCELLED, error=f"ended on request: {run.stop.cause}")
            except RemoteAway as error:
                return Outcome.unavailable(f"workspace: {error}", dependency.remotes(self._settings.repo))
            except GitFailed as error:
                if repository_fault(error):
                    return Outcome.unavailable(f"workspace: {error}", dependency.repository(self._settings.repo))
                return Outcome.failed(f"workspace: {error}")
            except SetupFailed as error:
                return replace(Outcome.failed(f"workspace: {error}"), log=str(run.log_path))
            start = judged_from(record, share, run.task, home)
            view = WorktreeView(repository, start.record, home, start.since, own=start.own, fresh=not continued)
            outcome = await program(Path(record.tree), view)
            return await self._close(repository, record, share, run, outcome, continued, home)

    # ── whether they are there ──────────────────────────────────────────────────────────────────────────────────────

    async def _probe(
        self,
        away: str,
        call: Callable[[Repository], Awaitable[None]],
    ) -> Outcome:
        """See `Probe`. It fails for any reason: then a task would fail as well."""
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await call(await open_repository(self._git(NO_TASK), self._locks))
        except (GitFailed, OSError, EnvironmentRefused) as error:  # TimeoutError is an OSError
            return Outcome.unavailable(str(error) or f"no answer within {PROBE_SECONDS:g} s", away)
        return Outcome.succeeded()

    async def _examine(self, repository: Repository) -> None:
        async with repository.alone():
            tree = self._place(self._root() / f".probe-{self._executor}-{os.getpid()}")
            await repository.probe(self._settings.ref, tree)
        if self._settings.push is not None:
            await require_remote(repository, self._settings.push)

    async def _ask_remote(self, repository: Repository) -> None:
        fetched = await repository.remote_of(self._settings.ref) if self._settings.fetch else None
        remote = self._unreached or fetched or self._settings.push
        if remote is not None:
            await repository.probe_remote(remote)
            self._unreached = None

    def _requested_ref(self, task: Task) -> str | Outcome:
        """The configured ref, or the row's if the configuration allows it."""
        data = task.input_data if isinstance(task.input_data, dict) else {}
        if data.get("cwd") is not None:
            return _refused("input_data.cwd is not allowed: this executor gives each task its own worktree")
        if (ref := data.get("ref")) is None:
            inherited = task.directory_data.get("ref")  # its first task's, whose executor may have allowed more
            return (
                inherited if isinstance(inherited, str) and self._refused_ref(inherited) is None else self._settings.ref
            )
        if not isinstance(ref, str):
            return _refused(f"input_data.ref must be text, not {type(ref).__name__}")
        return ref if (why := self._refused_ref(ref)) is None else _refused(why)

    def _refused_ref(self, ref: str) -> str | None:
        """Why a row may not choose it, or None."""
        if (long := too_long("input_data.ref", bytes_of(ref), REF_BYTES, "bytes")) is not None:
            return long
        if (problem := ref_problem(ref)) is not None:
            return f"input_data.ref {ref!r:.200} {problem}"
        if not any(fnmatch.fnmatchcase(ref, pattern) for pattern in self._settings.refs):
            allowed = ", ".join(self._settings.refs) or "none configured"
            return f"input_data.ref {ref!r:.200} is not one of the refs that a row may choose ({allowed})"
        return None

    # ── before ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _earlier(self, repository: Repository, task: Task) -> EarlierWork:
        """What the conversation has at the remote. Raises RepositoryAway, OSError."""
        if self._settings.push is None:
            return NOTHING_EARLIER
        await require_remote(repository, self._settings.push)
        return await earlier_work(self._asks_earlier, task)

    async def _open(
        self, repository: Repository, ref: str, task: Task, home: Path, earlier: EarlierWork
    ) -> tuple[Record, bool]:
        settings = self._settings
        record = await find_worktree(repository, home)
        if record is not None:
            if settings.push is not None:
                await self._from_remote(
                    bring_forward(repository, record, home, settings.push, earlier, self._host), settings.push
                )
            log.info("continuing in %s", record.tree, extra={"task": task.task_id})
            return self._mark_used(record, home), True
        if task.attempt > 1 or task.continued is not None:
            log.info("no workspace of this task on this host: creating one", extra={"task": task.task_id})
        tip = None
        if (
            settings.push is not None
            and earlier.pushed
            and earlier.branch == branch_of(settings.branch, task.directory_id)
        ):
            tip = await self._from_remote(fetch_branch(repository, settings.push, earlier.branch), settings.push)
        if tip is not None and await repository.contains(tip, earlier.base):
            return await self._take_up(repository, task, home, earlier, tip), True
        handed = await self._handed_over(repository, ref, task)
        base = "" if handed is None else handed.commit
        new = self._record(task, home, ref if handed is None else handed.branch, base)
        try:
            return await make_worktree(repository, new, home, fetch=settings.fetch), False
        except RemoteAway:
            self._unreached = await repository.remote_of(ref)
            raise

    async def _from_remote(self, step: Awaitable[T], remote: str) -> T:
        try:
            return await step
        except RemoteAway:
            self._unreached = remote
            raise

    async def _take_up(self, repository: Repository, task: Task, home: Path, earlier: EarlierWork, tip: str) -> Record:
        """A worktree of the branch that another host has pushed."""
        new = self._record(task, home, earlier.ref, earlier.base)
        if earlier.start and await repository.contains(tip, earlier.start):
            new = replace(new, start_commit=earlier.start)
        record = await make_worktree(repository, new, home, fetch=False, tip=tip)
        await asyncio.to_thread(note_pushed, home, tip)
        log.info("took up %s of host %s at %s", record.branch, earlier.host, tip, extra={"task": task.task_id})
        return record

    def _record(self, task: Task, home: Path, ref: str, base: str) -> Record:
        settings, now = self._settings, time.time()
        return Record(
            task_id=task.directory_id,
            executor=self._executor,
            host=self._host,
            repo=str(settings.repo),
            ref=ref,
            base=base,
            branch=branch_of(settings.branch, task.directory_id),
            tree=str(self._place(home) / (settings.repo.name or "repo")),
            git_dir="",
            stage=Stage.CREATING,
            policy=settings.policy,
            created_at=now,
            used_at=now,
            user=self._run_as.user if self._run_as is not None else "",
        )

    async def _handed_over(self, repository: Repository, ref: str, task: Task) -> Handover | None:
        """None: the task begins at `ref`; also where its row has chosen another than the executor's."""
        settings = self._settings
        if not settings.from_needs or not task.needs or ref != settings.ref:
            return None
        return await begin_at(repository, task.needs, settings.repo, settings.ref, self._host)

    async def _share(
        self, repository: Repository, record: Record, task: Task, home: Path, earlier: EarlierWork
    ) -> Record | None:
        """The record with the start of a follow-up. None: the task began with the worktree, or it is not known."""
        if task.continued is None:
            return None
        try:
            git = repository.in_tree(record)
            return await begin_share(git, repository, record, home, task.task_id, since=earlier.since)
        except (GitFailed, OSError) as error:
            log.warning(
                "workspace %s: its result will count the whole branch: %s",
                record.tree,
                error,
                extra={"task": task.task_id},
            )
            return None

    def _place(self, path: Path) -> Path:
        """Where the files of a workspace are: in its home, or where their user has what belongs there."""
        return path if self._run_as is None else self._run_as.place(path)

    def _mark_used(self, record: Record, home: Path) -> Record:
        record = replace(
            record, used_at=time.time(), policy=self._settings.policy, executor=self._executor, host=self._host
        )
        record.save(home)
        return record

    async def _set_up(
        self, repository: Repository, record: Record, run: Run, environment: Mapping[str, str], home: Path
    ) -> Record:
        """Run `setup`, unless it has succeeded here before. Its output comes first in the attempt's log.

        What it changes is no work of the task: the task begins with it."""
        if record.stage is Stage.READY:
            return record
        if self._settings.setup:
            git = repository.in_tree(record)
            # A restored worktree has the task's own commits already.
            unworked = (await git("rev-parse", "--verify", "--end-of-options", "HEAD")).strip() == record.base
            spec = ProcessSpec(
                argv=at_home(self._settings.setup),
                env=environment,
                cwd=Path(record.tree),
                log_path=run.log_path,
                wall_seconds=self._settings.setup_seconds,
                grace_seconds=self._grace_seconds,
                task_id=run.task.task_id,
                run_as=self._run_as,
            )
            try:
                result = await run_process(spec, stop=run.stop, journal=self._inside)
            except SpawnFailed as error:
                raise SetupFailed(f"setup: {error}") from error
            if result.ended_by is Ending.STOPPED:
                raise Stopped
            if result.ended_by is not Ending.EXITED or result.returncode != 0:
                raise SetupFailed(self._why_setup_failed(result))
            if unworked:
                record = await snapshot(git, repository, record)
        record = replace(record, stage=Stage.READY)
        record.save(home)
        return record

    def _why_setup_failed(self, result: ProcessResult) -> str:
        how = (
            f"failed with {result.exit_text}"
            if result.ended_by is Ending.EXITED
            else f"was ended after {self._settings.setup_seconds:g} s (setup_seconds)"
        )
        printed = text_of(result.stdout, cut=result.stdout_cut).rstrip()[-SETUP_OUTPUT_CHARACTERS:]
        output = "\n".join(part for part in (printed, result.stderr_tail[-SETUP_OUTPUT_CHARACTERS:]) if part)
        return f"setup ({' '.join(self._settings.setup)}) {how}{f': {output}' if output else ''}"

    # ── after ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _close(
        self,
        repository: Repository,
        record: Record,
        share: Record | None,
        run: Run,
        outcome: Outcome,
        continued: bool,
        home: Path,
    ) -> Outcome:
        """Measure the changes, for the row and the audit trail, and keep or remove the worktree.

        A failed measurement never loses the result. `share`: what is told, where it is not the whole of the worktree.
        """
        with suppress(OSError):
            record = self._mark_used(record, home)
        if run.stop.cause in (StopCause.DRAIN, StopCause.LOST):  # no result is recorded; the next run continues here
            return outcome
        unstopped = repository.with_stop(StopSignal())
        report: dict[str, object] = {
            "kind": "worktree",
            "host": record.host,
            "path": record.tree,
            "repo": record.repo,
            "branch": record.branch,
            "ref": record.ref,
            "base": record.base,
            "continued": continued,
            "kept": True,
        }
        removable = False
        try:
            git = unstopped.in_tree(record)
            changes = await measure(git, share or record, home)
            report |= dataclasses.asdict(changes)
            if share is not None:
                report["since"] = share.start
            if outcome.kind is OutcomeKind.SUCCEEDED and record.policy.keep != "always":
                whole = changes if share is None else await measure(git, record, home)
                removable = record.policy.keep == "never" or not _changed(whole, record.start)
                removable = removable and not await self._goes_on(run.task.task_id)
        except (GitFailed, OSError) as error:
            _note_error(report, record, error)
        if self._settings.push is not None and not (removable and report.get("head") == record.start):
            report |= await self._push(repository.with_stop(stop_of_push(run.stop)), record, home, report)
        try:
            if removable:
                async with unstopped.alone():
                    tip = await unstopped.branch_tip(record.branch)
                    if record.policy.keep == "never" or tip == record.start:
                        await remove_worktree(unstopped, record, home)
                        report["kept"] = False
        except (GitFailed, OSError) as error:
            _note_error(report, record, error)
        return replace(outcome, extra={**outcome.extra, "workspace": report})

    async def _push(
        self, repository: Repository, record: Record, home: Path, report: Mapping[str, object]
    ) -> dict[str, object]:
        """What the report tells of it."""
        remote, head = self._settings.push, report.get("head")
        assert remote is not None
        told: dict[str, object] = {"remote": remote, "pushed": True}
        if record.start_commit:
            told["start"] = record.start_commit
        why = await push_branch(repository, record, home, remote, head if isinstance(head, str) else None)
        if why is not None:
            log.warning("%s is not pushed to %s: %s", record.branch, remote, why, extra={"task": record.task_id})
            told |= {"pushed": False, "push_error": why}
        return told


def _note_error(report: dict[str, object], record: Record, error: Exception) -> None:
    log.warning("workspace %s: %s", record.tree, error, extra={"task": record.task_id})
    report["error"] = str(error)


def _changed(changes: Changes, start: str) -> bool:
    return bool(changes.files_changed or changes.uncommitted or changes.head != start)


def _refused(why: str) -> Outcome:
    return Outcome.failed(why, FailureKind.REFUSED, final=True)
