"""A noise predictor whose inner network sees inputs, and is asked for outputs, of unit size at every noise level.

After Karras et al. 2022 (EDM of images, section 5) and VEDA (arXiv 2511.09568), in the mixed space of positions and
types; a named extension: the paper's network predicts the noise itself.
"""

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from molkit.edm.config import EdmConfig
from molkit.edm.features import State, channel_spreads, encode
from molkit.edm.gdm import GdmNetwork
from molkit.edm.network import EdmNetwork
from molkit.edm.schedule import alpha, log_snr_table
from molkit.errors import InvalidInput
from molkit.graphs import Graph, remove_mean
from molkit.molecule import PackedMolecules

LEVEL_SCALE = 4.0  # the inner network's time column is ln(sigma / alpha) / 4


def standardised(config: EdmConfig, molecules: PackedMolecules) -> EdmConfig:
    """The configuration with the training molecules' means and spreads, where it asks for them and has none yet.

    Spreads: of centred positions, of the type channels (one for all), of the atomic number; all in scaled units.
    Raises InvalidInput for molecules whose channels are all alike, which leaves nothing to divide by.
    """
    if config.parametrisation != "preconditioned" or config.spreads:
        return config
    clean = encode(config, torch.from_numpy(molecules.atomic_numbers), torch.from_numpy(molecules.positions).double())
    positions = Graph.without_edges(torch.from_numpy(molecules.num_atoms), "cpu").centre(clean.positions)
    means = clean.features.mean(0)
    variances = (clean.features - means).square().mean(0)
    spreads = [positions.square().mean(), variances[: config.num_types].mean(), *variances[config.num_types :]]
    if min(spreads) <= 0.0:
        raise InvalidInput("a preconditioned model needs training molecules of different elements and places")
    return replace(
        config,
        feature_means=tuple(round(float(mean), 6) for mean in means),
        spreads=tuple(round(float(spread) ** 0.5, 6) for spread in spreads),
    )


class PreconditionedNetwork(nn.Module):
    """Noise from an inner network's F, for clean states y and y~ = noisy / alpha_t = y + sigma eps.

    With sigma = sigma_t / alpha_t, means mu, spreads s of the training data and q^2 = sigma^2 + s^2, the clean state is
    D = mu + (s / q)^2 (y~ - mu) + (sigma s / q) F, so the noise (y~ - D) / sigma = (y~ - mu) sigma / q^2 - (s / q) F.
    The inner network sees features (y~ - mu) / q, positions y~ s / q (angstroms at low noise) and ln(sigma) / 4.
    Source: Karras et al. 2022, table 1, per channel.
    """

    outer_layers: ClassVar[tuple[str, ...]] = ("inner.embed", "inner.read_out")
    log_snr: Tensor
    means: Tensor
    scales: Tensor

    def __init__(self, inner: EdmNetwork | GdmNetwork) -> None:
        super().__init__()
        self.inner, self.config = inner, inner.config
        means = torch.tensor((0.0, 0.0, 0.0, *self.config.feature_means), dtype=torch.float64)
        for name, value in (("log_snr", log_snr_table(self.config)), ("means", means)):
            self.register_buffer(name, value, persistent=False)
        self.register_buffer("scales", channel_spreads(self.config), persistent=False)

    @property
    def precision(self) -> str | None:
        """Of the inner network's matrix products, where it sets its own."""
        return getattr(self.inner, "precision", None)

    @property
    def planner(self) -> object:
        """Of an inner network on size buckets; None otherwise."""
        return getattr(self.inner, "planner", None)

    def forward(
        self,
        features: Tensor,
        positions: Tensor,
        t: Tensor,
        edge_index: Tensor,
        batch: Tensor,
        num_molecules: int,
        context: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As EdmNetwork.forward: noisy features [A, n_h], positions [A, 3] and t [A, 1] in, both noises out."""
        log_snr = self.log_snr[(t.squeeze(-1) * self.config.num_steps).round().long()].unsqueeze(-1)
        level = torch.exp(-0.5 * log_snr)
        spread = torch.sqrt(level.square() + self.scales.square())  # q [A, 3 + n_h]
        scaled = torch.cat([positions, features], dim=-1) / alpha(log_snr) - self.means
        seen = State(scaled[:, :3] * (self.scales / spread)[:, :3], (scaled / spread)[:, 3:])
        seen = seen.map(lambda part: part.to(positions.dtype))
        time = (level.log() / LEVEL_SCALE).to(positions.dtype)
        extra = () if context is None else (context,)
        moved, marks = self.inner(seen.features, seen.positions, time, edge_index, batch, num_molecules, *extra)
        residual = torch.cat([moved, marks.to(moved.dtype)], dim=-1)
        noise = scaled * level / spread.square() - self.scales / spread * residual
        places = remove_mean(noise[:, :3], batch, num_molecules)  # wherever the molecule lies
        return places.to(positions.dtype), noise[:, 3:].to(features.dtype)
