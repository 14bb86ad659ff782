"""Halving a batch that cannot be finished, to find the fit that is to blame."""

from dataclasses import replace

from icestream.scan_codec import PixelWork
from icestream.scans.pixels import PixelBatch


def halves(work: PixelWork) -> tuple[PixelWork, PixelWork]:
    """Both halves of work of at least two rows; the second is the larger one."""
    middle = len(work.batch) // 2
    return (
        replace(work, part=f"{work.part}0", batch=_rows(work.batch, slice(None, middle))),
        replace(
            work,
            part=f"{work.part}1",
            first_row=work.first_row + middle,
            batch=_rows(work.batch, slice(middle, None)),
        ),
    )


def _rows(batch: PixelBatch, rows: slice) -> PixelBatch:
    return replace(
        batch,
        pixel=batch.pixel[rows],
        variation=batch.variation[rows],
        direction=batch.direction[rows],
        seeds=batch.seeds[rows],
    )
