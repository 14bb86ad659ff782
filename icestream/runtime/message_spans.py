"""Spans about single messages, in one form for everyone who publishes or consumes.

Source: OpenTelemetry semantic conventions 1.44, messaging.
"""

from collections.abc import Mapping

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Tracer

from icestream.runtime.jetstream.publisher import MESSAGE_ID_HEADER
from icestream.runtime.tracing import TRACEPARENT, is_sampled, parent_context


def start_publish_span(
    tracer: Tracer, parent: Context | None, subject: str, message_id: str, *, name: str = ""
) -> Span:
    """The span of publishing one message, until the broker has stored it.

    Args:
        tracer: Of the publisher.
        parent: Whose child it is; an empty context begins a trace.
        subject: Where the message goes.
        message_id: Its `Nats-Msg-Id`.
        name: Of the span, where a subject would make too many different ones.
    """
    return tracer.start_span(
        name or f"publish {subject}",
        context=parent,
        kind=SpanKind.PRODUCER,
        attributes=_attributes("publish", "send", subject, message_id),
    )


def start_process_span(
    tracer: Tracer, headers: Mapping[str, str] | None, subject: str, *, name: str = ""
) -> Span | None:
    """The span of consuming one message, child of its publisher's; None where the message is not sampled.

    Args:
        tracer: Of the consumer.
        headers: Of the message.
        subject: Where it came from.
        name: Of the span, where a subject would make too many different ones.
    """
    traceparent = headers.get(TRACEPARENT) if headers else None
    if headers is None or not is_sampled(traceparent):
        return None
    return tracer.start_span(
        name or f"process {subject}",
        context=parent_context(traceparent),
        kind=SpanKind.CONSUMER,
        attributes=_attributes("process", "process", subject, headers.get(MESSAGE_ID_HEADER, "")),
    )


def _attributes(operation: str, kind: str, destination: str, message_id: str) -> dict[str, str]:
    return {
        "messaging.system": "nats",
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
        "messaging.destination.name": destination,
        "messaging.message.id": message_id,
    }
