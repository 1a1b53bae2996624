"""What must stand nowhere in the project: code that runs data, loads that hide a mismatch, shells, open hosts, private paths."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("symnet", "tests", "workflow", "config", "docs", "scripts", "slurm", ".ci", ".github")
SUFFIXES = {".py", ".smk", ".sh", ".yaml", ".yml", ".toml", ".md", ".txt", ".cff", ""}


def texts() -> dict[str, str]:
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")] + list(ROOT.glob("*"))  # in a worktree `.git` is a file
    kept = sorted(path for path in paths if path.is_file() and path.suffix in SUFFIXES and not {".git", "__pycache__"} & set(path.parts))
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8", errors="replace") for path in kept}


TEXTS = texts()
PYTHON = {name: text for name, text in TEXTS.items() if name.endswith(".py")}

# the brackets keep these lines from finding themselves
FORBIDDEN = {
    "pickle": r"\b(?:c?[P]ickle|dill|joblib|marshal|shelve)\.(?:loads?|dumps?|open|Unpickler)\b"
    r"|^\s*(?:import|from) (?:c?[P]ickle|dill|joblib|marshal|shelve)\b",
    "torch.load without weights_only": r"\btorch\.[l]oad\((?![^\n]*weights_only=True)",
    "yaml without safe": r"\byaml\.(?:[l]oad|load_all|full_load|unsafe_load)\(",
    "shell": r"\b[s]hell\s*=\s*True|\bos\.(?:[s]ystem|popen)\b|\b(?:create_subprocess_[s]hell|get[s]tatusoutput|get[o]utput)\b",
    "eval or exec": r"(?<![\w.])(?:[e]val|exec)\(",
    "all hosts": r"\b0\.[0]\.0\.0\b",
    "unchecked certificates": r"\bverify\s*=\s*[F]alse\b|_create_[u]nverified_context",
    "names of files that others may take": r"\btempfile\.[m]ktemp\(",
    "paths of one machine": r"(?<![\w.}])/(?:[w]ork|root|home/\w+)/",
}


def found(pattern: str, text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if re.search(pattern, line, re.IGNORECASE if "ickle" in pattern else 0)]


@pytest.mark.parametrize("kind", FORBIDDEN)
def test_forbidden_text(kind: str) -> None:
    assert {name: lines for name, text in TEXTS.items() if (lines := found(FORBIDDEN[kind], text))} == {}


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("pickle", "x = " + "pickle" + ".load(file)"),
        ("pickle", "cP" + "ickle.loads(b)"),
        ("pickle", "import pick" + "le"),
        ("pickle", "from job" + "lib import load"),
        ("torch.load without weights_only", "torch" + ".load(path)"),
        ("torch.load without weights_only", "torch" + ".load(path, weights_only=False)"),
        ("yaml without safe", "yaml" + ".load(text)"),
        ("shell", "run(x, shell" + "=True)"),
        ("shell", "os" + ".system(x)"),
        ("shell", "asyncio.create_subprocess" + "_shell(x)"),
        ("shell", "subprocess.get" + "output(x)"),
        ("eval or exec", "x = ev" + "al(text)"),
        ("eval or exec", "ex" + "ec(text)"),
        ("all hosts", "--host 0.0" + ".0.0"),
        ("unchecked certificates", "httpx.get(url, verify" + "=False)"),
        ("names of files that others may take", "tempfile" + ".mktemp()"),
        ("paths of one machine", "open('/wo" + "rk/a')"),
        ("paths of one machine", "cd /ro" + "ot/a"),
    ],
)
def test_the_patterns_find(kind: str, line: str) -> None:
    assert found(FORBIDDEN[kind], line) == [line]


@pytest.mark.parametrize(
    "line", ["model.eval()", "re.compile('a')", "torch" + ".load(p, weights_only=True)", "yaml.safe_load(t)", "x/work/y"]
)
def test_the_patterns_pass(line: str) -> None:
    assert [kind for kind, pattern in FORBIDDEN.items() if found(pattern, line)] == []


def calls(text: str) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]


def test_calls() -> None:
    """By syntax, so that line breaks hide nothing: loads of weights only, whole states only, no shell."""
    wrong = []
    for name, text in PYTHON.items():
        for call in calls(text):
            function = ast.unparse(call.func)
            options = {option.arg: ast.unparse(option.value) for option in call.keywords}
            if function == "torch.load" and options.get("weights_only") != "True":
                wrong.append(f"{name}:{call.lineno}: torch.load")
            if options.get("strict") == "False" and function != "zip":
                wrong.append(f"{name}:{call.lineno}: {function} not strict")
            if options.get("shell", "False") != "False":
                wrong.append(f"{name}:{call.lineno}: {function} with a shell")
            if options.get("allow_pickle", "False") != "False":
                wrong.append(f"{name}:{call.lineno}: {function} with pickle")
    assert wrong == []


def test_the_search_sees_the_project() -> None:
    assert {"symnet/config.py", "symnet/backbones/__init__.py", "workflow/Snakefile", "Makefile", "config/demo.yaml"} <= set(TEXTS)
    assert any(name.endswith(".smk") for name in TEXTS)
    assert len(calls("f(g(1))")) == 2
