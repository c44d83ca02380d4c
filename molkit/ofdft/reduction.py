"""Few coordinates with response: principal components of densities about a reference that follows the geometry.

The reference density x_ref(u) and its energy E_ref(u) are polynomials of the pair distances u. A density is written as
x = x_ref(u) + B z; what the columns of B leave out is dropped. They span the directions in which the training densities
vary and the energy answers: principal components first, then those of the mean second derivative of the energy, scaled
so that it is one. A slope error e then costs a minimiser |e|^2 / 2, whatever its direction. With the Hartree and
external energies analytic, the energy of a reduced density is E_ref(u) + delta.J.delta / 2 + R(z, u), where
delta = x - x_ref: all linear terms have cancelled by Euler's equation at the reference, and the learned kinetic and
exchange-correlation energy is

    T_s + E_xc = E_ref - E_nn - E_H(x_ref) - E_ext(x_ref) - (J x_ref + v).delta + R(z, u) .
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from molkit.errors import InvalidInput
from molkit.ofdft.basis import density_mole
from molkit.ofdft.classes import MolecularClass, monomials
from molkit.ofdft.frames import coefficient_rotation
from molkit.ofdft.integrals import DensityIntegrals, density_integrals
from molkit.ofdft.label_files import LabelledMolecule

Coordinates = Literal["response", "variance"]
SMALLEST_VARIANCE = 1e-8  # of a principal component of densities in natural coordinates


@dataclass(frozen=True, eq=False)
class NaturalFrame:
    """One molecule in natural coordinates x = D W^(1/2) p, |x|^2 being the integral of rho^2: the map and its inverse
    [M, M], and integrals by x instead of p.

    descriptors [operations, D]: those of the molecule and its images.
    """

    integrals: DensityIntegrals
    to_natural: np.ndarray
    from_natural: np.ndarray
    coulomb: np.ndarray  # [M, M]
    external: np.ndarray  # [M]
    basis_integrals: np.ndarray  # [M]
    descriptors: np.ndarray


def natural_frame(integrals: DensityIntegrals, kind: MolecularClass) -> NaturalFrame:
    """The symmetric root of the overlap, turned into the frame. Raises InvalidInput for a molecule of another class."""
    molecule = integrals.molecule
    turn = coefficient_rotation(density_mole(molecule), kind.frame(molecule))
    root, inverse = integrals.roots
    from_natural = inverse @ turn.T
    return NaturalFrame(
        integrals=integrals,
        to_natural=turn @ root,
        from_natural=from_natural,
        coulomb=from_natural.T @ integrals.coulomb @ from_natural,
        external=integrals.external @ from_natural,
        basis_integrals=integrals.basis_integrals @ from_natural,
        descriptors=kind.descriptors(molecule.positions),
    )


@dataclass(frozen=True, eq=False)
class Reduction:
    """Numbers that a training set fixes; M density functions, m components, D distances, K operations."""

    descriptor_mean: np.ndarray  # [D], bohr
    descriptor_scale: np.ndarray  # [D]
    reference: np.ndarray  # [terms, M]
    energies: np.ndarray  # [terms], E_ref - energy_offset
    energy_offset: float
    lift: np.ndarray  # B, [M, m], from z to natural coordinates
    drop: np.ndarray  # [m, M], its left inverse
    operations: np.ndarray  # [K, m, m], on z
    mean_density: np.ndarray  # [M], natural coordinates
    degrees: tuple[int, int]  # of reference and energies

    def descriptors(self, raw: np.ndarray) -> np.ndarray:
        """Centred and scaled distances u of [..., D] in bohr."""
        return (raw - self.descriptor_mean) / self.descriptor_scale

    def reference_density(self, descriptors: np.ndarray) -> np.ndarray:
        """x_ref(u), [S, M]."""
        return monomials(descriptors, self.degrees[0]) @ self.reference

    def reference_energy(self, descriptors: np.ndarray) -> np.ndarray:
        """E_ref(u) with nuclei, [S]."""
        return monomials(descriptors, self.degrees[1]) @ self.energies + self.energy_offset

    def restricted(self, turn: np.ndarray, back: np.ndarray) -> "Reduction":
        """Coordinates z' with z = turn z', turn [m, m'] and its left inverse [m', m]."""
        operations = np.stack([back @ operation @ turn for operation in self.operations])
        return replace(self, lift=self.lift @ turn, drop=back @ self.drop, operations=operations)

    def reduce(self, natural: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """z of natural coordinates [..., M]."""
        return (natural - reference) @ self.drop.T


@dataclass(frozen=True, eq=False)
class ReducedSamples:
    """Samples of many molecules in reduced coordinates; hartree."""

    z: np.ndarray  # [S, m]
    descriptors: np.ndarray  # [S, K, D], scaled, of every image
    energy: np.ndarray  # [S], labels of R
    gradient: np.ndarray  # [S, m], their derivative by z
    excess: np.ndarray  # [S], energy above the molecule's ground state
    molecule: np.ndarray  # [S], number of the molecule


def frames_of(molecules: Sequence[LabelledMolecule], kind: MolecularClass) -> list[NaturalFrame]:
    """Natural coordinates of every molecule."""
    return [natural_frame(density_integrals(entry.molecule), kind) for entry in molecules]


def excess_energies(entry: LabelledMolecule) -> np.ndarray:
    """Energies of the samples above the ground state, [S]."""
    return entry.labels.electronic - entry.labels.electronic[entry.ground_state]


def fit_reduction(
    molecules: Sequence[LabelledMolecule],
    frames: Sequence[NaturalFrame],
    kind: MolecularClass,
    *,
    num_components: int,
    degrees: tuple[int, int],
    ceiling: float,
    floor: float,
    coordinates: Coordinates = "response",
) -> Reduction:
    """References and directions of a training set and all its images, the stiffest `num_components` directions kept.

    With variance coordinates they are the leading principal components, each of unit variance, instead. Samples above
    `ceiling` take no part, the others weigh 1 / (floor + excess), hartree.
    Raises InvalidInput where the samples do not span as many directions.
    """
    wide = _principal(molecules, frames, kind, degrees, ceiling, floor)
    if len(wide.drop) < num_components:
        raise InvalidInput(f"the labels span {len(wide.drop)} directions; lower num_components ({num_components})")
    if coordinates == "variance":
        chosen = np.eye(len(wide.drop))[:, -num_components:]  # the largest variances stand last
        return wide.restricted(chosen, chosen.T)
    samples = reduce_samples(wide, molecules, frames, ceiling=ceiling)
    hartree = np.mean([wide.lift.T @ frame.coulomb @ wide.lift for frame in frames], axis=0)
    curvature = quadratic_form(samples, floor=floor) + hartree
    curvature = np.mean([q.T @ curvature @ q for q in wide.operations], axis=0)
    values, vectors = np.linalg.eigh(curvature)
    values, vectors = values[::-1][:num_components], vectors[:, ::-1][:, :num_components]
    if values[-1] <= 0.0:
        raise InvalidInput(f"the energy answers in fewer than {num_components} directions; lower num_components")
    return wide.restricted(vectors / np.sqrt(values), (vectors * np.sqrt(values)).T)


def _principal(
    molecules: Sequence[LabelledMolecule],
    frames: Sequence[NaturalFrame],
    kind: MolecularClass,
    degrees: tuple[int, int],
    ceiling: float,
    floor: float,
) -> Reduction:
    """References, and principal components of the densities about them, each of unit variance."""
    operations = kind.operation_matrices()
    raw = np.stack([frame.descriptors for frame in frames])  # [B, K, D]
    mean, scale = raw.mean((0, 1)), raw.std((0, 1))
    u = ((raw - mean) / scale).reshape(-1, raw.shape[-1])
    ground = np.stack(
        [f.to_natural @ m.labels.coefficients[m.ground_state] for m, f in zip(molecules, frames, strict=True)]
    )
    images = np.einsum("kab,nb->nka", operations, ground).reshape(-1, ground.shape[1])
    reference = np.linalg.lstsq(monomials(u, degrees[0]), images, rcond=None)[0]
    energies = np.repeat([entry.energy for entry in molecules], len(operations))
    offset = float(energies.mean())
    coefficients = np.linalg.lstsq(monomials(u, degrees[1]), energies - offset, rcond=None)[0]
    references = (monomials(u, degrees[0]) @ reference)[:: len(operations)]
    covariance = _covariance(molecules, frames, references, ceiling, floor)
    covariance = np.mean([q @ covariance @ q.T for q in operations], axis=0)
    values, vectors = np.linalg.eigh(covariance)
    kept = values > SMALLEST_VARIANCE
    lift, drop = vectors[:, kept] * np.sqrt(values[kept]), (vectors[:, kept] / np.sqrt(values[kept])).T
    on_z = np.stack([drop @ q @ lift for q in operations])
    return Reduction(mean, scale, reference, coefficients, offset, lift, drop, on_z, images.mean(0), degrees)


def _covariance(
    molecules: Sequence[LabelledMolecule],
    frames: Sequence[NaturalFrame],
    references: np.ndarray,
    ceiling: float,
    floor: float,
) -> np.ndarray:
    """Weighted second moment of densities about their references, [M, M]."""
    total, weight = 0.0, 0.0
    for number, (entry, frame) in enumerate(zip(molecules, frames, strict=True)):
        excess = excess_energies(entry)
        kept = excess <= ceiling
        weights = 1.0 / (floor + np.maximum(excess[kept], 0.0))
        moved = entry.labels.coefficients[kept] @ frame.to_natural.T - references[number]
        total = total + (moved * weights[:, None]).T @ moved
        weight += weights.sum()
    return total / weight


def reduce_samples(
    reduction: Reduction,
    molecules: Sequence[LabelledMolecule],
    frames: Sequence[NaturalFrame],
    *,
    ceiling: float,
    sources: tuple[int, ...] = (0, 1, 2),
) -> ReducedSamples:
    """Labels of R for samples of the given sources up to `ceiling` above the ground state.

    The value is recomputed for the reduced density; the gradient is B^T (g + J x + v - J delta).
    """
    parts = [
        _reduce(reduction, entry, frame, number, ceiling, sources)
        for number, (entry, frame) in enumerate(zip(molecules, frames, strict=True))
    ]
    return ReducedSamples(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _reduce(
    reduction: Reduction,
    entry: LabelledMolecule,
    frame: NaturalFrame,
    number: int,
    ceiling: float,
    sources: tuple[int, ...],
) -> tuple[np.ndarray, ...]:
    excess = excess_energies(entry)
    rows = np.flatnonzero((excess <= ceiling) & np.isin(entry.labels.source, sources))
    labels = entry.labels.select(rows)
    u = reduction.descriptors(frame.descriptors)
    reference = reduction.reference_density(u[:1])[0]
    x = labels.coefficients @ frame.to_natural.T
    z = reduction.reduce(x, reference)
    delta = z @ reduction.lift.T
    force = labels.target_gradient("TsExc", frame.integrals) @ frame.from_natural
    slope = force + x @ frame.coulomb + frame.external - delta @ frame.coulomb
    energy = labels.electronic + entry.nuclear - reduction.reference_energy(u[:1])
    energy = energy - 0.5 * np.einsum("sm,mn,sn->s", delta, frame.coulomb, delta)
    repeated = np.repeat(u[None], len(rows), axis=0)
    return z, repeated, energy, slope @ reduction.lift, excess[rows], np.full(len(rows), number)


def quadratic_form(samples: ReducedSamples, *, floor: float) -> np.ndarray:
    """The symmetric matrix A with A z nearest to the gradient labels in weighted least squares, [m, m]."""
    weights = (1.0 / (floor + np.maximum(samples.excess, 0.0)))[:, None]
    moments = (samples.z * weights).T @ samples.z
    solved = np.linalg.lstsq(moments, (samples.z * weights).T @ samples.gradient, rcond=1e-10)[0]
    return 0.5 * (solved + solved.T)
