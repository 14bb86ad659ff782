"""Closed lines around a region of the sphere, wherever it lies and of however many parts it consists.

The pixels' centres inside and next to the region are connected to Delaunay triangles on the sphere, and each triangle
is cut where the interpolated value is the level. Neither poles nor the meridian of longitude 0 are special, every line
is closed, and exactly the centres of the pixels inside are enclosed.
"""

import numpy as np
from matplotlib.tri import Triangulation
from numpy.typing import NDArray

from icestream.skymaps.multiorder import Cover, nested_centres
from icestream.skymaps.neighbours import neighbours

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

OUTSIDE = 4.0
"""Value of a pixel without one, in units of the level."""
CLOSEST = 0.02
"""Lines keep this share of a triangle's edge away from its ends, so that no two of their points coincide."""


def outlines(tiles: Cover, value: FloatArray, level: float) -> tuple[FloatArray, ...]:
    """Trace where a map's values cross a level.

    Args:
        tiles: The map's pixels.
        value: 2 * delta llh of each pixel, inside where it is below the level; NaN is outside. Shape (n,).
        level: Above 0.

    Returns:
        Closed lines of unit vectors, each of shape (m, 3) with the last point equal to the first; longest first.
        Those of holes are among them. None where the region is empty, or the whole sphere.
    """
    # Written so that NaN is outside.
    is_inside = value < level
    if is_inside.all() or not is_inside.any():
        return ()
    capped = np.where(np.isfinite(value), value, OUTSIDE * level)
    points, values = _points_around(tiles, capped, is_inside)
    pole = _centre_outside(tiles, is_inside)
    is_apart = points @ pole < 1 - 1e-12
    points = np.concatenate((points[is_apart], pole[None]))
    # A parabola's root is linear: the line lies right even where all of the region is between two pixels.
    values = np.sqrt(np.append(values[is_apart], OUTSIDE * level))
    lines = _cut(_spherical_triangles(points), points, values, float(np.sqrt(level)))
    return tuple(sorted(lines, key=len, reverse=True))


def _points_around(tiles: Cover, value: FloatArray, is_inside: BoolArray) -> tuple[FloatArray, FloatArray]:
    """Centres of the pixels inside and of all around them, and their values."""
    beside = neighbours(tiles, np.flatnonzero(is_inside))
    rows = np.unique(np.concatenate((np.flatnonzero(is_inside), beside.rows)))
    # Parts of a coarse pixel stand for it where they touch a fine one: its own centre is far away.
    is_part = ~is_inside[beside.part_of]
    points = nested_centres(beside.part_order[is_part], beside.part_pixel[is_part])
    return np.concatenate((tiles.centres[rows], points)), np.concatenate(
        (value[rows], value[beside.part_of[is_part]])
    )


def _centre_outside(tiles: Cover, is_inside: BoolArray) -> FloatArray:
    """The centre of an outside pixel that is far from the region."""
    outside = np.flatnonzero(~is_inside)
    centres = tiles.centres[outside]
    middle = tiles.centres[is_inside].mean(axis=0)
    return np.asarray(centres[np.argmin(centres @ middle)])


def _spherical_triangles(points: FloatArray) -> IntArray:
    """Delaunay triangles of points on the sphere, without a gap; shape (n, 3).

    Seen from the last point (stereographic projection) circles remain circles, so that the plane's Delaunay
    triangles are the sphere's. What is left is the gap around that point, which the plane's rim borders.
    """
    pole = points[-1]
    east = np.cross(pole, np.eye(3)[np.argmin(np.abs(pole))])
    east /= np.linalg.norm(east)
    scale = 1 / (1 - points[:-1] @ pole)
    plane = Triangulation(scale * (points[:-1] @ east), scale * (points[:-1] @ np.cross(pole, east)))
    triangle, edge = np.nonzero(plane.neighbors < 0)
    rim = np.column_stack(
        (
            plane.triangles[triangle, (edge + 1) % 3],
            plane.triangles[triangle, edge],
            np.full(len(edge), len(points) - 1),
        )
    )
    return np.concatenate((plane.triangles, rim)).astype(np.int64)


def _cut(triangles: IntArray, points: FloatArray, values: FloatArray, level: float) -> list[FloatArray]:
    """Closed lines through the triangles that the level crosses."""
    is_inside = values < level
    crossed = triangles[np.ptp(is_inside[triangles].astype(np.int8), axis=1) > 0]
    edges = np.stack((crossed, np.roll(crossed, -1, axis=1)), axis=-1)
    is_cut = is_inside[edges[..., 0]] != is_inside[edges[..., 1]]
    ends, which = np.unique(np.sort(edges[is_cut], axis=1), axis=0, return_inverse=True)
    share = (level - values[ends[:, 0]]) / (values[ends[:, 1]] - values[ends[:, 0]])
    share = np.clip(share, CLOSEST, 1 - CLOSEST)[:, None]
    cuts = (1 - share) * points[ends[:, 0]] + share * points[ends[:, 1]]
    cuts /= np.linalg.norm(cuts, axis=1, keepdims=True)
    # Each crossed triangle has two cut edges, each cut edge two triangles: all lines are closed.
    return [cuts[loop] for loop in _loops(which.reshape(-1, 2), len(ends))]


def _loops(segments: IntArray, n_points: int) -> list[IntArray]:
    """Chain segments between numbered points, of which each has two, to closed walks."""
    links: list[list[int]] = [[] for _ in range(n_points)]
    for a, b in segments.tolist():
        links[a].append(b)
        links[b].append(a)
    is_done, loops = [False] * n_points, list[IntArray]()
    for first in range(n_points):
        if is_done[first]:
            continue
        walk, before, here = [first], -1, first
        while True:
            is_done[here] = True
            ahead = links[here][0] if links[here][0] != before else links[here][1]
            walk.append(ahead)
            if ahead == first:
                break
            before, here = here, ahead
        loops.append(np.array(walk))
    return loops
