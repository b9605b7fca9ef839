"""A SLURM cluster of one node in its own folder: `python dev/slurm_cluster.py up [FOLDER]`, `... down [FOLDER]`.

For the tests marked slurm, and to try sweeps. It reads and writes nothing outside the folder, and needs no systemd,
cgroups or database. One process watches over the daemons, which are its children, and over all jobs, which it inherits.
When it gets a signal or reaches the end of its standard input, it ends all of them.

`low` is the default partition. A job in `high` preempts one in `low`, which is queued again. Memory is checked once a
second, and a job over its limit is killed.
"""

import argparse
import ctypes
import getpass
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
CLIENTS = ("sbatch", "srun", "scancel", "scontrol", "sinfo", "squeue")
PR_SET_CHILD_SUBREAPER = 36
"""Orphaned descendants become children of this process, not of process 1."""
FOLDER = Path(tempfile.gettempdir()) / f"cab-slurm-{getpass.getuser()}"

CONFIGURATION = """\
ClusterName=cab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={slurmctld_port}
SlurmdPort={slurmd_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_interval=2,bf_interval=2,sched_min_interval=0
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
KillWait=5
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=low Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE
PartitionName=high Nodes={host} MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


def missing() -> list[str]:
    """The programs of SLURM that are not installed."""
    return [name for name in (*DAEMONS, *CLIENTS) if shutil.which(name, path=search_path()) is None]


def search_path() -> str:
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def environment(folder: Path) -> dict[str, str]:
    """The environment in which SLURM's commands use the cluster in this folder."""
    return os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": search_path()}


def watch(folder: Path, cpus: int) -> None:
    """Runs the cluster in the foreground until a signal or the end of standard input."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    if stat.S_ISFIFO(os.fstat(0).st_mode):
        threading.Thread(target=_set_at_end_of_input, args=(stop,), daemon=True).start()
    configure(folder, cpus)
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for command in daemon_commands(folder):
            with (folder / f"{command[0]}.out").open("wb") as out:
                daemons.append(
                    subprocess.Popen(command, env=environment(folder), stdin=subprocess.DEVNULL, stdout=out, stderr=out)
                )
        while not stop.wait(1) and all(daemon.poll() is None for daemon in daemons):
            for pid in children() - {daemon.pid for daemon in daemons}:
                os.waitpid(pid, os.WNOHANG)
    finally:
        run_client(folder, "scancel", "--me")
        time.sleep(1)
        for daemon in reversed(daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
        while pids := children():  # killing one may orphan others
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def _set_at_end_of_input(event: threading.Event) -> None:
    os.read(0, 1)
    event.set()


def configure(folder: Path, cpus: int) -> None:
    """Creates the folders, the key and slurm.conf."""
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir()
    folder.chmod(0o711)  # munged requires that all users can reach its socket
    (folder / "munge").chmod(0o711)
    key = folder / "munge" / "key"
    key.touch(0o600)
    key.write_bytes(os.urandom(1024))
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("127.0.0.1", 0))
        slurmctld_port, slurmd_port = one.getsockname()[1], other.getsockname()[1]
    configuration = CONFIGURATION.format(
        folder=folder,
        cpus=cpus,
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        host=socket.gethostname().partition(".")[0],
        user=getpass.getuser(),
        slurmctld_port=slurmctld_port,
        slurmd_port=slurmd_port,
    )
    (folder / "slurm.conf").write_text(configuration)


def daemon_commands(folder: Path) -> list[list[str]]:
    """The daemons in the order of their start; each stays in the foreground."""
    munge = folder / "munge"
    files = [f"--socket={munge}/socket", f"--key-file={munge}/key", f"--pid-file={munge}/pid"]
    files += [f"--log-file={munge}/log", f"--seed-file={munge}/seed"]
    return [["munged", "--foreground", "--num-threads=2", *files], ["slurmctld", "-D"], ["slurmd", "-D"]]


def children() -> set[int]:
    """The processes whose parent is this one, also those that have ended and were not waited for."""
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


def run_client(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Runs one of SLURM's commands, for at most 20 seconds."""
    try:
        return subprocess.run(command, env=environment(folder), capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired as error:
        return subprocess.CompletedProcess(command, 124, "", str(error))


def start(folder: Path, cpus: int, stdin: int) -> subprocess.Popen[bytes]:
    """Starts a cluster and returns the process that watches over it, once it accepts jobs.

    If `stdin` is a pipe, its end stops the cluster. Raises RuntimeError if the cluster does not start.
    """
    with (folder / "watch.out").open("wb") as out:
        watcher = subprocess.Popen(
            [sys.executable, __file__, "watch", str(folder), f"--cpus={cpus}"],
            stdin=stdin,
            stdout=out,
            stderr=out,
            start_new_session=True,  # a signal to the caller's process group must not end it before its children
        )
    for _ in range(100):
        if watcher.poll() is not None:
            break
        if run_client(folder, "srun", "--immediate=5", "--mem=10", "true").returncode == 0:
            return watcher
        time.sleep(0.2)
    watcher.terminate()
    raise RuntimeError(f"the cluster does not start: see the output of its daemons in {folder}")


def up(folder: Path, cpus: int) -> None:
    absent = missing()
    if absent:
        sys.exit(
            f"error: no {', '.join(absent)}, and this installs nothing of SLURM itself; on Debian: apt-get install"
            " slurmctld slurmd slurm-client munge"
        )
    if folder.exists():
        sys.exit(f"error: {folder} exists already; `down` ends that cluster")
    folder.mkdir(parents=True)
    watcher = start(folder, cpus, subprocess.DEVNULL)
    (folder / "pid").write_text(str(watcher.pid))
    print(f"A cluster with {cpus} CPUs, by the SLURM that this machine has; all of its files are in {folder}. Now:")
    print(f"  export SLURM_CONF={folder}/slurm.conf")


def down(folder: Path) -> None:
    try:
        pid = int((folder / "pid").read_text())
        os.kill(pid, signal.SIGTERM)
        while b"dev/slurm_cluster.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
            time.sleep(0.1)
    except (FileNotFoundError, ProcessLookupError):
        pass
    shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["up", "down", "watch"])
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    parser.add_argument("--cpus", type=int, default=os.cpu_count(), help="number of CPUs of the node")
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    if arguments.action == "up":
        up(folder, arguments.cpus)
    elif arguments.action == "down":
        down(folder)
    else:
        watch(folder, arguments.cpus)


if __name__ == "__main__":
    main()
