from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from icestream.errors import ModelOverloaded
from icestream.runtime.model_spans import end_spans, start_infer_spans

N_TRACES = 32
PARENTS = [f"00-{number + 1:032x}-{number + 1:016x}-01" for number in range(N_TRACES)]


def spans_of(traceparents: list[str], error: Exception | None = None) -> list[ReadableSpan]:
    """The finished spans of a request, in the order of its traces."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    end_spans(start_infer_spans(tracer, "direction", traceparents, {"icestream.batch.events": 40}), error)
    return list(exporter.get_finished_spans())


def links_of(span: ReadableSpan) -> list[int]:
    """Numbers of the traces that a span links to."""
    return [link.context.trace_id for link in span.links]


def test_every_trace_has_a_span_of_the_request_below_its_own() -> None:
    spans = spans_of(PARENTS)
    assert [span.parent.span_id for span in spans if span.parent] == [*range(1, N_TRACES + 1)]
    assert {span.name for span in spans} == {"infer direction"}
    assert {(span.attributes or {})["icestream.batch.events"] for span in spans} == {40}


def test_the_first_of_a_batch_links_to_all_others_and_they_to_it() -> None:
    first, *others = spans_of(PARENTS)
    assert links_of(first) == [*range(2, N_TRACES + 1)]
    assert all(links_of(other) == [1] for other in others)


def test_an_event_that_is_traced_alone_has_no_links() -> None:
    [span] = spans_of(PARENTS[:1])
    assert not span.links


def test_a_failure_is_in_every_trace() -> None:
    spans = spans_of(PARENTS, ModelOverloaded("the queue is full"))
    assert {(span.attributes or {})["error.type"] for span in spans} == {"model_overloaded"}


def test_without_a_trace_there_is_no_span() -> None:
    assert spans_of([]) == []
