"""Commands of MLflow."""

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from symnet.artifacts import Provenance, file_digest, write_json
from symnet.cli.app import Results, track
from symnet.errors import UserError
from symnet.made import Note, keep
from symnet.stages import code_hash, code_of


@track.command("sync")
def track_sync(
    results: Results,
    out: Annotated[Path | None, typer.Option(help="Summary to write (JSON).")] = None,
    store: Annotated[Path | None, typer.Option(help="MLflow's database; left out: mlflow.db beside the experiment's folder.")] = None,
    uri: Annotated[
        str | None, typer.Option(help="Address of a tracking server to fill as well; left out: $MLFLOW_TRACKING_URI, if that is one.")
    ] = None,
    follow: Annotated[float | None, typer.Option(min=1, help="Do it again every so many seconds, until interrupted.")] = None,
) -> None:
    """Bring journals, metrics and tables into MLflow. May be run at any time, also while jobs run; twice changes nothing.

    A server is an extra. One that the environment names and that cannot be used costs a warning, as does any while following: the
    next sync brings what it lacks. No job ever waits for it.

    Example: symnet track sync --results results/demo --uri https://mlflow.lab --follow 60
    """
    from symnet.tracking import sync, sync_to_server

    while True:
        print(sync(results, store or results.parent / "mlflow.db", results.parent / "mlartifacts"), flush=True)
        if address := uri or os.environ.get("MLFLOW_TRACKING_URI"):
            try:
                print(f"server: {sync_to_server(results, address)}", flush=True)
            except UserError as error:
                if uri and not follow:
                    raise
                print(f"warning: server: {error}", flush=True)
        if not follow:
            break
        time.sleep(follow)
    if out is not None:
        tables = {path.name: file_digest(path) for path in sorted((results / "tables").glob("*")) if path.is_file()}
        write_json(out, {"tables": tables}, Provenance(stage="track", code=code_hash("track")))
        keep(out, "track", Note(code=code_of("track")))


@track.command("ui")
def track_ui(results: Annotated[Path, typer.Option(help="Folder of all results.")] = Path("results"), port: int = 5000) -> None:
    """Open the runs in MLflow's own pages on 127.0.0.1, and print where those of each experiment are.

    Example: symnet track ui --port 5000
    """
    from symnet.tracking import pages, ui_command

    command = ui_command(results / "mlflow.db", results / "mlartifacts", port)
    for name, page in pages(results / "mlflow.db").items():
        print(f"{name}: http://127.0.0.1:{port}/{page}", flush=True)
    os.execvp(command[0], command)
