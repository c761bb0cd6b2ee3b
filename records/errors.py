"""The named errors of edgeveil, each with the exit code that the command line gives it."""

from __future__ import annotations


class EdgeveilError(Exception):
    """Base of every error that a user can meet: one sentence, what, where and what to do."""

    exit_code = 1


class InputError(EdgeveilError):
    """An argument, option or file given by the user cannot be used."""


class RecipeError(InputError):
    """A recipe is not valid: unknown key, wrong type, or settings that contradict each other."""


class DataError(InputError):
    """A data set is missing, malformed, or too small for the splits asked of it."""


class ModelError(InputError):
    """A network or checkpoint cannot be built, loaded or traced."""


class SplitError(InputError):
    """The named cut does not exist, or more than one tensor crosses it."""


class OverwriteError(InputError):
    """A result is already there and would have been overwritten."""


class RecordError(EdgeveilError):
    """A JSON record is malformed or of another schema."""


class BundleError(EdgeveilError):
    """A bundle failed verification: it must not be loaded."""


class ExportError(EdgeveilError):
    """A network cannot be quantized or written in the asked format."""


class ArtifactError(EdgeveilError):
    """An artifact did not load or run in its runtime."""


class GateFailedError(EdgeveilError):
    """A gate that was fixed beforehand was not met."""

    exit_code = 2


class UnsupportedHereError(EdgeveilError):
    """This machine or installation lacks what the command needs."""

    exit_code = 3
