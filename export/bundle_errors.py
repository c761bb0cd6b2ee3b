"""Why a bundle was refused, one named error a cause; all of them are ``BundleError``."""

from __future__ import annotations

from records.errors import BundleError


class ManifestError(BundleError):
    """The manifest is missing, is no strict canonical JSON, or breaks a rule of its schema."""


class SealError(BundleError):
    """The manifest is not the one whose hash its ``bundle_id`` states."""


class InconsistentManifestError(BundleError):
    """Two parts of the manifest contradict each other."""


class BundleFilesError(BundleError):
    """A file is missing, extra, of another size, or no plain regular file."""


class HashMismatchError(BundleError):
    """A file's bytes are not those that the manifest lists."""


class DisguisedFileError(BundleError):
    """A file is of another format than the manifest says, such as a pickle named .onnx."""


class NonFiniteWeightsError(BundleError):
    """A stored floating-point number is NaN or infinite."""


class MalformedArtifactError(BundleError):
    """A file cannot be parsed as its format, or exceeds a limit of the parser."""


class ArtifactMismatchError(BundleError):
    """A file is valid, but is not what the manifest says of it."""


class UnsafePickleError(BundleError):
    """A pickle inside a file names something that TorchScript Lite data never names."""


class UnsafeOperatorError(BundleError):
    """A file uses an operator that is not on the allow-list of edge and server networks."""


class ExternalDataError(BundleError):
    """An ONNX file refers to data outside itself."""
