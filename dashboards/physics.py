"""What the model says of the sky, and how right it is where the truth is known."""

from dashboards.assembly import Board
from dashboards.limits import limit
from dashboards.panels import WINDOW, About, Panel, Query, distribution, heat_map, lines, number

_MODEL = '{model=~"$model"}'
_ALERTS = ("ModelDrift",)
_MEDIAN_1H = "icestream_recorder:opening_angle_rad:median_1h"


def board() -> Board:
    """What a physicist on shift looks at."""
    return Board(
        "physics",
        "IceStream: physics",
        "Where events come from, how sure the model is of it, and how right where the truth is known.",
        {
            "Now": _now(),
            "Directions, over the time shown": _directions(),
            "Against the truth, where it is known: simulations and calibration runs": _truth(),
            "How sure the model is": _confidence(),
        },
        {"model": "label_values(icestream_recorder_kappa_count, model)"},
    )


def _now() -> list[Panel]:
    return [
        number(
            About("Directions", "Recorded in a second.", ("RecorderPaused",), "cps", width=6, height=4),
            Query(f"sum(rate(icestream_recorder_kappa_count{_MODEL}{WINDOW}))"),
        ),
        number(
            About(
                "Share with a truth",
                "Only these say how right the model is. 0 in pure data.",
                _ALERTS,
                "percentunit",
                width=6,
                height=4,
            ),
            Query(
                f"(sum(rate(icestream_recorder_opening_angle_rad_count{_MODEL}{WINDOW})) or vector(0))"
                f" / (sum(rate(icestream_recorder_kappa_count{_MODEL}{WINDOW})) > 0)"
            ),
        ),
        number(
            About(
                "Median angle to the truth",
                "Of all kinds together, over 5 minutes.",
                _ALERTS,
                "radian",
                width=6,
                height=4,
            ),
            Query(
                "histogram_quantile(0.5, sum by (le) "
                f"(rate(icestream_recorder_opening_angle_rad_bucket{_MODEL}[5m])))"
            ),
        ),
        number(
            About(
                "Median stated 90 % radius",
                "How large error circles are, over 5 minutes.",
                _ALERTS,
                "radian",
                width=6,
                height=4,
            ),
            Query(
                "histogram_quantile(0.5, sum by (le) "
                f"(rate(icestream_recorder_radius90_rad_bucket{_MODEL}[5m])))"
            ),
        ),
    ]


def _directions() -> list[Panel]:
    return [
        distribution(
            About(
                "Zenith",
                "Bands of equal solid angle, from straight down (left) to straight up through the Earth (right), in "
                "rad. Flat for an isotropic sky; muons of the atmosphere pile up on the left, events of which the "
                "model is unsure at both ends.",
                _ALERTS,
                "short",
                width=12,
            ),
            f"icestream_recorder_zenith_rad_bucket{_MODEL}",
        ),
        distribution(
            About(
                "Azimuth",
                "Sectors of 15 degrees, in rad. Flat but for the detector's hexagonal shape; a dip or a peak that "
                "comes suddenly is strings that went dark, or a flasher.",
                _ALERTS,
                "short",
                width=12,
            ),
            f"icestream_recorder_azimuth_rad_bucket{_MODEL}",
        ),
        heat_map(
            About(
                "Zenith over time",
                "Rows of one colour each. A row that lights up is a source, a flasher or a fault.",
                _ALERTS,
                "cps",
                width=12,
            ),
            Query(f"sum by (le) (rate(icestream_recorder_zenith_rad_bucket{_MODEL}{WINDOW}))", "{{le}}"),
            y_unit="radian",
        ),
        heat_map(
            About(
                "Azimuth over time",
                "Rows of one colour each. A row that lights up or goes dark is a fault of the detector.",
                _ALERTS,
                "cps",
                width=12,
            ),
            Query(f"sum by (le) (rate(icestream_recorder_azimuth_rad_bucket{_MODEL}{WINDOW}))", "{{le}}"),
            y_unit="radian",
        ),
    ]


def _truth() -> list[Panel]:
    return [
        heat_map(
            About(
                "Angle to the truth",
                "One band, which ends above for cascades and below for tracks. A band that moves up is a model, a "
                "calibration or a detector that changed. Empty where no event tells its truth.",
                _ALERTS,
                "cps",
                width=12,
            ),
            Query(
                f"sum by (le) (rate(icestream_recorder_opening_angle_rad_bucket{_MODEL}{WINDOW}))", "{{le}}"
            ),
            y_unit="radian",
        ),
        lines(
            About(
                "Median angle to the truth",
                "By kind of event, over 5 minutes: through-going tracks lowest. 0.0175 rad are a degree. Empty where "
                "no event tells its truth.",
                _ALERTS,
                "radian",
                width=12,
            ),
            Query(
                "histogram_quantile(0.5, sum by (le, kind) "
                f"(rate(icestream_recorder_opening_angle_rad_bucket{_MODEL}[5m])))",
                "{{kind}}",
            ),
        ),
        lines(
            About(
                "Coverage",
                "Share of true directions within the stated 50 and 90 % radius, over 5 minutes: at 0.5 and 0.9. "
                "Below, error circles are too small; above, too large. Empty where no event tells its truth.",
                _ALERTS,
                "percentunit",
                width=12,
            ),
            Query(
                f"sum by (radius) (rate(icestream_recorder_covered_total{_MODEL}[5m]))"
                f" / on () group_left () (sum(rate(icestream_recorder_opening_angle_rad_count{_MODEL}[5m])) > 0)",
                "{{radius}} %",
            ),
        ),
        lines(
            About(
                "Drift",
                "Median angle of the last hour, divided by that of the day before. At 1; empty in the first hour, "
                "and where no event tells its truth.",
                _ALERTS,
                "none",
                width=12,
            ),
            Query(
                f"{_MEDIAN_1H}{_MODEL} / icestream_recorder:opening_angle_rad:median_1d{_MODEL}",
                "{{kind}}, {{model}}",
            ),
            limits=(limit("ModelDrift", _MEDIAN_1H),),
        ),
    ]


def _confidence() -> list[Panel]:
    return [
        distribution(
            About(
                "Kappa",
                "Concentration that the model states; large is sure. It ranks events and is not calibrated. Bars "
                "that move to the left: events got worse, or are not what the model was trained on.",
                _ALERTS,
                "short",
                width=12,
            ),
            f"icestream_recorder_kappa_bucket{_MODEL}",
        ),
        distribution(
            About(
                "Stated 90 % radius",
                "In rad; what an alert would be sent out with.",
                _ALERTS,
                "short",
                width=12,
            ),
            f"icestream_recorder_radius90_rad_bucket{_MODEL}",
        ),
    ]
