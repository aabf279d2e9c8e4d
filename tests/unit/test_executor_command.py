"""The command executor: what a row can fill in, what it can never do, and how an exit is read."""

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.processes import FAMILY, PYTHON, journalled, living, pids_in, python
from tests.support.waiting import until_async
from turbo.domain.outcome import FailureKind, Outcome, OutcomeKind
from turbo.domain.question import Answered, AskPolicy, Choice, Question, QuestionKind, Single, Then
from turbo.domain.run import Run, StopSignal
from turbo.domain.states import StopCause
from turbo.domain.task import Task
from turbo.domain.work import Continued, Message, Need
from turbo.executors.command import BadValue, CommandExecutor, fill, task_json
from turbo.executors.protocol import Executor
from turbo.process.journal import Journal

Make = Callable[..., CommandExecutor]
ARGV = python("import sys, json; print(json.dumps({'argv': sys.argv[1:]}))")


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def build(*command: str, **more: object) -> CommandExecutor:
        settings: dict[str, object] = {"journal": Journal(tmp_path / "journal"), "grace_seconds": 0.5}
        return CommandExecutor("lint", command, **(settings | more))  # type: ignore[arg-type]

    return build


def task(**more: object) -> Task:
    fields: dict[str, object] = {
        "task_id": "t1",
        "task_type": "lint",
        "task_description": "look at it",
        "timeout_seconds": 30.0,
    }
    return Task(**(fields | more))  # type: ignore[arg-type]


def run_of(tmp_path: Path, **more: object) -> Run:
    return Run(task(**more), work_dir=tmp_path / "work" / "t1", log_path=tmp_path / "logs" / "t1.log")


def test_command_is_an_executor(make: Make) -> None:
    executor: Executor = make("true", account="alpha-max")
    assert (executor.name, executor.account, executor.durable) == ("lint", "alpha-max", True)


# ── the template ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("template", "filled"),
    [
        ("{input[path]}", "src/a b.py"),
        ("--path={input[path]}", "--path=src/a b.py"),
        ("{task_id}/{task_type}", "t1/lint"),
        ("{input[number]} {input[float]} {input[yes]} {input[a key]}", "3 1.5 true spaced"),
        ("{input[recursive]}", "{task_id}"),
        ("{", "{"),
        ("{}", "{}"),
        ("{input}", "{input}"),
        ("{input[]}", "{input[]}"),
        ("{input[path}", "{input[path}"),
        ("{unknown} {task_id!r} {task_id:>9}", "{unknown} {task_id!r} {task_id:>9}"),
        ("{{task_id}}", "{t1}"),
        ('{"a": {"b": 1}}', '{"a": {"b": 1}}'),
        ("%s $HOME ${x}", "%s $HOME ${x}"),
    ],
)
def test_only_known_placeholders_are_replaced(template: str, filled: str) -> None:
    data = {"path": "src/a b.py", "number": 3, "float": 1.5, "yes": True, "a key": "spaced", "recursive": "{task_id}"}
    assert fill(["x", template], task(input_data=data)) == ("x", filled)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ({}, r"input_data has no 'v'"),
        (None, r"input_data has no 'v'"),
        (["v"], r"input_data has no 'v'"),
        ({"v": {}}, "not an object"),
        ({"v": ["a"]}, "not a list"),
        ({"v": None}, "not null"),
        ({"v": "-rf"}, "would be a flag"),
        ({"v": "--config=/etc/passwd"}, "would be a flag"),
        ({"v": -1}, "would be a flag"),
        ({"v": "a\0b"}, "NUL"),
        ({"v": "\ud800"}, "surrogate"),
    ],
)
async def test_value_that_cannot_be_an_argument_fails_and_runs_nothing(
    data: object, why: str, make: Make, tmp_path: Path
) -> None:
    run = run_of(tmp_path, input_data=data)
    outcome = await make("touch", str(tmp_path / "ran"), "{input[v]}").run(run)
    assert (outcome.kind, outcome.failure_kind, outcome.final) == (OutcomeKind.FAILED, FailureKind.BAD_REQUEST, True)
    assert outcome.error is not None
    assert outcome.error.startswith("executor lint: ")
    with pytest.raises(BadValue, match=why):
        fill(["{input[v]}"], run.task)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("field", ["task_id", "task_type"])
def test_id_and_type_are_never_flags(field: str) -> None:
    with pytest.raises(BadValue, match="would be a flag"):
        fill(["x", f"{{{field}}}"], task(**{field: "--help"}))


async def test_value_too_long_for_an_argument_fails_the_task(make: Make, tmp_path: Path) -> None:
    outcome = await make("echo", "{input[v]}").run(run_of(tmp_path, input_data={"v": "x" * 4_000_000}))
    assert (outcome.failure_kind, outcome.final) == (FailureKind.BAD_REQUEST, True)


@pytest.mark.parametrize("program", ["{input[program]}", "{task_type}", "/bin/{task_id}"])
def test_row_cannot_choose_the_program(program: str, make: Make) -> None:
    with pytest.raises(ValueError, match="would let a row choose the program"):
        make(program)


def test_empty_command_is_refused(make: Make) -> None:
    with pytest.raises(ValueError, match="executor lint: command is empty"):
        make()


async def test_no_shell_is_used(make: Make, tmp_path: Path) -> None:
    value = f"$(touch {tmp_path}/ran); touch {tmp_path}/ran & `id`"
    outcome = await make(*ARGV, "{input[v]}").run(run_of(tmp_path, input_data={"v": value}))
    assert outcome.output == {"argv": [value]}
    assert not (tmp_path / "ran").exists()


# ── what the program gets ───────────────────────────────────────────────────────────────────────────────────────────


async def test_task_arrives_on_stdin_as_json(make: Make, tmp_path: Path) -> None:
    data = {"text": "ünï \ud800 \0", "list": [1, {"a": None}]}
    run = run_of(tmp_path, input_data=data, queue="heavy", retry_count=1)
    outcome = await make("cat").run(run)
    assert outcome.output == {
        "task_id": "t1",
        "task_type": "lint",
        "task_description": "look at it",
        "input_data": data,
        "attempt": 2,
        "queue": "heavy",
    }


async def test_environment_follows_the_contract(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURBO_DSN", "postgresql://secret")
    monkeypatch.setenv("PGPASSWORD", "secret")
    monkeypatch.setenv("SOMETHING_ELSE", "x")
    secrets = tmp_path / "env"
    secrets.write_text("TOKEN=from the file\n")
    secrets.chmod(0o600)
    code = "import os, json; print(json.dumps(dict(os.environ)))"
    outcome = await make(*python(code), env={"CI": "1"}, env_file=secrets).run(run_of(tmp_path, retry_count=2))
    found = outcome.output
    assert isinstance(found, dict)
    assert {
        "CI": "1",
        "TOKEN": "from the file",
        "TURBO_TASK_ID": "t1",
        "TURBO_TASK_TYPE": "lint",
    }.items() <= found.items()
    assert (found["TURBO_ATTEMPT"], found["PATH"]) == ("3", os.environ["PATH"])
    assert not {"TURBO_DSN", "PGPASSWORD", "SOMETHING_ELSE"} & set(found)


async def test_env_file_opened_to_others_stops_runs_without_an_attempt(make: Make, tmp_path: Path) -> None:
    secrets = tmp_path / "env"
    secrets.write_text("TOKEN=very-secret\n")
    secrets.chmod(0o600)
    executor = make("true", env_file=secrets)
    secrets.chmod(0o644)
    outcome = await executor.run(run_of(tmp_path))
    assert outcome.kind is OutcomeKind.INFRASTRUCTURE
    assert outcome.error is not None
    assert "chmod 600" in outcome.error
    assert "very-secret" not in outcome.error


# ── where it runs ───────────────────────────────────────────────────────────────────────────────────────────────────


async def cwd_of(executor: CommandExecutor, run: Run) -> object:
    outcome = await executor.run(run)
    return outcome.output.strip() if isinstance(outcome.output, str) else (outcome.failure_kind, outcome.final)


async def test_default_directory_is_the_tasks_own(make: Make, tmp_path: Path) -> None:
    assert await cwd_of(make("pwd"), run_of(tmp_path)) == str(tmp_path / "work" / "t1")


async def test_configured_directory_may_be_anywhere(make: Make, tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    assert await cwd_of(make("pwd", cwd=tmp_path / "project"), run_of(tmp_path)) == str(tmp_path / "project")
    assert not (tmp_path / "work").exists()


async def test_row_may_name_a_directory_only_inside_the_roots(make: Make, tmp_path: Path) -> None:
    for name in ("roots/one/deep", "roots/one-but-not", "outside"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "roots/one/link").symlink_to(tmp_path / "outside")
    (tmp_path / "roots/one/loop").symlink_to(tmp_path / "roots/one/loop")
    root = tmp_path / "roots/one"
    executor = make("sh", "-c", f"touch {tmp_path}/ran; pwd", allowed_roots=[root], cwd=tmp_path)

    async def at(cwd: object) -> object:
        return await cwd_of(executor, run_of(tmp_path, input_data={"cwd": cwd}))

    refused = (FailureKind.REFUSED, True)
    for outside in (
        f"{tmp_path}/outside",
        f"{root}/link",
        f"{root}/../../outside",
        f"{root}-but-not",
        f"{root}/loop",
        "deep",
        "~",
        "",
        f"{root}\0",
        f"{root}/{'x' * 5000}",
        ["x"],
        7,
        "/",
    ):
        assert await at(outside) == refused, outside
    assert await at(f"{root}/missing") == (FailureKind.BAD_REQUEST, False)
    assert not (tmp_path / "ran").exists()
    assert await at(f"{root}/deep") == f"{root}/deep"
    assert await at(f"{root}/deep/../deep/.") == f"{root}/deep"
    assert await at(str(root)) == str(root)
    assert await at(None) == str(tmp_path)


async def test_without_roots_every_directory_of_a_row_is_refused(make: Make, tmp_path: Path) -> None:
    outcome = await make("pwd").run(run_of(tmp_path, input_data={"cwd": str(tmp_path)}))
    assert outcome.failure_kind is FailureKind.REFUSED
    assert outcome.error is not None
    assert "none configured" in outcome.error


async def test_missing_configured_directory_uses_no_attempt(make: Make, tmp_path: Path) -> None:
    outcome = await make("pwd", cwd=tmp_path / "gone").run(run_of(tmp_path))
    assert outcome.kind is OutcomeKind.INFRASTRUCTURE


# ── how an exit is read ─────────────────────────────────────────────────────────────────────────────────────────────


async def outcome_of(make: Make, tmp_path: Path, script: str) -> Outcome:
    return await make("sh", "-c", script).run(run_of(tmp_path))


@pytest.mark.parametrize(
    ("printed", "output"),
    [
        ("plain\n", "plain\n"),
        ("", ""),
        ('{"a": [1, 2.5, null]}\n', {"a": [1, 2.5, None]}),
        ('  {"a": 1}  ', {"a": 1}),
        ('{"a": 1}\n{"b": 2}\n', '{"a": 1}\n{"b": 2}\n'),
        ("[1, 2]", "[1, 2]"),
        ("12", "12"),
        ('{"a": NaN}', '{"a": NaN}'),
        ('{"a": ', '{"a": '),
        ("\udcff\udcfe ok", "\ufffd\ufffd ok"),
    ],
)
async def test_stdout_is_the_output_and_one_object_is_parsed(
    printed: str, output: object, make: Make, tmp_path: Path
) -> None:
    run = run_of(tmp_path)
    (tmp_path / "printed").write_bytes(os.fsencode(printed))
    outcome = await make("cat", str(tmp_path / "printed")).run(run)
    assert outcome == Outcome(OutcomeKind.SUCCEEDED, output=output, log=str(run.log_path))
    assert run.log_path.read_bytes().rstrip() == os.fsencode(printed).rstrip()


async def test_deep_nesting_stays_text(make: Make, tmp_path: Path) -> None:
    outcome = await make(*python("print('{\"a\":' * 100_000 + '1' + '}' * 100_000)")).run(run_of(tmp_path))
    assert outcome.kind is OutcomeKind.SUCCEEDED
    assert isinstance(outcome.output, str)


async def test_output_over_one_mebibyte_is_cut_and_marked(make: Make, tmp_path: Path) -> None:
    outcome = await make(*python("print('x' + 'ü' * 1_000_000, end='')")).run(run_of(tmp_path))
    assert outcome.truncated
    assert outcome.output == "x" + "ü" * (512 * 1024 - 1)  # 1 MiB ends within a character, which is left out
    whole = await make(*python("print('x' * 1024 * 1024, end='')")).run(run_of(tmp_path))
    assert (whole.truncated, whole.output) == (False, "x" * 1024 * 1024)


async def test_failure_reports_the_exit_code_and_end_of_stderr(make: Make, tmp_path: Path) -> None:
    outcome = await outcome_of(make, tmp_path, "echo out; echo 'no such rule: X9' >&2; exit 3")
    assert (outcome.kind, outcome.failure_kind) == (OutcomeKind.FAILED, FailureKind.ERROR)
    assert outcome.error == "sh failed with exit code 3: no such rule: X9"
    assert not outcome.final


async def test_signal_is_named(make: Make, tmp_path: Path) -> None:
    outcome = await outcome_of(make, tmp_path, "kill -SEGV $$")
    assert outcome.error == "sh was killed by SIGSEGV"


async def test_exit_75_is_infrastructure(make: Make, tmp_path: Path) -> None:
    outcome = await outcome_of(make, tmp_path, "echo 'licence server away' >&2; exit 75")
    assert (outcome.kind, outcome.failure_kind) == (OutcomeKind.INFRASTRUCTURE, FailureKind.INFRASTRUCTURE)
    assert outcome.error is not None
    assert outcome.error.endswith("licence server away")


async def test_program_that_cannot_start_is_infrastructure(make: Make, tmp_path: Path) -> None:
    outcome = await make("no-such-program").run(run_of(tmp_path))
    assert outcome.kind is OutcomeKind.INFRASTRUCTURE
    assert outcome.error is not None
    assert "no-such-program: not found on the PATH searched" in outcome.error


async def test_unusable_work_directory_is_infrastructure(make: Make, tmp_path: Path) -> None:
    (tmp_path / "work").write_text("a file")
    assert (await make("true").run(run_of(tmp_path))).kind is OutcomeKind.INFRASTRUCTURE


async def test_wall_clock_and_silence_timeouts_are_distinct(make: Make, tmp_path: Path) -> None:
    wall = await make("sleep", "1000").run(run_of(tmp_path, timeout_seconds=0.5))
    assert (wall.kind, wall.failure_kind) == (OutcomeKind.TIMED_OUT, FailureKind.TIMED_OUT)
    assert wall.error == "sleep was ended after 0.5 s (timeout_seconds)"
    silent = await make("sleep", "1000", silence_seconds=0.5).run(run_of(tmp_path))
    assert (silent.kind, silent.failure_kind) == (OutcomeKind.TIMED_OUT, FailureKind.SILENT)


async def test_stop_ends_the_program_and_its_family(make: Make, tmp_path: Path) -> None:
    stop = StopSignal()
    pids: list[int] = []
    run = Run(task(), tmp_path / "work", tmp_path / "log", stop=stop, started=pids.append)
    job = asyncio.create_task(make(*PYTHON, "-c", FAMILY).run(run))
    await until_async(lambda: run.log_path.exists() and run.log_path.read_text(), what="the family's pids")
    family = pids_in(run.log_path.read_text())
    assert pids == [family["program"]]
    stop.set(StopCause.DRAIN)
    outcome = await job
    assert (outcome.kind, outcome.error) == (
        OutcomeKind.CANCELLED,
        f"{PYTHON[0]} was ended on request: drain",
    )
    assert living(family.values()) == []
    assert journalled(tmp_path / "journal") == []


async def test_program_killed_from_outside_is_a_failure(make: Make, tmp_path: Path) -> None:
    pids: list[int] = []
    run = Run(task(), tmp_path / "work", tmp_path / "log", started=pids.append)
    job = asyncio.create_task(make("sleep", "1000").run(run))
    await until_async(lambda: pids, what="its pid")
    os.kill(pids[0], signal.SIGKILL)
    assert (await job).error == "sleep was killed by SIGKILL"


def test_json_of_a_task_is_one_line() -> None:
    from turbo.executors.command import task_json

    assert b"\n" not in task_json(task(task_description="two\nlines"))
    assert json.loads(task_json(task(input_data={"x": "\ud800"})))["input_data"] == {"x": "\ud800"}


# ── asking a person ─────────────────────────────────────────────────────────────────────────────────────────────────

POLICY = AskPolicy(within_seconds=60, then=Then.FAIL, remind_seconds=30)


def asking(line: str, before: str = "", code: int = 76) -> tuple[str, ...]:
    return python(f"import sys; sys.stdout.write({before!r} + {line!r}); sys.exit({code})")


def ask_line(**form: object) -> str:
    return json.dumps({"ask": form})


async def test_exit_76_asks_with_the_last_line(make: Make, tmp_path: Path) -> None:
    line = ask_line(text="Which database?", options=["PostgreSQL", {"label": "SQLite", "description": "one file"}])
    outcome = await make(*asking(f"{line}\n\n", "looked around\nstill there\n"), ask=POLICY).run(run_of(tmp_path))
    assert outcome.kind is OutcomeKind.ASKED
    assert outcome.output == "looked around\nstill there"
    assert outcome.log == str(tmp_path / "logs" / "t1.log")
    asked = outcome.asked
    assert asked is not None
    assert (asked.within_seconds, asked.remind_seconds, asked.question.then) == (60, 30, Then.FAIL)
    assert asked.question.text == "Which database?"
    assert asked.question.questions == (
        Single("Which database?", options=(Choice("PostgreSQL"), Choice("SQLite", "one file"))),
    )


async def test_several_questions_are_asked_at_once(make: Make, tmp_path: Path) -> None:
    line = ask_line(questions=[{"question": "Which?", "multi": True, "options": ["a", "b"]}, {"question": "When?"}])
    outcome = await make(*asking(line), ask=POLICY).run(run_of(tmp_path))
    assert outcome.asked is not None
    assert outcome.asked.question.text == "Which?\nWhen?"
    assert [(one.question, one.multi) for one in outcome.asked.question.questions] == [
        ("Which?", True),
        ("When?", False),
    ]
    assert outcome.output is None


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("", "it printed nothing"),
        ("what now?", "it is not JSON"),
        ('{"ask": {"text": NaN}}', "it is not JSON"),
        ('{"text": "x"}', 'the one key "ask"'),
        ('{"ask": {"text": "x"}, "more": 1}', 'the one key "ask"'),
        ('[{"ask": {"text": "x"}}]', 'the one key "ask"'),
        ('{"ask": "x"}', "not text"),
        ('{"ask": {}}', "text is missing"),
        ('{"ask": {"text": " \\t\\n"}}', "text is empty"),
        ('{"ask": {"text": 7}}', "text is text, not a number"),
        ('{"ask": {"text": "x", "tool": "Bash"}}', "unknown key 'tool'"),
        ('{"ask": {"text": "x", "options": "ab"}}', "options is a list, not text"),
        ('{"ask": {"text": "x", "options": [1]}}', "not a number"),
        ('{"ask": {"text": "x", "options": [""]}}', "an option is empty"),
        ('{"ask": {"text": "x", "options": [{"description": "d"}]}}', "label of an option is missing"),
        ('{"ask": {"text": "x", "options": [{"label": "a", "rule": "b"}]}}', "unknown key 'rule'"),
        ('{"ask": {"questions": []}}', "questions is a list of objects"),
        ('{"ask": {"questions": [{"question": "a"}, {"question": "a"}]}}', "same text"),
        ('{"ask": {"questions": [{"question": "a"}], "options": ["b"]}}', "options belong to one"),
        ('{"ask": {"text": "a\\u0000b"}}', "NUL"),
        ('{"ask": {"text": "\\ud800"}}', "lone surrogate"),
        ('{"ask": {"text": "x", "options": ["\\udfff"]}}', "lone surrogate"),
        ('{"ask": ' + "[" * 100_000 + "]" * 100_000 + "}", "recursion"),
        (json.dumps({"ask": {"text": "x" * 300 * 1024}}), "at most 262,144"),
        (json.dumps({"ask": {"text": "x" * 3 * 1024 * 1024}}), "is not JSON"),
    ],
    ids=range(25),
)
async def test_what_is_no_question_fails(line: str, why: str, make: Make, tmp_path: Path) -> None:
    (tmp_path / "line").write_text(line)
    program = python(f"import sys; sys.stdout.write(open({str(tmp_path / 'line')!r}).read()); sys.exit(76)")
    outcome = await make(*program, ask=POLICY).run(run_of(tmp_path))
    assert (outcome.kind, outcome.failure_kind, outcome.final) == (OutcomeKind.FAILED, FailureKind.ERROR, False)
    assert outcome.error is not None
    assert "asks, but not with a question" in outcome.error
    assert why in outcome.error
    assert len(outcome.error) < 600
    assert "questions_denied" not in outcome.extra


async def test_long_output_before_a_question_is_no_matter(make: Make, tmp_path: Path) -> None:
    line = "json.dumps({'ask': {'text': chr(252) * 100_000}})"
    program = python(f"import json, sys; print('x\\n' * 3_000_000); print({line}); sys.exit(76)")
    outcome = await make(*program, ask=POLICY).run(run_of(tmp_path))
    assert outcome.asked is not None, outcome.error
    assert (len(outcome.asked.question.text), outcome.truncated) == (100_000, True)
    assert outcome.output == "x\n" * 512 * 1024


@pytest.mark.parametrize("policy", [None, AskPolicy(questions=False)], ids=["no ask:", "no questions"])
async def test_question_without_ask_is_denied(policy: AskPolicy | None, make: Make, tmp_path: Path) -> None:
    outcome = await make(*asking(ask_line(text="May I?")), ask=policy).run(run_of(tmp_path))
    assert (outcome.kind, outcome.extra) == (OutcomeKind.FAILED, {"questions_denied": 1})
    assert outcome.error is not None
    assert outcome.error.endswith("has no ask: in worker.yaml: May I?")


async def test_question_of_a_run_that_may_not_ask_is_denied(make: Make, tmp_path: Path) -> None:
    run = Run(task(), tmp_path / "work", tmp_path / "log", may_ask=False)
    outcome = await make(*asking(ask_line(text="May I?")), ask=POLICY).run(run)
    assert (outcome.kind, outcome.extra) == (OutcomeKind.FAILED, {"questions_denied": 1})


async def test_exit_76_without_ask_and_question_is_a_failure(make: Make, tmp_path: Path) -> None:
    outcome = await make(*asking("no question")).run(run_of(tmp_path))
    assert (outcome.kind, outcome.extra) == (OutcomeKind.FAILED, {})
    assert outcome.error is not None
    assert "exit code 76" in outcome.error


async def test_question_with_another_exit_code_is_none(make: Make, tmp_path: Path) -> None:
    line = ask_line(text="May I?")
    assert (await make(*asking(line, code=0), ask=POLICY).run(run_of(tmp_path))).kind is OutcomeKind.SUCCEEDED
    assert (await make(*asking(line, code=75), ask=POLICY).run(run_of(tmp_path))).kind is OutcomeKind.INFRASTRUCTURE
    assert (await make(*asking(line, code=1), ask=POLICY).run(run_of(tmp_path))).kind is OutcomeKind.FAILED


def answered(text: str, answer: str | None, *more: str) -> Answered:
    asked = tuple(Single(one) for one in more) or (Single(text),)
    return Answered(Question(QuestionKind.QUESTION, text, asked), answer)


def test_all_answers_so_far_are_on_standard_input() -> None:
    earlier = (
        answered("First?", "one"),
        answered("Second?", None),
        answered("A\nB", '{"A": "x", "B": "y"}', "A", "B"),
        Answered(Question(QuestionKind.APPROVAL, "May it push?", tool="Bash"), "no"),
    )
    sent = json.loads(task_json(task(answers=earlier), answers=True))
    assert sent["answers"] == [
        {"question": "First?", "answer": "one"},
        {"question": "Second?", "answer": None},
        {"question": "A", "answer": "x"},
        {"question": "B", "answer": "y"},
        {"question": "May it push?", "answer": "no"},
    ]
    assert (sent["question"], sent["answer"]) == ("May it push?", "no")


async def test_answers_are_there_with_ask_and_else_only_if_any(make: Make, tmp_path: Path) -> None:
    program = python("import sys; print(sys.stdin.read())")

    async def given(ask: AskPolicy | None, **more: object) -> dict[str, object]:
        output = (await make(*program, ask=ask).run(run_of(tmp_path, **more))).output
        assert isinstance(output, dict)
        return {key: output[key] for key in ("question", "answer", "answers") if key in output}

    assert await given(None) == {}
    assert await given(POLICY) == {"question": None, "answer": None, "answers": []}
    only = {"question": "Q", "answer": "A", "answers": [{"question": "Q", "answer": "A"}]}
    assert await given(None, answers=(answered("Q", "A"),)) == only


# ── tasks that belong together ──────────────────────────────────────────────────────────────────────────────────────


def test_results_of_needs_and_messages_are_on_standard_input() -> None:
    needs = {
        "plan": Need("completed", {"steps": 3}, workspace={"branch": "turbo/plan"}),
        "lint": Need("failed", None, cut=True),
    }
    messages = (Message(7, "Not that file", "ann"),)
    sent = json.loads(task_json(task(needs=needs, continued=Continued("before", "done"), messages=messages)))
    assert sent["needs"] == {
        "plan": {"status": "completed", "output": {"steps": 3}, "workspace": {"branch": "turbo/plan"}},
        "lint": {"status": "failed", "output": None, "workspace": None, "cut": True},
    }
    assert sent["continues"] == {"task_id": "before", "output": "done"}
    assert sent["messages"] == [{"message_id": 7, "body": "Not that file", "created_by": "ann"}]


def test_program_of_a_plain_task_reads_what_it_always_did() -> None:
    keys = ["task_id", "task_type", "task_description", "input_data", "attempt", "queue"]
    assert list(json.loads(task_json(task()))) == keys
