"""Commands that tell where an experiment stands, and why."""

import json
from pathlib import Path
from typing import Annotated

import typer

from symnet.cli.app import RESULTS, START, Results, Set, app
from symnet.errors import EXIT_FOUND, UserError


@app.command(rich_help_panel=RESULTS)
def show(results: Results) -> None:
    """Print the main table, where the files are, and how to open the runs.

    Example: symnet show --results results/demo
    """
    from symnet.report.tables import format_table

    print(format_table(results / "tables" / "main.csv"))
    print(
        f"\ntables   {results / 'tables'}\nmetrics  {results}\nruns     {results.parent / 'mlflow.db'}: make ui, then http://127.0.0.1:5000"
    )


@app.command(rich_help_panel=RESULTS)
def status(
    results: Results,
    state: Annotated[str | None, typer.Option(help="Only cells of these states, joined by commas: failed,died.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON list, for programs.")] = False,
) -> None:
    """Print where every cell stands: waiting, training (how far, how fast), tested, failed and why. May be asked at any time.

    Example: symnet status --results results/demo --state failed,died
    """
    from symnet.status import STATES, in_text, standings

    wanted = tuple(state.split(",")) if state else STATES
    if unknown := sorted(set(wanted) - set(STATES)):
        raise UserError(f"--state: found '{unknown[0]}', allowed: {', '.join(STATES)}")
    found = [one for one in standings(results) if one.state in wanted]
    print(json.dumps([one.as_dict() for one in found], indent=1) if as_json else in_text(found))


@app.command(rich_help_panel=RESULTS)
def why(
    target: Annotated[list[str], typer.Argument(help="A file of the experiment, or a cell: dataset fold row shot, and perhaps a seed.")],
    config: Annotated[Path, typer.Option(help="Experiment file (YAML).")] = Path("config/config.yaml"),
    preset: Annotated[str | None, typer.Option(help="One of its presets, where the workflow was given one.")] = None,
    set_: Set = None,
) -> None:
    """Tell why a file is out of date, or missing: which setting, input or code is not what it was made from, and how it hangs together.

    Example: symnet why --config config/demo.yaml shapes 0 symnet 1
    """
    from symnet.experiment import read_plain
    from symnet.plan import Plan
    from symnet.why import whys

    plan = Plan(read_plain(config) | ({"preset": preset} if preset else {}) | ({"set": set_} if set_ else {}), str(config), write=False)
    with whys(plan) as found:
        print("\n".join(found.explain(*found.job(target))))


@app.command(rich_help_panel=START)
def doctor(
    config: Annotated[Path, typer.Option(help="Experiment file (YAML).")] = Path("config/config.yaml"),
    results: Annotated[Path, typer.Option(help="Folder of all results.")] = Path("results"),
) -> None:
    """Look at what a run stands on: packages, GPU, SLURM, data, disks, locks, unfinished files, MLflow. Exit code 1 where something is bad.

    Example: symnet doctor --config config/pascal_mini.yaml
    """
    from symnet.doctor import BAD, examine, in_text

    findings = list(examine(config, results))
    print(in_text(findings))
    raise typer.Exit(EXIT_FOUND if any(one.mark == BAD for one in findings) else 0)
