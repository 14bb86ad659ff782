"""Traces as tables for people."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from icestream.cli.trace_store import Trace
from icestream.cli.trace_tree import Gap, Node

_BAR = 20
_OURS = "icestream-"

BRANCH, LAST, PASS, NOTHING = "├─ ", "└─ ", "│  ", "   "


def trace_table(trace: Trace, roots: Sequence[Node]) -> RenderableType:
    """The tree, a line for each span, with a bar of when it was."""
    # In a narrow terminal names lose their ends; times, and what went wrong, stay whole.
    whole = (
        Column("service", no_wrap=True),
        *(Column(title, justify="right", no_wrap=True) for title in ("start", "time")),
        Column("", no_wrap=True, width=_BAR),
    )
    table = Table("span", *whole, box=None, padding=(0, 1, 0, 0))
    scale = _Scale(trace.start_us, max(trace.duration_us, 1))
    for row in _rows_of(roots, scale):
        table.add_row(*row)
    return Group(Text(_title(trace), "bold"), table)


@dataclass(frozen=True, slots=True)
class _Scale:
    """Where a time is on the bar."""

    start_us: int
    duration_us: int

    def bar(self, start_us: int, end_us: int, style: str) -> Text:
        """A span's place; at least one character, so that it is seen. Nothing where it lies outside."""
        first, end = (int(_BAR * self._share(time_us)) for time_us in (start_us, end_us))
        if end_us < self.start_us or start_us > self.start_us + self.duration_us:
            return Text()
        first = min(first, _BAR - 1)
        return Text(" " * first) + Text("━" * max(end - first, 1), style)

    def _share(self, time_us: int) -> float:
        return min(max((time_us - self.start_us) / self.duration_us, 0.0), 1.0)


_Row = tuple[Text, Text, str, str, Text]


def _rows_of(roots: Sequence[Node], scale: _Scale) -> Iterator[_Row]:
    for root in roots:
        yield from _rows(root, "", "", scale)


def _rows(node: Node, before_it: str, before_others: str, scale: _Scale) -> Iterator[_Row]:
    span = node.span
    failed = span.error is not None
    name = Text(before_it, "dim", no_wrap=True, overflow="ellipsis") + Text(
        span.name, "red" if failed else ""
    )
    for note in _notes(node):
        name += Text(f" ({note})", "dim")
    yield (
        name,
        Text(span.service.removeprefix(_OURS)),
        f"+{milliseconds(span.start_us - scale.start_us)}",
        milliseconds(span.duration_us),
        scale.bar(span.start_us, span.end_us, "red" if failed else "cyan"),
    )
    below = (*node.parts, *node.linked)
    if span.error is not None:
        margin = before_others + (PASS if below else NOTHING)
        yield Text(margin, "dim") + Text(span.error, "red"), Text(), "", "", Text()
    for number, part in enumerate(below):
        is_last = number == len(below) - 1
        branch, margin = (LAST, NOTHING) if is_last else (BRANCH, PASS)
        if isinstance(part, Gap):
            yield _gap_row(part, before_others + branch, scale)
        else:
            yield from _rows(part, before_others + branch, before_others + margin, scale)


def _gap_row(gap: Gap, before_it: str, scale: _Scale) -> _Row:
    return (
        Text(f"{before_it}(no span)", "dim"),
        Text(),
        f"+{milliseconds(gap.start_us - scale.start_us)}",
        milliseconds(gap.end_us - gap.start_us),
        Text(),
    )


def _notes(node: Node) -> Iterator[str]:
    if node.is_cut_off:
        yield "its parent is not stored"
    for what in ("events", "fits"):
        if (n_shared := int(node.span.attributes.get(f"icestream.batch.{what}", 1))) > 1:
            yield f"{n_shared} {what}"
    if node.linked:
        yield f"below it: what trace {node.linked[0].span.trace_id} has of the same batch"


def _title(trace: Trace) -> str:
    started = datetime.fromtimestamp(trace.start_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")
    n_failed = sum(span.error is not None for span in trace.spans)
    parts = [
        f"trace {trace.trace_id}",
        f"{started} UTC",
        milliseconds(trace.duration_us),
        f"{len(trace.spans)} spans",
        *([f"{n_failed} with an error"] if n_failed else []),
    ]
    return ", ".join(parts)


def milliseconds(time_us: int) -> str:
    """A time in ms with two digits after the point; long ones in s."""
    return f"{time_us / 1e6:.2f} s" if abs(time_us) >= 10_000_000 else f"{time_us / 1e3:.2f} ms"
