"""A transcript as a conversation: what the agent was told and said, its tools and their results, what it cost. No I/O.

    one line of a transcript ──▶ entries ──▶ `turbo logs` prints them as text, the web page as HTML

An entry's texts are whole, and as the agent wrote them: whoever shows them cuts them, and makes them safe.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from turbo.client import acp_conversation, codex_conversation, copilot_conversation
from turbo.domain.transcript import BEGIN_TYPE, END_TYPE, NOTE_TYPE, OWN_PATH

if TYPE_CHECKING:
    from turbo.client.transcript import TranscriptLine


class EntryKind(StrEnum):
    RUN = "run"  # a run begins: `text` says which
    TOLD = "told"  # a prompt, or a message
    SAID = "said"
    THOUGHT = "thought"  # `text` is how much
    CALL = "call"  # of a tool: `name`, and what says most about it
    QUESTION = "question"  # to a person, with its `options`
    RESULT = "result"  # of a tool
    FAILED = "failed"  # a tool's result that is an error
    NOTE = "note"  # of the agent's program
    OWN_NOTE = "own_note"  # of turbo
    OVER = "over"  # the end of a turn, and its cost
    RAW = "raw"  # a line that is not known


@dataclass(frozen=True, slots=True)
class ConversationEntry:
    """`who`: the subagent; '' is the task's own agent."""

    kind: EntryKind
    text: str
    name: str = ""
    options: tuple[str, ...] = ()
    who: str = ""


_MAIN_INPUT = ("command", "file_path", "path", "pattern", "url", "query", "prompt", "description", "skill")
"""The field of a tool's input that says most about the call, the best first."""

_OF_OTHER_AGENTS = {
    "told": EntryKind.TOLD,
    "said": EntryKind.SAID,
    "call": EntryKind.CALL,
    "result": EntryKind.RESULT,
    "failed": EntryKind.FAILED,
}


_OTHER_AGENTS = (codex_conversation.lines_of, copilot_conversation.lines_of, acp_conversation.lines_of)


def entries(line: "TranscriptLine") -> Iterator[ConversationEntry]:
    """What one line of a transcript tells; nothing for what only a machine needs."""
    row = _parsed(line.text)
    if line.path == OWN_PATH:
        yield from _own(row or {})
    elif row is None:
        yield ConversationEntry(EntryKind.RAW, line.text)
    elif line.kind == "session":
        who = _who(line.path)
        yield from (replace(entry, who=who) if who else entry for entry in _said(row))
    else:
        yield from _event(row, line.text)


def _parsed(text: str) -> Mapping[str, Any] | None:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _who(path: str) -> str:
    """The name of a subagent."""
    return path.rpartition("/")[2].removesuffix(".jsonl") if "/" in path else ""


def _own(row: Mapping[str, Any]) -> Iterator[ConversationEntry]:
    match row.get("type"):
        case kind if kind == BEGIN_TYPE:
            yield ConversationEntry(EntryKind.RUN, f"attempt {row.get('attempt')}, executor {row.get('executor')}")
        case kind if kind == NOTE_TYPE:
            yield ConversationEntry(EntryKind.OWN_NOTE, str(row.get("note")))
        case kind if kind == END_TYPE and row.get("complete") is not True:
            yield ConversationEntry(EntryKind.OWN_NOTE, f"this transcript is not complete: {row.get('why')}")


def _said(row: Mapping[str, Any]) -> Iterator[ConversationEntry]:
    """A row of a conversation."""
    message = row.get("message")
    if row.get("type") not in ("user", "assistant") or not isinstance(message, dict) or row.get("isMeta") is True:
        return
    content = message.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    for block in content if isinstance(content, list) else ():
        if isinstance(block, dict):
            yield from _block(block, told=row["type"] == "user")


def _block(block: Mapping[str, Any], *, told: bool) -> Iterator[ConversationEntry]:
    match block.get("type"):
        case "text":
            yield ConversationEntry(EntryKind.TOLD if told else EntryKind.SAID, str(block.get("text")))
        case "thinking":
            thought = str(block.get("thinking") or "")
            if thought.strip():
                yield ConversationEntry(EntryKind.THOUGHT, f"thinking, {len(thought):,} characters")
        case "tool_use":
            yield from _call(str(block.get("name")), block.get("input"))
        case "tool_result":
            kind = EntryKind.FAILED if block.get("is_error") is True else EntryKind.RESULT
            yield ConversationEntry(kind, _result_text(block.get("content")))


def _call(name: str, given: Any) -> Iterator[ConversationEntry]:
    fields = given if isinstance(given, dict) else {}
    questions = fields.get("questions")
    if name == "AskUserQuestion" and isinstance(questions, list):
        for question in questions:
            if isinstance(question, dict):
                options = question.get("options")
                labels = [
                    str(option.get("label"))
                    for option in (options if isinstance(options, list) else ())
                    if isinstance(option, dict)
                ]
                yield ConversationEntry(EntryKind.QUESTION, str(question.get("question")), options=tuple(labels))
        return
    main = next((fields[key] for key in _MAIN_INPUT if isinstance(fields.get(key), str)), None)
    text = main if main is not None else json.dumps(given, ensure_ascii=False) if given else ""
    yield ConversationEntry(EntryKind.CALL, text, name=name)


def _result_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts: Sequence[Any] = content if isinstance(content, list) else ()
    texts = [
        str(part.get("text")) if part.get("type") == "text" else f"({part.get('type')})"
        for part in parts
        if isinstance(part, dict)
    ]
    return "\n".join(texts)


def _event(row: Mapping[str, Any], text: str) -> Iterator[ConversationEntry]:
    match row.get("type"):
        case "assistant" | "user":
            yield from _said(row)
        case "system":
            if row.get("subtype") == "api_retry":
                attempts = f"attempt {row.get('attempt')} of {row.get('max_retries')}"
                yield ConversationEntry(EntryKind.NOTE, f"the service did not answer ({row.get('error')}), {attempts}")
        case "result":
            ends = _over(row) if "subtype" in row else f"the CLI ends, exit code {row.get('exitCode')}"
            yield ConversationEntry(EntryKind.OVER, ends)
        case "rate_limit_event":
            info = row.get("rate_limit_info")
            if isinstance(info, dict) and info.get("status") not in (None, "allowed"):
                which = f"{info.get('status')} {info.get('rateLimitType') or ''}".rstrip()
                yield ConversationEntry(EntryKind.NOTE, f"limit of the account: {which}")
        case _:
            told = next((lines for read in _OTHER_AGENTS if (lines := read(row)) is not None), None)
            if told is None:
                yield ConversationEntry(EntryKind.RAW, text)
            else:
                yield from (ConversationEntry(_OF_OTHER_AGENTS.get(kind, EntryKind.NOTE), said) for kind, said in told)


def _over(row: Mapping[str, Any]) -> str:
    said = [str(row.get("subtype"))] if row.get("is_error") is not True else [f"error ({row.get('subtype')})"]
    if row.get("stop_reason") == "tool_deferred":
        said = ["it waits for a person"]
    turns, cost = row.get("num_turns"), row.get("total_cost_usd")
    if isinstance(turns, int):
        said.append(f"{turns} turn{'s' if turns != 1 else ''}")
    if isinstance(cost, int | float):
        said.append(f"${cost:.4f} in this session")
    return ", ".join(said)
