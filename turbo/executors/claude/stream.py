"""The Claude CLI's stream-json output, line by line, as typed facts.

    init ──▶ assistant, user, api_retry, rate_limit_event … ──▶ result ──▶ (another init … result, or the end)

The parser is lenient, because the format changes with every version. It counts and skips lines that it does not
understand. A field that is missing or has another type counts as absent, and nothing here raises. The raw lines are
in the attempt's log. Memory is bounded: only the agent's last text is kept.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from turbo.domain.headroom import MOST_WINDOWS, UsageWindow
from turbo.domain.outcome import ModelUsage
from turbo.executors.agent import fields
from turbo.executors.agent.fields import unix_seconds
from turbo.executors.agent.json_line import parsed
from turbo.executors.claude import model_usage

TEXT_CHARACTERS = 1024 * 1024
"""How much of an answer is kept."""

_TOOL_RESULT = b'{"type":"user"'
"""The start of lines that carry whole files and images. Nothing in them is needed, so they are not parsed."""

ANSWERS_COUNTED = 1000
"""Answers whose lines may still come. Those of older ones are added up."""

_CREDITS = "credits_required"
_MODEL_WINDOWS = ("five_hour", "seven_day")


class StreamLine(StrEnum):
    """The kind of a line, as far as the executor acts on it."""

    INIT = "init"
    ASSISTANT = "assistant"
    RETRY = "api_retry"
    LIMIT = "rate_limit_event"
    RESULT = "result"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Limit:
    """A usage limit that the service reports as reached. `resets_at`: Unix seconds. `window`: five_hour, seven_day, …"""

    window: str | None = None
    resets_at: float | None = None


DEFERRED = "tool_deferred"
DEFERRED_UNAVAILABLE = "tool_deferred_unavailable"

_QUESTION_TOOL = "AskUserQuestion"
_QUESTIONS_COUNTED = 1000


@dataclass(frozen=True, slots=True)
class Result:
    """A result line. `text` is the answer, or the CLI's message about an API error. `deferred_call` is the id of the call for
    which the run stopped, if its `stop_reason` is DEFERRED: its subtype is `success` then, and its text empty.

    `structured` is what the agent gave to the tool StructuredOutput (claude/structured.py), None if it called none.

    Results of a subtype `error_*` have `errors` instead. In versions that resume, `cost_usd` covers the whole session
    (2.1.330: 0.0001, 0.0002, … over its runs).
    """

    subtype: str = ""
    is_error: bool = True
    text: str | None = None
    errors: tuple[str, ...] = ()
    api_error_status: int | None = None
    terminal_reason: str | None = None
    stop_reason: str | None = None
    num_turns: int | None = None
    permission_denials: int = 0
    cost_usd: float = 0.0
    local_command: bool = False
    deferred_call: str | None = None
    structured: object = None

    @property
    def succeeded(self) -> bool:
        return not self.is_error and self.subtype == "success"


@dataclass(slots=True)
class Transcript:
    """All that is known so far of one run of the CLI. Feed it with `read`.

    `begun`: there was an init line. Text before it comes from the CLI; later text may come from the agent. `error`
    and `api_error` are the CLI's names of the API error in its last message, None after an answer by the model.
    `credits_required`: the service has refused a request until somebody pays. `answers` counts the model's, `questions` the calls
    of AskUserQuestion. `auth_retries` counts consecutive retries after a refused login; `retries_left` is what
    the CLI still plans. `retrying`: a request failed, not by its login, and no answer came since.
    Token counts lag behind: an answer's full count comes only with the result. Until then `usage` has what its lines said.
    """

    begun: bool = False
    session_id: str | None = None
    model: str | None = None
    version: str | None = None
    result: Result | None = None
    error: str | None = None
    api_error: str | None = None
    limit: Limit | None = None
    credits_required: bool = False
    auth_retries: int = 0
    retries_left: int = 0
    retrying: bool = False
    answers: int = 0
    text: str = ""
    truncated: bool = False
    lines: int = 0
    unreadable: int = 0
    last_line: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    _usage: dict[str, ModelUsage] = field(default_factory=dict)
    _message_tokens: dict[str, ModelUsage] = field(default_factory=dict)
    _since_result: dict[str, ModelUsage] = field(default_factory=dict)
    _questions: set[str] = field(default_factory=set)
    _windows: dict[str, UsageWindow] = field(default_factory=dict)

    def read(self, line: bytes, cut: bool = False) -> StreamLine:
        """Read one line of stdout. Lines with `cut` were too long to keep whole, and are no longer JSON."""
        if not line.strip():
            return StreamLine.OTHER
        self.lines += 1
        if line.startswith(_TOOL_RESULT):
            return StreamLine.OTHER
        message = parsed(line, cut)
        if message is None:
            self.unreadable += 1
            return StreamLine.OTHER
        match message.get("type"), message.get("subtype"):
            case "system", "init":
                return self._init(message)
            case "system", "api_retry":
                return self._retry(message)
            case "assistant", _:
                return self._assistant(message)
            case "rate_limit_event", _:
                return self._limit(message)
            case "result", _:
                return self._result(message)
        return StreamLine.OTHER

    @property
    def usage(self) -> tuple[ModelUsage, ...]:
        """Per model, for this run alone: from the result lines, and for answers after the last of them from their own lines. Those
        know no cost, and of an answer's output only its beginning."""
        usage = dict(self._usage)
        for model, added in self._since_result.items():
            model_usage.add(usage, model, added)
        return tuple(usage.values())

    @property
    def windows(self) -> tuple[UsageWindow, ...]:
        """What the service has said about the account's windows, each time the latest."""
        return tuple(self._windows.values())

    @property
    def questions(self) -> int:
        return len(self._questions)

    # ── one method a kind of line ───────────────────────────────────────────────────────────────────────────────────

    def _init(self, message: Mapping[str, Any]) -> StreamLine:
        self.begun = True
        self.session_id = fields.name(message, "session_id") or self.session_id
        self.model = fields.name(message, "model") or self.model
        self.version = fields.name(message, "claude_code_version") or self.version
        return StreamLine.INIT

    def _retry(self, message: Mapping[str, Any]) -> StreamLine:
        self.auth_retries = self.auth_retries + 1 if message.get("error") == "authentication_failed" else 0
        self.retrying = message.get("error") != "authentication_failed"
        self.retries_left = max(
            0, (fields.whole(message, "max_retries") or 0) - (fields.whole(message, "attempt") or 0)
        )
        return StreamLine.RETRY

    def _assistant(self, message: Mapping[str, Any]) -> StreamLine:
        body = fields.object_of(message, "message")
        self.retrying = False
        self._count_tokens(body)
        self._count_questions(body)
        if message.get("parent_tool_use_id") is not None:  # a subagent's message: its parent handles its errors
            return StreamLine.ASSISTANT
        self.error, self.api_error = fields.name(message, "error"), fields.name(message, "api_error")
        if self.error is None or message.get("api_error_code") is not None:
            self.credits_required = message.get("api_error_code") == _CREDITS
        text = _message_text(body)
        # A message by the CLI itself carries an error name, or at least (in older versions) this model.
        if self.error is None and body.get("model") != "<synthetic>":
            self.answers += 1
            self.auth_retries = 0
            if text:
                self.text, self.truncated = text[:TEXT_CHARACTERS], len(text) > TEXT_CHARACTERS
                self.last_line = self.text.rstrip().rpartition("\n")[2][:500]
        return StreamLine.ASSISTANT

    def _limit(self, message: Mapping[str, Any]) -> StreamLine:
        info = fields.object_of(message, "rate_limit_info")
        window, resets_at = fields.name(info, "rateLimitType"), fields.number(info, "resetsAt")
        self._note_windows(info, window, resets_at)
        self.credits_required = info.get("status") == "rejected" and info.get("errorCode") == _CREDITS
        if info.get("status") != "rejected":
            self.limit = None
        elif window is not None or resets_at is not None:  # a plain 429 is `rejected` too, but names no window
            self.limit = Limit(window, unix_seconds(resets_at))
        return StreamLine.LIMIT

    def _note_windows(self, info: Mapping[str, Any], named: str | None, resets_at: float | None) -> None:
        found = dict(itertools.islice(fields.object_of(info, "unifiedWindows").items(), MOST_WINDOWS))
        if named is not None and named not in found:
            used = 1.0 if info.get("status") == "rejected" else info.get("utilization")
            found[named] = {"utilization": used, "resetsAt": resets_at, "status": info.get("status")}
        for name, window in found.items():
            if isinstance(window, dict) and (name in self._windows or len(self._windows) < MOST_WINDOWS):
                span, model = window_and_model(name)
                self._windows[name] = UsageWindow(
                    span,
                    model,
                    fields.number(window, "utilization"),
                    unix_seconds(fields.number(window, "resetsAt")),
                    fields.name(window, "status") or "",
                )

    def _result(self, message: Mapping[str, Any]) -> StreamLine:
        errors, denials = message.get("errors"), message.get("permission_denials")
        text = fields.text(message, "result")
        self.session_id = fields.name(message, "session_id") or self.session_id
        self.result = Result(
            subtype=fields.name(message, "subtype") or "",
            is_error=message.get("is_error") is not False,
            text=text[:TEXT_CHARACTERS] if text is not None else None,
            errors=tuple(str(e)[:4000] for e in errors[:100]) if isinstance(errors, list) else (),
            api_error_status=fields.whole(message, "api_error_status"),
            terminal_reason=fields.name(message, "terminal_reason"),
            stop_reason=fields.name(message, "stop_reason"),
            num_turns=fields.whole(message, "num_turns"),
            permission_denials=len(denials) if isinstance(denials, list) else 0,
            cost_usd=fields.number(message, "total_cost_usd") or 0.0,
            local_command="local_command" in message,
            deferred_call=fields.name(fields.object_of(message, "deferred_tool_use"), "id"),
            structured=message.get("structured_output"),
        )
        self.api_error = fields.name(message, "api_error") or self.api_error
        if text is not None and len(text) > TEXT_CHARACTERS:
            self.truncated = True
        self._add_usage(message)
        return StreamLine.RESULT

    def _add_usage(self, message: Mapping[str, Any]) -> None:
        """`modelUsage` covers this process (2.1.197), or all runs of a resumed session (2.1.330).

        The second kind also reports what was used since the last result.
        """
        since = message.get("model_usage_since_last_result")
        if isinstance(since, dict):
            for model, added in model_usage.by_model(since).items():
                model_usage.add(self._usage, model, added)
        elif models := model_usage.by_model(fields.object_of(message, "modelUsage")):
            self._usage = models
        else:
            return  # it tells nothing
        self._since_result.clear()

    def _count_questions(self, body: Mapping[str, Any]) -> None:
        for part in fields.parts(body):
            if part.get("type") == "tool_use" and part.get("name") == _QUESTION_TOOL:
                call = fields.name(part, "id")
                if call is not None and len(self._questions) < _QUESTIONS_COUNTED:
                    self._questions.add(call)

    def _count_tokens(self, body: Mapping[str, Any]) -> None:
        name, usage = fields.name(body, "id"), fields.object_of(body, "usage")
        if name is None:
            return
        # An answer comes in several lines, each with the counts so far.
        had = self._message_tokens.get(name) or ModelUsage(fields.name(body, "model") or "")
        now = ModelUsage(
            had.model,
            max(had.input_tokens, fields.tokens(usage, "input_tokens")),
            max(had.output_tokens, fields.tokens(usage, "output_tokens")),
            max(had.cache_read_tokens, fields.tokens(usage, "cache_read_input_tokens")),
            max(had.cache_write_tokens, fields.tokens(usage, "cache_creation_input_tokens")),
        )
        new = model_usage.difference(now, had)
        self.input_tokens += new.input_tokens + new.cache_read_tokens + new.cache_write_tokens
        self.output_tokens += new.output_tokens
        self._message_tokens[name] = now
        if new != ModelUsage(new.model):
            model_usage.add(self._since_result, new.model, new)
        if len(self._message_tokens) > ANSWERS_COUNTED:
            del self._message_tokens[next(iter(self._message_tokens))]


def window_and_model(name: str) -> tuple[str, str]:
    """The window and the model that the CLI's name of a limit means: seven_day_opus is a week of opus."""
    for window in _MODEL_WINDOWS:
        if name.startswith(f"{window}_"):
            return window, name.removeprefix(f"{window}_")
    return name, ""


def _message_text(body: Mapping[str, Any]) -> str:
    content = body.get("content")
    if isinstance(content, str):
        return content
    return "".join(fields.text(part, "text") or "" for part in fields.parts(body))
