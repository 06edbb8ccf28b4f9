# SPDX-License-Identifier: Apache-2.0
"""Namespaces, wires, processes and their processor time, for the data plane's benchmark."""
import os
import select
import subprocess
import time

WORK = "/run/bench"
KSOFTIRQD_PROC = "/run/hostproc"


class Failure(Exception):
    """Something could not be set up; says what."""


def run(*words, place=None, check=True, **options):
    """Runs a command to its end, in a namespace if `place` names one."""
    command = (["ip", "netns", "exec", place] if place else []) + [str(word) for word in words]
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30, **options)
    except subprocess.TimeoutExpired:
        raise Failure(f"{' '.join(command)}: does not end")
    if check and done.returncode != 0:
        raise Failure(f"{' '.join(command)}: {done.stdout.strip()[-300:]}")
    return done.stdout


def own_everything():
    """To be called once, as the first process of new mount, network and process namespaces: what is made here goes
    with us."""
    run("mount", "-t", "tmpfs", "tmpfs", "/run")
    for folder in (WORK, "/run/netns", KSOFTIRQD_PROC):
        os.mkdir(folder)
    run("mount", "--rbind", "/proc", KSOFTIRQD_PROC)
    run("mount", "-t", "proc", "proc", "/proc")
    os.chdir(WORK)


def go_first():
    """Puts us, and all that we start, before the machine's other work, where that is allowed; gives the niceness."""
    try:
        return os.nice(-10)
    except PermissionError:
        return os.nice(0)


def namespace(name):
    run("ip", "netns", "add", name)
    run("ip", "link", "set", "lo", "up", place=name)
    run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0",
        "net.ipv6.conf.default.disable_ipv6=1", place=name)


def wire(place, interface, address, other, other_interface, other_address=None):
    run("ip", "link", "add", interface, "netns", place, "type", "veth", "peer", "name", other_interface, "netns", other)
    for where, name, own in ((place, interface, address), (other, other_interface, other_address)):
        if own:
            run("ip", "addr", "add", own, "dev", name, place=where)
        run("ip", "link", "set", name, "up", place=where)


def fields(line):
    """The numbers of a line of name=value."""
    pairs = (word.split("=", 1) for word in line.split() if "=" in word)
    return {name: float(value) for name, value in pairs if value.replace(".", "", 1).isdigit()}


class Process:
    """A program that runs beside us, is told things line by line, and answers likewise."""

    def __init__(self, name, command, place=None, environment=None):
        self.name = name
        self.log = f"{WORK}/{name}.log"
        self.errors = open(self.log, "w")
        command = (["ip", "netns", "exec", place] if place else []) + [str(word) for word in command]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
            env=dict(os.environ, **(environment or {})))
        self.rest = b""

    @property
    def pid(self):
        return self.process.pid

    def line(self, seconds=10.0):
        """The next line of its standard output."""
        end = time.monotonic() + seconds
        while b"\n" not in self.rest:
            left = end - time.monotonic()
            ready = left > 0 and select.select([self.process.stdout], [], [], left)[0]
            octets = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            if not octets:
                raise Failure(f"{self.name} says nothing: {self.tail()}")
            self.rest += octets
        line, self.rest = self.rest.split(b"\n", 1)
        return line.decode()

    def tell(self, text, seconds=10.0):
        self.process.stdin.write(text.encode() + b"\n")
        self.process.stdin.flush()
        return self.line(seconds)

    def tail(self):
        with open(self.log) as log:
            return log.read()[-400:].strip() + self.rest.decode(errors="replace")[-400:]

    def is_running(self):
        return self.process.poll() is None

    def wait(self, seconds):
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failure(f"{self.name} does not end")

    def end(self):
        """Ends it, by its own process id."""
        if self.is_running():
            self.process.terminate()
            try:
                self.process.wait(3)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(3)
        self.errors.close()


def until(what, condition, seconds=10.0):
    """Waits until the condition holds; fails with `what` if it does not come to that."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise Failure(f"waited in vain for {what}")
        time.sleep(0.02)


def cpu_seconds(pid, root="/proc"):
    """User and system time of a process, all threads, to the nanosecond (the scheduler's own account, of which
    /proc/PID/stat shows 10 ms ticks)."""
    total = 0
    for thread in os.listdir(f"{root}/{pid}/task"):
        try:
            with open(f"{root}/{pid}/task/{thread}/schedstat") as file:
                total += int(file.read().split()[0])
        except FileNotFoundError:
            pass
    return total * 1e-9


def softirq_threads():
    """Process ids of the kernel's softirq threads, as the first process namespace counts them; none where we cannot
    see that one."""
    found = []
    for entry in os.listdir(KSOFTIRQD_PROC):
        try:
            with open(f"{KSOFTIRQD_PROC}/{entry}/comm") as file:
                if file.read().startswith("ksoftirqd/"):
                    found.append(entry)
        except OSError:
            pass
    return found


def softirq_seconds(threads):
    return sum(cpu_seconds(thread, KSOFTIRQD_PROC) for thread in threads)
