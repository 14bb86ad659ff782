import math
from collections.abc import Sequence
from itertools import pairwise

import pytest
from prometheus_client import CollectorRegistry

from icestream.physics.events import EventKind, Reconstruction
from services.recorder.metrics import RecorderMetrics
from services.recorder.quality import observe_estimates
from tests.unit.recorder.recorder_cases import columns_of_events, make_reconstruction, make_truth


class Observed:
    """What the metrics say after some reconstructions."""

    def __init__(self, *reconstructions: Reconstruction, is_new: Sequence[bool] = ()) -> None:
        self._registry = CollectorRegistry()
        are_new = is_new or [True] * len(reconstructions)
        observe_estimates(RecorderMetrics(self._registry), columns_of_events(reconstructions), are_new)

    def value(self, name: str, **labels: str) -> float | None:
        return self._registry.get_sample_value(f"icestream_recorder_{name}", {"model": "direction"} | labels)

    def buckets(self, name: str) -> dict[float, float]:
        """Events in each bucket, by its upper bound, where there are any."""
        samples = [
            sample
            for family in self._registry.collect()
            for sample in family.samples
            if sample.name == f"icestream_recorder_{name}_bucket"
        ]
        counts = [sample.value for sample in samples]
        own = [count - below for count, below in zip(counts, [0.0, *counts], strict=False)]
        return {float(sample.labels["le"]): n for sample, n in zip(samples, own, strict=True) if n}

    def bounds(self, name: str) -> list[float]:
        samples = [sample for family in self._registry.collect() for sample in family.samples]
        return [float(s.labels["le"]) for s in samples if s.name == f"icestream_recorder_{name}_bucket"]


def test_an_estimate_is_counted_in_all_four_histograms() -> None:
    observed = Observed(make_reconstruction(azimuth_rad=0.3, zenith_rad=1.5, kappa=30.0, radius90_rad=0.25))
    assert observed.buckets("azimuth_rad") == {0.524: 1}
    assert observed.buckets("zenith_rad") == {1.571: 1}
    assert observed.buckets("kappa") == {50.0: 1}
    assert observed.buckets("radius90_rad") == {0.349066: 1}


@pytest.mark.parametrize(
    ("zenith_rad", "bound"), [(0.0, 0.452), (math.pi / 2 + 1e-6, 1.571), (math.pi, 3.142)]
)
def test_every_zenith_has_a_bucket(zenith_rad: float, bound: float) -> None:
    assert Observed(make_reconstruction(zenith_rad=zenith_rad)).buckets("zenith_rad") == {bound: 1}


@pytest.mark.parametrize(("azimuth_rad", "bound"), [(0.0, 0.262), (math.pi, 3.142), (6.2831, 6.284)])
def test_every_azimuth_has_a_bucket(azimuth_rad: float, bound: float) -> None:
    assert Observed(make_reconstruction(azimuth_rad=azimuth_rad)).buckets("azimuth_rad") == {bound: 1}


def test_bands_of_zenith_have_equal_solid_angles() -> None:
    *bounds, _ = Observed(make_reconstruction()).bounds("zenith_rad")
    cosines = [1.0, *map(math.cos, bounds)]
    steps = [above - below for above, below in pairwise(cosines)]
    assert steps == pytest.approx([0.1] * 20, rel=0.02)


@pytest.mark.parametrize(
    ("error_rad", "within_50", "within_90"), [(0.1, 1, 1), (0.2, 0, 1), (0.3, 0, 0)], ids=lambda value: value
)
def test_a_truth_within_a_stated_radius_is_covered(
    error_rad: float, within_50: float, within_90: float
) -> None:
    """The radii of the reconstruction are 0.125 and 0.25."""
    truth = make_truth(azimuth_rad=0.0, zenith_rad=1.0 + error_rad, kind=EventKind.STARTING_TRACK)
    observed = Observed(make_reconstruction(azimuth_rad=0.0, zenith_rad=1.0, truth=truth))
    assert observed.value("covered_total", kind="starting_track", radius="50") == within_50
    assert observed.value("covered_total", kind="starting_track", radius="90") == within_90
    assert observed.value("opening_angle_rad_count", kind="starting_track") == 1


def test_without_a_truth_only_the_estimate_is_counted() -> None:
    observed = Observed(make_reconstruction(truth=None))
    assert observed.value("kappa_count") == 1
    assert observed.value("opening_angle_rad_count", kind="unknown") is None
    assert observed.value("covered_total", kind="unknown", radius="90") is None


def test_each_model_has_histograms_of_its_own() -> None:
    observed = Observed(make_reconstruction(1), make_reconstruction(2), make_reconstruction(3, model="other"))
    assert observed.value("kappa_count") == 2
    assert observed.value("kappa_count", model="other") == 1


def test_only_rows_that_are_new_are_counted() -> None:
    old, new = make_reconstruction(1, kappa=1.5), make_reconstruction(2, kappa=30.0)
    observed = Observed(old, new, is_new=[False, True])
    assert observed.buckets("kappa") == {50.0: 1}
    assert observed.value("opening_angle_rad_count", kind="cascade") == 1
    assert Observed(old, new, is_new=[False, False]).value("kappa_count") is None


def test_each_kind_of_event_has_an_angle_of_its_own() -> None:
    kinds = (EventKind.CASCADE, EventKind.STARTING_TRACK, EventKind.CASCADE)
    observed = Observed(
        *(make_reconstruction(number, truth=make_truth(kind=kind)) for number, kind in enumerate(kinds)),
        make_reconstruction(9, truth=None),
    )
    assert observed.value("opening_angle_rad_count", kind="cascade") == 2
    assert observed.value("opening_angle_rad_count", kind="starting_track") == 1
