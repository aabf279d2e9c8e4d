"""A transcript as a conversation: what the agent was told and said, its tools with their results folded, what it cost. No I/O.

> Count the sheep.

I will look.
* Bash  wc -l sheep.txt
  | 12 sheep.txt
There are 12.

-- success, 2 turns, $0.0123
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from turbo.cli import codex_conversation, copilot_conversation
from turbo.domain.transcript import BEGIN_TYPE, END_TYPE, NOTE_TYPE, OWN_PATH

if TYPE_CHECKING:
    from turbo.client.transcript import TranscriptLine

TOLD_LINES = 12
"""Of a prompt or a message."""

RESULT_LINES = 3
RESULT_CHARACTERS = 200
INPUT_CHARACTERS = 160

_MAIN_INPUT = ("command", "file_path", "path", "pattern", "url", "query", "prompt", "description", "skill")
"""The field of a tool's input that says most about the call, the best first."""


def shown(line: "TranscriptLine") -> Iterator[str]:
    """The lines of text for one line of a transcript; none for what only a machine needs. As the agent wrote them: make them safe
    before a terminal gets them."""
    row = _parsed(line.text)
    if line.path == OWN_PATH:
        yield from _own(row or {})
    elif row is None:
        yield line.text
    elif line.kind == "session":
        yield from _indented(_said(row), _who(line.path))
    else:
        yield from _event(row, line.text)


def _parsed(text: str) -> Mapping[str, Any] | None:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _who(path: str) -> str:
    """A subagent's lines are marked with its name."""
    name = path.rpartition("/")[2].removesuffix(".jsonl") if "/" in path else ""
    return f"[{name}] " if name else ""


def _indented(lines: Iterator[str], mark: str) -> Iterator[str]:
    return (f"{mark}{line}" if line else line for line in lines)


def _own(row: Mapping[str, Any]) -> Iterator[str]:
    match row.get("type"):
        case kind if kind == BEGIN_TYPE:
            yield f"== attempt {row.get('attempt')}, executor {row.get('executor')}"
        case kind if kind == NOTE_TYPE:
            yield f"[turbo] {row.get('note')}"
        case kind if kind == END_TYPE and row.get("complete") is not True:
            yield f"[turbo] this transcript is not complete: {row.get('why')}"


def _said(row: Mapping[str, Any]) -> Iterator[str]:
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


def _block(block: Mapping[str, Any], *, told: bool) -> Iterator[str]:
    match block.get("type"):
        case "text" if told:
            yield ""
            yield from _folded(str(block.get("text")), "> ", TOLD_LINES)
            yield ""
        case "text":
            yield from str(block.get("text")).rstrip().splitlines()
        case "thinking":
            thought = str(block.get("thinking") or "")
            if thought.strip():
                yield f"(thinking, {len(thought):,} characters)"
        case "tool_use":
            yield from _call(str(block.get("name")), block.get("input"))
        case "tool_result":
            mark = "  ! " if block.get("is_error") is True else "  | "
            yield from _folded(_result_text(block.get("content")), mark, RESULT_LINES, RESULT_CHARACTERS)


def _call(name: str, given: Any) -> Iterator[str]:
    fields = given if isinstance(given, dict) else {}
    questions = fields.get("questions")
    if name == "AskUserQuestion" and isinstance(questions, list):
        for question in questions:
            if isinstance(question, dict):
                yield f"? {question.get('question')}"
                for option in question.get("options") or ():
                    if isinstance(option, dict):
                        yield f"    - {option.get('label')}"
        return
    main = next((fields[key] for key in _MAIN_INPUT if isinstance(fields.get(key), str)), None)
    text = main if main is not None else json.dumps(given, ensure_ascii=False) if given else ""
    yield f"* {name}  {_short(' '.join(text.split()), INPUT_CHARACTERS)}".rstrip()


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


def _event(row: Mapping[str, Any], text: str) -> Iterator[str]:
    match row.get("type"):
        case "assistant" | "user":
            yield from _said(row)
        case "system":
            if row.get("subtype") == "api_retry":
                yield f"-- the service did not answer ({row.get('error')}), attempt {row.get('attempt')} of {row.get('max_retries')}"
        case "result":
            yield ""
            yield _result(row) if "subtype" in row else f"-- the CLI ends, exit code {row.get('exitCode')}"
        case "rate_limit_event":
            info = row.get("rate_limit_info")
            if isinstance(info, dict) and info.get("status") not in (None, "allowed"):
                yield f"-- limit of the account: {info.get('status')} {info.get('rateLimitType') or ''}".rstrip()
        case _:
            told = codex_conversation.lines_of(row) or copilot_conversation.lines_of(row)
            if told is None:
                yield text
            else:
                yield from _told(told)


def _told(lines: Iterator[tuple[str, str]]) -> Iterator[str]:
    for kind, text in lines:
        match kind:
            case "told":
                yield ""
                yield from _folded(text, "> ", TOLD_LINES)
                yield ""
            case "said":
                yield from text.rstrip().splitlines()
            case "call":
                yield f"* {_short(text, INPUT_CHARACTERS)}"
            case "result" | "failed":
                yield from _folded(text, "  | " if kind == "result" else "  ! ", RESULT_LINES, RESULT_CHARACTERS)
            case _:
                yield f"-- {_short(' '.join(text.split()), RESULT_CHARACTERS)}"


def _result(row: Mapping[str, Any]) -> str:
    said = [str(row.get("subtype"))] if row.get("is_error") is not True else [f"error ({row.get('subtype')})"]
    if row.get("stop_reason") == "tool_deferred":
        said = ["it waits for a person"]
    turns, cost = row.get("num_turns"), row.get("total_cost_usd")
    if isinstance(turns, int):
        said.append(f"{turns} turn{'s' if turns != 1 else ''}")
    if isinstance(cost, int | float):
        said.append(f"${cost:.4f} in this session")
    return f"-- {', '.join(said)}"


def _folded(text: str, mark: str, most: int, characters: int | None = None) -> Iterator[str]:
    lines = text.rstrip().splitlines() or ["(nothing)"]
    for line in lines[:most]:
        yield mark + (_short(line, characters) if characters is not None else line)
    if len(lines) > most:
        yield f"{mark}… {len(lines) - most:,} more lines (--raw shows them)"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
