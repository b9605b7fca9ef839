"""A SLURM of one node, in a folder of its own: `python dev/slurm_cluster.py up [FOLDER]`, `... down [FOLDER]`.

For the tests marked slurm, and to try sweeps on. Nothing outside the folder is read or written, nothing needs systemd,
cgroups or a database. One process watches over the daemons, which are its children, and over every job, which it
inherits: when it ends, or is told to by a signal or by the end of its standard input, none of them is left.

The partition `low` is the default one; a job in `high` takes its place, and the one in `low` is queued again. Memory is
looked at once a second, and a job over its limit is killed.
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
from collections.abc import Sequence
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
CLIENTS = ("sbatch", "srun", "scancel", "scontrol", "sinfo", "squeue")
SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER: what a child leaves behind becomes a child of this process, not of process 1."""
FOLDER = Path(tempfile.gettempdir()) / f"cab-slurm-{getpass.getuser()}"

CONFIGURATION = """\
ClusterName=cab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmdPort={node}
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
    """The programs of SLURM that this machine does not have."""
    return [name for name in (*DAEMONS, *CLIENTS) if shutil.which(name, path=search_path()) is None]


def search_path() -> str:
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def environment(folder: Path) -> dict[str, str]:
    """With it, SLURM's commands speak to the cluster in this folder."""
    return os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": search_path()}


def _set_at_end_of_input(event: threading.Event) -> None:
    os.read(0, 1)
    event.set()


def watch(folder: Path, cpus: int) -> None:
    """Runs the cluster until a signal or the end of standard input, in the foreground."""
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: told.set())
    if stat.S_ISFIFO(os.fstat(0).st_mode):
        threading.Thread(target=_set_at_end_of_input, args=(told,), daemon=True).start()
    configure(folder, cpus)
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands(folder):
            with (folder / f"{command[0]}.out").open("wb") as out:
                daemons.append(
                    subprocess.Popen(command, env=environment(folder), stdin=subprocess.DEVNULL, stdout=out, stderr=out)
                )
        while not told.wait(1) and all(daemon.poll() is None for daemon in daemons):
            reap([daemon.pid for daemon in daemons])
    finally:
        ask(folder, "scancel", "--me")
        time.sleep(1)
        for daemon in reversed(daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
        while left := children():
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
            reap([])


def configure(folder: Path, cpus: int) -> None:
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir()
    folder.chmod(0o711)  # munged wants its socket to be reachable for everyone
    (folder / "munge").chmod(0o711)
    key = folder / "munge" / "key"
    key.touch(0o600)
    key.write_bytes(os.urandom(1024))
    with socket.socket() as one, socket.socket() as other:
        for free in (one, other):
            free.bind(("127.0.0.1", 0))
        control, node = one.getsockname()[1], other.getsockname()[1]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    host = socket.gethostname().partition(".")[0]
    user = getpass.getuser()
    (folder / "slurm.conf").write_text(CONFIGURATION.format(**locals()))


def commands(folder: Path) -> list[list[str]]:
    """The daemons, in the order in which they start; each stays in the foreground."""
    munge = [
        f"--{name}={folder}/munge/{name.partition('-')[0]}" for name in ("socket", "key-file", "pid-file", "log-file")
    ]
    return [
        ["munged", "--foreground", *munge, f"--seed-file={folder}/munge/seed", "--num-threads=2"],
        ["slurmctld", "-D"],
        ["slurmd", "-D"],
    ]


def children() -> list[int]:
    """Processes whose parent is this one."""
    own = str(os.getpid())
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, (state, parent, *_) = path.parent.name, path.read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            continue
        if parent == own and state != "Z":
            found.append(int(pid))
    return found


def reap(ours: Sequence[int]) -> None:
    """Takes leave of children that have ended, but for these."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        pid = int(path.parent.name)
        if pid not in ours:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                continue


def ask(folder: Path, *command: str, seconds: float = 20) -> subprocess.CompletedProcess[str]:
    """A command of SLURM's; it never takes longer than this."""
    try:
        return subprocess.run(command, env=environment(folder), capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        return subprocess.CompletedProcess(command, 124, "", str(error))


def start(folder: Path, cpus: int, stdin: int) -> subprocess.Popen[bytes]:
    """The process that watches over a new cluster which takes jobs. Ended by the end of `stdin` if that is a pipe."""
    with (folder / "watch.out").open("wb") as out:
        watcher = subprocess.Popen(
            [sys.executable, __file__, "watch", str(folder), f"--cpus={cpus}"],
            stdin=stdin,
            stdout=out,
            stderr=out,
            start_new_session=True,  # whoever ends the group of the caller shall not end this before its children
        )
    for _ in range(100):
        if watcher.poll() is not None:
            break
        if ask(folder, "srun", "--immediate=5", "--mem=10", "true").returncode == 0:
            return watcher
        time.sleep(0.2)
    watcher.terminate()
    raise RuntimeError(f"the cluster does not start; {folder} has what its daemons said")


def up(folder: Path, cpus: int) -> None:
    if absent := missing():
        sys.exit(f"error: no {', '.join(absent)}; on Debian: apt-get install slurmctld slurmd slurm-client munge")
    if folder.exists():
        sys.exit(f"error: {folder} is there already; down ends that cluster")
    folder.mkdir(parents=True)
    watcher = start(folder, cpus, subprocess.DEVNULL)
    (folder / "pid").write_text(str(watcher.pid))
    print(f"A cluster with {cpus} CPUs. Now:\n  export SLURM_CONF={folder}/slurm.conf")


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
    parser.add_argument("what", choices=["up", "down", "watch"])
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    parser.add_argument("--cpus", type=int, default=os.cpu_count(), help="that the cluster says it has")
    chosen = parser.parse_args()
    folder = chosen.folder.absolute()
    if chosen.what == "down":
        down(folder)
    else:
        {"up": up, "watch": watch}[chosen.what](folder, chosen.cpus)


if __name__ == "__main__":
    main()
