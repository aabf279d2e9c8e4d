"""Routes with several executors: which types are served, and which executor a task gets."""

from collections.abc import Collection
from pathlib import Path

import pytest

from turbo.config.worker import ConfigError, load_worker_config
from turbo.domain.budget import Budget, Payers, spent_queue
from turbo.domain.outcome import Outcome
from turbo.domain.question import Answered, Question, QuestionKind
from turbo.domain.run import Run, Snooze
from turbo.domain.task import Task
from turbo.domain.type_filter import EVERYTHING, TypeFilter, executors_of, served_types
from turbo.domain.work import Continued
from turbo.runtime.problems import Problems
from turbo.worker.claim_gate import ClaimGate
from turbo.worker.route_chooser import RouteChooser

ROUTES = {"default": ("claude", "codex"), "review": "codex", "words": ("words",)}


def test_route_is_one_executor_or_several() -> None:
    assert executors_of(ROUTES, "anything") == ("claude", "codex")
    assert executors_of(ROUTES, "review") == ("codex",)
    assert executors_of(ROUTES, "words") == ("words",)
    assert executors_of({"review": "codex"}, "anything") == ()


@pytest.mark.parametrize(
    ("closed", "served"),
    [
        (set(), EVERYTHING),
        ({"claude"}, EVERYTHING),
        ({"codex"}, TypeFilter(exclude=("review",))),
        ({"claude", "codex"}, TypeFilter(include=("words",))),
        ({"claude", "codex", "words"}, TypeFilter(include=())),
    ],
)
def test_type_is_served_while_one_of_its_executors_is_open(closed: set[str], served: TypeFilter) -> None:
    assert served_types(ROUTES, lambda executor: executor not in closed) == served


def test_executors_closed_by_different_causes_close_their_type() -> None:
    gate = ClaimGate(Problems(), ROUTES)
    accounts, programs = gate.closer("accounts"), gate.closer("executor availability")
    accounts(TypeFilter(exclude=("claude",)))
    assert (gate.types, gate.serves("claude"), gate.serves("codex")) == (EVERYTHING, False, True)
    programs(TypeFilter(exclude=("codex",)))
    assert gate.types == TypeFilter(include=("words",))
    accounts(EVERYTHING)
    assert gate.types == TypeFilter(exclude=("review",))
    gate.source("other")(TypeFilter(exclude=("words",)))
    assert gate.types == TypeFilter(exclude=("review", "words"))


PAYERS = {
    "claude": Payers(frozenset({"alpha"})),
    "codex": Payers(frozenset({"gamma", "delta"})),
    "words": Payers(),
}


@pytest.mark.parametrize(
    ("spent", "types"),
    [
        ({"alpha"}, EVERYTHING),
        ({"alpha", "gamma"}, EVERYTHING),
        ({"gamma", "delta"}, TypeFilter(exclude=("review",))),
        ({"alpha", "gamma", "delta"}, TypeFilter(include=("words",))),
    ],
)
def test_budgets_close_a_type_once_all_who_could_pay_are_spent(spent: Collection[str], types: TypeFilter) -> None:
    budgets = [Budget(f"b-{account}", account=account, closed=True) for account in sorted(spent)]
    assert spent_queue("default", budgets, ROUTES, PAYERS).types == types


class Agent:
    """An executor with sessions."""

    account: str | None = None
    durable = True

    def __init__(self, name: str, kind: str) -> None:
        self.name = name
        self.session_kind = kind

    async def run(self, run: Run) -> Outcome:
        raise NotImplementedError


def chooser(*closed: str, spent: Collection[str] = ()) -> RouteChooser:
    async def spent_accounts(_task: Task) -> Collection[str]:
        return spent

    executors = {"claude": Agent("claude", ""), "codex": Agent("codex", "codex")}
    return RouteChooser(executors, PAYERS, lambda name: name not in closed, spent_accounts)


def task(session: str | None = None, *, follows: bool = False, answered: bool = False) -> Task:
    answers = (Answered(Question(QuestionKind.QUESTION, "Which?"), "this"),) if answered else ()
    continued = Continued("t_0") if follows else None
    return Task("t", "x", "do it", agent_session_id=session, continued=continued, answers=answers)


OURS, THEIRS = "11111111-1111-4111-8111-111111111111", "codex:01a21dfa-9ac1-7b61-8a85-c262bedfcbe5"
ROUTE = ("claude", "codex")


@pytest.mark.parametrize(
    ("one", "closed", "spent", "chosen"),
    [
        (task(), (), (), "claude"),
        (task(), ("claude",), (), "codex"),
        (task(), (), ("alpha",), "codex"),
        (task(), (), ("gamma",), "claude"),
        (task(OURS), ("claude",), (), "codex"),  # a retry goes on with whoever is open
        (task(THEIRS), (), (), "claude"),
        (task(THEIRS, follows=True), (), (), "codex"),
        (task(OURS, follows=True), (), (), "claude"),
        (task(THEIRS, answered=True), (), (), "codex"),
        (task("acp:x", follows=True), ("claude",), (), "codex"),  # none of these agents has it
        (task(follows=True), ("claude",), (), "codex"),
    ],
)
async def test_first_open_executor_or_the_one_with_the_conversation(
    one: Task, closed: Collection[str], spent: Collection[str], chosen: str
) -> None:
    assert await chooser(*closed, spent=spent).choose(one, ROUTE) == chosen


@pytest.mark.parametrize(
    ("one", "closed", "why"),
    [
        (task(), ("claude", "codex"), "all of claude, codex are closed"),
        (task(OURS, follows=True), ("claude",), "claude, which has the conversation, is closed"),
        (task(THEIRS, answered=True), ("codex",), "codex, which has the conversation, is closed"),
    ],
)
async def test_task_waits_for_the_executor_that_it_needs(one: Task, closed: Collection[str], why: str) -> None:
    with pytest.raises(Snooze, match=why):
        await chooser(*closed).choose(one, ROUTE)


EXECUTORS = """
executors:
  claude: {kind: claude}
  codex: {kind: codex}
  here: {kind: codex, cwd: /srv, exclusive_cwd: true}
"""


@pytest.mark.parametrize(
    ("route", "error"),
    [
        ("[claude, codx]", "routes.default: no executor 'codx'; did you mean 'codex'?"),
        ("[]", "routes.default: lists 0 executors: name 1 to 10"),
        ("[claude, claude]", "routes.default: names an executor twice"),
        ("[claude, here]", "routes.default: here has exclusive_cwd, which does not go with a list of executors"),
        ("nobody", "routes.default: no executor 'nobody'"),
        ("{claude: 1}", "routes.default: names no executor: write one, or a list of several"),
    ],
)
def test_bad_route_is_one_clear_error(tmp_path: Path, route: str, error: str) -> None:
    file = tmp_path / "worker.yaml"
    file.write_text(f"{EXECUTORS}routes: {{default: {route}}}\n")
    with pytest.raises(ConfigError) as caught:
        load_worker_config(file)
    (line,) = str(caught.value).splitlines()
    assert error in line


def test_route_with_one_executor_may_have_an_exclusive_directory(tmp_path: Path) -> None:
    file = tmp_path / "worker.yaml"
    file.write_text(f"{EXECUTORS}routes: {{default: [here], other: [claude, codex]}}\n")
    config = load_worker_config(file)
    assert config.executors_by_type == {"default": ("here",), "other": ("claude", "codex")}
