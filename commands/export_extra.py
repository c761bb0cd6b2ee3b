"""Refuse, with the way out, a verb whose packages are not installed here."""

from __future__ import annotations

from importlib.util import find_spec

from records.errors import UnsupportedHereError

_NEEDED = (
    "torch",
    "torchvision",
    "onnx",
    "safetensors",
    "scipy",
    "skimage",
    "matplotlib",
    "jinja2",
)


def require_export_extra(verb: str, packages: tuple[str, ...] = _NEEDED) -> None:
    """Raise when a package of the extra ``export`` is missing, without importing any.

    Args:
        verb: the command that needs it, for the message.
        packages: the import names that this verb needs.

    Raises:
        UnsupportedHereError: exit code 3; names what is missing and the pip command to run.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise UnsupportedHereError(
            f"edgeveil {verb} needs {', '.join(missing)}, not installed here; run: "
            "pip install 'edgeveil[export]' from the checkout (pip install '.[export]')"
        )
