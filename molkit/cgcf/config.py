"""Everything needed to rebuild an untrained CGCF flow or ETM energy."""

from dataclasses import dataclass

from molkit.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """Sizes and conventions of the flow on distances; defaults are those of the published code.

    Departures of ours: one distance per unordered pair (the published code has two), and an embedding table of its own
    for pair types (the published code looks types up among the elements).
    """

    elements: tuple[int, ...] = ()  # atomic numbers of the training molecules; empty: nothing is known
    width: int = 64
    num_layers: int = 3
    table_rows: int = 100  # of each embedding table
    spectral_norm: bool = True  # of every weight inside the dynamics; biases and embeddings are free
    end_time: float = 0.5  # at which the learned end time T starts
    noise: float = 0.1  # angstrom, added to every distance in training, drawn anew at each step
    norm_rate: float = 0.1  # with which the moving batch norms follow the batches
    training_steps: int = 4  # fixed Runge-Kutta steps of a solve in training
    sampling_steps: int = 4  # and in sampling, shorter near the data

    def __post_init__(self) -> None:
        if not all(1 <= number < self.table_rows for number in self.elements):
            raise InvalidInput(f"elements must be atomic numbers below {self.table_rows}, got {self.elements}")
        for name in ("width", "num_layers", "table_rows", "training_steps", "sampling_steps"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.width % 2:
            raise InvalidInput(f"width must be even (the read-out halves it), got {self.width}")
        if not self.end_time > 0.0 or self.noise < 0.0 or not 0.0 < self.norm_rate <= 1.0:
            raise InvalidInput(
                "need end_time > 0, noise >= 0 and norm_rate in (0, 1], "
                f"got {self.end_time}, {self.noise} and {self.norm_rate}"
            )
