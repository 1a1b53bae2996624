"""`python -m tests.kill_demo FOLDER`: kill a whole run of config/demo.yaml by SIGKILL, again and again, and see that nothing of it is lost.

FOLDER, which must not exist, gets two copies of the project. In `undisturbed` the run is left alone; in `killed` its process group is
killed at random moments, `--unlock`ed and started again; where it ends before the kill, it starts anew. Then one clean rerun. Printed is a
line a kill, and the verdict: same tables and metric files byte by byte, every run once in MLflow and every metric of it once.
"""

import argparse
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from tests.workflow.conftest import Project


class Victim:
    """A copy of the project, of whose `results` the experiment `name` is run."""

    def __init__(self, folder: Path, name: str, configfile: str) -> None:
        self.folder, self.name, self.configfile = folder, name, configfile
        self.log = folder / "snakemake.log"
        self.process: subprocess.Popen | None = None

    @property
    def results(self) -> Path:
        return self.folder / "results" / self.name

    def start(self, *words: str) -> None:
        """snakemake, in a process group of its own."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SYMNET_")}
        command = [sys.executable, "-m", "snakemake", "--cores", "2", *words, "--configfile", self.configfile]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=environment | {"PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(self.folder / ".cache")},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def finish(self) -> int:
        assert self.process is not None
        return self.process.wait()

    def run(self, *words: str) -> None:
        """A run that has to succeed."""
        self.start(*words)
        assert self.finish() == 0, self.log.read_text()

    def kill(self) -> None:
        """The whole process group, snakemake and its jobs."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def steps(self) -> str:
        """How far snakemake said it was: `7 of 25`."""
        found = re.findall(r"^(\d+ of \d+) steps", self.log.read_text(), re.MULTILINE)
        return found[-1] if found else "none"

    def under_way(self) -> str:
        """The rules whose jobs it had begun and not told the end of."""
        text = self.log.read_text()
        begun = Counter(re.findall(r"^(?:local)?rule (\w+):", text, re.MULTILINE))
        ended = Counter(re.findall(r"^Finished jobid: \d+ \(Rule: (\w+)\)", text, re.MULTILINE))
        return ", ".join(sorted(begun - ended)) or "nothing"


def killed_at_random(victim: Victim, kills: int, longest: float, chance: random.Random) -> int:
    """Kill the run `kills` times, up to `longest` seconds after a start. Returns how often it ended before, and was begun anew."""
    done = ends = 0
    while done < kills:
        victim.start()
        moment = chance.uniform(0, longest)
        try:
            code = victim.process.wait(moment)
            assert code == 0, victim.log.read_text()
            ends += 1
            print(f"the run ended after {done} kills; it begins anew", flush=True)
            shutil.rmtree(victim.folder / "results")
        except subprocess.TimeoutExpired:
            victim.kill()
            done += 1
            print(f"kill {done} of {kills} after {moment:.1f} s, at step {victim.steps()}, in {victim.under_way()}", flush=True)
            victim.run("--unlock")
    return ends


def differences(victim: Victim, reference: Victim) -> list[str]:
    """What a run that was disturbed has otherwise than one that was not, and what stands twice in MLflow."""
    found = []
    for name, whole in files(reference).items():
        path = victim.results / name
        if not path.is_file():
            found.append(f"{name}: missing")
        elif path.read_bytes() != whole:
            found.append(f"{name}: other bytes")
    found += [f"{name}: one too many" for name in files(victim).keys() - files(reference).keys()]
    mine, theirs = runs(victim), runs(reference)
    if sorted(mine) != sorted(theirs):
        found.append(f"MLflow has the runs {sorted(mine)}, expected {sorted(theirs)}")
    with sqlite3.connect(victim.folder / "results" / "mlflow.db") as store:
        twice = store.execute(
            "select run_uuid, key, step, count(*) from metrics join runs using (run_uuid)"
            " where lifecycle_stage = 'active' group by run_uuid, key, step having count(*) > 1"
        ).fetchall()
        open_ = store.execute("select name, status from runs where lifecycle_stage = 'active' and status != 'FINISHED'").fetchall()
    return found + [f"MLflow: {row}, a metric more than once" for row in twice] + [f"MLflow: {row}, not finished" for row in open_]


def files(victim: Victim) -> dict[str, bytes]:
    """Tables but that of costs, which are of the moment; counts and metric files."""
    root = victim.results
    found = [
        *(path for path in root.glob("tables/*") if path.stem != "costs"),
        *root.glob("*/counts.*"),
        *root.glob("*/*/fold*/*/shot*/seed*"),
    ]
    found += root.glob("*/*/fold*/gallery/*/*")
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(found)}


def runs(victim: Victim) -> list[str]:
    """Key and number of metrics of each run that is in sight. Training's own are left out: how often it tells of itself depends on time."""
    with sqlite3.connect(victim.folder / "results" / "mlflow.db") as store:
        query = (
            "select t.value, (select count(*) from metrics m where m.run_uuid = r.run_uuid and m.key like '%.miou' and m.key like '%.%.%')"
            " from runs r join tags t using (run_uuid) where t.key = 'symnet.key' and r.lifecycle_stage = 'active'"
        )
        return [f"{key}: {count}" for key, count in store.execute(query)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.kill_demo", description=__doc__.partition("\n\n")[0])
    parser.add_argument("folder", type=Path, help="everything is written under it; it must not exist")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    victims = []
    for name in ("undisturbed", "killed"):
        (options.folder / name).mkdir()
        Project(options.folder / name)
        victims.append(Victim((options.folder / name).absolute(), "demo", "config/demo.yaml"))
    undisturbed, killed = victims
    began = time.monotonic()
    undisturbed.run()
    whole = time.monotonic() - began
    print(f"the undisturbed run took {whole:.0f} s, {undisturbed.steps()} steps", flush=True)
    ends = killed_at_random(killed, options.kills, whole / 4, random.Random(options.seed))
    killed.run()
    told = differences(killed, undisturbed)
    for line in told:
        print(line)
    count = len(files(undisturbed))
    print(f"{options.kills} kills, {ends} ends between them: " + ("NOT the same" if told else f"the same {count} files, byte by byte"))
    sys.exit(1 if told else 0)


if __name__ == "__main__":
    main()
