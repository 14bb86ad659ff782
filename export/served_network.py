"""The network with everything that is served in one graph."""

from torch import Tensor, nn

from export.calibrate import Calibration, RadiusCurve
from export.network.direction import DirectionNetwork, direction_and_kappa


class ServedDirection(nn.Module):
    """The network as it is served: unit vector, kappa and both error radii."""

    def __init__(self, network: DirectionNetwork, calibration: Calibration) -> None:
        super().__init__()
        self.network = network
        self.radii = RadiusCurve(calibration)

    def forward(self, pulses: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Answer for a batch: direction (B, 3), kappa (B, 1), error radii in rad (B, 2)."""
        direction, kappa = direction_and_kappa(self.network(pulses, lengths))
        kappa = kappa.float()
        return direction.float(), kappa, self.radii(kappa)
