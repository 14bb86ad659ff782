"""Draw the dashboards from what a Prometheus has: `python -m dashboards.pictures --minutes 10`.

For documents, and where no Grafana is at hand: every panel at its place, with the answers to its own queries.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from dashboards.answers import Answers
from dashboards.drawing import Content, draw
from dashboards.queries import SCRAPE_INTERVAL_S, PanelQuery, Span, boards, queries_of

FOLDER = Path(__file__).resolve().parents[1] / "docs/dashboards"

_COLUMNS = 24
_WIDTH_IN = 16.0
_UNIT_IN = 0.36
"""Height of one unit of Grafana's grid."""
_HEADING_UNITS = 1.6
_GAP = 0.12
_DPI = 100
_N_COLOURS = 256


def picture(name: str, board: dict[str, Any], answers: Answers, span: Span) -> Image.Image:
    """One dashboard, with everything that its panels draw in this time."""
    n_units = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"]) + _HEADING_UNITS
    figure = Figure(figsize=(_WIDTH_IN, n_units * _UNIT_IN), facecolor="#f4f5f5", dpi=_DPI)
    y = 1 - _HEADING_UNITS / 2 / n_units
    figure.text(0.012, y, board["title"], size=17, weight="bold", va="center")
    end = time.strftime("%Y-%m-%d %H:%M", time.gmtime(span.end_s))
    minutes = f"{(span.end_s - span.start_s) / 60:.0f} minutes until {end} UTC"
    figure.text(0.988, y, minutes, size=11, ha="right", va="center", color="#555555")
    for panel in board["panels"]:
        left, bottom, width, height = _place(panel["gridPos"], n_units)
        # Of a row the title is in its middle, of a panel in its first line.
        title_y = bottom + (height / 2 if panel["type"] == "row" else height - 0.55 / n_units)
        figure.text(left + 0.006, title_y, panel["title"], size=10.5, weight="bold", va="center")
        if panel["type"] != "row":
            frame = Rectangle((left, bottom), width, height, facecolor="white", edgecolor="#d8d9da")
            # Below the axes, which are drawn before what belongs to the figure itself.
            frame.set_zorder(-1)
            figure.add_artist(frame)
            content = _content(panel, queries_of(name, board, panel), answers, span)
            draw(figure, (left, bottom, width, height - 1.0 / n_units), content)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    # A third of the size, and no eye sees the difference.
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).quantize(_N_COLOURS)


def _content(panel: dict[str, Any], queries: list[PanelQuery], answers: Answers, span: Span) -> Content:
    exemplars = [one for query in queries if query.has_exemplars for one in answers.exemplars(query, span)]
    return Content(panel, span, [(query, answers.series(query, span)) for query in queries], exemplars)


def _place(grid: dict[str, int], n_units: float) -> tuple[float, float, float, float]:
    """Left, bottom, width and height of a panel, in shares of the figure."""
    gap_x, gap_y = _GAP / _COLUMNS, _GAP / n_units
    left, width = grid["x"] / _COLUMNS, grid["w"] / _COLUMNS
    bottom = 1 - (grid["y"] + grid["h"] + _HEADING_UNITS) / n_units
    return left + gap_x, bottom + gap_y, width - 2 * gap_x, grid["h"] / n_units - 2 * gap_y


def main() -> None:
    """Write one picture for each dashboard."""
    parser = argparse.ArgumentParser(description="Draw the dashboards from what a Prometheus has.")
    parser.add_argument(
        "--prometheus", default="http://127.0.0.1:9090", help="its URL (default: %(default)s)"
    )
    parser.add_argument("--minutes", type=float, default=15.0, help="until now (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=FOLDER, help="a folder (default: %(default)s)")
    arguments = parser.parse_args()
    end_s = time.time()
    span = Span(end_s - 60 * arguments.minutes, end_s, SCRAPE_INTERVAL_S)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with Answers(arguments.prometheus) as answers:
        for name, board in boards().items():
            picture(name, board, answers, span).save(arguments.out / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
