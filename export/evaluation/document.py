"""Describes a version of the model for people: `python -m export.evaluation.document docs/models/direction.md`.

The document is a function of the version's model card and nothing else, so that a test can tell when it no longer
describes the shipped model.
"""

import argparse
import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from export.evaluation.card import Card, batch_events, latest_version, read_card
from export.evaluation.report import EXPLANATION, header, rows
from export.evaluation.sample import ROBUST
from export.evaluation.scores import MODEL
from export.presets import PRESETS
from export.to_onnx import MODEL_NAME

CHAIN = "a chain of learned fits (of a line, a track and a shower)"
TRANSFORMER = " and a transformer over the pulses"
LOSS = "the von Mises-Fisher likelihood as loss, then the opening angle, and each fit on its own improvement"
CAPTIONS = {
    "cumulative": "Share of the test events that are off by less than an angle",
    "energy": "Median angle and 68 % band by the neutrino's energy",
    "zenith": "Median angle and 68 % band by the zenith angle",
    "coverage": "Share of true directions within the radii; dashed: as promised",
    "kappa": "Angle against kappa, with the calibrated radii and those that kappa alone would promise",
}
N_SHOWN_KNOTS = 6
WIDTH = 118


def main() -> None:
    """Write the document of the newest version anew from its card, as after a change of wording."""
    parser = argparse.ArgumentParser(
        prog="python -m export.evaluation.document",
        description="Write a document anew from the newest model card.",
    )
    parser.add_argument("document", type=Path, help="docs/models/NAME.md of the model of that name")
    path = parser.parse_args().document
    card = read_card(latest_version(Path("model_repository") / path.stem))
    path.write_text(document(card), encoding="utf-8")


def document(card: Card) -> str:
    """Write a model card as Markdown.

    Args:
        card: With its evaluation.
    """
    parts = (_title, _interface, _training, _calibration, _evaluation, _limits, _reproduction)
    return "\n\n".join(part(card) for part in parts) + "\n"


def plot_file(card: Card, name: str) -> str:
    """Name of the file, beside the document, that holds a plot."""
    return f"{card['model']}_{name}.png"


def _title(card: Card) -> str:
    evaluation, made_with = card["evaluation"], card["made_with"]
    angles = evaluation["groups"]["all"]["angle_deg"]
    facts = (
        ("version", f"{card['version']}, exported {card['exported_at']}"),
        ("parameters", f"{card['n_parameters']:,}: preset `{card['preset']}` of export/presets.py"),
        ("file", f"`model.onnx`, {card['size_bytes'] / 1e6:.2f} MB, opset {made_with['opset']}"),
        ("sha256", f"`{card['sha256']}`"),
        ("made with", f"torch {made_with['torch']}, onnxruntime {made_with['onnxruntime']}"),
        (
            "speed",
            f"{evaluation['events_per_s_one_thread']:.0f} events/s on one CPU thread, "
            f"{batch_events(card)} events a batch",
        ),
        (
            "all numbers",
            f"[model_card.json](../../model_repository/{card['model']}/{card['version']}/model_card.json)",
        ),
    )
    return f"# Model `{card['model']}`, version {card['version']}\n\n" + "\n\n".join(
        (
            "<!-- Written by export/evaluation/document.py from the model card; do not edit. -->",
            _paragraph(
                f"It says where a neutrino came from, and how sure that is: {_method(card)}.",
                f"On {evaluation['n_events']:,} test events it is off by",
                f"{_both(angles[MODEL])}; the robust line fit, on the same events, by {_both(angles[ROBUST])}.",
            ),
            _table(("", ""), facts),
        )
    )


def _interface(card: Card) -> str:
    inputs = "x, y, z (m, origin at the detector's centre, z up), t (ns), charge (p.e.), HLC (1 or 0)"
    tensors = (
        ("`pulses`", "float32 (B, L, 6)", inputs),
        (
            "`lengths`",
            "int32 (B, 1)",
            "pulses of the event before selection; later rows of `pulses` are padding",
        ),
        ("`direction`", "float32 (B, 3)", "unit vector to where the neutrino came from"),
        (
            "`kappa`",
            "float32 (B, 1)",
            "concentration that the network states; ranks events, is not calibrated",
        ),
        ("`error_radii`", "float32 (B, 2)", "rad; 50 % and 90 % of true directions lie within"),
    )
    text = _paragraph(
        "`icestream.physics.features` makes `pulses`: times from the median HLC pulse, in order of time, and of",
        f"longer events the {card['max_pulses']} pulses that say most (HLC first, then the first of each module,",
        "then by charge). B and L may be any.",
    )
    return f"## Inputs and outputs\n\n{_table(('tensor', 'shape', 'content'), tensors)}\n\n{text}"


def _training(card: Card) -> str:
    began_as = _began_as(card)
    short = (
        f"It began as a network of preset `{began_as}`, of which the first steps were kept."
        if began_as
        else ""
    )
    text = _paragraph(
        f"{card['training']['events_seen']:,} events of {_origin(card)}, none of them in the test set, with {LOSS}.",
        "The weights are an exponential moving average over the steps.",
        short,
    )
    return f"## Training\n\n{text}"


def _calibration(card: Card) -> str:
    calibration = card["calibration"]
    knots = list(zip(calibration["log_kappa"], calibration["log_radii_rad"], strict=True))
    shown = [knots[round(i * (len(knots) - 1) / (N_SHOWN_KNOTS - 1))] for i in range(N_SHOWN_KNOTS)]
    lines = [
        (f"{math.exp(log_kappa):.3g}", *(f"{math.degrees(math.exp(radius)):.2f}°" for radius in log_radii))
        for log_kappa, log_radii in shown
    ]
    text = _paragraph(
        f"Split conformal calibration on {calibration['n_events']:,} events that neither training nor evaluation",
        "saw made both radii functions of kappa; they are part of the graph. Between these rows (and more like",
        "them) their logarithms are linear in log kappa.",
    )
    return f"## Calibration\n\n{text}\n\n{_table(('kappa', '50 % radius', '90 % radius'), lines)}"


def _evaluation(card: Card) -> str:
    evaluation = card["evaluation"]
    text = _paragraph(
        f"{evaluation['n_events']:,} events ({evaluation['data']}), all methods on the same ones. {EXPLANATION}."
    )
    plots = [
        f"![{CAPTIONS[name]}]({plot_file(card, name)})\n\n*{CAPTIONS[name]}.*" for name in evaluation["plots"]
    ]
    return "\n\n".join(("## Evaluation", text, _table(header(evaluation), rows(evaluation)), *plots))


def _limits(card: Card) -> str:
    groups = card["evaluation"]["groups"]
    coverage = [
        f"{100 * group['coverage']['50']:.1f} % and {100 * group['coverage']['90']:.1f} % of {name}"
        for name, group in groups.items()
        if name in ("all", "tracks", "cascades")
    ]
    limits = (
        f"It learnt from {_origin(card)} alone. Angles on another sample differ: compare methods on the same events.",
        "The radii hold what they promise over the mix of events that they were calibrated on, not in each class: "
        f"in the table above, {'; '.join(coverage)}. Another mix needs another calibration.",
        "kappa is for ranking events; the last plot shows how far its own radii are from the calibrated ones.",
        "It was shown no muon bundles, no calibration light and no other detector than its training sample's.",
        f"Of more than {card['max_pulses']} pulses it sees a selection, and how many there were.",
    )
    return "## Limits\n\n" + "\n".join(
        textwrap.fill(limit, WIDTH, initial_indent="- ", subsequent_indent="  ") for limit in limits
    )


def _reproduction(card: Card) -> str:
    training, data = card["training"], "" if _is_simulated(card) else " --data DATA_SET"
    train = f"python -m export.train --preset {{}} --seed {training['seed']}{data} --minutes {{}} --out {{}}"
    comment = f"# until {training['events_seen']:,} events were seen, on the machine that made this version"
    first = []
    if began_as := _began_as(card):
        first = [
            train.format(began_as, round(training["shortened_after_min"]), "LONG_RUN"),
            f"python -m export.shorten LONG_RUN --preset {card['preset']} --out RUN",
        ]
    model, version = card["model"], card["version"]
    is_default = model == MODEL_NAME
    of_model, of_version = (
        ("", "") if is_default else (f" --model {model}", f" --model model_repository/{model}/{version}")
    )
    commands = (
        *first,
        comment,
        train.format(card["preset"], round(training["minutes"]), "RUN"),
        f"python -m export.to_onnx RUN{of_model} --version {version}   # calibrates as well",
        f"python -m export.evaluate{of_version}{data} --out EVALUATION --document docs/models/{model}.md",
    )
    text = _paragraph(
        "The events of a seed are the same on any machine; the weights are not, because the number of steps follows",
        "the clock and rounding the hardware.",
    )
    return "\n".join(("## Reproduce", "", "```sh", *commands, "```", "", text))


def _began_as(card: Card) -> str:
    """The preset of the longer network that a version's was once part of; empty where there was none."""
    # The cards of `direction` 2 and before do not say.
    return card["training"].get("shortened_from") or ""


def _method(card: Card) -> str:
    return CHAIN + (TRANSFORMER if PRESETS[card["preset"]].network.has_transformer else "")


def _both(statistics: dict[str, float]) -> str:
    return f"{statistics['median']:.1f}° in the median and {statistics['mean']:.1f}° in the mean"


def _origin(card: Card) -> str:
    training = card["training"]
    seed = f" (seed {training['seed']})" if _is_simulated(card) else ""
    return f"`{training['data']}`{seed}"


def _is_simulated(card: Card) -> bool:
    return bool(card["training"]["data"] == "icestream.physics.simulation")


def _paragraph(*parts: str) -> str:
    return textwrap.fill(
        " ".join(part for part in parts if part), WIDTH, break_long_words=False, break_on_hyphens=False
    )


def _table(names: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (names, ["---"] * len(names), *lines))


if __name__ == "__main__":
    main()
