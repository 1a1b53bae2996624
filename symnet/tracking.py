"""From journals, metric files and tables to MLflow. This module and `symnet.shelf` are all that imports it.

Runs write their own files and know nothing of a tracker; `sync` reads those files and brings the store in step with them, one writer
at a time, as often as one likes. What is to stand there are the `Record`s of `symnet.runs`; how it gets there, `symnet.shelf`.
"""

import fcntl
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from symnet.artifacts import replacing
from symnet.errors import UserError, one_line
from symnet.runs import collect
from symnet.runs_page import headline, page_address
from symnet.shelf import Shelf, Summary

# Of requests to a server, where the user says nothing else: MLflow's own patience is many minutes.
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}


def sync(root: Path, store: Path, artifacts: Path) -> Summary:
    """Bring the experiment `root` (results/{experiment}) into the sqlite `store`; files of runs go under `artifacts`.

    Makes the store and the experiment where they are absent. May run while jobs run, and twice at once: the second waits. A broken
    file costs itself and a warning. Raises `UserError` where there is no such experiment or the store cannot be used.
    """
    make_store(store)
    return _sync(root, _lock(store), str(store), _uri(store), artifacts.absolute().as_uri())


def make_store(store: Path) -> None:
    """An empty sqlite store, where there is none: whole or not at all, for MLflow makes it in many steps and refuses what a kill left.

    Raises `UserError` where it cannot be made.
    """
    store.parent.mkdir(parents=True, exist_ok=True)
    with _locked(_lock(store)), _telling(str(store)):
        from mlflow import MlflowClient

        if not store.exists():
            with replacing(store) as partial:
                MlflowClient(tracking_uri=_uri(partial)).search_experiments()


def sync_to_server(root: Path, address: str) -> Summary:
    """As `sync`, to a tracking server. It keeps the files of runs where it likes; who we are it asks MLflow's own environment variables.

    Raises `UserError` also where the server cannot be reached, after a few tries.
    """
    check_address(address)
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    return _sync(root, root / "tracking.lock", address, address, None)


def check_address(address: str) -> None:
    """Raise `UserError` unless a tracking server may have this address; it is not repeated where it holds a password."""
    parts = urlsplit(address)
    if "@" in parts.netloc:
        raise UserError(
            "the address of the tracking server holds a name or password: give those as MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, in the environment"
        )
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise UserError(f"{address}: not the address of a tracking server; expected https://HOST or http://HOST:PORT")


def _sync(root: Path, lock: Path, place: str, uri: str, artifacts: str | None) -> Summary:
    if not root.is_dir():
        raise UserError(f"{root}: no such folder of results; run the workflow first")
    summary = Summary()
    with _locked(lock), _telling(place):
        shelf = Shelf(uri, root.absolute().name, artifacts, summary)
        shown: set[str] = set()
        for record in collect(root, summary.warnings):
            shelf.put(record)
            shown |= headline(record)
        shelf.describe(shown)
    return summary


def ui_command(store: Path, artifacts: Path, port: int) -> list[str]:
    """The command that serves the runs on 127.0.0.1, MLflow's security middleware on. Raises `UserError` without a store's folder."""
    if not store.parent.is_dir():
        raise UserError(f"{store.parent}: no such folder, so there are no runs to show; run the workflow first")
    make_store(store)
    places = ["--backend-store-uri", _uri(store), "--artifacts-destination", artifacts.absolute().as_uri()]
    return [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", *places]


def pages(store: Path) -> dict[str, str]:
    """The experiments in the store, by name: where the page of each is, below the server's address. Raises `UserError`."""
    if not store.is_file():
        return {}
    with _telling(str(store)):
        from mlflow import MlflowClient

        found = MlflowClient(tracking_uri=_uri(store)).search_experiments(order_by=["name ASC"])
        return {one.name: page_address(one.experiment_id) for one in found if one.name != "Default"}


def _lock(store: Path) -> Path:
    """Held by whoever makes the store or writes to it."""
    return store.with_name(f"{store.name}.lock")


def _uri(store: Path) -> str:
    return f"sqlite:///{store.absolute()}"


def _hush() -> None:
    """No telemetry and no chatter, set before mlflow is imported."""
    for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"):
        os.environ[name] = "true"
    logging.getLogger("alembic").setLevel(logging.WARNING)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`; wait while another process does."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _telling(place: str) -> Iterator[None]:
    """Turn what MLflow, its database or the way to its server raise into one line."""
    _hush()
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, RequestException) as error:
        hint = "no run is lost: the journals and metric files hold everything; sync again, with the store moved away if it is broken"
        raise UserError(f"{place}: MLflow refused: {one_line(error)[:300]}; {hint}") from None
