"""A run of an agent, whichever CLI it is: its directory, its turns with the checks between them, and what keeps it from running.

directory ──▶ turn ──▶ outcome          without checks
directory ──▶ turn ──▶ check ──▶ turn … ──▶ outcome          with them (turbo.executors.checks.loop)
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path

from turbo.domain.outcome import FailureKind, Outcome, OutcomeKind
from turbo.domain.run import Run
from turbo.domain.task import NO_TASK
from turbo.domain.work import Message
from turbo.executors.agent.prompts import shown_data
from turbo.executors.checks.loop import Checks, Turn
from turbo.executors.directories import scratch_directory
from turbo.process.environment import ChildEnvironment, EnvironmentRefused
from turbo.process.identity import Identity
from turbo.process.running import Ending, SpawnFailed
from turbo.workspaces.area import WorkArea, WorkspaceView

NOTHING_TO_DO = "task_description is empty, and there is no input_data: write what the agent is to do"
PROBE_PROMPT = "Answer with the word ok."
PROBE_SECONDS = 60.0

TakesTurn = Callable[[Path, Turn, float], Awaitable[Outcome]]
"""One turn of the agent in a directory. The number is what the turns before it have cost, in US dollars."""


async def run_agent(
    name: str,
    run: Run,
    work_area: WorkArea,
    environment: Callable[[], Mapping[str, str]],
    checks: Checks | None,
    take_turn: TakesTurn,
) -> Outcome:
    """See `Executor.run`. `name`: the executor's. `environment`: for the programs that prepare the directory."""
    if not run.task.task_description.strip() and shown_data(run.task) in (None, {}, []) and not run.task.messages:
        return Outcome.failed(NOTHING_TO_DO, FailureKind.BAD_REQUEST, final=True)

    async def program(directory: Path, workspace: WorkspaceView | None) -> Outcome:
        spent = 0.0

        async def take(turn: Turn) -> Outcome:
            nonlocal spent
            outcome = await take_turn(directory, turn, spent)
            spent += sum(used.cost_usd or 0.0 for used in outcome.usage)
            return outcome

        if checks is None:
            return await take(Turn())
        return await checks.run(run, directory, workspace, take)

    try:
        return await work_area.run(run, environment(), program)
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


def explained_end(
    outcome: Outcome, run: Run, ended_by: Ending, silence_seconds: float | None, last_line: str | None
) -> Outcome:
    """The outcome with words on why turbo has ended the agent; unchanged if it has not."""
    if outcome.kind is OutcomeKind.CANCELLED:
        return replace(outcome, error=f"the agent was ended on request: {run.stop.cause}")
    if outcome.kind is not OutcomeKind.TIMED_OUT:
        return outcome
    limit = (
        f"{run.task.timeout_seconds:g} s (timeout_seconds)"
        if ended_by is Ending.WALL
        else f"{silence_seconds:g} s without output (silence_seconds)"
    )
    return replace(outcome, error=f"the agent was ended after {limit}; last output: {last_line or 'none'}")


def missing_of(
    work_area: WorkArea,
    environment: ChildEnvironment,
    program: Callable[[Path | None], str | None],
    checks: Checks | None,
) -> str | None:
    """See `NeedsProgram`: of an agent's executor. `program`: why its CLI cannot be started in a fixed directory, or None."""
    try:
        problem = work_area.missing(environment.for_task(NO_TASK))
    except (EnvironmentRefused, OSError) as error:
        return str(error)
    return problem or program(work_area.fixed) or (checks.missing() if checks is not None else None)


async def probed(name: str, run_as: Identity | None, call: Callable[[Run, Path], Awaitable[Outcome]]) -> Outcome:
    """The outcome of one short real call in an empty directory, which tests an account. Never raises. `name`: the executor's."""
    try:
        async with scratch_directory(run_as) as (directory, log_path):
            return await call(Run(NO_TASK, directory, log_path), directory)
    except SpawnFailed as error:
        return Outcome.infrastructure(str(error))
    except (EnvironmentRefused, OSError) as error:
        return Outcome.infrastructure(f"executor {name}: {error}")


def log_size(log_path: Path) -> int:
    """In bytes; 0: there is none yet."""
    try:
        return log_path.stat().st_size
    except OSError:
        return 0
