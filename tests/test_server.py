"""A real tracking server on loopback, behind a door that a test may shut: whenever it is away, nothing is lost and nothing stands twice."""

import http.client
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from typer.testing import CliRunner

from symnet import cli
from symnet.cli import track as command
from symnet.errors import UserError
from symnet.journal import Journal
from symnet.tracking import check_address, sync_to_server, ui_command
from tests.served import free_port, serving
from tests.test_tracking import Place, empty_store, key, symnet, write_journal, write_round, write_tables

__all__ = ["empty_store"]  # a fixture
pytestmark = pytest.mark.xdist_group("server")  # one server, started once
TOKEN = "s3cr3t-t0ken"


class Door(ThreadingHTTPServer):
    """Lets `left` requests through to the server behind, then shuts: a connection is closed without an answer."""

    daemon_threads = True

    def __init__(self, behind: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behind, self.left, self.seen, self.tokens = behind, 10**6, 0, set[str]()
        self.address = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    def forward(self) -> None:
        door: Any = self.server
        door.tokens.add(self.headers.get("Authorization", ""))
        door.seen += 1
        if door.left <= 0:
            self.close_connection = True
            return
        door.left -= 1
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        way = http.client.HTTPConnection("127.0.0.1", door.behind, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection", "content-length")}
        way.request(self.command, self.path, body, headers)
        answer = way.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers.get("Content-Type", ""))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        way.close()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = forward

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[int]:
    """The port of the server that `make ui` starts."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    shutil.copy(empty_store, folder / "mlflow.db")
    with serving(ui_command(folder / "mlflow.db", folder / "art", port), port, folder / "log"):
        yield port


@pytest.fixture
def door(server: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", TOKEN)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    found = Door(server)
    thread = Thread(target=found.serve_forever, args=(0.05,))
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


class Served(Place):
    """A place whose runs stand on the server, in an experiment of the test's own name."""

    def __init__(self, folder: Path, template: Path, door: Door) -> None:
        super().__init__(folder, template)
        self.root = self.root.rename(self.root.with_name(folder.name))
        self.door = door

    def serve(self) -> str:
        return str(sync_to_server(self.root, self.door.address)).removeprefix("mlflow: ")

    @property
    def client(self) -> Any:
        from mlflow import MlflowClient

        self.door.left = 10**6
        return MlflowClient(tracking_uri=self.door.address)

    def runs(self, deleted: bool = False) -> dict[str, Any]:
        client = self.client
        found = client.search_runs([client.get_experiment_by_name(self.root.name).experiment_id])
        keys = [run.data.tags["symnet.key"] for run in found]
        assert len(set(keys)) == len(keys)
        return dict(zip(keys, found, strict=True))


@pytest.fixture
def place(tmp_path: Path, empty_store: Path, door: Door) -> Served:
    return Served(tmp_path, empty_store, door)


@pytest.mark.whole
def test_a_server_away_at_any_moment_of_a_sync_costs_nothing(place: Served) -> None:
    journal = write_journal(place, symnet(), end="")
    write_tables(place.root)
    for end in (False, True):
        if end:
            journal.log(4, loss=0.25)
            journal.end("FINISHED")
            write_round(place, symnet(), 510)
        for requests in (0, 1, 2, 3, 5, 8):
            place.door.left = requests
            with pytest.raises(UserError, match="no run is lost: the journals and metric files hold everything") as caught:
                place.serve()
            assert str(caught.value).startswith(f"{place.door.address}: MLflow refused: ")
            assert len(str(caught.value).splitlines()) == 1
            assert TOKEN not in str(caught.value)
        place.door.left = 10**6
        place.serve()
        assert "0 runs new, 0 updated" in place.serve()
    runs = place.runs()
    assert set(runs) == {"benchmark", key(symnet()), f"{key(symnet())}/seed510"}
    run = runs[key(symnet())]
    assert run.info.status == "FINISHED"
    assert place.history(run, "loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.25)]
    assert place.history(runs[f"{key(symnet())}/seed510"], "test/meta.padded.miou") == [(0, 50.0)]
    assert [file.path for file in place.client.list_artifacts(runs["benchmark"].info.run_id)] == ["main.csv", "tables.json"]
    assert place.door.tokens == {f"Bearer {TOKEN}"}  # from the environment, and nowhere else:
    assert not [path for path in place.root.parent.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


def sync(place: Served, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli.app, ["track", "sync", "--results", str(place.root), "--store", str(place.store), *words])
    if isinstance(done.exception, UserError):
        return 2, str(done.exception)
    return done.exit_code, done.output


@pytest.mark.whole
def test_a_server_of_the_environment_is_an_extra(place: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the workflow's last rule: the store beside the results is filled, whatever the server does."""
    write_journal(place, symnet())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place.door.address)
    place.door.left = 0
    code, told = sync(place)
    assert code == 0
    first, second = told.splitlines()
    assert first == "mlflow: 1 runs new, 0 updated, 0 as they were, 0 superseded"
    assert second.startswith(f"warning: server: {place.door.address}: MLflow refused: ")
    assert sync(place, "--uri", place.door.address)[0] == 2
    place.door.left = 10**6
    assert sync(place)[1].splitlines()[1] == "server: mlflow: 1 runs new, 0 updated, 0 as they were, 0 superseded"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "databricks")
    assert "warning: server: databricks: not the address of a tracking server" in sync(place)[1]


@pytest.mark.whole
def test_a_run_is_followed_over_an_absence_of_the_server(place: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two syncs: a step more; the server away; a step more; the server back; the end."""
    journal = write_journal(place, symnet(), steps=1, end="")
    moments = iter(range(4))

    def sleep(seconds: float) -> None:
        assert seconds == 30
        moment = next(moments, None)
        if moment is None:
            raise KeyboardInterrupt
        journal.log(2 + moment, loss=1 / (2 + moment))
        place.door.left = 0 if moment in (0, 1) else 10**6
        if moment == 3:
            journal.end("FINISHED")

    monkeypatch.setattr(command.time, "sleep", sleep)
    told = sync(place, "--uri", place.door.address, "--follow", "30")[1]
    assert [line.startswith("warning: server: ") for line in told.splitlines() if "server: " in line] == [False, True, True, False, False]
    run = place.runs()[key(symnet())]
    assert run.info.status == "FINISHED"
    assert place.history(run, "loss") == [(step, 1 / step) for step in range(1, 6)]


@pytest.mark.whole
def test_the_pages_refuse_another_host_s_name(server: int) -> None:
    """MLflow's security middleware is on: a page of elsewhere cannot make a browser read the runs."""

    def status(host: str) -> int:
        way = http.client.HTTPConnection("127.0.0.1", server, timeout=30)
        way.request("GET", "/api/2.0/mlflow/experiments/search?max_results=1", headers={"Host": host})
        found = way.getresponse().status
        way.close()
        return found

    assert (status(f"127.0.0.1:{server}"), status("evil.example")) == (200, 403)


@pytest.mark.parametrize("address", ["sqlite:///a.db", "databricks", "https://", "ftp://mlflow.lab"])
def test_what_is_no_server_is_refused(address: str) -> None:
    with pytest.raises(UserError, match=r"not the address of a tracking server; expected https://HOST"):
        check_address(address)


def test_a_password_in_the_address_is_refused_and_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="MLFLOW_TRACKING_TOKEN, in the environment") as caught:
        sync_to_server(tmp_path, "https://me:pa55@mlflow.lab")
    assert "pa55" not in str(caught.value)
    check_address("https://mlflow.lab:8443/base")


@pytest.mark.whole
def test_a_run_resumed_elsewhere_is_the_same_run(place: Served) -> None:
    journal = write_journal(place, symnet(), end="")
    place.serve()
    again = Journal(journal.path, "run-a", {"fold": 0, "train": {"lr": 0.05, "steps": None, "selection": ""}}, {"code": "c0de"})
    again.log(4, loss=0.25)
    assert place.serve() == "0 runs new, 1 updated, 0 as they were, 0 superseded"
