"""The python executor with `isolation: thread` and `isolation: process`: the same answers, and limits that hold."""

import asyncio
import json
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.configs import config_of
from tests.support.waiting import gone, until_async
from turbo.config.worker import ConfigError, load_worker_config
from turbo.domain.outcome import FailureKind, OutcomeKind
from turbo.domain.question import Answered, Choice
from turbo.domain.run import Run, StopSignal
from turbo.domain.states import StopCause
from turbo.domain.task import Task
from turbo.domain.work import Continued, Earlier, Message, Need
from turbo.executors.protocol import Executor
from turbo.executors.python_process import PythonProcess
from turbo.executors.python_thread import PythonThread
from turbo.executors.registry import build_executors
from turbo.process.journal import Journal

Make = Callable[..., Executor]


@pytest.fixture(params=["thread", "process"])
def isolation(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, isolation: str) -> Iterator[Make]:
    """Writes a module with a handler and builds its executor from a section of worker.yaml."""
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    (tmp_path / "modules").mkdir()
    module = f"isolated_{tmp_path.name.replace('-', '_')}"

    def build(code: str, grace_seconds: float = 0.3, **section: object) -> Executor:
        (tmp_path / "modules" / f"{module}.py").write_text("import asyncio, os, time\n" + textwrap.dedent(code))
        light = {
            "kind": "python",
            "handler": f"{module}:handler",
            "isolation": isolation,
            "grace_seconds": grace_seconds,
            **section,
        }
        config = config_of(tmp_path, executors={"light": light}, routes={"default": "light"})
        return build_executors(config, Journal(tmp_path / "journal"))["light"]

    yield build
    sys.modules.pop(module, None)


class Runs:
    """Runs tasks; `rest` holds what went on after a run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rest: list[asyncio.Future[None]] = []
        self.pids: list[int] = []

    def of(self, **more: object) -> Run:
        fields: dict[str, object] = {
            "task_id": "t1",
            "task_type": "light",
            "task_description": "do",
            "timeout_seconds": 30.0,
        }
        return Run(
            Task(**(fields | more)),  # type: ignore[arg-type]
            self.path / "work",
            self.path / "logs" / "log",
            stop=StopSignal(),
            started=self.pids.append,
            goes_on=self.rest.append,
        )


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


@pytest.mark.parametrize("prefix", ["def", "async def"])
async def test_handler_gets_the_task_and_its_value_is_output(prefix: str, make: Make, runs: Runs) -> None:
    executor = make(f"""
        {prefix} handler(task):
            print("said on the way")
            return [task.task_id, task.input_data, task.attempt, task.timeout_seconds]
    """)
    outcome = await executor.run(runs.of(input_data={"a": "ü\ud800"}, retry_count=1))
    assert (outcome.kind, outcome.output) == (OutcomeKind.SUCCEEDED, ["t1", {"a": "ü\ud800"}, 2, 30.0])
    assert runs.rest == []
    assert len(runs.pids) == 1


async def test_handler_gets_needs_conversation_and_messages(make: Make, runs: Runs) -> None:
    executor = make("""
        def handler(task):
            before, (message,) = task.continued, task.messages
            found = [(name, need.status, need.output) for name, need in task.needs.items()]
            return [found, before.task_id, before.output, before.earlier[0].text, message.body, task.directory_id]
    """)
    continued = Continued("t0", "done", "first", earlier=(Earlier("first", "Begin", "begun"),))
    work = {"needs": {"plan": Need("failed", [1])}, "continued": continued, "messages": (Message(1, "hi", "ann"),)}
    outcome = await executor.run(runs.of(**work))
    found = json.loads(json.dumps(outcome.output))
    assert found == [[["plan", "failed", [1]]], "t0", "done", "Begin", "hi", "first"], outcome


@pytest.mark.parametrize("raised", ["LookupError('no such thing')", "SystemExit(3)", "asyncio.CancelledError()"])
@pytest.mark.parametrize("prefix", ["def", "async def"])
async def test_exception_fails_the_task_and_logs_its_traceback(
    raised: str, prefix: str, make: Make, runs: Runs
) -> None:
    outcome = await make(f"{prefix} handler(task): raise {raised}").run(runs.of())
    assert (outcome.kind, outcome.failure_kind) == (OutcomeKind.FAILED, FailureKind.ERROR)
    if "Lookup" in raised:
        assert outcome.error == "LookupError: no such thing"
    assert "in handler" in (runs.path / "logs" / "log").read_text()


async def test_unserializable_result_is_a_clear_failure(make: Make, runs: Runs) -> None:
    outcome = await make("def handler(task): return object()").run(runs.of())
    assert outcome.kind is OutcomeKind.FAILED
    assert "returned a value that is not JSON: " in (outcome.error or "")


async def test_blocking_handler_keeps_its_timeout(make: Make, runs: Runs, isolation: str) -> None:
    """And the loop answers meanwhile."""
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    begun = time.monotonic()
    outcome = await make("def handler(task): time.sleep(5)").run(runs.of(timeout_seconds=0.5))
    ticking.cancel()
    assert time.monotonic() - begun < 4.9
    assert ticks > 10
    assert (outcome.kind, outcome.failure_kind) == (OutcomeKind.TIMED_OUT, FailureKind.TIMED_OUT)
    assert "after 0.5 s (timeout_seconds)" in (outcome.error or "")
    if isolation == "process":
        assert runs.rest == []
        assert gone(runs.pids[0])
    else:
        assert "its thread goes on" in (outcome.error or "")
        (rest,) = runs.rest
        await asyncio.wait_for(rest, 30)
        # `rest` is its last word, said before it ends.
        await until_async(lambda: not any(thread.name == "run of task t1" for thread in threading.enumerate()))


@pytest.mark.parametrize("prefix", ["def", "async def"])
async def test_stop_ends_a_handler(prefix: str, make: Make, runs: Runs, isolation: str) -> None:
    wait = "time.sleep(2)" if prefix == "def" else "await asyncio.sleep(100)"
    executor = make(f"""
        {prefix} handler(task):
            open(task.input_data, "w").close()
            {wait}
    """)
    flag = runs.path / "begun"
    this = runs.of(input_data=str(flag))
    running = asyncio.create_task(executor.run(this))
    await until_async(flag.exists)
    this.stop.set(StopCause.CANCEL)
    outcome = await asyncio.wait_for(running, 10)
    assert outcome.kind is OutcomeKind.CANCELLED
    assert (outcome.error or "").startswith("ended on request: cancel")
    assert bool(runs.rest) == (isolation == "thread" and prefix == "def"), "only a thread that blocks goes on"
    for rest in runs.rest:
        await asyncio.wait_for(rest, 30)


async def test_async_handler_may_clean_up_at_its_timeout(make: Make, runs: Runs) -> None:
    executor = make(
        """
        async def handler(task):
            try:
                await asyncio.sleep(100)
            finally:
                await asyncio.sleep(0.05)
                open(task.input_data, "w").close()
    """,
        grace_seconds=5,
    )
    outcome = await executor.run(runs.of(input_data=str(runs.path / "tidy"), timeout_seconds=1))
    assert outcome.kind is OutcomeKind.TIMED_OUT
    assert (runs.path / "tidy").exists()
    assert runs.rest == []


@pytest.mark.parametrize("isolation", ["process"], indirect=True)
async def test_process_has_the_environment_of_programs(make: Make, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the worker's secrets nor its database: what a handler's own programs inherit is no more."""
    monkeypatch.setenv("TURBO_DSN", "postgresql://secret@db/turbo")
    monkeypatch.setenv("PGPASSWORD", "secret")
    monkeypatch.setenv("WORKERS_OWN", "secret")
    executor = make("def handler(task): return [dict(os.environ), os.getcwd()]", env={"GIVEN": "yes"})
    outcome = await executor.run(runs.of())
    assert isinstance(outcome.output, list)
    environment, directory = outcome.output
    assert not {"TURBO_DSN", "PGPASSWORD", "WORKERS_OWN", "PYTHONPATH"} & environment.keys()
    assert (environment["GIVEN"], environment["TURBO_TASK_ID"], environment["TURBO_ATTEMPT"]) == ("yes", "t1", "1")
    assert directory == str(runs.path / "work")


@pytest.mark.parametrize("isolation", ["process"], indirect=True)
async def test_process_that_dies_fails_its_task_alone(make: Make, runs: Runs) -> None:
    outcome = await make("def handler(task): os.kill(os.getpid(), 11)").run(runs.of())
    assert outcome.kind is OutcomeKind.FAILED
    assert "ended without an answer, by SIGSEGV" in (outcome.error or "")
    assert list((runs.path / "journal").iterdir()) == []


@pytest.mark.parametrize("isolation", ["process"], indirect=True)
async def test_what_a_process_prints_is_in_its_log(make: Make, runs: Runs) -> None:
    outcome = await make("def handler(task): os.system('echo from a program'); print('from python')").run(runs.of())
    assert outcome.kind is OutcomeKind.SUCCEEDED
    log = (runs.path / "logs" / "log").read_text()
    assert "from a program" in log
    assert "from python" in log


def test_env_without_a_process_is_a_configuration_error(tmp_path: Path) -> None:
    file = tmp_path / "worker.yaml"
    file.write_text(
        "executors: {h: {kind: python, handler: 'turbo.testing:noop', isolation: thread, env: {A: b}}}\n"
        "routes: {default: h}\n"
    )
    with pytest.raises(ConfigError, match=r"executors\.h\.env.*is for isolation: process"):
        load_worker_config(file)
    assert (PythonProcess.durable, PythonThread.durable) == (True, False)


# ── asking a person ─────────────────────────────────────────────────────────────────────────────────────────────────

ASKING = """
    import turbo

    {0}def handler(task):
        if len(task.answers) < 2:
            raise turbo.Ask("Which?" + "!" * len(task.answers), options=["a", {{"label": "b", "description": "c"}}])
        return [task.answer, [[one.question.text, one.question.number, one.answer] for one in task.answers]]
"""


@pytest.mark.parametrize("how", ["", "async "], ids=["def", "async"])
async def test_handler_asks_and_finds_the_answers(how: str, make: Make, runs: Runs) -> None:
    executor = make(ASKING.format(how), ask={"within_seconds": 9})
    asked = (await executor.run(runs.of())).asked
    assert asked is not None
    assert (asked.within_seconds, asked.question.text) == (9, "Which?")
    assert asked.question.questions[0].options == (Choice("a"), Choice("b", "c"))
    first = Answered(replace(asked.question, number=1, asked_at="2026-01-01T00:00:00+00:00"), "a")
    again = (await executor.run(runs.of(answers=(first,)))).asked
    assert again is not None
    assert again.question.text == "Which?!"
    second = Answered(replace(again.question, number=2, expired=True), None)
    outcome = await executor.run(runs.of(answers=(first, second)))
    assert outcome.output == [None, [["Which?", 1, "a"], ["Which?!", 2, None]]]


@pytest.mark.parametrize(("more", "kind"), [("", OutcomeKind.ASKED), (", OSError()", OutcomeKind.FAILED)])
async def test_question_in_a_group_of_errors_is_asked(more: str, kind: OutcomeKind, make: Make, runs: Runs) -> None:
    """As asyncio.TaskGroup raises it; with another error in the group, the handler has failed."""
    code = f"import turbo\ndef handler(task): raise ExceptionGroup('g', [turbo.Ask('Which?'){more}])"
    outcome = await make(code, ask={}).run(runs.of())
    assert (outcome.kind, "ExceptionGroup" in str(outcome.error)) == (kind, bool(more))


async def test_handler_that_asks_without_ask_is_denied(make: Make, runs: Runs) -> None:
    outcome = await make(ASKING.format("")).run(runs.of())
    assert (outcome.kind, outcome.extra) == (OutcomeKind.FAILED, {"questions_denied": 1})


async def test_question_that_is_none_fails_the_handler(make: Make, runs: Runs) -> None:
    outcome = await make("import turbo\ndef handler(task): raise turbo.Ask('')", ask={}).run(runs.of())
    assert (outcome.kind, outcome.error) == (OutcomeKind.FAILED, "BadQuestion: text is empty")
