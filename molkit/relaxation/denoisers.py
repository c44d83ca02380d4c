"""What predicts the noise of a chain: a trained network, or exact knowledge of the answer (the perfect-model null)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from molkit.edm.config import EdmConfig
from molkit.edm.diffusion import predict_noise
from molkit.edm.features import State, encode
from molkit.edm.model import Edm
from molkit.edm.schedule import alpha, sigma
from molkit.geometry import best_rotations
from molkit.graphs import Graph
from molkit.molecule import Molecule, PackedMolecules


class Denoiser(Protocol):
    """Predicts the noise of noisy molecules; `config` and `log_snr` [T + 1] say what scales and levels are meant."""

    config: EdmConfig
    log_snr: Tensor
    dtype: torch.dtype

    def noise(self, noisy: State, step: int, graph: Graph) -> State:
        """The predicted noise of all molecules, which are at one step."""

    def select(self, rows: Tensor) -> "Denoiser":
        """The same for the molecules at the given rows."""


@dataclass(frozen=True)
class NetworkDenoiser:
    """A trained (or untrained) EDM."""

    edm: Edm

    @property
    def config(self) -> EdmConfig:
        """Scales and elements."""
        return self.edm.config

    @property
    def log_snr(self) -> Tensor:
        """The schedule."""
        return self.edm.log_snr

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the states."""
        return next(self.edm.network.parameters()).dtype

    def noise(self, noisy: State, step: int, graph: Graph) -> State:
        """One call of the network."""
        steps = torch.full((graph.num_molecules,), step)
        return predict_noise(self.edm.network, noisy, steps, graph, num_steps=self.config.num_steps)

    def select(self, rows: Tensor) -> "NetworkDenoiser":
        """The network does not depend on which molecules it sees."""
        return self


@dataclass(frozen=True)
class ExactDenoiser:
    """Knows the one clean molecule behind every noisy one: noise = (z - alpha x) / sigma.

    The known geometry is first turned as close to z as it can be, unless `turn` is False (it then knows the
    orientation too). States are in float64. Source: derived here; the optimal denoiser of a data set of one molecule.
    """

    config: EdmConfig
    log_snr: Tensor
    num_atoms: Tensor  # [B]
    clean: State  # centred and scaled
    turn: bool = True
    dtype: torch.dtype = torch.float64

    @classmethod
    def knowing(
        cls, config: EdmConfig, log_snr: Tensor, molecules: Sequence[Molecule], *, turn: bool = True
    ) -> "ExactDenoiser":
        """The denoiser that knows these molecules, in this order."""
        num_atoms, clean = enter(config, molecules, dtype=torch.float64)
        return cls(config, log_snr, num_atoms, clean, turn)

    def noise(self, noisy: State, step: int, graph: Graph) -> State:
        """The noise that is really there, if the molecule is the known one."""
        positions = self.clean.positions
        if self.turn:
            rotation = best_rotations(positions, noisy.positions, graph.batch, graph.num_molecules)
            positions = (positions[:, None, :] @ rotation[graph.batch])[:, 0]
        signal, spread = float(alpha(self.log_snr[step])), float(sigma(self.log_snr[step]))
        return State(
            (noisy.positions - signal * positions) / spread, (noisy.features - signal * self.clean.features) / spread
        )

    def select(self, rows: Tensor) -> "ExactDenoiser":
        """The known molecules at the given rows."""
        atoms = atoms_of(rows, self.num_atoms)
        return replace(self, num_atoms=self.num_atoms[rows], clean=self.clean.map(lambda part: part[atoms]))


def enter(config: EdmConfig, molecules: Sequence[Molecule], *, dtype: torch.dtype) -> tuple[Tensor, State]:
    """Sizes [B] and the centred, scaled state of molecules. Raises InvalidInput for an element that has no channel."""
    packed = molecules if isinstance(molecules, PackedMolecules) else PackedMolecules.from_molecules(molecules)
    num_atoms = torch.from_numpy(packed.num_atoms)
    positions = Graph.from_sizes(num_atoms).centre(torch.from_numpy(packed.positions)).to(dtype)
    return num_atoms, encode(config, torch.from_numpy(packed.atomic_numbers), positions)


def atoms_of(rows: Tensor, num_atoms: Tensor) -> Tensor:
    """Rows of the flat arrays that hold the atoms of the given molecules, in that order."""
    ends = num_atoms.cumsum(0)
    return torch.cat([torch.arange(int(ends[row] - num_atoms[row]), int(ends[row])) for row in rows])
