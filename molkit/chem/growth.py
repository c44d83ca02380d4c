"""Where atoms are missing: open valences of a fragment, and a rough place beside them for each new atom."""

import numpy as np
import torch

from molkit.chem.bond_orders import bond_orders, known_elements
from molkit.molecule import Molecule

BOND_ANGSTROM = 1.3  # between a mean bond to hydrogen and one between heavy atoms
DIRECTIONS = 60  # tried for each new atom
BEST = 3  # of them, among which chance decides
NEW_VALENCE = 4  # of a new atom, whose element is not known yet


def open_valences(fragment: Molecule) -> np.ndarray:
    """Bonds that each atom lacks to its usual valence, [A] int64; bond orders follow from distances.

    Raises InvalidInput for an element for which the rule has no bond lengths.
    """
    from rdkit.Chem import GetPeriodicTable

    numbers = fragment.atomic_numbers
    usual = np.array([GetPeriodicTable().GetDefaultValence(int(number)) for number in numbers])
    rule = "qm9" if known_elements("qm9")[numbers].all() else "geom"
    return np.clip(usual - bond_orders(fragment.positions, numbers, rule=rule).sum(axis=1, dtype=np.int64), 0, None)


def grown(fragment: Molecule, number: int, *, generator: torch.Generator) -> np.ndarray:
    """Rough places [number, 3] (angstrom) for new atoms: each a bond away from an open valence, clear of the others.

    Open valences of the fragment come first, by chance according to how many bonds they lack, then those of the new
    atoms. Where nothing is open any atom may be grown from.
    """
    places, missing = [*fragment.positions], open_valences(fragment).tolist()
    for _ in range(number):
        own, new = np.array(missing[: fragment.num_atoms]), np.array(missing[fragment.num_atoms :])
        weights = np.concatenate([own, new * (own.sum() == 0)]).astype(float)
        weights = weights if weights.any() else np.ones(len(weights))
        parent = int(torch.multinomial(torch.from_numpy(weights), 1, generator=generator))
        places.append(_beside(np.array(places), parent, generator))
        missing[parent] = max(missing[parent] - 1, 0)
        missing.append(NEW_VALENCE - 1)
    return np.array(places[fragment.num_atoms :])


def _beside(places: np.ndarray, parent: int, generator: torch.Generator) -> np.ndarray:
    """A place [3] a bond away from an atom, one of the few of random ones that lie farthest from all the others."""
    steps = torch.randn(DIRECTIONS, 3, generator=generator, dtype=torch.float64).numpy()
    tried = places[parent] + BOND_ANGSTROM * steps / np.linalg.norm(steps, axis=1, keepdims=True)
    others = np.delete(places, parent, axis=0)
    gaps = np.linalg.norm(tried[:, None] - others[None], axis=2).min(axis=1, initial=np.inf)
    clearest = np.argsort(-gaps, kind="stable")[:BEST]
    return tried[clearest[int(torch.randint(len(clearest), (1,), generator=generator))]]
