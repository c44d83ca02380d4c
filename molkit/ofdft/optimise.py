"""Minimise the energy over densities: projected descent with momentum, or L-BFGS; nothing chosen by hand."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import minimize

from molkit.errors import CalculationFailed, InvalidInput

EnergyOfVariables = Callable[[np.ndarray], tuple[float, np.ndarray]]
Method = Literal["lbfgs", "descent"]
METHODS: tuple[str, ...] = ("lbfgs", "descent")


@dataclass(frozen=True)
class OptimiseOptions:
    """How to minimise. tolerance: norm of the projected gradient, hartree per unit of the variables.

    step and momentum are of the descent: step 1e-3 and no momentum in M-OFDFT's released code; 3e-3 and 0.9 in
    STRUCTURES25, which projects the update once more.
    """

    method: Method = "lbfgs"
    tolerance: float = 1e-6
    max_steps: int = 500
    step: float = 1e-3
    momentum: float = 0.0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InvalidInput(f"method must be one of {', '.join(METHODS)}, got {self.method!r}")
        if self.tolerance <= 0.0 or self.max_steps < 1 or self.step <= 0.0 or not 0.0 <= self.momentum < 1.0:
            raise InvalidInput("need tolerance > 0, max_steps >= 1, step > 0 and momentum in 0..1")


@dataclass(frozen=True, eq=False)
class Optimised:
    """The last density of a minimisation, and the way there; hartree.

    energies and gradient_norms [T] hold the start and every step; `selected` is the step after which the energy moved
    least, the rule that the paper's code applies in distribution. It is shown beside the last one, never instead.
    """

    variables: np.ndarray
    energies: np.ndarray
    gradient_norms: np.ndarray
    selected: int
    converged: bool

    @property
    def energy(self) -> float:
        """Energy of the last density."""
        return float(self.energies[-1])

    @property
    def selected_energy(self) -> float:
        """Energy of the selected step."""
        return float(self.energies[self.selected])

    @property
    def num_steps(self) -> int:
        """Steps taken."""
        return len(self.energies) - 1


def projected(gradient: np.ndarray, constraint: np.ndarray | None) -> np.ndarray:
    """The gradient without its part along the constraint's derivative, so that a step keeps the electron number."""
    if constraint is None:
        return gradient
    return gradient - constraint * float(constraint @ gradient) / float(constraint @ constraint)


def optimise(
    energy: EnergyOfVariables,
    start: np.ndarray,
    *,
    constraint: np.ndarray | None = None,
    options: OptimiseOptions | None = None,
) -> Optimised:
    """Minimise from `start`, at constant constraint . variables where a constraint is given.

    Ends with converged=False when max_steps are taken or the method cannot move. Raises CalculationFailed where the
    energy stops being a number.
    """
    options = options or OptimiseOptions()
    trace = _Trace(energy, constraint)
    run = _lbfgs if options.method == "lbfgs" else _descend
    last = run(trace, np.array(start, dtype=np.float64), options)
    energies, norms = np.array(trace.energies), np.array(trace.norms)
    moves = np.abs(np.diff(energies))
    selected = int(np.argmin(moves)) + 1 if len(moves) else 0
    return Optimised(last, energies, norms, selected, bool(norms[-1] <= options.tolerance))


class _Trace:
    """The projected problem, and what has been met on the way."""

    def __init__(self, energy: EnergyOfVariables, constraint: np.ndarray | None) -> None:
        self.energy, self.constraint = energy, constraint
        self.energies: list[float] = []
        self.norms: list[float] = []

    def __call__(self, variables: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = self.energy(variables)
        if not np.isfinite(value) or not np.isfinite(gradient).all():
            raise CalculationFailed(f"the energy is not a number after {len(self.energies)} steps of the density")
        return value, projected(gradient, self.constraint)

    def note(self, value: float, gradient: np.ndarray) -> None:
        self.energies.append(float(value))
        self.norms.append(float(np.linalg.norm(gradient)))


def _descend(trace: _Trace, variables: np.ndarray, options: OptimiseOptions) -> np.ndarray:
    velocity = np.zeros_like(variables)
    value, gradient = trace(variables)
    trace.note(value, gradient)
    for _ in range(options.max_steps):
        if trace.norms[-1] <= options.tolerance:
            break
        velocity = projected(options.momentum * velocity - options.step * gradient, trace.constraint)
        variables = variables + velocity
        value, gradient = trace(variables)
        trace.note(value, gradient)
    return variables


def _lbfgs(trace: _Trace, variables: np.ndarray, options: OptimiseOptions) -> np.ndarray:
    """SciPy's L-BFGS on start + P y: the flat direction is never entered."""
    start, points = variables, {}

    def of_move(move: np.ndarray) -> tuple[float, np.ndarray]:
        found = trace(start + projected(move, trace.constraint))
        points[move.tobytes()] = found
        return found

    def on_step(move: np.ndarray) -> None:
        trace.note(*points[move.tobytes()])
        points.clear()
        if trace.norms[-1] <= options.tolerance:
            raise StopIteration

    trace.note(*trace(start))
    if trace.norms[-1] <= options.tolerance:
        return start
    settings = {"maxiter": options.max_steps, "maxfun": 4 * options.max_steps, "maxcor": 30, "ftol": 0.0, "gtol": 0.0}
    found = minimize(of_move, np.zeros_like(start), jac=True, method="L-BFGS-B", callback=on_step, options=settings)
    return start + projected(found.x, trace.constraint)
