"""The reaper and its watcher: no program outlives its worker, whatever killed the worker.

    worker ──starts──▶ watcher: a shell in a new session, blocked reading a pipe that only the worker holds
       │ says goodbye, its journal empty ──▶ the watcher exits
       └ dies (the kernel closes the pipe) ──▶ the watcher becomes the reaper: ends the journal's programs, and exits

The waiting shell needs no Python and no CPU. A pipe and /bin/sh suffice, so it works without prctl (macOS). A new
worker of the host calls `end_leftovers` itself before it claims, because the watcher may have died too.
"""

import contextlib
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from turbo.domain.visible import visible
from turbo.process.journal import Entry, Journal
from turbo.process.tree import ProcessTree, end_tree

log = logging.getLogger(__name__)

GRACE_SECONDS = 2.0
"""From TERM to KILL for a dead worker's programs. An agent CLI ends its tools in 1.3 s, and all must be gone in 5 s."""

_IMPORT_ROOT = Path(__file__).resolve().parents[2]
"""The directory that holds this turbo: the reaper must run the same one, installed or not."""

_WATCH = """
trap '' TERM INT HUP
if read -r word && [ "$word" = bye ]; then exit 0; fi
if [ ! -h "$0" ] && { [ -f "$0" ] || [ ! -e "$0" ]; } && true 2>/dev/null >>"$0"; then exec >>"$0" 2>&1; fi
exec "$@"
"""
# $0 is the log. The signals are ignored, in the reaper too: a service manager's stop reaches the whole control group,
# and the watcher must outlive the worker.


@dataclass(frozen=True, slots=True)
class EndedProcess:
    """One program that the reaper found. `pids` were alive; `survivors` still are."""

    entry: Entry
    pids: tuple[int, ...]
    survivors: tuple[int, ...]


def end_leftovers(journal_dir: Path, grace: float = GRACE_SECONDS) -> list[EndedProcess]:
    """End every program in the journal that still runs. Blocks for up to `grace` + 5 seconds.

    All programs get TERM, `grace` seconds, then KILL. Entries without a live process are removed, or kept to be counted.
    Safe beside another reaper on the same journal. Returns the programs that were still running.
    """
    journal = Journal(journal_dir)
    running: list[tuple[ProcessTree, tuple[int, ...], Iterator[float]]] = []
    for entry in journal.entries():
        try:
            tree = ProcessTree(entry)
            pids = tree.refresh()
        except OSError as error:  # for example, sudo does not let us any more
            log.error("cannot see whether %s of task %s still runs: %s", entry.program, entry.task_id, error)
            continue
        if pids:
            running.append((tree, pids, end_tree(tree, grace)))
        else:
            journal.ended(entry)
    unfinished = [steps for _, _, steps in running]
    while unfinished:
        delays = [(steps, _step(steps)) for steps in unfinished]
        unfinished = [steps for steps, delay in delays if delay is not None]
        time.sleep(min((delay for _, delay in delays if delay is not None), default=0.0))
    ended = [EndedProcess(tree.entry, pids, tree.living()) for tree, pids, _ in running]
    for program in ended:
        if not program.survivors:
            journal.ended(program.entry)
    return ended


def _step(steps: Iterator[float]) -> float | None:
    try:
        return next(steps, None)
    except OSError as error:
        log.error("cannot end a program of a dead worker: %s", error)
        return None


class ReaperWatcher:
    """One per worker process. `start` before the first program, `close` after the last one has ended."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: int | None = None
        self._journal: Journal | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def alive(self) -> bool:
        """Whether the watcher runs. Only a KILL of the watcher itself ends it early; then `start` again."""
        return self._process is not None and self._process.poll() is None

    def start(self, journal_dir: Path, *, grace: float = GRACE_SECONDS) -> None:
        """Raises OSError if it cannot be started; then programs could outlive this worker."""
        self._close_pipe()
        self._journal = Journal(journal_dir)
        reaper = [sys.executable, "-P", "-m", "turbo.process.reaper", str(journal_dir.resolve()), str(grace)]
        log = journal_dir.resolve().parent / "watcher.log"
        reading, self._pipe = os.pipe()
        _open_pipes.add(self._pipe)
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _WATCH, str(log), *reaper],
                stdin=reading,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                # Not the worker's environment: it may contain the password of the database.
                env={"PATH": os.defpath, "PYTHONPATH": os.pathsep.join([str(_IMPORT_ROOT), *_absolute(sys.path)])},
                start_new_session=True,
            )
        except OSError:
            self._close_pipe()
            raise
        finally:
            os.close(reading)

    def close(self) -> None:
        """Say goodbye. If the journal still has entries, leave those programs to the watcher. Idempotent."""
        if self._process is None or self._pipe is None:
            return
        if self._journal is not None and not self._journal.entries():
            with contextlib.suppress(BrokenPipeError):
                os.write(self._pipe, b"bye\n")
            self._close_pipe()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=2)
        self._close_pipe()
        if self._process.returncode is None:
            _active_reapers.append(self._process)
        self._process = None

    def _close_pipe(self) -> None:
        if self._pipe is not None:
            _open_pipes.discard(self._pipe)
            os.close(self._pipe)
            self._pipe = None


_active_reapers: list["subprocess.Popen[bytes]"] = []
_open_pipes: set[int] = set()


def _close_pipes_after_fork() -> None:
    """A forked child (multiprocessing in a handler) must not hold the pipe: it would hide the worker's death."""
    for pipe in _open_pipes:
        os.close(pipe)
    _open_pipes.clear()


os.register_at_fork(after_in_child=_close_pipes_after_fork)


def _absolute(paths: list[str]) -> list[str]:
    return [path for path in paths if Path(path).is_absolute()]


def main(arguments: list[str]) -> None:
    """`python -m turbo.process.reaper JOURNAL_DIR GRACE`: what the watcher becomes when its worker has died."""
    journal_dir, grace = Path(arguments[0]), float(arguments[1])
    now = time.strftime("%Y-%m-%d %H:%M:%S%z")
    ended = end_leftovers(journal_dir, grace)
    print(f"{now} the worker died without a goodbye; {len(ended)} of its programs were still running")
    for program in ended:
        entry = program.entry
        print(
            f"{now} ended {visible(entry.program) or 'a program'} of task {visible(entry.task_id)}: pids {_list(program.pids)}"
        )
        if program.survivors:
            print(f"{now} still running after KILL: pids {_list(program.survivors)} (see their state in ps)")


def _list(pids: tuple[int, ...]) -> str:
    return ", ".join(map(str, sorted(pids)))


if __name__ == "__main__":
    main(sys.argv[1:])
