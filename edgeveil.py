"""The ``edgeveil`` command: a click group that imports a verb only when it is called."""

from __future__ import annotations

import importlib
import os
import sys

import click

from records.errors import EdgeveilError

COMMANDS = {
    "attack": "Attack every INT8 artifact's own outputs; say HOLDS, DENIED or INCONCLUSIVE.",
    "bench": "Measure size and latency of a bundle's artifacts on this machine.",
    "check": "Run every artifact in its real runtime against eager INT8.",
    "device": "Check and measure a bundle on a device behind ssh; bring the records back.",
    "doctor": "Say which runtimes and CPU features are here and what will be skipped.",
    "export": "Quantize the edge head and write a verified bundle of artifacts.",
    "inspect": "List the valid cuts of a network with parameters, MACs and boundary.",
    "kit": "Pack a bundle into one archive that a Raspberry Pi checks and measures.",
    "operators": "List the operators and format versions that each artifact needs.",
    "report": "Make the Markdown and HTML report from the JSON records.",
    "run": "Run every stage of a recipe; skip what is unchanged, resume what was cut.",
    "sensitivity": "Quantize each layer alone; list those that harm the answers most.",
    "sweep": "Attack every cell of split × boundary bits × attacker × seed; find the Pareto front.",
    "target": "Prepare, list and remove emulated ARM CPUs for check, bench and attack.",
    "train": "Train or fine-tune the network that is to be split.",
}


class LazyGroup(click.Group):
    """A group that knows its verbs' one-line helps without importing them.

    ``edgeveil --help`` must answer at once on a Raspberry Pi, so neither torch nor
    onnxruntime may be imported before a verb is called.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in alphabetical order."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import ``commands.<verb>`` and return its click command, or None when unknown."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"commands.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs with their helps, importing none of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name]) for name in self.list_commands(ctx)])


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="edgeveil")
def group() -> None:
    """Export the edge head of a split DNN, and measure what survives the export.

    Exit codes: 0 pass, 1 error, 2 a gate failed, 3 skipped or unsupported here.
    """


def main() -> None:
    """Run the command line; turn a named error into one sentence and its exit code.

    Click's own exit code for a usage error is 2, which here means "a gate failed": so
    click runs without its standalone mode and every error of its own exits 1.
    """
    # ONNX Runtime from 1.29 on sends telemetry unless it is told not to before it is imported.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        result = group(standalone_mode=False)
    except EdgeveilError as error:
        click.echo(f"edgeveil: {type(error).__name__}: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(1)
    except click.Abort:
        click.echo("edgeveil: interrupted", err=True)
        sys.exit(1)
    except OSError as error:
        if error.filename is None:
            raise
        # The disk's or the user's: full, read-only, a file where a folder should be.
        click.echo(f"edgeveil: {error.filename}: {error.strerror}; choose another place", err=True)
        sys.exit(1)
    sys.exit(result if isinstance(result, int) else 0)


if __name__ == "__main__":
    main()
