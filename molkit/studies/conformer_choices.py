"""Choosing between weights on molecules that no result counts: stored studies of a validation split, in pairs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from molkit.errors import InvalidInput
from molkit.metrics.statistics import Interval, bootstrap_interval
from molkit.studies.conformers import ConformerStudy, by_molecule, mean_of, stored_study

ETM_CHOICES = {  # stored studies of the validation split, by what the energy was trained on
    "conformers_valid_etm_745": "745 molecules, 2,600 steps (published)",
    "conformers_valid_etm_2000": "2,000 molecules, 2,600 steps",
    "conformers_valid_etm_2000_long": "2,000 molecules, 5,200 steps",
}
START_CHOICES = {  # of drug-size molecules, by what the search for positions begins with
    "conformers_valid_start_normal": "normal numbers of 1 Å (published weights)",
    "conformers_valid_start_paths": "shortest paths",
}
FLOW_CHOICES = {  # of drug-size molecules, by what the flow was trained on
    "conformers_valid_start_normal": "560 molecules, 6,000 steps (published)",
    "conformers_valid_flow_further": "861 molecules, 6,000 steps more",
}


@dataclass(frozen=True)
class Choice:
    """One measure of an arm by the weights of a study, and by how much it differs from the first study's."""

    name: str
    mean: Interval
    change: Interval | None  # None for the first


def stored_choices(names: Mapping[str, str]) -> tuple[list[ConformerStudy], list[str]]:
    """The stored studies of ETM_CHOICES and the like, and their names in words. Raises DataNotFound."""
    return [stored_study(name) for name in names], list(names.values())


def choices(studies: Sequence[ConformerStudy], names: Sequence[str], arm: str, measure: str) -> list[Choice]:
    """A measure over the molecules of several studies of one setting but for the weights, the first one the baseline.

    Raises InvalidInput for studies of other molecules, or of settings that differ in more than weights and energy.
    """
    first = studies[0]
    for study in studies:
        if _setting(study) != _setting(first) or study.molecules != first.molecules:
            raise InvalidInput(
                f"{study.setting.energy or study.setting.weights}: measured on other molecules or otherwise"
            )
    found = []
    for name, study in zip(names, studies, strict=True):
        change = _change(study, first, arm, measure) if study is not first else None
        found.append(Choice(name, mean_of(study, arm, measure), change))
    return found


def _setting(study: ConformerStudy) -> tuple[object, ...]:
    one = study.setting
    return (one.data, one.split, one.threshold, one.max_references, one.seeds, one.stereo, one.symmetry, one.failures)


def _change(study: ConformerStudy, first: ConformerStudy, arm: str, measure: str) -> Interval:
    new, old = by_molecule(study, arm, measure), by_molecule(first, arm, measure)
    pairs = [(new[name], old[name]) for name in new if new[name] is not None and old[name] is not None]
    return bootstrap_interval(np.array([a - b for a, b in pairs]))
