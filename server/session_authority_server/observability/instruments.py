"""Counters, gauges and histograms that take no locks, because a lock would slow every validation.

The event loop's thread changes the instruments. Another thread may change one only under the lock of the component
that owns the instrument. The thread that serves the metrics only reads.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

from prometheus_client import REGISTRY
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

# The most combinations of label values of an instrument. Further ones are counted together, as OTHER.
LABELS_LIMIT = 500
OTHER = "other"

Labels: TypeAlias = tuple[str, ...]


class Instrument(Collector):
    """A metric of this process.

    Attributes:
        name: The name of the metric. A counter is exported with the suffix `_total`.
        kind: Its Prometheus type.
        meaning: Its help text.
        labels: The names of its labels.
    """

    kind: str

    def __init__(self, name: str, meaning: str, *labels: str) -> None:
        self.name = name
        self.meaning = meaning
        self.labels = labels
        REGISTRY.register(self)


class Cell:
    """One value of a counter."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0


class Counter(Instrument):
    """A number that only grows."""

    kind = "counter"

    def __init__(self, name: str, meaning: str, *labels: str, known: Iterable[Labels] = ()) -> None:
        """Create a counter. It begins at 0 for each of the `known` label values, so that rates are never absent."""
        self._cells: dict[Labels, Cell] = {}
        super().__init__(name, meaning, *labels)
        for each in known if labels else [()]:
            self.cell(*each)

    def inc(self, *labels: str, by: float = 1) -> None:
        """Add to the counter with these label values."""
        self.cell(*labels).value += by

    def cell(self, *labels: str) -> Cell:
        """Return the cell for label values. A frequent caller keeps the cell and adds to its `value`."""
        found = self._cells.get(labels)
        if found is None:
            if len(self._cells) >= LABELS_LIMIT:
                labels = (OTHER,) * len(labels)
            found = self._cells.setdefault(labels, Cell())
        return found

    def value(self, *labels: str) -> float:
        """Return the count for label values."""
        return self.cell(*labels).value

    def collect(self) -> Iterator[Metric]:
        """Return the counts for prometheus_client."""
        family = CounterMetricFamily(self.name, self.meaning, labels=self.labels)
        for labels, cell in list(self._cells.items()):
            family.add_metric(labels, cell.value)
        yield family


class Gauge(Instrument):
    """A number that goes up and down. It has no value until one is set."""

    kind = "gauge"

    def __init__(self, name: str, meaning: str, *labels: str) -> None:
        self._values: dict[Labels, Callable[[], float]] = {}
        super().__init__(name, meaning, *labels)

    def set(self, value: float, *labels: str) -> None:
        """Set the value for label values."""
        self._values[labels] = lambda: value

    def set_function(self, read: Callable[[], float], *labels: str) -> None:
        """Have a function return the value for label values. The thread that serves the metrics calls it."""
        self._values[labels] = read

    def value(self, *labels: str) -> float:
        """Return the value for label values."""
        return self._values[labels]()

    def collect(self) -> Iterator[Metric]:
        """Return the values for prometheus_client."""
        family = GaugeMetricFamily(self.name, self.meaning, labels=self.labels)
        for labels, read in list(self._values.items()):
            family.add_metric(labels, read())
        yield family


class Histogram(Instrument):
    """Counts durations in seconds, by their length."""

    kind = "histogram"

    def __init__(self, name: str, meaning: str, *labels: str, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._series: dict[Labels, tuple[list[int], Cell]] = {}
        super().__init__(name, meaning, *labels)
        if not labels:
            self._new_series(())

    def observe(self, labels: Labels, seconds: float) -> None:
        """Count a duration."""
        counts, total = self._series.get(labels) or self._new_series(labels)
        counts[bisect_left(self._bounds, seconds)] += 1
        total.value += seconds

    def _new_series(self, labels: Labels) -> tuple[list[int], Cell]:
        if len(self._series) >= LABELS_LIMIT:
            labels = (OTHER,) * len(labels)
        return self._series.setdefault(labels, ([0] * (len(self._bounds) + 1), Cell()))

    def collect(self) -> Iterator[Metric]:
        """Return the histograms for prometheus_client."""
        family = HistogramMetricFamily(self.name, self.meaning, labels=self.labels)
        for labels, (counts, total) in list(self._series.items()):
            below, buckets = 0, []
            for bound, count in zip((*map(str, self._bounds), "+Inf"), counts, strict=True):
                below += count
                buckets.append((bound, below))
            family.add_metric(labels, buckets, total.value)
        yield family
