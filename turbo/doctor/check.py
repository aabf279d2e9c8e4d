"""One check of `turbo doctor`."""

from collections.abc import Callable
from dataclasses import dataclass

from turbo.domain.finding import Finding


@dataclass(frozen=True, slots=True)
class Check:
    """`run` returns one finding. It may raise psycopg.Error or OSError when it cannot find out, which counts as a failure.
    `needs` names the checks that must succeed first; without them this one is skipped."""

    name: str
    run: Callable[[], Finding]
    needs: tuple[str, ...] = ()
