"""What tasks wait for, kept beside the database: who needs whom, and what of that has been met. Never read from the settler's own
tables."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.model.world import Row
from turbo.domain.states import FINAL

MET, FAILED = "met", "failed"


@dataclass
class Need:
    """One task that another needs. `of`: the truth of that very task, because ids come again."""

    mode: str
    of: object
    last: str = "pending"  # its status when it was last seen
    gone: bool = False


@dataclass
class Waits:
    """Of one task. `seen`: how each need has been, at some moment since the task began to wait: 'met', 'failed', or both."""

    needs: dict[str, Need] = field(default_factory=dict)
    line: object = None  # the truth of the first task of its conversation
    turn: int = 0  # among the follow-ups of that
    touched: bool = False  # a person edited it: its order is theirs
    seen: dict[str, set[str]] = field(default_factory=dict)

    @property
    def any(self) -> bool:
        return bool(self.needs) or self.line is not None

    def begin_again(self, tasks: Mapping[str, object], *, by_hand: bool) -> None:
        """It waits once more. A person who retries it means it: of a need that is gone both ends count. Another task of that id
        is none to it."""
        self.seen = {}
        for task_id, need in self.needs.items() if by_hand else ():
            if tasks.get(task_id) is not need.of:
                need.gone = True
                self.seen[task_id] = {MET, FAILED}

    def look(self, rows: Mapping[str, Row], tasks: Mapping[str, object], *, patient: bool) -> None:
        """`patient`: a task of mode 'wait' does not give up yet."""
        for task_id, need in self.needs.items():
            need.gone = need.gone or tasks.get(task_id) is not need.of
            if not need.gone:
                need.last = rows[task_id]["status"]
            over = need.last in FINAL or need.gone
            found = self.seen.setdefault(task_id, set())
            if need.last == "completed" or (need.mode == "run" and over):
                found.add(MET)
            elif over and (need.gone or need.mode == "cancel" or not patient):
                found.add(FAILED)

    def unmet(self) -> list[str]:
        return sorted(need for need in self.needs if MET not in self.seen.get(need, set()))

    def failed(self) -> list[str]:
        return sorted(need for need in self.needs if FAILED in self.seen.get(need, set()))
