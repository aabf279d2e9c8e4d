"""Running one program to its end: limits, output, and nothing left behind.

    launched ──go──▶ running ──exits──▶ what it left is ended ──▶ output drained ──▶ result
                        └── wall clock, silence, a stop, enough ──▶ TERM, grace, KILL ──▶ (the same)

Promises:
- A session and group of its own; the environment given and TURBO_RUN; stdin written in full, then closed, however
  slowly or little the program reads, and however much it writes meanwhile.
- Output of any size in bounded memory: the first `stdout_bytes` and the last of stderr are kept, lines longer than
  `line_bytes` are cut and flagged, the log is bounded (turbo.process.attempt_log).
- When `run_process` returns, raises or is cancelled, the program and all its descendants are gone, those with sessions
  of their own included; only what the kernel will not let go of (uninterruptible sleep) is named in `survivors`, and
  stays journalled.
- A pipe that somebody still holds open delays the result by DRAIN_SECONDS at most.
"""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from turbo.domain.run import StopSignal
from turbo.process.attempt_log import HEAD_BYTES, STDERR_MARK, TAIL_BYTES, AttemptLog, WholeLines
from turbo.process.child_exit import call_at_exit
from turbo.process.journal import Journal
from turbo.process.launch import Launched, SpawnFailed, launch
from turbo.process.output import Head, Lines, OnLine, Tail
from turbo.process.tree import LEFT_BEHIND_SECONDS, ProcessTree, end_tree

__all__ = ["Ending", "OnLine", "ProcessResult", "ProcessSpec", "SpawnFailed", "run_process"]

log = logging.getLogger(__name__)

DRAIN_SECONDS = 1.0
READ_BYTES = 256 * 1024


class Ending(StrEnum):
    EXITED = "exited"
    WALL = "wall"  # wall_seconds were over
    SILENT = "silent"  # nothing on stdout or stderr for silence_seconds
    STOPPED = "stopped"  # the StopSignal was set
    ENOUGH = "enough"  # the caller has what it wanted


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """What to run, and its limits. `cwd` is absolute. `env` is everything; nothing of the worker's is added.

    `grace_seconds` lie between TERM and KILL; agents need 5 to end their tools. `head_bytes` and `tail_bytes` bound the
    log, which is made even if the program prints nothing. `task_id` is for the journal's reader.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    log_path: Path
    wall_seconds: float
    stdin: bytes = b""
    silence_seconds: float | None = None
    grace_seconds: float = 5.0
    stdout_bytes: int = 1024 * 1024
    stderr_bytes: int = 8 * 1024
    line_bytes: int = 8 * 1024 * 1024
    head_bytes: int = HEAD_BYTES
    tail_bytes: int = TAIL_BYTES
    task_id: str = ""


@dataclass(frozen=True, slots=True)
class ProcessResult:
    """How it ended. `returncode` is negative for a signal; None if it never ran (stopped before), or will not end.

    `seconds` from its start to its exit. `log_path` is None when no log could be made.
    """

    ended_by: Ending
    returncode: int | None
    stdout: bytes = b""
    stdout_cut: bool = False
    stderr_tail: str = ""
    seconds: float = 0.0
    pid: int = 0
    log_path: Path | None = None
    survivors: tuple[int, ...] = ()

    @property
    def exit_text(self) -> str:
        """For people: `exit code 3`, `SIGSEGV`."""
        if self.returncode is None:
            return "no exit status"
        if self.returncode >= 0:
            return f"exit code {self.returncode}"
        with contextlib.suppress(ValueError):
            return signal.Signals(-self.returncode).name
        return f"signal {-self.returncode}"


async def run_process(
    spec: ProcessSpec,
    *,
    stop: StopSignal,
    journal: Journal,
    on_line: OnLine | None = None,
    on_stdout: Callable[[bytes], None] | None = None,
    on_start: Callable[[int], None] | None = None,
    enough: asyncio.Event | None = None,
) -> ProcessResult:
    """Run it to its end. `on_start(pid)` is called once it runs; setting `enough` ends it as a stop does.

    `on_line` gets stdout by lines, `on_stdout` as it comes. Raises SpawnFailed when it could not be started, and what
    a callback raised, after it is gone. On
    cancellation it gets TERM and its grace first; a second cancellation kills it at once.
    """
    if stop.is_set():
        return ProcessResult(Ending.STOPPED, None)
    launched = launch(spec.argv, env=spec.env, cwd=spec.cwd, journal=journal, task_id=spec.task_id)
    running = _Running(spec, launched, on_line, on_stdout)
    try:
        try:
            running.go()
            if on_start is not None:
                on_start(launched.popen.pid)
            ended_by = await running.wait_for_ending(stop, enough)
            await running.end(LEFT_BEHIND_SECONDS if ended_by is Ending.EXITED else spec.grace_seconds)
            await running.drain()
        except BaseException:
            await running.end_after_error()
            raise
    finally:
        running.close(journal)
    return running.result(ended_by)


class _Running:
    """The moving parts of one `run_process`. All on the event loop, but for the looks at the process table."""

    def __init__(
        self,
        spec: ProcessSpec,
        launched: Launched,
        on_line: OnLine | None,
        on_stdout: Callable[[bytes], None] | None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._spec = spec
        self._launched = launched
        self._tree = ProcessTree(launched.entry)
        self._survivors: tuple[int, ...] = (launched.popen.pid,)  # until it is known to be gone
        self._ending: asyncio.Future[Ending] = self._loop.create_future()
        self._exited = asyncio.Event()
        self._drained = asyncio.Event()
        self._callback_error: Exception | None = None
        self._silence: asyncio.TimerHandle | None = None
        self._log = AttemptLog(spec.log_path, head_bytes=spec.head_bytes, tail_bytes=spec.tail_bytes)
        self._stdout, self._stderr = Head(spec.stdout_bytes), Tail(spec.stderr_bytes)
        self._lines = Lines(on_line, spec.line_bytes) if on_line is not None else None
        self._on_stdout = on_stdout
        self._open = {
            launched.stdout: WholeLines(self._log),
            launched.stderr: WholeLines(self._log, STDERR_MARK),
        }
        self._unwritten = memoryview(spec.stdin)
        self._started_at = self._last_output_at = self._ended_at = time.monotonic()

    def go(self) -> None:
        try:
            call_at_exit(self._launched.popen.pid, self._on_exit)
        except (RuntimeError, OSError) as error:
            raise SpawnFailed(f"cannot start {self._spec.argv[0]}: nobody could wait for it: {error}") from error
        self._log.open()
        for descriptor in self._open:
            os.set_blocking(descriptor, False)
            self._loop.add_reader(descriptor, self._read, descriptor)
        with contextlib.suppress(BrokenPipeError):
            self._launched.go()
        self._started_at = self._last_output_at = time.monotonic()
        os.set_blocking(self._launched.stdin, False)
        self._loop.add_writer(self._launched.stdin, self._write)

    async def wait_for_ending(self, stop: StopSignal, enough: asyncio.Event | None) -> Ending:
        """Wait for the first reason to end."""
        waiters = [self._loop.create_task(self._end_after(stop.wait(), Ending.STOPPED))]
        if enough is not None:
            waiters.append(self._loop.create_task(self._end_after(enough.wait(), Ending.ENOUGH)))
        wall = self._loop.call_later(self._spec.wall_seconds, self._end_with, Ending.WALL)
        self._check_silence()
        try:
            return await self._ending
        finally:
            for waiter in (wall, self._silence, *waiters):
                if waiter is not None:
                    waiter.cancel()

    async def end(self, grace: float) -> None:
        """End the program and all that belongs to it."""
        steps = end_tree(self._tree, grace)
        try:
            while (delay := await asyncio.to_thread(next, steps, None)) is not None:  # noqa: ASYNC110
                await asyncio.sleep(delay)
            self._survivors = self._tree.living()
        except OSError as error:
            # No descriptor left to read the process table with. The journal entry stays: somebody will find the rest.
            log.warning(
                "cannot read the process table, so only the group of %s is ended: %s", self._launched.program, error
            )
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._launched.popen.pid, signal.SIGKILL)

    async def end_after_error(self) -> None:
        """The same after a defect or a cancellation, whose second one is not waited for."""
        try:
            await self.end(self._spec.grace_seconds)
        except (asyncio.CancelledError, RuntimeError):  # RuntimeError: the loop's threads are shut down
            for delay in end_tree(self._tree, 0.0):
                time.sleep(delay)  # noqa: ASYNC251
            self._survivors = self._tree.living()

    async def drain(self) -> None:
        """Read what the pipes still hold. A descendant that could not be found may hold them open for ever."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                await self._drained.wait()
                await self._exited.wait()

    def close(self, journal: Journal) -> None:
        """Let go of everything. The exit status is collected here: until now pid and group could be nobody else's."""
        self._close_stdin()
        for descriptor in list(self._open):
            self._close(descriptor)
        self._log.close()
        if self._log.error is not None:
            log.warning("the log %s is incomplete: %s", self._spec.log_path, self._log.error)
        if self._survivors:
            self._launched.popen.poll()
            log.error("%s does not end: pids %s", self._launched.program, ", ".join(map(str, self._survivors)))
        else:
            self._launched.popen.wait()
            journal.remove(self._launched.entry.cookie)

    def result(self, ended_by: Ending) -> ProcessResult:
        returncode = self._launched.popen.returncode
        failure = self._launched.exec_failure(returncode, self._stderr.data)
        if failure is not None:
            raise SpawnFailed(f"cannot start {self._spec.argv[0]}: {failure}")
        if self._callback_error is not None:
            raise self._callback_error
        return ProcessResult(
            ended_by,
            returncode,
            stdout=self._stdout.data,
            stdout_cut=self._stdout.cut,
            stderr_tail=self._stderr.text,
            seconds=self._ended_at - self._started_at,
            pid=self._launched.popen.pid,
            log_path=self._spec.log_path if self._log.created else None,
            survivors=self._survivors,
        )

    # ── events ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _end_with(self, ending: Ending) -> None:
        if not self._ending.done():
            self._ending.set_result(ending)

    async def _end_after(self, event: Awaitable[object], ending: Ending) -> None:
        await event
        self._end_with(ending)

    def _on_exit(self) -> None:
        self._ended_at = time.monotonic()
        self._exited.set()
        self._end_with(Ending.EXITED)

    def _check_silence(self) -> None:
        """The silence timer: set anew for what is left of the limit, not at every line."""
        if self._spec.silence_seconds is None or self._ending.done():
            return
        left = self._last_output_at + self._spec.silence_seconds - time.monotonic()
        if left <= 0:
            self._end_with(Ending.SILENT)
        else:
            self._silence = self._loop.call_later(left, self._check_silence)

    def _write(self) -> None:
        try:
            if self._unwritten:
                self._unwritten = self._unwritten[os.write(self._launched.stdin, self._unwritten) :]
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # it does not want its stdin: its own affair
            self._unwritten = memoryview(b"")
        if not self._unwritten:
            self._close_stdin()

    def _close_stdin(self) -> None:
        if self._launched.stdin >= 0:
            self._loop.remove_writer(self._launched.stdin)
            os.close(self._launched.stdin)
            self._launched.stdin = -1

    def _read(self, descriptor: int) -> None:
        try:
            chunk = os.read(descriptor, READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            chunk = b""
        if not chunk:
            self._close(descriptor)
            return
        self._last_output_at = time.monotonic()
        self._open[descriptor].write(chunk)
        if descriptor == self._launched.stderr:
            self._stderr.feed(chunk)
            return
        self._stdout.feed(chunk)
        if self._on_stdout is not None:
            self._call_back(self._on_stdout, chunk)
        if self._lines is not None:
            self._call_back(self._lines.feed, chunk)

    def _close(self, descriptor: int) -> None:
        self._loop.remove_reader(descriptor)
        os.close(descriptor)
        self._open.pop(descriptor).close()
        if descriptor == self._launched.stdout and self._lines is not None:
            self._call_back(self._lines.close)
        if not self._open:
            self._drained.set()

    def _call_back(self, callback: Callable[..., None], *arguments: bytes) -> None:
        if self._callback_error is not None:
            return
        try:
            callback(*arguments)
        except Exception as error:
            self._callback_error = error
            self._end_with(Ending.ENOUGH)
