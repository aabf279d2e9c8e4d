"""The python executor: what a handler may do, and that none can hold its worker."""

import asyncio
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import turbo
from turbo.domain.asking import BadQuestion
from turbo.domain.outcome import FailureKind, Outcome, OutcomeKind
from turbo.domain.question import AskPolicy, Choice, Single
from turbo.domain.run import Run, StopSignal
from turbo.domain.states import StopCause
from turbo.domain.task import Task
from turbo.executors.protocol import Executor
from turbo.executors.python import PythonExecutor

Make = Callable[..., PythonExecutor]


def module_of(tmp_path: Path) -> str:
    return f"handlers_{tmp_path.name.replace('-', '_')}"


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Writes a module with a handler and builds its executor."""
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    (tmp_path / "modules").mkdir()
    module = module_of(tmp_path)

    def build(
        code: str, name: str = "handler", grace_seconds: float = 0.3, ask: AskPolicy | None = None
    ) -> PythonExecutor:
        (tmp_path / "modules" / f"{module}.py").write_text("import asyncio\nSEEN = []\n" + textwrap.dedent(code))
        return PythonExecutor("light", f"{module}:{name}", grace_seconds=grace_seconds, ask=ask)

    yield build
    sys.modules.pop(module, None)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Run]:
    def build(**more: object) -> Run:
        fields: dict[str, object] = {
            "task_id": "t1",
            "task_type": "light",
            "task_description": "do",
            "timeout_seconds": 30.0,
        }
        return Run(Task(**(fields | more)), tmp_path / "work", tmp_path / "logs" / "log", stop=StopSignal())  # type: ignore[arg-type]

    return build


@pytest.fixture
def seen(make: Make, tmp_path: Path) -> Callable[[], list[object]]:
    """What the handler's module has noted."""

    def noted() -> list[object]:
        found: list[object] = sys.modules[module_of(tmp_path)].SEEN
        return found

    return noted


Seen = Callable[[], list[object]]
RunOf = Callable[..., Run]


# ── returning and raising ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("wait", ["", "await asyncio.sleep(0)", "await asyncio.sleep(0.01)"])
async def test_return_value_of_a_handler_is_the_output(wait: str, make: Make, run: RunOf) -> None:
    executor = make(f"""
        async def handler(task):
            {wait}
            return {{"id": task.task_id, "data": task.input_data}}
    """)
    made: Executor = executor
    assert (made.name, made.account, made.durable) == ("light", None, False)
    outcome = await executor.run(run(input_data=[1, "ü"]))
    assert outcome == Outcome.succeeded({"id": "t1", "data": [1, "ü"]})


@pytest.mark.parametrize("wait", ["", "await asyncio.sleep(0.01)"])
async def test_exception_fails_the_task_and_logs_its_traceback(wait: str, make: Make, run: RunOf) -> None:
    executor = make(f"""
        async def handler(task):
            {wait}
            raise LookupError("no such thing")
    """)
    this = run()
    outcome = await executor.run(this)
    assert (outcome.kind, outcome.failure_kind, outcome.final) == (OutcomeKind.FAILED, FailureKind.ERROR, False)
    assert (outcome.error, outcome.log) == ("LookupError: no such thing", str(this.log_path))
    assert 'raise LookupError("no such thing")' in this.log_path.read_text()


@pytest.mark.parametrize("raised", ["SystemExit(3)", "asyncio.CancelledError()", "StopIteration(1)"])
@pytest.mark.parametrize("wait", ["", "await asyncio.sleep(0.01)"])
async def test_exceptions_special_to_python_are_failures_too(raised: str, wait: str, make: Make, run: RunOf) -> None:
    executor = make(f"""
        async def handler(task):
            {wait}
            raise {raised}
    """)
    assert (await executor.run(run())).kind is OutcomeKind.FAILED


@pytest.mark.parametrize(
    "value", ["object()", "{1, 2}", "b'bytes'", "(loop := [], loop.append(loop), loop)[2]", "{(1,): 2}"]
)
async def test_unserializable_result_is_a_clear_failure(value: str, make: Make, run: RunOf) -> None:
    outcome = await make(f"async def handler(task): return {value}").run(run())
    assert outcome.kind is OutcomeKind.FAILED
    assert outcome.error is not None
    assert ":handler returned a value that is not JSON: " in outcome.error


async def test_run_without_trouble_writes_no_file(make: Make, run: RunOf, tmp_path: Path) -> None:
    executor = make("async def handler(task): await asyncio.sleep(0)")
    outcome = await executor.run(run())
    assert outcome.log is None
    assert not (tmp_path / "logs").exists()
    assert not (tmp_path / "work").exists()


async def test_immediate_handler_leaves_no_task_and_no_timer(
    make: Make, run: RunOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = make("async def handler(task): return 1")
    loop = asyncio.get_running_loop()
    this = run()

    def dear(*_args: object, **_more: object) -> None:
        raise AssertionError("twenty thousand a second of these?")

    with monkeypatch.context() as patch:
        for name in ("create_task", "call_later", "call_at", "call_soon", "create_future"):
            patch.setattr(loop, name, dear)
        outcome = await executor.run(this)
    assert outcome.output == 1


async def test_run_is_reported_as_started(make: Make, tmp_path: Path) -> None:
    pids: list[int] = []
    executor = make("async def handler(task): pass")
    await executor.run(Run(Task("t", "x", "d"), tmp_path, tmp_path / "log", started=pids.append))
    assert pids == [0]


# ── ending ──────────────────────────────────────────────────────────────────────────────────────────────────────────

TIDY = """
    async def handler(task):
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            SEEN.append("cancelled")
            await asyncio.sleep(0.05)
            SEEN.append("tidied up")
            raise
"""
SWALLOWS = """
    async def handler(task):
        while True:
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                SEEN.append("swallowed")
"""
SWALLOWS_EVERYTHING = """
    async def handler(task):
        while True:
            try:
                await asyncio.sleep(1000)
            except BaseException as error:
                SEEN.append(type(error).__name__)
"""
STOPS_LATE = """
    async def handler(task):
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            return "too late"
"""


async def test_wall_clock_cancels_a_handler_that_may_clean_up(
    make: Make, run: RunOf, seen: Callable[[], list[object]]
) -> None:
    executor = make(TIDY)
    outcome = await executor.run(run(timeout_seconds=0.1))
    assert (outcome.kind, outcome.failure_kind) == (OutcomeKind.TIMED_OUT, FailureKind.TIMED_OUT)
    assert outcome.error is not None
    assert outcome.error.endswith(":handler was ended after 0.1 s (timeout_seconds)")
    assert seen() == ["cancelled", "tidied up"]


async def stopped(executor: PythonExecutor, this: Run) -> Outcome:
    job = asyncio.create_task(executor.run(this))
    await asyncio.sleep(0.05)
    this.stop.set(StopCause.CANCEL)
    async with asyncio.timeout(20):
        return await job


async def test_stop_cancels_a_handler(make: Make, run: RunOf, seen: Seen) -> None:
    executor = make(TIDY)
    outcome = await stopped(executor, run())
    assert (outcome.kind, outcome.error) == (OutcomeKind.CANCELLED, "ended on request: cancel")
    assert seen() == ["cancelled", "tidied up"]


async def test_stop_before_the_start_runs_nothing(make: Make, run: RunOf, seen: Seen) -> None:
    executor = make("async def handler(task): SEEN.append(1)")
    this = run()
    this.stop.set(StopCause.DRAIN)
    assert (await executor.run(this)).kind is OutcomeKind.CANCELLED
    assert seen() == []


async def test_timeout_inside_a_handler_stays_inside(make: Make, run: RunOf) -> None:
    """`asyncio.timeout` cancels the task and takes it back; what is done afterwards may take longer than the grace."""
    executor = make(
        """
        async def handler(task):
            try:
                async with asyncio.timeout(0.02):
                    await asyncio.sleep(60)
            except TimeoutError:
                await asyncio.sleep(0.3)
            return "went on"
    """,
        grace_seconds=0.1,
    )
    assert await executor.run(run()) == Outcome.succeeded("went on")


async def test_result_after_the_timeout_is_dropped(make: Make, run: RunOf) -> None:
    assert (await make(STOPS_LATE).run(run(timeout_seconds=0.1))).kind is OutcomeKind.TIMED_OUT


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Python says that it swallowed its end
@pytest.mark.parametrize("code", [SWALLOWS, SWALLOWS_EVERYTHING])
async def test_handler_that_ignores_cancellation_is_dropped(
    code: str, make: Make, run: RunOf, seen: Callable[[], list[object]]
) -> None:
    executor = make(code)
    timed_out = await executor.run(run(timeout_seconds=0.1))
    assert timed_out.kind is OutcomeKind.TIMED_OUT
    assert timed_out.error is not None
    assert "ignored the cancellation, and was dropped after 0.3 s" in timed_out.error
    cancelled = await stopped(executor, run())
    assert cancelled.kind is OutcomeKind.CANCELLED
    assert cancelled.error is not None
    assert "ignored the cancellation" in cancelled.error
    count = len(seen())
    await asyncio.sleep(0.1)
    assert len(seen()) == count, "it still runs"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_cancelled_run_cancels_its_handler(make: Make, run: RunOf, seen: Seen) -> None:
    executor = make(TIDY)
    job = asyncio.create_task(executor.run(run()))
    await asyncio.sleep(0.05)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert seen() == ["cancelled", "tidied up"]
    stubborn = asyncio.create_task(make(SWALLOWS_EVERYTHING).run(run()))
    await asyncio.sleep(0.05)
    stubborn.cancel()
    async with asyncio.timeout(20):
        with pytest.raises(asyncio.CancelledError):
            await stubborn


async def test_handler_may_use_timeouts_and_task_groups(make: Make, run: RunOf) -> None:
    """They cancel the current task, which must be the same from the handler's first step to its last."""
    executor = make("""
        async def handler(task):
            first = asyncio.current_task()
            try:
                async with asyncio.timeout(0.02):
                    await asyncio.sleep(1000)
            except TimeoutError:
                SEEN.append("timed out")
            async def one():
                await asyncio.sleep(0.01)
                return 1
            async with asyncio.TaskGroup() as group:
                parts = [group.create_task(one()) for _ in range(3)]
            assert asyncio.current_task() is first
            return [*SEEN, sum(part.result() for part in parts), await asyncio.wait_for(one(), 5)]
    """)
    outcome = await executor.run(run())
    assert (outcome.error, outcome.output) == (None, ["timed out", 3, 1])


async def test_finished_run_leaves_no_timer(make: Make, run: RunOf) -> None:
    executor = make("async def handler(task): await asyncio.sleep(0.01)")
    assert (await executor.run(run(timeout_seconds=0.1))).kind is OutcomeKind.SUCCEEDED
    await asyncio.sleep(0.2)  # in the same task: a late cancellation would come out here


# ── configuration ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        ("turbo.testing", "must have the form module:function"),
        (":noop", "must have the form module:function"),
        ("no_such_module_here:x", r"no module named 'no_such_module_here' .*PYTHONPATH\?"),
        ("turbo.no_such:x", "no module named 'turbo.no_such'"),
        ("turbo.testing:nope", "module turbo.testing has no 'nope'"),
        ("turbo.testing:asyncio", "turbo.testing:asyncio is a module; write `async def asyncio"),
        ("json:dumps", "json:dumps is a function that is not async; write `async def dumps"),
    ],
)
def test_invalid_handler_is_a_configuration_error(reference: str, why: str) -> None:
    with pytest.raises(ValueError, match=rf"^executor light: .*{why}"):
        PythonExecutor("light", reference)


def test_module_that_cannot_be_imported_explains_why(make: Make) -> None:
    with pytest.raises(ValueError, match=r"importing handlers_\w+ failed: RuntimeError: no licence"):
        make("raise RuntimeError('no licence')")
    with pytest.raises(ValueError, match=r"failed: ModuleNotFoundError: No module named 'missing_dependency'"):
        make("import missing_dependency")


async def test_methods_partials_and_callable_objects_are_handlers(make: Make, run: RunOf) -> None:
    code = """
        import functools
        class Handlers:
            async def method(self, task): return "method"
            async def __call__(self, task): return "called"
        async def two(word, task): return word
        it, partial = Handlers(), functools.partial(two, "partial")
    """
    outputs = [(await make(code, name).run(run())).output for name in ("it.method", "it", "partial")]
    assert outputs == ["method", "called", "partial"]


async def test_bundled_handlers_work(run: RunOf) -> None:
    async def outcome(name: str, **more: object) -> Outcome:
        return await PythonExecutor("x", f"turbo.testing:{name}").run(run(**more))

    assert (await outcome("noop")).output is None
    assert (await outcome("echo", input_data={"a": 1})).output == {"a": 1}
    assert (await outcome("echo")).output == "do"
    assert (await outcome("sleep", input_data={"seconds": 0.01})).output == 0.01
    assert (await outcome("fail")).error == "RuntimeError: do"
    assert (await outcome("fail_once")).kind is OutcomeKind.FAILED
    assert (await outcome("fail_once", retry_count=1)).output == "attempt 2"


# ── asking a person ─────────────────────────────────────────────────────────────────────────────────────────────────

ASKING = """
    from turbo import Ask

    async def handler(task):
        await asyncio.sleep(0)
        raise Ask("Which database?", options=["PostgreSQL", {"label": "SQLite", "description": "one file"}])

    async def at_once(task):
        raise Ask(questions=[{"question": "Which?", "options": ["a"], "multi": True}, {"question": "When?"}])

    async def in_group(task):
        async with asyncio.TaskGroup() as group:
            group.create_task(handler(task))

    async def bad(task):
        raise Ask("a\\0b")

    async def late(task):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise Ask("May I go on?") from None
"""


@pytest.mark.parametrize("name", ["handler", "in_group"])
async def test_handler_asks_by_raising(name: str, make: Make, run: RunOf, tmp_path: Path) -> None:
    outcome = await make(ASKING, name, ask=AskPolicy(within_seconds=5)).run(run())
    assert outcome.kind is OutcomeKind.ASKED
    assert outcome.asked is not None
    assert outcome.asked.within_seconds == 5
    options = (Choice("PostgreSQL"), Choice("SQLite", "one file"))
    assert outcome.asked.question.questions == (Single("Which database?", options=options),)
    assert not (tmp_path / "logs").exists(), "a question is no failure, and has no traceback"


async def test_handler_asks_several_questions(make: Make, run: RunOf) -> None:
    asked = (await make(ASKING, "at_once", ask=AskPolicy()).run(run())).asked
    assert asked is not None
    assert asked.question.questions == (Single("Which?", options=(Choice("a"),), multi=True), Single("When?"))


async def test_handler_that_asks_badly_fails(make: Make, run: RunOf) -> None:
    outcome = await make(ASKING, "bad", ask=AskPolicy()).run(run())
    assert outcome.kind is OutcomeKind.FAILED
    assert outcome.error == "BadQuestion: text contains a NUL character, which the database cannot store"


@pytest.mark.parametrize("policy", [None, AskPolicy(questions=False)], ids=["no ask:", "no questions"])
async def test_handler_that_asks_without_ask_is_denied(policy: AskPolicy | None, make: Make, run: RunOf) -> None:
    outcome = await make(ASKING, ask=policy).run(run())
    assert (outcome.kind, outcome.extra) == (OutcomeKind.FAILED, {"questions_denied": 1})


async def test_question_after_the_time_limit_is_too_late(make: Make, run: RunOf) -> None:
    outcome = await make(ASKING, "late", ask=AskPolicy()).run(run(timeout_seconds=0.05))
    assert outcome.kind is OutcomeKind.TIMED_OUT


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (((), {}), "text is missing"),
        (((" ",), {}), "text is empty"),
        (((7,), {}), "not a number"),
        ((("x", [1]), {}), "an option is text"),
        ((("x", "abc"), {}), "options is a list"),
        ((("x", {"label": "a"}), {}), "options is a list"),
        ((("x", 7), {}), "options is a list"),
        (((), {"questions": "abc"}), "questions is a list"),
        (((), {"questions": [7]}), "each of questions is an object"),
        ((("x",), {"options": [{"name": "a"}]}), "unknown key 'name'"),
        ((("\ud800",), {}), "lone surrogate"),
        ((("x" * 300 * 1024,), {}), "at most 262,144"),
        ((("x",), {"options": ["a"], "questions": [{"question": "b"}]}), "options belong to one"),
    ],
    ids=range(13),
)
def test_question_that_is_none_is_refused(arguments: tuple[tuple[object, ...], dict[str, object]], why: str) -> None:
    given, named = arguments
    with pytest.raises(BadQuestion, match=why):
        turbo.Ask(*given, **named)  # type: ignore[arg-type]
    turbo.Ask("x", [Choice("a", "b")])
