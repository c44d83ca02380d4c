"""What a pipeline is made of, and what is known of one molecule on its way from noise to electrons."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from molkit.errors import InvalidInput
from molkit.molecule import Molecule


@dataclass(frozen=True, kw_only=True)
class PipelineSettings:
    """Weights and numbers that every journey depends on."""

    generator: str = "edm_qm9_preconditioned"
    num_calls: int = 100
    relaxer: str = "edm_qm9_low_noise"
    flow: str = "cgcf_qm9"
    energy: str = "etm_qm9"  # empty: conformers of the flow as they are
    num_conformers: int = 10
    functional: str = "ofdft_small"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_conformers < 1 or self.num_calls < 1:
            raise InvalidInput("a pipeline needs at least one conformer and one network call")


DRAWN, PRE_RELAXED, CONFORMERS, MINIMA, ORBITAL_FREE, KOHN_SHAM = STAGES = (
    "drawn",
    "pre-relaxed",
    "conformers",
    "xTB minima",
    "orbital-free",
    "Kohn-Sham",
)
LOWEST = "lowest"  # name of the structure that the minima lead to


@dataclass(frozen=True)
class Stage:
    """One hand-over: whether what came out may go on, what was looked at, CPU seconds (drawing: by the wall clock)."""

    name: str
    passed: bool
    note: str
    seconds: float


@dataclass(frozen=True, eq=False)
class Journey:
    """One molecule; all geometries are [.., A, 3] in angstrom, atoms in the order in which they were drawn.

    `structures` by name: drawn, pre-relaxed, conformers (the one with the lowest energy as generated), lowest.
    `energies` are GFN2-xTB energies of these structures in kcal/mol above the lowest minimum. `values` holds what the
    stages measured, named with its unit; `densities` are coefficients [M] of the electron density at the lowest minimum
    by the stage that made them, where both stages could.
    """

    name: str
    molecule: Molecule  # as drawn
    smiles: str
    stages: tuple[Stage, ...] = ()
    structures: Mapping[str, np.ndarray] = field(default_factory=dict)
    conformers: np.ndarray | None = None  # [C, A, 3]
    minima: np.ndarray | None = None  # [K, A, 3], lowest first
    minima_energies: np.ndarray | None = None  # [K], kcal/mol above the lowest
    energies: Mapping[str, float] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    densities: Mapping[str, np.ndarray] = field(default_factory=dict)

    def passed(self, stage: str) -> bool:
        """Whether the molecule came through a stage."""
        return any(one.name == stage and one.passed for one in self.stages)

    def note(self, stage: str) -> str:
        """What a stage says; empty where the molecule never came there."""
        return next((one.note for one in self.stages if one.name == stage), "")

    def stopped(self) -> str:
        """The stage that ended the journey, and why; empty where it came to the end.

        A molecule that the functional does not serve goes on without it.
        """
        last = self.stages[-1] if self.stages else None
        return "" if last is None or last.passed else f"{last.name}: {last.note}"

    def at(self, structure: str) -> Molecule:
        """The molecule at one of its structures."""
        return self.molecule.with_positions(self.structures[structure])

    def knowing(
        self,
        *,
        structures: Mapping[str, np.ndarray] | None = None,
        energies: Mapping[str, float] | None = None,
        values: Mapping[str, float] | None = None,
        densities: Mapping[str, np.ndarray] | None = None,
    ) -> "Journey":
        """The journey with more structures, energies, values and densities."""
        return replace(
            self,
            structures={**self.structures, **(structures or {})},
            energies={**self.energies, **(energies or {})},
            values={**self.values, **(values or {})},
            densities={**self.densities, **(densities or {})},
        )


def to_arrays(journey: Journey) -> dict[str, np.ndarray]:
    """The journey as named arrays, for a farm's folder."""
    record = {
        "name": journey.name,
        "smiles": journey.smiles,
        "stages": [asdict(stage) for stage in journey.stages],
        "energies": dict(journey.energies),
        "values": dict(journey.values),
    }
    arrays = {
        "record": np.array(json.dumps(record)),
        "numbers": journey.molecule.atomic_numbers,
        "positions": journey.molecule.positions,
    }
    for kind in ("structures", "densities"):
        arrays |= {f"{kind} {name}": values for name, values in getattr(journey, kind).items()}
    sets = {name: getattr(journey, name) for name in ("conformers", "minima", "minima_energies")}
    return arrays | {name: values for name, values in sets.items() if values is not None}


def from_arrays(arrays: Mapping[str, np.ndarray]) -> Journey:
    """The journey of `to_arrays`."""
    record = json.loads(str(arrays["record"]))
    return Journey(
        name=record["name"],
        molecule=Molecule(arrays["numbers"], arrays["positions"], name=record["name"]),
        smiles=record["smiles"],
        stages=tuple(Stage(**stage) for stage in record["stages"]),
        structures=_named(arrays, "structures"),
        densities=_named(arrays, "densities"),
        energies=record["energies"],
        values=record["values"],
        **{name: arrays.get(name) for name in ("conformers", "minima", "minima_energies")},
    )


def _named(arrays: Mapping[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    return {key.removeprefix(f"{kind} "): values for key, values in arrays.items() if key.startswith(f"{kind} ")}
