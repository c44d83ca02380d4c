"""Properties that a model is asked for: how they enter the network, and which sizes go with them.

The context of a molecule has a value and a flag for each property: (c - mean) / spread and 1, or 0 and 0 where nothing
is asked. One model so serves any subset of its properties. Source: EDM, conditional generation (there one model a
property, without flags); the flags are ours.

Classifier-free guidance makes a conditional model listen more than it was trained to.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from molkit.edm.config import EdmConfig
from molkit.edm.model import Edm
from molkit.errors import DataNotFound, InvalidInput
from molkit.training.files import read_packed, write_packed

BINS = 1000  # of the histogram of a property at one size. Source: EDM reference code
NOTHING, SINGLE = (
    0.1,
    0.6,
)  # shares of training molecules with no property, and with exactly one; the rest: half of them
TABLE = "conditions.json.gz"


def context_of(config: EdmConfig, values: Tensor) -> Tensor:
    """Values [B, K] in their units, NaN where nothing is asked -> context [B, 2 K] float32: values, then flags."""
    means, spreads = torch.tensor(config.context_means), torch.tensor(config.context_spreads)
    asked = torch.isfinite(values)
    scaled = torch.where(asked, (values.float() - means) / spreads, torch.zeros(()))
    return torch.cat([scaled, asked.float()], dim=1)


def context_for(config: EdmConfig, conditions: Mapping[str, float], count: int) -> Tensor | None:
    """The context [count, 2 K] of molecules that are all asked for the same; None for a model without properties.

    Raises InvalidInput for a property the model does not know, or conditions for a model without any.
    """
    check_known(config, conditions)
    if not config.context_names:
        return None
    row = [float(conditions.get(name, float("nan"))) for name in config.context_names]
    return context_of(config, torch.tensor(row).expand(count, -1))


def check_known(config: EdmConfig, conditions: Mapping[str, float]) -> None:
    """Raise InvalidInput for a condition that the model cannot take."""
    if conditions and not config.context_names:
        raise InvalidInput("this model takes no conditions; use one trained with properties, as edm_qm9_conditional")
    for name, value in conditions.items():
        if name not in config.context_names:
            raise InvalidInput(f"unknown property {name!r}: this model knows {', '.join(config.context_names)}")
        if not np.isfinite(value):
            raise InvalidInput(f"{name} must be a finite number, got {value}")


def draw_flags(count: int, num_properties: int, *, generator: torch.Generator) -> Tensor:
    """Which properties each training molecule shows, [count, K] bool: none, one, or each by the toss of a coin."""
    device = generator.device
    kind = torch.rand(count, 1, generator=generator, device=device)
    single = torch.randint(num_properties, (count, 1), generator=generator, device=device)
    coins = torch.rand(count, num_properties, generator=generator, device=device) < 0.5
    alone = torch.arange(num_properties, device=device) == single
    return torch.where(kind < NOTHING, False, torch.where(kind < NOTHING + SINGLE, alone, coins))


@dataclass(frozen=True)
class ConditionTable:
    """p(M) and p(c | M) of the molecules a model was trained on, each property by itself.

    sizes [S]; counts [S]; for each property low and high [S] and the histogram of the values between them [S, BINS].
    """

    names: tuple[str, ...]
    sizes: np.ndarray
    counts: np.ndarray
    low: np.ndarray  # [K, S]
    high: np.ndarray  # [K, S]
    histogram: np.ndarray  # [K, S, BINS]

    def range_of(self, name: str) -> tuple[float, float]:
        """Smallest and largest value of a property in training."""
        k = self.names.index(name)
        labelled = self._labelled(k)
        return float(self.low[k][labelled].min()), float(self.high[k][labelled].max())

    def draw_values(self, name: str, num_atoms: np.ndarray, *, generator: np.random.Generator) -> np.ndarray:
        """One value of the property for each molecule of the given sizes [B]: a bin by its count, uniform inside."""
        k = self.names.index(name)
        rows = np.searchsorted(self.sizes, num_atoms)
        if (rows >= len(self.sizes)).any() or (self.sizes[rows] != num_atoms).any():
            raise InvalidInput(f"a size among {sorted(set(num_atoms.tolist()))} has no molecule in training")
        if not self._labelled(k)[rows].all():
            bare = sorted({int(self.sizes[row]) for row in rows if not self._labelled(k)[row]})
            raise InvalidInput(f"no molecule of {bare[0]} atoms in training has a value of {name}")
        cumulated = np.cumsum(self.histogram[k], axis=1)[rows]
        drawn = generator.random(len(rows)) * cumulated[:, -1]
        bins = (cumulated <= drawn[:, None]).sum(axis=1)
        width = (self.high[k] - self.low[k])[rows] / BINS
        return self.low[k][rows] + (bins + generator.random(len(rows))) * width

    def draw_sizes(
        self, count: int, *, generator: np.random.Generator, weights: np.ndarray | None = None
    ) -> np.ndarray:
        """Sizes [count] by p(M), or by the given weights [S]."""
        weights = self.counts if weights is None else weights
        return self.sizes[generator.choice(len(self.sizes), size=count, p=weights / weights.sum())]

    def size_weights(self, conditions: Mapping[str, float]) -> np.ndarray:
        """p(M | c) up to a factor, [S]: p(M) times the density of each asked value at that size.

        The histogram is smoothed over a fiftieth of its range. Raises InvalidInput for a value outside the range seen
        in training, or a combination that no size supports.
        """
        weights = self.counts.astype(float)
        for name, value in conditions.items():
            low, high = self.range_of(name)
            if not low <= value <= high:
                raise InvalidInput(
                    f"{name} = {value:g} lies outside {low:.4g} to {high:.4g}, the range seen in training"
                )
            weights = weights * self._density(name, value)
        if not weights.sum() > 0.0:
            asked = ", ".join(f"{name} = {value:g}" for name, value in conditions.items())
            raise InvalidInput(f"no size of molecule in training goes with {asked}; ask for fewer or milder values")
        return weights

    def check_size(self, num_atoms: int, conditions: Mapping[str, float]) -> None:
        """Raise InvalidInput naming the property whose value no training molecule of that size comes near."""
        rows = np.flatnonzero(self.sizes == num_atoms)
        for name, value in conditions.items():
            k = self.names.index(name)
            if not len(rows) or not self._labelled(k)[rows[0]]:
                raise InvalidInput(f"no molecule of {num_atoms} atoms in training has a value of {name}")
            low, high = self.low[k, rows[0]], self.high[k, rows[0]]
            if not low <= value <= high:
                raise InvalidInput(
                    f"{name} = {value:g} lies outside {low:.4g} to {high:.4g}, the range that training showed at "
                    f"{num_atoms} atoms"
                )

    def _labelled(self, k: int) -> np.ndarray:
        """Which sizes [S] have any value of property k."""
        return self.histogram[k].sum(axis=1) > 0

    def _density(self, name: str, value: float) -> np.ndarray:
        """At each size [S]; 0 where nothing is known of the property."""
        k, reach = self.names.index(name), BINS // 100
        out = np.zeros(len(self.sizes))
        for row in np.flatnonzero(self._labelled(k)):
            low, high, counts = self.low[k, row], self.high[k, row], self.histogram[k, row]
            width = max((high - low) / BINS, 1e-9)
            centre = int(np.floor((value - low) / width))
            near = counts[max(0, centre - reach) : max(0, centre + reach + 1)].sum()
            out[row] = near / (counts.sum() * (2 * reach + 1) * width)
        return out


def make_table(names: tuple[str, ...], num_atoms: np.ndarray, labels: np.ndarray) -> ConditionTable:
    """The table of molecules [B] with labels [B, K], NaN where there is none.

    Molecules without any label count for p(M) alone, and a size at which no molecule has any is left out. Raises
    InvalidInput for a property without any label.
    """
    num_atoms, labels = np.asarray(num_atoms), np.asarray(labels, dtype=float)
    for name, known in zip(names, np.isfinite(labels).any(axis=0), strict=True):
        if not known:
            raise InvalidInput(f"no molecule has a value of {name}")
    labelled = np.unique(num_atoms[np.isfinite(labels).any(axis=1)])
    sizes, counts = np.unique(num_atoms[np.isin(num_atoms, labelled)], return_counts=True)
    shape = (len(names), len(sizes))
    low, high, histogram = np.zeros(shape), np.zeros(shape), np.zeros((*shape, BINS), dtype=np.int64)
    for row, size in enumerate(sizes):
        for k in range(len(names)):
            values = labels[num_atoms == size, k]
            values = values[np.isfinite(values)]
            if len(values):
                low[k, row], high[k, row] = values.min(), values.max()
                histogram[k, row] = np.histogram(values, bins=BINS, range=(values.min(), values.max()))[0]
    return ConditionTable(names, sizes, counts, low, high, histogram)


def write_table(folder: Path, table: ConditionTable) -> None:
    """Write the table beside a model's weights: of each histogram only the bins that hold something."""
    bins = [[[[int(b), int(n)] for b, n in enumerate(row) if n] for row in part] for part in table.histogram]
    values = {
        "names": list(table.names),
        "sizes": table.sizes.tolist(),
        "counts": table.counts.tolist(),
        "low": np.round(table.low, 6).tolist(),
        "high": np.round(table.high, 6).tolist(),
        "bins": bins,
    }
    write_packed(folder / TABLE, json.dumps(values, separators=(",", ":")) + "\n")


def read_table(folder: Path) -> ConditionTable:
    """The table beside a model's weights. Raises DataNotFound or InvalidInput."""
    path = folder / TABLE
    if not path.is_file():
        raise DataNotFound(f"{path}: these weights hold no table of conditions; they were not trained with properties")
    try:
        values = json.loads(read_packed(path))
        low = np.array(values["low"])
        histogram = np.zeros((*low.shape, BINS), dtype=np.int64)
        for k, part in enumerate(values["bins"]):
            for row, entries in enumerate(part):
                for b, n in entries:
                    histogram[k, row, b] = n
        sizes, counts = np.array(values["sizes"]), np.array(values["counts"])
        return ConditionTable(tuple(values["names"]), sizes, counts, low, np.array(values["high"]), histogram)
    except (json.JSONDecodeError, KeyError, TypeError, IndexError) as error:
        raise InvalidInput(f"{path}: not a table of conditions ({error})") from error


class GuidedNetwork(nn.Module):
    """The prediction without conditions plus `scale` times what the conditions change in it; two calls for one."""

    def __init__(self, network: nn.Module, scale: float) -> None:
        super().__init__()
        self.network, self.scale = network, scale

    def forward(
        self,
        features: Tensor,
        positions: Tensor,
        t: Tensor,
        edge_index: Tensor,
        batch: Tensor,
        num_molecules: int,
        context: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Noise in positions [A, 3] and features [A, n_h]; an all-zero context means that nothing is asked."""
        inputs = (features, positions, t, edge_index, batch, num_molecules)
        asked, plain = self.network(*inputs, context), self.network(*inputs, context.new_zeros(context.shape))
        places, types = (free + self.scale * (told - free) for told, free in zip(asked, plain, strict=True))
        return places, types


def guided(edm: Edm, scale: float) -> Edm:
    """The same model with its conditions weighted by `scale`: 1 as trained, 0 not at all, above 1 exaggerated.

    Each call of the network becomes two. Source: Ho and Salimans 2022, with weight w = scale - 1. The result samples
    p(x) p(c | x)^scale only in the limit of small noise, and no likelihood belongs to it. Raises InvalidInput for a
    model without conditions or a negative scale.
    """
    if scale < 0.0:
        raise InvalidInput(f"the guidance scale must not be negative, got {scale:g}")
    if not edm.config.context_names:
        raise InvalidInput(f"{edm.name} was not trained with properties, so there is nothing to emphasise")
    return edm if scale == 1.0 else replace(edm, network=GuidedNetwork(edm.network, scale))
