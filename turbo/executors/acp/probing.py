"""Talks to an agent that nobody knows, to find out what it can do over ACP: for `turbo agents probe`.

    one process:  initialize, a bad request, session/new, a mode and a model that do not exist, a short prompt
    another one:  session/resume or session/load of that session, then of one that does not exist, a prompt that is cancelled

Nothing that the agent asks for is allowed. How failures of its service show cannot be found out so: that is for the profile's author.
"""

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from turbo.domain.run import StopSignal
from turbo.domain.states import StopCause
from turbo.executors.acp import messages, permissions
from turbo.executors.acp.messages import AgentAnswer, AgentNotice, AgentRequest, RpcError
from turbo.executors.acp.talk import OFFERED, PROTOCOL, usable_id
from turbo.executors.agent import fields
from turbo.executors.agent.program import with_program_directory
from turbo.process.journal import Journal
from turbo.process.launch import resolve
from turbo.process.running import ProcessSpec, run_process
from turbo.process.stdin import OpenStdin

SECONDS = 120.0
"""For each answer."""

CANCEL_SECONDS = 20.0
WALL_SECONDS = 900.0
PROMPT = "Answer with the word ok. Use no tools."
LONG_PROMPT = "Count from one to five hundred in words, one number a line. Use no tools."
NOWHERE = "00000000-0000-4000-8000-000000000000"


@dataclass(slots=True)
class AgentFindings:
    """What was found. None: not known, or not there. `problem`: why the probe ended early. `set_by`: the way in which mode and
    model are set; `lists`: those that the agent names."""

    problem: str | None = None
    name: str = ""
    version: str = ""
    protocol: object = None
    logins: list[str] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    says: list[str] = field(default_factory=list)
    works: dict[str, bool] = field(default_factory=dict)
    unknown_session: RpcError | None = None
    bad_request: RpcError | None = None
    set_by: dict[str, str] = field(default_factory=dict)
    lists: dict[str, list[str]] = field(default_factory=dict)
    reason: str | None = None
    failure: RpcError | None = None
    text: str = ""
    usage: str | None = None
    kinds: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    cancelled: float | None = None
    cancel_ignored: bool = False
    exited: bool | None = None
    stderr: str = ""

    asking: str = ""

    @property
    def resume(self) -> str | None:
        """The way that works. "none": none does. None: the agent says that it can, but the probe ended before it was tried."""
        ways = [way for way in ("resume", "load") if way in self.says]
        works = next((way for way in ways if self.works.get(way)), None)
        untried = any(way not in self.works for way in ways)
        return works or (None if untried or self.protocol is None else "none")


class Refusal(Exception):
    def __init__(self, error: RpcError) -> None:
        super().__init__(error.text)
        self.error = error


class _Interview:
    """One process of the agent, and the questions to it."""

    def __init__(self, found: AgentFindings) -> None:
        self._found = found
        self._number = 0
        self._waiting: dict[int, asyncio.Future[Mapping[str, Any]]] = {}
        self._counts = False
        self.stdin = OpenStdin()

    async def ask(self, method: str, params: Mapping[str, Any], seconds: float = SECONDS) -> Mapping[str, Any]:
        """Raises Refusal, TimeoutError, and ConnectionError when the agent ends."""
        self._number += 1
        number = self._number
        self._found.asking = method
        self._waiting[number] = asyncio.get_running_loop().create_future()
        self.stdin.write(messages.request(number, method, params))
        try:
            async with asyncio.timeout(seconds):
                return await self._waiting[number]
        except Refusal as refused:
            raise Refusal(replace(refused.error, at=method)) from None
        finally:
            del self._waiting[number]

    async def refusal(self, method: str, params: Mapping[str, Any]) -> RpcError | None:
        """The error that the agent answers; None: it takes it."""
        try:
            await self.ask(method, params)
        except Refusal as refused:
            return refused.error
        return None

    def tell(self, method: str, params: Mapping[str, Any]) -> None:
        self.stdin.write(messages.notice(method, params))

    def count_updates(self, on: bool) -> None:
        self._counts = on

    def on_line(self, line: bytes, cut: bool) -> None:
        match messages.read(line, cut):
            case AgentAnswer(id=int() as number, result=result, error=error):
                future = self._waiting.get(number)
                if future is None or future.done():
                    return
                if error is not None:
                    future.set_exception(Refusal(error))
                else:
                    future.set_result(result)
            case AgentRequest(id=number, method=method, params=params):
                self._found.asked.append(method)
                if method == "session/request_permission":
                    chosen = permissions.option(params.get("options"), "reject_once")
                    answer = permissions.selected(chosen) if chosen is not None else permissions.CANCELLED
                    self.stdin.write(messages.answer(number, answer))
                else:
                    self.stdin.write(messages.refusal(number, messages.NO_METHOD, "not offered"))
            case AgentNotice(method="session/update", params=params) if self._counts:
                self._update(fields.object_of(params, "update"))

    def _update(self, update: Mapping[str, Any]) -> None:
        kind = fields.name(update, "sessionUpdate") or "?"
        if kind not in self._found.kinds:
            self._found.kinds.append(kind)
        if fields.object_of(fields.object_of(update, "_meta"), "usage"):
            self._found.usage = "meta_usage"
        if kind == "agent_message_chunk":
            self._found.text += fields.text(fields.object_of(update, "content"), "text") or ""

    def over(self) -> None:
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(ConnectionError("the program has ended"))


@asynccontextmanager
async def _talking(found: AgentFindings, command: Sequence[str], directory: Path) -> AsyncIterator[_Interview]:
    """A process of the agent. It is told that all is over when the block ends, and ended if it does not go."""
    environment = dict(os.environ)
    program = resolve(command[0], environment.get("PATH"), Path.cwd())
    interview, stop, left = _Interview(found), StopSignal(), time.monotonic()
    spec = ProcessSpec(
        argv=(program, *command[1:]),
        env=with_program_directory(program, environment),
        cwd=directory,
        log_path=directory.parent / "agent.log",
        wall_seconds=WALL_SECONDS,
        grace_seconds=1.0,
        line_bytes=16 * 1024 * 1024,
    )
    running = asyncio.create_task(
        run_process(
            spec,
            stop=stop,
            journal=Journal(directory.parent / "journal"),
            on_line=interview.on_line,
            more_stdin=interview.stdin,
        )
    )
    running.add_done_callback(lambda _task: interview.over())
    try:
        yield interview
    finally:
        interview.stdin.close()
        left = time.monotonic()
        with suppress(TimeoutError):
            async with asyncio.timeout(5.0):
                await asyncio.shield(running)
        found.exited = running.done() and time.monotonic() - left < 5.0
        stop.set(StopCause.CANCEL)
        result = await running
        found.stderr = result.stderr_tail.rstrip().rpartition("\n")[2][:300] or found.stderr


async def probe_agent(command: Sequence[str], directory: Path, *, prompts: bool = True) -> AgentFindings:
    """`directory`: an empty one, whose parent takes the log. `prompts`: it may be sent two, which cost tokens. Raises SpawnFailed."""
    found = AgentFindings()
    try:
        async with _talking(found, command, directory) as first:
            session = await _first(found, first, directory, prompts=prompts)
        if session is not None:
            async with _talking(found, command, directory) as second:
                await _second(found, second, directory, session, prompts=prompts)
    except Refusal as refused:
        found.failure = found.failure or refused.error
        found.problem = found.problem or f"it refused {refused.error.at or 'a request'}: {refused.error.text}"
    except TimeoutError:
        found.problem = found.problem or f"it did not answer {found.asking} within {SECONDS:g} s"
    except ConnectionError as error:
        found.problem = found.problem or f"{error}: {found.stderr or 'it printed no error'}"
    return found


async def _initialize(interview: _Interview) -> Mapping[str, Any]:
    client = {"name": "turbo", "version": "1"}
    return await interview.ask(
        "initialize", {"protocolVersion": PROTOCOL, "clientCapabilities": OFFERED, "clientInfo": client}
    )


async def _first(found: AgentFindings, agent: _Interview, directory: Path, *, prompts: bool) -> str | None:
    told = await _initialize(agent)
    about, able = fields.object_of(told, "agentInfo"), fields.object_of(told, "agentCapabilities")
    found.name, found.version = fields.name(about, "name") or "", fields.name(about, "version") or ""
    found.protocol = told.get("protocolVersion")
    if found.protocol != PROTOCOL:
        found.problem = f"it speaks version {str(found.protocol)[:40]} of the protocol; turbo speaks version {PROTOCOL}"
        return None
    methods = told.get("authMethods")
    found.logins = [
        fields.name(one, "id") or "?" for one in (methods if isinstance(methods, list) else ()) if isinstance(one, dict)
    ]
    found.prompts = sorted(key for key, value in fields.object_of(able, "promptCapabilities").items() if value is True)
    if able.get("loadSession") is True:
        found.says.append("load")
    found.says += sorted(fields.object_of(able, "sessionCapabilities"))
    found.bad_request = await agent.refusal("turbo/no_such_method", {})
    opened = await agent.ask("session/new", {"cwd": str(directory), "mcpServers": []})
    session = opened.get("sessionId")
    if not isinstance(session, str) or not usable_id(session):
        found.problem = "session/new answers without a sessionId that can be used"
        return None
    await _settings(found, agent, session, opened)
    if prompts:
        agent.count_updates(True)
        result = await agent.ask("session/prompt", _prompt(session, PROMPT))
        found.reason = fields.name(result, "stopReason") or "none"
        if fields.object_of(result, "usage"):
            found.usage = "result"
        elif fields.object_of(fields.object_of(result, "_meta"), "quota"):
            found.usage = "meta_quota"
        found.usage = found.usage or "none"
    return session


async def _settings(found: AgentFindings, agent: _Interview, session: str, opened: Mapping[str, Any]) -> None:
    """How mode and model are set: what the agent lists, and whether it refuses one that it does not list."""
    for key, group, items, number in (
        ("mode", "modes", "availableModes", "id"),
        ("model", "models", "availableModels", "modelId"),
    ):
        listed = fields.object_of(opened, group).get(items)
        if isinstance(listed, list) and listed:
            found.lists[key] = [fields.name(one, number) or "?" for one in listed if isinstance(one, dict)]
            found.set_by[key] = f"set_{key}"
    options = opened.get("configOptions")
    for one in options if isinstance(options, list) else ():
        if isinstance(one, dict) and one.get("category") in ("mode", "model") and one["category"] not in found.set_by:
            key, values = one["category"], one.get("options")
            found.set_by[key] = f"option:{fields.name(one, 'id')}"
            found.lists[key] = [
                fields.name(value, "value") or "?"
                for value in (values if isinstance(values, list) else ())
                if isinstance(value, dict)
            ]
    if "mode" in found.set_by:
        wrong = "turbo-no-such-mode"
        if found.set_by["mode"] == "set_mode":
            refused = await agent.refusal("session/set_mode", {"sessionId": session, "modeId": wrong})
        else:
            option = found.set_by["mode"].removeprefix("option:")
            params = {"sessionId": session, "configId": option, "value": wrong}
            refused = await agent.refusal("session/set_config_option", params)
        found.works["refuses an unknown mode"] = refused is not None


async def _second(found: AgentFindings, agent: _Interview, directory: Path, session: str, *, prompts: bool) -> None:
    """A session is taken up again by another process, as a retry does it."""
    await _initialize(agent)
    where: dict[str, object] = {"cwd": str(directory), "mcpServers": []}
    for way in ("resume", "load"):
        if way in found.says:
            refused = await agent.refusal(f"session/{way}", {"sessionId": session, **where})
            found.works[way] = refused is None
            found.unknown_session = await agent.refusal(f"session/{way}", {"sessionId": NOWHERE, **where})
    if not prompts:
        return
    if found.resume == "none":
        opened = await agent.ask("session/new", where)
        session = fields.text(opened, "sessionId") or session
    turn = asyncio.create_task(agent.ask("session/prompt", _prompt(session, LONG_PROMPT)))
    await asyncio.sleep(0.2)
    began = time.monotonic()
    agent.tell("session/cancel", {"sessionId": session})
    done, _ = await asyncio.wait([turn], timeout=CANCEL_SECONDS)
    if not done:
        found.cancel_ignored = True
        turn.cancel()
        with suppress(asyncio.CancelledError):
            await turn
        return
    with suppress(Refusal, TimeoutError, ConnectionError):
        if turn.result().get("stopReason") == "cancelled":
            found.cancelled = time.monotonic() - began


def _prompt(session: str, text: str) -> dict[str, object]:
    return {"sessionId": session, "prompt": [{"type": "text", "text": text}]}


def profile_name(found: AgentFindings, command: Sequence[str]) -> str:
    """Of a profile: from the agent's own name, without the scope of an npm package, else its program's."""
    own = re.sub(r"^@[^/]+/", "", found.name)
    name = re.sub(r"[^a-z0-9]+", "-", (own or Path(command[0]).stem).lower()).strip("-")[:40]
    return name if name[:1].isalpha() else f"agent-{name}"[:40].rstrip("-")
