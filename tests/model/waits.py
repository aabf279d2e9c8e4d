"""What tasks wait for, kept beside the database: who needs whom, and what of that has been met. Never read from the settler's own
tables."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.model.world import Row
from turbo.domain.states import FINAL


@dataclass
class Need:
    """One task that another needs. `of`: the truth of that very task, because ids come again."""

    mode: str
    of: object
    last: str = "pending"  # its status when it was last seen
    was: str = "pending"  # and at the look before that: a statement that ran beside its change saw the one or the other
    gone: bool = False
    either: bool = False  # it is gone, and a person retried the task that needs it: it counts as either
    untied: bool = False  # a failover lost what tied them: if it goes before they are tied again, another task of its id passes for it

    @property
    def met(self) -> bool:
        return self.either or any(
            s == "completed" or (self.mode == "run" and s in FINAL) for s in (self.was, self.ended)
        )

    def failed(self, patient: bool) -> bool:
        """`patient`: mode 'wait' does not give up yet."""
        if self.either or (self.gone and self.last != "completed" and self.mode != "run"):
            return True
        over = any(s in FINAL and s != "completed" for s in (self.was, self.last))
        return over and (self.mode == "cancel" or (self.mode == "wait" and not patient))

    @property
    def ended(self) -> str:
        """A need that is deleted counts as cancelled, unless it had completed."""
        return "cancelled" if self.gone and self.last not in FINAL else self.last


@dataclass
class Waits:
    """Of one task."""

    needs: dict[str, Need] = field(default_factory=dict)
    line: object = None  # the truth of the first task of its conversation
    turn: int = 0  # among the follow-ups of that
    touched: bool = False  # a person edited it: its order is theirs
    let_go: bool = False  # since it last began to wait

    @property
    def any(self) -> bool:
        return bool(self.needs) or self.line is not None

    def begin_again(self, tasks: Mapping[str, object], *, by_hand: bool) -> None:
        """It waits once more. A person who retries it means it: of a need that is gone both ends count. Another task of that id
        is none to it."""
        self.let_go = False
        for task_id, need in self.needs.items() if by_hand else ():
            if tasks.get(task_id) is not need.of:
                need.gone = need.either = True

    def look(self, rows: Mapping[str, Row], tasks: Mapping[str, object]) -> None:
        """After each step."""
        for task_id, need in self.needs.items():
            need.was = need.last
            need.gone = need.gone or tasks.get(task_id) is not need.of
            need.either = need.either or (need.untied and need.gone)
            if not need.gone:
                need.last = rows[task_id]["status"]

    def unmet(self) -> list[str]:
        """As things stand, or stood before the last step."""
        return sorted(task_id for task_id, need in self.needs.items() if not need.met)

    def failed(self, *, patient: bool) -> list[str]:
        return sorted(task_id for task_id, need in self.needs.items() if need.failed(patient))
