"""Judges the answers of one executor by its `output_schema`.

    answer ──▶ JSON? ──▶ small, and the schema is plain: compared at once
                  └── otherwise compared in a process of its own, which ends itself when it has computed for too long

An answer is hostile, and it may be made to fit the schema's weakest expression. The event loop must not wait for it.
"""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from turbo.domain.limits import HEAVY_CHARACTERS
from turbo.domain.run import StopSignal
from turbo.executors.schemas.answer_schema import AnswerSchema, read_schema
from turbo.executors.schemas.comparison import misfit
from turbo.executors.schemas.strict_json import NotJson, parsed, rendered, values, without_mark
from turbo.process.journal import Journal
from turbo.process.running import Ending, ProcessSpec, SpawnFailed, run_process

CHILD = Path(__file__).with_name("child.py")
CPU_SECONDS = 10
QUICK_STEPS = 20_000
"""Up to this product of both sizes a comparison takes some milliseconds."""

WALL_SECONDS = 300.0
"""On a host so busy that CPU_SECONDS take longer than this, the comparison is given up."""

WHAT = "the answer"


class ComparisonStopped(Exception):
    """The run is to end, so the answer was not compared."""


@dataclass(frozen=True, slots=True)
class Judged:
    """`why` the answer does not fit, in words for an agent; None: it does. `value`: of its JSON, None where it is none."""

    value: object = None
    why: str | None = None


class Fit:
    """One schema, for many answers at once. `cpu_seconds`: how long the process may compute."""

    def __init__(self, schema: AnswerSchema, journal: Journal, cpu_seconds: int = CPU_SECONDS) -> None:
        self.schema = schema
        self._journal = journal
        self._cpu_seconds = cpu_seconds

    @classmethod
    def of_file(cls, path: Path, journal: Journal) -> "Fit":
        """Raises SchemaRefused, which is a ValueError."""
        return cls(read_schema(path), journal)

    async def text(self, text: str, stop: StopSignal, task_id: str) -> Judged:
        """An answer that is text: of a program, or of an agent. Raises ComparisonStopped, SpawnFailed, OSError."""
        try:
            heavy = len(text) > HEAVY_CHARACTERS
            text = without_mark(text)
            value = await asyncio.to_thread(parsed, text, WHAT) if heavy else parsed(text, WHAT)
        except NotJson as error:
            return Judged(why=str(error))
        return await self._compared(value, text, stop, task_id)

    async def value(self, value: object, stop: StopSignal, task_id: str) -> Judged:
        """An answer that is a value already. Raises ComparisonStopped, SpawnFailed, OSError."""
        try:
            value, text = await asyncio.to_thread(_as_stored, value)
        except NotJson as error:
            return Judged(why=str(error))
        return await self._compared(value, text, stop, task_id)

    async def _compared(self, value: object, text: str, stop: StopSignal, task_id: str) -> Judged:
        if not self.schema.costly and self.schema.values * values(value) <= QUICK_STEPS:
            try:
                return Judged(value, _told(misfit(self.schema.validator, value)))
            except RecursionError:  # the process has more room
                pass
        return Judged(value, _told(await self._in_process(text, stop, task_id)))

    async def _in_process(self, answer: str, stop: StopSignal, task_id: str) -> str | None:
        path = [os.path.abspath(entry) for entry in sys.path]  # noqa: PTH100
        request = {"path": path, "seconds": self._cpu_seconds, "schema": self.schema.text, "answer": answer}
        spec = ProcessSpec(
            argv=(sys.executable, "-I", str(CHILD)),
            env=_ENVIRONMENT,
            cwd=Path("/"),
            log_path=Path(os.devnull),
            wall_seconds=WALL_SECONDS,
            stdin=json.dumps(request).encode(),
            grace_seconds=0.0,
            task_id=task_id,
        )
        result = await run_process(spec, stop=stop, journal=self._journal)
        if result.ended_by is Ending.STOPPED:
            raise ComparisonStopped
        said = _said(result.stdout) if result.returncode == 0 else None
        if said is not None:
            return said[0]
        if result.ended_by is Ending.WALL or (result.returncode or 0) < 0:
            return (
                f"it could not be compared within {self._cpu_seconds} s of computing: a pattern, uniqueItems or a reference of the "
                "schema takes too long on it. Give a shorter or simpler answer"
            )
        raise SpawnFailed(f"the process that compares answers ended by {result.exit_text}: {result.stderr_tail[-500:]}")


_ENVIRONMENT: Mapping[str, str] = {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}


def _as_stored(value: object) -> tuple[object, str]:
    """The value as the database will have it, and its text: a tuple is a list, a key is text. Raises NotJson."""
    text = rendered(value, WHAT)
    return parsed(text, WHAT), text


def _told(why: str | None) -> str | None:
    return None if why is None else f"{WHAT} does not fit the schema: {why}"


def _said(stdout: bytes) -> tuple[str | None] | None:
    """What the process found; None: it has not come to an end."""
    try:
        found = json.loads(stdout)
    except ValueError:
        return None
    return (found["misfit"],) if isinstance(found, dict) and "misfit" in found else None
