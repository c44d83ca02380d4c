"""What the pages that compare ways of making conformers ask of their rows."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from molkit.cgcf.domain import Tested
from molkit.chem.rdkit_tools import rotatable_bonds
from molkit.claims.ledger import Measurement
from molkit.claims.record import record
from molkit.data.ensembles import ensemble_mol, load_ensembles
from molkit.errors import InvalidInput
from molkit.experiments.show import Column, mean_with_interval, paired
from molkit.figures import plots, style
from molkit.metrics.conformers import MEASURES
from molkit.metrics.statistics import Interval, bootstrap_interval
from molkit.studies.conformers.arms import ARMS, TITLES

COVERAGE = {
    "arm": Column("method", names=TITLES),
    "cov_recall": Column("COV-R, %", 1, 100.0),
    "mat_recall": Column("MAT-R, Å", 3),
    "cov_precision": Column("COV-P, %", 1, 100.0),
    "mat_precision": Column("MAT-P, Å", 3),
}
GEOMETRY = {
    "arm": Column("method", names=TITLES),
    "bond_spread": Column("bond spread, Å", 3),
    "radius_of_gyration": Column("R_g, Å", 2),
    "seconds": Column("CPU, ms", 0, 1e3),
    "num_failed": Column("failed"),
}
ENERGY = {"energy_kcal": Column("GFN2-xTB, kcal/mol", 1)}
DIFFERENCES = {
    "first": Column("", names=TITLES),
    "second": Column("less", names=TITLES),
    "cov_recall": Column("COV-R, points", 1, 100.0),
    "mat_recall": Column("MAT-R, Å", 3),
    "cov_precision": Column("COV-P, points", 1, 100.0),
    "mat_precision": Column("MAT-P, Å", 3),
}
COVERS = {"cov_recall": Column("recall, COV-R", 1, 100.0), "cov_precision": Column("precision, COV-P", 1, 100.0)}
CHOICE = {
    "name": Column("weights"),
    "cov_recall": Column("COV-R, points", 1, 100.0),
    "mat_recall": Column("MAT-R, Å", 4),
    "bond_spread": Column("bond spread, Å", 4),
}
LINES = {  # colour and kind of line of every way of making conformers
    "plain": (style.SKY, "--"),
    "plain_ff": (style.SKY, "-"),
    "etkdgv1": (style.GREEN, "--"),
    "etkdgv1_ff": (style.GREEN, "-"),
    "rdkit": ("#555555", "--"),
    "rdkit_ff": ("#555555", "-"),
    "flow_published": (style.VERMILION, ":"),
    "etm_published": (style.BLUE, ":"),
    "flow": (style.VERMILION, "--"),
    "etm": (style.BLUE, "--"),
    "flow_ff": (style.VERMILION, "-"),
    "etm_ff": (style.BLUE, "-"),
}
POOLS = {
    "threshold": Column("threshold, Å", 2),
    "twice": Column("ETKDGv3 twice, %", 1, 100.0),
    "mixed": Column("half of each, %", 1, 100.0),
    "gain": Column("gained, points", 1, 100.0),
}
AIMS = {"what": "", "aim": "aim", "measured": "measured", "verdict": ""}


def per_molecule(rows: pd.DataFrame) -> pd.DataFrame:
    """One row an arm and molecule, the mean over seeds; molecules and arms in the order of the rows."""
    columns = [*MEASURES, "bond_spread", "radius_of_gyration", "energy_kcal"]
    return rows.groupby(["arm", "molecule"], sort=False, as_index=False)[columns].mean()


def references(rows: pd.DataFrame) -> int:
    """How many references the molecules have, all together."""
    return int(rows.drop_duplicates("molecule")["num_references"].sum())


def geometry(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over the rows of each arm, its failed conformers, and the median energy of molecules."""
    kinds = {"bond_spread": "mean", "radius_of_gyration": "mean", "seconds": "mean", "num_failed": "sum"}
    found = rows.groupby("arm", sort=False, as_index=False).agg(kinds)
    energies = per_molecule(rows).groupby("arm")["energy_kcal"].median()
    return found.assign(energy_kcal=found["arm"].map(energies))


def differences(
    molecules: pd.DataFrame, pairs: Iterable[tuple[str, str]], measures: Iterable[str] = MEASURES
) -> pd.DataFrame:
    """Paired differences of arms over the same molecules, with 95 % bootstrap intervals."""
    measures = list(measures)
    lines = [
        {"first": arm, "second": other} | {name: difference(molecules, arm, other, name) for name in measures}
        for arm, other in pairs
    ]
    return pd.DataFrame(lines)


def difference(molecules: pd.DataFrame, arm: str, other: str, measure: str) -> Interval:
    """Mean paired difference arm - other over the molecules that both have a value of."""
    values = paired(molecules, arm, other, by="arm", over="molecule", column=measure)
    return bootstrap_interval(values.to_numpy())


def forest(
    molecules: pd.DataFrame | Mapping[str, pd.DataFrame], pairs: Sequence[tuple[str, str]], *, told: str
) -> Figure:
    """Paired differences of coverage in percentage points, recall and precision, with 95 % intervals over molecules.

    molecules: those of one set, or of several by their names, whose rows then stand below each other.
    """
    sets = molecules if isinstance(molecules, Mapping) else {"": molecules}
    rows = [(name, pair) for pair in pairs for name in sets]
    numbers = [f"{found['molecule'].nunique()} {name}".strip() for name, found in sets.items()]
    return plots.forest(
        pd.concat([differences(sets[name], [pair], COVERS) for name, pair in rows]),
        COVERS,
        labels=[f"{TITLES[arm]}\nless {TITLES[other]}{name and ', '}{name}" for name, (arm, other) in rows],
        xlabel="difference of coverage, percentage points (right of 0: the first is better)",
        caption=f"{told} n = {', '.join(numbers)} molecules; dots: means of paired differences, lines: 95 % bootstrap "
        "over molecules; hollow: the interval holds 0.",
    )


def coverage_curves(rows: pd.DataFrame, end: float, *, num_points: int = 101) -> pd.DataFrame:
    """Share of references covered at thresholds from 0 to `end` (angstrom): `arm`, `threshold`, `covered`.

    Mean over references, then seeds, then molecules; where nothing was made it is 0.
    """
    thresholds = np.linspace(0.0, end, num_points)
    shares = [(np.array(near or [np.inf])[None] <= thresholds[:, None]).mean(axis=1) for near in rows["nearest"]]
    curves = pd.DataFrame(shares, columns=thresholds).assign(arm=rows["arm"].array, molecule=rows["molecule"].array)
    means = curves.groupby(["arm", "molecule"], sort=False).mean().groupby("arm", sort=False).mean()
    return means.melt(ignore_index=False, var_name="threshold", value_name="covered").reset_index()


def pools(rows: pd.DataFrame, first: str, second: str, thresholds: Sequence[float]) -> pd.DataFrame:
    """Share of references covered by both of two pools of equal size, and what the mixed one gains, at each threshold.

    The pools of a draw: `first` of it and of the draw after it; `first` of it and `second` of the draw after it.
    Means over draws, then molecules, with 95 % bootstrap over molecules. No line where there is a single draw.
    """
    seeds = sorted(rows["seed"].unique())
    after = dict(zip(seeds, [*seeds[1:], seeds[0]], strict=True))
    near = {
        (row.arm, row.molecule, row.seed): row.nearest or [np.inf] * row.num_references for row in rows.itertuples()
    }
    names = list(dict.fromkeys(rows["molecule"]))

    def covered(other: str, threshold: float) -> np.ndarray:
        both = [
            [np.minimum(near[first, one, seed], near[other, one, after[seed]]) <= threshold for seed in seeds]
            for one in names
        ]
        return np.array([np.mean(found) for found in both])

    lines = []
    for threshold in thresholds if len(seeds) > 1 else ():
        twice, mixed = covered(first, threshold), covered(second, threshold)
        values = {"twice": twice, "mixed": mixed, "gain": mixed - twice}
        lines.append({"threshold": threshold, **{name: bootstrap_interval(value) for name, value in values.items()}})
    return pd.DataFrame(lines, columns=list(POOLS))


def changes(rows: Mapping[str, pd.DataFrame], arm: str) -> pd.DataFrame:
    """An arm by the rows of several weights, by what they are called: means of the first, below it paired changes.

    Raises InvalidInput for rows of other molecules.
    """
    columns = ["cov_recall", "mat_recall", "bond_spread", "radius_of_gyration"]
    means = {name: per_molecule(found) for name, found in rows.items()}
    own = {name: found[found["arm"] == arm].set_index("molecule")[columns] for name, found in means.items()}
    first = next(iter(own.values()))
    lines = [{"name": next(iter(own)), **mean_with_interval(first, columns).iloc[0]}]
    for name, other in list(own.items())[1:]:
        if list(other.index) != list(first.index):
            raise InvalidInput(f"{name}: measured on other molecules than {next(iter(own))}")
        change = (other - first).dropna()
        lines.append({"name": name, **{column: bootstrap_interval(change[column].to_numpy()) for column in columns}})
    return pd.DataFrame(lines)


def aims(molecules: pd.DataFrame) -> pd.DataFrame:
    """The aims of the comparison, what was measured and whether they are met, for the arms that there are."""
    arms = set(molecules["arm"])
    pairs = [("etm", "flow"), ("etm_published", "flow_published")]
    found = [_order_aim(molecules, *pair) for pair in pairs if set(pair) <= arms]
    found += [_force_field_aim(molecules, arm) for arm in ("flow_ff", "etm_ff") if {arm, "rdkit_ff"} <= arms]
    for arm in [arm for arm in ("flow", "etm") if arm in arms]:
        spread = mean_with_interval(molecules[molecules["arm"] == arm], ["bond_spread"])["bond_spread"][0]
        verdict = ("met" if spread.value <= 0.02 else "not met") if arm == "etm" else ""
        aim = "at most 0.02 Å" if arm == "etm" else "none, for comparison"
        found.append((f"Spread of bond lengths, {ARMS[arm]}", aim, f"{_told(spread, 3)} Å", verdict))
    return pd.DataFrame(found, columns=list(AIMS))


def _order_aim(molecules: pd.DataFrame, arm: str, other: str) -> tuple[str, str, str, str]:
    """Whether the ETM improves coverage or matching significantly at the same search."""
    cov, mat = (difference(molecules, arm, other, measure) for measure in MEASURES[:2])
    verdict = ("no order found", "better in one of two", "better in both")[(cov.low > 0.0) + (mat.high < 0.0)]
    if cov.high < 0.0 or mat.low > 0.0:
        verdict = "worse in at least one"
    told = f"COV-R {_told(cov.scaled(100.0), 1, '+')} points, MAT-R {_told(mat, 4, '+')} Å"
    return f"{ARMS[arm]} against {ARMS[other]}", "the order significant, or reported as not found", told, verdict


def _force_field_aim(molecules: pd.DataFrame, arm: str) -> tuple[str, str, str, str]:
    """Whether an arm with MMFF94 is not behind ETKDGv3 with MMFF94."""
    cov, mat = (difference(molecules, arm, "rdkit_ff", measure) for measure in MEASURES[:2])
    met = 100.0 * cov.low > -2.0 and mat.value <= 0.02
    aim = "COV-R: lower 95 % limit above −2 points; MAT-R at most 0.02 Å worse"
    told = f"{_told(cov.scaled(100.0), 1, '+')} points, {mat.value:+.3f} Å".replace("-", "−")
    return f"{ARMS[arm]} against {ARMS['rdkit_ff']}", aim, told, "met" if met else "not met"


def _told(found: Interval, digits: int, sign: str = "") -> str:
    ends = f" [{found.low:{sign}.{digits}f}, {found.high:{sign}.{digits}f}]" if found.known else ""
    return f"{found.value:{sign}.{digits}f}{ends}".replace("-", "−")


def as_tested(rows: pd.DataFrame) -> Tested:
    """What the molecules of a page are, and how the flow did: an entry of `tested.yaml` beside its weights."""
    data, molecules = str(rows["data"].iloc[0]), per_molecule(rows)
    names = set(molecules["molecule"])
    mols = [ensemble_mol(one) for one in load_ensembles(data, split="test") if one.name in names]
    means = molecules.groupby("arm")["cov_recall"].mean().round(3)
    return Tested(
        data=data,
        num_molecules=len(mols),
        elements=tuple(sorted({atom.GetAtomicNum() for mol in mols for atom in mol.GetAtoms()})),
        heavy_atoms=max(mol.GetNumHeavyAtoms() for mol in mols),
        rotatable_bonds=max(rotatable_bonds(mol) for mol in mols),
        charges=tuple(sorted({sum(atom.GetFormalCharge() for atom in mol.GetAtoms()) for mol in mols})),
        threshold=float(rows["threshold"].iloc[0]),
        covered=float(means["flow"]),
        covered_relaxed=float(means["flow_ff"]),
        covered_rdkit=float(means["rdkit_ff"]),
    )


ORDERS = {  # claims about the order of arms: arm, other, measure, factor
    "qm9.etm_cov": ("etm", "flow", "cov_recall", 100.0),
    "qm9.etm_mat": ("etm", "flow", "mat_recall", 1.0),
    "qm9.etm_published_cov": ("etm_published", "flow_published", "cov_recall", 100.0),
    "qm9.etm_published_mat": ("etm_published", "flow_published", "mat_recall", 1.0),
    "qm9.etm_ff_cov": ("etm_ff", "flow_ff", "cov_recall", 100.0),
    "qm9.ff_mat": ("flow_ff", "flow", "mat_recall", 1.0),
    "qm9.rdkit_cov": ("rdkit", "flow", "cov_recall", 100.0),
    "qm9.rdkit_etm_cov": ("rdkit", "etm", "cov_recall", 100.0),
    "drugs.rdkit_cov": ("rdkit", "flow", "cov_recall", 100.0),
    "drugs.flow_ff_cov": ("flow_ff", "rdkit", "cov_recall", 100.0),
    "drugs.etm_cov": ("etm", "flow", "cov_recall", 100.0),
    "drugs.etm_mat": ("etm", "flow", "mat_recall", 1.0),
    "drugs.etm_ff_cov": ("etm_ff", "flow_ff", "cov_recall", 100.0),
    "drugs.etm_ff_mat_precision": ("etm_ff", "flow_ff", "mat_precision", 1.0),
}


def record_orders(rows: pd.DataFrame, prefix: str, *, notes: str = "") -> list[Measurement]:
    """Record the paired differences behind the claims that begin with the prefix and whose arms there are."""
    molecules, found = per_molecule(rows), []
    for name, (arm, other, measure, factor) in ORDERS.items():
        if name.startswith(prefix) and {arm, other} <= set(molecules["arm"]):
            found.append(
                record(
                    f"cgcf.order.{name}",
                    difference(molecules, arm, other, measure).scaled(factor),
                    rows,
                    n=molecules["molecule"].nunique(),
                    basis="trained_here",
                    interval_kind="bootstrap over molecules, 95 %",
                    weights=str(rows["weights"].iloc[0]),
                    seeds=sorted(rows["seed"].unique()),
                    notes=notes,
                )
            )
    return found
