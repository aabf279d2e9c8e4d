"""One run of one task: what an executor is given, and what it reports meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from turbo.domain.claim import ClaimRef
from turbo.domain.headroom import UsageWindow
from turbo.domain.mailbox import Mailbox
from turbo.domain.outcome import ModelUsage
from turbo.domain.session import StoredSessions
from turbo.domain.states import StopCause
from turbo.domain.task import Task
from turbo.domain.transcript import NO_TRANSCRIPT, TranscriptSink

UsedSoFar = Callable[[], tuple[ModelUsage, ...]]
"""What a run has used until now that no outcome tells: it ends without one."""

UsdLeftOf = Callable[[str, tuple[ModelUsage, ...]], Awaitable[float | None]]
"""See `Run`."""


class StopSignal:
    """Asks a run to end, and gives the cause. Set once, by the worker; awaited by the executor."""

    def __init__(self) -> None:
        self._event: asyncio.Event | None = None  # made when an executor waits: most light runs end before
        self.cause: StopCause | None = None

    def set(self, cause: StopCause) -> None:
        """The first cause counts."""
        if self.cause is None:
            self.cause = cause
            if self._event is not None:
                self._event.set()

    def is_set(self) -> bool:
        return self.cause is not None

    async def wait(self) -> None:
        if self.cause is None:
            if self._event is None:
                self._event = asyncio.Event()
            await self._event.wait()


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run is: its last line of text and the tokens so far, as `agent_progress` shows them."""

    text: str = ""
    input_tokens: int = 0
    output_tokens: int = 0


class Snooze(Exception):
    """The task could run here, but not at this moment. It is given back uncounted, due again in `seconds`. `host`: the only
    host that may claim it then; None: no other than before."""

    def __init__(self, why: str, seconds: float, *, host: str | None = None) -> None:
        super().__init__(why)
        self.seconds = seconds
        self.host = host


def _ignore_pid(_pid: int) -> None: ...
def _ignore_progress(_progress: Progress) -> None: ...
def _ignore_session(_session_id: str) -> None: ...
def _ignore_rest(_gone: "asyncio.Future[None]") -> None: ...
def _at_once(action: Callable[[], None]) -> None:
    action()


def _ignore_usage(_so_far: UsedSoFar) -> None: ...


def _ignore_windows(_windows: tuple[UsageWindow, ...]) -> None: ...


async def _no_limit(_account: str, _used: tuple[ModelUsage, ...]) -> None: ...


def _used_nothing() -> tuple[ModelUsage, ...]:
    return ()


class Run:
    """One run of one task: where its files go, and how it reports to the worker meanwhile.

    `work_dir` is the default working directory, one per task, made on demand by its user. `log_path` is this
    attempt's log. `started(pid)` is called once, when the agent's program really runs (0 where there is no program).
    `progress` may be called as often as the executor likes; the worker throttles. `session_started(id)` tells the
    agent's session as soon as it is known, so that a run that is cut short can be resumed; '' forbids a resume.
    `goes_on(gone)` tells, before the run returns, that a part of it could not be ended: the slot stays taken until `gone`
    is done. `when_safe(action)`: `action` is called once the run's result is safe, in a thread; never, if the worker dies before.
    `uses(so_far)` tells how to learn what the run has used, if it is killed and so returns no outcome. It is asked once, at the end.
    `may_ask`: a question of this run reaches a person; an executor asks none otherwise. `usd_left`: what is left of the budgets that
    cover it, in US dollars; None: no limit. `usd_left_of(account, used)`: the same for a call with another account, after the run
    has `used` that much. `messages`: what people tell the task, for an executor that Converses; None: nobody can. `moved`: another
    account may have had the task's session. `windows` tells what the agent's service says about its account's windows.
    `transcript`: where what the agent says and does is stored. `stored`: the sessions that are stored so; None: none are.

    The paths may be functions, called when a path is needed: building both costs a light run a tenth of its time.
    """

    __slots__ = (
        "_log_path",
        "_work_dir",
        "goes_on",
        "may_ask",
        "messages",
        "moved",
        "progress",
        "session_started",
        "started",
        "stop",
        "stored",
        "task",
        "transcript",
        "usd_left",
        "usd_left_of",
        "uses",
        "when_safe",
        "windows",
    )

    def __init__(
        self,
        task: Task,
        work_dir: Path | Callable[[], Path],
        log_path: Path | Callable[[], Path],
        stop: StopSignal | None = None,
        started: Callable[[int], None] = _ignore_pid,
        progress: Callable[[Progress], None] = _ignore_progress,
        session_started: Callable[[str], None] = _ignore_session,
        goes_on: "Callable[[asyncio.Future[None]], None]" = _ignore_rest,
        uses: Callable[[UsedSoFar], None] = _ignore_usage,
        *,
        may_ask: bool = True,
        usd_left: float | None = None,
        usd_left_of: UsdLeftOf = _no_limit,
        messages: Mailbox | None = None,
        when_safe: Callable[[Callable[[], None]], None] = _at_once,
        moved: bool = False,
        windows: Callable[[tuple[UsageWindow, ...]], None] = _ignore_windows,
        transcript: TranscriptSink = NO_TRANSCRIPT,
        stored: StoredSessions | None = None,
    ) -> None:
        self.task = task
        self._work_dir = work_dir
        self._log_path = log_path
        self.stop = StopSignal() if stop is None else stop
        self.started = started
        self.progress = progress
        self.session_started = session_started
        self.goes_on = goes_on
        self.uses = uses
        self.may_ask = may_ask
        self.usd_left = usd_left
        self.usd_left_of = usd_left_of
        self.messages = messages
        self.when_safe = when_safe
        self.moved = moved
        self.windows = windows
        self.transcript = transcript
        self.stored = stored

    @property
    def work_dir(self) -> Path:
        return self._work_dir if isinstance(self._work_dir, Path) else self._work_dir()

    @property
    def log_path(self) -> Path:
        return self._log_path if isinstance(self._log_path, Path) else self._log_path()


@dataclass(slots=True)
class Running:
    """One run in a slot. `claimed_at` is in monotonic seconds. `when_safe`: see `Run`. `used`: what it has used, if
    it ends without an outcome."""

    task: Task
    executor: str
    account: str | None
    stop: StopSignal = field(default_factory=StopSignal)
    claimed_at: float = field(default_factory=monotonic)
    session_id: str | None = None
    messages: Mailbox | None = None
    when_safe: Callable[[], None] | None = None
    used: UsedSoFar = _used_nothing
    claim: ClaimRef = field(init=False)

    def __post_init__(self) -> None:
        self.claim = ClaimRef(self.task.task_id, self.task.fencing_token)
