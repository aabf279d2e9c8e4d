"""The rollout file of a thread: why its last turn failed, what it used, what the account has left, and what the agent asks.

    $CODEX_HOME/sessions/2026/11/27/rollout-2026-11-27T17-08-12-01a21dfa-….jsonl      all turns of a thread, one JSON a line

A call is read from where the file ended before it. The parser is lenient as that of stdout. The agent may have written the file where
no sandbox kept it from doing so: nothing in it chooses a file, a program or a flag.
"""

import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from turbo.domain.headroom import MOST_WINDOWS, UsageWindow
from turbo.domain.outcome import ModelUsage
from turbo.executors.agent import fields
from turbo.executors.agent.json_line import parsed
from turbo.executors.agent.session_lines import LINE_BYTES, lines_from
from turbo.process.identity import Identity

_KNOWN = (b'"event_msg"', b'"token_usage_record"', b'"turn_context"')
_KIND_BYTES = 200
"""The kind of a line stands within so many bytes of its beginning."""

_WINDOWS = {300: "five_hour", 1440: "one_day", 10_080: "seven_day", 43_200: "thirty_day"}
"""By length in minutes. The names are those of other agents' windows."""

_ALL_MODELS = "codex"
"""The limit that counts for all models."""

FULL = 100.0
MOST_QUESTIONS = 20
MOST_TURNS = 100


@dataclass(frozen=True, slots=True)
class AsyncQuestion:
    title: str
    options: tuple[str, ...] = ()


@dataclass(slots=True)
class Rollout:
    """What the rollout file says of one call. Feed it with `read`.

    `info`: the CLI's name of the error that ended the last turn, and `status` its HTTP status. `reached`: the kind of limit that the
    service says is reached. `questions`: what the agent has asked without waiting for an answer. `interrupted`: the turn was cut off.
    """

    model: str | None = None
    info: str | None = None
    status: int | None = None
    reached: str | None = None
    questions: list[AsyncQuestion] = field(default_factory=list)
    _turns: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    _windows: dict[tuple[str, str], UsageWindow] = field(default_factory=dict)

    def read(self, line: bytes) -> None:
        head = line[:_KIND_BYTES]
        if len(line) > LINE_BYTES or not any(kind in head for kind in _KNOWN):
            return
        message = parsed(line, cut=False) or {}
        payload = fields.object_of(message, "payload")
        match message.get("type"), payload.get("type"):
            case "turn_context", _:
                self.model = fields.name(payload, "model") or self.model
            case "token_usage_record", _:
                turn = fields.name(payload, "turn_id") or ""
                if turn in self._turns or len(self._turns) < MOST_TURNS:
                    self._turns[turn] = fields.object_of(payload, "turn_token_usage")
            case "event_msg", "token_count":
                self._limits(fields.object_of(payload, "rate_limits"))
            case "event_msg", "item_completed":
                self._item(fields.object_of(payload, "item"))
            case "event_msg", "task_complete":
                self._over(fields.object_of(payload, "error"))

    @property
    def usage(self) -> tuple[ModelUsage, ...]:
        """What its turns have used. Input counts are without what was read from the cache or written to it."""
        total = ModelUsage(self.model or "")
        for turn in self._turns.values():
            used = tokens_of(self.model, turn)
            total = ModelUsage(
                total.model,
                total.input_tokens + used.input_tokens,
                total.output_tokens + used.output_tokens,
                total.cache_read_tokens + used.cache_read_tokens,
                total.cache_write_tokens + used.cache_write_tokens,
            )
        return (total.bounded(),) if total != ModelUsage(total.model) else ()

    @property
    def windows(self) -> tuple[UsageWindow, ...]:
        """What the service has said about the account's windows, each time the latest."""
        return tuple(self._windows.values())

    @property
    def full(self) -> tuple[UsageWindow, ...]:
        """The windows with nothing left."""
        return tuple(one for one in self.windows if one.utilization is not None and one.utilization >= FULL / 100)

    def _limits(self, limits: Mapping[str, Any]) -> None:
        self.reached = fields.name(limits, "rate_limit_reached_type")
        limit = fields.name(limits, "limit_id") or _ALL_MODELS
        model = "" if limit == _ALL_MODELS else (fields.name(limits, "limit_name") or limit).lower()
        for key in ("primary", "secondary"):
            window = fields.object_of(limits, key)
            used, minutes = fields.number(window, "used_percent"), fields.whole(window, "window_minutes")
            if used is None or minutes is None:
                continue
            name = _WINDOWS.get(minutes, f"{minutes}_minutes")
            if (name, model) not in self._windows and len(self._windows) >= MOST_WINDOWS:
                continue
            self._windows[name, model] = UsageWindow(
                name,
                model,
                used / 100,
                fields.unix_seconds(fields.number(window, "resets_at")),
                "rejected" if used >= FULL else "allowed",
            )

    def _item(self, item: Mapping[str, Any]) -> None:
        if item.get("delivery") != "async":
            return
        asked = item.get("questions")
        for one in asked if isinstance(asked, list) else []:
            title = fields.text(one, "title") if isinstance(one, dict) else None
            if title and len(self.questions) < MOST_QUESTIONS:
                options = one.get("options")
                labels = tuple(o for o in options if isinstance(o, str)) if isinstance(options, list) else ()
                self.questions.append(AsyncQuestion(title, labels))

    def _over(self, error: Mapping[str, Any]) -> None:
        info = error.get("codex_error_info")
        self.info = self.status = None
        if isinstance(info, str):
            self.info = info
        elif isinstance(info, dict) and info:
            self.info, detail = next(iter(info.items()))
            self.status = fields.whole(detail, "http_status_code") if isinstance(detail, dict) else None


def tokens_of(model: str | None, usage: Mapping[str, Any]) -> ModelUsage:
    cached, written = fields.tokens(usage, "cached_input_tokens"), fields.tokens(usage, "cache_write_input_tokens")
    return ModelUsage(
        model or "",
        max(0, fields.tokens(usage, "input_tokens") - cached - written),
        fields.tokens(usage, "output_tokens"),
        cached,
        written,
    )


# ── the file ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class ThreadFile:
    """Where the rollout of a thread is, and how long it was."""

    path: Path
    size: int = 0


class Rollouts:
    """The rollout files below one CODEX_HOME. `user`: whose they are; None: this process's. All methods block, and raise OSError."""

    def __init__(self, home: Path, user: Identity | None = None) -> None:
        self._home = home
        self._user = user

    def find(self, thread: str) -> ThreadFile | None:
        """`thread`: a UUID. Of several files the newest counts."""
        if self._user is not None:
            found = self._user.run(_FIND, self._home, thread).split("\n", 1)
            return (
                ThreadFile(Path(found[1].rstrip("\n")), int(found[0])) if len(found) == 2 and found[0].strip() else None
            )
        paths = sorted(self._home.glob(f"sessions/*/*/*/rollout-*-{thread}.jsonl"), key=lambda path: path.name)
        for path in reversed(paths):
            state = path.lstat()
            if stat.S_ISREG(state.st_mode):
                return ThreadFile(path, state.st_size)
        return None

    def read(self, place: ThreadFile, begin: int, model: str | None = None) -> Rollout:
        """What it says from byte `begin` on. `model`: as configured; the file's word comes first."""
        rollout = Rollout(model)
        for line in lines_from(place.path, begin, self._user):
            rollout.read(line)
        return rollout

    def remove(self, place: ThreadFile) -> None:
        if self._user is not None:
            self._user.run('rm -f -- "$1"', place.path)
        else:
            place.path.unlink(missing_ok=True)


_FIND = """
last=
for file in "$1"/sessions/*/*/*/rollout-*-"$2".jsonl; do [ -f "$file" ] && [ ! -L "$file" ] && last=$file; done
[ -n "$last" ] && wc -c < "$last" && printf '%s\\n' "$last"
exit 0
"""
