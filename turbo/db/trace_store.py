"""What the spans of a task begin with."""

from dataclasses import dataclass

from turbo.db.store import Store
from turbo.domain.trace import TaskTrace, parse_traceparent


@dataclass(frozen=True, slots=True)
class TracedTask:
    """A row of `agent_tasks`. `completed`: seconds since 1970; None: it is not over."""

    trace: TaskTrace
    completed: float | None
    task_type: str
    queue: str
    retry_count: int


class TraceStore(Store):
    async def traced(self, task_id: str, deadline: float) -> TracedTask | None:
        """None: there is no such task. `deadline` in seconds."""
        for traceparent, created, completed, task_type, queue, retries in await self._rows(
            "tasks/trace", {"task_id": task_id}, deadline
        ):
            trace = TaskTrace(task_id, created, parse_traceparent(traceparent))
            return TracedTask(trace, completed, task_type, queue, retries)
        return None
