"""The program `symnet`, and the options that several of its commands share."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Few-shot segmentation, from raw data to the tables of a paper. Mostly used through [bold]snakemake all[/bold]; "
    "every stage is also a command here.",
)
track = typer.Typer(no_args_is_help=True, help="Runs in MLflow.")
app.add_typer(track, name="track", rich_help_panel="Results")
protocol = typer.Typer(no_args_is_help=True, help="What makes two numbers comparable, and what does not.")
app.add_typer(protocol, name="protocol", rich_help_panel="Data")

DATA, LEARN, RESULTS = "Data", "Learning", "Results"

Config = Annotated[Path, typer.Option(help="Resolved JSON of a job, or an experiment file (YAML).")]
Results = Annotated[Path, typer.Option(envvar="SYMNET_RESULTS", help="Folder of the experiment, results/NAME.")]
Dataset = Annotated[str, typer.Option(help="Data set of the experiment file.")]
Fold = Annotated[int, typer.Option(min=0, help="Fold, from 0.")]
Device = Annotated[str, typer.Option(envvar="SYMNET_DEVICE", help="auto, cpu or cuda.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes.")]
Seeds = Annotated[str, typer.Option(help="Test rounds, joined by commas: 510,365.")]
Out = Annotated[Path, typer.Option(help="File or folder to write.")]
FoldLists = Annotated[Path, typer.Option("--list", help="A fold's image list (CSV, from `symnet folds`).")]
Base = Annotated[Path, typer.Option(help="The fold's base learner (from `symnet base`).")]
Embeddings = Annotated[Path, typer.Option(help="Class vectors (from `symnet embeddings`).")]
Row = Annotated[str, typer.Option(help="Row of the tables: a method, or a variant of one.")]
MethodOf = Annotated[
    str | None, typer.Option("--method", help="Method behind the row; left out: the row's name, or what the experiment file says.")
]
Store = Annotated[Path | None, typer.Option(help="Decoded images (from `symnet store`); what it does not hold is decoded from its file.")]
Features = Annotated[Path | None, typer.Option(help="Feature cache (from `symnet features`); left out: recomputed from the images.")]
Episodes = Annotated[Path, typer.Option(help="Folder of manifests (from `symnet episodes`).")]
