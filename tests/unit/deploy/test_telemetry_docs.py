"""docs/telemetry.md declares what the code registers, no more and no less."""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from icestream.runtime import deadletters
from icestream.runtime.grpc_certificates import CertificateFiles, watched_certificate
from icestream.runtime.grpc_tokens import TokenGate
from icestream.runtime.jetstream.publisher import MESSAGE_ID_HEADER
from icestream.runtime.metrics import ServiceMetrics
from icestream.runtime.nats_metrics import BrokerCollector
from icestream.runtime.tracing import TRACEPARENT, Tracing
from services.emitter.metrics import EmitterMetrics
from services.recorder.metrics import RecorderMetrics
from services.router.metrics import RouterMetrics
from services.scanner.coordinator.log import REQUEST_SHA256
from services.scanner.coordinator.metrics import ScannerMetrics
from services.scanner.worker.metrics import ScanWorkerMetrics

if TYPE_CHECKING:
    from icestream.runtime.jetstream.connection import Connection
    from icestream.runtime.tokens import TokenFile

DOCS = Path(__file__).resolve().parents[3] / "docs/telemetry.md"
SUFFIXES = {"counter": "_total", "info": "_info"}
"""What is appended to a metric's name where it is exposed."""

Metric = tuple[str, str, tuple[str, ...]]
"""Its name as exposed, its type and its labels."""


class RememberingRegistry(CollectorRegistry):
    """Also knows the labels of metrics that have no values yet."""

    def __init__(self) -> None:
        super().__init__()
        self.collectors: list[Collector] = []

    def register(self, collector: Collector) -> None:
        super().register(collector)
        self.collectors.append(collector)


def registered_metrics() -> set[Metric]:
    """What the services expose, each with what every service does."""
    registries = []
    for own in (EmitterMetrics, RouterMetrics, ScannerMetrics, ScanWorkerMetrics, RecorderMetrics):
        registry = RememberingRegistry()
        own(registry)
        common = ServiceMetrics(registry, "service", "instance")
        common.watch_connection(
            cast("Connection", SimpleNamespace(is_connected=True, n_reconnects=0, n_permission_violations=0))
        )
        common.watch_tracing(cast("Tracing", SimpleNamespace(dropped_spans=lambda: 0)))
        registries.append(registry)
    exporter = RememberingRegistry()
    exporter.register(BrokerCollector(cast("Any", None)))
    registries.append(exporter)
    grpc = RememberingRegistry()
    TokenGate(cast("TokenFile", None), grpc)
    watched_certificate(CertificateFiles(Path("tls.crt"), Path("tls.key")), grpc)
    registries.append(grpc)
    return {
        metric
        for registry in registries
        for collector in registry.collectors
        for metric in _metrics(collector)
    }


def _metrics(collector: Collector) -> Iterator[Metric]:
    # What a collector of ours would ask elsewhere is described without asking; the others always have a value.
    describe: Callable[[], Iterable[Any]] = getattr(collector, "describe", collector.collect)
    for family in describe():
        labels = set(
            collector._labelnames if isinstance(collector, MetricWrapperBase) else family._labelnames
        )
        if family.type == "info":
            [sample] = next(iter(collector.collect())).samples
            labels |= set(sample.labels)
        yield f"{family.name}{SUFFIXES.get(family.type, '')}", family.type, tuple(sorted(labels))


def rows_of(section: str) -> list[list[str]]:
    """The cells of a section's tables, without their headings."""
    found = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"docs/telemetry.md has no section {section!r}"
    lines = [line for line in found[1].splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


METRIC_SECTIONS = (
    "Metrics of every service",
    "Metrics of gRPC services",
    "Metrics of the emitter",
    "Metrics of the router",
    "Metrics of the scanner",
    "Metrics of the scan worker",
    "Metrics of the recorder",
    "Metrics of NATS",
)


def declared_metrics(*sections: str) -> list[Metric]:
    """What the tables of these sections declare, of all by default."""
    rows = [row for section in sections or METRIC_SECTIONS for row in rows_of(section)]
    return [
        (_code(row[0])[0], row[1], tuple(sorted(_code(row[2])))) for row in rows if row[0].startswith("`")
    ]


def _code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_every_metric_is_declared_with_its_type_and_labels() -> None:
    assert registered_metrics() - set(declared_metrics()) == set()


def test_every_declared_metric_is_registered() -> None:
    assert set(declared_metrics()) - registered_metrics() == set()


def test_no_metric_is_declared_twice() -> None:
    names = [name for name, _, _ in declared_metrics()]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("section", METRIC_SECTIONS)
def test_every_declaration_is_complete(section: str) -> None:
    heading, *rows = rows_of(section)
    for row in rows:
        assert len(row) == len(heading), f"{row[0]}: {len(row)} cells, not {len(heading)}"
        assert all(row), f"{row[0]}: a cell is empty"


@pytest.mark.parametrize("section", METRIC_SECTIONS)
def test_a_unit_in_a_name_is_the_declared_unit(section: str) -> None:
    _, *rows = rows_of(section)
    for name, _, _, unit, *_ in rows:
        if "_seconds" in name:
            assert unit.split(",")[0] == "s", name
        assert ("_bytes" in name) == (unit == "bytes"), name


def test_every_header_is_declared_and_nothing_else() -> None:
    ours = {
        value
        for name, value in vars(deadletters).items()
        if name.isupper() and isinstance(value, str) and value.startswith("Icestream-")
    }
    declared = {_code(row[0])[0] for row in rows_of("Headers") if row[0].endswith("`")}
    assert len(ours) >= 8
    assert declared == ours | {MESSAGE_ID_HEADER, TRACEPARENT, REQUEST_SHA256}
