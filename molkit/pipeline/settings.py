"""What a pipeline is made of."""

from dataclasses import dataclass

from molkit.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class PipelineSettings:
    """Weights and numbers that every journey depends on."""

    generator: str = "edm_qm9"
    num_calls: int = 100
    flow: str = "cgcf_qm9"
    energy: str = "etm_qm9"  # empty: conformers of the flow as they are
    num_conformers: int = 10
    functional: str = "ofdft_small"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_conformers < 1 or self.num_calls < 1:
            raise InvalidInput("a pipeline needs at least one conformer and one network call")
