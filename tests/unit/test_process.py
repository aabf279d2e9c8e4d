"""Running a program: what goes in, what comes out, what cannot start."""

import asyncio
import hashlib
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.processes import journalled, lives, python
from turbo.domain.run import StopSignal
from turbo.domain.states import StopCause
from turbo.process.journal import Journal
from turbo.process.running import Ending, ProcessResult, ProcessSpec, SpawnFailed, run_process

ENV = {"PATH": os.environ["PATH"], "A_NAME": "a value with = and ünïcode"}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal")


@pytest.fixture
def spec(tmp_path: Path) -> ProcessSpec:
    return ProcessSpec(argv=("true",), env=ENV, cwd=tmp_path, log_path=tmp_path / "logs" / "log", wall_seconds=60)


async def run(spec: ProcessSpec, journal: Journal, *argv: str, **more: object) -> ProcessResult:
    return await run_process(replace(spec, argv=argv, **more), stop=StopSignal(), journal=journal)  # type: ignore[arg-type]


# ── in ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_environment_is_exactly_what_was_given(spec: ProcessSpec, journal: Journal) -> None:
    result = await run(spec, journal, "env", "-0")
    found = dict(line.split(b"=", 1) for line in result.stdout.split(b"\0") if line)
    cookie = found.pop(b"TURBO_RUN")
    assert len(cookie) == 32
    assert found == {name.encode(): value.encode() for name, value in ENV.items()}


async def test_shell_variable_is_passed_on_when_given(spec: ProcessSpec, journal: Journal) -> None:
    result = await run(spec, journal, "env", env=ENV | {"SHLVL": "7"})
    assert b"SHLVL=7" in result.stdout or b"SHLVL=6" in result.stdout  # bash, as sh, counts down before an exec


async def test_nested_run_carries_both_cookies(
    spec: ProcessSpec, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURBO_RUN", "outer")
    result = await run(spec, journal, "printenv", "TURBO_RUN")
    outer, _, inner = result.stdout.decode().strip().partition(":")
    assert outer == "outer"
    assert len(inner) == 32


async def test_arguments_arrive_unchanged(spec: ProcessSpec, journal: Journal) -> None:
    arguments = ("a b", "$HOME", "*", "'\"", "", "line\nline", "--", "-c")
    result = await run(spec, journal, *python("import json, sys; print(json.dumps(sys.argv[1:]))", *arguments))
    assert json.loads(result.stdout) == list(arguments)


async def test_program_leads_its_own_session_and_group(spec: ProcessSpec, journal: Journal) -> None:
    code = "import os; print(os.getpid(), os.getpgid(0), os.getsid(0), os.getcwd())"
    result = await run(spec, journal, *python(code))
    pid = str(result.pid)
    assert result.stdout.decode().split() == [pid, pid, pid, str(spec.cwd)]


async def test_ten_megabytes_of_stdin_reach_a_program_writing_first(spec: ProcessSpec, journal: Journal) -> None:
    prompt = os.urandom(1024 * 1024) * 10
    code = """if True:
        import sys, hashlib
        sys.stdout.buffer.write(b"x" * 10_000_000)  # far more than a pipe holds, before the first read
        sys.stdout.flush()
        print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest(), file=sys.stderr)
    """
    result = await run(spec, journal, *python(code), stdin=prompt)
    assert result.ended_by is Ending.EXITED
    assert result.stderr_tail == hashlib.sha256(prompt).hexdigest()


async def test_program_that_ignores_stdin_is_not_waited_for(spec: ProcessSpec, journal: Journal) -> None:
    result = await run(spec, journal, *python("print('done')"), stdin=b"x" * 10_000_000)
    assert (result.returncode, result.stdout) == (0, b"done\n")


async def test_stdin_is_closed_even_when_empty(spec: ProcessSpec, journal: Journal) -> None:
    assert (await run(spec, journal, "cat")).ended_by is Ending.EXITED


async def test_stdin_can_be_opened_by_name(spec: ProcessSpec, journal: Journal) -> None:
    """A socket pair, asyncio's choice before 3.12, answers ENXIO."""
    assert (await run(spec, journal, "cat", "/dev/stdin", stdin=b"first\nsecond")).stdout == b"first\nsecond"


async def test_secret_is_handed_over_once_and_elsewhere(spec: ProcessSpec, journal: Journal) -> None:
    before = len(list(Path("/dev/fd").iterdir()))
    code = """if True:
        import os
        print(open(int(os.environ['FD'])).read())
        print(sorted(os.environ))
    """
    result = await run(spec, journal, *python(code), handed={"FD": "süß"})
    lines = result.stdout.decode().splitlines()
    assert lines[0] == "süß"
    assert "FD" in lines[1]
    assert len(list(Path("/dev/fd").iterdir())) == before
    assert "süß" not in repr(replace(spec, handed={"FD": "süß"}))
    for env, handed in ((ENV, {"FD": "x" * 5000}), (ENV | {"A": "\0"}, {"FD": "x"})):
        with pytest.raises(SpawnFailed) as refused:
            await run(spec, journal, "true", env=env, handed=handed)
        assert "xxxxx" not in str(refused.value)
    assert len(list(Path("/dev/fd").iterdir())) == before
    assert journal.entries() == []


async def test_program_inherits_only_three_descriptors(spec: ProcessSpec, journal: Journal) -> None:
    others = [os.open("/dev/null", os.O_RDONLY) for _ in range(3)]
    code = """if True:
        import os
        def is_open(descriptor):
            try: os.fstat(descriptor)
            except OSError: return False
            return True
        print([number for number in range(3, 200) if is_open(number)])
    """
    result = await run(spec, journal, *python(code))
    for descriptor in others:
        os.close(descriptor)
    assert result.stdout == b"[]\n"


# ── out ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_lines_are_whole_and_long_ones_are_cut_and_flagged(spec: ProcessSpec, journal: Journal) -> None:
    lines: list[tuple[bytes, bool]] = []
    code = r"""if True:
        import sys, time
        out = sys.stdout.buffer
        for piece in (b"one\ntw", b"o\n\n", b"x" * 100_000 + b"\nafter\n", b"\xff\xfe\x00", b"\r\nlast"):
            out.write(piece); out.flush(); time.sleep(0.02)
    """
    await run_process(
        replace(spec, argv=python(code), line_bytes=1000),
        stop=StopSignal(),
        journal=journal,
        on_line=lambda line, cut: lines.append((line, cut)),
    )
    assert lines == [
        (b"one", False),
        (b"two", False),
        (b"", False),
        (b"x" * 1000, True),
        (b"after", False),
        (b"\xff\xfe\x00\r", False),
        (b"last", False),
    ]


async def test_head_of_stdout_and_tail_of_stderr_are_kept(spec: ProcessSpec, journal: Journal) -> None:
    code = r"""if True:
        import sys
        sys.stdout.write("".join(f"out {n}\n" for n in range(5000)))
        sys.stderr.write("".join(f"err {n}\n" for n in range(5000)))
    """
    result = await run(spec, journal, *python(code), stdout_bytes=1000, stderr_bytes=1000)
    assert len(result.stdout) == 1000
    assert result.stdout_cut
    assert result.stdout.startswith(b"out 0\n")
    assert result.stderr_tail.endswith("err 4999")
    assert result.stderr_tail.startswith("err ")  # whole lines
    assert len(result.stderr_tail) <= 1000
    exactly = await run(spec, journal, *python("print('x' * 999)"), stdout_bytes=1000)
    assert (len(exactly.stdout), exactly.stdout_cut) == (1000, False)


async def test_hundred_megabytes_need_bounded_memory_and_log(tmp_path: Path) -> None:
    """In a process of its own, whose peak is its own."""
    program = """if True:
        import asyncio, os, resource, sys
        from pathlib import Path
        from turbo.domain.run import StopSignal
        from turbo.process.journal import Journal
        from turbo.process.running import ProcessSpec, run_process
        here = Path(sys.argv[1])
        writer = "import os, sys; [os.write(1, b'0123456789' * 6553 + b'end.') for _ in range(1600)]"
        sizes = []
        def spec(code):
            argv = (sys.executable, "-S", "-E", "-c", code)
            return ProcessSpec(argv, dict(os.environ), here, here / "log", wall_seconds=300, head_bytes=1_000_000)
        async def main():
            async def peak(code):
                result = await run_process(spec(code), stop=StopSignal(), journal=Journal(here / "journal"),
                                           on_line=lambda line, cut: sizes.append((len(line), cut)))
                assert result.returncode == 0, result
                return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            before = await peak("print()")
            after = await peak(writer)
            print((after - before) // (1 if sys.platform == "linux" else 1024), sizes[-1])
        asyncio.run(main())
    """
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await child.communicate()
    grown_kib, _, line = out.decode().strip().partition(" ")
    assert line == "(8388608, True)"  # all of it was one line
    assert int(grown_kib) < 40_000
    assert (tmp_path / "log").stat().st_size < 1_000_000 + 300 * 1024 + 1000


async def test_log_holds_both_streams_in_whole_lines(spec: ProcessSpec, journal: Journal) -> None:
    code = r"""if True:
        import sys, time
        def say(stream, text):
            stream.write(text); stream.flush(); time.sleep(0.05)
        say(sys.stdout, "begun "); say(sys.stderr, "a warning\n")
        say(sys.stdout, "and ended\n"); say(sys.stderr, "no end")
    """
    result = await run(spec, journal, *python(code))
    assert result.log_path == spec.log_path
    assert spec.log_path.read_text() == "[stderr] a warning\nbegun and ended\n[stderr] no end\n"
    assert spec.log_path.stat().st_mode & 0o777 == 0o600


async def test_silent_program_has_a_log_too(spec: ProcessSpec, journal: Journal) -> None:
    await run(spec, journal, "true")
    assert spec.log_path.read_bytes() == b""


async def test_full_log_keeps_head_and_tail_and_is_marked(spec: ProcessSpec, journal: Journal) -> None:
    code = r"""for n in range(2000): print(f"line {n:04}")"""  # 20,000 bytes
    await run(spec, journal, *python(code), head_bytes=100, tail_bytes=50)
    lines = spec.log_path.read_text().splitlines()
    assert lines[:10] == [f"line {n:04}" for n in range(10)]
    assert lines[-5:] == [f"line {n:04}" for n in range(1995, 2000)]
    assert "[turbo] 19850 bytes are left out here" in lines
    assert len(lines) < 20


async def test_unwritable_log_does_not_end_the_run(spec: ProcessSpec, journal: Journal) -> None:
    spec.log_path.parent.write_text("a file where the directory should be")
    result = await run(spec, journal, *python("print('done')"))
    assert (result.stdout, result.log_path) == (b"done\n", None)


async def test_ending_is_described_for_people(spec: ProcessSpec, journal: Journal) -> None:
    assert (await run(spec, journal, "sh", "-c", "exit 3")).exit_text == "exit code 3"
    killed = await run(spec, journal, "sh", "-c", "kill -SEGV $$")
    assert (killed.exit_text, killed.ended_by) == ("SIGSEGV", Ending.EXITED)


# ── what cannot start ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_missing_program_is_named_with_the_path_searched(spec: ProcessSpec, journal: Journal) -> None:
    with pytest.raises(
        SpawnFailed, match=r"cannot start no-such-program: not found on the PATH searched: /nowhere:/bin"
    ):
        await run(spec, journal, "no-such-program", env={"PATH": "/nowhere:/bin"})
    with pytest.raises(SpawnFailed, match=r"cannot start \./missing: no such file under"):
        await run(spec, journal, "./missing")
    with pytest.raises(SpawnFailed, match=r"cannot start /no/such: no such file$"):
        await run(spec, journal, "/no/such")


async def test_non_executable_program_is_named(spec: ProcessSpec, journal: Journal) -> None:
    script = spec.cwd / "script"
    script.write_text("#!/bin/sh\n")
    with pytest.raises(SpawnFailed, match=r"script is not executable \(chmod \+x\?\)"):
        await run(spec, journal, "./script")
    with pytest.raises(SpawnFailed, match="is a directory"):
        await run(spec, journal, str(spec.cwd))


async def test_missing_working_directory_is_named(spec: ProcessSpec, journal: Journal) -> None:
    with pytest.raises(SpawnFailed, match=r"working directory .*/gone does not exist"):
        await run(spec, journal, "true", cwd=spec.cwd / "gone")


async def test_exec_failure_after_launch_is_a_failed_spawn(spec: ProcessSpec, journal: Journal) -> None:
    script = spec.cwd / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    with pytest.raises(SpawnFailed, match=r"cannot start \./script: .*(not found|bad interpreter|required file)"):
        await run(spec, journal, "./script")
    assert journalled(journal.directory) == []


async def test_program_that_exits_127_did_start(spec: ProcessSpec, journal: Journal) -> None:
    result = await run(spec, journal, "sh", "-c", "echo turbo-launch-x: not found >&2; exit 127")
    assert result.returncode == 127


async def test_too_long_arguments_are_reported(spec: ProcessSpec, journal: Journal) -> None:
    with pytest.raises(SpawnFailed, match="too long for this system") as failed:
        await run(spec, journal, "echo", *["x" * 100_000] * 200)
    assert failed.value.errno == 7


async def test_failed_spawn_without_descriptors_leaks_none(tmp_path: Path) -> None:
    """In a process of its own, which may run out of them."""
    program = """if True:
        import asyncio, os, resource, sys
        from pathlib import Path
        from turbo.domain.run import StopSignal
        from turbo.process.journal import Journal
        from turbo.process.running import ProcessSpec, SpawnFailed, run_process
        here = Path(sys.argv[1])
        spec = ProcessSpec(("true",), dict(os.environ), here, here / "log", wall_seconds=300)
        async def one():
            try:
                return (await run_process(spec, stop=StopSignal(), journal=Journal(here / "journal"))).returncode
            except SpawnFailed as failed:
                return str(failed)
        async def main():
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
            assert await one() == 0
            before = set(map(int, os.listdir("/dev/fd")))
            hoard = []
            try:
                while True: hoard.append(os.dup(0))
            except OSError: pass
            seen = []
            for spare in range(12):
                seen.append(await one())
                os.close(hoard.pop())
            print(seen[0])
            for descriptor in hoard: os.close(descriptor)
            assert await one() == 0
            print("open:", sorted(map(int, os.listdir("/dev/fd"))), sorted(before))
        asyncio.run(main())
    """
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(tmp_path), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await child.communicate()
    first, _, still_open = out.decode().partition("open:")
    assert "no file descriptor left" in first, err.decode()
    now, _, before = still_open.strip().partition("] ")
    assert f"{now}]" == before
    assert child.returncode == 0, err.decode()


# ── the journal comes first ─────────────────────────────────────────────────────────────────────────────────────────


async def test_program_finds_itself_in_the_journal(spec: ProcessSpec, journal: Journal) -> None:
    """As its first act. So there is no moment in which it runs and nobody knows."""
    code = "import os, sys, pathlib; print(os.getpid(), *[p.read_text() for p in pathlib.Path(sys.argv[1]).iterdir()])"
    for _ in range(5):
        result = await run(spec, journal, *python(code, str(journal.directory)), task_id="a task")
        pid, _, entry = result.stdout.decode().partition(" ")
        known = json.loads(entry)
        assert (str(known["pid"]), known["task_id"]) == (pid, "a task")
        assert known["start"] > 0
        assert journalled(journal.directory) == []


async def test_program_that_cannot_be_journalled_does_not_run(spec: ProcessSpec, journal: Journal) -> None:
    journal.directory.write_text("a file where the directory should be")
    with pytest.raises(SpawnFailed, match="journal entry cannot be written"):
        await run(spec, journal, "touch", "ran")
    assert not (spec.cwd / "ran").exists()


async def test_worker_killed_before_launch_leaves_no_program(tmp_path: Path) -> None:
    program = """if True:
        import os, signal, sys
        from pathlib import Path
        from turbo.process.journal import Journal
        from turbo.process.launch import launch
        here = Path(sys.argv[1])
        held = launch(("touch", "ran"), env=dict(os.environ), cwd=here, journal=Journal(here / "journal"))
        print(held.popen.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await child.communicate()
    for _ in range(500):
        if not lives(int(out)):
            break
        await asyncio.sleep(0.01)
    assert not lives(int(out))
    assert not (tmp_path / "ran").exists()
    assert len(journalled(tmp_path / "journal")) == 1


async def test_stopped_run_starts_nothing(spec: ProcessSpec, journal: Journal) -> None:
    stop = StopSignal()
    stop.set(StopCause.CANCEL)
    result = await run_process(replace(spec, argv=("touch", "ran")), stop=stop, journal=journal)
    assert (result.ended_by, result.returncode) == (Ending.STOPPED, None)
    assert not (spec.cwd / "ran").exists()
