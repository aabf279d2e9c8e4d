"""A problem of one worker: what is wrong with it now, and the remedy. `turbo status` shows those of the whole fleet."""

from dataclasses import dataclass
from enum import StrEnum


class ProblemKind(StrEnum):
    """The label of `turbo_problems{kind}`, and `kind` in `agent_workers.problems`; the worst first."""

    LOOP_BLOCKED = "loop_blocked"  # code of a task holds up the worker's event loop
    RESULTS_WAIT = "results_wait"  # results cannot be recorded, so nothing is claimed
    SESSIONS = "sessions"  # the database gives it no session for its work
    DISK = "disk"  # the spool takes no result, so nothing is claimed
    REFUSED_ROW = "refused_row"  # the database does not let turbo write a task's row
    REFUSED_RESULT = "refused_result"  # nor a task's result
    LEFT_BEHIND = "left_behind"  # what a dead worker left on this host cannot be taken over
    STUCK_RUN = "stuck_run"  # a thread goes on after the end of its run, and keeps a slot
    EXECUTOR = "executor"  # what an executor needs is not on this host
    OLDER_WORKER = "older_worker"  # it does not know tasks that wait, so questions are off
    TRANSCRIPTS = "transcripts"  # what agents say and do cannot be stored
    DEAF = "deaf"  # notifications do not arrive
    NOTIFY_QUEUE = "notify_queue"  # the server's notification queue is filling up: inserts wake nobody


@dataclass(frozen=True, slots=True)
class Problem:
    """`what`: the observation. `do`: the remedy, '' if there is nothing to do."""

    kind: ProblemKind
    what: str
    do: str = ""


MOST_READ = 50
LONGEST_READ = 1000
"""What is read of one worker's problems: how many, and characters of each text. Any worker may have written them."""


def written_problems(value: object) -> list[dict[str, str]]:
    """`agent_workers.problems` as its readers get it: of any JSON value, the objects with these three texts."""
    found = value if isinstance(value, list) else []
    objects = [one for one in found[:MOST_READ] if isinstance(one, dict)]
    keys = ("kind", "what", "do")
    texts = [{key: one.get(key) for key in keys} for one in objects if isinstance(one.get("what"), str)]
    return [{key: text[:LONGEST_READ] if isinstance(text, str) else "" for key, text in one.items()} for one in texts]
