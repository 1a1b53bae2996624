"""How MLflow's page of an experiment opens: which columns its table of runs has, and what is said above it.

MLflow keeps a shared view of that page as JSON in a tag of the experiment; its address names the tag.
"""

from collections.abc import Iterable

from symnet.artifacts import canonical
from symnet.runs import NOTE, Record

VIEW = "symnet"  # name of our view; views that users share have names of their own
COLUMNS = ("method", "fold", "shot", "seed", "dataset")  # params, the most telling first: a window holds few
WIDTHS = {"attributes.`Run Name`": 260, "params.`fold`": 60, "params.`shot`": 60, "params.`seed`": 60}  # pixels; 100 where none is said


def headline(record: Record) -> set[str]:
    """The metrics of a cell that the main table prints: mIoU of each output, at the protocol's scoring."""
    scored = [f".{child.params['protocol.scoring']}.miou" for child in record.children]
    return {name for name, _ in record.metrics if name.endswith(tuple(scored))}


def page_tags(experiment: str, name: str, metrics: Iterable[str]) -> dict[str, str]:
    """Tags of the experiment with id `experiment`: the view, and the description."""
    columns = [*(f"metrics.`{metric}`" for metric in sorted(metrics)), *(f"params.`{param}`" for param in COLUMNS)]
    widths = WIDTHS | dict.fromkeys(columns[: -len(COLUMNS)], 185)
    view = {"selectedColumns": columns, "columnOrder": ["attributes.`Run Name`", *columns], "columnWidths": widths}
    note = (
        f"[Table with mIoU]({page_address(experiment)}). A run a cell (data set, method, fold, shot): curves, settings, data, pictures. "
        f"Below it a run a test seed, with IoU by class; its own mIoU is the mean of theirs. `{name} tables` holds the tables.\n\n"
        f"Brought from results/{name} by `symnet track sync`."
    )
    return {f"mlflow.sharedViewState.{VIEW}": canonical(view), NOTE: note}


def page_address(experiment: str) -> str:
    """Where the page is, below the server's own address."""
    return f"#/experiments/{experiment}/runs?viewStateShareKey={VIEW}"
