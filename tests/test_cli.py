"""The command line as a whole: order, examples, exit codes, dry runs, completion."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
import yaml

from symnet import cli
from symnet.artifacts import write_text
from symnet.cli.app import PANELS, app
from symnet.cli.results import expected_of
from symnet.errors import EXIT_CODES, UserError
from symnet.plan import Plan
from symnet.stages import read_slice

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MAIN = typer.main.get_command(app)

Run = Callable[..., tuple[int, str, str]]


def leaves(command: typer.core.TyperGroup = MAIN, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], typer.core.TyperCommand]]:
    for name, one in command.commands.items():
        if isinstance(one, typer.core.TyperGroup):
            yield from leaves(one, (*words, name))
        else:
            yield (*words, name), one


COMMANDS = dict(leaves())
each_command = pytest.mark.parametrize("words", COMMANDS, ids=" ".join)


def options(words: tuple[str, ...]) -> set[str]:
    return {option for parameter in COMMANDS[words].params for option in parameter.opts}


def example(words: tuple[str, ...]) -> list[str]:
    """The words of its example, `symnet` left out."""
    found = re.search(r"^Example: symnet (.+)", COMMANDS[words].help or "", re.MULTILINE | re.DOTALL)
    assert found, f"{' '.join(words)}: its help ends with no example"
    return shlex.split(found[1])


def parse(given: list[str]) -> None:
    """Read a command line to its values, without running it. Raises typer's errors."""
    group, name = MAIN, given[0]
    if isinstance(group.commands[name], typer.core.TyperGroup):
        group, given = group.commands[name], given[1:]
    group.commands[given[0]].make_context(given[0], list(given[1:]))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["symnet", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        told = capsys.readouterr()
        return caught.value.code or 0, told.out, told.err

    return run


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that commands run in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def planned(empty: Path) -> Path:
    """With the experiment files, and the demo's settings as the workflow leaves them before its first job."""
    shutil.copytree(ROOT / "config", empty / "config")
    Plan(yaml.safe_load((empty / "config" / "demo.yaml").read_text()), "config/demo.yaml", write=True)
    return empty


def files(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def test_the_help_lists_commands_in_the_order_of_work(run: Run) -> None:
    named = [name for names in PANELS.values() for name in names]
    told = run("--help")[1]
    panels = re.findall(r"^╭─ ([^─]+?) ─+╮$", told, re.MULTILINE)
    assert panels == ["Options", *PANELS]
    listed = [name for name in re.findall(r"^│ ([a-z-]+) ", told, re.MULTILINE) if name in MAIN.commands]
    assert [name for name in listed if name in named] == named
    assert set(listed) == set(MAIN.commands)


@each_command
def test_every_command_ends_its_help_with_an_example_that_it_takes(words: tuple[str, ...]) -> None:
    given = example(words)
    assert tuple(given[: len(words)]) == words
    parse(given)


def test_an_example_with_a_wrong_option_would_not_pass() -> None:
    with pytest.raises(typer.core._click.exceptions.UsageError):
        parse(["status", "--result", "x"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_pages_parse(page: Path) -> None:
    text = re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8"))
    lines = [re.split(r"\s{2,}#|\s\|\|? ", line.strip().removeprefix("$ "))[0] for line in text.splitlines()]
    found = [
        shlex.split(line)[1:] for line in lines if re.match(r"symnet [a-z-]", line) and "..." not in line and "symnet STAGE" not in line
    ]
    for given in found:
        if not given[0].startswith("-"):
            parse(given)
    if page.name == "README.md":
        assert len(found) > 5


@each_command
def test_exit_codes_of_help_and_of_a_wrong_option(words: tuple[str, ...], run: Run) -> None:
    assert run(*words, "--help")[0] == 0
    code, out, err = run(*words, "--no-such-option")
    assert (code, out) == (2, "")
    assert "No such option" in err or "Missing" in err


@pytest.mark.parametrize("words", [words for words in COMMANDS if "--config" in options(words)], ids=" ".join)
def test_a_missing_file_of_settings_is_one_line_and_exit_code_2(words: tuple[str, ...], run: Run, empty: Path) -> None:
    (empty / "file.pth").write_bytes(b"")
    given = ["import-checkpoint", "file.pth"] if words == ("import-checkpoint",) else example(words)
    for name in ("none.yaml", "none.json"):
        code, out, err = run(*given, "--config", name)
        if words == ("doctor",):  # tells every finding, this one too
            assert code == 1
            assert f"{name}: no such" in out
            continue
        assert (code, out) == (2, "")
        assert re.fullmatch(rf"symnet: {name}: (no such (experiment|settings) file|not readable as .*)\n", err), err
    assert {path.name for path in empty.rglob("*")} == {"file.pth"}


SETTABLE = [words for words in COMMANDS if "--set" in options(words)]


def test_what_takes_an_experiment_file_takes_settings() -> None:
    assert {words[-1] for words in COMMANDS if "--config" in options(words)} - {words[-1] for words in SETTABLE} == {
        "tables",
        "luck",
        "costs",
        "figures",
        "doctor",
    }


@pytest.mark.parametrize("words", SETTABLE, ids=" ".join)
def test_settings_on_the_command_line_are_checked(words: tuple[str, ...], run: Run, planned: Path) -> None:
    given = [*example(words), "--config", "config/demo.yaml", *(["--dataset", "shapes"] if "--dataset" in options(words) else [])]
    (planned / "train_epoch_142_0.7142.pth").write_bytes(b"")
    code, _, err = run(*given, "--set", "train.stepz=1")
    assert code == 2
    assert err.startswith("symnet: datasets.shapes: train.stepz: unknown key; allowed: epochs, steps, ")
    assert len(err.splitlines()) == 1


def test_a_job_s_own_settings_take_what_they_hold(planned: Path) -> None:
    path = Path("results/demo/settings/shapes/fold0/train-symnet.json")
    assert read_slice(path, "train", "symnet", ["train.lr=1e-3"]).train.lr == 0.001
    with pytest.raises(UserError, match=r"train-symnet\.json: set: shapes\.side: not a setting of this job; it has data, protocol, "):
        read_slice(path, "train", "symnet", ["shapes.side=1"])
    with pytest.raises(UserError, match=r"train\.selection: not a setting of this job; it has protocol\.selection, .*train\.lr") as caught:
        read_slice(path, "train", "symnet", ["train.selection=last"])
    assert "data." not in str(caught.value)
    with pytest.raises(UserError, match=r"train-symnet\.json: train\.lr: Input should be a valid number, found 'x'"):
        read_slice(path, "train", "symnet", ["train.lr=x"])


def test_tables_are_told_the_same_by_the_job_s_file_and_by_the_experiment_s(planned: Path) -> None:
    told = expected_of(Path("results/demo/settings/tables.json"))
    assert told == expected_of(Path("config/demo.yaml"))
    assert len(told["cells"]) == 2 * 4 * 2  # methods, folds, shots


DRY = [words for words in COMMANDS if "--dry-run" in options(words)]


@pytest.mark.parametrize("words", DRY, ids=" ".join)
def test_a_dry_run_tells_what_it_would_make_and_makes_nothing(words: tuple[str, ...], run: Run, planned: Path) -> None:
    (planned / "lists").mkdir()
    for name in ("train.txt", "val.txt"):  # the example of `folds` looks for them
        (planned / "lists" / name).touch()
    before = files(planned)
    code, out, err = run(*example(words), "--dry-run")
    assert (code, err) == (0, "")
    assert re.search(r"^(makes  .+: (new|there already)|\w+: to be fetched, .+)$", out, re.MULTILINE), out
    assert files(planned) == before


def test_a_dry_run_tells_what_is_there(run: Run, planned: Path) -> None:
    write_text(planned / "base.safetensors", "x")
    shown = run("train", *example(("train",))[1:], "--base", "base.safetensors", "--out", "base.safetensors", "-n")[1].splitlines()
    assert "reads  base.safetensors: there" in shown
    assert "reads  results/demo/shapes/embeddings.csv: missing" in shown
    assert "makes  base.safetensors: there already" in shown
    assert "makes  results/demo/journals/shapes/efficientnet_lite0/fold0/symnet/shot1.jsonl: new" in shown
    (planned / "data" / "VOCdevkit" / "VOC2012").mkdir(parents=True)
    told = run("download", "-n", "voc2012", "resnet50_deepstem")[1].splitlines()
    assert told[0] == "voc2012: there already: data/VOCdevkit/VOC2012"
    assert re.fullmatch(r"resnet50_deepstem: to be fetched, .+, from http.+ to data/weights/resnet50-imagenet\.pth", told[1])


def test_what_writes_much_has_a_dry_run() -> None:
    stages = {"shapes", "masks", "folds", "store", "episodes", "embeddings", "base", "features", "records", "train", "evaluate"}
    assert {words[0] for words in DRY} >= {*stages, "tables", "luck", "costs", "figures", "download", "import-checkpoint"}


def test_exit_codes_of_what_is_found(run: Run) -> None:
    assert run("protocol", "diff", "symnet-1", "bam-1")[0] == 1
    assert run("protocol", "diff", "symnet-1", "symnet-1")[0] == 0
    assert run("protocol", "show", "none")[0] == 2


def test_an_interrupt_is_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("symnet.cli.protocol.in_words", stop)
    assert run("protocol", "list")[0] == 130


def test_the_exit_codes_of_the_docs_are_those_of_the_code(run: Run) -> None:
    text = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    assert {int(code): words for code, words in re.findall(r"^\| (\d+) \| (.+) \|$", text, re.MULTILINE)} == EXIT_CODES
    told = " ".join(run("--help")[1].split())
    assert all(f"{code} {words}" in told for code, words in EXIT_CODES.items())


def complete(*words: str, cwd: Path = ROOT) -> list[str]:
    """What bash is offered for the last word."""
    environment = {"_SYMNET_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(("symnet", *words)), "COMP_CWORD": str(len(words))}
    code = "import sys; sys.argv = ['symnet']; from symnet.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env={**environment, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("tra",), ["train", "track"]),
        (("train", "--config", "config/demo_ablations.yaml", "--dataset", ""), ["shapes"]),
        (("train", "--config", "none.yaml", "--dataset", ""), []),
        (("train", "--backbone", "resnet5"), ["resnet50", "resnet50_tv"]),
        (("protocol", "diff", "bam"), ["bam-1", "bam-coco-1"]),
        (("download", "voc"), ["voc2012"]),
    ],
)
def test_the_shell_completes_names(words: tuple[str, ...], expected: list[str]) -> None:
    assert complete(*words) == expected


def test_rows_of_the_file_are_completed() -> None:
    assert set(complete("train", "--config", "config/demo_ablations.yaml", "--row", "")) > {"prototype", "symnet"}


def test_completion_can_be_installed(tmp_path: Path) -> None:
    shell = {
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "True",
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "PATH": "/usr/bin:/bin",
    }
    code = "import sys; sys.argv = ['symnet', *sys.argv[1:]]; from symnet.cli import main; main()"

    def ask(option: str) -> str:
        command = [sys.executable, "-c", code, option, "bash"]
        return subprocess.run(command, env=shell, capture_output=True, text=True, check=True).stdout

    assert "complete -o default -F _symnet_completion symnet" in ask("--show-completion")
    ask("--install-completion")
    (script,) = tmp_path.rglob("*symnet*.sh")
    assert "_SYMNET_COMPLETE=complete_bash" in script.read_text()
