"""turbo's side of one conversation with an agent over its stdin and stdout.

    initialize ──▶ session/new, session/load or session/resume ──▶ mode, model ──▶ session/prompt ──updates──▶ its answer
                                                                                └── requests: each is answered at once
    a stop ──▶ session/cancel, open requests are answered `cancelled` ──▶ the answer, or `stop_seconds` ──▶ turbo's own stop
    a call that a person must approve ──▶ the same, and the run ends by asking

turbo offers the agent no files and no terminal. Answers are matched by id: one that nobody waits for is left out, as are updates
before the prompt, after its answer, and of other sessions. What the agent sends decides nothing but what is said here.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from turbo.config.acp import AcpProfile, Permissions
from turbo.domain.question import Question
from turbo.domain.run import StopSignal
from turbo.domain.states import StopCause
from turbo.executors.acp import messages, permissions
from turbo.executors.acp.messages import AgentAnswer, AgentNotice, AgentRequest, RpcError, UnreadLine
from turbo.executors.acp.stream import AcpStream
from turbo.executors.agent import fields
from turbo.executors.agent.desk import Allow, Defer, Desk, NoOpinion, ToolCall
from turbo.process.stdin import MOST_UNREAD, OpenStdin

log = logging.getLogger(__name__)

PROTOCOL = 1
HANDSHAKE_SECONDS = 120.0
"""For one answer before the prompt. A large agent takes 15 s to start on a busy host."""

OFFERED = {"fs": {"readTextFile": False, "writeTextFile": False}, "terminal": False}
ID_CHARACTERS = 200
MOST_REFUSED = 10_000
"""Requests of an agent that are answered with an error, before it is ended: it would go on for ever."""


class TalkStep(StrEnum):
    """How far a conversation has come."""

    STARTING = "starting"  # initialize has no answer
    OPENING = "opening"  # it has no session
    SETTING = "setting"  # its mode or its model is not set
    PROMPTED = "prompted"
    OVER = "over"  # the prompt has its answer


@dataclass(frozen=True, slots=True)
class AcpCall:
    """One turn. `session`: the one to go on with; None: a new one. `settings`: mode and model by the way in which they are set
    (turbo.config.acp), in this order."""

    prompt: str
    cwd: Path
    wall_seconds: float
    silence_seconds: float | None = None
    session: str | None = None
    settings: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class Heard:
    """What has come of a conversation. `reason`: the turn's stop reason. `error`: what the agent answered in place of a result.
    `unfit`: why turbo did not go on with this agent. `late`: no answer came to turbo's request in time. `refused`: requests that were
    answered with an error. `stopping`: it was told to stop. `looped`: it was ended for saying the same again and again."""

    step: TalkStep = TalkStep.STARTING
    session: str | None = None
    reason: str | None = None
    result: Mapping[str, Any] = field(default_factory=dict)
    error: RpcError | None = None
    agent: str = ""
    unfit: str | None = None
    late: bool = False
    looped: bool = False
    stopping: bool = False
    resumes: str | None = None
    denied: int = 0
    refused: int = 0
    stray: int = 0
    unreadable: int = 0
    asked: Question | None = None
    stream: AcpStream = field(default_factory=AcpStream)


class _Refused(Exception):
    def __init__(self, error: RpcError) -> None:
        super().__init__(error.text)
        self.error = error


class _CannotTalk(Exception):
    pass


class AcpTalk:
    """`stop`: the run's. `desk`: what a person must approve; None: nobody is asked. `session_began(id)` tells the session once it is
    known; `heard_of(line)` a line for the transcript; `progress()` that something was said."""

    def __init__(
        self,
        call: AcpCall,
        profile: AcpProfile | None,
        allowed: Permissions,
        stop: StopSignal,
        *,
        desk: Desk | None = None,
        leave_seconds: float = 5.0,
        handshake_seconds: float = HANDSHAKE_SECONDS,
        session_began: Callable[[str], None] = lambda _session: None,
        progress: Callable[[], None] = lambda: None,
        heard_of: Callable[[bytes], None] = lambda _line: None,
    ) -> None:
        self._call = call
        self._profile = profile
        self._permissions = allowed
        self._run_stop = stop
        self._desk = desk
        self._leave_seconds = leave_seconds
        self._handshake_seconds = handshake_seconds
        self._session_began = session_began
        self._progress = progress
        self._heard_of = heard_of
        self._stop_seconds = profile.stop_seconds if profile is not None else 5.0
        self._number = 0
        self._waiting: dict[int, tuple[str, asyncio.Future[Mapping[str, Any]]]] = {}
        self._cancelled = False
        self._tasks: list[asyncio.Task[None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self.stdin = OpenStdin(MOST_UNREAD + 6 * len(call.prompt.encode("utf-8", "replace")))
        self.stop = StopSignal()
        self.enough = asyncio.Event()
        self.heard = Heard()

    # ── its life ────────────────────────────────────────────────────────────────────────────────────────────────────

    def begin(self) -> None:
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._converse()), loop.create_task(self._heed())]

    async def end(self) -> None:
        """The agent is gone."""
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task

    async def _converse(self) -> None:
        try:
            await self._open()
            await self._prompted()
        except _Refused as refused:
            self.heard.error = refused.error
        except _CannotTalk as why:
            self.heard.unfit = str(why)
        except TimeoutError:
            self.heard.late = True
        except BufferError as error:
            self.heard.unfit = str(error)
        self._leave()

    def _leave(self) -> None:
        """Nothing more is expected of the agent."""
        self.stdin.close()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._leave_seconds, self.enough.set)

    async def _heed(self) -> None:
        """The worker's stop: first the protocol's own, then turbo's."""
        await self._run_stop.wait()
        self.heard.stopping = self.heard.step is not TalkStep.OVER
        await self._cancel()
        self.stop.set(self._run_stop.cause or StopCause.CANCEL)

    async def _cancel(self) -> None:
        """Until the turn is over, or the agent has not heeded it in time."""
        self._cancelled = True
        if self.heard.step is not TalkStep.PROMPTED:
            return
        with suppress(BufferError):
            self.stdin.write(messages.notice("session/cancel", {"sessionId": self.heard.session}))
        waiting = [future for method, future in self._waiting.values() if method == "session/prompt"]
        if waiting:
            await asyncio.wait(waiting, timeout=self._stop_seconds)

    def _give_up(self) -> None:
        """The turn is ended from here; the run is not."""
        if not self._cancelled:
            self._tasks.append(asyncio.get_running_loop().create_task(self._cancel_and_end()))

    async def _cancel_and_end(self) -> None:
        await self._cancel()
        self._leave()

    # ── turbo's requests ────────────────────────────────────────────────────────────────────────────────────────────

    async def _open(self) -> None:
        client = {"name": "turbo", "version": "1"}
        told = await self._ask(
            "initialize", {"protocolVersion": PROTOCOL, "clientCapabilities": OFFERED, "clientInfo": client}
        )
        if (version := told.get("protocolVersion")) != PROTOCOL:
            raise _CannotTalk(f"it speaks version {str(version)[:40]} of the protocol; turbo speaks version {PROTOCOL}")
        about = fields.object_of(told, "agentInfo")
        self.heard.agent = " ".join(filter(None, (fields.name(about, "name"), fields.name(about, "version"))))
        self.heard.resumes = self._resumes(fields.object_of(told, "agentCapabilities"))
        self.heard.step = TalkStep.OPENING
        where = {"cwd": str(self._call.cwd), "mcpServers": []}
        if self._call.session is None:
            opened = await self._ask("session/new", where)
            session = opened.get("sessionId")
            if not isinstance(session, str) or not usable_id(session):
                raise _CannotTalk("it began a session without an id that can be used")
            if self.heard.resumes is not None:
                self._session_began(session)
        else:
            if self.heard.resumes is None:
                raise _CannotTalk("it cannot go on with a session")
            session = self._call.session
            opened = await self._ask(f"session/{self.heard.resumes}", {"sessionId": session, **where})
        self.heard.session = session
        self.heard.stream.model = _model_in(opened)
        self.heard.step = TalkStep.SETTING
        for way, value in self._call.settings:
            await self._set(way, value)

    async def _set(self, way: str, value: str) -> None:
        session = self.heard.session
        if way == "set_mode":
            await self._ask("session/set_mode", {"sessionId": session, "modeId": value})
        elif way == "set_model":
            await self._ask("session/set_model", {"sessionId": session, "modelId": value})
        else:
            option = way.removeprefix("option:")
            await self._ask("session/set_config_option", {"sessionId": session, "configId": option, "value": value})

    async def _prompted(self) -> None:
        if self._cancelled:
            return
        self.heard.step = TalkStep.PROMPTED
        prompt = [{"type": "text", "text": self._call.prompt}]
        try:
            result = await self._ask("session/prompt", {"sessionId": self.heard.session, "prompt": prompt}, None)
        finally:
            if not self.enough.is_set():
                self.heard.step = TalkStep.OVER
        self.heard.result = result
        self.heard.reason = fields.name(result, "stopReason") or "none"

    async def _ask(self, method: str, params: Mapping[str, Any], seconds: float | None = -1.0) -> Mapping[str, Any]:
        """The result. `seconds`: [default: those of the handshake]; None: as long as it takes. Raises _Refused, TimeoutError."""
        self._number += 1
        number = self._number
        future: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = (method, future)
        try:
            self.stdin.write(messages.request(number, method, params))
            async with asyncio.timeout(self._handshake_seconds if seconds == -1.0 else seconds):
                return await future
        finally:
            self._waiting.pop(number, None)

    def _resumes(self, capabilities: Mapping[str, Any]) -> str | None:
        """By which method a session goes on; None: it cannot."""
        wanted = self._profile.resume if self._profile is not None else None
        if wanted is not None:
            return None if wanted == "none" else wanted
        if isinstance(fields.object_of(capabilities, "sessionCapabilities").get("resume"), dict):
            return "resume"
        return "load" if capabilities.get("loadSession") is True else None

    # ── what the agent sends ────────────────────────────────────────────────────────────────────────────────────────

    def on_line(self, line: bytes, cut: bool) -> None:
        match messages.read(line, cut):
            case AgentAnswer() as answer:
                self._answered(answer)
            case AgentRequest() as request:
                self._request(request)
            case AgentNotice(method="session/update", params=params):
                self._update(params, line)
            case AgentNotice():
                pass
            case UnreadLine() as unreadable:
                self._unreadable(unreadable)
            case None:
                self.heard.stray += bool(line.strip())

    def _answered(self, answer: AgentAnswer) -> None:
        number = answer.id if isinstance(answer.id, int) and not isinstance(answer.id, bool) else None
        method, future = self._waiting.get(number, (None, None)) if number is not None else (None, None)
        if method is None or future is None or future.done():
            self.heard.stray += 1
        elif answer.error is not None:
            error = answer.error
            future.set_exception(_Refused(RpcError(error.code, error.message, error.data, error.detail, method)))
        else:
            future.set_result(answer.result)

    def _unreadable(self, line: UnreadLine) -> None:
        self.heard.unreadable += 1
        if line.is_request:
            if line.id is not None:
                self._write(
                    messages.refusal(line.id, messages.INVALID, "turbo cannot read this request: it is too large")
                )
        elif line.id is not None:
            error = RpcError(0, "its answer is too large to be read")
            self._answered(AgentAnswer(line.id, {}, error))

    def _update(self, params: Mapping[str, Any], line: bytes) -> None:
        heard = self.heard
        if heard.step is not TalkStep.PROMPTED or params.get("sessionId") != heard.session:
            heard.stray += 1
            return
        self._heard_of(line)
        update = fields.object_of(params, "update")
        heard.stream.update(update)
        self._result_came(update)
        self._progress()
        most = self._profile.messages if self._profile is not None else None
        if most is not None and heard.stream.messages > most and not heard.looped:
            heard.looped = True
            self._give_up()

    def _result_came(self, update: Mapping[str, Any]) -> None:
        """Of a call that a person has approved. What comes of one that is ended with its run, is not its outcome."""
        made = self._desk.under_way if self._desk is not None else None
        if self._desk is None or made is None or self._cancelled:
            return
        if update.get("toolCallId") == made.call and update.get("status") in ("completed", "failed"):
            self._desk.result_came()

    def _request(self, request: AgentRequest) -> None:
        if request.method == "session/request_permission":
            self._write(messages.answer(request.id, self._permission(request.params)))
            return
        self.heard.refused += 1
        why = f"turbo does not offer {request.method[:100]}: use the tools of your own"
        self._write(messages.refusal(request.id, messages.NO_METHOD, why))
        if self.heard.refused > MOST_REFUSED:
            self.heard.looped = True
            self.enough.set()

    def _write(self, line: bytes) -> None:
        try:
            self.stdin.write(line)
        except BufferError as error:
            self.heard.unfit = str(error)
            self.enough.set()

    def _permission(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        heard = self.heard
        if self._cancelled or heard.step is not TalkStep.PROMPTED or params.get("sessionId") != heard.session:
            return permissions.CANCELLED
        call, options = fields.object_of(params, "toolCall"), params.get("options")
        if self._may(call) and heard.asked is None:
            chosen = permissions.option(options, "allow_once")
            if chosen is not None:
                return permissions.selected(chosen)
        if heard.asked is not None:
            self._give_up()
            return permissions.CANCELLED
        heard.denied += 1
        heard.stream.denied()
        chosen = permissions.option(options, "reject_once")
        return permissions.selected(chosen) if chosen is not None else permissions.CANCELLED

    def _may(self, call: Mapping[str, Any]) -> bool:
        """Whether a call may be made. One that a person must approve is noted in `asked`."""
        if self._desk is not None:
            number = fields.name(call, "toolCallId") or ""
            tool = permissions.TOOLS[permissions.kind_of_call(call)]
            held = ToolCall(tool, permissions.input_of(call), number)
            match self._desk.before(held):
                case Allow():
                    return True
                case Defer():
                    self.heard.asked = self._desk.question(number)
                    return False
                case NoOpinion():
                    pass
                case _:
                    return False
        return permissions.allowed(self._permissions, call, self._call.cwd)


def usable_id(session: str) -> bool:
    """Whether it can be kept and sent back. Nothing else is ever done with it."""
    return 0 < len(session) <= ID_CHARACTERS and session.isprintable() and not session.isspace()


def _model_in(opened: Mapping[str, Any]) -> str:
    """The model of a new session, where the agent tells it."""
    named = fields.name(fields.object_of(opened, "models"), "currentModelId")
    if named is not None:
        return named
    options = opened.get("configOptions")
    for one in options if isinstance(options, list) else ():
        if isinstance(one, dict) and one.get("category") == "model":
            return fields.name(one, "currentValue") or ""
    return ""


def prompt_line(prompt: str) -> bytes:
    """The line of a transcript that has the prompt."""
    return json.dumps({"type": "turbo.prompt", "text": prompt}).encode("utf-8", "replace")
