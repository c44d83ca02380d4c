"""Rules for one step of a chain from noise to molecules. A rule is four numbers that follow from the schedule."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from molkit.edm.features import State
from molkit.edm.schedule import alpha, sigma, transition


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


@dataclass(frozen=True)
class Sampler:
    """A named way to run the chain."""

    name: str
    rule: StepRule
    memory: bool = False  # uses the clean state predicted at the call before


def ancestral_weights(log_snr_now: Tensor, log_snr_next: Tensor, log_snr_before: Tensor | None = None) -> StepWeights:
    """p(z_s | z_t) of the paper: the posterior q(z_s | z_t, x) with the predicted clean state for x.

    z_s = z_t / alpha_{t|s} - sigma^2_{t|s} / (alpha_{t|s} sigma_t) predicted + sigma_{t|s} sigma_s / sigma_t noise.
    Source: EDM, sampling algorithm.
    """
    ratio, variance = transition(log_snr_next, log_snr_now)
    spread = sigma(log_snr_now)
    width = torch.sqrt(variance) * sigma(log_snr_next) / spread
    return StepWeights(float(1.0 / ratio), -float(variance / (ratio * spread)), 0.0, float(width))


ANCESTRAL = Sampler("ancestral", ancestral_weights)


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
