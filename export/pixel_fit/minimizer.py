"""Minimises -ln L for many pixels at once, in a loop that can be exported.

Damped quasi-Newton steps: the curvature begins as the sum of the outer products of the scores, which is positive
but poor where the likelihood does not describe the event, and learns from each step how the slope really changes.
Sources: Nocedal & Wright, Numerical Optimization (2006), procedure 18.2 for the update, section 10.3 for the damping.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch._higher_order_ops import while_loop as _untyped_while_loop

from export.network.least_squares import solve
from export.pixel_fit.tables import SIGMAS_NS

while_loop = cast("Callable[..., tuple[Tensor, ...]]", _untyped_while_loop)

FIRST_DAMPING = 0.1
MIN_DAMPING, MAX_DAMPING = 1e-4, 1e6
LEAST_CURVATURE = 0.2
"""Along a step, as a share of what was expected: an update that finds less is mixed with the expectation, so that
the curvature stays positive."""
ROUNDING = 1e-3
"""Steps that change -ln L by less teach nothing: single precision, summed over 200 hits, is not better."""
MAX_STEP = 1e5
"""m or ns; where the equations cannot be solved, a fit stays where it is."""

Stages = Sequence[tuple[float, int]]
"""Blurs of the arrival times in ns, one after the other, and how many places are tried with each: the first is the
one where the stage before ended."""


class Standing(NamedTuple):
    """How good a place is and where it should go; P fits of n parameters."""

    llh: Tensor
    """-ln L; shape (P,)."""
    slope: Tensor
    """Of ln L; shape (P, n, 1)."""
    curvature: Tensor
    """Of -ln L, roughly, and positive; shape (P, n, n)."""


Likelihood = Callable[[Tensor, Tensor], Standing]
"""Of places (P, n), with a row (1,) of the table of blurs."""


class Minimizer(nn.Module):
    """Runs the stages of a level.

    Args:
        stages_by_level: Of each level.
        priors: Added to the curvature's diagonal, so that it can be inverted; one for each parameter.
    """

    blurs: Tensor
    begins: Tensor
    n_tries: Tensor
    priors: Tensor
    identity: Tensor

    def __init__(self, stages_by_level: Sequence[Stages], priors: Sequence[float]) -> None:
        super().__init__()
        rows = [
            [SIGMAS_NS.index(sigma_ns) for sigma_ns, n in stages for _ in range(n)]
            for stages in stages_by_level
        ]
        begins = [[i == 0 for _, n in stages for i in range(n)] for stages in stages_by_level]
        longest = max(map(len, rows))
        padding = [longest - len(row) for row in rows]
        self.register_buffer("blurs", torch.tensor([r + [0] * n for r, n in zip(rows, padding, strict=True)]))
        self.register_buffer(
            "begins", torch.tensor([b + [False] * n for b, n in zip(begins, padding, strict=True)])
        )
        self.register_buffer("n_tries", torch.tensor([len(row) for row in rows]))
        self.register_buffer("priors", torch.diag(torch.tensor(priors)))
        self.register_buffer("identity", torch.eye(len(priors)))

    def forward(
        self,
        likelihood: Likelihood,
        start: Tensor,
        level: Tensor,
        limited: Callable[[Tensor], Tensor] = lambda step: step,
    ) -> tuple[Tensor, Tensor]:
        """Go downhill.

        Args:
            likelihood: What to minimise.
            start: Shape (P, n).
            level: Which stages; shape (1,), int64.
            limited: Shortens steps (P, n) that are too long.

        Returns:
            The best places (P, n) and their -ln L (P,), both of the last stage.
        """
        blurs, begins = self.blurs[level][0], self.begins[level][0]

        def once(
            i: Tensor, place: Tensor, llh: Tensor, slope: Tensor, curvature: Tensor, damping: Tensor
        ) -> tuple[Tensor, ...]:
            is_first = begins[i]
            damped = curvature + self.identity * (damping * curvature) + self.priors
            equations = torch.cat((damped, slope), 2).permute(1, 2, 0)[..., None]
            step = limited(solve(equations)[..., 0].T)
            is_usable = (step.abs().amax(1, keepdim=True) < MAX_STEP) & ~is_first[:, None]
            step = torch.where(is_usable, step, torch.zeros_like(step))
            trial = place + step
            tried = likelihood(trial, blurs[i])
            is_better = (tried.llh < llh) | is_first
            damping = torch.where(is_better[:, None, None], damping * 0.3, damping * 4)
            learned = _learned(curvature, step[:, :, None], slope - tried.slope)
            first = is_first[:, None, None]
            return (
                i + 1,
                torch.where(is_better[:, None], trial, place),
                torch.where(is_better, tried.llh, llh),
                torch.where(is_better[:, None, None], tried.slope, slope),
                torch.where(first, tried.curvature, learned),
                torch.where(
                    first, torch.full_like(damping, FIRST_DAMPING), damping.clamp(MIN_DAMPING, MAX_DAMPING)
                ),
            )

        nothing = torch.zeros_like(start[:, 0])
        state = (
            torch.zeros_like(level),
            start,
            nothing,
            torch.zeros_like(start)[:, :, None],
            nothing[:, None, None] + self.identity,
            nothing[:, None, None] + FIRST_DAMPING,
        )
        _, place, llh, *_ = repeated(once, state, self.n_tries[level])
        return place, llh

    def last_blur(self, level: Tensor) -> Tensor:
        """Row (1,) of the table of blurs with which a level (1,) ends."""
        row: Tensor = self.blurs[level][0][self.n_tries[level] - 1]
        return row


def _learned(curvature: Tensor, step: Tensor, change: Tensor) -> Tensor:
    """The curvature (P, n, n) after a step (P, n, 1) that changed the slope of -ln L by `change` (P, n, 1)."""
    expected = curvature @ step
    along = (step * expected).sum(1, keepdim=True)
    found = (step * change).sum(1, keepdim=True)
    is_usable = along > ROUNDING
    trust = torch.where(
        found >= LEAST_CURVATURE * along,
        torch.ones_like(found),
        (1 - LEAST_CURVATURE) * along / (along - found),
    )
    mixed = trust * change + (1 - trust) * expected
    gained = mixed @ mixed.transpose(1, 2) / (step * mixed).sum(1, keepdim=True)
    lost = expected @ expected.transpose(1, 2) / along
    return torch.where(is_usable, curvature + gained - lost, curvature)


def repeated(
    body: Callable[..., tuple[Tensor, ...]], state: tuple[Tensor, ...], n: Tensor
) -> tuple[Tensor, ...]:
    """Apply a function n (1,) times to a state whose first element (1,) counts them from 0.

    As one loop in what is exported: 20 copies of a likelihood take seconds to load.
    """
    if not torch.compiler.is_exporting():
        for _ in range(int(n)):
            state = body(*state)
        return state

    def goes_on(i: Tensor, *_: Tensor) -> Tensor:
        return (i < n)[0]

    return while_loop(goes_on, body, state)
