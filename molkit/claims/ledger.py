"""Claims of the papers as data: what was published, and the rule, fixed before running, that a result must meet."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from molkit.config import check_keys, from_dict, read_yaml
from molkit.errors import DataNotFound, InvalidInput

REPOSITORY = Path(__file__).resolve().parents[2]
CLAIMS_FOLDER = REPOSITORY / "data" / "claims"

PUBLISHED_ENERGIES = "published_energies"  # an energy that leans on other people's: never evidence for a functional
BASES = (
    "published_data",
    "published_samples",
    "published_weights",
    "trained_here",
    "exact",
    "scaled_down",
    PUBLISHED_ENERGIES,
)
PROFILES = ("smoke", "by hand", "fast", "paper")
STORED_PROFILES = ("fast", "paper")  # the only ones whose results are kept, and the only ones that earn a verdict
STATUSES = ("confirmed", "author", "code", "third party", "unverified")
DIRECTIONS = ("higher", "lower", "equal")
RULES = ("within", "at_least", "at_most", "order", "not_measurable")
CLAIM_ID = re.compile(r"[a-z0-9]+(?:_[a-z0-9]+)*(?:\.[a-z0-9]+(?:_[a-z0-9]+)*)+")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """When a measured value agrees with the published one.

    within: |ours - published| <= tolerance.
    at_least: ours >= published - tolerance. at_most: ours <= published + tolerance.
    The interval of ours must reach the published value as well. order: ours is better, in the claim's direction, than
    every claim in `than`, and the intervals do not overlap; the others are taken as `published`, or as `measured` here.
    not_measurable: a statement that no number here can settle.
    """

    kind: str
    tolerance: int | float = 0.0  # in the claim's unit
    than: tuple[str, ...] = ()  # the claims an `order` is about
    using: str = "published"  # or "measured"
    baseline: str | None = None  # the claim whose published value must be beaten for "direction only"
    min_n: int = 1  # below this many counted items no verdict is given
    because: str = ""  # where the tolerance comes from

    def __post_init__(self) -> None:
        _one_of("kind of acceptance rule", self.kind, RULES)
        _one_of("`using`", self.using, ("published", "measured"))
        if self.tolerance < 0 or self.min_n < 1:
            raise InvalidInput(f"need tolerance >= 0 and min_n >= 1, got {self.tolerance} and {self.min_n}")
        if (self.kind == "order") != bool(self.than):
            raise InvalidInput(f"a rule of kind `order`, and only that one, names claims in `than`; got {self.than}")


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One published statement. `value` is None when the published number is unverified or the claim is in words."""

    id: str
    label: str
    paper: str
    place: str  # table, section or discussion
    status: str  # how sure we are of the published number
    metric: str  # dotted name of the function that measures it
    direction: str  # which way is better; "equal" when the aim is to match
    accept: Rule
    value: int | float | None = None
    by: str = ""  # who published the value, where it was not the paper itself
    spread: int | float | None = None
    spread_status: str = "none"  # printed, unverified or none
    unit: str = ""
    decimals: int = 1
    n: int | None = None  # what the paper counted; None when it is not known
    counts: str = ""  # what n counts
    basis: tuple[str, ...] = ()  # the kinds of evidence that count as the paper's scale
    training_passes: int | float | None = None  # molecules shown in the paper's training, when it must be matched
    measured_as: str | None = None  # the claim whose result is judged here too: another claim about the same number
    attempt: str = "now"  # or "none"
    why: str = ""  # reason of attempt: none
    fill: str = ""  # the command, or the reader of data, that would fill it
    note: str = ""

    def __post_init__(self) -> None:
        try:
            self._check()
        except InvalidInput as error:
            raise InvalidInput(f"claim {self.id}: {error}") from None

    def _check(self) -> None:
        if not CLAIM_ID.fullmatch(self.id):
            raise InvalidInput("an id is lower-case words joined by dots, such as edm.qm9.data.atom_stable")
        _one_of("status", self.status, STATUSES)
        _one_of("direction", self.direction, DIRECTIONS)
        _one_of("spread_status", self.spread_status, ("printed", "unverified", "none"))
        _one_of("attempt", self.attempt, ("now", "none"))
        for basis in self.basis:
            _one_of("basis", basis, [name for name in BASES if name not in ("scaled_down", PUBLISHED_ENERGIES)])
        if not (self.label and self.paper and self.place and self.metric):
            raise InvalidInput("needs label, paper, place and metric")
        if self.status == "third party" and self.value is not None and not self.by:
            raise InvalidInput("a number that others published names them in `by`")
        if self.status == "unverified" and self.value is not None:
            raise InvalidInput("an unverified claim carries no number; set value to null")
        if (self.spread is not None) != (self.spread_status == "printed"):
            raise InvalidInput("a spread is given exactly when spread_status is `printed`")
        if self.accept.kind in ("within", "at_least", "at_most") and self.value is None and self.status != "unverified":
            raise InvalidInput(f"a rule of kind {self.accept.kind} needs a published value")
        if self.attempt == "none" and not self.why:
            raise InvalidInput("`attempt: none` needs its reason in `why`")
        if self.attempt == "now" and (self.why or not self.counts or not self.basis):
            raise InvalidInput("`attempt: now` needs `counts` and `basis`, and no `why`")

    @property
    def fingerprint(self) -> str:
        """Changes when the published value or the rule changes: a result recorded under another rule is stale."""
        facts = [self.value, self.unit, self.direction, self.n, self.counts, self.basis, self.training_passes]
        rule = [getattr(self.accept, field.name) for field in fields(Rule) if field.name != "because"]
        return hashlib.sha256(json.dumps([facts, rule]).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One result of ours for one claim, with everything needed to judge and to repeat it."""

    claim_id: str
    value: float  # in the claim's unit
    interval: tuple[float, float] | None  # in the claim's unit
    interval_kind: str  # how the interval was made, such as "bootstrap 95 %"; "exact" when there is nothing to sample
    n: int
    counts: str  # what n counts
    basis: str
    profile: str
    weights: str | None = None
    training_passes: int | float | None = None
    seeds: tuple[int, ...] = ()
    seconds: float = 0.0  # wall time
    peak_memory_mib: float = 0.0
    notes: str = ""
    recorded: str = ""  # UTC, ISO 8601
    claim_fingerprint: str = ""
    commit: str | None = None
    dirty: bool | None = None
    source_hash: str = ""
    source_files: Mapping[str, str] = field(default_factory=dict)  # path in the repository -> SHA-256
    data_files: Mapping[str, str] = field(default_factory=dict)  # the same, weights included
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: str = ""
    device: str = "cpu"
    origin: Mapping[str, Any] = field(default_factory=dict)  # of the rows of an experiment, copied; else empty

    def __post_init__(self) -> None:
        _one_of(f"{self.claim_id}: basis", self.basis, BASES)
        _one_of(f"{self.claim_id}: profile", self.profile, PROFILES)


def load_claims(folder: Path | None = None, *, study: str = "") -> dict[str, Claim]:
    """Every claim of the YAML files in `folder` (data/claims of the repository), by id, in the order of the files.

    With a study only `study`.yaml is read, where there is such a file: what a chapter reads decides when it is run
    again. A file names its `paper` and lists `groups`; a group has `shared` fields and `claims` that may override them.
    Raises InvalidInput naming the file and the unknown, missing or doubtful entry, DataNotFound if there is no file.
    """
    folder = Path(folder) if folder is not None else CLAIMS_FOLDER
    own = folder / f"{study}.yaml"
    paths = [own] if study and own.is_file() else sorted(folder.glob("*.yaml"))
    if not paths:
        raise DataNotFound(f"no claims in {folder}: run from a clone of the repository, which holds data/claims/*.yaml")
    claims: dict[str, Claim] = {}
    for path in paths:
        for claim in _read_file(path, path.stat().st_mtime_ns):
            if claim.id in claims:
                raise InvalidInput(f"{path}: the claim {claim.id} is listed twice")
            claims[claim.id] = claim
    _check_references(claims)
    return claims


def select(claims: Mapping[str, Claim], selection: str | Sequence[str]) -> list[Claim]:
    """The claims below a dotted prefix ("" for all), or those listed by id. Raises InvalidInput if nothing matches."""
    if isinstance(selection, str):
        prefix = selection.rstrip(".")
        found = [c for c in claims.values() if not prefix or c.id == prefix or c.id.startswith(prefix + ".")]
        if not found:
            groups = sorted({".".join(name.split(".")[:2]) for name in claims})
            raise InvalidInput(f"no claim begins with {prefix!r}; the groups are {', '.join(groups)}")
        return found
    return [find(claims, name) for name in selection]


def study_of(selection: str | Sequence[str]) -> str:
    """The study that all selected claims belong to, the first word of their ids; "" for several or all."""
    names = [selection] if isinstance(selection, str) else selection
    studies = {name.partition(".")[0] for name in names}
    return studies.pop() if len(studies) == 1 else ""


def named_in_rules(claims: Mapping[str, Claim], chosen: Sequence[Claim]) -> list[str]:
    """Ids of the chosen claims and of all that their rules compare with, whatever way round."""
    found: dict[str, None] = {}
    waiting = [claim.id for claim in chosen]
    while waiting:
        name = waiting.pop(0)
        if name in found or name not in claims:
            continue
        found[name] = None
        rule = claims[name].accept
        waiting += [other for other in (*rule.than, rule.baseline, claims[name].measured_as) if other]
    return list(found)


def find(claims: Mapping[str, Claim], claim_id: str) -> Claim:
    """The claim of that id. Raises InvalidInput with the nearest ids when there is none."""
    if claim_id in claims:
        return claims[claim_id]
    near = get_close_matches(claim_id, claims, n=3)
    hint = f"; near it: {', '.join(near)}" if near else "; `molkit ledger` lists them"
    raise InvalidInput(f"unknown claim {claim_id!r}{hint}")


@lru_cache(maxsize=64)
def _read_file(path: Path, _modified: int) -> tuple[Claim, ...]:
    content = read_yaml(path)
    check_keys(content, {"paper", "groups"}, source=str(path))
    claims = []
    for group in content.get("groups") or []:
        check_keys(group, {"shared", "claims"}, source=f"{path}, a group")
        for entry in group.get("claims") or []:
            merged = {"paper": content.get("paper"), **(group.get("shared") or {}), **entry}
            claims.append(_claim(merged, f"{path}, {merged.get('id', 'a claim without id')}"))
    return tuple(claims)


def _claim(entry: Mapping[str, Any], where: str) -> Claim:
    if entry.get("accept") is None:
        raise InvalidInput(f"{where}: needs an acceptance rule, `accept: {{kind: ...}}`")
    rule = from_dict(Rule, entry["accept"], source=f"{where}, accept")
    return from_dict(Claim, {**entry, "accept": rule}, source=where)


def _check_references(claims: Mapping[str, Claim]) -> None:
    for claim in claims.values():
        named = [*claim.accept.than, claim.accept.baseline, claim.measured_as]
        others = [name for name in named if name is not None]
        for other in others:
            if other not in claims:
                raise InvalidInput(f"claim {claim.id}: its rule names {other!r}, which is not a claim")
        compared = [claim.accept.baseline] if claim.accept.baseline else []
        compared += claim.accept.than if claim.accept.using == "published" else ()
        for other in compared:
            if claims[other].value is None:
                raise InvalidInput(f"claim {claim.id}: its rule compares with {other}, which has no published value")


def _one_of(what: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise InvalidInput(f"{what} must be one of {', '.join(allowed)}; got {value!r}")
