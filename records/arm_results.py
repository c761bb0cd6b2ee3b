"""What the ARM kernels gave and cost, from several records: the figures that a page may quote."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from records.arm_comparison import ArmComparisonRecord
from records.instructions import Count, InstructionPart, InstructionRecord
from records.parity import Mode

Share = Annotated[float, Meta(ge=0.0, le=1.0)]


class ArmCount(InstructionPart, frozen=True, kw_only=True):
    """Instructions of one bundle's artifacts on one CPU; ``image_size``: S of its input."""

    image_size: Annotated[int, Meta(ge=1)]
    record: InstructionRecord


class ArmParity(InstructionPart, frozen=True, kw_only=True):
    """One INT8 artifact on one CPU, in the mode of its shipping, and the same file on the host.

    Shares are of the boundary's values. ``within_1_lsb``, ``within_2_lsb``, ``max_lsb``: against
    eager INT8. ``as_host``: identical to the host's outputs in the mode that is right there; None
    where the host does not run the file rightly. ``host``: by the host's mode, the share within
    1 LSB of eager INT8.
    """

    split: str
    image_size: Annotated[int, Meta(ge=1)]
    cpu: str
    artifact: str
    victims: Annotated[int, Meta(ge=1)]
    within_1_lsb: Share
    within_2_lsb: Share
    max_lsb: Count
    as_host: Share | None
    host: dict[Mode, Share]


class ArmAttack(InstructionPart, frozen=True, kw_only=True):
    """Decoders fed with what one artifact gave on one CPU, ``recon_psnr_db`` in dB by level.

    ``eager_db``: the same of eager INT8, which always runs on the host.
    """

    split: str
    cpu: str
    artifact: str
    victims: Annotated[int, Meta(ge=1)]
    attacker_images: Annotated[int, Meta(ge=1)]
    db: dict[str, float]
    eager_db: dict[str, float]
    verdict: str


class ArmResults(InstructionPart, frozen=True, kw_only=True):
    """Everything that was measured on emulated ARM CPUs."""

    schema: Literal["edgeveil.arm-results/1"] = "edgeveil.arm-results/1"
    counts: tuple[ArmCount, ...]
    parity: tuple[ArmParity, ...]
    attacks: tuple[ArmAttack, ...]
    comparisons: tuple[ArmComparisonRecord, ...]
