"""The measures: each a function from a Bench to a Table."""

from collections.abc import Callable

from benchmarks.bench import Bench, Table
from benchmarks.measures import claim, graphs, herd, idle, inserts, pickup, schedules, start, throughput

MEASURES: dict[str, Callable[[Bench], Table]] = {
    "pickup": pickup.pickup,
    "burst": pickup.burst,
    "throughput10": throughput.ten,
    "throughput100": throughput.hundred,
    "idle": idle.idle,
    "start": start.start,
    "inserts": inserts.inserts,
    "claim": claim.claim,
    "graphs": graphs.graphs,
    "schedules": schedules.schedules,
    "herd": herd.herd,
}
