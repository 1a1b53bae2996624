"""The program `symnet`, and the options that several of its commands share."""

from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from symnet.cli.complete import backbones, datasets, rows
from symnet.errors import EXIT_CODES

START, DATA, LEARN, RESULTS, PICTURES = "Before a run", "Data", "Learning and testing", "Results", "Your own pictures"
# In the order in which a person works. A command that is not here comes last in its panel.
PANELS = {
    START: ("doctor", "download", "protocol", "bench"),
    DATA: ("shapes", "masks", "folds", "counts", "store", "episodes", "embeddings"),
    LEARN: ("base", "features", "records", "train", "evaluate", "import-checkpoint"),
    RESULTS: ("status", "why", "show", "tables", "luck", "costs", "gallery", "figures", "track"),
    PICTURES: ("predict", "web"),
}


class Ordered(TyperGroup):
    """Commands panel by panel, in the order of `PANELS`."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """Names in the order of the help."""

        def position(name: str) -> tuple[int, int]:
            panel = self.commands[name].rich_help_panel  # type: ignore[attr-defined]
            names = PANELS.get(panel, ())
            return list(PANELS).index(panel) if panel in PANELS else len(PANELS), names.index(name) if name in names else len(names)

        return sorted(self.commands, key=position)


app = typer.Typer(
    cls=Ordered,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Few-shot segmentation, from raw data to the tables of a paper. Mostly used through [bold]snakemake all[/bold]; "
    "every stage is also a command here.",
    epilog="Exit codes: " + "; ".join(f"{code} {words}" for code, words in EXIT_CODES.items()) + ". More: docs/command-line.md",
)
track = typer.Typer(no_args_is_help=True, help="Runs in MLflow.")
app.add_typer(track, name="track", rich_help_panel=RESULTS)
protocol = typer.Typer(no_args_is_help=True, help="What makes two numbers comparable, and what does not.")
app.add_typer(protocol, name="protocol", rich_help_panel=START)

Config = Annotated[Path, typer.Option(help="Resolved JSON of a job, or an experiment file (YAML).")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting in place of the file's: train.steps=10. May be given several times."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", "-n", help="Only say what would be read and made, and whether it is there.")]
Results = Annotated[Path, typer.Option(envvar="SYMNET_RESULTS", help="Folder of the experiment, results/NAME.")]
Dataset = Annotated[str, typer.Option(help="Data set of the experiment file.", autocompletion=datasets)]
Backbone = Annotated[str, typer.Option(help="Name of the backbone, for the cell's place.", autocompletion=backbones)]
Fold = Annotated[int, typer.Option(min=0, help="Fold, from 0.")]
Device = Annotated[str, typer.Option(envvar="SYMNET_DEVICE", help="auto, cpu or cuda.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes.")]
Shot = Annotated[int, typer.Option(min=1, help="Support images of an episode.")]
Seeds = Annotated[str, typer.Option(help="Test rounds, joined by commas: 510,365.")]
Out = Annotated[Path, typer.Option(help="File or folder to write.")]
FoldLists = Annotated[Path, typer.Option("--list", help="A fold's image list (CSV, from `symnet folds`).")]
Base = Annotated[Path, typer.Option(help="The fold's base learner (from `symnet base`).")]
Embeddings = Annotated[Path, typer.Option(help="Class vectors (from `symnet embeddings`).")]
Row = Annotated[str, typer.Option(help="Row of the tables: a method, or a variant of one.", autocompletion=rows)]
MethodOf = Annotated[
    str | None, typer.Option("--method", help="Method behind the row; left out: the row's name, or what the experiment file says.")
]
Store = Annotated[Path | None, typer.Option(help="Decoded images (from `symnet store`); what it does not hold is decoded from its file.")]
Features = Annotated[Path | None, typer.Option(help="Feature cache (from `symnet features`); left out: recomputed from the images.")]
Episodes = Annotated[Path, typer.Option(help="Folder of manifests (from `symnet episodes`).")]
