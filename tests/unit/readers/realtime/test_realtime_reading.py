import json
import pickle
import struct
from dataclasses import replace
from typing import Any

import pytest

from icestream.errors import InvalidEvent, InvalidRealtimeMessage
from icestream.physics.directions import unit_vectors
from icestream.physics.events import EventId, check_event
from icestream.readers.realtime import RealtimeEvent, list_contents, realtime_event_from_bytes
from tests.unit.readers.realtime.realtime_messages import (
    READOUTS,
    ArchiveWriter,
    Message,
    Pulse,
    boolean,
    document,
    double,
    frame,
    header,
    mask,
    packed,
    particle,
    pickled_frame_of_python2,
    position,
    pulse_map,
    string,
    super_dst,
    text,
    time_window,
    whole_mask,
)

SERIES = "SplitUncleanedInIcePulses"
MASK = "I3RecoPulseSeriesMapMask"


def read(message: Message) -> RealtimeEvent:
    return realtime_event_from_bytes(message.as_json(), source="test")


def refusal(message: Message) -> InvalidRealtimeMessage:
    with pytest.raises(InvalidRealtimeMessage) as caught:
        read(message)
    return caught.value


def assert_is_default(event: RealtimeEvent) -> None:
    pulses = event.event.pulses
    check_event(event.event, 5160)
    assert event.event.id == EventId(123456, 789, 0)
    assert pulses.sensor_id.tolist() == [0, 5159, 0, 0, 89, 89]
    assert pulses.time_ns.tolist() == [1000, 1005, 1010, 1300, 5000, 5600]
    assert pulses.charge_pe.tolist() == pytest.approx([1.025, 1.025, 5.025, 1.025, 3.125, 1.025])
    assert pulses.is_hlc.tolist() == [True, False, True, True, True, True]
    assert event.width_ns.tolist() == [8, 8, 8, 8, 8, 512]
    assert event.icetray_flags.tolist() == [7, 4, 7, 7, 7, 7]


# What a well-formed message says.


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(Message().as_json(), id="JSON"),
        pytest.param(b" \n" + Message().as_json(), id="JSON with space"),
        *[pytest.param(Message().as_pickle(n), id=f"pickle protocol {n}") for n in (2, 3, 4, 5)],
    ],
)
def test_documents_are_read(data: bytes) -> None:
    event = realtime_event_from_bytes(data, source="somewhere")
    assert_is_default(event)
    assert event.source == "somewhere"


def test_frames_that_python_2_pickled_are_read() -> None:
    frames = [
        [name, packed(pickled_frame_of_python2(frame(name, objects)))]
        for name, objects in Message().objects.items()
    ]
    data = json.dumps(document(frames)).encode()
    assert_is_default(realtime_event_from_bytes(data, source="test"))


def test_frames_that_are_pickled_as_bytes_are_read() -> None:
    frames = [
        [name, packed(pickle.dumps([frame(name, objects)], protocol=4))]
        for name, objects in Message().objects.items()
    ]
    data = json.dumps(document(frames)).encode()
    assert_is_default(realtime_event_from_bytes(data, source="test"))


def test_an_event_has_the_types_of_all_others() -> None:
    event = read(Message())
    pulses = event.event.pulses
    columns = (pulses.sensor_id, pulses.time_ns, pulses.charge_pe, pulses.flags, event.width_ns)
    assert [column.dtype.name for column in columns] == ["uint16", "float64", "float32", "uint8", "float32"]
    assert event.event.truth is None
    assert event.event.detector == "icecube86"


def test_the_time_is_that_of_the_event_and_the_readouts_is_kept() -> None:
    event = read(Message())
    # 1000 s into 2022.
    assert event.event.start_unix_ns == 1_640_995_200 * 10**9 + 1000 * 10**9
    assert event.readout_start_unix_ns == event.event.start_unix_ns - 6000
    assert event.mjd == 59580 + 1000 / 86400


def test_a_message_without_a_readouts_header_is_read() -> None:
    assert read(Message().with_objects("Q", QI3EventHeader=None)).readout_start_unix_ns is None


@pytest.mark.parametrize(
    ("version", "series", "track"),
    [
        (None, SERIES, "OnlineL2_SplineMPE"),
        ("2021a", SERIES, "OnlineL2_SplineMPE"),
        ("2023a", "SplitInIcePulses", "l2_online_SplineMPE"),
        ("2024a", "SplitInIcePulses", "l2_online_SplineMPE"),
    ],
)
def test_the_format_version_says_which_pulses_and_track_are_meant(
    version: str | None, series: str, track: str
) -> None:
    first_pulse_only = mask("InIceDSTPulses", [[True, False, False], None, None])
    both = {SERIES: first_pulse_only, "SplitInIcePulses": first_pulse_only}
    both[series] = whole_mask("InIceDSTPulses")
    message = replace(
        Message().with_objects(
            "P",
            **{name: (MASK, archive) for name, archive in both.items()},
            OnlineL2_SplineMPE=("I3Particle", particle()),
            l2_online_SplineMPE=("I3Particle", particle()),
            HESE_SPEFit2=("I3Particle", particle()),
        ),
        version=version,
    )
    event = read(message)
    assert_is_default(event)
    assert (event.series, event.format_version) == (series, version)
    assert event.online_track is not None
    assert event.online_track.name == track


def test_events_without_the_best_track_have_another_or_none() -> None:
    without = Message().with_objects("P", OnlineL2_SplineMPE=None)
    assert read(without).online_track is None
    track = read(without.with_objects("P", HESE_SPEFit2=("I3Particle", particle()))).online_track
    assert track is not None
    assert track.name == "HESE_SPEFit2"


@pytest.mark.parametrize(
    ("objects", "event_type"),
    [
        ({"AlertShortFollowupMsg": {"neutrino": 1, "nch": 3}}, "neutrino"),
        ({"AlertShortFollowupMsg": {"neutrino": 1, "hese": 1}}, "HESE"),
        ({"AlertShortFollowupMsg": {"estres": 1, "ehe": 1}}, "EHE"),
        ({"AlertShortFollowupMsg": {"estres": 1}}, "ESTRES"),
        ({"AlertShortFollowupMsg": {"nch": 3}, "HESE_llhratio": 1.0}, None),
        ({"HESE_llhratio": 1.0, "Estres_p_miss": 1.0}, "HESE"),
        ({"Estres_p_miss": 1.0, "PoleEHEOphelia_ImpLF": 1.0}, "ESTRES"),
        ({"PoleEHEOphelia_ImpLF": 1.0}, "EHE"),
        ({}, None),
    ],
)
def test_the_type_of_an_event_is_that_of_skymap_scanner(
    objects: dict[str, Any], event_type: str | None
) -> None:
    stored = {
        key: ("I3Double", double(value))
        if isinstance(value, float)
        else ("I3String", string(json.dumps(value)))
        for key, value in objects.items()
    }
    event = read(Message().with_objects("P", **stored))
    assert event.event_type == event_type
    assert event.event.alert_type == (event_type or "")


@pytest.mark.parametrize(
    ("run_id", "is_real"), [(99_999, False), (100_000, True), (999_999, True), (0, False)]
)
def test_real_events_are_told_by_their_runs(run_id: int, is_real: bool) -> None:
    event = read(Message().with_objects("P", I3EventHeader=("I3EventHeader", header(run_id))))
    assert event.event.is_real == is_real


def test_online_reconstructions_are_references_with_their_origin() -> None:
    event = read(
        replace(
            Message().with_objects("P", Fit=("I3Particle", particle(0.5, 6.0, energy_gev=1e4))),
            figures={"reco": {"spefit2": {"zen": 0.25, "azi": 3.0, "llh": 17.5}, "energy": {"muex": 100.0}}},
        )
    )
    first, second, third = event.reconstructions
    assert (first.name, first.origin, first.energy_gev) == ("OnlineL2_SplineMPE", "P", None)
    assert (second.zenith_rad, second.azimuth_rad, second.energy_gev) == (0.5, 6.0, 1e4)
    assert (second.position_m, second.time_ns) == ((1.5, -2.5, 3.5), 1234.5)
    assert (second.shape, second.fit_status) == ("InfiniteTrack", "OK")
    assert second.direction.tolist() == unit_vectors(6.0, 0.5).tolist()
    assert (third.name, third.origin, third.zenith_rad, third.azimuth_rad) == ("spefit2", "alert", 0.25, 3.0)
    assert third.position_m is None
    assert event.event.truth is None


def test_the_stored_vertex_needs_both_of_its_parts() -> None:
    with_position = Message().with_objects("P", HESE_VHESelfVetoVertexPos=("I3Position", position(1, 2, 3)))
    assert read(with_position).vertex is None
    vertex = read(
        with_position.with_objects("P", HESE_VHESelfVetoVertexTime=("I3Double", double(9.5)))
    ).vertex
    assert vertex is not None
    assert (vertex.position_m, vertex.time_ns) == ((1, 2, 3), 9.5)


def test_the_alerts_figures_are_read() -> None:
    figures = {
        "unique_id": "run00123456.evt000000000789",
        "run_id": 123456,
        "event_id": 789,
        "eventtime": "2022-01-01 00:16:40",
        "nch": 3,
        "npulses": 6,
        "qtot": 12,
        "it_trig": False,
        "reco": {"energy": {"muex": 1e4, "truncated": None}},
        "neutrino": {"bdt_up": 0.5, "bdt_down": None},
    }
    alert = read(replace(Message(), figures=figures)).alert
    assert alert is not None
    assert (alert.unique_id, alert.event_time) == ("run00123456.evt000000000789", "2022-01-01 00:16:40")
    assert (alert.n_channels, alert.n_pulses, alert.charge_pe) == (3, 6, 12.0)
    assert alert.is_icetop_triggered is False
    assert alert.energies_gev == {"muex": 1e4}
    assert alert.scores == {"bdt_up": 0.5}


def test_messages_with_frames_only_have_no_alert() -> None:
    assert read(replace(Message(), version=None)).alert is None


def test_pulses_that_are_stored_whole_are_read() -> None:
    event = read(Message().with_objects("P", **{SERIES: ("I3RecoPulseSeriesMap", pulse_map())}))
    assert_is_default(event)


def test_a_mask_chooses_pulses() -> None:
    chosen = mask("InIceDSTPulses", [[True, False, True], None, [True]])
    pulses = read(Message().with_objects("P", **{SERIES: (MASK, chosen)})).event.pulses
    assert list(zip(pulses.sensor_id.tolist(), pulses.time_ns.tolist(), strict=True)) == [
        (0, 1000),
        (5159, 1005),
        (0, 1300),
    ]


def test_a_mask_may_mean_a_module_without_any_pulse() -> None:
    chosen = mask("InIceDSTPulses", [[False, False, False], [True, True], None])
    assert len(read(Message().with_objects("P", **{SERIES: (MASK, chosen)})).event.pulses) == 2


def test_later_frames_hide_objects_of_earlier_ones() -> None:
    readouts = [((5, 5), [Pulse(2000)])]
    event = read(
        Message().with_objects(
            "P",
            InIceDSTPulses=("I3RecoPulseSeriesMap", pulse_map(readouts)),
            **{SERIES: (MASK, whole_mask("InIceDSTPulses", readouts))},
        )
    )
    assert event.event.pulses.sensor_id.tolist() == [4 * 60 + 4]


def test_everything_is_listed_with_a_value_where_the_class_is_known() -> None:
    windows = ArchiveWriter("I3TimeWindowSeriesMap").enter("map").put("I", 1).enter("pair")
    windows.enter("OMKey", 2, is_tracked=True).put("iIB", 26, 10, 0)
    windows.enter("series", 1, is_tracked=True).enter("I3FrameObject").enter("list").put("I", 1)
    windows.enter("I3TimeWindow", 1, is_tracked=True).enter("I3FrameObject").put("2d", 10.0, 25.5)
    objects = {
        "Bool": ("I3PODHolder<bool>", boolean(1)),
        "Int": ("I3PODHolder<int>", ArchiveWriter("I3Int").put("i", -5).content),
        "Text": ("I3PODHolder<string>", string("two\n lines\x1b[31m" + "." * 200)),
        "Window": ("I3TimeWindow", time_window(-5, 1e4)),
        "Windows": ("I3Map<OMKey, I3TimeWindowSeries>", windows.content),
        "Position": ("I3Position", position(1, 2, 3)),
        "Fit": ("I3Particle", particle(energy_gev=1e5)),
        "Params": ("X", ArchiveWriter("I3LineFitParams", 1).put("4di", 0.25, 1, float("nan"), 3, 17).content),
        "Whole": ("I3RecoPulseSeriesMap", pulse_map()),
        "Diff": ("X", ArchiveWriter("I3GeometryDiff").raw(text("gcd.i3") + b"more").content),
        "Other": ("I3PortiaEvent", ArchiveWriter("I3PortiaEvent").put("d", 1).content),
        "Newer": ("I3TimeWindow", ArchiveWriter("I3TimeWindow", 2).put("2d", 1, 2).content),
        "Bytes": ("NoArchive", b"?"),
    }
    event = read(Message().with_objects("Q", **objects))

    readout, physics = list_contents(event)
    assert (readout.stream, physics.stream) == ("Q", "P")
    assert readout.n_bytes == len(frame("Q", {**Message().objects["Q"], **objects}))
    listed = {each.key: (each.cpp_type, each.n_bytes, each.value) for each in readout.objects}
    assert [(name, *listed[name][:2]) for name in objects] == [
        (name, cpp_type, len(archive)) for name, (cpp_type, archive) in objects.items()
    ]
    values = {key: value for key, (_, _, value) in listed.items()}
    assert values["Bool"] == "True"
    assert values["Int"] == "-5"
    assert values["Text"].startswith("two lines?[31m...")
    assert values["Text"].endswith("... (214 characters)")
    assert values["Window"] == "-5.0 to 10000.0 ns"
    assert values["Windows"] == "26-10: 10.0 to 25.5 ns"
    assert values["Position"] == "(1.00, 2.00, 3.00) m"
    assert values["Fit"].endswith("(1.50, -2.50, 3.50) m at 1234.5 ns, 1e+05 GeV")
    assert values["Params"] == "speed 0.25, vx 1, vz 3, n_hits 17"
    assert values["Whole"] == "6 pulses of 3 modules, 12.25 p.e."
    assert values["InIceDSTPulses"] == "6 pulses of 3 modules of I3SuperDST"
    assert values["Diff"] == "difference to gcd.i3"
    assert values["Other"] == ""
    assert values["Newer"].startswith("not decoded: class I3TimeWindow is of version 2; at most 1 is known")
    assert values["Bytes"].startswith("not decoded: the archive's head takes 2 bytes")


# What is wrong with a message, and where.


@pytest.mark.parametrize("module", [(3, 61), (86, 64), (87, 1), (0, 5), (127, 60)])
def test_pulses_outside_of_the_ice_are_never_lost_silently(module: tuple[int, int]) -> None:
    readouts = [((1, 1), [Pulse(1000)]), (module, [Pulse(1500)])]
    message = Message().with_objects(
        "Q",
        I3SuperDST=("I3SuperDST", super_dst(readouts)),
        InIceDSTPulses=(MASK, whole_mask("I3SuperDST", readouts)),
    )
    message = message.with_objects("P", **{SERIES: (MASK, whole_mask("InIceDSTPulses", readouts))})
    error = refusal(message)
    assert f"module {module[0]}-{module[1]} is not one of IceCube's" in error.problem
    assert "1 pulses are of such modules" in error.problem
    assert (error.frame, error.object_key) == ("P", SERIES)


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        pytest.param(
            replace(Message(), version="2031b"),
            "version '2031b'; known are 2021a, 2023a, 2024a, and messages without one",
            id="unknown version",
        ),
        pytest.param(
            Message().with_objects("P", **{SERIES: None}), f"no pulse series '{SERIES}'", id="no pulse series"
        ),
        pytest.param(
            Message().with_objects("P", I3EventHeader=None),
            "frame P: the frame has no I3EventHeader",
            id="no header",
        ),
        pytest.param(
            Message(objects={"Q": Message().objects["Q"]}), "expected the event in a frame P", id="no frame P"
        ),
        pytest.param(
            Message().with_objects("Q", InIceDSTPulses=None),
            f"object {SERIES}, byte \\d+: the mask is over 'InIceDSTPulses', which is in no frame",
            id="mask over nothing",
        ),
        pytest.param(
            Message().with_objects("P", **{SERIES: (MASK, whole_mask(SERIES))}),
            "more than 10 masks refer to each other",
            id="mask over itself",
        ),
        pytest.param(
            Message().with_objects("P", **{SERIES: (MASK, whole_mask("InIceDSTPulses", READOUTS[:2]))}),
            "the mask does not fit the pulses of InIceDSTPulses: 2 modules",
            id="mask of another series",
        ),
        pytest.param(
            Message().with_objects("P", **{SERIES: (MASK, mask("InIceDSTPulses", [[True], None, None]))}),
            "the mask does not fit",
            id="mask of other pulses",
        ),
        pytest.param(
            Message().with_objects("P", **{SERIES: (MASK, mask("InIceDSTPulses", [None, None, None]))}),
            "the event has no pulses",
            id="empty mask",
        ),
        pytest.param(
            Message().with_objects("P", **{SERIES: ("I3Double", double(1))}),
            "the object is of class 'I3Double'; expected I3RecoPulseSeriesMapMask or",
            id="series of another class",
        ),
        pytest.param(
            Message().with_objects(
                "P", **{SERIES: ("I3RecoPulseSeriesMap", pulse_map(READOUTS[:1], photomultiplier=3))}
            ),
            "photomultiplier 3 of module 1-1; IceCube's modules have only one",
            id="several photomultipliers",
        ),
        pytest.param(
            Message().with_objects("P", I3EventHeader=("I3EventHeader", header(version=9))),
            "class I3EventHeader is of version 9; at most 3 is known",
            id="newer class",
        ),
        pytest.param(
            Message().with_objects("P", I3EventHeader=("I3EventHeader", header(version=2))),
            "class I3EventHeader is older than version 3",
            id="older class",
        ),
        pytest.param(
            Message().with_objects("P", Fit=("I3Particle", ArchiveWriter("I3Particle", 4).content)),
            "class I3Particle is older than version 5",
            id="older particle",
        ),
        pytest.param(
            Message().with_objects(
                "P", **{SERIES: (MASK, ArchiveWriter("I3RecoPulseSeriesMapMask", 1).content)}
            ),
            "class I3RecoPulseSeriesMapMask is older than version 2",
            id="older mask",
        ),
        pytest.param(
            Message().with_objects(
                "P",
                **{SERIES: ("I3X", pulse_map(READOUTS[:1]).replace(b"\1\3\3\0\0\0", b"\1\2\3\0\0\0"))},
            ),
            "class I3RecoPulse is older than version 3",
            id="older pulses",
        ),
        pytest.param(
            Message().with_objects("P", I3EventHeader=("I3EventHeader", header(year=1812))),
            "expected one of the years 2005 to 2099",
            id="other century",
        ),
        pytest.param(
            Message().with_objects("P", I3EventHeader=("I3EventHeader", header(ticks=400 * 86400 * 10**10))),
            "tenths of ns of the year 2022",
            id="time behind the year",
        ),
        pytest.param(
            Message().with_objects("P", I3EventHeader=("I3EventHeader", header(sub_event=2**31))),
            "the sub-event is 2147483648; expected at most 2147483647",
            id="large sub-event",
        ),
        pytest.param(
            replace(Message(), figures={"run_id": 5, "event_id": 789}),
            "names run 5 and event 789, but its header says run 123456 and event 789",
            id="another event's figures",
        ),
        pytest.param(
            replace(Message(), figures={"nch": "3"}), "'nch' of the message is not of type int", id="nch"
        ),
        pytest.param(
            replace(Message(), figures={"nch": True}), "'nch' of the message is not of", id="bool as int"
        ),
        pytest.param(
            replace(Message(), figures={"qtot": []}), "'qtot' of the message is not a number", id="qtot"
        ),
        pytest.param(
            replace(Message(), figures={"qtot": 10**400}), "'qtot' of the message is larger", id="huge"
        ),
        pytest.param(
            replace(Message(), figures={"reco": 3}), "'reco' of the message is not a group", id="reco"
        ),
        pytest.param(
            replace(Message(), figures={"reco": {"a": 1}}), "'a' of the message is not a group", id="fit"
        ),
        pytest.param(
            replace(Message(), figures={"unique_id": "\x1b[2J"}),
            r"'\\x1b\[2J' beside the frames",
            id="escapes",
        ),
        pytest.param(
            Message().with_objects("P", AlertShortFollowupMsg=("I3String", string("{"))),
            "object AlertShortFollowupMsg, byte \\d+: this is no JSON document",
            id="alert message",
        ),
        pytest.param(
            Message().with_objects("P", Fit=("I3Particle", particle()[:-1])),
            "object Fit, byte \\d+: the particle's location takes 4 bytes, but 3 are left",
            id="short object",
        ),
        pytest.param(
            Message().with_objects("P", Fit=("I3Particle", particle() + b"\0")),
            "object Fit, byte \\d+: 1 bytes are left behind the last value",
            id="long object",
        ),
        pytest.param(
            Message().with_objects("P", **{"\x1b": ("I3Double", double(1))}),
            "frame P, byte 499: an object's key is '\\\\x1b'; expected printable text",
            id="key",
        ),
    ],
)
def test_a_wrong_message_is_refused_with_what_would_be_right(message: Message, problem: str) -> None:
    with pytest.raises(InvalidRealtimeMessage, match=problem):
        read(message)


def test_a_refusal_says_where_in_the_message() -> None:
    short = particle()[:40]
    error = refusal(Message().with_objects("P", Fit=("I3Particle", short)))
    assert (error.source, error.frame, error.object_key) == ("test", "P", "Fit")
    assert error.offset is not None
    # Of the frame: behind the other objects, and within this one, which ends before the checksum.
    whole = frame("P", {**Message().objects["P"], "Fit": ("I3Particle", short)})
    assert len(whole) - 4 - len(short) < error.offset < len(whole) - 4
    assert str(error).startswith(f"test, frame P, object Fit, byte {error.offset}: ")
    assert not error.retryable


def test_pulses_that_are_no_numbers_reach_the_consumer() -> None:
    """Who refuses them with their names; here they are listed like any other."""
    archive = pulse_map(READOUTS[:1])
    charge = struct.pack("<f", READOUTS[0][1][0].charge_pe)
    infinite = archive.replace(charge, struct.pack("<f", float("inf")), 1)
    infinite = infinite[: infinite.rindex(charge)] + struct.pack("<f", float("-inf")) + infinite[-9 + 4 :]
    event = read(Message().with_objects("P", **{SERIES: ("I3RecoPulseSeriesMap", infinite)}))
    with pytest.raises(InvalidEvent, match="a charge is negative, NaN or infinite"):
        check_event(event.event, 5160)
    (value,) = (each.value for each in list_contents(event)[1].objects if each.key == SERIES)
    assert value == "3 pulses of 1 modules, nan p.e."


def test_modules_out_of_order_are_refused() -> None:
    one, two = pulse_map([((1, 1), [Pulse()])]), pulse_map([((1, 2), [Pulse()]), ((1, 1), [Pulse()])])
    swapped = two.replace(b"\1\0\0\0\1\0\0\0\0", b"\1\0\0\0\3\0\0\0\0")
    assert swapped != two
    assert read(Message().with_objects("P", **{SERIES: ("I3RecoPulseSeriesMap", one)}))
    error = refusal(Message().with_objects("P", **{SERIES: ("I3RecoPulseSeriesMap", swapped)}))
    assert "not in ascending order" in error.problem


def test_event_columns_belong_to_the_event_alone() -> None:
    """A kept event must not keep the whole message in memory."""
    pulses = read(Message()).event.pulses
    for column in (pulses.sensor_id, pulses.time_ns, pulses.charge_pe, pulses.flags):
        assert column.base is None
