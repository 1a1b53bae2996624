"""How MLflow's page of an experiment opens: which columns its table of runs shows, and what is said above it. Knows nothing of MLflow's code.

MLflow keeps a shared view of that page as JSON in a tag of the experiment; its address names the tag.
"""

from collections.abc import Iterable

from symnet.artifacts import canonical
from symnet.runs import Record

VIEW = "symnet"  # name of our view; views that users share have names of their own
NOTE = "mlflow.note.content"  # MLflow's tag of a description
COLUMNS = ("dataset", "method", "fold", "shot", "seed")  # params


def headline(record: Record) -> set[str]:
    """The metrics of a cell that the main table prints: mIoU of each output, at the protocol's scoring."""
    scored = [f".{child.params['protocol.scoring']}.miou" for child in record.children]
    return {name for name, _ in record.metrics if name.endswith(tuple(scored))}


def page_tags(experiment: str, name: str, metrics: Iterable[str]) -> dict[str, str]:
    """Tags of the experiment with id `experiment`: the view, and the description."""
    columns = [f"params.`{param}`" for param in COLUMNS] + [f"metrics.`{metric}`" for metric in sorted(metrics)]
    view = {"selectedColumns": columns, "columnOrder": columns, "orderByKey": "attributes.`start_time`", "orderByAsc": False}
    note = (
        f"Runs of results/{name}, as `symnet track sync` brought them. A run a cell (data set, method, fold, shot): curves, settings, data, "
        f"pictures. Below it a run a test seed, with IoU by class; its own mIoU is the mean of theirs. `{name} tables` holds the tables.\n\n"
        f"[The table of runs, with mIoU]({page_address(experiment)})"
    )
    return {f"mlflow.sharedViewState.{VIEW}": canonical(view), NOTE: note}


def page_address(experiment: str) -> str:
    """Where the page is, below the server's own address."""
    return f"#/experiments/{experiment}/runs?viewStateShareKey={VIEW}"
