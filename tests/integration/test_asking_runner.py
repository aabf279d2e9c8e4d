"""What the runner makes of an executor's question: a result that the database can keep as it is, or a clear failure."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.support.asking import question
from tests.support.configs import config_of
from tests.support.rig import Rig, finished
from tests.support.waiting import until_async
from turbo.domain.outcome import ModelUsage, Outcome, OutcomeKind
from turbo.domain.question import AskPolicy, Question, QuestionKind, Then
from turbo.domain.run import Run
from turbo.host.spool import Spool
from turbo.worker.worker import Worker


def approval(**more: object) -> Question:
    return Question(QuestionKind.APPROVAL, "May it run?", tool="Bash", input=more, rule="Bash(git push *)")


def nested(levels: int) -> object:
    value: object = "x"
    for _ in range(levels):
        value = [value]
    return value


POLICY = AskPolicy(within_seconds=3600, remind_seconds=600)
ENDS: dict[str, Callable[[], Outcome]] = {
    "good": lambda: Outcome.asks(POLICY.asked(approval(command="git push")), session_id="s-1"),
    "none": lambda: Outcome(OutcomeKind.ASKED),
    "large": lambda: Outcome.asks(POLICY.asked(approval(command="x" * 300 * 1024))),
    "nul": lambda: Outcome.asks(POLICY.asked(approval(command="a\0b"))),
    "surrogate": lambda: Outcome.asks(POLICY.asked(approval(command="\ud800"))),
    "deep": lambda: Outcome.asks(POLICY.asked(approval(command=nested(300)))),
    "endless": lambda: Outcome.asks(POLICY.asked(approval(command=nested(100_000)))),
    "not-json": lambda: Outcome.asks(POLICY.asked(approval(command=object()))),
    "nan": lambda: Outcome.asks(POLICY.asked(approval(command=float("nan")))),
}
BROKEN = {
    "none": "its executor named no question",
    "large": "the question is 307,",
    "nul": "the database cannot store the question as it is: NUL characters were replaced",
    "surrogate": "the database cannot store the question as it is: lone surrogates were replaced",
    "deep": "the database cannot store the question as it is: nesting deeper than 200 levels was cut",
    "endless": "the question is not JSON: maximum recursion depth",
    "not-json": "the question is not JSON: Object of type object",
    "nan": "the question is not JSON: Out of range float",
}


class Scripted:
    """An executor whose runs end as their tasks' ids say."""

    def __init__(self) -> None:
        self.name = "scripted"
        self.account: str | None = None
        self.durable = False
        self.may_ask: list[bool] = []

    async def run(self, run: Run) -> Outcome:
        self.may_ask.append(run.may_ask)
        outcome = ENDS[run.task.task_id]()
        outcome.extra["num_turns"] = 3
        usage = (ModelUsage("sonnet", input_tokens=7, cost_usd=0.5),)
        return Outcome(
            outcome.kind, "so far", asked=outcome.asked, session_id=outcome.session_id, usage=usage, extra=outcome.extra
        )


async def test_question_is_recorded_as_it_is_or_fails(dsn: str, tmp_path: Path) -> None:
    executor = Scripted()
    config = config_of(
        tmp_path,
        executors={"scripted": {"kind": "command", "command": ["true"], "ask": {}}},
        routes={"default": "scripted"},
    )
    worker = Worker(config, dsn=dsn, executors={"scripted": executor})
    running = asyncio.create_task(worker.run())
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True, row_factory=dict_row) as db:
        for task_id in ENDS:
            await db.execute(
                "insert into agent_tasks (task_id, task_description, max_retries) values (%s, 'x', 0)", [task_id]
            )

        async def rows() -> dict[str, dict[str, object]]:
            found = await (await db.execute("select * from agent_tasks")).fetchall()
            return {row["task_id"]: row for row in found}

        async def over() -> bool:
            return all(row["status"] in ("failed", "waiting") for row in (await rows()).values())

        await until_async(over)
        found = await rows()
        good = found.pop("good")
        trail = await (
            await db.execute("select detail from agent_actions where task_id = 'good' and action_type = 'asked'")
        ).fetchone()
    worker.stop()
    assert await running == 0
    assert good["status"] == "waiting"
    question, output = good["question"], good["output_data"]
    assert isinstance(question, dict)
    assert isinstance(output, dict)
    assert {key: question[key] for key in ("kind", "tool", "input", "then", "remind_seconds", "number")} == {
        "kind": "approval",
        "tool": "Bash",
        "input": {"command": "git push"},
        "then": Then.DENY,
        "remind_seconds": 600,
        "number": 1,
    }
    assert (good["agent_session_id"], good["retry_count"]) == ("s-1", 0)
    assert (output["output"], output["num_turns"], output["usage"][0]["cost_usd"]) == ("so far", 3, 0.5)
    assert trail is not None
    assert trail["detail"]["usage"] == output["usage"]
    assert (trail["detail"]["executor"], trail["detail"]["attempt"]) == ("scripted", 1)
    for task_id, why in BROKEN.items():
        row = found[task_id]
        assert (row["status"], row["failure_kind"], row["question"]) == ("failed", "error", None), task_id
        assert str(row["error_message"]).startswith(f"the run asks a person, but {why}"), task_id
    assert executor.may_ask == [True] * len(ENDS)


async def test_worker_polls_at_the_deadline_of_its_question(dsn: str, tmp_path: Path) -> None:
    """It is busy and woken by nothing: its next poll would be in an hour."""
    async with Rig(dsn, recheck=False) as rig, await psycopg.AsyncConnection.connect(dsn, autocommit=True) as db:
        await db.execute("insert into agent_tasks (task_id, task_description) values ('t', 'x')")
        task, _ = await rig.claimed()
        completer = rig.completer(Spool(tmp_path / "spool"))
        completer.start(lambda name, error: pytest.fail(f"{name}: {error!r}"))
        result = finished(
            task, rig.worker_id, OutcomeKind.ASKED, question=question(), answer_within=0.3, agent_session_id=""
        )
        await completer.submit(result, durable=False)

        async def expired() -> bool:
            row = await (await db.execute("select question ->> 'expired' from agent_tasks")).fetchone()
            return row == ("true",)

        await until_async(expired)
        await completer.stop()
