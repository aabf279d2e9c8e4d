"""How `turbo show` tells what a task has to do with others: its needs, those who wait for it, its conversation, its messages."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from turbo.cli import output, timestamps
from turbo.domain.states import TaskState

if TYPE_CHECKING:
    from turbo.client.client import Blocked, Client, MessageLine, Related, Relations, TaskRow

MESSAGES_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Together:
    """`blocked`: None unless the task is."""

    relations: "Relations"
    blocked: "Blocked | None"
    messages: "list[MessageLine]"

    @classmethod
    def of(cls, client: "Client", task_id: str) -> "Together | None":
        """None for a role that may not see it: turbo_approver sees tasks and their audit trail, and no more."""
        import psycopg

        try:
            blocked = client.blocked(task_id)
            return cls(client.relations(task_id), blocked[0] if blocked else None, client.messages(task_id))
        except psycopg.errors.InsufficientPrivilege:
            return None

    def shown(self, task: "TaskRow") -> dict[str, object]:
        """Name and value, for `output.pairs`."""
        return {
            "blocked": self._blocked() if task.status == TaskState.BLOCKED else None,
            "needs": self._listed("needs", self.relations.needs),
            "if one fails": task.on_needs_failed if task.needs else None,
            "needed by": self._listed("dependents", self.relations.dependents),
            "continues": task.continues,
            "conversation": self._listed("turns", self.relations.turns),
            "parent": task.parent_task_id,
            "submitted by": task.submitted_by,
            "messages": self._messages(),
        }

    def _blocked(self) -> str | None:
        if self.blocked is None:
            return None
        return f"for {timestamps.duration(self.blocked.seconds)}: {output.one_line(self.blocked.why)}"

    def _listed(self, name: str, tasks: "Sequence[Related]") -> str | None:
        """A task a line. No text of a row begins one: the id comes last."""
        lines = [f"{one.status:9}  {output.one_line(one.task_id)}" for one in tasks]
        if (more := self.relations.of_all.get(name, 0) - len(tasks)) > 0:
            lines.append(f"and {more} more: turbo graph shows them")
        return "\n".join(lines) or None

    def _messages(self) -> str | None:
        last = self.messages[-MESSAGES_SHOWN:]
        return "\n".join(_message(one) for one in last) or None


def _message(one: "MessageLine") -> str:
    if one.follow_up is not None:
        state = f"became {output.one_line(one.follow_up)}"
    else:
        state = (
            "not delivered yet" if one.delivered_at is None else f"delivered {timestamps.local_time(one.delivered_at)}"
        )
    return f"{timestamps.local_time(one.created_at)}  {output.one_line(one.created_by)}, {state}: {output.one_line(one.body)}"
