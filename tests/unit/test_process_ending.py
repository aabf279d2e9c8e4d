"""However a run ends, nothing of it is left, and its result does not wait for what cannot be ended."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.processes import FAMILY, Saved, journalled, kill, lives, python
from tests.support.waiting import until, until_async
from turbo.domain.run import StopSignal
from turbo.domain.states import StopCause
from turbo.process.journal import Journal
from turbo.process.running import Ending, ProcessResult, ProcessSpec, run_process


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal")


@pytest.fixture
def spec(tmp_path: Path) -> ProcessSpec:
    return ProcessSpec(
        argv=("true",),
        env={"PATH": os.environ["PATH"]},
        cwd=tmp_path,
        log_path=tmp_path / "log",
        wall_seconds=60,
        grace_seconds=0.5,
    )


@pytest.fixture
def family() -> Iterator[Saved]:
    saved = Saved()
    yield saved
    kill(saved.pids.values())


class Begun:
    """A run of the family that goes on in the background, once its pids are known."""

    def __init__(self, spec: ProcessSpec, journal: Journal, family: Saved) -> None:
        self.stop = StopSignal()
        self.enough = asyncio.Event()
        self.task: asyncio.Task[ProcessResult] = asyncio.create_task(
            run_process(spec, stop=self.stop, journal=journal, on_line=family.line, enough=self.enough)
        )


async def begun(spec: ProcessSpec, journal: Journal, family: Saved, *words: str) -> Begun:
    run = Begun(replace(spec, argv=python(FAMILY, *words)), journal, family)
    await until_async(lambda: family.pids or run.task.done(), what="the family's pids")
    assert set(family.living()) == {"program", "group", "tool", "daemon"}
    return run


# ── limits ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_wall_clock_ends_a_program_and_its_family(spec: ProcessSpec, journal: Journal, family: Saved) -> None:
    run = await begun(replace(spec, wall_seconds=2), journal, family)
    result = await run.task
    assert (result.ended_by, result.returncode) == (Ending.WALL, -signal.SIGTERM)
    assert family.living() == []
    assert journalled(journal.directory) == []


async def test_silence_ends_a_program(spec: ProcessSpec, journal: Journal, family: Saved) -> None:
    run = await begun(replace(spec, silence_seconds=1), journal, family)
    assert (await run.task).ended_by is Ending.SILENT
    assert family.living() == []


async def test_output_on_either_stream_is_not_silence(spec: ProcessSpec, journal: Journal) -> None:
    code = """if True:
        import sys, time
        for n in range(10):
            print(n, file=(sys.stdout, sys.stderr)[n % 2], flush=True); time.sleep(0.2)
    """
    result = await run_process(
        replace(spec, argv=python(code), silence_seconds=1.5), stop=StopSignal(), journal=journal
    )
    assert (result.ended_by, result.returncode) == (Ending.EXITED, 0)
    assert result.seconds > 1.5


async def test_program_that_ignores_term_is_killed_after_the_grace(
    spec: ProcessSpec, journal: Journal, family: Saved
) -> None:
    run = await begun(spec, journal, family, "stubborn")
    asked = time.monotonic()
    run.stop.set(StopCause.CANCEL)
    result = await run.task
    assert (result.ended_by, result.returncode) == (Ending.STOPPED, -signal.SIGKILL)
    assert time.monotonic() - asked >= spec.grace_seconds
    assert family.living() == []


async def test_program_that_obeys_term_may_finish_in_the_grace(spec: ProcessSpec, journal: Journal) -> None:
    # os.write: TERM may come while a print() is still flushing, which a print() in the handler must not enter again.
    code = """if True:
        import os, signal, sys, time
        def leave(*_): time.sleep(0.3); os.write(1, b"tidied up\\n"); sys.exit(7)
        signal.signal(signal.SIGTERM, leave)
        os.write(1, b"ready\\n")
        time.sleep(1000)
    """
    stop = StopSignal()
    result = await run_process(
        replace(spec, argv=python(code), grace_seconds=30),
        stop=stop,
        journal=journal,
        on_line=lambda line, _: stop.set(StopCause.CANCEL) if line == b"ready" else None,
    )
    assert (result.ended_by, result.returncode, result.stdout) == (Ending.STOPPED, 7, b"ready\ntidied up\n")


async def test_term_goes_only_to_the_group_during_the_grace(spec: ProcessSpec, journal: Journal) -> None:
    """An agent reports what became of its tools; a tool killed behind its back looks like the tool's failure."""
    code = """if True:
        import os, signal, subprocess, sys, time
        code = "import time; print('tool ready', flush=True); time.sleep(1000)"
        tool = subprocess.Popen([sys.executable, "-S", "-E", "-c", code], start_new_session=True)
        def leave(*_):
            time.sleep(0.3)
            print("tool", tool.poll(), flush=True)
            tool.kill(); os._exit(0)
        signal.signal(signal.SIGTERM, leave)
        time.sleep(1000)
    """
    stop = StopSignal()
    result = await run_process(
        replace(spec, argv=python(code), grace_seconds=30),
        stop=stop,
        journal=journal,
        on_line=lambda line, _: stop.set(StopCause.CANCEL) if line == b"tool ready" else None,
    )
    assert result.stdout == b"tool ready\ntool None\n"


async def test_suspended_program_receives_term(spec: ProcessSpec, journal: Journal, family: Saved) -> None:
    run = await begun(replace(spec, grace_seconds=30), journal, family)
    os.kill(family.pids["program"], signal.SIGSTOP)
    run.stop.set(StopCause.CANCEL)
    assert (await run.task).returncode == -signal.SIGTERM


# ── what is left behind ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("words", [(), ("holding",), ("stubborn", "holding")])
async def test_leftover_processes_are_ended(
    words: tuple[str, ...], spec: ProcessSpec, journal: Journal, family: Saved
) -> None:
    result = await run_process(
        replace(spec, argv=python(FAMILY, "leaving", *words)), stop=StopSignal(), journal=journal, on_line=family.line
    )
    assert (result.ended_by, result.returncode, result.survivors) == (Ending.EXITED, 0, ())
    assert set(family.pids) == {"program", "group", "tool", "daemon"}
    assert family.living() == []
    assert journalled(journal.directory) == []


async def test_children_without_a_cookie_are_found_by_their_parent(
    spec: ProcessSpec, journal: Journal, family: Saved
) -> None:
    run = await begun(replace(spec, grace_seconds=30), journal, family, "bare")
    run.stop.set(StopCause.CANCEL)
    assert (await run.task).returncode == -signal.SIGTERM
    assert family.living() == []


async def test_group_is_known_after_its_leader_has_ended(spec: ProcessSpec, journal: Journal, family: Saved) -> None:
    """By nothing else: no cookie, and its parent is gone."""
    code = """if True:
        import json, os, subprocess, sys
        child = subprocess.Popen([sys.executable, "-S", "-E", "-c", "import time; time.sleep(1000)"], env={})
        print(json.dumps({"group": child.pid}), flush=True)
        os._exit(0)
    """
    await run_process(replace(spec, argv=python(code)), stop=StopSignal(), journal=journal, on_line=family.line)
    assert set(family.pids) == {"group"}
    assert family.living() == []


async def test_hidden_holder_of_stdout_delays_a_result_only_briefly(
    spec: ProcessSpec, journal: Journal, family: Saved
) -> None:
    """No parent, no group, no cookie: such a process is beyond finding, and keeps the pipe open."""
    code = """if True:
        import json, os, subprocess, sys
        reading, writing = os.pipe()
        if os.fork() == 0:
            lost = subprocess.Popen([sys.executable, "-S", "-E", "-c", "import time; time.sleep(1000)"],
                                    env={}, start_new_session=True)
            os.write(writing, b"%d" % lost.pid)
            os._exit(0)
        print(json.dumps({"lost": int(os.read(reading, 20))}), flush=True)
        os.wait()
    """
    async with asyncio.timeout(30):
        result = await run_process(
            replace(spec, argv=python(code), wall_seconds=1000), stop=StopSignal(), journal=journal, on_line=family.line
        )
    assert (result.ended_by, result.returncode) == (Ending.EXITED, 0)
    assert family.living() == ["lost"], "the fault did not bite: it was found after all"


async def test_program_that_closes_its_output_is_waited_for(spec: ProcessSpec, journal: Journal) -> None:
    code = "import os, time; os.close(1); os.close(2); time.sleep(1); os._exit(9)"
    result = await run_process(replace(spec, argv=python(code)), stop=StopSignal(), journal=journal)
    assert (result.ended_by, result.returncode) == (Ending.EXITED, 9)
    assert result.seconds >= 1


async def test_output_written_just_before_exit_is_kept(
    spec: ProcessSpec, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long reading it takes: the program has long ended when the last of it is read."""
    monkeypatch.setattr("turbo.process.running.READ_BYTES", 1024)
    code = """if True:
        import os
        os.write(1, (b"x" * 999 + b"\\n") * 60)
    """
    result = await run_process(
        replace(spec, argv=python(code)),
        stop=StopSignal(),
        journal=journal,
        on_line=lambda _line, _cut: time.sleep(0.005),
    )
    assert len(result.stdout) == 60_000


async def test_unrelated_processes_are_left_alone(spec: ProcessSpec, journal: Journal, family: Saved) -> None:
    bystander = await asyncio.create_subprocess_exec("sleep", "1000")
    run = await begun(spec, journal, family)
    run.stop.set(StopCause.CANCEL)
    await run.task
    assert bystander.returncode is None
    assert lives(bystander.pid)
    bystander.kill()
    await bystander.wait()


# ── the caller's own ends ───────────────────────────────────────────────────────────────────────────────────────────


async def test_caller_can_end_a_program_early(spec: ProcessSpec, journal: Journal, family: Saved) -> None:
    run = await begun(spec, journal, family)
    run.enough.set()
    assert (await run.task).ended_by is Ending.ENOUGH
    assert family.living() == []


async def test_exception_in_on_line_ends_the_program_and_propagates(
    spec: ProcessSpec, journal: Journal, family: Saved
) -> None:
    def line(line: bytes, cut: bool) -> None:
        family.line(line, cut)
        raise KeyError("a defect")

    with pytest.raises(KeyError, match="a defect"):
        await run_process(replace(spec, argv=python(FAMILY)), stop=StopSignal(), journal=journal, on_line=line)
    assert family.living() == []
    assert journalled(journal.directory) == []


async def test_exception_in_on_start_ends_the_program_and_propagates(spec: ProcessSpec, journal: Journal) -> None:
    pids: list[int] = []

    def started(pid: int) -> None:
        pids.append(pid)
        raise KeyError("a defect")

    with pytest.raises(KeyError, match="a defect"):
        await run_process(replace(spec, argv=("sleep", "1000")), stop=StopSignal(), journal=journal, on_start=started)
    assert not lives(pids[0])


async def test_cancellation_leaves_nothing_running(spec: ProcessSpec, journal: Journal, family: Saved) -> None:
    run = await begun(spec, journal, family)
    run.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run.task
    assert family.living() == []
    assert journalled(journal.directory) == []


async def test_second_cancellation_skips_the_grace(spec: ProcessSpec, journal: Journal, family: Saved) -> None:
    run = await begun(replace(spec, grace_seconds=1000), journal, family, "stubborn")
    run.task.cancel()
    await asyncio.sleep(0.2)
    assert not run.task.done(), "the fault did not bite: it obeyed"
    run.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run.task
    assert family.living() == []


async def test_end_of_the_event_loop_leaves_nothing_running(tmp_path: Path, family: Saved) -> None:
    """asyncio.run cancels what still runs: here its main function has returned already."""
    program = """if True:
        import asyncio, os, sys
        from pathlib import Path
        from turbo.domain.run import StopSignal
        from turbo.process.journal import Journal
        from turbo.process.running import ProcessSpec, run_process
        here, family = Path(sys.argv[1]), sys.argv[2]
        async def main():
            seen = asyncio.Event()
            def line(text, cut):
                print(text.decode(), flush=True); seen.set()
            spec = ProcessSpec((sys.executable, "-S", "-E", "-c", family), dict(os.environ), here, here / "log",
                               wall_seconds=300, grace_seconds=1)
            background = asyncio.create_task(run_process(spec, stop=StopSignal(), journal=Journal(here / "journal"),
                                                         on_line=line))
            await seen.wait()
        asyncio.run(main())
    """
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(tmp_path), FAMILY, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await child.communicate()
    family.line(out)
    assert len(family.pids) == 4
    assert family.living() == []


async def test_ten_programs_end_together(spec: ProcessSpec, journal: Journal) -> None:
    """A drain with ten stubborn agents takes one grace, not ten."""
    families = [Saved() for _ in range(10)]
    stops = []
    tasks = []
    for saved in families:
        stop = StopSignal()
        stops.append(stop)
        tasks.append(
            asyncio.create_task(
                run_process(
                    replace(spec, argv=python(FAMILY, "stubborn"), grace_seconds=3),
                    stop=stop,
                    journal=journal,
                    on_line=saved.line,
                )
            )
        )
    await until_async(lambda: all(saved.pids for saved in families), what="ten families", seconds=60)
    asked = time.monotonic()
    for stop in stops:
        stop.set(StopCause.DRAIN)
    results = await asyncio.gather(*tasks)
    assert {result.returncode for result in results} == {-signal.SIGKILL}
    assert time.monotonic() - asked < 20  # ten graces would be thirty
    assert [pid for saved in families for pid in saved.living()] == []


async def test_no_descriptor_or_thread_is_left(spec: ProcessSpec, journal: Journal) -> None:
    import threading

    async def one() -> None:
        await run_process(replace(spec, argv=("cat",), stdin=b"x" * 200_000), stop=StopSignal(), journal=journal)

    await one()
    until(lambda: not [t for t in threading.enumerate() if t.name.startswith("turbo-wait")], what="no thread waits")
    descriptors = len(list(Path("/dev/fd").iterdir()))
    for _ in range(20):
        await one()
    until(lambda: not [t for t in threading.enumerate() if t.name.startswith("turbo-wait")], what="no thread waits")
    assert len(list(Path("/dev/fd").iterdir())) == descriptors
