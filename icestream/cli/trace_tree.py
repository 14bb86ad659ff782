"""A trace as a tree: who called whom, where time is that nobody accounts for, and what links lead to."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from icestream.cli.trace_store import Span, Trace

_SMALLEST_GAP = 0.05
"""Share of the trace's duration; a shorter one is not worth a line."""

FindTrace = Callable[[str], Trace | None]
"""A trace by its id; None where it is not stored."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Time between spans in which no span says what happened."""

    start_us: int
    end_us: int


@dataclass(frozen=True, slots=True)
class Node:
    """A span and what is below it."""

    span: Span
    is_cut_off: bool = False
    """Its parent is not stored, so that nothing says where it belongs."""
    parts: tuple["Node | Gap", ...] = ()
    """Spans below it and gaps between them, in the order of their start."""
    linked: tuple["Node", ...] = field(default=())
    """Spans of another trace that are about this one, too: a batch is recorded in one of its traces only."""


def tree_of(trace: Trace, find_trace: FindTrace) -> tuple[Node, ...]:
    """The spans that no other is above, each with all below it.

    Args:
        trace: What to arrange.
        find_trace: Asked about links of calls whose other side is not in the trace.
    """
    known = {span.span_id for span in trace.spans}
    children = _children(trace.spans)
    smallest_us = _SMALLEST_GAP * trace.duration_us

    def node(span: Span) -> Node:
        below = children[span.span_id]
        return Node(
            span=span,
            is_cut_off=span.parent_id is not None and span.parent_id not in known,
            parts=tuple(
                node(part) if isinstance(part, Span) else part
                for part in _with_gaps(span, below, smallest_us)
            ),
            linked=() if below or not span.is_call else _other_side(span, find_trace),
        )

    return tuple(node(span) for span in trace.spans if span.parent_id is None or span.parent_id not in known)


def _children(spans: Sequence[Span]) -> defaultdict[str, list[Span]]:
    children = defaultdict[str, list[Span]](list)
    for span in spans:
        if span.parent_id is not None:
            children[span.parent_id].append(span)
    return children


def _with_gaps(span: Span, below: Sequence[Span], smallest_us: float) -> list[Span | Gap]:
    """Children by their start, and between them what neither they nor the span's own end account for."""
    within = [child for child in below if child.start_us < span.end_us]
    parts: list[Span | Gap] = []
    # A span without children inside it is itself the account of its time; what follows it waited in a stream.
    reached_us = span.start_us if within else span.end_us

    def skip_to(until_us: int) -> None:
        if until_us - reached_us >= max(smallest_us, 1):
            parts.append(Gap(reached_us, until_us))

    for child in below:
        if child.start_us >= span.end_us > reached_us:
            skip_to(span.end_us)
            reached_us = span.end_us
        skip_to(child.start_us)
        parts.append(child)
        reached_us = max(reached_us, child.end_us)
    skip_to(span.end_us)
    return parts


def _other_side(call: Span, find_trace: FindTrace) -> tuple[Node, ...]:
    """What the first linked trace that has it says of the same call."""
    for trace_id in dict.fromkeys(link.trace_id for link in call.links):
        trace = find_trace(trace_id)
        if trace is None:
            continue
        linked = {link.span_id for link in call.links}
        children = _children(trace.spans)
        for twin in trace.spans:
            is_twin = (twin.service, twin.name) == (call.service, call.name)
            if is_twin and (twin.parent_id in linked or twin.span_id in linked) and children[twin.span_id]:
                found = Trace((twin, *_below(twin, children)))
                [root] = tree_of(found, lambda _: None)
                return tuple(part for part in root.parts if isinstance(part, Node))
    return ()


def _below(span: Span, children: defaultdict[str, list[Span]]) -> list[Span]:
    return [each for child in children[span.span_id] for each in (child, *_below(child, children))]
