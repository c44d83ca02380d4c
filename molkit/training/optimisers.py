"""Optimisers by name: AdamW, and Muon, which gives every direction of a hidden matrix the same step."""

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from molkit.training.config import TrainConfig

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of the quintic iteration
NUM_ITERATIONS = 5
MOMENTUM = 0.95
MATCHED_SIZE = 0.2  # root mean square of an AdamW step in units of the learning rate, as measured by the source


def make_optimiser(config: TrainConfig, network: nn.Module) -> Optimizer:
    """The optimiser of a configuration on the parameters of a network."""
    rates = {"lr": config.learning_rate, "weight_decay": config.weight_decay, "betas": config.betas}
    if config.optimiser == "adamw":
        return torch.optim.AdamW(network.parameters(), amsgrad=config.amsgrad, fused=True, **rates)
    hidden = hidden_matrices(network)
    known = {id(parameter) for parameter in hidden}
    return Muon(hidden, [parameter for parameter in network.parameters() if id(parameter) not in known], **rates)


def hidden_matrices(network: nn.Module) -> list[nn.Parameter]:
    """Weights that map hidden features to hidden features: matrices with more than one row and column.

    Layers that the network names in `outer_layers`, next to data, are left out.
    """
    outer = getattr(network, "outer_layers", ())
    return [
        parameter
        for name, parameter in network.named_parameters()
        if parameter.ndim == 2 and min(parameter.shape) > 1 and name.split(".")[0] not in outer
    ]


def orthogonalise(matrices: Tensor) -> Tensor:
    """Matrices [N, R, C] with their singular values moved near 1 (about 0.5 to 1.3), their singular vectors kept.

    Five steps of X <- a X + (b X X^T + c (X X^T)^2) X. Source: Jordan et al. 2024 (Muon).
    """
    wide = matrices.mT if matrices.shape[-2] > matrices.shape[-1] else matrices
    values = wide / wide.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    first, second, third = NEWTON_SCHULZ
    for _ in range(NUM_ITERATIONS):
        square = values @ values.mT
        values = first * values + (second * square + third * square @ square) @ values
    return values.mT if matrices.shape[-2] > matrices.shape[-1] else values


class Muon(Optimizer):
    """Momentum made orthogonal for hidden matrices, AdamW for all other parameters, at one learning rate.

    M <- 0.95 M + G; W <- W - lr 0.2 sqrt(max(R, C)) orthogonalise(G + 0.95 M): steps about as long as those of AdamW.
    Sources: Jordan et al. 2024 (Muon), Liu et al. 2025 (size of the step).
    """

    def __init__(
        self,
        hidden: list[nn.Parameter],
        others: list[nn.Parameter],
        *,
        lr: float,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        groups = [{"params": hidden, "orthogonal": True}, {"params": others, "orthogonal": False}]
        defaults = {"lr": lr, "weight_decay": weight_decay, "betas": betas, "eps": 1e-8}
        super().__init__([group for group in groups if group["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            torch._foreach_mul_(parameters, 1.0 - group["lr"] * group["weight_decay"])
            if group["orthogonal"]:
                self.step_matrices(parameters, group["lr"])
            else:
                self.step_others(parameters, group)

    def step_matrices(self, parameters: list[nn.Parameter], rate: float) -> None:
        """Orthogonal steps; matrices of one shape together."""
        by_shape: dict[torch.Size, list[nn.Parameter]] = {}
        for parameter in parameters:
            by_shape.setdefault(parameter.shape, []).append(parameter)
        for shape, alike in by_shape.items():
            momenta = [self.kept(parameter, "momentum") for parameter in alike]
            gradients = [parameter.grad for parameter in alike]
            torch._foreach_mul_(momenta, MOMENTUM)
            torch._foreach_add_(momenta, gradients)
            steps = orthogonalise(torch.stack(torch._foreach_add(gradients, momenta, alpha=MOMENTUM)))
            torch._foreach_add_(alike, list(steps), alpha=-rate * MATCHED_SIZE * max(shape) ** 0.5)

    def step_others(self, parameters: list[nn.Parameter], group: dict) -> None:
        """AdamW: W <- W - lr m / (1 - b1^k) / (sqrt(v / (1 - b2^k)) + eps). Source: Kingma and Ba 2015."""
        first, second = group["betas"]
        steps = [self.kept(parameter, "step", scalar=True) for parameter in parameters]
        means = [self.kept(parameter, "exp_avg") for parameter in parameters]
        squares = [self.kept(parameter, "exp_avg_sq") for parameter in parameters]
        gradients = [parameter.grad for parameter in parameters]
        torch._foreach_add_(steps, 1.0)
        torch._foreach_lerp_(means, gradients, 1.0 - first)
        torch._foreach_mul_(squares, second)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1.0 - second)
        count = float(steps[0])
        spread = torch._foreach_sqrt(torch._foreach_div(squares, 1.0 - second**count))
        torch._foreach_add_(spread, group["eps"])
        torch._foreach_addcdiv_(parameters, means, spread, value=-group["lr"] / (1.0 - first**count))

    def kept(self, parameter: nn.Parameter, key: str, *, scalar: bool = False) -> Tensor:
        """What is remembered of a parameter, zero at first."""
        state = self.state[parameter]
        if key not in state:
            state[key] = torch.zeros(()) if scalar else torch.zeros_like(parameter)
        return state[key]
