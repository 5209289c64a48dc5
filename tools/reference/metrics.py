"""The metrics of servers, workers and gateways, from their definitions."""

from collections.abc import Iterable, Iterator

from tools.reference.markdown import table

from session_authority_gateway import metrics as gateway
from session_authority_server.observability import instruments, metrics
from session_authority_server.observability.instruments import Counter, Instrument

_HEAD = """
Servers and workers export these metrics, once `SESSION_AUTHORITY_METRICS_LISTEN` is set. [Monitor](../operate/monitor.md)
says how to collect them, and what to alert on. A process exports a metric only if it has the part that the metric is
about.
"""
_GATEWAY = """
A gateway exports these metrics, once `SESSION_AUTHORITY_GATEWAY_METRICS_LISTEN` is set.
`session_authority_rpc_duration_seconds` counts the calls of its JSON API, and `session_authority_rpc_errors_total` those
that it refuses by itself.
"""
_FOOT = f"""
A metric has at most {instruments.LABELS_LIMIT} combinations of label values. Further ones are counted together, with the label
value `{instruments.OTHER}`. The metrics of prometheus_client about the process (`process_*`) and Python (`python_*`) are exported
too.
"""


def every_metric() -> list[Instrument]:
    """Return the metrics in the order in which they are defined."""
    return [each for each in vars(metrics).values() if isinstance(each, Instrument)]


def every_gateway_metric() -> list[Instrument]:
    """Return the metrics of gateways."""
    return [each for each in vars(gateway).values() if isinstance(each, Instrument)]


def exported_name(metric: Instrument) -> str:
    """Return the name by which queries know a metric."""
    return f"{metric.name}_total" if isinstance(metric, Counter) else metric.name


def _table(of: Iterable[Instrument]) -> Iterator[str]:
    return table(
        "metric",
        "type",
        "labels",
        "meaning",
        rows=(
            (
                f"`{exported_name(each)}`",
                each.kind,
                ", ".join(f"`{label}`" for label in each.labels) or "-",
                each.meaning,
            )
            for each in of
        ),
    )


def page() -> Iterator[str]:
    """Return the lines of the page."""
    yield _HEAD.strip()
    yield ""
    yield from _table(every_metric())
    yield from ("## Gateway", "", *_GATEWAY.strip().splitlines(), "")
    yield from _table(every_gateway_metric())
    yield from (*_FOOT.strip().splitlines(), "")
