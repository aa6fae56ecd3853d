"""A real SLURM for tests: munge, one controller and two node daemons on this machine, in one folder, as root.

Needs the Debian packages slurmctld, slurmd, slurm-client, munge, libpmix-dev. Nothing outside of the folder is
touched. Each node has its own host name (a UTS namespace), so that MPI takes them for two machines.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scontrol", "squeue", "scancel", "unshare", "mount")
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
NODES = ("n1", "n2")
CPUS = 8
"""What each node claims to have, however few there are."""

PATIENCE = 300.0
"""Seconds: daemons and jobs take a few, but the machine may be slow, and have other work."""

# A requeued job may start again when its old credential has expired, by default after two minutes.
# No cgroups, no accounting database, no binding: what a container without privileges beyond root can give.
CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
TmpFS={folder}/tmp-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=2
PriorityType=priority/basic
ReturnToService=2
JobRequeue=1
KillWait=30
MinJobAge=3600
SlurmdTimeout=60
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=10:00 State=UP
"""


def why_not() -> str | None:
    """What keeps this machine from running the cluster, or None."""
    if os.geteuid() != 0:
        return "starting SLURM's daemons needs root"
    missing = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    if missing:
        return f"no {', '.join(missing)}: apt-get install slurmctld slurmd slurm-client munge libpmix-dev"
    spaces = ["unshare", "--uts", "--mount", "--propagation", "slave", "true"]
    if subprocess.run(spaces, capture_output=True, check=False).returncode:
        return "no name spaces of our own can be made here"
    return None


def _free_ports(n: int) -> int:
    """The first of `n` ports in a row that nobody listens on, outside of those that the system gives to clients."""
    for first in range(20000 + os.getpid() % 10000, 32000, n):
        with contextlib.ExitStack() as sockets:
            try:
                for port in range(first, first + n):
                    sockets.enter_context(socket.create_server(("", port)))
            except OSError:
                continue
            return first
    raise OSError(f"no {n} free ports in a row")


def _is_running(pid: int) -> bool:
    """Whether the process is there and more than a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def wait_until(done: Callable[[], Any], seconds: float, what: str) -> Any:
    """What `done` gives as soon as that is true; an error that says `what` was waited for, after `seconds`."""
    end = time.monotonic() + seconds
    while not (result := done()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what} in vain for {seconds:.0f} s")
        time.sleep(0.1)
    return result


class Cluster:
    """The daemons, and the commands that speak to them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))},
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": PATH,
        }

    # ---- starting and stopping --------------------------------------------------------------------------

    def start(self) -> None:
        """Start all daemons and wait until the nodes are idle."""
        folder = self.folder
        port = _free_ports(1 + len(NODES))
        (folder / "state").mkdir()
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o400)
        hosts = Path("/etc/hosts").read_text()
        lines = []
        for k, name in enumerate(NODES, 1):
            (folder / f"spool-{name}").mkdir()
            # PMIx keeps its sockets there, one folder a step: two nodes can't share it.
            (folder / f"tmp-{name}").mkdir()
            hosts += f"127.0.0.1 {name}\n"
            lines.append(
                f"NodeName={name} NodeHostname={name} NodeAddr=127.0.0.1 Port={port + k} CPUs={CPUS} Boards=1 "
                f"SocketsPerBoard=1 CoresPerSocket={CPUS} ThreadsPerCore=1 State=UNKNOWN"
            )
        (folder / "hosts").write_text(hosts)
        conf = CONF.format(
            host=socket.gethostname().partition(".")[0], port=port, folder=folder, nodes="\n".join(lines)
        )
        (folder / "slurm.conf").write_text(conf)
        self._call(
            "munged",
            "--force",
            f"--key-file={folder}/munge.key",
            f"--socket={folder}/munge.sock",
            f"--pid-file={folder}/munged.pid",
            f"--log-file={folder}/munged.log",
            f"--seed-file={folder}/munge.seed",
        )
        self._call("slurmctld", "-c", "-f", f"{folder}/slurm.conf")
        for name in NODES:
            self._start_node(name)
        wait_until(lambda: self._states() == ["idle"] * len(NODES), PATIENCE, "waited for idle nodes")

    def _start_node(self, name: str) -> None:
        # A host name of its own, and an /etc/hosts in which the nodes find each other.
        inside = 'hostname "$1" && mount --bind "$2/hosts" /etc/hosts && exec slurmd -N "$1" -f "$2/slurm.conf"'
        self._call(
            "unshare", "--uts", "--mount", "--propagation", "slave", "sh", "-c", inside, "sh", name, str(self.folder)
        )

    def _states(self) -> list[str]:
        return self.ask("sinfo", "-h", "-N", "-o", "%T").split()

    def stop(self) -> None:
        """Cancel what runs, end the daemons, and whatever is left of their jobs."""
        with contextlib.suppress(subprocess.SubprocessError, TimeoutError):
            self._call("scancel", "--signal=KILL", "--full", "--state=RUNNING", "--user=root")
            self._call("scancel", "--user=root")
            wait_until(lambda: not self.ask("squeue", "-h", "-o", "%A"), 20, "waited for jobs to end")
        nodes = [self._pid(f"slurmd-{name}.pid") for name in NODES]
        spaces = {os.readlink(f"/proc/{pid}/ns/uts") for pid in nodes if pid and _is_running(pid)}
        for pid in (*nodes, self._pid("slurmctld.pid")):
            self._end(pid)
        spaces.discard(os.readlink("/proc/self/ns/uts"))
        for entry in Path("/proc").glob("[0-9]*/ns/uts"):
            # Ranks that lost their parent still live on their node's name.
            with contextlib.suppress(OSError):
                if os.readlink(entry) in spaces:
                    os.kill(int(entry.parts[2]), signal.SIGKILL)
        self._end(self._pid("munged.pid"))

    def _pid(self, name: str) -> int | None:
        try:
            return int((self.folder / name).read_text())
        except (OSError, ValueError):
            return None

    @staticmethod
    def _end(pid: int | None) -> None:
        if pid is None or not _is_running(pid):
            return
        os.kill(pid, signal.SIGTERM)
        try:
            wait_until(lambda: not _is_running(pid), 10, "waited for a daemon to end")
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)

    # ---- commands ---------------------------------------------------------------------------------------

    def _call(self, *words: str) -> None:
        subprocess.run(
            words,
            env=self.environment,
            check=True,
            timeout=PATIENCE,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    def run(
        self, *words: object, cwd: Path, seconds: float = PATIENCE, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of SLURM to its end."""
        return subprocess.run(
            [str(w) for w in words],
            env={**self.environment, **environment},
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def ask(self, *words: str) -> str:
        return self.run(*words, cwd=self.folder).stdout.strip()

    def submit(self, *words: object, cwd: Path, environment: Mapping[str, str] | None = None) -> str:
        """sbatch; the number of the job."""
        done = self.run("sbatch", "--parsable", *words, cwd=cwd, **dict[str, Any](environment or {}))
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """What SLURM knows of a job: JobState, ExitCode, Restarts, ..."""
        told = self.ask("scontrol", "show", "job", "-o", number)
        return dict(re.findall(r"(\w+)=(\S*)", told.splitlines()[0] if told else ""))

    def states(self, number: str) -> list[str]:
        """The states of a job's tasks (of an array) or of the one job."""
        return self.ask("squeue", "-h", "-t", "all", "-r", "-o", "%T", "-j", number).split()

    def wait_for_end(self, number: str, seconds: float = PATIENCE) -> dict[str, str]:
        """Wait until a job has ended for good."""
        over = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}
        wait_until(lambda: set(self.states(number)) <= over, seconds, f"waited for job {number}")
        return self.job(number)


@contextlib.contextmanager
def running() -> Iterator[Cluster]:
    """The cluster, in a short folder of its own: the paths of sockets may have 107 characters."""
    folder = Path(tempfile.mkdtemp(prefix="sl", dir="/tmp"))
    folder.chmod(0o755)
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)
