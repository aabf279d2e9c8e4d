"""Counters and histograms for events that happen thousands of times a second.

prometheus-client's own take a lock and look up their labels at each step: four of them took a tenth of a light run's
time. These are plain numbers, written only by the event loop's thread and read by the endpoint's. A scrape may see a
run's count a moment before its sum. The exposed format is the library's.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class CounterSeries:
    """One labelled series of a counter."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, by: float = 1.0) -> None:
        self.value += by


class HistogramSeries:
    """One labelled series of a histogram. `buckets` are the upper bounds without +Inf."""

    __slots__ = ("buckets", "counts", "total")

    def __init__(self, buckets: Sequence[float]) -> None:
        self.buckets = buckets
        self.counts = [0] * (len(buckets) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.buckets, value)] += 1
        self.total += value


class FastCounter(Collector):
    def __init__(self, name: str, documentation: str, labelnames: Sequence[str], registry: CollectorRegistry) -> None:
        self._name, self._help, self._labelnames = name, documentation, tuple(labelnames)
        self._series: dict[tuple[str, ...], CounterSeries] = {}
        registry.register(self)

    def labels(self, *values: str) -> CounterSeries:
        series = self._series.get(values)
        if series is None:
            series = self._series[values] = CounterSeries()
        return series

    def describe(self) -> Iterable[CounterMetricFamily]:
        return [CounterMetricFamily(self._name, self._help, labels=self._labelnames)]

    def collect(self) -> Iterable[CounterMetricFamily]:
        (family,) = self.describe()
        for values, series in list(self._series.items()):
            family.add_metric(values, series.value)
        return [family]


class FastHistogram(Collector):
    def __init__(
        self,
        name: str,
        documentation: str,
        labelnames: Sequence[str],
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._name, self._help, self._labelnames = name, documentation, tuple(labelnames)
        self._buckets = tuple(float(b) for b in buckets)
        self._series: dict[tuple[str, ...], HistogramSeries] = {}
        registry.register(self)

    def labels(self, *values: str) -> HistogramSeries:
        series = self._series.get(values)
        if series is None:
            series = self._series[values] = HistogramSeries(self._buckets)
        return series

    def describe(self) -> Iterable[HistogramMetricFamily]:
        return [HistogramMetricFamily(self._name, self._help, labels=self._labelnames)]

    def collect(self) -> Iterable[HistogramMetricFamily]:
        (family,) = self.describe()
        bounds = [floatToGoString(b) for b in (*self._buckets, float("inf"))]  # type: ignore[no-untyped-call]
        for values, series in list(self._series.items()):
            counts = [(bound, float(count)) for bound, count in zip(bounds, accumulate(series.counts), strict=True)]
            family.add_metric(values, counts, series.total)
        return [family]
