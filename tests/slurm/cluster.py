"""A SLURM of one node on this machine, started and stopped by its own daemons: no systemd, no cgroups, GPUs that are only named.

`python -m tests.slurm.cluster` stops what a killed test run left.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

ETC, MUNGE, RUN = Path("/etc/slurm"), Path("/run/munge"), Path("/run/symnet-slurm")
OURS = "# written by symnet's tests"
DEVICES = ("null", "zero", "full", "random")  # four character devices pose as GPUs
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "runuser")

# Not in the environment: the executor takes SLURM_* away from the jobs' own srun, so the file has to lie where SLURM looks.
CONF = f"""{OURS}
ClusterName=symnet
SlurmctldHost={{host}}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
StateSaveLocation={{folder}}/state
SlurmdSpoolDir={{folder}}/spool
SlurmctldPidFile={RUN}/slurmctld.pid
SlurmdPidFile={RUN}/slurmd.pid
SlurmctldLogFile={{folder}}/slurmctld.log
SlurmdLogFile={{folder}}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=1,bf_interval=2,sched_interval=2
ReturnToService=2
MinJobAge=7200
KillWait=10
SlurmdTimeout=10
JobRequeue=1
GresTypes=gpu
NodeName={{host}} NodeAddr=127.0.0.1 CPUs=32 RealMemory=400000 Gres=gpu:fake:{len(DEVICES)} State=UNKNOWN
PartitionName=batch Nodes=ALL Default=YES PriorityTier=1 State=UP
PartitionName=urgent Nodes=ALL PriorityTier=10 State=UP
"""


def why_not() -> str:
    """What keeps a cluster from being started here; empty where nothing does."""
    if os.geteuid() != 0:
        return "SLURM's daemons are started as root"
    absent = [name for name in PROGRAMS if not shutil.which(name)]
    if absent:
        return f"{', '.join(absent)} missing: install Debian's slurm-wlm and munge"
    conf = ETC / "slurm.conf"
    if conf.exists() and not conf.read_text().startswith(OURS):
        return f"{conf} is there: this machine has a cluster of its own"
    return ""


def run(*words: object, check: bool = True) -> str:
    """Output of a command."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=60, check=False)
    assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def wait(what: str, ready: Callable[[], object], seconds: float = 60) -> None:
    """Until `ready()` is true."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, f"no {what} after {seconds} s"
        time.sleep(0.2)


def ended(pid: int) -> bool:
    """Whether a process is gone, or a zombie that its parent has not asked for yet."""
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True


def end(name: str, pid_file: Path, number: int = signal.SIGTERM) -> None:
    """Send a daemon a signal and wait until it is gone. Nothing where it is gone already."""
    try:
        pid = int(pid_file.read_text())
        if Path(f"/proc/{pid}/comm").read_text().strip() != name:  # another process has its number
            return
        os.kill(pid, number)
    except (FileNotFoundError, ProcessLookupError):
        return
    wait(f"end of {name}", lambda: ended(pid))


def stop() -> None:
    """Cancel all jobs, stop the daemons that `Cluster.start` started, remove what it wrote outside its folder."""
    if not RUN.exists():
        return
    run("scancel", "--user=root", check=False)
    for name in ("slurmd", "slurmctld"):
        end(name, RUN / f"{name}.pid")
    if (RUN / "munged").exists():
        end("munged", MUNGE / "munged.pid")
    for name in ("slurm.conf", "gres.conf"):
        (ETC / name).unlink(missing_ok=True)
    shutil.rmtree(RUN)


class Cluster:
    """`folder` keeps the daemons' state and logs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.host = folder, socket.gethostname().partition(".")[0]

    def start(self) -> None:
        stop()
        ETC.mkdir(exist_ok=True)
        RUN.mkdir()
        (ETC / "slurm.conf").write_text(CONF.format(host=self.host, folder=self.folder))
        (ETC / "gres.conf").write_text(f"{OURS}\n" + "".join(f"Name=gpu Type=fake File=/dev/{name}\n" for name in DEVICES))
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        if not (MUNGE / "munge.socket.2").exists():
            MUNGE.mkdir(exist_ok=True)
            shutil.chown(MUNGE, "munge", "munge")
            run("runuser", "-u", "munge", "--", "munged")
            (RUN / "munged").touch()
        self.start_controller("-c")
        self.start_node()
        wait("idle node", lambda: self.node_state() == "idle")

    def start_controller(self, *options: str) -> None:
        """slurmctld; after a stop it goes on with the jobs it knew."""
        run("slurmctld", "-i", *options)
        wait("controller", lambda: run("scontrol", "ping", check=False).count(" is UP"))

    def start_node(self) -> None:
        run("slurmd")

    def node_state(self) -> str:
        return run("sinfo", "-h", "-o", "%t", "-n", self.host, check=False).split("\n")[0].strip()

    def kill_node(self) -> None:
        """slurmd dies, and what it ran goes on; until the controller gives the node up. Its log says so, where `sinfo` once did not."""
        log, told = self.folder / "slurmctld.log", "not responding, setting DOWN"
        before = log.read_text().count(told)
        end("slurmd", RUN / "slurmd.pid", signal.SIGKILL)
        wait("node given up", lambda: log.read_text().count(told) > before, 120)

    def jobs(self, rule: str = "") -> list[dict[str, str]]:
        """id, state, partition, GRES, comment of every job that the controller knows, oldest first; of one rule, if told."""
        found = run("squeue", "--states=all", "--noheader", "--sort=i", "--Format=JobID:|,State:|,Partition:|,tres-per-job:|,Comment:200")
        names = ("id", "state", "partition", "gres", "comment")
        rows = [dict(zip(names, map(str.strip, line.split("|")), strict=True)) for line in found.splitlines() if line.strip()]
        return [row for row in rows if row["comment"].startswith(f"rule_{rule}")]

    def state(self, job: str) -> str:
        return next((row["state"] for row in self.jobs() if row["id"] == job), "")

    def steps(self, *jobs: str) -> list[str]:
        """What of these jobs, or of all, lives on this machine, whatever the controller knows."""
        titles = [f"slurmstepd: [{job}." for job in jobs] or ["slurmstepd: ["]
        return [line for line in run("ps", "-eo", "args").splitlines() if line.startswith(tuple(titles))]

    def hurry(self, *jobs: str) -> None:
        """Start requeued jobs now: SLURM lets them wait for two minutes."""
        for job in jobs:
            wait(f"requeue of job {job}", lambda job=job: self.state(job) == "PENDING", 120)
            run("scontrol", "update", f"JobId={job}", "StartTime=now")


if __name__ == "__main__":
    stop()
