import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from icestream.runtime.tracing import (
    URGENT,
    is_sampled,
    links_to,
    parent_context,
    span_context,
    traceparent_of,
    tracing,
)

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE_ID}-{SPAN_ID}-01"
UNSAMPLED = f"00-{TRACE_ID}-{SPAN_ID}-00"
WELL_FORMED = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")

MALFORMED = [
    "",
    "nonsense",
    "00",
    "00-",
    f"00-{TRACE_ID}",
    f"00-{TRACE_ID}-{SPAN_ID}",
    f"00-{'0' * 32}-{SPAN_ID}-01",
    f"00-{TRACE_ID}-{'0' * 16}-01",
    f"00-{TRACE_ID}-{'x' * 16}-01",
    f"00-{TRACE_ID * 2}-{SPAN_ID}-01",
    f"00-{TRACE_ID}-{SPAN_ID * 2}-01",
]
ALMOST_WELL_FORMED = [
    "00-1-1-1",
    f"00-{TRACE_ID[:-1]}-{SPAN_ID}-01",
    f"00- {TRACE_ID[1:]}-{SPAN_ID}-01",
    f"00-0x{TRACE_ID[2:]}-{SPAN_ID}-01",
    f"00-{TRACE_ID[:15]}_{TRACE_ID[16:]}-{SPAN_ID}-01",
    f"00-{TRACE_ID}-{SPAN_ID}-fff",
    f"ff-{TRACE_ID}-{SPAN_ID}-01",
    f"00-{TRACE_ID.upper()}-{SPAN_ID}-01",
]


@pytest.mark.parametrize(
    ("traceparent", "expected"),
    [
        (SAMPLED, True),
        (UNSAMPLED, False),
        (SAMPLED[:-1] + "3", True),
        (SAMPLED[:-1] + "f", True),
        (SAMPLED[:-1] + "2", False),
        (None, False),
        ("", False),
        ("1", False),
        (SAMPLED[:-1], False),
        (SAMPLED + "1", False),
    ],
)
def test_the_last_digit_says_whether_an_event_is_sampled(traceparent: str | None, expected: bool) -> None:
    assert is_sampled(traceparent) is expected


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.integers(0, 255))
def test_a_span_survives_its_header(trace_id: int, span_id: int, flags: int) -> None:
    original = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
    header = traceparent_of(NonRecordingSpan(original))
    assert WELL_FORMED.fullmatch(header)
    assert span_context(header) == original
    assert is_sampled(header) is bool(flags & 1)


@pytest.mark.parametrize("traceparent", MALFORMED)
def test_a_malformed_header_names_no_span(traceparent: str) -> None:
    assert span_context(traceparent) is None
    assert parent_context(traceparent) is None


@pytest.mark.parametrize("traceparent", ALMOST_WELL_FORMED)
def test_an_almost_well_formed_header_names_no_span(traceparent: str) -> None:
    assert span_context(traceparent) is None


@given(st.text() | st.text("0123456789abcdef-", min_size=40, max_size=60))
def test_any_text_is_a_span_or_none_and_raises_nothing(text: str) -> None:
    is_sampled(text)
    context = span_context(text)
    assert context is None or context.is_valid
    assert (parent_context(text) is None) == (context is None)


def test_a_parent_is_the_span_that_the_header_names() -> None:
    assert parent_context(None) is None
    context = parent_context(SAMPLED)
    assert context is not None
    assert traceparent_of(trace.get_current_span(context)) == SAMPLED


def test_links_leave_out_what_is_malformed() -> None:
    links = links_to([SAMPLED, "nonsense", UNSAMPLED])
    assert [link.context.trace_flags for link in links] == [1, 0]


def test_without_an_endpoint_nothing_is_traced() -> None:
    with tracing("service", "instance", None, ratio=1.0) as traces:
        span = traces.tracer.start_span("anything")
        assert not span.is_recording()
        assert not is_sampled(traceparent_of(span))
        span.end()
        assert traces.dropped_spans() == 0


@pytest.mark.parametrize(
    ("attributes", "is_recorded"), [({}, False), ({URGENT: False}, False), ({URGENT: True}, True)]
)
def test_a_trace_that_begins_as_urgent_is_sampled_whatever_the_share(
    attributes: dict[str, bool], is_recorded: bool
) -> None:
    # Nobody listens there, and nobody needs to.
    with tracing("service", "instance", "http://127.0.0.1:9", ratio=0.0) as traces:
        span = traces.tracer.start_span("work", attributes=attributes)
        child = traces.tracer.start_span("part", context=trace.set_span_in_context(span))
        assert (span.is_recording(), child.is_recording()) == (is_recorded, is_recorded)
        unsampled = traces.tracer.start_span("work", context=parent_context(UNSAMPLED), attributes=attributes)
        assert not unsampled.is_recording()
