"""A program whose stdin stays open while it runs."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from turbo.domain.run import StopSignal
from turbo.domain.states import StopCause
from turbo.process.journal import Journal
from turbo.process.running import Ending, ProcessSpec, run_process
from turbo.process.stdin import OpenStdin

ECHO = "import sys\nfor line in sys.stdin: print(len(line), line[:5].strip(), flush=True)\nprint('over', flush=True)"


@pytest.fixture
def spec(tmp_path: Path) -> ProcessSpec:
    return ProcessSpec(
        argv=(sys.executable, "-c", ECHO),
        env={"PATH": os.environ["PATH"]},
        cwd=tmp_path,
        log_path=tmp_path / "log",
        wall_seconds=60,
        stdin=b"first\n",
    )


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal")


async def test_lines_follow_one_another_until_it_is_closed(spec: ProcessSpec, journal: Journal) -> None:
    stdin, lines = OpenStdin(), []

    def on_line(line: bytes, cut: bool) -> None:
        assert not cut
        lines.append(line)
        if len(lines) == 1:
            stdin.write(b"x" * 1_000_000)  # more than a pipe holds
            stdin.write(b"\n")
        elif len(lines) == 2:
            stdin.write(b"last\n")
            stdin.close()
            stdin.write(b"too late\n")

    result = await run_process(spec, stop=StopSignal(), journal=journal, on_line=on_line, more_stdin=stdin)
    assert lines == [b"6 first", b"1000001 xxxxx", b"5 last", b"over"]
    assert (result.ended_by, result.returncode) == (Ending.EXITED, 0)


async def test_open_stdin_holds_up_no_stop(spec: ProcessSpec, journal: Journal) -> None:
    stop, stdin = StopSignal(), OpenStdin()
    begun = asyncio.Event()
    job = asyncio.create_task(
        run_process(spec, stop=stop, journal=journal, on_line=lambda *_: begun.set(), more_stdin=stdin)
    )
    await begun.wait()
    stop.set(StopCause.CANCEL)
    assert (await job).ended_by is Ending.STOPPED
    assert stdin.closed
    stdin.write(b"no effect")


async def test_program_that_reads_nothing_costs_bounded_memory(spec: ProcessSpec, journal: Journal) -> None:
    stdin = OpenStdin(most_unread=1_000_000)

    def on_line(_line: bytes, _cut: bool) -> None:
        stdin.write(b"x" * 600_000)

    deaf = ProcessSpec(
        (sys.executable, "-c", "import time; [print(n, flush=True) for n in range(3)]; time.sleep(60)"),
        spec.env,
        spec.cwd,
        spec.log_path,
        60,
        grace_seconds=0.1,
    )
    with pytest.raises(BufferError, match="600000 bytes"):
        await run_process(deaf, stop=StopSignal(), journal=journal, on_line=on_line, more_stdin=stdin)
