"""Where a particle is, when, and where it flies."""

from typing import NamedTuple

from icestream.physics.cherenkov import C_M_PER_NS
from icestream.physics.compiled import compiled


class Ray(NamedTuple):
    """A place, a time and a unit vector."""

    x_m: float
    y_m: float
    z_m: float
    t_ns: float
    px: float
    py: float
    pz: float


@compiled
def moved(ray: Ray, distance_m: float) -> Ray:
    """The ray after some distance, covered with the speed of light."""
    return Ray(
        ray.x_m + distance_m * ray.px,
        ray.y_m + distance_m * ray.py,
        ray.z_m + distance_m * ray.pz,
        ray.t_ns + distance_m / C_M_PER_NS,
        ray.px,
        ray.py,
        ray.pz,
    )
