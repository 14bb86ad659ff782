from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icestream.errors import InvalidRealtimeMessage
from icestream.readers.realtime.cursor import Place
from icestream.readers.realtime.frames import FrameObject
from icestream.readers.realtime.pulse_series import PulseSeries
from icestream.readers.realtime.superdst import read_super_dst
from tests.unit.readers.realtime.realtime_messages import ArchiveWriter, Pulse, Readout, size, super_dst


def unpack(archive: bytes) -> PulseSeries:
    return read_super_dst(FrameObject("I3SuperDST", "I3SuperDST", Place("test"), archive, 0, len(archive)))


def one_module(*pulses: Pulse) -> PulseSeries:
    return unpack(super_dst([((1, 1), pulses)]))


keys = st.tuples(st.integers(0, 127), st.integers(1, 64))


@st.composite
def readouts(draw: st.DrawFn) -> list[Readout]:
    """Pulses of modules in any order, their times up to far beyond what one word holds."""
    drawn: list[Readout] = []
    for key in draw(st.lists(keys, unique=True, max_size=12)):
        steps = draw(st.lists(st.integers(1, 200_000), min_size=1, max_size=1 if key[1] > 60 else 8))
        is_hlc = draw(st.booleans())
        charges = st.integers(0, 2**14 - 1 if key[1] > 60 else 150_000)
        pulses = [
            Pulse(int(time_ns) - 512, draw(charges), draw(st.integers(0, 15)), is_hlc)
            for time_ns in np.cumsum(steps)
        ]
        drawn.append((key, pulses))
    return drawn


@given(readouts())
def test_what_is_packed_is_unpacked(packed: Sequence[Readout]) -> None:
    found = unpack(super_dst(packed))
    modules = sorted(packed, key=lambda readout: readout[0])
    expected = [pulse for _, pulses in modules for pulse in pulses]
    assert list(zip(found.string.tolist(), found.om.tolist(), strict=True)) == [key for key, _ in modules]
    assert found.n_pulses.tolist() == [len(pulses) for _, pulses in modules]
    assert found.time_ns.tolist() == [pulse.time_ns for pulse in expected]
    assert (found.flags & 1).tolist() == [pulse.is_hlc for pulse in expected]
    is_on_top = np.repeat(found.om > 60, found.n_pulses)
    codes = np.array([pulse.charge_code for pulse in expected], np.int64)
    charges_pe = np.where(is_on_top, 10 ** (codes * 9 / (2**14 - 1) - 2), codes * 0.05 + 0.025)
    assert found.charge_pe == pytest.approx(charges_pe, rel=1e-6)
    gaps_ns = np.append(np.diff(found.time_ns), np.inf)
    gaps_ns[np.cumsum(found.n_pulses) - 1] = np.inf
    widths_ns = np.minimum([2.0**pulse.width_exponent for pulse in expected], gaps_ns)
    assert found.width_ns.tolist() == widths_ns.tolist()


@pytest.mark.parametrize("time_ns", [-512, 1534, 1535, 1536, 67069, 67070, 67071, 10**7])
def test_first_times_go_on_in_further_words(time_ns: int) -> None:
    """At 2047 = 0x7ff after -512 ns the first, at 65535 more the second."""
    assert one_module(Pulse(time_ns), Pulse(time_ns + 5)).time_ns.tolist() == [time_ns, time_ns + 5]


@pytest.mark.parametrize("step_ns", [254, 255, 256, 65_789, 65_790, 65_791, 200_000])
def test_later_times_go_on_in_further_words(step_ns: int) -> None:
    found = one_module(Pulse(0), Pulse(step_ns), Pulse(step_ns + 254))
    assert found.time_ns.tolist() == [0, step_ns, step_ns + 254]


@pytest.mark.parametrize("code", [0, 62, 63, 64, 65_597, 65_598, 65_599, 10**6])
def test_charges_go_on_in_further_words(code: int) -> None:
    found = one_module(Pulse(0, code), Pulse(300, 7))
    assert found.charge_pe == pytest.approx([code * 0.05 + 0.025, 0.375], rel=1e-6)


def test_readouts_of_one_module_are_put_together() -> None:
    found = unpack(
        super_dst(
            [
                ((1, 1), [Pulse(100), Pulse(8000)]),
                ((1, 1), [Pulse(7000, is_hlc=False)]),
                ((1, 2), [Pulse(200)]),
            ]
        )
    )
    assert found.n_pulses.tolist() == [3, 1]
    assert found.time_ns.tolist() == [100, 7000, 8000, 200]
    assert found.flags.tolist() == [7, 4, 7, 7]


@pytest.mark.parametrize(
    ("times_ns", "exponents", "shared_times_ns", "widths_ns"),
    [
        pytest.param([0, 5], [3, 3], [0, 5], [5, 8], id="overlap"),
        pytest.param([0, 100], [3, 3], [0, 100], [8, 8], id="apart"),
        pytest.param([0, 0], [3, 4], [0, 8], [8, 8], id="two at once"),
        pytest.param([0, 0, 40], [3, 4, 2], [0, 8, 40], [8, 8, 4], id="first two at once"),
        pytest.param([0, 10, 10, 60], [5, 3, 4, 1], [0, 5, 10, 60], [5, 5, 16, 2], id="later two at once"),
        pytest.param([0, 10, 10], [2, 3, 4], [0, 2, 10], [2, 2, 16], id="last two at once"),
        pytest.param(
            [0, 0, 0, 30], [3, 3, 3, 3], [0, 0, 0, 30], [0, 0, 8, 8], id="three at once, as IceTray has it"
        ),
    ],
)
def test_pulses_of_a_module_do_not_overlap(
    times_ns: list[int], exponents: list[int], shared_times_ns: list[float], widths_ns: list[float]
) -> None:
    found = one_module(*(Pulse(t, width_exponent=e) for t, e in zip(times_ns, exponents, strict=True)))
    assert found.width_ns.tolist() == widths_ns
    assert found.time_ns.tolist() == shared_times_ns


def test_an_archive_without_pulses_is_read() -> None:
    assert len(unpack(super_dst([]))) == 0


def archive(stamps: bytes, headers: bytes, *rest: bytes, version: int = 1) -> bytes:
    writer = ArchiveWriter("I3SuperDST", version).enter("stamps").enter("size")
    writer.raw(size(len(stamps) // 2) + stamps).enter("headers").raw(size(len(headers) // 2) + headers)
    return writer.enter("widths").raw(b"".join(size(len(each)) + each for each in rest)).content


LAST_SLC = b"\x05\x80"
NO_WIDTHS = (b"", b"", b"", b"", b"")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param(archive(b"\5\0", b"\1\0", *NO_WIDTHS), "end within a readout", id="no last stamp"),
        pytest.param(archive(b"", b"\1\0", *NO_WIDTHS), "end within a readout", id="no stamp"),
        pytest.param(
            archive(b"\xff\x80", b"\1\xe0", *NO_WIDTHS), "end within a readout", id="no further word"
        ),
        pytest.param(archive(LAST_SLC, b"", *NO_WIDTHS), "1 charge stamps belong to no", id="no header"),
        pytest.param(
            archive(LAST_SLC, b"\1\0", *NO_WIDTHS), "0 widths; expected one for each of 1", id="no width"
        ),
        pytest.param(
            archive(LAST_SLC, b"\1\0", b"\x23", b"", b"", b"", b""),
            "2 widths; expected one",
            id="many widths",
        ),
        pytest.param(
            archive(LAST_SLC, b"\1\0", b"\xf3" * 5000, b"", b"", b"", b""),
            "longer than any",
            id="endless run",
        ),
        pytest.param(
            archive(LAST_SLC, b"\1\0", b"\x13", b"", b"", b"", b"\0"),
            "1 extra bytes; expected one",
            id="extra byte",
        ),
        pytest.param(
            archive(LAST_SLC, b"\x7f\0", b"", b"", b"\x13", b"", b""), "0 extra bytes", id="no extra byte"
        ),
        pytest.param(
            archive(b"", b"", *NO_WIDTHS, version=0), "version 0; only 1 is known", id="old version"
        ),
        pytest.param(
            archive(b"", b"", *NO_WIDTHS, version=2), "version 2; at most 1 is known", id="new version"
        ),
        pytest.param(
            archive(b"", b"", *NO_WIDTHS, b"\7"), "2 bytes are left behind the last value", id="more"
        ),
        pytest.param(
            ArchiveWriter("I3SuperDST", 1).enter("a").enter("b").raw(size(10**10)).content,
            "10000000000 charge stamps; at most 500000 are read",
            id="ten billion stamps",
        ),
        pytest.param(
            ArchiveWriter("I3SuperDST", 1).enter("a").enter("b").raw(size(400_000)).content,
            "charge stamps takes 800000 bytes, but 0 are left",
            id="more stamps than bytes",
        ),
    ],
)
def test_a_damaged_archive_is_refused(content: bytes, problem: str) -> None:
    with pytest.raises(InvalidRealtimeMessage, match=problem):
        unpack(content)
