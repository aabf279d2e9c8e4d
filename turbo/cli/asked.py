"""How a question is shown: whole, with its options, and with the command that answers it.

All of it was written by an agent, or by whoever inserted the task. What may be approved is never cut: a list shows first lines, and
everything else shows the whole call.
"""

import json
import shlex
from typing import TYPE_CHECKING, Any

from turbo.cli import output, timestamps
from turbo.domain.question import Question, QuestionKind, Single
from turbo.domain.visible import visible_json

if TYPE_CHECKING:
    from turbo.client.questions import HeldTask, OpenQuestion

USUAL_PRIORITY, USUAL_TIMEOUT, USUAL_RETRIES = 5, 300, 3
"""The defaults of the columns."""

THEN = {
    "proceed": "the task goes on without an answer",
    "deny": "the call is denied",
    "fail": "the task fails",
}


def fields(asked: "Question | OpenQuestion") -> dict[str, object]:
    """Name and value, for `output.pairs`: no line of a value can pass for a name."""
    if asked.kind == QuestionKind.HOLD:
        return {"held": asked.text, **hold_fields(asked)}
    if asked.kind == QuestionKind.APPROVAL:
        rest = dict(asked.input)
        command = rest.pop("command", None) if isinstance(rest.get("command"), str) else None
        return {
            "asks": asked.text.removesuffix(command or "").strip() or asked.text,  # the command is shown below
            "tool": asked.tool or None,
            "command": command,
            "input": _input(rest) if rest else None,
            "rule": asked.rule or None,
        }
    if len(asked.questions) <= 1:
        options = _options(asked.questions[0]) if asked.questions else None
        own = asked.questions[0].question if asked.questions else asked.text
        return {
            "asks": asked.text or own,
            "question": own if own != asked.text and asked.text else None,
            "options": options,
        }
    repeated = asked.text.split() == " ".join(single.question for single in asked.questions).split()
    shown: dict[str, object] = {"asks": None if repeated else asked.text or None}
    for number, single in enumerate(asked.questions, 1):
        shown |= {f"question {number}": single.question, f"options {number}": _options(single)}
    return shown


def hold_fields(asked: "Question | OpenQuestion") -> dict[str, object]:
    """What is released besides the description."""
    if isinstance(asked, Question):
        return {}
    return {
        "type": asked.task_type,
        "queue": asked.queue,
        "input": visible_json(asked.input_data) if asked.input_data is not None else None,
        "not before": timestamps.local_time(asked.run_after) or None,
        **(_released(asked.released) if asked.released is not None else {}),
    }


def _released(one: "HeldTask") -> dict[str, object]:
    """Whose conversation it goes on with, what it waits for, and the limits that are not those of any task."""
    more = one.all_needs - len(one.needs)
    needs = [*map(output.one_line, one.needs), *([f"and {more} more: turbo graph shows them"] if more else [])]
    return {
        "continues": one.continues,
        "needs": "\n".join(needs) or None,
        "if one fails": one.on_needs_failed if needs else None,
        "parent": one.parent_task_id,
        "submitted by": one.submitted_by,
        "priority": one.task_priority if one.task_priority != USUAL_PRIORITY else None,
        "timeout": f"{one.timeout_seconds} s" if one.timeout_seconds not in (None, USUAL_TIMEOUT) else None,
        "retries": one.max_retries if one.max_retries != USUAL_RETRIES else None,
        "concurrency key": one.concurrency_key,
    }


def menu(single: Single) -> dict[str, object]:
    """For `output.pairs`: the number of each option, and its text on one line."""
    return {
        f"{number:>3}": output.one_line(choice.label)
        + (f": {output.one_line(choice.description)}" if choice.description else "")
        for number, choice in enumerate(single.options, 1)
    }


def commands(task_id: str, asked: "Question | OpenQuestion") -> str:
    """What to type, one command a line."""
    name = shlex.quote(task_id)
    if asked.kind == QuestionKind.HOLD:
        return f"turbo approve {name}\nturbo deny {name}"
    if asked.kind == QuestionKind.APPROVAL:
        return f"turbo approve {name}\nturbo deny {name} --because '...'"
    if len(asked.questions) > 1:
        form = visible_json({single.question: "..." for single in asked.questions})
        return f"turbo answer {name}\nturbo answer {name} {shlex.quote(form)}"
    return f"turbo answer {name}\nturbo answer {name} '...'"


def command(task_id: str, kind: str | None) -> str:
    """The one command to begin with."""
    return f"turbo {'answer' if kind == QuestionKind.QUESTION else 'approve'} {shlex.quote(task_id)}"


def print_whole(asked: "OpenQuestion") -> None:
    """On standard error. Further lines of a value are indented, also those that a terminal is too narrow for."""
    shown = {"task": asked.task_id, **fields(asked), "answer with": commands(asked.task_id, asked)}
    output.pairs(shown, err=True)


def print_menu(single: Single) -> None:
    output.pairs(menu(single), 5, err=True)


def summary(asked: "OpenQuestion") -> str:
    """On one line, for a list."""
    more = f" (and {len(asked.questions) - 1} more)" if len(asked.questions) > 1 else ""
    if asked.kind != QuestionKind.APPROVAL:
        return f"{asked.first_line}{more}"
    call = asked.input.get("command")
    called = call if isinstance(call, str) else json.dumps(dict(asked.input), ensure_ascii=False) if asked.input else ""
    return f"{asked.tool}: {called}" if asked.tool else asked.first_line


def _options(single: Single) -> str | None:
    head = ["several may be chosen:"] if single.multi and single.options else []
    return "\n".join([*head, *(f"{number.strip()}  {text}" for number, text in menu(single).items())]) or None


def _input(values: dict[str, Any]) -> str:
    """`name: value`, texts as they are; their further lines are indented, so that none can pass for a name."""
    lines = []
    for name, value in values.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        lines.append(f"{output.one_line(name)}: " + text.replace("\r\n", "\n").replace("\n", "\n    "))
    return "\n".join(lines)
