"""Editing with a trained model, nothing retrained: complete given atoms, vary a molecule, make isomers of a formula.

Before that: what an edit must not ask for, overlapping atoms, elements or sizes that the model does not know.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from molkit.chem.composition import check_composition, parse_formula
from molkit.chem.growth import grown
from molkit.edm.config import EdmConfig, check_context
from molkit.edm.features import State, encode
from molkit.edm.holding import JUMP, Counted, Guidance, Holding, Known, resampled
from molkit.edm.model import Edm
from molkit.edm.samplers import DEFAULT, SAMPLERS, Sampler
from molkit.edm.sampling import MoleculeNoise, Plan, SampleResult, make_plan, run_batches
from molkit.errors import InvalidInput
from molkit.graphs import Graph
from molkit.molecule import SYMBOLS, Molecule, PackedMolecules
from molkit.rng import fork

FLUORINE = 9  # a channel of the models of QM9; its packed set, known by its sizes, holds none
CLOSEST_ANGSTROM = 0.5  # fixed atoms nearer than this overlap; the shortest bond, in H2, has 0.74


def check_molecule(edm: Edm, molecule: Molecule) -> None:
    """Raise InvalidInput for an element that the model cannot place, or two atoms closer than 0.5 angstrom."""
    check_elements(edm, molecule.atomic_numbers)
    distances = np.linalg.norm(molecule.positions[:, None] - molecule.positions[None], axis=-1)
    first, second = np.nonzero(np.triu(distances < CLOSEST_ANGSTROM, k=1))
    if len(first):
        i, j = int(first[0]), int(second[0])
        raise InvalidInput(
            f"atoms {i + 1} ({molecule.symbols[i]}) and {j + 1} ({molecule.symbols[j]}) overlap: "
            f"{distances[i, j]:.2f} angstrom apart, expected at least {CLOSEST_ANGSTROM}"
        )


def check_neutral(molecule: Molecule, *, closed_shell: bool) -> None:
    """Raise InvalidInput for a charge, and where a closed shell is asked for, for unpaired electrons."""
    if molecule.charge or (closed_shell and molecule.spin):
        raise InvalidInput(
            f"charge {molecule.charge}, spin {molecule.spin} (unpaired electrons): "
            "the model knows neutral closed shells only"
        )


def check_elements(edm: Edm, atomic_numbers: np.ndarray) -> None:
    """Raise InvalidInput naming the first element that the model cannot place, or has a channel for but never saw."""
    unknown = ~np.isin(atomic_numbers, edm.config.elements)
    if unknown.any():
        known = " ".join(SYMBOLS[number] for number in edm.config.elements)
        where = int(unknown.argmax())
        symbol = SYMBOLS[int(atomic_numbers[where])]
        raise InvalidInput(f"atom {where + 1} is {symbol}, which this model cannot place; it knows {known}")
    if FLUORINE in atomic_numbers and edm.config.sizes == EdmConfig().sizes:
        where = int(np.flatnonzero(np.asarray(atomic_numbers) == FLUORINE)[0])
        raise InvalidInput(
            f"atom {where + 1} is F, which this model has a channel for but never saw: the packed QM9 that it was "
            "trained on holds no fluorine"
        )


def check_sizes(edm: Edm, num_atoms: Tensor) -> None:
    """Raise InvalidInput naming the first size [B] that the training histogram does not hold."""
    known = sorted(size for size, _ in edm.config.sizes)
    gaps = [str(size) for size in range(known[0], known[-1]) if size not in known]
    for size in num_atoms.tolist():
        if size not in known:
            raise InvalidInput(
                f"{size} atoms in all: a size that the model's training histogram does not hold "
                f"(it has {known[0]}..{known[-1]}{' without ' if gaps else ''}{', '.join(gaps)})"
            )


GUIDANCE = 4.0  # chosen on validation molecules
SAMPLER = SAMPLERS[DEFAULT.sampler]
START = 0.3  # angstrom; chosen on validation molecules
POSITION_VARIANCE = 2.0  # angstrom^2, of a coordinate of a QM9 molecule about its centre
TYPE_VARIANCE = 0.16  # of a one-hot channel, mean over the elements of QM9
ATOMIC_NUMBER_VARIANCE = 8.0


@dataclass(frozen=True)
class Edits:
    """Edited molecules in the order asked for; `rows` says which request each answers, `failed` which have none."""

    molecules: PackedMolecules
    rows: np.ndarray  # [B] int64
    failed: tuple[int, ...]  # requests whose chain did not stay finite, or missed the wanted elements
    num_calls: int  # network calls of one chain, resamplings included


@torch.no_grad()
def complete(
    edm: Edm,
    fixed: Molecule | Sequence[Molecule],
    *,
    num_new: int | Sequence[int] | None = None,
    new_elements: Sequence[int] | Sequence[Sequence[int]] | None = None,
    count: int = 1,
    generator: torch.Generator,
    num_calls: int | None = None,
    guidance: float = GUIDANCE,
    start: float | None = START,
    resamplings: int = 1,
    jump: int = JUMP,
    sampler: Sampler = SAMPLER,
    context: Tensor | None = None,
    pair_budget: int | None = None,
    progress: bool = False,
) -> Edits:
    """Keep the atoms of `fixed` where they are and make the missing ones, `count` times for each fragment.

    `num_new` atoms are added (one number, or one for each fragment; None draws them from the training histogram), or
    atoms of the given atomic numbers `new_elements`. The fixed atoms come first, at the given coordinates; the new
    ones follow. The chain is entered at a noise of `start` angstrom, the new atoms at rough places beside the open
    valences of the fragment (None: from noise alone, which decides where an atom goes before the fragment can be
    seen). One pass takes at most num_calls network calls (default: every step); all of it is walked `resamplings`
    times, in stretches of `jump` steps. Raises InvalidInput for a charge, overlapping atoms, an element that the model
    cannot place or has no bond lengths, a wrong level, or a size outside the histogram.
    """
    fragments = [fixed] if isinstance(fixed, Molecule) else list(fixed)
    fragments = _repeated(fragments, count, what="fragment")
    for molecule in fragments[::count]:
        check_neutral(molecule, closed_shell=False)  # a fragment's open valences may be stated as unpaired electrons
        check_molecule(edm, molecule)
    generators = fork(generator, len(fragments))
    added = _new_atoms(edm, fragments, num_new, new_elements, count, generators)
    sizes = torch.tensor([one.num_atoms + len(new) for one, new in zip(fragments, added, strict=True)])
    check_sizes(edm, sizes)
    numbers = [np.concatenate([one.atomic_numbers, new]) for one, new in zip(fragments, added, strict=True)]
    if new_elements is not None and 1 in edm.config.elements:
        for one in numbers[::count]:
            check_composition(Counter(one.tolist()))
    places = [
        _with_new(one.centred(), len(new), own, grow=start is not None)
        for one, new, own in zip(fragments, added, generators, strict=True)
    ]
    is_fixed = torch.cat(
        [torch.arange(len(all_)) < one.num_atoms for all_, one in zip(numbers, fragments, strict=True)]
    )
    known = Known(_clean(edm, numbers, places), is_fixed, is_fixed)
    entered = known if start is None else replace(known, positions=torch.ones_like(is_fixed))
    parts = (known,) if new_elements is None else (known, _counted(edm, ~is_fixed, added, sizes))
    held = Holding(parts, _guidance(edm, guidance))
    plan = _plan(edm, sampler, num_calls, resamplings, jump, level=start)
    result = _run(edm, entered, held, sizes, plan, generators, context, pair_budget, progress)
    wanted = None if new_elements is None else numbers
    return _edits(result, len(fragments), lambda row, made: with_fixed(fragments[row], made), wanted)


@torch.no_grad()
def vary(
    edm: Edm,
    molecules: Molecule | Sequence[Molecule],
    *,
    sigma: float | None = None,
    step: int | None = None,
    keep_atoms: Sequence[int] = (),
    keep_elements: bool = False,
    guidance: float = GUIDANCE,
    count: int = 1,
    generator: torch.Generator,
    num_calls: int | None = None,
    sampler: Sampler = SAMPLER,
    context: Tensor | None = None,
    pair_budget: int | None = None,
    progress: bool = False,
) -> Edits:
    """Noise molecules to a level and clean them up again, `count` times each.

    The level is `sigma`, the standard deviation in angstrom of the displacement of each coordinate, or a `step` of the
    schedule. Elements are noised by the same process (more, by the ratio of the scales) unless keep_elements holds
    them. The atoms in keep_atoms (counted from 0, the same of every molecule) stay exactly where they are. num_calls is
    the most network calls to spend, fewer where the way is shorter (default: every step). Atoms keep their order, the
    molecule its centre. Raises InvalidInput for a charge or an open shell, a wrong level, an element the model cannot
    place, overlapping atoms, or a size outside the histogram.
    """
    originals = [molecules] if isinstance(molecules, Molecule) else list(molecules)
    originals = _repeated(originals, count, what="molecule")
    for molecule in originals[::count]:
        check_neutral(molecule, closed_shell=True)
        check_molecule(edm, molecule)
    start = _start(edm, sigma, step)
    sizes = torch.tensor([molecule.num_atoms for molecule in originals])
    check_sizes(edm, sizes)
    generators = fork(generator, len(originals))
    clean = _clean(edm, [one.atomic_numbers for one in originals], [one.centred().positions for one in originals])
    everything = torch.ones(len(clean.features), dtype=torch.bool)
    calls = None if num_calls is None else min(num_calls, start + 1)
    plan = make_plan(edm, sampler, calls, start=start)
    entered = Known(clean, everything, everything)
    kept = torch.cat([_marked(molecule, keep_atoms) for molecule in originals])
    held = Holding((Known(clean, kept, kept | keep_elements),), _guidance(edm, guidance))
    held = held if len(keep_atoms) or keep_elements else None
    result = _run(edm, entered, held, sizes, plan, generators, context, pair_budget, progress)
    return _edits(result, len(originals), lambda row, made: with_fixed(originals[row], made, keep_atoms))


@torch.no_grad()
def with_composition(
    edm: Edm,
    composition: Mapping[int, int] | str | Sequence[Mapping[int, int] | str],
    *,
    count: int = 1,
    generator: torch.Generator,
    by_atom: bool = False,
    num_calls: int | None = None,
    guidance: float = GUIDANCE,
    resamplings: int = 1,
    jump: int = JUMP,
    sampler: Sampler = SAMPLER,
    context: Tensor | None = None,
    pair_budget: int | None = None,
    progress: bool = False,
) -> Edits:
    """Molecules of a given formula, such as "C7H10O2" or {6: 7, 1: 10, 8: 2}: the elements are known, positions not.

    Of several formulas, `count` molecules of each. Which atom carries which element is open as long as possible: only
    the numbers are held (exchangeable atoms), unless by_atom fixes every atom's element from the start. A chain that
    ends in another formula counts as failed. Options as in `complete`. Raises InvalidInput for an impossible formula,
    an element the model cannot place, or a size outside its histogram.
    """
    given = [composition] if isinstance(composition, str | Mapping) else list(composition)
    numbers = _repeated([_elements_of(edm, one) for one in given], count, what="formula")
    sizes = torch.tensor([len(one) for one in numbers])
    check_sizes(edm, sizes)
    clean = _clean(edm, numbers, [np.zeros((len(one), 3)) for one in numbers])
    every = torch.ones(len(clean.features), dtype=torch.bool)
    known = Known(clean, ~every, every & by_atom)
    part = known if by_atom else _counted(edm, every, numbers, sizes)
    plan = _plan(edm, sampler, num_calls, resamplings, jump)
    held = Holding((part,), _guidance(edm, guidance))
    result = _run(edm, known, held, sizes, plan, fork(generator, len(numbers)), context, pair_budget, progress)
    return _edits(result, len(numbers), lambda _, made: made, numbers)


def noise_angstrom(edm: Edm) -> Tensor:
    """Standard deviation of the noise on each coordinate relative to the molecule, in angstrom, [T + 1]."""
    return edm.config.scale_positions * torch.exp(-0.5 * edm.log_snr)


def step_of_sigma(edm: Edm, level: float) -> int:
    """The step whose noise is nearest to `level` angstrom, by ratio. Raises InvalidInput outside steps 1..T."""
    levels = noise_angstrom(edm)[1:]
    if not float(levels[0]) <= level <= float(levels[-1]):
        raise InvalidInput(
            f"the noise level must lie in {float(levels[0]):.3g}..{float(levels[-1]):.3g} angstrom, got {level:g}"
        )
    return 1 + int(torch.argmin((torch.log(levels) - np.log(level)).abs()))


def with_fixed(given: Molecule, made: Molecule, fixed: Sequence[int] | None = None) -> Molecule:
    """A made molecule moved so that its fixed atoms (default: all of the given) have the centre they had.

    They then get exactly the given elements, isotopes and positions. Where none is fixed the centres of all agree.
    """
    rows = list(range(given.num_atoms)) if fixed is None else list(fixed)
    centre = rows or slice(None)
    positions = made.positions - made.positions[centre].mean(axis=0) + given.positions[centre].mean(axis=0)
    numbers = made.atomic_numbers.copy()
    positions[rows], numbers[rows] = given.positions[rows], given.atomic_numbers[rows]
    isotopes = np.zeros(made.num_atoms, dtype=np.int64)
    if given.isotopes is not None:
        isotopes[rows] = given.isotopes[rows]
    return Molecule(numbers, positions, name=given.name, isotopes=isotopes)


def _marked(molecule: Molecule, atoms: Sequence[int]) -> Tensor:
    """True at the given atoms, [A]. Raises InvalidInput for one that is not there."""
    marks = torch.zeros(molecule.num_atoms, dtype=torch.bool)
    for atom in atoms:
        if not 0 <= atom < molecule.num_atoms:
            raise InvalidInput(f"atoms to keep are counted from 0 to {molecule.num_atoms - 1}, got {atom}")
        marks[atom] = True
    return marks


def _elements_of(edm: Edm, composition: Mapping[int, int] | str) -> np.ndarray:
    """Atomic numbers of a formula, the heaviest first. Raises InvalidInput for one that is not or cannot be placed."""
    counts = parse_formula(composition) if isinstance(composition, str) else dict(composition)
    numbers = np.repeat(sorted(counts, reverse=True), [counts[number] for number in sorted(counts, reverse=True)])
    if len(numbers) == 0:
        raise InvalidInput("expected a formula of at least one atom, got an empty one")
    check_elements(edm, numbers)
    if 1 in edm.config.elements:
        check_composition(counts)
    return numbers


def _repeated(molecules: list, count: int, *, what: str) -> list:
    if not molecules or count < 1:
        raise InvalidInput(f"expected at least one {what} and a count of at least 1, got {len(molecules)} and {count}")
    return [molecule for molecule in molecules for _ in range(count)]


def _start(edm: Edm, level: float | None, step: int | None) -> int:
    """The step to start from. Raises InvalidInput unless exactly one of the two is given, in range."""
    if (level is None) == (step is None):
        raise InvalidInput(f"give either sigma in angstrom or a step, got sigma {level} and step {step}")
    if step is not None and not 1 <= step <= edm.config.num_steps:
        raise InvalidInput(f"the step must lie in 1..{edm.config.num_steps}, got {step}")
    return step if step is not None else step_of_sigma(edm, level)


def _new_atoms(
    edm: Edm,
    fragments: list[Molecule],
    num_new: int | Sequence[int] | None,
    new_elements: Sequence[int] | Sequence[Sequence[int]] | None,
    count: int,
    generators: list[torch.Generator],
) -> list[np.ndarray]:
    """Atomic numbers of the atoms to add to each fragment; where they are free, those of the first element stand in."""
    if num_new is not None and new_elements is not None:
        raise InvalidInput("give the number of new atoms or their elements, not both")
    different = len(fragments) // count
    if new_elements is not None:
        lists = [np.atleast_1d(np.asarray(one, dtype=np.int64)) for one in new_elements]
        lists = [np.concatenate(lists)] * different if np.ndim(new_elements[0]) == 0 else lists
    elif num_new is not None:
        numbers = [num_new] * different if np.ndim(num_new) == 0 else list(num_new)
        pairs = zip(fragments[::count], numbers, strict=False)  # other lengths are refused below
        check_sizes(edm, torch.tensor([one.num_atoms + number for one, number in pairs if number > 0]))
        lists = [np.full(max(int(number), 0), edm.config.elements[0]) for number in numbers]
    else:
        drawn = [_draw_new(edm, one, generator) for one, generator in zip(fragments, generators, strict=True)]
        return [np.full(number, edm.config.elements[0]) for number in drawn]
    if len(lists) != different or any(len(new) < 1 for new in lists):
        raise InvalidInput(f"expected at least one new atom for each of {different} fragments, got {_lengths(lists)}")
    for new in lists:
        check_elements(edm, new)
    return [new for new in lists for _ in range(count)]


def _lengths(lists: list[np.ndarray]) -> str:
    return f"{len(lists)} numbers ({', '.join(str(len(new)) for new in lists[:5])}{', ...' if len(lists) > 5 else ''})"


def _draw_new(edm: Edm, fragment: Molecule, generator: torch.Generator) -> int:
    """Number of new atoms from the training histogram above the size of the fragment."""
    larger = [(size, weight) for size, weight in edm.config.sizes if size > fragment.num_atoms]
    if not larger:
        raise InvalidInput(
            f"the fragment has {fragment.num_atoms} atoms, the largest molecule of the model's training histogram "
            f"{max(size for size, _ in edm.config.sizes)}; there is no room for new ones"
        )
    weights = torch.tensor([float(weight) for _, weight in larger], dtype=torch.float64)
    return larger[int(torch.multinomial(weights, 1, generator=generator))][0] - fragment.num_atoms


def _clean(edm: Edm, numbers: list[np.ndarray], positions: list[np.ndarray]) -> State:
    """The scaled state of all atoms in the network's precision."""
    dtype = next(edm.network.parameters()).dtype
    places = torch.from_numpy(np.concatenate(positions)).to(dtype)
    return encode(edm.config, torch.from_numpy(np.concatenate(numbers)), places)


def _counted(edm: Edm, atoms: Tensor, numbers: list[np.ndarray], num_atoms: Tensor) -> Counted:
    """The elements in `numbers`, one array for each molecule, as counts over its marked atoms."""
    config = edm.config
    rows = [[float((one == number).sum()) for number in config.elements] for one in numbers]
    scale = config.scale_atomic_number if config.atomic_number_channel else None
    counts = torch.repeat_interleave(torch.tensor(rows), num_atoms, dim=0)
    return Counted(atoms, counts, torch.tensor(config.elements), config.scale_types, scale)


def _guidance(edm: Edm, strength: float) -> Guidance:
    """Guidance with the variances of the scaled training data. Raises InvalidInput for a negative strength."""
    if not 0.0 <= strength < float("inf"):
        raise InvalidInput(f"the strength of the guidance must be a number from 0, got {strength}")
    config = edm.config
    channels = [TYPE_VARIANCE / config.scale_types**2] * config.num_types
    channels += [ATOMIC_NUMBER_VARIANCE / config.scale_atomic_number**2] * int(config.atomic_number_channel)
    dtype = next(edm.network.parameters()).dtype
    return Guidance(strength, POSITION_VARIANCE / config.scale_positions**2, torch.tensor(channels, dtype=dtype))


def _with_new(fragment: Molecule, number: int, generator: torch.Generator, *, grow: bool) -> np.ndarray:
    """Positions [A + number, 3] of a fragment and its new atoms: grown at its open valences, or all at the origin."""
    new = grown(fragment, number, generator=generator) if grow else np.zeros((number, 3))
    return np.concatenate([fragment.positions, new])


def _plan(
    edm: Edm, sampler: Sampler, num_calls: int | None, resamplings: int, jump: int, *, level: float | None = None
) -> Plan:
    """From a level in angstrom, or from noise alone: there a sampler that saves calls does not look before `first`."""
    last = edm.config.num_steps
    from_noise = last if num_calls is None else max(round(sampler.first * last), 1)
    start = from_noise if level is None else step_of_sigma(edm, level)
    calls = None if num_calls is None else min(num_calls, start + 1)
    plan = make_plan(edm, sampler, calls, start=start)
    return replace(plan, steps=resampled(plan.steps, resamplings, jump=jump))


def _run(
    edm: Edm,
    entered: Known,
    held: Holding | None,
    num_atoms: Tensor,
    plan: Plan,
    generators: list[torch.Generator],
    context: Tensor | None,
    pair_budget: int | None,
    progress: bool,
) -> SampleResult:
    """Chains that start from a noisy form of what is entered, at the first step of the plan."""
    check_context(edm.config, context, len(num_atoms))
    graph = Graph.from_sizes(num_atoms)
    drawn = MoleculeNoise(num_atoms, 3 + edm.config.num_features, generators).next()
    start = entered.enter(State(graph.centre(drawn[:, :3]), drawn[:, 3:]), graph, edm.log_snr[plan.steps[0]])
    return run_batches(edm, start, num_atoms, plan, generators, context, pair_budget, progress, held)


def _edits(
    result: SampleResult,
    num_requests: int,
    finish: Callable[[int, Molecule], Molecule],
    wanted: list[np.ndarray] | None = None,
) -> Edits:
    """Molecules brought into the frame of their request; those without the wanted elements count as failed."""
    rows = np.delete(np.arange(num_requests), list(result.failed)).tolist()
    done = {row: finish(row, made) for row, made in zip(rows, result.molecules, strict=True)}
    if wanted is not None:
        done = {row: one for row, one in done.items() if sorted(one.atomic_numbers) == sorted(wanted[row])}
    failed = tuple(row for row in range(num_requests) if row not in done)
    return Edits(PackedMolecules.from_molecules(done.values()), np.array(list(done)), failed, result.num_calls)
