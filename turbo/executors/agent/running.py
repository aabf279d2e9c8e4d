"""A run of an agent, whichever CLI it is: its directory, its turns with the checks between them, and what keeps it from running.

directory ──▶ turn ──▶ outcome          without checks
directory ──▶ turn ──▶ check ──▶ turn … ──▶ outcome          with them (turbo.executors.checks.loop)
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path

from turbo.domain.outcome import FailureKind, Outcome
from turbo.domain.run import Run
from turbo.domain.work import Message
from turbo.executors.agent.prompts import shown_data
from turbo.executors.checks.loop import Checks, Turn
from turbo.process.environment import EnvironmentRefused
from turbo.process.running import SpawnFailed
from turbo.workspaces.area import WorkArea, WorkspaceView
from turbo.workspaces.at_remote import portable

NOTHING_TO_DO = "task_description is empty, and there is no input_data: write what the agent is to do"
PROBE_PROMPT = "Answer with the word ok."
PROBE_SECONDS = 60.0

TakesTurn = Callable[[Path, Turn, float], Awaitable[Outcome]]
"""One turn of the agent in a directory. The number is what the turns before it have cost, in US dollars."""

IsBare = Callable[[Run, Path], Awaitable[bool]]


async def run_agent(
    name: str,
    run: Run,
    work_area: WorkArea,
    environment: Callable[[], Mapping[str, str]],
    checks: Checks | None,
    take_turn: TakesTurn,
    *,
    is_bare: IsBare | None = None,
) -> Outcome:
    """See `Executor.run`. `name`: the executor's. `environment`: for the programs that prepare the directory. `is_bare`: whether a
    directory that is no workspace has nothing that another host would lack; None: the agent's sessions stay on this host."""
    if not run.task.task_description.strip() and shown_data(run.task) in (None, {}, []) and not run.task.messages:
        return Outcome.failed(NOTHING_TO_DO, FailureKind.BAD_REQUEST, final=True)

    async def program(directory: Path, workspace: WorkspaceView | None) -> Outcome:
        spent = 0.0

        async def take(turn: Turn) -> Outcome:
            nonlocal spent
            outcome = await take_turn(directory, turn, spent)
            spent += sum(used.cost_usd or 0.0 for used in outcome.usage)
            return outcome

        outcome = await (take(Turn()) if checks is None else checks.run(run, directory, workspace, take))
        if is_bare is None or workspace is not None:
            return outcome
        return replace(outcome, portable=await is_bare(run, directory))

    try:
        outcome = await work_area.run(run, environment(), program)
        space = outcome.extra.get("workspace")
        if is_bare is None or not isinstance(space, dict):
            return outcome
        return replace(outcome, portable=portable(space))
    except RecursionError as error:
        return Outcome.failed(f"executor {name}: {error}", FailureKind.BAD_REQUEST, final=True)
    except SpawnFailed as error:
        return Outcome.infrastructure(str(error))
    except (EnvironmentRefused, OSError) as error:
        return Outcome.infrastructure(f"executor {name}: {error}")
    except BufferError as error:
        return Outcome.failed(f"executor {name}: {error}")


def told_so_far(run: Run) -> tuple[Message, ...]:
    """What people have told the task so far, for the prompt."""
    return run.task.messages if run.messages is None else run.messages.take()
