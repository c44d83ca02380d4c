"""The noise predictor written a second time, densely: padded molecules, every pair concatenated, no split layer."""

import math

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from molkit.edm.network import EdmNetwork


def mlp(state: dict[str, Tensor], names: tuple[str, str], inputs: Tensor) -> Tensor:
    """Linear, SiLU, Linear with the named weights."""
    first, second = names
    hidden = silu(linear(inputs, state[f"{first}.weight"], state[f"{first}.bias"]))
    return linear(hidden, state[f"{second}.weight"], state[f"{second}.bias"])


def edge_columns(squared: Tensor, sine: bool) -> Tensor:
    """Squared distances [B, N, N, 1], or twelve sines and cosines of the distance."""
    if not sine:
        return squared
    waves = torch.cat([torch.sqrt(squared + 1e-8) * 2.0 * math.pi * 4**k / 15.0 for k in range(6)], dim=-1)
    return torch.cat([torch.sin(waves), torch.cos(waves)], dim=-1)


def padded_egnn(network: EdmNetwork, features: Tensor, positions: Tensor, t: Tensor, mask: Tensor):
    """features [B, N, n_h], positions [B, N, 3], t [B], mask [B, N, 1] -> velocity and features' noise, padded.

    Source: the EGNN of EDM and its noise predictor, with all three inputs of a pair concatenated.
    """
    config, state = network.config, network.state_dict()
    num = mask.shape[1]
    others = mask[:, :, None] * mask[:, None, :] * (1.0 - torch.eye(num, dtype=mask.dtype))[None, :, :, None]
    neighbours = (mask.sum(1) - 1.0).clamp(min=1.0)[:, None]
    divisor = neighbours if config.aggregation == "mean" else torch.tensor(config.message_scale)
    time = t[:, None, None].expand(-1, num, 1)
    hidden = linear(torch.cat([features, time], -1), state["embed.weight"], state["embed.bias"]) * mask
    x, first = positions, None
    for number in range(config.num_layers):
        difference = x[:, :, None] - x[:, None, :]
        squared = difference.square().sum(-1, keepdim=True)
        first = squared if first is None else first
        columns = [edge_columns(squared, config.sine_embedding), edge_columns(first, config.sine_embedding)]

        def pairs(hidden, columns=columns):
            receiver, sender = hidden[:, :, None].expand(-1, -1, num, -1), hidden[:, None].expand(-1, num, -1, -1)
            return torch.cat([receiver, sender, *columns], dim=-1)

        for layer in range(config.message_sublayers):
            name = f"blocks.{number}.messages.{layer}"
            message = silu(mlp(state, (f"{name}.pair.first", f"{name}.pair.second"), pairs(hidden)))
            if config.attention:
                gate = linear(message, state[f"{name}.gate.weight"], state[f"{name}.gate.bias"])
                message = message * torch.sigmoid(gate)
            pooled = (message * others).sum(2) / divisor
            update = mlp(state, (f"{name}.update.0", f"{name}.update.2"), torch.cat([hidden, pooled], -1))
            hidden = (hidden + update) * mask
        name = f"blocks.{number}.coordinates"
        length = silu(mlp(state, (f"{name}.pair.first", f"{name}.pair.second"), pairs(hidden)))
        length = linear(length, state[f"{name}.length.weight"])
        length = 15.0 * torch.tanh(length) if config.bounded_steps else length
        unit = difference / (torch.sqrt(squared + 1e-8) + 1.0)
        x = (x + (unit * length * others).sum(2) / divisor) * mask
    out = linear(hidden, state["read_out.weight"], state["read_out.bias"]) * mask
    velocity = (x - positions) * mask
    velocity = (velocity - velocity.sum(1, keepdim=True) / mask.sum(1, keepdim=True)) * mask
    return velocity, out[..., : config.num_features]
