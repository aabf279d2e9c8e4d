"""Which executor of a route with several runs a task: the first that is open, or the one whose agent has the conversation.

    routes: {default: [claude, codex]}
    a task ──▶ claude, if it is open ──▶ else codex ──▶ else given back uncounted
    a follow-up, or a run after an answer ──▶ the executor whose kind of agent has its session; it waits for that one

An executor is open while its program is here, its account and its service are, and no budget that covers the task is spent. A retry
goes to the first that is open: another agent begins anew, and looks at what is done.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from turbo.domain.budget import NO_PAYERS, Payers
from turbo.domain.run import Snooze
from turbo.domain.task import Task
from turbo.executors.agent.session import kind_of
from turbo.executors.protocol import Executor, KeepsSessions

CLOSED_SECONDS = 15.0
"""Until a task is claimed again whose executor is closed."""


class RouteChooser:
    """`serves(executor)`: whether it is open in this process. `spent(task)`: the accounts whose budgets keep them from the task."""

    def __init__(
        self,
        executors: Mapping[str, Executor],
        payers: Mapping[str, Payers],
        serves: Callable[[str], bool],
        spent: Callable[[Task], Awaitable[Collection[str]]],
    ) -> None:
        self._kinds = {name: one.session_kind for name, one in executors.items() if isinstance(one, KeepsSessions)}
        self._payers = payers
        self._serves = serves
        self._spent = spent

    async def choose(self, task: Task, route: Sequence[str]) -> str:
        """One of `route`. Raises Snooze if the task has to wait."""
        kind = kind_of(task.agent_session_id) if task.continued is not None or task.answers else None
        own = [name for name in route if kind is not None and self._kinds.get(name) == kind]
        spent = await self._spent(task)
        for name in own or route:
            if self._serves(name) and not self._payers.get(name, NO_PAYERS).spent(spent):
                return name
        whose = f"{own[0]}, which has the conversation, is closed" if own else f"all of {', '.join(route)} are closed"
        raise Snooze(f"no executor can run it now: {whose}", CLOSED_SECONDS)


async def first(_task: Task, route: Sequence[str]) -> str:
    """Without a choice."""
    return route[0]
