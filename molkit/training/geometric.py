"""Molecules for networks of PyTorch Geometric: as its `Data` and back, and in its loader.

Networks of molkit take plain tensors; these are for those of others, which want batches of graphs.
"""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

from molkit.errors import InvalidInput
from molkit.graphs import fully_connected
from molkit.molecule import Molecule
from molkit.training.batches import PairBatches


def to_data(molecule: Molecule) -> Data:
    """Atomic numbers `z` [A], positions `pos` [A, 3] in angstrom (float32), `charge` and `spin` [1], and the complete
    graph as `edge_index` [2, A (A - 1)].

    The number of nodes is stated, since PyTorch Geometric otherwise counts those that edges mention.
    """
    return Data(
        z=torch.from_numpy(molecule.atomic_numbers),
        pos=torch.from_numpy(molecule.positions).float(),
        edge_index=fully_connected(torch.tensor([molecule.num_atoms])),
        charge=torch.tensor([molecule.charge]),
        spin=torch.tensor([molecule.spin]),
        num_nodes=molecule.num_atoms,
    )


def from_data(data: Data) -> Molecule:
    """The molecule of a graph with `z` and `pos`; charge and spin are 0 where it does not say. Raises InvalidInput.

    Those of a batch: `map(from_data, batch.to_data_list())`.
    """
    if "z" not in data or "pos" not in data:
        raise InvalidInput(f"a graph of a molecule has z and pos, got {', '.join(data.keys())}")
    charge, spin = (int(data[name]) if name in data else 0 for name in ("charge", "spin"))
    return Molecule(data["z"].cpu().numpy(), data["pos"].double().cpu().numpy(), charge=charge, spin=spin)


class PairSampler(Sampler[list[int]]):
    """Rows of batches of about `batch_pairs` ordered pairs of atoms; every time it is gone through, the next epoch."""

    def __init__(self, num_atoms: Sequence[int], batch_pairs: int, *, seed: int) -> None:
        self.batches, self.epoch = PairBatches(torch.tensor(list(num_atoms)), batch_pairs, seed), 0

    def __iter__(self) -> Iterator[list[int]]:
        rows = self.batches.epoch(self.epoch)
        self.epoch += 1
        return iter([one.tolist() for one in rows])

    def __len__(self) -> int:
        return len(self.batches)


def loader(molecules: Sequence[Molecule], *, batch_pairs: int, seed: int) -> DataLoader:
    """Shuffled batches of molecules as PyTorch Geometric collates them; the order follows from seed and epoch alone."""
    sampler = PairSampler([one.num_atoms for one in molecules], batch_pairs, seed=seed)
    return DataLoader([to_data(one) for one in molecules], batch_sampler=sampler)
