"""``edgeveil attack``: how well the images are rebuilt from every INT8 artifact's own outputs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from commands.export_extra import require_export_extra
from commands.listed_option import listed_of
from commands.plain_table import plain_table
from commands.progress_bars import progress_bars
from commands.recipe_options import force_option, json_option
from commands.target_option import (
    beside,
    python_option,
    skipped_lines,
    ssh_config_option,
    target_cache_option,
    target_option,
    target_sentence,
)
from records.attack import Level, training_sentence
from records.counted import counted
from records.recipe import Capacity, CostlyControl

if TYPE_CHECKING:
    from rich.console import Console

    from baseline.datasets import ImageSplits
    from export.bundle import Bundle
    from records.attack import AttackRecord, LevelResult, Reconstruction, Recovery
    from records.recipe import AttackRecipe

#: Short enough for a terminal of 80 columns; the record has the full figures.
_FIGURES = ("mean", "p5", "p95", "leak", "SSIM", "rank-1", "label")
_FIGURES_MEAN = (
    "mean, p5, p95: recon_psnr_db over the victims. leak: leak_db, the mean over the floor. SSIM: "
    "recon_ssim. rank-1: re-identified. label: true class found"
)
_COLOURS = {"HOLDS": "bold green", "DENIED": "bold red", "INCONCLUSIVE": "bold yellow"}


@click.command()
@click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option("--data", help="Where the manifest's images are now, or other images.")
@click.option("--attacker-images", type=click.IntRange(min=2), help="Only the first N of them.")
@click.option(
    "--victims",
    type=click.IntRange(min=1),
    help="Only the first N of them  [default: all; 200 on an emulated target]",
)
@click.option(
    "--levels",
    metavar="A0,…",
    callback=listed_of(get_args(Level), "levels"),
    help="Attackers, of A0 to A4  [default: the bundle's recipe]",
)
@click.option("--seeds", help="Attacker seeds, e.g. 0,1  [default: the bundle's recipe]")
@click.option(
    "--capacities",
    metavar="C,…",
    callback=listed_of(get_args(Capacity), "capacities"),
    help="Decoders: small, medium, large  [default: the bundle's recipe]",
)
@click.option("--query-budgets", help="A3: training pairs, e.g. 100,1000  [default: the recipe's]")
@click.option(
    "--white-box-images", type=int, help="A2: the first N victims  [default: the recipe's]"
)
@click.option("--ood-source", help="A4: source of other images  [default: the recipe's]")
@click.option(
    "--artifacts", help="INT8 artifacts by name, comma-separated  [default: the recipe's, or all]"
)
@click.option(
    "--controls",
    metavar="C,…",
    callback=listed_of((*get_args(CostlyControl), "none"), "controls"),
    help="logits,bits16 or none  [default: the recipe's]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of attack.json and pictures  [default: attack[-TARGET] beside the bundle]",
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of features and decoders  [default: cache beside the bundle's folder]",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Threads; results are equal bit for bit at equal threads.",
)
@target_option
@target_cache_option
@python_option
@ssh_config_option
@force_option
@json_option
def command(
    bundle_path: Path,
    data: str | None,
    attacker_images: int | None,
    victims: int | None,
    levels: list[str] | None,
    seeds: str | None,
    capacities: list[str] | None,
    query_budgets: str | None,
    white_box_images: int | None,
    ood_source: str | None,
    artifacts: str | None,
    controls: list[str] | None,
    out: Path | None,
    cache: Path | None,
    threads: int,
    target_name: str,
    target_cache: Path | None,
    device_python: str | None,
    ssh_config: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Attack the outputs of every INT8 artifact of BUNDLE; say HOLDS, DENIED or INCONCLUSIVE.

    A0 reuses a decoder of FP32 features, A1 trains on the artifact's own outputs, A2 descends
    through the artifact's weights from A1's output, A3 has few training pairs, A4 has other
    images. Margin and confidence are those sealed in the bundle. Other settings or images than the
    sealed ones are recorded as not pre-registered. On a target the victims' images go through its
    runtimes; the decoders learn from the host's outputs of the same artifacts, or from the
    target's where the host does not run one rightly. DENIED is a result, not an error: exits 2
    only when a control or the agreement of the artifacts with each other failed.
    """
    require_export_extra("attack", ("torch", "torchvision", "safetensors", "PIL"))
    from attack.evaluate import attack_bundle
    from export.bundle import load_bundle
    from records import codec, files
    from records.attack import RECORD_NAME
    from records.errors import GateFailedError, OverwriteError
    from runtime_check.targets.open_target import default_limit, opened

    folder = out if out is not None else beside(bundle_path, "attack", target_name)
    if folder.exists() and any(folder.iterdir()) and not force:
        raise OverwriteError(f"{folder} already exists; add --force or choose another --out")
    bundle = load_bundle(bundle_path)
    recipe = _recipe(
        bundle.manifest.recipe.attack,
        levels=levels,
        seeds=_listed(seeds),
        capacities=capacities,
        query_budgets=_listed(query_budgets),
        white_box_images=white_box_images,
        ood_source=ood_source,
        artifacts=_listed(artifacts),
        controls=[] if controls == ["none"] else controls,
    )
    with (
        opened(target_name, target_cache, ssh_config=ssh_config, python=device_python) as target,
        progress_bars() as progress,
        files.new_folder(folder, replace=force) as partial,
    ):
        victims = default_limit(target) if victims is None else victims
        record = attack_bundle(
            bundle,
            _splits(bundle, data, attacker_images, victims),
            recipe,
            cache if cache is not None else beside(bundle_path, "cache", "host"),
            partial,
            progress=progress,
            threads=threads,
            target=target,
        )
        codec.write(partial / RECORD_NAME, record)
    if as_json:
        click.echo(codec.encode(record).decode(), nl=False)
    else:
        _print_record(record, folder)
    if not record.passed:
        raise GateFailedError(_failure(record, folder))


def _listed(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",")]


def _recipe(sealed: AttackRecipe, **given: Any) -> AttackRecipe:
    """Return the sealed recipe with what was given on the command line, key by key."""
    import msgspec

    from records.errors import InputError
    from records.recipe import AttackRecipe

    changes = {key: value for key, value in given.items() if value is not None}
    if not changes:
        return sealed
    try:
        # Texts of numbers become numbers here.
        plain = msgspec.to_builtins(sealed) | changes
        return msgspec.convert(plain, type=AttackRecipe, strict=False)
    except (msgspec.ValidationError, ValueError) as error:
        named = ", ".join(f"--{key.replace('_', '-')}" for key in changes)
        raise InputError(f"{named}: {error}") from error


def _splits(
    bundle: Bundle, data: str | None, attacker_images: int | None, victims: int | None
) -> ImageSplits:
    """Load the images of the manifest, proven by their hashes, or those of another source."""
    import dataclasses

    import msgspec
    import numpy as np

    from baseline.datasets import load_splits
    from records.errors import DataError, InputError
    from records.recipe import DataRecipe

    sealed = bundle.manifest.recipe.data
    plain: dict[str, Any] = msgspec.to_builtins(sealed)
    try:
        recipe = msgspec.convert(
            # A bundle is untrusted: it may name images that are here, not make us fetch any.
            plain | {"download": False} | ({} if data is None else {"source": data}),
            type=DataRecipe,
        )
    except (msgspec.ValidationError, ValueError) as error:
        raise InputError(f"--data {data}: {error}") from error
    splits = load_splits(recipe)
    expected, found = bundle.manifest.data, splits.record
    if data is None and (found.attacker, found.victim) != (expected.attacker, expected.victim):
        raise DataError(
            f"the images of {sealed.source} are not those that the bundle was made with; give the "
            "right data, or --data to use others"
        )
    first_attacker = np.arange(min(attacker_images or len(splits.attacker), len(splits.attacker)))
    first_victim = np.arange(min(victims or len(splits.victim), len(splits.victim)))
    return dataclasses.replace(
        splits,
        attacker=splits.attacker.take(first_attacker),
        victim=splits.victim.take(first_victim),
    )


def _failure(record: AttackRecord, folder: Path) -> str:
    from records.attack import failed_gates

    parts = []
    for gate in failed_gates(record):
        of = "" if gate.artifact is None else f" of {gate.artifact}"
        is_not = f"is {gate.measured:.3f} {gate.unit}, must be {gate.relation} {gate.limit:g}"
        parts.append(f"{gate.name}{of} {is_not}")
    return f"no verdict{_voided(record)}: {'; '.join(parts)}; evidence in {folder}"


def _voided(record: AttackRecord) -> str:
    """Name the artifacts without a verdict where others have one: drift voids only its own."""
    if any(not gate.passed for gate in record.controls.gates):
        return ""
    drifted = {gate.artifact for gate in record.drift if not gate.passed}
    names = [one.artifact for one in record.verdicts if one.artifact in drifted]
    return "" if len(names) == len(record.verdicts) else f" on {', '.join(names)}"


def _print_record(record: AttackRecord, folder: Path) -> None:
    from rich.console import Console

    console = Console()
    colour = _COLOURS[record.verdict]
    console.print(
        f"[{colour}]{record.verdict}[/{colour}]  split {record.split}: margin {record.margin_db:g} "
        f"dB, confidence {record.confidence:.0%} one-sided, "
        + ("pre-registered" if record.pre_registered else "NOT pre-registered")
    )
    if record.target is not None:
        console.print(target_sentence(record.target), markup=False, soft_wrap=True)
        console.print(training_sentence(record), soft_wrap=True)
    for line in skipped_lines(record.skipped):
        console.print(line, markup=False, soft_wrap=True)
    if record.note is not None:
        console.print(record.note)
    _print_verdicts(record, console)
    _print_leaks(record, console)
    _print_gates(record, console)
    console.print(f"record and pictures: {folder}")


def _print_verdicts(record: AttackRecord, console: Console) -> None:
    table = plain_table("max-leak(FP32) − max-leak(artifact), dB, best attacks")
    table.add_column("artifact", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for column in ("advantage", "lower", "upper"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in record.verdicts:
        colour = _COLOURS[row.verdict]
        table.add_row(
            row.artifact,
            f"[{colour}]{row.verdict}[/{colour}]",
            f"{row.advantage_db:.2f}",
            f"{row.lower_db:.2f}",
            f"{row.upper_db:.2f}",
        )
    console.print(table)


def _print_leaks(record: AttackRecord, console: Console) -> None:
    data = record.data
    table = plain_table(
        f"Reconstruction of {counted(data.victim.count, 'victim')}, "
        f"{counted(data.attacker.count, 'attacker image')} "
        f"({data.source}), {data.native_size} px"
    )
    table.add_column("artifact")
    table.add_column("attacker")
    for column in _FIGURES:
        table.add_column(column, justify="right", no_wrap=True)
    for row in (*_controls(record), *_attacked(record)):
        table.add_row(*row)
    console.print(table)
    console.print(_FIGURES_MEAN)
    for first, others in _same_outputs(record).items():
        console.print(f"same outputs as {first}, so the same figures: {', '.join(others)}")
    _print_left_out(record, console)


def _controls(record: AttackRecord) -> list[tuple[str, ...]]:
    controls = record.controls
    rows = [
        ("mean image (floor)", "", *_cells(controls.floor, None)),
        ("pass-through (ceiling)", "A0", *_cells(controls.ceiling, None)),
    ]
    for name, found in controls.logits.items():
        rows.append((f"logits of {name}", "A1", *_cells(found, None)))
    if controls.bits16 is not None:
        rows.append((f"{record.baseline} in 16 bits", "A1", *_cells(controls.bits16, None)))
    return rows


def _attacked(record: AttackRecord) -> list[tuple[str, ...]]:
    """Return a row for each attacker of each artifact whose outputs are its own."""
    victims = record.data.victim.count
    return [
        (artifact.name, _attacker(level, victims), *_cells(level.result, level.recovery))
        for artifact in record.artifacts
        if artifact.same_outputs_as is None
        for level in artifact.levels
    ]


def _cells(result: Reconstruction, recovery: Recovery | None) -> tuple[str, ...]:
    psnr = result.recon_psnr_db
    return (
        f"{psnr.mean:.2f}",
        f"{psnr.p5:.2f}",
        f"{psnr.p95:.2f}",
        f"{result.leak_db:.2f}",
        f"{result.recon_ssim.mean:.3f}",
        "" if recovery is None else f"{recovery.reidentified:.0%}",
        "" if recovery is None else f"{recovery.label_top1:.0%}",
    )


def _same_outputs(record: AttackRecord) -> dict[str, list[str]]:
    """Return artifact → later artifacts with the same outputs."""
    found: dict[str, list[str]] = {}
    for artifact in record.artifacts:
        if artifact.same_outputs_as is not None:
            found.setdefault(artifact.same_outputs_as, []).append(artifact.name)
    return found


def _attacker(result: LevelResult, victims: int) -> str:
    parts = [f"{result.level} seed {result.seed}"]
    if result.queries is not None:
        parts.append(f"{result.queries:,} pairs")
    if result.victims != victims:
        parts.append(counted(result.victims, "victim"))
    return "\n".join(parts)


def _print_left_out(record: AttackRecord, console: Console) -> None:
    if record.data.left_out_budgets:
        budgets = ", ".join(f"{budget:,}" for budget in record.data.left_out_budgets)
        console.print(
            f"A3 without {budgets} pairs: the attacker has "
            f"{counted(record.data.attacker.count, 'image')}, and A1 learns from all of them"
        )


def _print_gates(record: AttackRecord, console: Console) -> None:
    table = plain_table("Controls and export drift, limits fixed before the attack")
    for column in ("gate", "artifact"):
        table.add_column(column, no_wrap=True)
    for column in ("measured", "limit"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    same = {artifact.name for artifact in record.artifacts if artifact.same_outputs_as is not None}
    gates = (*record.controls.gates, *record.drift)
    left_out = [gate for gate in gates if gate.passed and gate.artifact in same]
    for gate in gates:
        if gate in left_out:
            continue
        table.add_row(
            gate.name,
            gate.artifact or "",
            f"{gate.measured:.3f}",
            f"{gate.relation} {gate.limit:g}",
            "[green]pass[/green]" if gate.passed else "[bold red]FAIL[/bold red]",
        )
    console.print(table)
    if left_out:
        console.print(f"{len(left_out)} more passed, of artifacts with the same outputs as another")
