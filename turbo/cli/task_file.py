"""Tasks from a JSONL or CSV file: every line is checked, and errors name the line and column."""

import csv
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

from turbo.client.new_task import ALIASES, BadField, NewTask, column_named, new_task, required

INPUT_KEY = "input."
NUMBERS = ("task_priority", "timeout_seconds", "max_retries")


class BadTaskFileLine(ValueError):
    """A line that is not a task. `line` counts from 1; the message has the place and the remedy."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"line {line}: {message}")
        self.line = line


@dataclass(frozen=True, slots=True)
class TaskFileLine:
    """A task, and the line of the file that it starts on."""

    number: int
    task: NewTask


class TaskFile:
    """A file of tasks that can be read more than once. Standard input is copied to a temporary file."""

    def __init__(self, file: Path, form: str, defaults: Mapping[str, Any]) -> None:
        """`form` is jsonl or csv; `defaults` are for what a line leaves out. Raises OSError."""
        self._form = form
        self._defaults = defaults
        if str(file) == "-":
            self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
            shutil.copyfileobj(sys.stdin.buffer, self._file)
        else:
            self._file = file.open("rb")

    def __enter__(self) -> "TaskFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def lines(self, from_line: int = 1) -> Iterator[TaskFileLine | BadTaskFileLine]:
        """Every task from that line on, or the problem with its line."""
        self._file.seek(0)
        for number, values in self._rows():
            if number < from_line:
                continue
            if isinstance(values, BadTaskFileLine):
                yield values
                continue
            try:
                yield TaskFileLine(number, new_task(values, self._defaults))
            except BadField as error:
                yield BadTaskFileLine(number, f"column {error}")

    def _rows(self) -> Iterator[tuple[int, "Mapping[str, Any] | BadTaskFileLine"]]:
        return self._jsonl() if self._form == "jsonl" else self._csv()

    def _jsonl(self) -> Iterator[tuple[int, "Mapping[str, Any] | BadTaskFileLine"]]:
        for number, raw in enumerate(self._file, start=1):
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                if not text:
                    continue
                value = json.loads(text, parse_constant=_no_number, object_pairs_hook=_unique_keys)
            except UnicodeDecodeError as error:
                yield number, BadTaskFileLine(number, f"byte {error.start + 1}: is not UTF-8 text")
            except json.JSONDecodeError as error:
                yield number, BadTaskFileLine(number, f"column {error.colno}: is not JSON: {error.msg}")
            except (ValueError, RecursionError) as error:
                yield number, BadTaskFileLine(number, f"cannot be read: {error}")
            else:
                if isinstance(value, str):
                    yield number, {"task_description": value}
                elif isinstance(value, dict):
                    yield number, value
                else:
                    yield (
                        number,
                        BadTaskFileLine(number, "must be an object with columns, or a string with the text"),
                    )

    def _csv(self) -> Iterator[tuple[int, "Mapping[str, Any] | BadTaskFileLine"]]:
        csv.field_size_limit(2**31 - 1)
        reader = csv.reader(_decoded(self._file), strict=True)
        head: list[str] | None = None
        while True:
            number = reader.line_num + 1
            try:
                cells = next(reader, None)
            except UnicodeDecodeError as error:
                yield number, BadTaskFileLine(number, f"byte {error.start + 1}: is not UTF-8 text")
                return
            except csv.Error as error:
                yield number, BadTaskFileLine(number, f"cannot be read: {error}")
                return  # where the next record begins is not known
            if cells is None:
                return
            if head is None:
                head = [name.strip() for name in cells]
                if bad := _bad_head(head):
                    yield number, BadTaskFileLine(number, bad)
                    return
            elif cells:
                yield number, self._values(number, head, cells)

    def _values(self, number: int, head: list[str], cells: list[str]) -> "Mapping[str, Any] | BadTaskFileLine":
        if len(cells) != len(head):
            return BadTaskFileLine(number, f"has {len(cells)} cells, the first line names {len(head)} columns")
        values: dict[str, Any] = {}
        for name, cell in zip(head, cells, strict=True):
            if cell == "":
                continue
            column = ALIASES.get(name, name)
            if name.startswith(INPUT_KEY):
                values.setdefault("input_data", {})[name.removeprefix(INPUT_KEY)] = cell
            elif column == "input_data":
                try:
                    values[column] = json.loads(cell, parse_constant=_no_number)
                except ValueError as error:
                    return BadTaskFileLine(number, f"column {name}: is not JSON: {error}")
            elif column == "needs":
                values[column] = [name.strip() for name in cell.split(",")]
            elif column == "requires":
                try:
                    values[column] = json.loads(cell) if cell.lstrip().startswith("{") else required(cell.split(","))
                except BadField as error:
                    return BadTaskFileLine(number, f"column {error}")
                except ValueError as error:
                    return BadTaskFileLine(number, f"column {name}: is not JSON: {error}")
            elif column in NUMBERS:
                if not re.fullmatch(r"\s*[+-]?\d{1,18}\s*", cell):
                    return BadTaskFileLine(number, f"column {name}: must be a whole number, not {cell[:40]!r}")
                values[column] = int(cell)
            elif column == "hold":
                if cell.strip().lower() not in ("true", "false"):
                    return BadTaskFileLine(number, f"column {name}: must be true or false, not {cell[:40]!r}")
                values[column] = cell.strip().lower() == "true"
            else:
                values[column] = cell
        return values


def _bad_head(head: list[str]) -> str | None:
    """The problem with the first line of a CSV file, if any."""
    columns = []
    for name in head:
        try:
            columns.append(name if name.startswith(INPUT_KEY) else column_named(name))
        except BadField as error:
            return f"column {error} (the first line of a CSV file names the columns)"
    for place, name in enumerate(columns):
        if columns.index(name) != place:
            return f"names {head[place]} twice"
    if "input_data" in columns and any(name.startswith(INPUT_KEY) for name in columns):
        return f"names input_data and {INPUT_KEY}… too: keep one of them"
    return None


def _decoded(file: IO[bytes]) -> Iterator[str]:
    for number, raw in enumerate(file):
        yield raw.decode("utf-8" if number else "utf-8-sig")


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} appears twice")
    return values
