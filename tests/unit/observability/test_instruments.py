from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY, generate_latest

from session_authority_server.observability.instruments import (
    LABELS_LIMIT,
    OTHER,
    Counter,
    Gauge,
    Histogram,
    Instrument,
)


@pytest.fixture
def exported() -> Iterator[list[Instrument]]:
    """Collect instruments that a test creates, and remove them from the exported metrics afterwards."""
    made: list[Instrument] = []
    yield made
    for each in made:
        REGISTRY.unregister(each)


def samples() -> list[str]:
    return [line for line in generate_latest().decode().splitlines() if line.startswith("of_test")]


def test_a_counter_begins_at_zero_for_its_known_labels(exported: list[Instrument]) -> None:
    exported.append(counter := Counter("of_test", "A test.", "kind", known=[("a",), ("b",)]))
    counter.inc("b", by=2)
    counter.cell("b").value += 1
    assert samples() == ['of_test_total{kind="a"} 0.0', 'of_test_total{kind="b"} 3.0']


def test_a_gauge_has_no_value_before_one_is_set(exported: list[Instrument]) -> None:
    exported.append(gauge := Gauge("of_test", "A test.", "kind"))
    assert samples() == []
    gauge.set(1, "a")
    gauge.set_function(lambda: 5, "b")
    gauge.set(2, "a")
    assert samples() == ['of_test{kind="a"} 2.0', 'of_test{kind="b"} 5.0']


def test_a_histogram_counts_a_duration_in_every_bucket_that_holds_it(
    exported: list[Instrument],
) -> None:
    exported.append(histogram := Histogram("of_test", "A test.", "kind", bounds=(0.1, 1.0)))
    for seconds in (0.1, 0.5, 0.5, 7):
        histogram.observe(("a",), seconds)
    assert samples() == [
        'of_test_bucket{kind="a",le="0.1"} 1.0',
        'of_test_bucket{kind="a",le="1.0"} 3.0',
        'of_test_bucket{kind="a",le="+Inf"} 4.0',
        'of_test_count{kind="a"} 4.0',
        'of_test_sum{kind="a"} 8.1',
    ]


def test_label_values_beyond_the_limit_are_counted_together(exported: list[Instrument]) -> None:
    exported.append(counter := Counter("of_test", "A test.", "key"))
    exported.append(histogram := Histogram("of_test_time", "A test.", "key", bounds=(1.0,)))
    for number in range(LABELS_LIMIT + 5):
        counter.inc(str(number))
        histogram.observe((str(number),), 0.5)
    assert counter.value("0") == 1
    assert counter.value(OTHER) == 5
    assert f'of_test_time_count{{key="{OTHER}"}} 5.0' in samples()
    assert len(samples()) <= (LABELS_LIMIT + 1) * 5
