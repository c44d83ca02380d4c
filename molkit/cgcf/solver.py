"""Solving the flow's differential equation: fixed Runge-Kutta steps, or torchdiffeq's dopri5 as reference."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from molkit.errors import CalculationFailed, InvalidInput

State = tuple[Tensor, ...]
Rhs = Callable[[Tensor, State], State]


@dataclass(frozen=True)
class Solver:
    """How to integrate: `rk4` in a number of steps, or `dopri5` to a tolerance, with adjoint gradients."""

    method: Literal["rk4", "dopri5"] = "rk4"
    steps: int = 8
    tolerance: float = 1e-5
    grading: float = 1.0  # of fixed steps: above 1 they are shorter near the smaller time, where the data are

    def __post_init__(self) -> None:
        if self.method not in ("rk4", "dopri5"):
            raise InvalidInput(f"unknown solver {self.method!r}: expected rk4 or dopri5")
        if self.steps < 1 or not self.tolerance > 0.0:
            raise InvalidInput(f"need steps >= 1 and tolerance > 0, got {self.steps} and {self.tolerance}")
        if not self.grading >= 1.0:
            raise InvalidInput(f"the grading of steps must be at least 1, got {self.grading}")

    def times(self, start: Tensor, end: Tensor) -> list[Tensor]:
        """Where fixed steps begin and end: fractions k/n of the way from the smaller time, to the power `grading`."""
        shares = [(k / self.steps) ** self.grading for k in range(self.steps + 1)]
        if bool(start <= end):
            return [start + share * (end - start) for share in shares]
        return [end + share * (start - end) for share in reversed(shares)]


def solve(
    rhs: Rhs, state: State, start: Tensor, end: Tensor, solver: Solver, *, parameters: Sequence[Tensor] = ()
) -> State:
    """The state at time `end`. `parameters`: tensors behind rhs, which the adjoint method must know.

    Raises CalculationFailed when dopri5 cannot go on (a value that is not finite, or steps that become too small).
    """
    if solver.method == "rk4":
        return _runge_kutta(rhs, state, solver.times(start, end))
    from torchdiffeq import odeint, odeint_adjoint

    times = torch.stack([start, end])
    options = {"rtol": solver.tolerance, "atol": solver.tolerance, "method": "dopri5"}
    try:
        if torch.is_grad_enabled():
            found = odeint_adjoint(rhs, state, times, adjoint_params=tuple(parameters), **options)
        else:
            found = odeint(rhs, state, times, **options)
    except AssertionError as error:
        raise CalculationFailed(f"dopri5 could not follow the flow ({error}); are all distances finite?") from error
    return tuple(part[-1] for part in found)


def _runge_kutta(rhs: Rhs, state: State, times: Sequence[Tensor]) -> State:
    """Classical Runge-Kutta of fourth order."""

    def moved(by: Tensor, slope: State) -> State:
        return tuple(part + by * change for part, change in zip(state, slope, strict=True))

    for t, after in zip(times[:-1], times[1:], strict=True):
        h = after - t
        one = rhs(t, state)
        two = rhs(t + h / 2, moved(h / 2, one))
        three = rhs(t + h / 2, moved(h / 2, two))
        four = rhs(after, moved(h, three))
        slope = tuple((a + 2 * b + 2 * c + d) / 6 for a, b, c, d in zip(one, two, three, four, strict=True))
        state = moved(h, slope)
    return state
