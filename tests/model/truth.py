"""What must be so, kept beside the database and never read from it.

`Truth` is what this line of history has seen: it goes back with the database in a failover. What workers remember
(`tests/model/fleet.py`) does not.
"""

from collections import Counter
from dataclasses import dataclass, field

from tests.model.waits import Waits
from tests.model.world import Picture, Row
from turbo.db.result_store import INFRA_CAP, ResultAnswer
from turbo.domain.outcome import OutcomeKind
from turbo.domain.result import RunResult
from turbo.domain.states import FINAL, TRANSITIONS, TaskState

QUEUED = ("pending", "scheduled")
ASKED = OutcomeKind.ASKED.value
SUCCEEDED = OutcomeKind.SUCCEEDED.value


@dataclass
class TaskTruth:
    first: str  # its status when it was inserted
    claims: list[int] = field(default_factory=list)  # tokens, in this line of history
    recorded: set[int] = field(default_factory=set)
    consumed: set[int] = field(default_factory=set)  # released, or taken by a hand edit: recorded too
    told_late: set[int] = field(default_factory=set)
    wishes: int = 0
    polled: bool = False  # an old poller had it: no trail, no token
    former: set[int] = field(default_factory=set)  # tokens of a deleted row that had the same id
    since: int = 0  # so many entries of the trail are that row's
    waits: Waits = field(default_factory=Waits)

    def tokens(self) -> set[int]:
        """All that were ever of this id."""
        return self.former | set(self.claims) | self.recorded | self.consumed | self.told_late


GIVEN_BACK = (OutcomeKind.AUTH_FAILED.value, OutcomeKind.USAGE_LIMITED.value, OutcomeKind.UNAVAILABLE.value)


@dataclass
class Truth:
    tasks: dict[str, TaskTruth] = field(default_factory=dict)
    beats: dict[str, float] = field(default_factory=dict)  # worker → its last beat, on the model's clock
    deleted: dict[str, set[int]] = field(default_factory=dict)  # ids that are free again → their tokens
    messages: dict[str, TaskTruth] = field(default_factory=dict)  # what was said → to which task
    made: dict[str, list[str]] = field(default_factory=dict)  # a follow-up → the messages that it was made of
    most: dict[str, int] = field(
        default_factory=dict
    )  # a key → how many of its tasks may run: more than its limit, if it was lowered


def expected(row: Row, result: RunResult) -> set[str]:
    """What a recorded result makes of the row as it was."""
    outcome, wish = result.outcome, row["cancel_to"]
    if wish is not None and not (outcome == SUCCEEDED and wish in ("cancelled", "completed")):
        return set(QUEUED) if wish in QUEUED else {wish}
    if outcome == SUCCEEDED:
        return {"completed"}
    if outcome == OutcomeKind.CANCELLED.value:
        return {"cancelled"}
    if outcome == ASKED:
        return {"waiting"}
    if outcome in GIVEN_BACK or result.uncounted:
        return {"scheduled" if result.uncounted and outcome == OutcomeKind.UNAVAILABLE else "pending"}
    if outcome == OutcomeKind.INFRASTRUCTURE.value:
        return {"failed"} if row["infra_count"] + 1 >= INFRA_CAP else {"scheduled"}
    return {"scheduled"} if not result.final and row["retry_count"] < row["max_retries"] else {"failed"}


def judge(task: TaskTruth | None, row: Row | None, result: RunResult, answer: ResultAnswer) -> str:
    """What is wrong with the answer to a result, '' when nothing is. `row`: as it was before, None when not known."""
    token, verdict = result.fencing_token, answer.verdict
    if task is None:
        # `already` if the trail has it: that something of it is there is looked at by the caller
        return "" if verdict in ("gone", "already") else f"{verdict}: there is no such row"
    spent = token in task.consumed or token in task.recorded
    newest = task.claims[-1] if task.claims else None
    if verdict == "recorded":
        if spent:
            return "a consumed token answered"
        if token in task.former:
            return "the result of a deleted row answered for another of its id"
        if newest is not None and (token != newest if token in task.claims else token < newest):
            return "recorded, though somebody has claimed the task since"
        if row is not None and answer.becomes not in expected(row, result):
            return f"became {answer.becomes}, not {expected(row, result)}"
    elif verdict == "already":
        if token not in task.recorded | task.told_late | task.former:
            return "already: this result was never recorded, and its output is lost"
    elif verdict == "late":
        if token in task.recorded:
            return "late: it is a replay of what was recorded"
        holds = row is not None and not spent and token == newest and row["fencing_token"] == token
        if holds and row is not None:
            if row["status"] == "running" or (result.outcome in (SUCCEEDED, ASKED) and row["status"] in QUEUED):
                return "late: nobody else has the task"
            if result.outcome == SUCCEEDED and row["status"] == "failed" and row["failure_kind"] == "poison":
                return "late: nobody else has the task"
    else:
        return "gone: the row is there"
    return ""


def look(picture: Picture, truth: Truth) -> None:
    """What must be so after every step, whatever the step was. Raises AssertionError."""
    assert set(picture.tasks) == set(truth.tasks), (
        f"lost: {set(truth.tasks) - set(picture.tasks)}, from nowhere: {set(picture.tasks) - set(truth.tasks)}"
    )
    places: dict[tuple[str, int], str] = {}
    running: Counter[str] = Counter()
    for task_id, row in picture.tasks.items():
        task = truth.tasks[task_id]
        _columns(row, task)
        if not task.polled:
            _trail(task_id, row, task, picture.trail.get(task_id, []))
            _questions(task_id, row, picture.trail.get(task_id, [])[task.since :])
        if row["status"] == "running" and (key := row["concurrency_key"]) is not None:
            other = places.setdefault((key, row["key_slot"] or 0), task_id)
            assert other == task_id, f"{other} and {task_id} both run on place {row['key_slot'] or 0} of key {key}"
            running[key] += not task.polled  # an old poller knows no limits
    for key, runs in running.items():
        limit = picture.limits.get(key, 1)
        assert runs <= max(limit, truth.most.get(key, 1)), f"{runs} of key {key} run, and {limit} may"
    truth.most = {key: max(runs, picture.limits.get(key, 1)) for key, runs in running.items()}


def _columns(row: Row, task: TaskTruth) -> None:
    status, token, name = row["status"], row["fencing_token"], row["task_id"]
    if status == "pending":
        assert not row["future"], f"{name} is pending and due later: it stands in the claim index"
    if status == "running" and not task.polled:
        assert token is not None, f"{name} runs without a token"
        assert token > 0, f"{name} runs with a consumed token"
        assert row["assigned_worker_id"] is not None, f"{name} runs nowhere"
        assert row["completed_at"] is None
    elif status in (*QUEUED, "waiting") and not task.polled:
        assert row["assigned_worker_id"] is None, f"{name} waits and is assigned"
        assert row["cancel_requested_at"] is None, f"{name} waits with an old wish"
        assert row["completed_at"] is None, f"{name} waits and is completed"
    elif status in FINAL:
        assert task.polled or row["completed_at"] is not None, f"{name} is {status} since when?"
        assert row["cancel_to"] is None, f"{name} is {status} with a wish left"
    assert status == "running" or row["key_slot"] is None, f"{name} is {status}, and has a place of its key"
    assert row["retry_count"] >= 0
    assert task.polled or row["retry_count"] <= row["max_retries"], f"{name}: {row['retry_count']} retries"
    # a person's wish is fulfilled at the cap, too
    most = INFRA_CAP + task.wishes - (status not in FINAL)
    assert 0 <= row["infra_count"] <= most, f"{name} is {status}: infra_count {row['infra_count']}"


BESIDE = ("late", "checked", "fired")
"""What the trail has beside the changes of a status."""


def _trail(task_id: str, row: Row, task: TaskTruth, trail: list[Row]) -> None:
    trail = trail[task.since :]
    trail_holds(task_id, row, task.first, trail)
    mixed = [e["action_type"] for e in trail if e["fencing_token"] in task.former and e["action_type"] not in BESIDE]
    assert not mixed, f"{task_id}: {mixed} by a run of a deleted row of that id"
    claimed = [e["fencing_token"] for e in trail if e["action_type"] == "claimed"]
    assert claimed == sorted(set(claimed)), f"{task_id}: its tokens do not grow: {claimed}"


def trail_holds(task_id: str, row: Row, first: str, trail: list[Row]) -> None:
    """Every change of status has its entry, in order, and nothing was recorded twice. Raises AssertionError."""
    status = first
    finished: list[int] = []
    over: set[int] = set()  # tokens whose claim has come to an end
    spent: bool | None = None  # whether the row's token is consumed; None: not known
    for entry in trail:
        action, was, becomes = entry["action_type"], entry["from_status"], entry["to_status"]
        if action in BESIDE:
            continue  # changes nothing, and stands beside what the same batch did
        if action in ("edited", "deleted", "undelivered") and was is None and becomes is None:
            continue  # tells of a person who changed other columns, or removed the row; or of a message that is closed
        assert was == status, f"{task_id}: {action} from {was}, but it was {status}"
        if was != becomes:
            assert (TaskState(was), TaskState(becomes)) in TRANSITIONS, f"{task_id}: {was} → {becomes} is no transition"
        if action in ("finished", "asked"):
            finished.append(entry["fencing_token"])
        if action in ("finished", "asked", "released", "rescued"):
            # what a run that was given up has to say of its failure, the rescue has said and counted
            late = action in ("finished", "asked") and entry["success"]
            assert late or entry["fencing_token"] not in over, f"{task_id}: one claim is {action}, and was over"
            over.add(entry["fencing_token"])
        elif action == "reasserted":
            over.discard(entry["fencing_token"])
        if action in ("claimed", "reasserted"):
            spent = False
        elif action in ("finished", "asked", "released"):
            spent = True
        elif action == "edited" and was != becomes:
            # what is put off keeps its token: nothing new has been asked of it
            spent = None if becomes == "scheduled" else True
        status = becomes
    assert status == row["status"], f"{task_id} is {row['status']}, its trail says {status}"
    if spent is not None and row["fencing_token"] is not None:
        assert (row["fencing_token"] < 0) == spent, f"{task_id}: its token is {'not ' * spent}consumed"
    assert len(finished) == len(set(finished)), f"{task_id}: a result is recorded twice"


def _questions(task_id: str, row: Row, trail: list[Row]) -> None:
    """The row has the question that was asked last, of this task, with what a person answered to it, and nothing else."""
    asked: str | None = None
    answer: str | None = None
    for entry in trail:
        action, was, becomes = entry["action_type"], entry["from_status"], entry["to_status"]
        question = (entry["detail"] or {}).get("question") or {}
        held = question.get("kind") == "hold"
        if action == "asked" and becomes == "waiting":
            asked, answer = question["text"], None
        elif action == "answered" and not held:
            assert (question["text"], answer) == (asked, None), f"{task_id}: {asked} was answered with {answer} before"
            answer = entry["detail"]["answer"]
        elif action == "unanswered":
            assert (question["text"], answer) == (asked, None), (
                f"{task_id}: {asked} expired, and was answered: {answer}"
            )
        elif action == "reasserted" and was == "waiting":
            answer = entry["detail"]["answer"]
        elif action == "edited" and was in FINAL and becomes in (*QUEUED, "blocked"):
            asked = answer = None  # a retry by hand begins anew
    shown, given = row["question"] or {}, row["answer"]
    if shown.get("kind") == "hold":
        shown, given = shown.get("held") or {}, shown.get("held_answer") if row["status"] != "cancelled" else answer
    assert (shown.get("text"), given) == (asked, answer), (
        f"{task_id} has {shown.get('text')} with {given}; it asked {asked}, and was told {answer}"
    )
    assert asked is None or asked.startswith(f"{task_id} "), f"{task_id} has the question of another: {asked}"
    assert answer is None or answer in answers_to(asked), f"{task_id} has the answer to another question: {answer}"
    if row["status"] == "waiting":
        assert row["question"] is not None, f"{task_id} waits for nothing"
        assert row["answer"] is None, f"{task_id} waits, and is answered"


def answers_to(question: str | None) -> tuple[str, str]:
    """What people of the model answer."""
    return f"to {question}", f"also to {question}"
