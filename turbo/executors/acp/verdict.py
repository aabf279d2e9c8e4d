"""What became of a run of an agent over ACP, decided by one table. The first row that applies decides.

- A profile's tells say what a failure is: `means` of turbo.executors.acp.ended.
- A fault in the row's content (the prompt) fails the task, at once if a second attempt must fail as well.
- A fault of the login, of the service or of this worker is not the task's: no attempt is counted.
- `end_turn` is a success where the profile tells failures. Elsewhere a check decides; the configuration sees to it that there is one.

Anything unrecognised is an ordinary failure, which counts. docs/executors/acp.md shows the table to users; a test compares the two.
"""

import time
from collections.abc import Callable

from turbo.config.acp import ToldBy
from turbo.domain.outcome import FailureKind, Outcome, OutcomeKind
from turbo.executors.acp.ended import EndedAcp
from turbo.executors.acp.reset import reset_in
from turbo.executors.acp.talk import TalkStep
from turbo.executors.agent.situation import Situation, ended_by_turbo, error_text, first
from turbo.process.running import Ending


def _means(*which: ToldBy) -> Callable[[EndedAcp], bool]:
    return lambda e: e.means in which


def _reason(reason: str) -> Callable[[EndedAcp], bool]:
    return lambda e: e.reason == reason


def _gave_up(e: EndedAcp) -> bool:
    """Its call was denied, and it has not said a word since."""
    over = e.done or _reason("cancelled")(e)
    return over and e.stream.said_since_denial is False


def _answered(e: EndedAcp) -> bool:
    return e.done and (e.checked or (e.profile is not None and e.profile.tells_failures))


def _no_session(e: EndedAcp) -> bool:
    return e.error is not None and e.heard.step in (TalkStep.OPENING, TalkStep.SETTING) and not unresumable(e)


def _silent_retries(e: EndedAcp) -> bool:
    """Out of time, and the agent has not got one word from its service: it tries again in silence."""
    silent = e.ended_by in (Ending.WALL, Ending.SILENT) and e.prompted and e.stream.silent
    return silent and e.profile is not None and e.profile.retries_in_silence


def unresumable(e: EndedAcp) -> bool:
    """The session cannot go on: the agent refused it before a prompt."""
    asked = e.error is not None and e.error.at in ("session/load", "session/resume")
    cannot = e.resumed and e.heard.step is TalkStep.OPENING and e.heard.unfit is not None
    return e.resumed and e.means is None and (asked or cannot)


def foreign(e: EndedAcp) -> bool:
    """The service refused the first request of a session, as it may if another account has begun it."""
    return e.resumed and e.stream.silent and e.means is ToldBy.BAD_REQUEST


TABLE: tuple[Situation[EndedAcp], ...] = (
    Situation("a person is asked", lambda e: e.heard.asked is not None, OutcomeKind.ASKED),
    Situation(
        "ended on request, by the protocol",
        lambda e: e.heard.stopping and e.ended_by in (Ending.STOPPED, Ending.EXITED, Ending.ENOUGH),
        OutcomeKind.CANCELLED,
    ),
    Situation("login refused", _means(ToldBy.LOGIN), OutcomeKind.AUTH_FAILED, FailureKind.AUTH),
    Situation(
        "no credits, no plan, or a spend cap",
        _means(ToldBy.CREDITS),
        OutcomeKind.USAGE_LIMITED,
        FailureKind.USAGE_LIMIT,
        message="the service takes no more requests of this account until somebody pays or raises a cap: do that, then turbo resume "
        "--account",
    ),
    Situation("usage limit", _means(ToldBy.LIMIT), OutcomeKind.USAGE_LIMITED, FailureKind.USAGE_LIMIT),
    Situation(
        "refused by a policy",
        lambda e: e.means is ToldBy.REFUSED or _reason("refusal")(e),
        OutcomeKind.FAILED,
        FailureKind.REFUSED,
        ends_session=True,
    ),
    Situation(
        "prompt too long",
        lambda e: e.means is ToldBy.TOO_LONG and not e.conversation,
        OutcomeKind.FAILED,
        FailureKind.BAD_REQUEST,
        final=True,
    ),
    Situation(
        "conversation grown too long",
        _means(ToldBy.TOO_LONG),
        OutcomeKind.FAILED,
        FailureKind.BAD_REQUEST,
        ends_session=True,
    ),
    Situation(
        "model unknown or not for this account",
        _means(ToldBy.MODEL),
        OutcomeKind.INFRASTRUCTURE,
        FailureKind.INFRASTRUCTURE,
        message="the executor's model cannot be used: check `model` in worker.yaml",
    ),
    Situation("rate limited (429)", _means(ToldBy.RATE_LIMITED), OutcomeKind.UNAVAILABLE, FailureKind.UNAVAILABLE),
    Situation(
        "request refused",
        lambda e: e.means is ToldBy.BAD_REQUEST and not e.conversation,
        OutcomeKind.FAILED,
        FailureKind.BAD_REQUEST,
        final=True,
    ),
    Situation(
        "conversation refused",
        _means(ToldBy.BAD_REQUEST),
        OutcomeKind.FAILED,
        FailureKind.BAD_REQUEST,
        ends_session=True,
    ),
    Situation("server or network error", _means(ToldBy.UNAVAILABLE), OutcomeKind.UNAVAILABLE, FailureKind.UNAVAILABLE),
    Situation(
        "caught in a loop",
        lambda e: e.heard.looped,
        OutcomeKind.UNAVAILABLE,
        FailureKind.UNAVAILABLE,
        message="the agent began again and again without using a tool, as it does when its service breaks off every answer",
    ),
    Situation(
        "not an agent that turbo can speak to",
        lambda e: e.heard.unfit is not None or e.heard.late or e.means is ToldBy.MISCONFIGURED,
        OutcomeKind.INFRASTRUCTURE,
        FailureKind.INFRASTRUCTURE,
        message="the program does not speak the Agent Client Protocol as turbo does: try turbo agents probe",
    ),
    Situation(
        "agent refuses its session, its mode or its model",
        _no_session,
        OutcomeKind.INFRASTRUCTURE,
        FailureKind.INFRASTRUCTURE,
        message="check the executor's section of worker.yaml, and the agent's own configuration",
    ),
    Situation(
        "gave up after a call was not allowed",
        _gave_up,
        OutcomeKind.FAILED,
        FailureKind.ERROR,
        message="the agent ended its turn when a call was not allowed: see permissions in worker.yaml",
    ),
    Situation(
        "ended without a word",
        lambda e: e.done and e.stream.silent,
        OutcomeKind.FAILED,
        FailureKind.ERROR,
        message="the agent says that it is done, but it has said and done nothing",
    ),
    Situation("answered", _answered, OutcomeKind.SUCCEEDED),
    Situation(
        "says it is done, which nothing confirms",
        lambda e: e.done,
        OutcomeKind.FAILED,
        FailureKind.ERROR,
        message="this agent says that it is done although its service refused it, and neither a profile nor a check tells: add check",
    ),
    Situation("at its limit of turns", _reason("max_turn_requests"), OutcomeKind.FAILED, FailureKind.MAX_TURNS),
    Situation(
        "failed in another way",
        lambda e: e.error is not None or e.reason is not None,
        OutcomeKind.FAILED,
        FailureKind.ERROR,
    ),
    # From here on the agent has not said how the turn ended.
    *ended_by_turbo(_silent_retries),
    Situation(
        "CLI refuses its flags, its configuration or its directory",
        lambda e: not e.prompted,
        OutcomeKind.INFRASTRUCTURE,
        FailureKind.INFRASTRUCTURE,
        message="the agent ended before it had a prompt: check the executor's command, and run it by hand",
    ),
    Situation(
        "killed, or crashed",
        lambda _: True,
        OutcomeKind.FAILED,
        FailureKind.ERROR,
        message="the agent ended in the middle of a turn",
    ),
)
"""Every situation. The last row always applies."""


def judge(ended: EndedAcp) -> Situation[EndedAcp]:
    return first(TABLE, ended)


def outcome(ended: EndedAcp, *, now: float | None = None) -> Outcome:
    """The outcome of a run, without usage, session and log. `now` is Unix seconds, for reset times given as text."""
    row, stream = judge(ended), ended.stream
    if row.kind is OutcomeKind.SUCCEEDED:
        return Outcome.succeeded(stream.text, truncated=stream.truncated)
    if row.kind is OutcomeKind.ASKED:
        return Outcome(row.kind, output=stream.text or None, truncated=stream.truncated)
    limited = row.kind is OutcomeKind.USAGE_LIMITED
    needs_credits = limited and ended.means is ToldBy.CREDITS
    words = ended.text.strip() or (stream.text.strip()[-500:] if ended.means is not None else "")
    reason = ended.reason if ended.reason != "end_turn" else None
    ending = ended.heard.reason is None and ended.error is None and ended.heard.unfit is None
    how = ended.exit_text if ending and ended.ended_by is Ending.EXITED else ""
    return Outcome(
        row.kind,
        output=stream.text or None,  # the agent's last text: a reader may still want it
        error=error_text(row.message or f"{ended.heard.agent or 'the agent'}: {row.name}", reason, how, words),
        failure_kind=row.failure_kind,
        final=row.final,
        truncated=stream.truncated,
        resets_at=reset_in(words, time.time() if now is None else now) if limited and not needs_credits else None,
        needs_credits=needs_credits,
    )
