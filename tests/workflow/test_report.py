"""The report: one file that a browser shows whole, with nothing fetched from anywhere."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.workflow.conftest import Project

pytestmark = [pytest.mark.xdist_group("workflow"), pytest.mark.timeout(300)]

QUIET = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def report(finished: Project) -> Path:
    done = finished.snakemake("--report", "results/tiny/report.html")
    assert done.returncode == 0, done.stdout + done.stderr
    return finished.results / "report.html"


def test_everything_is_in_one_file(report: Path) -> None:
    text = report.read_text()
    for name in ("main.html", "paper-shapes.html", "classes-shapes-1shot.png", "curves-shapes-1shot.png", "counts.txt"):
        assert name in text
    assert not re.findall(r"<(?:script|img|link|iframe)[^>]+(?:src|href)=[\"']?(?:https?:)?//", text)
    assert "Bars end at the mean over seeds" in text  # captions are in it


def test_a_browser_shows_it_without_a_network(report: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        assert "CI" not in os.environ, "a browser is missing: install Debian's chromium"
        pytest.skip("no chromium is installed")
    offline = ["--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=20000", f"--user-data-dir={tmp_path / 'profile'}"]
    command = [browser, "--headless", "--no-sandbox", *QUIET, *offline]
    done = subprocess.run([*command, "--dump-dom", report.as_uri()], capture_output=True, text=True, timeout=120, check=False)
    app = done.stdout.partition('id="app"')[2]
    shown = re.sub(r"<(script|style).*?</\1>", "", app, flags=re.DOTALL)
    for words in ("Workflow", "Tables", "Figures", "Data", "every number is made of"):
        assert words in shown, done.stderr[-2000:]
    picture = tmp_path / "report.png"
    subprocess.run(
        [*command, "--window-size=1300,900", f"--screenshot={picture}", report.as_uri()], capture_output=True, timeout=120, check=True
    )
    from PIL import Image

    with Image.open(picture) as image:
        assert image.size == (1300, 900)
        assert len(image.convert("RGB").getcolors(1 << 21)) > 50  # the graph of rules is drawn, not a blank page
