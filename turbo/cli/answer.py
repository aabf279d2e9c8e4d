"""`turbo answer`: an answer from the command line, from standard input, or in a dialog at a terminal.

TEXT given ──────────────────────────────────────────▶ written
no TEXT, standard input is not a terminal ──read it──▶ written
no TEXT, a terminal ──each question, with its options as a menu──▶ written; Ctrl-C or the end of the input changes nothing
"""

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from turbo.cli import asked, output
from turbo.cli.options import Dsn, Json, WaitingId, connect
from turbo.domain.question import QuestionKind, Single

if TYPE_CHECKING:
    from turbo.client.client import Changed, Client, OpenQuestion

LONGEST_LINE = 4095
"""Bytes. A terminal gives no more of one line, and does not say so."""

SEVERAL = ", "
QUOTED = re.compile(r'"\s*\S.*"', re.DOTALL)
"""Text, even if it is a number."""


def answer(
    task_id: WaitingId,
    text: Annotated[
        str | None,
        typer.Argument(
            help="The answer; - reads standard input. For several questions: a JSON object. [default: asked for at a terminal]",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
    dsn: Dsn = None,
) -> None:
    """Answer what a task asks; the task then goes on.

    Without TEXT, each question is asked at the terminal, with its options as a menu.

    \b
    Examples:
      turbo answer my_task_1
      turbo answer my_task_1 "Use PostgreSQL 16"
      turbo answer my_task_1 < answer.txt
    """
    from turbo.client.client import BadField

    with connect(dsn) as client:
        whole = client.resolve(task_id)
        try:
            if text is not None or not sys.stdin.isatty():
                _only_a_question(client, whole)
                changed = send(client, whole, text if text is not None and text != "-" else _read(whole))
            else:
                changed = _dialog(client, whole)
        except BadField as error:
            raise typer.BadParameter(str(error)) from None
    if as_json:
        output.print_json(asdict(changed))
    else:
        output.echo(f"{changed.task_id}: {changed.status}")


def send(client: "Client", task: "str | OpenQuestion", answer: "str | dict[str, str]") -> "Changed":
    """Raises NotWaiting, MayNotAnswer; BadParameter for an answer that is none."""
    from turbo.client.client import AnswerRefused, MayNotAnswer, NotWaiting

    try:
        return client.answer(task, answer)
    except (NotWaiting, MayNotAnswer):
        raise
    except AnswerRefused as error:
        raise typer.BadParameter(str(error)) from None


def _only_a_question(client: "Client", task_id: str) -> None:
    """Nothing is approved or released that this command has not shown. Raises BadParameter."""
    found = client.questions(task_ids=[task_id], limit=1)
    if found and found[0].kind != QuestionKind.QUESTION:
        name = shlex.quote(task_id)
        raise typer.BadParameter(
            f"task {task_id} asks no question, but for an approval: turbo approve {name} and turbo deny {name} show of what"
        )


def _read(task_id: str) -> str:
    """Standard input, without the newline at its end."""
    try:
        text = sys.stdin.buffer.read().decode().rstrip("\n")
    except UnicodeDecodeError:
        raise typer.BadParameter("standard input is not UTF-8 text") from None
    if not text.strip():
        raise typer.BadParameter(
            f"standard input is empty: write turbo answer {shlex.quote(task_id)} TEXT, or call it at a terminal to be asked"
        )
    return text


# ── the dialog ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _dialog(client: "Client", task_id: str) -> "Changed":
    from turbo.client.questions import not_waiting

    found = client.questions(task_ids=[task_id], limit=1)
    if not found:
        raise not_waiting(task_id, client.get(task_id).status, None, None)
    one = found[0]
    asked.print_whole(one)
    try:
        given = _asked_for(one)
    except (EOFError, KeyboardInterrupt) as error:
        output.notice("")
        output.notice("nothing was changed")
        raise typer.Exit(130 if isinstance(error, KeyboardInterrupt) else 1) from None
    return send(client, one, given)


def _asked_for(one: "OpenQuestion") -> str | dict[str, str]:
    if one.kind != QuestionKind.QUESTION:
        return _yes_or_no(one)
    if len(one.questions) <= 1:
        return _one(one.questions[0] if one.questions else Single(one.text))
    given = {}
    for number, single in enumerate(one.questions, 1):
        head = f"{number} of {len(one.questions)}: "
        output.notice("")
        output.pairs({head: single.question}, len(head), err=True)
        asked.print_menu(single)
        given[single.question] = _one(single)
    return given


def _one(single: Single) -> str:
    """The answer to one question: options by their numbers, or text."""
    how = "the text of your answer"
    if single.options:
        how = "numbers (1,3), or text" if single.multi else "a number, or text"
    while True:
        text = _line(f"{how}> ")
        if QUOTED.fullmatch(text):
            return text[1:-1]
        try:
            chosen = chosen_options(single, text)
        except ValueError as error:
            output.notice(str(error))
            continue
        return SEVERAL.join(chosen) if chosen else text


def chosen_options(single: Single, text: str) -> list[str]:
    """The labels that a line names by their numbers; none if it is text. Raises ValueError for a number that no option has."""
    words = text.replace(",", " ").split()
    if not single.options or not words or not all(word.isascii() and word.isdigit() for word in words):
        return []
    if len(words) > 1 and not single.multi:
        return []
    for word in words:
        if len(word) > 3 or not 1 <= int(word) <= len(single.options):
            raise ValueError(f'there is no option {word}: write 1 to {len(single.options)}, or "{word}" for that text')
    return list(dict.fromkeys(single.options[int(word) - 1].label for word in words))


def _yes_or_no(one: "OpenQuestion") -> str:
    words: Sequence[str] = ("yes", "always", "no") if one.kind == QuestionKind.APPROVAL else ("yes", "no")
    while True:
        text = _line(f"{', '.join(words)}> ")
        first = text.split(maxsplit=1)[0].rstrip(",.:;").lower()
        if first in words and (first == "no" or text.lower().strip() == first):
            return text
        output.notice(f"write {', '.join(words[:-1])} or no; after no, a reason")


def _line(prompt: str) -> str:
    """What a person types, not empty. Raises EOFError, KeyboardInterrupt."""
    while True:
        sys.stderr.write(prompt)
        sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        if len(line.encode(errors="surrogateescape")) >= LONGEST_LINE:
            output.notice(
                f"a terminal takes no more than {LONGEST_LINE} bytes a line: write the answer into a file, and give it as < FILE"
            )
            raise EOFError
        if line.strip():
            return line.strip()
