"""Runs one program to its end: limits, output, and no process left behind.

    launched ──go──▶ running ──exits──▶ its leftovers are ended ──▶ output drained ──▶ result
                        └── wall clock, silence, a stop, enough ──▶ TERM, grace, KILL ──▶ (the same)

Promises:

- The program gets its own session and process group, the given environment, and TURBO_RUN.
- Its stdin is written in full, then closed. It does not matter how slowly the program reads, or how much it prints meanwhile.
  With `more_stdin` it stays open, and is closed when that is closed.
- Output of any size takes bounded memory. The first `stdout_bytes` and the end of stderr are kept. Lines longer than
  `line_bytes` are cut and marked. The log is bounded too (turbo.process.attempt_log).
- When `run_process` returns, raises or is cancelled, the program and its descendants are gone, whatever their session.
  Only a process that the kernel does not release (uninterruptible sleep) remains: it is listed in `survivors` and keeps
  its journal entry.
- A pipe that another process still holds open delays the result by at most DRAIN_SECONDS.
"""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from turbo.domain.run import StopSignal
from turbo.domain.usage import MeteredRun
from turbo.process.attempt_log import HEAD_BYTES, STDERR_MARK, TAIL_BYTES, AttemptLog, WholeLines
from turbo.process.child_exit import call_at_exit
from turbo.process.identity import Identity
from turbo.process.journal import Journal
from turbo.process.launch import Launched, SpawnFailed, launch
from turbo.process.output import Aside, Head, Lines, OnLine, Tail
from turbo.process.stdin import OpenStdin
from turbo.process.tree import LEFT_BEHIND_SECONDS, ProcessTree, end_tree

__all__ = ["Ending", "OnLine", "ProcessResult", "ProcessSpec", "SpawnFailed", "run_process"]

log = logging.getLogger(__name__)

DRAIN_SECONDS = 1.0
READ_BYTES = 256 * 1024


class Ending(StrEnum):
    EXITED = "exited"
    WALL = "wall"  # wall_seconds have passed
    SILENT = "silent"  # nothing on stdout or stderr for silence_seconds
    STOPPED = "stopped"  # the StopSignal was set
    ENOUGH = "enough"  # the caller needs no more


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """What to run, and its limits. `cwd` is absolute. `env` is the whole environment.

    `grace_seconds` pass between TERM and KILL; agents need 5 to end their tools. `head_bytes` and `tail_bytes` bound
    the log, which is created even if the program prints nothing. `task_id` is recorded in the journal. `handed`: secrets
    that the program reads from descriptors, by the variable that holds the descriptor's number. `run_as`: another user than
    the worker's, who enters `cwd` and looks the program up. `metered` is kept with the journal entry. `keeps`: where the program has
    its sessions and its login, absolute: a sandbox lets it write in a directory, and read a file. `aside`: how lines of stdout
    begin that are for `on_aside` alone, at most `aside_bytes` of each: neither the log nor anybody else gets them.
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
    handed: Mapping[str, str] = field(default_factory=dict, repr=False)
    run_as: Identity | None = None
    metered: MeteredRun | None = None
    keeps: tuple[Path, ...] = ()
    aside: bytes = b""
    aside_bytes: int = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ProcessResult:
    """How the program ended. `returncode` is negative for a signal.

    `returncode` is None if the program never ran (stopped before) or does not end. `seconds`: from start to exit.
    `log_path` is None if the log could not be created.
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
    on_stderr: Callable[[bytes], None] | None = None,
    on_aside: OnLine | None = None,
    on_start: Callable[[int], None] | None = None,
    enough: asyncio.Event | None = None,
    more_stdin: OpenStdin | None = None,
) -> ProcessResult:
    """Run it to its end. `on_start(pid)` is called once it runs. Setting `enough` ends it as a stop does. `more_stdin` follows
    `ProcessSpec.stdin`.

    `on_line` gets stdout by lines; `on_stdout` and `on_stderr` get chunks as they arrive. Raises SpawnFailed if the program could not
    be started. Raises what a callback raised, after the program is gone. When cancelled, it sends TERM and waits for
    the grace; a second cancellation kills at once.
    """
    if stop.is_set():
        return ProcessResult(Ending.STOPPED, None)
    launched = launch(
        spec.argv,
        env=spec.env,
        cwd=spec.cwd,
        journal=journal,
        task_id=spec.task_id,
        handed=spec.handed,
        run_as=spec.run_as,
        metered=spec.metered,
        keeps=spec.keeps,
    )
    running = _Running(spec, launched, on_line, on_stdout, more_stdin, on_stderr, on_aside)
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
    """The moving parts of one `run_process`. All on the event loop, except reading the process table."""

    def __init__(
        self,
        spec: ProcessSpec,
        launched: Launched,
        on_line: OnLine | None,
        on_stdout: Callable[[bytes], None] | None,
        more_stdin: OpenStdin | None,
        on_stderr: Callable[[bytes], None] | None,
        on_aside: OnLine | None,
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
        self._aside = Aside(spec.aside, on_aside, spec.aside_bytes) if spec.aside and on_aside is not None else None
        self._on_stdout = on_stdout
        self._on_stderr = on_stderr
        self._open = {
            launched.stdout: WholeLines(self._log),
            launched.stderr: WholeLines(self._log, STDERR_MARK),
        }
        self._unwritten = memoryview(launched.handover + spec.stdin)
        self._more_stdin = more_stdin
        self._started_at = self._last_output_at = self._ended_at = time.monotonic()

    def go(self) -> None:
        try:
            call_at_exit(self._launched.popen.pid, self._on_exit)
        except (RuntimeError, OSError) as error:
            raise SpawnFailed(f"cannot start {self._spec.argv[0]}: cannot wait for its exit: {error}") from error
        self._log.open()
        for descriptor in self._open:
            os.set_blocking(descriptor, False)
            self._loop.add_reader(descriptor, self._read, descriptor)
        with contextlib.suppress(BrokenPipeError):
            self._launched.go()
        self._started_at = self._last_output_at = time.monotonic()
        os.set_blocking(self._launched.stdin, False)
        if self._more_stdin is not None:
            self._more_stdin.attach(self._write_when_ready)
        self._write_when_ready()

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
        """End the program and its descendants."""
        steps = end_tree(self._tree, grace)
        try:
            while (delay := await asyncio.to_thread(next, steps, None)) is not None:  # noqa: ASYNC110
                await asyncio.sleep(delay)
            self._survivors = self._tree.living()
        except OSError as error:
            # No descriptor is left for reading the process table. The journal entry stays, so the rest is found later.
            log.warning(
                "cannot read the process table, so only the process group of %s is ended: %s",
                self._launched.program,
                error,
            )
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._launched.popen.pid, signal.SIGKILL)

    async def end_after_error(self) -> None:
        """End it after an error or a cancellation. A second cancellation is not waited for."""
        try:
            await self.end(self._spec.grace_seconds)
        except (asyncio.CancelledError, RuntimeError):  # RuntimeError: the loop's threads are shut down
            for delay in end_tree(self._tree, 0.0):
                time.sleep(delay)  # noqa: ASYNC251
            self._survivors = self._tree.living()

    async def drain(self) -> None:
        """Read what is left in the pipes. A descendant that was not found may hold them open for ever."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                await self._drained.wait()
                await self._exited.wait()

    def close(self, journal: Journal) -> None:
        """Close everything. The exit status is collected here: until now the pid and the group stayed reserved."""
        self._close_stdin()
        for descriptor in list(self._open):
            self._close(descriptor)
        self._log.close()
        if self._log.error is not None:
            log.warning("the log %s is incomplete: %s", self._spec.log_path, self._log.error)
        if self._survivors:
            self._launched.popen.poll()
            log.error(
                "%s is still running after KILL: pids %s", self._launched.program, ", ".join(map(str, self._survivors))
            )
        else:
            self._launched.popen.wait()
            journal.remove(self._launched.entry.cookie)

    def result(self, ended_by: Ending) -> ProcessResult:
        returncode = self._launched.popen.returncode
        failure = self._launched.exec_failure(returncode, self._stderr.data)
        if failure is not None:
            # The same cause as where the system itself says so (turbo.process.launch): no host can start it.
            too_long = errno.E2BIG if os.strerror(errno.E2BIG) in failure else None
            raise SpawnFailed(f"cannot start {self._spec.argv[0]}: {failure}", too_long)
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
        """The silence timer: restarted for the rest of the limit, not at every line."""
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
        except OSError:  # the program does not read its stdin, as it may
            self._close_stdin()
            return
        if not self._unwritten and self._more_stdin is not None:
            self._unwritten = memoryview(self._more_stdin.take())
        if self._unwritten:
            return
        if self._more_stdin is None or self._more_stdin.closed:
            self._close_stdin()
        else:
            self._loop.remove_writer(self._launched.stdin)  # until `_write_when_ready`

    def _write_when_ready(self) -> None:
        if self._launched.stdin >= 0:
            self._loop.add_writer(self._launched.stdin, self._write)

    def _close_stdin(self) -> None:
        if self._launched.stdin >= 0:
            self._loop.remove_writer(self._launched.stdin)
            os.close(self._launched.stdin)
            self._launched.stdin = -1
            if self._more_stdin is not None:
                self._more_stdin.close()

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
        if descriptor == self._launched.stdout:
            self._take(self._aside.feed(chunk) if self._aside is not None else chunk)
            return
        self._open[descriptor].write(chunk)
        self._stderr.feed(chunk)
        if self._on_stderr is not None:
            self._call_back(self._on_stderr, chunk)

    def _take(self, chunk: bytes) -> None:
        """What it prints, without the lines that are set aside."""
        if not chunk:
            return
        self._open[self._launched.stdout].write(chunk)
        self._stdout.feed(chunk)
        if self._on_stdout is not None:
            self._call_back(self._on_stdout, chunk)
        if self._lines is not None:
            self._call_back(self._lines.feed, chunk)

    def _close(self, descriptor: int) -> None:
        self._loop.remove_reader(descriptor)
        os.close(descriptor)
        if descriptor == self._launched.stdout and self._aside is not None:
            self._take(self._aside.close())
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
