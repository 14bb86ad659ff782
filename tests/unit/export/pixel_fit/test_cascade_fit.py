import json
import math
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.pixel_fit.cascade import STAGES, CascadeFit, _Event
from export.pixel_fit.tables import SIGMAS_NS
from export.pixel_fit.to_onnx import cascade_question
from icestream.physics.cascade_likelihood import Shower, cascade_llh
from icestream.physics.detector import icecube86
from icestream.physics.muons import EM_LIGHT_M_PER_GEV
from icestream.runtime.canary import read_known_answer

FloatArray = NDArray[np.float64]
VERSION = Path(__file__).parents[4] / "model_repository" / "pixel_fit_cascade" / "1"
MAX_PHOTONS = 20.0
TIME_NS = 1000.0


@cache
def fit() -> CascadeFit:
    return CascadeFit().eval()


def single(values: object) -> Tensor:
    return torch.tensor(np.asarray(values), dtype=torch.float32)


class Case:
    """A random shower in IceCube and made-up hits around it."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        detector = icecube86()
        self.position = rng.uniform(-300, 300, 3)
        self.direction = rng.normal(size=3)
        self.direction /= np.linalg.norm(self.direction)
        self.energy = float(10 ** rng.uniform(2, 5))
        away = np.linalg.norm(detector.positions_m - self.position, axis=1)
        # Level paths are left out: there torch takes the module's own ice, the reference the ice half-way.
        is_level = np.abs(detector.positions_m[:, 2] - self.position[2]) < 5.5
        near = np.argsort(np.where(is_level, np.inf, away))[:200:2]
        charge = rng.uniform(0, 20, len(near)) * (rng.random(len(near)) < 0.5)
        self.modules = np.column_stack((detector.positions_m[near], charge, detector.efficiency[near]))
        times = TIME_NS + away[near] * 4.6 + rng.gamma(2, 100, len(near)) - 30
        self.hits = np.column_stack((detector.positions_m[near], times, rng.integers(1, 30, len(near))))[:40]
        travel = single(-self.direction)[None]
        self.event = _Event(
            fit(), travel, single(self.hits), single(self.modules), torch.tensor([MAX_PHOTONS])
        )
        seed_place = single([[*self.position, TIME_NS]])
        brightness = math.log(EM_LIGHT_M_PER_GEV * self.energy)
        self.shower = torch.cat((self.event.relative(seed_place), torch.tensor([[brightness]])), 1)

    def standing(self, shower: Tensor, blur: int) -> tuple[float, float, FloatArray]:
        with torch.no_grad():
            found = self.event.likelihood(shower, torch.tensor([blur]))
            timing_llh, _ = self.event.times(shower, torch.tensor([blur]))
        return found.llh.item(), timing_llh.item(), found.slope[0, :, 0].double().numpy()


@pytest.mark.parametrize("seed", range(6))
def test_the_tensor_program_holds_the_reference_likelihood(seed: int) -> None:
    case = Case(seed)
    sigma_ns = STAGES[-1][-1][0]
    llh, timing, _ = case.standing(case.shower, SIGMAS_NS.index(sigma_ns))
    shower = Shower((case.position[0], case.position[1], case.position[2]), TIME_NS, case.energy)
    expected = cascade_llh(
        case.direction,
        shower,
        case.hits,
        case.modules,
        sigma_ns=sigma_ns,
        max_photons=MAX_PHOTONS,
    )
    # Float32 sums of some thousand; both are the same formulas.
    assert llh - timing == pytest.approx(expected.charge, rel=1e-4, abs=0.05)
    # The table is linear between its nodes, and stretched by the ice's rate, its blur with it: by up to 2.
    assert timing == pytest.approx(expected.timing, abs=0.1 * len(case.hits))


@pytest.mark.parametrize(
    "blur", sorted({SIGMAS_NS.index(sigma_ns) for stages in STAGES for sigma_ns, _ in stages})
)
@pytest.mark.parametrize("seed", range(4))
def test_the_slopes_are_those_of_the_likelihood(seed: int, blur: int) -> None:
    case = Case(seed)
    slopes = case.standing(case.shower, blur)[2]
    for i, h in enumerate((0.2, 0.2, 0.2, 0.5, 0.01)):
        step = torch.zeros(1, 5)
        step[0, i] = h
        after, before = case.standing(case.shower + step, blur)[0], case.standing(case.shower - step, blur)[0]
        # A float32 llh of up to 5000 is exact to 5e-4; and slopes jump between the table's nodes.
        assert -(after - before) / (2 * h) == pytest.approx(slopes[i], rel=0.03, abs=1e-3 / h + 0.1)


def test_a_shower_is_found_where_it_is() -> None:
    question = {name: torch.from_numpy(value) for name, value in cascade_question(4).items()}
    with torch.no_grad():
        llh, timing, position, time, energy = fit()(*question.values())
    assert torch.isfinite(llh).all()
    assert (timing <= llh).all()
    np.testing.assert_allclose(position.numpy(), np.tile((10, -15, 5), (4, 1)), atol=30)
    assert (time.abs() < 150).all()
    assert (energy > 0).all()


def test_the_better_of_two_tries_is_returned() -> None:
    question = {name: torch.from_numpy(value) for name, value in cascade_question(4).items()}
    with torch.no_grad():
        both = fit()(*question.values())[0]
        alone = [fit()(*{**question, "seeds": question["seeds"][:, i : i + 1]}.values())[0] for i in range(2)]
    torch.testing.assert_close(both, torch.minimum(*alone), rtol=1e-4, atol=1e-2)


def test_the_shipped_model_answers_as_its_canary_says() -> None:
    known = read_known_answer(VERSION / "canary.json")
    session = onnxruntime.InferenceSession(str(VERSION / "model.onnx"), providers=["CPUExecutionProvider"])
    answers = session.run(list(known.outputs), dict(known.inputs))
    for (name, expected), answer in zip(known.outputs.items(), answers, strict=True):
        np.testing.assert_allclose(
            answer, expected, atol=known.tolerance * np.abs(expected).max(), err_msg=name
        )


def test_the_shipped_model_is_this_source() -> None:
    card = json.loads((VERSION / "model_card.json").read_bytes())
    assert max(card["torch_to_onnx"].values()) < 5e-3
    question = cascade_question(8)
    known = read_known_answer(VERSION / "canary.json")
    with torch.no_grad():
        llh = fit()(*(torch.from_numpy(value) for value in question.values()))[0].numpy()
    np.testing.assert_allclose(llh, known.outputs["llh"], rtol=1e-3)
