"""``edgeveil report``: Markdown and one self-contained HTML page from a run's JSON records."""

from __future__ import annotations

from pathlib import Path

import click

from commands.export_extra import require_export_extra
from commands.recipe_options import force_option, json_option


@click.command()
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder  [default: RUN/report]"
)
@click.option(
    "--results",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write the figures that a page may quote, as JSON (replaced when it exists).",
)
@force_option
@json_option
def command(
    run_folder: Path, out: Path | None, results: Path | None, force: bool, as_json: bool
) -> None:
    """Make report.md and report.html from the records in the folder RUN, or of a sweep.

    Nothing is measured: a stage without a record is stated as not run. The HTML page holds its
    pictures and plots, needs no network and no script.
    """
    require_export_extra("report", ("jinja2", "matplotlib"))
    from records import codec
    from records.sweep import RECORD_NAME as SWEEP_NAME
    from records.sweep import Sweep
    from report.load import load_run
    from report.published import without_folders
    from report.results import results_of
    from report.write import write_report

    written = write_report(run_folder, out or run_folder / "report", replace=force)
    if results is not None:
        stored = run_folder / SWEEP_NAME
        # A sweep's record is what a page quotes of it, but for the folders of this machine.
        figures = without_folders(codec.read(stored, Sweep)) if stored.is_file() else None
        codec.write(results, figures or results_of(load_run(run_folder)), replace=True)
    if as_json:
        paths = {"html": str(written.html), "markdown": str(written.markdown)}
        click.echo(codec.encode(paths).decode(), nl=False)
    else:
        click.echo(f"report: {written.html}")
        click.echo(f"        {written.markdown}")
