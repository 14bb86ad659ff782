"""Spans about requests to the model server, in one form for everyone who asks it."""

from collections.abc import Mapping, Sequence

from opentelemetry.trace import Span, SpanKind, Tracer

from icestream.runtime.tracing import end_span, links_to, parent_context


def start_infer_spans(
    tracer: Tracer, model: str, traceparents: Sequence[str], attributes: Mapping[str, str | int]
) -> list[Span]:
    """One span of the request for each trace that has a part in it.

    The first links to all others and they to it: links of each to each would be as many as the square of the batch,
    and with 32 events take longer than everything else that a router does.

    Args:
        tracer: Of whoever asks.
        model: Name of the model.
        traceparents: Of the traces; the spans' own take their place in the request.
        attributes: Of all spans, beside what any request has.
    """
    everywhere: dict[str, str | int] = {
        "rpc.system.name": "grpc",
        "rpc.method": "inference.GRPCInferenceService/ModelInfer",
        "icestream.model": model,
        **attributes,
    }
    return [
        tracer.start_span(
            f"infer {model}",
            context=parent_context(traceparent),
            kind=SpanKind.CLIENT,
            links=links_to(traceparents[:1] if number else traceparents[1:]),
            attributes=everywhere,
        )
        for number, traceparent in enumerate(traceparents)
    ]


def end_spans(spans: Sequence[Span], error: BaseException | None = None) -> None:
    """End all of them, with what went wrong, if anything did."""
    for span in spans:
        end_span(span, error)
