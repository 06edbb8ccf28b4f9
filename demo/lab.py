# SPDX-License-Identifier: Apache-2.0
"""The laboratory: network namespaces, the processes in them, and the one outer namespace that all of it dies with.

The demonstration runs as process 1 of a process namespace of its own, in a mount and a network namespace of its own.
When it ends, in whatever way, the kernel ends every process in there, and with them go interfaces, routes, nftables
rules and files (which lie on a tmpfs of that mount namespace).
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

INSIDE = "SATIPSEC_DEMO_INSIDE"
TOOLS = {
    "ip": "iproute2",
    "nft": "nftables",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "mount": "mount",
    "ffmpeg": "ffmpeg",
}


class Failure(Exception):
    """Something that ends the demonstration, in words for its user."""


def find(tool: str) -> str | None:
    """Administrators' tools are often outside of the path of an ordinary user."""
    return shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/local/sbin")


def unshare_command() -> list[str]:
    """Makes the outer namespaces; without root, a user namespace in which we are root."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return [find("unshare") or "unshare", *user, "--net", "--mount", "--pid", "--fork", "--kill-child=SIGKILL"]


def obstacles() -> list[str]:
    """What this system lacks, and what to do about it. Empty when the demonstration can run."""
    missing = sorted({package for tool, package in TOOLS.items() if not find(tool)})
    if missing:
        return [f"missing packages: {' '.join(missing)}. Install them: sudo apt-get install {' '.join(missing)}"]
    problems = []
    if not Path("/dev/net/tun").exists():
        problems.append(
            "/dev/net/tun is missing. Load it: sudo modprobe tun; in a container, start this with --device /dev/net/tun")
    elif not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        problems.append("/dev/net/tun may not be opened. Allow it: sudo chmod 666 /dev/net/tun")
    script = "mount -t tmpfs tmpfs /run && mkdir /run/netns && ip netns add probe && ip -n probe link add type veth"
    probe = subprocess.run(
        [*unshare_command(), "sh", "-c", script], capture_output=True, text=True, timeout=30,
        env={**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"})
    if probe.returncode != 0:
        problems.append("namespaces cannot be made: " + (probe.stderr.strip().splitlines() or ["no reason given"])[-1])
        problems += namespace_hints()
    return problems


def namespace_hints() -> list[str]:
    """Settings that are known to forbid namespaces, and how to change them."""
    def setting(name: str) -> str:
        path = Path("/proc/sys") / name.replace(".", "/")
        return path.read_text().strip() if path.exists() else ""

    hints = []
    if os.geteuid() == 0:
        hints.append("  root lacks CAP_SYS_ADMIN here: in a container, start it with --privileged, or with "
                     "--cap-add SYS_ADMIN --cap-add NET_ADMIN --security-opt apparmor=unconfined --security-opt "
                     "seccomp=unconfined")
        return hints
    for name, wrong, right in [
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
        ("user.max_user_namespaces", "0", "10000"),
    ]:
        if setting(name) == wrong:
            hints.append(f"  {name} forbids them to ordinary users: sudo sysctl -w {name}={right}, or run as root")
    return hints or ["  run as root: sudo make demo; in a container, start it with --security-opt seccomp=unconfined"]


def enter(arguments: list[str]) -> int:
    """Runs this program again inside the outer namespaces and gives back its exit status."""
    def die_with_parent() -> None:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG

    child = subprocess.Popen(
        [*unshare_command(), sys.executable, *arguments], env={**os.environ, INSIDE: "1"}, preexec_fn=die_with_parent,
        start_new_session=True)
    interrupted = []

    def interrupt(number: int, _frame: object) -> None:
        # `unshare` itself stays deaf, as the process inside is what should end; that one is all there is in its session.
        if not interrupted:
            os.killpg(child.pid, signal.SIGTERM)
        else:
            child.kill()
        interrupted.append(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    status = child.wait()
    return 128 + interrupted[0] if interrupted else status


class Lab:
    """Namespaces and processes, once inside."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        os.environ["PATH"] = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
        # Children inherit the mask, and some programs start theirs with SIGTERM blocked.
        signal.pthread_sigmask(signal.SIG_SETMASK, [])

    @staticmethod
    def prepare() -> None:
        """A private /run, in which `ip netns` keeps its names."""
        subprocess.run(["mount", "--make-rprivate", "/"], check=False)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
        Path("/run/netns").mkdir()

    def add_namespace(self, name: str) -> None:
        self.run(None, "ip", "netns", "add", name)
        self.run(name, "ip", "link", "set", "lo", "up")

    @staticmethod
    def command(namespace: str | None, *words: str) -> list[str]:
        return [*(["nsenter", f"--net=/run/netns/{namespace}"] if namespace else []), *words]

    def run(self, namespace: str | None, *words: str, timeout: float = 20, stdin: str | None = None) -> str:
        """Runs a command to its end and gives its output; a failure of it is a Failure."""
        done = subprocess.run(
            self.command(namespace, *words), capture_output=True, text=True, timeout=timeout, input=stdin)
        if done.returncode != 0:
            reason = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
            raise Failure(f"{' '.join(words)} (in {namespace}) failed with {done.returncode}: {reason}")
        return done.stdout

    def script(self, namespace: str, lines: str) -> None:
        """Runs several commands, one a line."""
        for line in lines.strip().splitlines():
            self.run(namespace, *line.split())

    def set(self, namespace: str, **settings: int) -> None:
        """Network settings by their path under /proc/sys/net, with / written as __; those that stand right are let be."""
        for name, value in settings.items():
            path = f"/proc/sys/net/{name.replace('__', '/')}"
            self.run(namespace, "sh", "-c", f'[ "$(cat {path})" = {value} ] || echo {value} > {path}')

    def start(self, name: str, namespace: str | None, *words: str) -> subprocess.Popen[bytes]:
        """Starts a process whose output goes to NAME.out and NAME.log in the folder."""
        with open(self.folder / f"{name}.out", "ab") as out, open(self.folder / f"{name}.log", "ab") as log:
            process = subprocess.Popen(
                self.command(namespace, *words), stdin=subprocess.DEVNULL, stdout=out, stderr=log,
                start_new_session=True)
        self.processes[name] = process
        return process

    def stop(self, name: str, number: int = signal.SIGTERM, timeout: float = 10) -> int:
        """Ends a process and gives its exit status."""
        process = self.processes.pop(name)
        if process.poll() is None:
            process.send_signal(number)
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise Failure(f"{name} did not end within {timeout:.0f} s of signal {number}") from None

    def check_alive(self) -> None:
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise Failure(f"{name} ended with {process.returncode}: {self.last_line(name)}")

    def last_line(self, name: str) -> str:
        lines = (self.folder / f"{name}.log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def wait_for(self, what: str, condition, timeout: float, interval: float = 0.05) -> float:
        """Waits until the condition holds and gives the seconds it took."""
        started = time.monotonic()
        while not condition():
            self.check_alive()
            if time.monotonic() - started > timeout:
                raise Failure(f"waited {timeout:.0f} s in vain until {what}")
            time.sleep(interval)
        return time.monotonic() - started

    def close(self) -> None:
        """Ends every process that is left; the namespaces go with the outer one."""
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + 3
        for process in self.processes.values():
            try:
                process.wait(max(deadline - time.monotonic(), 0.01))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()
