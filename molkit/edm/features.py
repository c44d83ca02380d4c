"""Molecules as scaled tensors and back: element types as one-hot channels, the atomic number as one more."""

from dataclasses import dataclass

import torch
from torch import Tensor

from molkit.edm.config import EdmConfig
from molkit.errors import InvalidInput

SMALLEST_PROBABILITY = 1e-10  # added inside logarithms of bin masses, as in the authors' code


@dataclass(frozen=True)
class State:
    """Positions [A, 3] and features [A, n_h] of a batch: clean, noisy, or the noise itself."""

    positions: Tensor
    features: Tensor

    def map(self, function) -> "State":
        """The function applied to both parts."""
        return State(function(self.positions), function(self.features))


def type_channels(config: EdmConfig, atomic_numbers: Tensor) -> Tensor:
    """Channel of each atom's element, [A]. Raises InvalidInput for an element the model cannot place."""
    table = torch.full((256,), -1, dtype=torch.long, device=atomic_numbers.device)
    table[list(config.elements)] = torch.arange(config.num_types, device=atomic_numbers.device)
    channels = table[atomic_numbers.long()]
    if bool((channels < 0).any()):
        number = int(atomic_numbers[channels < 0][0])
        raise InvalidInput(f"this model places the elements with Z in {config.elements}, got Z = {number}")
    return channels


def channel_spreads(config: EdmConfig) -> Tensor:
    """Spread of each of the 3 + n_h columns of positions and features, [3 + n_h] float64.

    Raises InvalidInput where the configuration holds none.
    """
    wanted = 2 + int(config.atomic_number_channel)
    if len(config.spreads) != wanted or len(config.feature_means) != config.num_features:
        raise InvalidInput(
            f"a preconditioned model needs {wanted} spreads and {config.num_features} feature_means "
            "(molkit.edm.network.standardised takes them from the training molecules)"
        )
    counts = torch.tensor([3, config.num_types, 1][:wanted])
    return torch.tensor(config.spreads, dtype=torch.float64).repeat_interleave(counts)


def encode(config: EdmConfig, atomic_numbers: Tensor, positions: Tensor) -> State:
    """Scaled state of molecules: positions / n_x, one-hot / n_c, Z / n_i; atomic_numbers [A], positions [A, 3]."""
    one_hot = torch.nn.functional.one_hot(type_channels(config, atomic_numbers), config.num_types)
    columns = [one_hot.to(positions.dtype) / config.scale_types]
    if config.atomic_number_channel:
        columns.append(atomic_numbers.to(positions.dtype).unsqueeze(-1) / config.scale_atomic_number)
    return State(positions / config.scale_positions, torch.cat(columns, dim=-1))


def decode(config: EdmConfig, state: State) -> tuple[Tensor, Tensor]:
    """Atomic numbers [A] by the largest type channel (every class can win) and positions [A, 3] in angstrom.

    The atomic-number channel does not decide the element. Source: EDM, sampling; the authors' code loses the last
    class when it has no atomic-number channel.
    """
    elements = torch.tensor(config.elements, device=state.features.device)
    return elements[state.features[:, : config.num_types].argmax(-1)], state.positions * config.scale_positions


def _bin_mass(distance: Tensor, width: Tensor | float) -> Tensor:
    """Mass of a normal distribution of standard deviation `width` within half a unit of a point `distance` away."""
    upper = torch.special.ndtr((distance + 0.5) / width)
    return upper - torch.special.ndtr((distance - 0.5) / width)


def log_prob_types(config: EdmConfig, clean: State, noisy: Tensor, sigma: Tensor) -> Tensor:
    """log p(type | z_0) of every atom, [A]; noisy [A, n_h] features at step 0, sigma [A, 1].

    Class weights are the masses of N(n_c z_k, (n_c sigma)^2) on [1/2, 3/2], normalised over classes. Source: EDM,
    zeroth likelihood term.
    """
    width = config.scale_types * sigma
    weights = torch.log(
        _bin_mass(config.scale_types * noisy[:, : config.num_types] - 1.0, width) + SMALLEST_PROBABILITY
    )
    log_probability = torch.log_softmax(weights, dim=-1)
    truth = clean.features[:, : config.num_types].argmax(-1, keepdim=True)
    return log_probability.gather(-1, truth).squeeze(-1)


def log_prob_atomic_number(config: EdmConfig, clean: State, noisy: Tensor, sigma: Tensor) -> Tensor:
    """log p(Z | z_0) of every atom by the mass of the unit bin around Z, [A]; zero without that channel."""
    if not config.atomic_number_channel:
        return noisy.new_zeros(len(noisy))
    scale = config.scale_atomic_number
    distance = scale * (clean.features[:, -1] - noisy[:, -1])
    return torch.log(_bin_mass(distance, (scale * sigma).squeeze(-1)) + SMALLEST_PROBABILITY)
