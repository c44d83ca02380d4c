"""Rules for one step of a chain from noise to molecules. A rule is four numbers that follow from the schedule.

All of them are linear in the state, so they keep positions on the zero-mean subspace and turn with the molecule.

Steps of a chain are integers and strictly decreasing, so the network is only asked for steps it was trained on.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from molkit.edm.features import State
from molkit.edm.schedule import alpha, sigma, transition
from molkit.errors import InvalidInput


@dataclass(frozen=True)
class StepWeights:
    """The next state is the sum of these times: the noisy state, the predicted noise, the change of the predicted
    clean state since the call before, and fresh standard normal noise."""

    noisy: float
    predicted: float
    change: float
    noise: float


# log_snr of the noisy state, of the cleaner one to reach, and of the state of the call before (None at the first)
StepRule = Callable[[Tensor, Tensor, Tensor | None], StepWeights]


def ancestral_weights(log_snr_now: Tensor, log_snr_next: Tensor, log_snr_before: Tensor | None = None) -> StepWeights:
    """p(z_s | z_t) of the paper: the posterior q(z_s | z_t, x) with the predicted clean state for x.

    z_s = z_t / alpha_{t|s} - sigma^2_{t|s} / (alpha_{t|s} sigma_t) predicted + sigma_{t|s} sigma_s / sigma_t noise.
    Source: EDM, sampling algorithm.
    """
    ratio, variance = transition(log_snr_next, log_snr_now)
    spread = sigma(log_snr_now)
    width = torch.sqrt(variance) * sigma(log_snr_next) / spread
    return StepWeights(float(1.0 / ratio), -float(variance / (ratio * spread)), 0.0, float(width))


def exponential_weights(
    log_snr_now: Tensor, log_snr_next: Tensor, log_snr_before: Tensor | None, *, churn: float, order: int
) -> StepWeights:
    """The reverse equation with noise `churn` solved exactly for a clean state that is constant or linear in log-SNR.

    With lambda = log_snr / 2, h the step in lambda and c = 1 + churn^2:
    z_s = sigma_s / sigma_t exp(-churn^2 h) z_t + alpha_s (1 - exp(-c h)) x
    + alpha_s (h - (1 - exp(-c h)) / c) / h_before (x - x_before) + sigma_s sqrt(1 - exp(-2 churn^2 h)) noise.
    churn 0 is the flow without noise (order 1: DDIM; order 2: DPM-Solver++(2M) up to the third order of a step),
    churn 1 the reverse diffusion (order 1: the ancestral step). Source: derived here from Lu et al. 2022
    (DPM-Solver++, multistep and stochastic variants) and Xue et al. 2023 (SA-Solver).
    """
    step = 0.5 * float(log_snr_next - log_snr_now)
    signal, spread = float(alpha(log_snr_now)), float(sigma(log_snr_now))
    signal_next, spread_next = float(alpha(log_snr_next)), float(sigma(log_snr_next))
    pace = 1.0 + churn**2
    clean = -signal_next * math.expm1(-pace * step)
    change = 0.0
    if order == 2 and log_snr_before is not None:
        change = signal_next * (step + math.expm1(-pace * step) / pace) / (0.5 * float(log_snr_now - log_snr_before))
    keep = spread_next / spread * math.exp(-(churn**2) * step)
    width = spread_next * math.sqrt(-math.expm1(-2.0 * churn**2 * step))
    return StepWeights(keep + clean / signal, -clean * spread / signal, change, width)


@dataclass(frozen=True)
class NoiseWindow:
    """Noise levels sigma / alpha (angstrom, for unscaled positions) between which a chain is given extra noise."""

    low: float
    high: float
    churn: float

    def at(self, log_snr: Tensor) -> float:
        """The churn of a step that begins at this noise level: 1, the reverse diffusion's, outside the window."""
        return self.churn if self.low <= math.exp(-0.5 * float(log_snr)) <= self.high else 1.0


def windowed_weights(
    log_snr_now: Tensor, log_snr_next: Tensor, log_snr_before: Tensor | None, *, window: NoiseWindow, order: int
) -> StepWeights:
    """`exponential_weights` with more noise put back, and so more of it removed again, inside a window of levels.

    Any churn leaves the law of every level as it is where the network is exact (the stochastic equations of Karras et
    al. 2022, section 4); where it errs, a stronger churn forgets the errors made before. Source: VEDA (arXiv
    2511.09568) for molecules; the window is ours.
    """
    churn = window.at(log_snr_now)
    return exponential_weights(log_snr_now, log_snr_next, log_snr_before, churn=churn, order=order)


@dataclass(frozen=True)
class Sampler:
    """A named way to run the chain: the rule of a step, and the grid of steps it takes when calls are saved."""

    name: str
    rule: StepRule
    grid: str = "even"
    first: float = 1.0  # part of T at which the network is first asked when calls are saved; the way there is blind
    memory: bool = False  # uses the clean state predicted at the call before
    fine: tuple[int, int] | None = None  # all steps of this part of the chain are taken besides, at extra calls


def exponential(name: str, *, churn: float, order: int, grid: str, first: float = 1.0) -> Sampler:
    """A sampler of the exponential family."""
    return Sampler(name, partial(exponential_weights, churn=churn, order=order), grid, first, memory=order > 1)


def extra_noise(name: str, window: NoiseWindow) -> Sampler:
    """The second-order sampler with extra noise in a window of noise levels."""
    return Sampler(name, partial(windowed_weights, window=window, order=2), "quadratic", FIRST, memory=True)


FIRST = 0.99  # signal over noise 0.02: 0.02 nats a molecule are lost by not looking earlier
ANCESTRAL = Sampler("ancestral", ancestral_weights)
SAMPLERS = {
    sampler.name: sampler
    for sampler in (
        ANCESTRAL,
        Sampler("ancestral-quadratic", ancestral_weights, "quadratic", FIRST),
        exponential("sde-2m", churn=1.0, order=2, grid="quadratic", first=FIRST),
        extra_noise("sde-2m-extra", NoiseWindow(0.1, 0.7, churn=3.0)),
        exponential("sde-2m-even", churn=1.0, order=2, grid="even"),
        exponential("dpm-2m", churn=0.0, order=2, grid="quadratic", first=FIRST),
        exponential("ddim", churn=0.0, order=1, grid="quadratic", first=FIRST),
    )
}


@dataclass(frozen=True)
class Setting:
    """A sampler with a number of network calls."""

    sampler: str
    num_calls: int


DEFAULT = Setting("sde-2m-extra", 100)  # by the race of the chapter on fewer steps
LEAST_CALLS_WITH_EXTRA = 50  # with 20 the extra noise is not taken out again, and molecules are lost


def default_sampler(num_calls: int | None) -> Sampler:
    """The sampler for a number of network calls where none is named: the paper's chain for all of them (None)."""
    if num_calls is None:
        return ANCESTRAL
    return SAMPLERS[DEFAULT.sampler if num_calls >= LEAST_CALLS_WITH_EXTRA else "sde-2m"]


def sampler_named(name: str | Sampler) -> Sampler:
    """The sampler of that name, or the sampler itself. Raises InvalidInput with the names that exist."""
    if isinstance(name, Sampler):
        return name
    if name not in SAMPLERS:
        raise InvalidInput(f"sampler must be one of {', '.join(SAMPLERS)}, got {name!r}")
    return SAMPLERS[name]


def take_step(weights: StepWeights, noisy: State, predicted: State, change: State | None, noise: State | None) -> State:
    """The next state; positions must be centred again afterwards. `change` and `noise` None count as zero."""

    def mixed(part: Callable[[State], Tensor]) -> Tensor:
        value = weights.noisy * part(noisy) + weights.predicted * part(predicted)
        if change is not None:
            value = value + weights.change * part(change)
        return value if noise is None else value + weights.noise * part(noise)

    return State(mixed(lambda state: state.positions), mixed(lambda state: state.features))


def clean_state(noisy: State, predicted: State, log_snr: Tensor) -> State:
    """The clean state that the predicted noise stands for: (z - sigma predicted) / alpha."""
    signal, spread = float(alpha(log_snr)), float(sigma(log_snr))
    return State(
        (noisy.positions - spread * predicted.positions) / signal,
        (noisy.features - spread * predicted.features) / signal,
    )


def without_signal(noisy: State, log_snr: Tensor) -> State:
    """The noise of a state in which no molecule can be seen: its clean state is zero.

    At step T a network's error is divided by alpha_T, three thousandths: what it says there of the clean state is worse
    than nothing, and a long step would carry it into the chain.
    """
    spread = float(sigma(log_snr))
    return noisy.map(lambda part: part / spread)


def difference(first: State, second: State) -> State:
    """first - second, in both parts."""
    return State(first.positions - second.positions, first.features - second.features)


def final_step(noisy: State, predicted: State, noise: State | None, log_snr: Tensor) -> State:
    """Positions from p(x | z_0), a sample or (noise None) the mean; the features stay as they are at step 0."""
    signal, spread = float(alpha(log_snr)), float(sigma(log_snr))
    positions = (noisy.positions - spread * predicted.positions) / signal
    if noise is not None:
        positions = positions + spread / signal * noise.positions
    return State(positions, noisy.features)


GRIDS = ("even", "quadratic")


def step_grid(num_steps: int, num_calls: int | None, *, start: int | None = None, end: int = 0) -> list[int]:
    """Decreasing steps from `start` (default T) to `end`; with num_calls, that many network calls evenly in t.

    One call a step down, and one at step 0 where the chain ends there. Raises InvalidInput outside 0..T.
    """
    start = num_steps if start is None else start
    if not 0 <= end < start <= num_steps:
        raise InvalidInput(f"need 0 <= end < start <= {num_steps} steps, got start {start} and end {end}")
    downs = start - end if num_calls is None else num_calls - int(end == 0)
    if not 1 <= downs <= start - end:
        last = start - end + int(end == 0)
        raise InvalidInput(f"number of network calls must lie in {1 + int(end == 0)}..{last}, got {num_calls}")
    return [round(start - (start - end) * k / downs) for k in range(downs + 1)]


def grid_steps(
    num_steps: int, num_calls: int | None, *, grid: str = "even", start: int | None = None, end: int = 0
) -> list[int]:
    """`step_grid`, or with grid "quadratic" equal distances in the square root of t: its smallest steps at the end.

    Where the square root asks for more than one visit of an integer step, the neighbours are taken.
    Raises InvalidInput for an unknown grid, and as `step_grid`.
    """
    if grid not in GRIDS:
        raise InvalidInput(f"the grid of steps must be one of {', '.join(GRIDS)}, got {grid!r}")
    steps = step_grid(num_steps, num_calls, start=start, end=end)
    if grid == "even" or num_calls is None:
        return steps
    between = np.arange(end, steps[0] + 1)
    points = np.interp(np.linspace(steps[0] ** 0.5, end**0.5, len(steps)), np.sqrt(between), between)
    return distinct_steps(points.tolist())


def distinct_steps(points: list[float]) -> list[int]:
    """Integers near the decreasing `points`, strictly decreasing, the ends kept; there must be room for them."""
    start, end, last = round(points[0]), round(points[-1]), len(points) - 1
    steps = [round(point) for point in points]
    for k in range(last - 1, -1, -1):
        steps[k] = max(steps[k], steps[k + 1] + 1)
    return [min(step, start - k) if k < last else end for k, step in enumerate(steps)]
