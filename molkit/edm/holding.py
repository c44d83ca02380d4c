"""What is known of molecules before they are made, and how a chain is kept to it.

What is known of the clean molecule is put into every prediction of the network, so its part of the chain is a draw of
the forward process, and the rest is made to fit. Positions live on the zero-mean subspace of the WHOLE molecule, whose
centre is unknown as long as atoms are missing. But that subspace is an orthogonal sum: the known atoms relative to
their own centre, and everything else (where that centre lies, the new atoms). Noise on it is independent in both
parts, so the first part is known exactly, in any frame, and nothing has to be guessed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from molkit.edm.features import State
from molkit.edm.samplers import clean_state
from molkit.edm.schedule import alpha, sigma
from molkit.errors import InvalidInput
from molkit.graphs import Graph

GUIDED_ABOVE = -2.0  # log-SNR; noise of 2.7 angstrom: the prediction of anything is poor before
SMALLEST_SHARE = 1e-5  # of an element at an atom, so that a wrong prediction can be turned
JUMP = 5  # grid steps that are walked again by a resampling


@dataclass(frozen=True)
class Guidance:
    """How strongly the unknown part is pulled towards agreement with what is known; strength 0 for not at all.

    The variances are those of a clean coordinate and of each clean feature channel [n_h] over all molecules, scaled.
    """

    strength: float
    position_variance: float
    feature_variances: Tensor

    def misfit(self, missed: State, log_snr: Tensor) -> Tensor:
        """Half the squared errors [A, 3], [A, n_h] of a predicted clean state, each over its expected square."""
        positions = missed.positions.square().sum() / expected_square(self.position_variance, log_snr)
        features = missed.features.square() / expected_square(self.feature_variances, log_snr)
        return 0.5 * (positions + features.sum())


def expected_square(variance: Tensor | float, log_snr: Tensor) -> Tensor | float:
    """Variance of a normal clean value that was seen with noise: v sigma^2 / (alpha^2 v + sigma^2)."""
    return variance / (1.0 + variance * float(torch.exp(log_snr)))


@dataclass(frozen=True)
class Known:
    """What is known of the clean molecules: relative positions of some atoms, features of some (others).

    `clean` is scaled, its positions in any frame; positions, features [A] bool mark the atoms they are known of. The
    known positions of one molecule move as one rigid body.
    """

    clean: State
    positions: Tensor
    features: Tensor

    def select(self, atoms: Tensor) -> "Known":
        """The same for the given atoms."""
        return self._with(lambda part: part[atoms])

    def to(self, device: torch.device | str) -> "Known":
        """The same on another device."""
        return self._with(lambda part: part.to(device))

    def _with(self, change: Callable[[Tensor], Tensor]) -> "Known":
        return Known(self.clean.map(change), change(self.positions), change(self.features))

    def missed(self, clean: State, graph: Graph) -> State:
        """How far a clean state is from what is known; zero elsewhere."""
        return State(
            relative(clean.positions - self.clean.positions, self.positions, graph),
            (clean.features - self.clean.features) * self.features.unsqueeze(-1),
        )

    def enter(self, noise: State, graph: Graph, log_snr: Tensor) -> State:
        """A draw of q(z_t | x) for what is known, from standard noise; the rest is noise of the same width."""
        signal, spread = float(alpha(log_snr)), float(sigma(log_snr))
        positions = signal * relative(self.clean.positions, self.positions, graph)
        features = signal * self.clean.features * self.features.unsqueeze(-1)
        return State(spread * noise.positions + positions, spread * noise.features + features)


@dataclass(frozen=True)
class Counted:
    """How many atoms of each element there are among the marked `atoms` [A] bool of a molecule, not which.

    `counts` [A, K] is the same row for all atoms of a molecule. The scaled atomic number of each element follows from
    `elements` [K]; scales as in the model's configuration.
    """

    atoms: Tensor
    counts: Tensor
    elements: Tensor
    scale_types: float
    scale_atomic_number: float | None  # None for a model without that channel

    def select(self, atoms: Tensor) -> "Counted":
        """The same for the given atoms."""
        return replace(self, atoms=self.atoms[atoms], counts=self.counts[atoms])

    def to(self, device: torch.device | str) -> "Counted":
        """The same on another device."""
        parts = {name: getattr(self, name).to(device) for name in ("atoms", "counts", "elements")}
        return replace(self, **parts)

    def missed(self, clean: State, graph: Graph) -> State:
        """How far clean features are from the nearest ones with the wanted counts, which are taken as given."""
        shares = self.balanced(clean.features[:, : len(self.elements)].detach() * self.scale_types, graph)
        columns = [shares / self.scale_types]
        if self.scale_atomic_number is not None:
            columns.append((shares @ self.elements.to(shares.dtype)).unsqueeze(-1) / self.scale_atomic_number)
        missed = clean.features - torch.cat(columns, dim=-1)
        return State(torch.zeros_like(clean.positions), missed * self.atoms.unsqueeze(-1))

    def balanced(self, one_hot: Tensor, graph: Graph, *, rounds: int = 50) -> Tensor:
        """Probabilities [A, K] nearest to the predicted one-hot rows that sum to one by atom and to the counts.

        The prediction is the mean of a one-hot row, so its entries are probabilities (but for errors, cut off). Rows
        and columns are rescaled in turns, which is the projection with the least relative entropy. Source: Sinkhorn and
        Knopp 1967.
        """
        shares = one_hot.double().clamp(min=SMALLEST_SHARE)
        marked, target = self.atoms.double().unsqueeze(-1), self.counts.double()
        for _ in range(rounds):
            total = graph.sum(shares * marked).clamp(min=1e-30)[graph.batch]
            shares = shares * target / total
            shares = shares / shares.sum(-1, keepdim=True)
        return shares.to(one_hot.dtype)


@dataclass(frozen=True)
class Holding:
    """All that is known, in parts that do not overlap, and how the unknown is pulled towards it."""

    parts: tuple[Known | Counted, ...]
    guidance: Guidance

    def select(self, atoms: Tensor) -> "Holding":
        """The same for the given atoms."""
        return replace(self, parts=tuple(part.select(atoms) for part in self.parts))

    def to(self, device: torch.device | str) -> "Holding":
        """The same on another device."""
        pull = replace(self.guidance, feature_variances=self.guidance.feature_variances.to(device))
        return Holding(tuple(part.to(device) for part in self.parts), pull)

    def missed(self, clean: State, graph: Graph) -> State:
        """How far a clean state is from all that is known; zero elsewhere."""
        each = [part.missed(clean, graph) for part in self.parts]
        return State(sum(one.positions for one in each), sum(one.features for one in each))

    def predict(self, call: Callable[[State], State], noisy: State, graph: Graph, log_snr: Tensor) -> State:
        """The noise predicted by `call`, pulled towards what is known, its known part replaced by the true noise.

        That is (z - alpha x) / sigma; with it a step of the ancestral chain draws q(z_s | z_t, x) of the known part.
        Source: derived here; Song et al. 2021 and Lugmayr et al. 2022 replace the noisy state instead, by a draw that
        forgets the one before.
        """
        if self.guidance.strength == 0.0 or float(log_snr) < GUIDED_ABOVE:
            predicted = call(noisy)
        else:
            predicted = self.guided(call, noisy, graph, log_snr)
        missed = self.missed(clean_state(noisy, predicted, log_snr), graph)
        ratio = float(torch.exp(0.5 * log_snr))
        return State(predicted.positions + ratio * missed.positions, predicted.features + ratio * missed.features)

    def guided(self, call: Callable[[State], State], noisy: State, graph: Graph, log_snr: Tensor) -> State:
        """Predicted noise minus sigma times the gradient of log p(known | z_t), which is taken to be normal.

        Its mean is the predicted clean state, its variance `expected_square`; strength times the gradient, and no atom
        is pulled by more than one standard deviation of the noise. Source: Ho et al. 2022 (video diffusion,
        reconstruction guidance), Song et al. 2023 (pseudoinverse guidance) for the variance; the limit is ours.
        """
        with torch.enable_grad():
            entered = noisy.map(lambda part: part.detach().requires_grad_())
            predicted = call(entered)
            misfit = self.guidance.misfit(self.missed(clean_state(entered, predicted, log_snr), graph), log_snr)
            pulls = torch.autograd.grad(misfit, [entered.positions, entered.features])
        scale = self.guidance.strength * float(sigma(log_snr))
        positions, features = (limited(scale * pull) for pull in pulls)
        return State(predicted.positions.detach() + graph.centre(positions), predicted.features.detach() + features)


def limited(pull: Tensor) -> Tensor:
    """Rows [A, K] shortened to length 1 where they are longer."""
    return pull / pull.norm(dim=-1, keepdim=True).clamp(min=1.0)


def relative(values: Tensor, known: Tensor, graph: Graph) -> Tensor:
    """Projection of values [A, 3] on the known positions: their values without their mean, zero at other atoms.

    An orthogonal projection, and one of the zero-mean subspace into itself. Source: derived here.
    """
    weights = known.to(values.dtype).unsqueeze(-1)
    mean = graph.sum(values * weights) / graph.sum(weights).clamp(min=1.0)
    return weights * (values - mean[graph.batch])


def resampled(steps: Sequence[int], resamplings: int, *, jump: int = JUMP) -> list[int]:
    """The steps of a chain that walks every stretch of `jump` steps `resamplings` times, going back up in between.

    Source: Lugmayr et al. 2022 (RePaint), resampling; the way up is one draw of q(z_t | z_s). Raises InvalidInput for
    numbers below 1.
    """
    if resamplings < 1 or jump < 1:
        raise InvalidInput(f"resamplings and jump must be at least 1, got {resamplings} and {jump}")
    path = [steps[0]]
    for first in range(0, len(steps) - 1, jump):
        stretch = list(steps[first + 1 : first + 1 + jump])
        path += stretch + ([steps[first]] + stretch) * (resamplings - 1)
    return path
