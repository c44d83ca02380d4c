"""What the stored functionals have in common: a configuration that names its method and its density basis."""

from pathlib import Path
from typing import Protocol, TypeVar

from molkit.config import from_dict, read_yaml
from molkit.errors import InvalidInput
from molkit.ofdft.basis import basis_fingerprint


class WithBasis(Protocol):
    """A configuration that says with which density basis it was trained."""

    basis: str


Config = TypeVar("Config", bound=WithBasis)


def stored_config(folder: Path, kind: type[Config], *, method: str, what: str) -> Config:
    """The configuration in a folder of weights.

    Raises DataNotFound, or InvalidInput for weights of another method or density basis, or an unknown key.
    """
    path = folder / "config.yaml"
    values = read_yaml(path)
    if values.pop("method", None) != method:
        raise InvalidInput(f"{folder.name} is not {what}")
    config = from_dict(kind, values, source=str(path))
    if config.basis != basis_fingerprint():
        raise InvalidInput(
            f"{folder.name}: made for density basis {config.basis}, this version has {basis_fingerprint()}"
        )
    return config
