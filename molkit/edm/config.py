"""Everything needed to rebuild an untrained EDM."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from molkit.errors import InvalidInput

# Training-set histogram of the number of atoms, QM9 with hydrogens, 100,000 molecules (published split).
QM9_SIZES = (
    (3, 1), (4, 4), (5, 5), (6, 9), (7, 16), (8, 49), (9, 124), (10, 362), (11, 807), (12, 1689), (13, 3060),
    (14, 5136), (15, 7796), (16, 10644), (17, 13025), (18, 13364), (19, 13832), (20, 9482), (21, 9970),
    (22, 3393), (23, 4848), (24, 539), (25, 1506), (26, 48), (27, 266), (29, 25),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class EdmConfig:
    """Sizes and conventions of one EDM; defaults are the paper's QM9 model.

    Source: papers's appendix and the arguments of the authors' released QM9 model. `mean` aggregation divides by
    M - 1 (the authors' code divides by the padded count).
    """

    elements: tuple[int, ...] = (1, 6, 7, 8, 9)  # atomic numbers it can place, in the order of the type channels
    atomic_number_channel: bool = True  # one more channel that holds Z
    sizes: tuple[tuple[int, int], ...] = QM9_SIZES  # (number of atoms, count in the training set)
    architecture: Literal["egnn", "gdm"] = "egnn"  # gdm: plain message passing on positions, without symmetry
    width: int = 256
    num_layers: int = 9
    message_sublayers: int = 1
    attention: bool = True
    bounded_steps: bool = True  # tanh on the coordinate step
    step_range: float = 15.0
    norm_constant: float = 1.0
    sine_embedding: bool = False
    message_scale: float = 1.0
    aggregation: Literal["sum", "mean"] = "sum"
    num_context: int = 0  # columns of the context; with names, a value and a flag for each
    context_names: tuple[str, ...] = ()  # properties that a sample can be asked for (edm.conditions)
    context_means: tuple[float, ...] = ()  # with which they are normalised, in their units
    context_spreads: tuple[float, ...] = ()
    parametrisation: Literal["noise", "preconditioned"] = "noise"  # the paper's, or that of edm.network
    feature_means: tuple[float, ...] = ()  # of a preconditioned model: mean of each feature channel,
    spreads: tuple[float, ...] = ()  # and spread of positions, type channels and atomic number, scaled units
    num_steps: int = 1000
    schedule: Literal["polynomial", "cosine"] = "polynomial"
    schedule_power: float = 2.0
    schedule_offset: float = 1e-5
    scale_positions: float = 1.0
    scale_types: float = 4.0
    scale_atomic_number: float = 10.0

    def __post_init__(self) -> None:
        if len(set(self.elements)) != len(self.elements) or not self.elements:
            raise InvalidInput(f"elements must be different atomic numbers, got {self.elements}")
        if not all(1 <= number <= 118 for number in self.elements):
            raise InvalidInput(f"elements must be atomic numbers in 1..118, got {self.elements}")
        for name in ("width", "num_layers", "num_steps", "message_sublayers"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("message_scale", "step_range", "scale_positions", "scale_types", "scale_atomic_number"):
            if not 0.0 < getattr(self, name) < float("inf"):
                raise InvalidInput(f"{name} must be a positive number, got {getattr(self, name)}")
        if self.context_names and self.num_context != 2 * len(self.context_names):
            raise InvalidInput(f"{len(self.context_names)} properties make num_context {2 * len(self.context_names)}")
        if not len(self.context_means) == len(self.context_spreads) == len(self.context_names):
            raise InvalidInput("context_means and context_spreads must hold one number for each of context_names")
        if any(not 0.0 < spread < float("inf") for spread in self.spreads):
            raise InvalidInput(f"spreads must be positive numbers, got {self.spreads}")
        if not self.sizes or any(size < 1 or count < 1 for size, count in self.sizes):
            raise InvalidInput("sizes must list (number of atoms, count) pairs, all at least 1")

    @property
    def num_types(self) -> int:
        """Number of element channels."""
        return len(self.elements)

    @property
    def num_features(self) -> int:
        """Diffused feature channels per atom: element types and, if used, the atomic number."""
        return self.num_types + int(self.atomic_number_channel)

    @property
    def num_columns(self) -> int:
        """Columns with which an atom enters the network: features, t, context."""
        return self.num_features + 1 + self.num_context


def check_context(config: EdmConfig, context: Tensor | None, num_molecules: int) -> None:
    """Raise InvalidInput where the context [B, C] is not the one the model was trained for."""
    expected = (num_molecules, config.num_context)
    found = (num_molecules, 0) if context is None else tuple(context.shape)
    if found != expected:
        raise InvalidInput(f"this model needs context values of shape {expected}, got {found}")
