"""``build_kit``: a verified bundle, its expected outputs, a device's program, in one archive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.kit.archive import archive
from benchmarks.kit.expected import Array, Expected, expected_outputs
from benchmarks.kit.readme import device_commands, readme
from export.bundle import Bundle
from records import codec, files
from records.errors import BundleError
from records.hashing import sha256_bytes
from records.kit import KIT_NAME, KitArray, KitFile, KitLimits, KitRecord
from records.manifest import MANIFEST_NAME, Artifact, Manifest
from records.progress import Progress, silent
from records.recipe import BenchRecipe
from runtime_check.gates import XNNPACK, identical_share_floor
from runtime_check.runtime import RUNTIME_OF
from runtime_check.targets.requirements import requirements
from runtime_check.victims import Victims

#: Formats whose INT8 kernels compute the same integers on every CPU.
INTEGER_KERNELS = ("torchscript-lite", "executorch")
REQUIREMENTS = "requirements-aarch64.txt"
_ROOT = Path(__file__).resolve().parents[2]
#: The modules of the device's program; none imports anything but these, numpy and a runtime.
SHIPPED = (
    "baseline/__init__.py",
    "baseline/preprocessing.py",
    "benchmarks/__init__.py",
    "benchmarks/device/__init__.py",
    "benchmarks/device/contents.py",
    "benchmarks/device/edges.py",
    "benchmarks/device/latency.py",
    "benchmarks/device/parity.py",
    "benchmarks/device/program.py",
    "benchmarks/device/record_files.py",
    "benchmarks/device/verdicts.py",
    "benchmarks/machine_state.py",
    "benchmarks/speedup.py",
    "benchmarks/timing.py",
    "benchmarks/validity.py",
    "records/__init__.py",
    "records/errors.py",
    "records/progress.py",
    "runtime_check/__init__.py",
    "runtime_check/machine.py",
    "runtime_check/targets/__init__.py",
    "runtime_check/targets/runner.py",
    "runtime_check/wire.py",
)


@dataclass(frozen=True)
class BuiltKit:
    """A kit that was just made.

    ``data``: the archive. ``folder``: the one folder in it. ``arrays``: see `Expected`.
    """

    file: KitFile
    data: bytes
    folder: str
    arrays: dict[str, Array]

    @property
    def commands(self) -> tuple[str, ...]:
        """The three commands of a device."""
        return device_commands(self.folder)


def build_kit(
    bundle: Bundle,
    victims: Victims | None,
    out: Path,
    *,
    recipe: BenchRecipe | None = None,
    replace: bool = False,
    progress: Progress = silent,
) -> BuiltKit:
    """Write a kit; the same bundle and victims give the same bytes.

    Args:
        bundle: a verified bundle; every artifact is hashed again.
        victims: the images that it carries; None makes a kit that can be measured only.
        out: the archive.
        recipe: of the measuring; None takes the bundle's.
        replace: allow an existing archive to be replaced.
        progress: told about each artifact.

    Returns:
        The archive, and what it holds.

    Raises:
        OverwriteError: ``out`` exists and ``replace`` is false.
        BundleError: a file of the bundle changed after it was verified.
        ArtifactError: an artifact does not load or run here.
    """
    expected = None if victims is None else expected_outputs(bundle, victims, progress)
    arrays, content = _stored_arrays({} if expected is None else expected.arrays)
    content |= _bundle_files(bundle) | _program_files()
    content[REQUIREMENTS] = requirements(one.format for one in bundle.manifest.artifacts)
    kit = KitRecord(
        bundle_id=bundle.manifest.bundle_id,
        split=bundle.manifest.split,
        bench=recipe if recipe is not None else bundle.manifest.recipe.bench,
        limits={edge.name: _limits(bundle, edge, expected) for edge in bundle.edges()},
        sample=None if expected is None else expected.sample,
        arrays=arrays,
        host_modes={} if expected is None else expected.modes,
        files={name: sha256_bytes(data) for name, data in content.items()},
    )
    folder = folder_name(bundle)
    content[KIT_NAME] = codec.encode(kit)
    content["README.md"] = readme(kit, folder)
    data = archive(folder, content, frozenset({"run.py"}))
    files.write_bytes(out, data, replace=replace)
    file = KitFile(file=out.name, sha256=sha256_bytes(data), size=len(data), kit=kit)
    return BuiltKit(file, data, folder, {} if expected is None else expected.arrays)


def folder_name(bundle: Bundle) -> str:
    """Return the name of the one folder in a bundle's kit, and of the kit itself."""
    return f"edgeveil-kit-{bundle.manifest.split}-{bundle.manifest.bundle_id[:12]}"


def contents_sha256(kit: KitRecord) -> str:
    """Return the SHA-256 of a kit's ``kit.json``, which every record of a device names."""
    return sha256_bytes(codec.encode(kit))


def _bundle_files(bundle: Bundle) -> dict[str, bytes]:
    found = {f"bundle/{one.file}": bundle.read(one) for one in bundle.manifest.artifacts}
    path = bundle.folder / MANIFEST_NAME
    manifest = path.read_bytes()
    if codec.decode(manifest, Manifest, str(path)) != bundle.manifest:
        raise BundleError(f"{path} has changed since it was verified; try again")
    return found | {f"bundle/{MANIFEST_NAME}": manifest}


def _program_files() -> dict[str, bytes]:
    found = {f"code/{name}": (_ROOT / name).read_bytes() for name in SHIPPED}
    found["run.py"] = (_ROOT / "benchmarks/device/run.py").read_bytes()
    return found


def _stored_arrays(given: Mapping[str, Array]) -> tuple[dict[str, KitArray], dict[str, bytes]]:
    """Store each array once: the wire and the float boundary of a runtime are mostly equal."""
    arrays: dict[str, KitArray] = {}
    content: dict[str, bytes] = {}
    for name, array in given.items():
        data = np.ascontiguousarray(array).tobytes()
        file = f"sample/{sha256_bytes(data)[:16]}.bin"
        content[file] = data
        arrays[name] = KitArray(
            file=file, dtype="uint8" if array.dtype == np.uint8 else "float32", shape=array.shape
        )
    return arrays, content


def _limits(bundle: Bundle, edge: Artifact, expected: Expected | None) -> KitLimits:
    recipe, bits = bundle.manifest.recipe.check, bundle.manifest.wire.bits
    if expected is None:
        return KitLimits()
    if edge.precision == "fp32":
        return KitLimits(parity_sqnr_db=recipe.fp32_parity_sqnr_db)
    # What a recipe leaves in float rounds otherwise where products and sums are fused.
    whole = not bundle.manifest.float_nodes and edge.format in INTEGER_KERNELS
    same_bits = 0 if whole else None
    if edge.format == "torchscript-lite":
        return KitLimits(max_lsb=recipe.lite_max_lsb, max_lsb_from_host=same_bits)
    xnnpack = RUNTIME_OF[edge.format] in XNNPACK
    within_1, within_2 = recipe.onnx_share_within_1_lsb, recipe.share_within_2_lsb
    share = within_2 if xnnpack else within_1
    return KitLimits(
        max_lsb_from_host=same_bits,
        share_identical=identical_share_floor(share, bits) if bits < 8 else None,
        # LiteRT's kernels on a device keep ONNX Runtime's limit as well as their own.
        share_within_1_lsb=within_1 if not xnnpack or edge.format == "litert" else None,
        share_within_2_lsb=within_2 if xnnpack else None,
    )
