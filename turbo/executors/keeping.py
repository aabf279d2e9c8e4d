"""Keeps files of each run, and its diff: a work area around another one.

    the program ends ──▶ its files and its diff are read (bounded) ──▶ Outcome.kept ──▶ the worker stores them before the result

Whatever goes wrong here is a note of the outcome, and never changes it.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from turbo.domain.kept import DIFF_BYTES, DIFF_PATH, Kept, KeptFile, LeftOut
from turbo.domain.outcome import Outcome, Probe
from turbo.domain.run import Run
from turbo.workspaces.area import CannotExamine, Program, WorkArea, WorkspaceView
from turbo.workspaces.kept_files import keep_files

log = logging.getLogger(__name__)

DIFF_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class KeepingArea:
    """`patterns`: of files that are kept. A workspace's diff is always kept."""

    area: WorkArea
    patterns: tuple[str, ...] = ()

    @property
    def fixed(self) -> Path | None:
        return self.area.fixed

    def missing(self, environment: Mapping[str, str]) -> str | None:
        return self.area.missing(environment)

    def dependencies(self, environment: Callable[[], Mapping[str, str]]) -> Mapping[str, Probe]:
        return self.area.dependencies(environment)

    async def run(self, run: Run, environment: Mapping[str, str], program: Program) -> Outcome:
        """See `WorkArea`."""

        async def keeping(directory: Path, view: WorkspaceView | None) -> Outcome:
            outcome = await program(directory, view)
            return replace(outcome, kept=await _kept(directory, view, self.patterns))

        return await self.area.run(run, environment, keeping)


async def _kept(directory: Path, view: WorkspaceView | None, patterns: Sequence[str]) -> Kept:
    kept = Kept()
    if patterns:
        try:
            kept = await asyncio.to_thread(keep_files, directory, patterns)
        except Exception as error:
            log.exception("cannot keep files of %s", directory)
            kept = Kept(left_out=(LeftOut("", f"{type(error).__name__}: {error}"),))
    if view is None:
        return kept
    try:
        async with asyncio.timeout(DIFF_SECONDS):
            text, _whole = await view.diff(DIFF_BYTES)
    except TimeoutError:
        return replace(kept, left_out=(*kept.left_out, LeftOut(DIFF_PATH, "it took too long")))
    except (CannotExamine, OSError) as error:
        return replace(kept, left_out=(*kept.left_out, LeftOut(DIFF_PATH, str(error))))
    if not text:
        return kept
    return replace(kept, files=(*kept.files, KeptFile(DIFF_PATH, text.encode("utf-8", "replace"))))
