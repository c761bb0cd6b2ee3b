"""The record of a trained network: what it was made from, how training went, how good it is."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from records.manifest import DataRecord, FileName, Part, Sha256
from records.recipe import DataRecipe, ModelRecipe, TrainRecipe

RECORD_NAME = "training.json"
WEIGHTS_NAME = "model.safetensors"

Share = Annotated[float, Meta(ge=0.0, le=1.0)]


class Accuracy(Part, frozen=True, kw_only=True):
    """Top-1 accuracy as a share of 1, with a two-sided Wilson interval."""

    correct: Annotated[int, Meta(ge=0)]
    count: Annotated[int, Meta(ge=1)]
    top1: Share
    low: Share
    high: Share
    confidence: Annotated[float, Meta(gt=0.5, lt=1.0)]


class EpochRecord(Part, frozen=True, kw_only=True):
    """One epoch: mean training loss in nats, the last learning rate, wall time in seconds."""

    epoch: Annotated[int, Meta(ge=0)]
    loss: float
    learning_rate: float
    seconds: float


class TrainingRecord(Part, frozen=True, kw_only=True):
    """``training.json``: the recipe's sections and the data, then the result.

    ``initial_sha256``: hash of the weights file that training began from, None without one.
    ``checkpoint_sha256``: hash of ``checkpoint_file`` beside this record. ``threads``: torch's
    threads; the same recipe gives the same bits only with as many. ``seconds``: wall time of all
    epochs and the evaluation, also over resumed runs.
    """

    schema: Literal["edgeveil.training/1"] = "edgeveil.training/1"
    data_recipe: DataRecipe
    model: ModelRecipe
    train: TrainRecipe
    data: DataRecord
    initial_sha256: Sha256 | None
    checkpoint_file: FileName
    checkpoint_sha256: Sha256
    parameters: Annotated[int, Meta(ge=0)]
    epochs: tuple[EpochRecord, ...]
    victim_accuracy: Accuracy
    device: str
    threads: Annotated[int, Meta(ge=1)]
    versions: dict[str, str]
    seconds: float


class CheckpointRecord(Part, frozen=True, kw_only=True):
    """``checkpoint.json``: where an interrupted training goes on.

    ``identity``: hash of everything that decides the result. The order and the augmentation of an
    epoch follow from (seed, epoch), so no generator's state needs to be kept.
    """

    schema: Literal["edgeveil.checkpoint/1"] = "edgeveil.checkpoint/1"
    identity: Sha256
    file: FileName
    sha256: Sha256
    epochs: Annotated[tuple[EpochRecord, ...], Meta(min_length=1)]
