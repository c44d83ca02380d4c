"""The errors a user can cause. Each message says what was expected, what came, and what to do."""


class MolkitError(Exception):
    """Base of every error that is reported in one line; the command line ends with `exit_code`."""

    exit_code = 2


class InvalidInput(MolkitError, ValueError):
    """A value, molecule or file content that molkit cannot use."""


class DataNotFound(MolkitError, FileNotFoundError):
    """A data file is absent; the message names the file and the command that brings it."""


class ChecksumMismatch(MolkitError):
    """A file's bytes are not the published ones; the message names both checksums."""


class ToolNotFound(MolkitError):
    """An optional program or package is missing; the message names what to install."""


class NetworkUnavailable(MolkitError):
    """A download could not be made; nothing was changed on disk."""


class RunError(MolkitError):
    """A training or book run cannot start, or stopped before its end."""


class CalculationFailed(MolkitError):
    """A calculation gave no usable number."""

    exit_code = 1


class PartlyDone(MolkitError):
    """Part of what was asked for was done and is written; the rest has been listed with its reasons."""

    exit_code = 3
