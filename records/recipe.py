"""The recipe: everything that decides a run's result, read from TOML and refused when wrong.

It is fixed before anything is measured, and goes whole into the bundle's manifest: the
tolerances of ``check`` and the margin of the verdict are therefore pre-registered.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from records.errors import RecipeError

Count = Annotated[int, Meta(ge=1)]
Seed = Annotated[int, Meta(ge=0, lt=2**31)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Positive = Annotated[float, Meta(gt=0.0)]
ActivationObserver = Literal["min-max", "histogram", "percentile", "mse", "fisher"]
Capacity = Literal["small", "medium", "large"]
CostlyControl = Literal["logits", "bits16"]
#: ``ptl``: TorchScript Lite. ``onnx``: QDQ ONNX. ``ort``: ONNX Runtime's mobile file. ``pte``:
#: ExecuTorch. ``tflite``: LiteRT.
ExportFormat = Literal["ptl", "onnx", "ort", "pte", "tflite"]


_MODULE_PATH = re.compile(r"[A-Za-z_]\w*(\.\w+)*")


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the recipe's sections: frozen, keyword-only, unknown keys refused."""


class DataRecipe(Section, frozen=True, kw_only=True):
    """Which images, and how they are divided.

    ``source``: ``photos`` (embedded), ``cifar100[:ROOT]``, ``npz:FILE``, ``folder:DIR``.
    A count of None takes the source's default. ``attacker_pool``: ``held-out`` keeps the attacker's
    images disjoint from those that trained the network; ``train`` gives the attacker the training
    images themselves, a stronger attacker, and the only choice where a checkpoint saw them all.
    Victims are always disjoint, by content, from every other set.
    """

    source: str = "photos"
    download: bool = False
    seed: Seed = 0
    train: Count | None = None
    calibration: Count | None = None
    attacker: Count | None = None
    victims: Count | None = None
    attacker_pool: Literal["held-out", "train"] = "held-out"
    native_size: Annotated[int, Meta(ge=8, le=512)] = 32

    def __post_init__(self) -> None:
        """Refuse an unknown source."""
        _refuse_unknown_source(self.source)


class ModelRecipe(Section, frozen=True, kw_only=True):
    """Which network, where its weights come from, and what it is fed.

    ``name``: a torchvision name (``mobilenet_v3_small``, ``mobilenet_v3_large``, ``mobilenet_v2``,
    ``shufflenet_v2_x1_0`` …) or ``package.module:factory``. ``weights``: ``scratch``, ``imagenet``
    or a file (safetensors, or a torch checkpoint loaded with weights_only).
    ``image_size``: side in pixels of the network's square input.
    """

    name: str = "mobilenet_v3_small"
    weights: str = "scratch"
    image_size: Annotated[int, Meta(ge=8, le=1024)] = 32
    mean: tuple[float, float, float] = (0.5071, 0.4865, 0.4409)
    std: tuple[Positive, Positive, Positive] = (0.2673, 0.2564, 0.2762)


class TrainRecipe(Section, frozen=True, kw_only=True):
    """How the network is trained; ``epochs = 0`` keeps the given weights as they are.

    ``cutmix``: share of the batches in which every image gets a box of another one, and its label
    in proportion (Yun et al. 2019). It pays from some 50 epochs on.
    """

    epochs: Annotated[int, Meta(ge=0)] = 30
    batch_size: Count = 128
    learning_rate: Positive = 3e-3
    weight_decay: Annotated[float, Meta(ge=0.0)] = 0.05
    warmup_share: Share = 0.15
    label_smoothing: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.1
    augment: bool = True
    cutmix: Share = 0.0
    seed: Seed = 0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"


class ExportRecipe(Section, frozen=True, kw_only=True):
    """Where the network is cut and how the edge is quantized (FX graph mode, engine qnnpack).

    ``observers``: another method than ``activation_observer`` for single tensors, by the path of
    the module that makes them. ``refined_tensors``: for so many of the most harmful tensors the
    range is fitted to the loss of the whole network. ``bias_correction``: takes back the mean error
    of every channel. ``float_layers``: modules (with all inside them) and graph nodes that stay in
    float in every artifact; see `edgeveil sensitivity`. ``boundary_bits``: of the tensor that is
    sent; weights and inner activations keep 8. ``equalization``: of channels between layers that a
    ReLU joins. ``bn_reestimation``: of the BatchNorm statistics, on the quantized edge.
    ``whole_steps``: let 3 be a whole number of steps where a hard-swish reads, and 6 be 256 where a
    hard-sigmoid reads; in ONNX the one becomes a product of integers and the other vanishes.
    ``qat``: train the quantized edge from the calibrated ranges on, with the answers of the FP32
    network; ``qat_images``: the first so many training images, None for all;
    ``qat_learning_rate``: relative to the size of a weight tensor. ``formats``: what is written;
    ``ptl`` and ``onnx`` always, ``pte`` and ``tflite`` need the extras ``executorch`` and
    ``litert``, and hold no float layers.
    """

    splits: Annotated[tuple[str, ...], Meta(min_length=1)] = ("features.3",)
    weight_observer: Literal["per-channel", "per-tensor"] = "per-channel"
    activation_observer: ActivationObserver = "histogram"
    observers: dict[str, ActivationObserver] = {}
    refined_tensors: Annotated[int, Meta(ge=0)] = 0
    bias_correction: bool = False
    float_layers: tuple[str, ...] = ()
    boundary_bits: Literal[8, 6, 4, 3, 2, 1] = 8
    equalization: bool = False
    bn_reestimation: bool = False
    whole_steps: bool = False
    qat: bool = False
    qat_epochs: Count = 1
    qat_images: Annotated[int, Meta(ge=2)] | None = None
    qat_batch_size: Count = 64
    qat_learning_rate: Positive = 3e-3
    qat_seed: Seed = 0
    opset: Annotated[int, Meta(ge=17, le=21)] = 17
    formats: tuple[ExportFormat, ...] = ("ptl", "onnx")

    def __post_init__(self) -> None:
        """Refuse names that are no module path or named twice, and settings that contradict."""
        self._refuse_formats()
        for split in self.splits:
            if not _MODULE_PATH.fullmatch(split):
                raise ValueError(f"split {split!r} is not a module path such as features.3")
        if len(set(self.splits)) != len(self.splits):
            raise ValueError("the same split is named twice")
        for layer in self.float_layers:
            if not _MODULE_PATH.fullmatch(layer):
                raise ValueError(f"float layer {layer!r} is not a module path such as features.3")
        if len(set(self.float_layers)) != len(self.float_layers):
            raise ValueError("the same float layer is named twice")
        if self.qat and (self.bias_correction or self.bn_reestimation):
            raise ValueError(
                "qat trains the biases and scales that bias_correction and bn_reestimation would "
                "overwrite; leave them out"
            )
        if self.qat and self.float_layers:
            raise ValueError("qat trains every layer quantized: leave out float_layers, or qat")

    def _refuse_formats(self) -> None:
        if len(set(self.formats)) != len(self.formats):
            raise ValueError("the same format is named twice")
        if not {"ptl", "onnx"} <= set(self.formats):
            raise ValueError(
                "formats must hold ptl and onnx: the server half, the FP32 baseline and the "
                "white-box attack need them; add ort, pte or tflite"
            )
        quantized_whole = [word for word in self.formats if word in {"pte", "tflite"}]
        if self.float_layers and quantized_whole:
            raise ValueError(
                f"{' and '.join(quantized_whole)} cannot hold float layers: leave out float_layers,"
                " or leave out the format"
            )

    def uses(self, observer: ActivationObserver) -> bool:
        """Return whether any tensor is watched by this method."""
        return observer in {self.activation_observer, *self.observers.values()}

    def observer_of(self, tensor: str) -> ActivationObserver:
        """Return the method of the tensor that a module path or graph node makes."""
        return self.observers.get(tensor, self.activation_observer)


class CheckRecipe(Section, frozen=True, kw_only=True):
    """Tolerances of ``check``, in LSB (one step of the boundary's scale), shares and points."""

    batch_size: Count = 250
    lite_max_lsb: Annotated[int, Meta(ge=0)] = 0
    onnx_share_within_1_lsb: Share = 0.99
    share_within_2_lsb: Share = 0.999
    top1_agreement: Share = 0.98
    accuracy_drop_points: Positive = 3.0
    fp32_parity_sqnr_db: Positive = 80.0
    bootstrap_resamples: Annotated[int, Meta(ge=100)] = 2000
    confidence: Annotated[float, Meta(gt=0.5, lt=1.0)] = 0.95
    seed: Seed = 0


class BenchRecipe(Section, frozen=True, kw_only=True):
    """How long and how often ``bench`` measures; the floors are part of the protocol."""

    threads: Annotated[tuple[Count, ...], Meta(min_length=1)] = (1, 2, 4)
    batch_size: Count = 1
    warmup_runs: Annotated[int, Meta(ge=10)] = 10
    warmup_seconds: Annotated[float, Meta(ge=0.5)] = 0.5
    runs: Annotated[int, Meta(ge=100)] = 100
    seconds: Annotated[float, Meta(ge=3.0)] = 3.0
    confidence: Annotated[float, Meta(gt=0.5, lt=1.0)] = 0.95
    seed: Seed = 0


class AttackRecipe(Section, frozen=True, kw_only=True):
    """The attackers and the pre-registered margin of the verdict, in dB of ``recon_psnr_db``.

    ``white_box_images``: A2 attacks the first so many victims, with ``white_box_iterations`` steps.
    ``query_budgets``: training pairs of A3; those that are not below the attacker's images are left
    out, A1 stands for them. ``ood_source``: where A4's auxiliary images come from, as
    ``data.source``. ``controls``: those that cost trainings of their own. ``artifacts``: names of
    the INT8 edges to attack; none named: every one.
    """

    levels: Annotated[tuple[Literal["A0", "A1", "A2", "A3", "A4"], ...], Meta(min_length=1)] = (
        "A0",
        "A1",
    )
    margin_db: Positive = 3.0
    confidence: Annotated[float, Meta(gt=0.5, lt=1.0)] = 0.95
    bootstrap_resamples: Annotated[int, Meta(ge=100)] = 2000
    drift_tolerance_db: Positive = 0.1
    ceiling_db: Positive = 40.0
    seeds: Annotated[tuple[Seed, ...], Meta(min_length=1)] = (0,)
    capacities: Annotated[tuple[Capacity, ...], Meta(min_length=1)] = ("small",)
    max_epochs: Count = 30
    patience: Count = 3
    batch_size: Count = 256
    learning_rate: Positive = 4e-3
    validation_share: Annotated[float, Meta(gt=0.0, lt=0.5)] = 0.1
    white_box_images: Count = 64
    white_box_iterations: Count = 300
    query_budgets: Annotated[tuple[Annotated[int, Meta(ge=2)], ...], Meta(min_length=1)] = (
        100,
        1000,
        10_000,
        50_000,
    )
    ood_source: str = "photos"
    controls: tuple[CostlyControl, ...] = ("logits", "bits16")
    artifacts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse levels without those that they are built on, and lists in no order."""
        if "A0" not in self.levels:
            raise ValueError(
                "levels must contain A0: the FP32 baseline of the verdict is its decoder"
            )
        for level in ("A2", "A3"):
            if level in self.levels and "A1" not in self.levels:
                raise ValueError(f"levels with {level} must contain A1: it is measured against it")
        if len(set(self.levels)) != len(self.levels):
            raise ValueError("the same level is named twice")
        if len(set(self.artifacts)) != len(self.artifacts):
            raise ValueError("the same artifact is named twice")
        if sorted(set(self.query_budgets)) != list(self.query_budgets):
            raise ValueError("query_budgets must ascend")
        _refuse_unknown_source(self.ood_source)


def _refuse_unknown_source(source: str) -> None:
    kind, _, where = source.partition(":")
    if kind not in {"photos", "cifar100", "npz", "folder"}:
        raise ValueError(
            f"data source {source!r} is unknown: use photos, cifar100[:ROOT], npz:FILE "
            "or folder:DIR"
        )
    if kind in {"npz", "folder"} and not where:
        raise ValueError(f"data source {kind!r} needs a path: {kind}:PATH")


class Recipe(Section, frozen=True, kw_only=True):
    """A whole run, section by section; every key has a default."""

    schema: Literal[1] = 1
    name: str = "edgeveil"
    data: DataRecipe = DataRecipe()
    model: ModelRecipe = ModelRecipe()
    train: TrainRecipe = TrainRecipe()
    export: ExportRecipe = ExportRecipe()
    check: CheckRecipe = CheckRecipe()
    bench: BenchRecipe = BenchRecipe()
    attack: AttackRecipe = AttackRecipe()


_AT = re.compile(r"(?P<what>.*) - at `\$\.?(?P<path>[^`]*)`", re.DOTALL)


def key_first(error: Exception) -> str:
    """Return what msgspec refuses as ``[section] key: what is wrong``."""
    found = _AT.fullmatch(str(error))
    if found is None:
        return str(error)
    section, dot, key = found["path"].partition(".")
    where = f"[{section}] {key}" if dot else section
    return f"{where}: {found['what']}" if where else found["what"]


def read_recipe(path: Path) -> Recipe:
    """Read a recipe from a TOML file.

    Raises:
        RecipeError: the file is missing, not TOML, or has an unknown key or a bad value.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RecipeError(f"recipe {path} cannot be read: {error.strerror}") from error
    try:
        return msgspec.toml.decode(data, type=Recipe)
    except (msgspec.DecodeError, ValueError) as error:
        raise RecipeError(f"recipe {path}: {key_first(error)}") from error
