"""What ended lately and how long it had waited, by interval of time: for charts."""

from dataclasses import dataclass
from datetime import UTC, datetime

from turbo.client.operations import Query, Steps

HOUR = 3600.0
DAY = 86400.0
MOST_READ = 20_000
"""Tasks that are read, the newest first: what it costs does not grow with the fleet."""


@dataclass(frozen=True, slots=True)
class EndedInTime:
    """One interval, from `at` on. Seconds from when a task was runnable to its start, of half the tasks and of 95 in 100; None: no task
    of it has started."""

    at: datetime
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    waited_half: float | None = None
    waited_most: float | None = None


@dataclass(frozen=True, slots=True)
class Throughput:
    """Intervals without a gap, the last one is now's. `cut`: only the newest tasks were counted, back to `counted_from`."""

    bucket_seconds: float
    intervals: tuple[EndedInTime, ...]
    cut: bool
    counted_from: datetime | None


def throughput(seconds: float, bucket: float) -> Steps[Throughput]:
    rows = (yield Query("client/throughput", {"seconds": seconds, "bucket": bucket, "most": MOST_READ})).rows
    now = int(rows[0]["now"] // bucket)
    known = {row["bucket"]: row for row in rows if row["bucket"] is not None}
    oldest = rows[0]["oldest"] if rows[0]["cut"] else None
    first = now - round(seconds / bucket) + 1
    return Throughput(
        bucket,
        tuple(_interval(number, bucket, known.get(number, {})) for number in range(first, now + 1)),
        cut=rows[0]["cut"],
        counted_from=None if oldest is None else datetime.fromtimestamp(oldest, UTC),
    )


def _interval(number: int, bucket: float, row: dict[str, object]) -> EndedInTime:
    figures = {name: value for name, value in row.items() if name in EndedInTime.__slots__ and name != "at"}
    return EndedInTime(datetime.fromtimestamp(number * bucket, UTC), **figures)  # type: ignore[arg-type]
