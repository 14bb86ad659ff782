"""Receives spans over OTLP, as a collector does, and keeps them for a test."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class SpanCollector(trace_service_pb2_grpc.TraceServiceServicer):
    """The spans received so far, each with its service."""

    def __init__(self) -> None:
        self.endpoint = ""
        self._spans: list[tuple[str, Span]] = []

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ARG002, N802 - as generated
        for resource_spans in request.resource_spans:
            attributes = resource_spans.resource.attributes
            service = next(each.value.string_value for each in attributes if each.key == "service.name")
            for scope_spans in resource_spans.scope_spans:
                self._spans += [(service, span) for span in scope_spans.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def spans(self, trace_id: str) -> list[Span]:
        """The spans of one trace, by its hexadecimal id, in the order of their start."""
        found = [span for _, span in self._spans if span.trace_id.hex() == trace_id]
        return sorted(found, key=lambda span: (span.start_time_unix_nano, -span.end_time_unix_nano))

    def services(self) -> set[str]:
        """Who sent spans."""
        return {service for service, _ in self._spans}

    def trace_ids(self) -> set[str]:
        """The hexadecimal ids of all traces."""
        return {span.trace_id.hex() for _, span in self._spans}


@contextmanager
def span_collector() -> Iterator[SpanCollector]:
    """Listen on a free port of loopback."""
    collector = SpanCollector()
    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(grace=None).wait()
