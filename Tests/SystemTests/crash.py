#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Crash test: `gcks` is killed with -9 again and again, at rest and in the middle of rekeys, while a stream runs.

Usage: crash.py FOLDER_WITH_THE_PROGRAMS [ROUNDS [CLIENTS [SEED]]]
One line per check, `ok: ` or `FAILED: `; exit status 0 if all are ok. It runs in namespaces that end with it.
"""

from __future__ import annotations

import os
import random
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True

import segment
from segment import DEMO, Segment
from system import Checks

import lab as laboratory
from lab import Failure, Lab

HERE = str(Path(__file__).resolve().parent)
CONTROL = bytes([239, 255, 0, 1])
PUSH = 241


class CrashTest(Checks):
    def __init__(self, folder: Path, programs: Path, rounds: int, clients: int, seed: int) -> None:
        super().__init__()
        self.folder = folder
        self.rounds = rounds
        self.random = random.Random(seed)
        self.names = ["hub", "site"] + [f"c{number}" for number in range(clients - 2)]
        for number, name in enumerate(self.names[2:]):
            segment.ADDRESS[name] = f"10.77.0.{11 + number}"
        self.segment = Segment(folder, programs)
        self.lab = self.segment.lab
        # Transactions that the operator was told of.
        self.accepted: list[str] = []

    # The network and the files

    def build(self) -> None:
        self.segment.build()
        for name in self.names[2:]:
            self.lab.set(name, ipv4__ip_forward=1, ipv4__conf__all__rp_filter=0, ipv4__conf__default__rp_filter=0)
            self.lab.script(name, "ip link add lan0 type veth peer name lan1\nip link set lan1 up\n"
                            "ip address add 192.168.9.1/24 dev lan0\nip link set lan0 up")
        gcks = self.folder / "gcks"
        words = [word for name in self.names for word in ("--client", f"{name}={segment.ADDRESS[name]}")]
        made = subprocess.run([self.segment.program("gcks"), "init", str(gcks), "--address", segment.ADDRESS["gcks"],
                               *words], capture_output=True, text=True)
        if made.returncode:
            raise Failure(made.stderr)
        # A small disk of its own, which can be filled.
        (gcks / "state").mkdir()
        self.lab.run(None, "mount", "-t", "tmpfs", "-o", "size=32m,mode=0700", "tmpfs", str(gcks / "state"))
        path = self.segment.config("gcks")
        path.write_text(path.read_text().replace("state-file: state.db", "state-file: state/state.db")
                        + "control-socket: gcks.sock\nphase1: {dead-peer-interval: 2s}\n")
        for name in self.names:
            (gcks / "clients" / name).rename(self.folder / name)
            path = self.segment.config(name)
            path.write_text(path.read_text() + "control-socket: satipsec.sock\nphase1: {dead-peer-interval: 2s}\n"
                            "retry: {first: 500ms, most: 2s}\n")
            self.lab.run(name, "sh", "-c",
                         f"{self.segment.program(name)} guard --config {path} | nft -f -")

    def start(self) -> None:
        capture = self.folder / "witness.pcap"
        self.lab.start("witness", "witness", sys.executable, "-B", str(DEMO / "agents.py"), "record", "sat0",
                       str(capture))
        self.lab.wait_for("the witness records", capture.exists, 10)
        self.segment.start("gcks")
        self.lab.wait_for("gcks serves", lambda: self.segment.ask("gcks", "status") != {}, 20)
        for name in self.names:
            self.segment.start(name)
        self.within(f"{len(self.names)} clients register and confirm their keys", 60, self.is_settled, self.state)
        for host, agent in [("sink", "receive"), ("source", "send")]:
            self.lab.start(host, host, sys.executable, "-B", f"{HERE}/segment.py", agent)
            time.sleep(0.5)
        self.lab.wait_for("the stream comes through", lambda: len(self.segment.arrivals()) > 5, 10)

    # Pieces

    def group(self) -> dict:
        groups = self.segment.ask("gcks", "status").get("groups", [])
        return groups[0] if groups else {}

    def is_settled(self) -> bool:
        status = self.segment.ask("gcks", "status")
        groups = status.get("groups", [])
        return bool(groups) and status["state"] == "ok" and not groups[0]["openTransactions"] and all(
            member["isCurrent"] and member["holdsKeys"] for member in groups[0]["members"])

    def state(self) -> object:
        return (self.segment.ask("gcks", "status").get("alarms"), self.segment.log("gcks")[-8:],
                {name: self.segment.log(name)[-2:] for name in self.names[:3]})

    def rekey(self, *more: str) -> bool:
        done = self.segment.command("gcks", "rekey", "news", *more)
        self.accepted += re.findall(r"transaction (\d+)", done.stdout) if done.returncode == 0 else []
        return done.returncode == 0

    def kill(self) -> None:
        self.lab.stop("gcks", signal.SIGKILL)
        self.segment.start("gcks")

    def lines(self, *events: str, after: dict[str, int] | None = None) -> list[str]:
        """Of all clients, the lines of these events, from where each log was."""
        found = []
        for name in self.names:
            for line in self.segment.log(name)[(after or {}).get(name, 0):]:
                if any(event in line for event in events):
                    found.append(f"{name}: {line}")
        return found

    def marks(self) -> dict[str, int]:
        return {name: len(self.segment.log(name)) for name in self.names}

    def verdicts(self) -> set[str]:
        return {number for line in self.segment.log("gcks") if "rekey.ended" in line
                for number in re.findall(r"transaction=(\d+)", line)}

    # The chapters

    def at_rest(self) -> None:
        """Killed when nothing is going on: nobody hears of it."""
        before, marks = self.group(), self.marks()
        self.kill()
        self.lab.wait_for("gcks serves", self.is_settled, 20)
        time.sleep(4)  # longer than dead peer detection takes to ask
        after = self.group()
        self.check("killed at rest: the same keys, the same numbers",
                   (before["transaction"], before["epoch"]) == (after["transaction"], after["epoch"]), (before, after))
        told = self.lines("configure.received", "gcks.connecting", "sa.installed", after=marks)
        self.check("and no client was told anything", not told, told[:4])

    def in_a_rekey(self) -> None:
        """Killed in the middle of a rekey: it ends in a verdict, by what it brought."""
        marks = self.marks()
        done = self.rekey("--kek")
        self.kill()
        self.within("killed in the middle of a rekey: it is completed", 30, self.is_settled, self.state)
        self.check("and ends in a verdict", done and self.accepted[-1] in self.verdicts(),
                   (done, self.accepted, self.segment.log("gcks")[-6:]))
        installed = {spi for line in self.lines("sa.installed", after=marks)
                     for spi in re.findall(r"spi=(\S+)", line)}
        self.check("with the keys that it had, and no others", len(installed) == 1, installed)

    def again_and_again(self) -> None:
        late = []
        for number in range(self.rounds):
            if self.random.random() < 0.7:
                self.rekey(*(["--kek"] if self.random.random() < 0.5 else []))
                time.sleep(self.random.random() * 0.9)
            else:
                time.sleep(self.random.random() * 2)
            self.kill()
            # Now and then once more before anything has settled.
            if self.random.random() < 0.3:
                time.sleep(self.random.random() * 0.7)
                self.kill()
            deadline = time.monotonic() + 40
            while not self.is_settled() and time.monotonic() < deadline:
                time.sleep(0.1)
            if not self.is_settled():
                late.append((number, self.state()))
                break
        self.check(f"{self.rounds} rounds of kill -9 at random instants: everybody current after each", not late, late)
        self.lab.wait_for("verdicts", lambda: set(self.accepted) <= self.verdicts(), 20)
        self.check("each rekey that was accepted has its verdict", set(self.accepted) <= self.verdicts())

    def full_disk(self) -> None:
        """What cannot be stored is not sent: the daemon ends, and comes back as it was."""
        filler = self.folder / "gcks" / "state" / "filler"
        before, tries = self.group()["transaction"], 0
        with open(filler, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
        gcks = self.lab.processes["gcks"]
        while gcks.poll() is None and tries < 100:
            before = self.group().get("transaction", before)
            self.rekey()
            tries += 1
            time.sleep(0.2)
        self.check("disk full: gcks ends, exit status 1, and says why",
                   gcks.poll() == 1 and self.segment.logged("gcks", "state.failed"),
                   (gcks.poll(), tries, self.segment.log("gcks")[-4:]))
        flow = self.segment.flows()
        filler.unlink()
        self.lab.processes.pop("gcks")
        self.segment.start("gcks")
        self.within("room again: gcks comes back, everybody is current", 40, self.is_settled, self.state)
        after = self.group()["transaction"]
        self.check("with what was on the disk, and the stream ran on", after - before in (0, 1) and flow > 5,
                   (before, after, flow))

    def look(self, marks: dict[str, int]) -> None:
        self.lab.stop("source")
        time.sleep(1)
        self.lab.stop("sink")
        numbers = [number for _, number in self.segment.arrivals()]
        lost = sorted(set(range(numbers[-1] + 1)) - set(numbers)) if numbers else [-1]
        self.check("no packet of the stream was lost", not lost and numbers[0] == 0, (len(numbers), lost[:20]))
        again = self.lines("gcks.connecting", "gcks.lost", after=marks)
        self.check("nobody registered anew", not again, again[:4])
        self.lab.stop("witness")
        sequences = push_sequences(self.folder / "witness.pcap")
        print(f"   {len(numbers)} packets, {len(self.accepted)} rekeys, {len(sequences)} PUSHes", flush=True)
        self.check("no PUSH sequence was used twice, and none went back",
                   len(sequences) > 0 and all(a < b for a, b in zip(sequences, sequences[1:])), sequences[:10])

    def play(self) -> None:
        self.build()
        self.start()
        marks = self.marks()
        self.at_rest()
        self.in_a_rekey()
        # While the store still has to grow.
        self.full_disk()
        self.again_and_again()
        self.look(marks)


def push_sequences(capture: Path) -> list[int]:
    """Of all PUSHes in a capture of Ethernet, in their order (docs/FMKE.md: header of 28 octets, then the sequence)."""
    data, at, found = capture.read_bytes(), 24, []
    while at + 16 <= len(data):
        length = struct.unpack_from("<I", data, at + 8)[0]
        frame = data[at + 16:at + 16 + length]
        at += 16 + length
        if len(frame) < 42 or frame[12:14] != b"\x08\x00" or frame[23] != 17 or frame[30:34] != CONTROL:
            continue
        message = frame[14 + 4 * (frame[14] & 15) + 8:]
        if len(message) >= 36 and message[18] == PUSH:
            found.append(struct.unpack_from(">Q", message, 28)[0])
    return found


def inside(programs: Path, rounds: int, clients: int, seed: int) -> int:
    Lab.prepare()
    folder = Path("/run/satipsec-crash")
    folder.mkdir()
    os.umask(0o077)
    test = CrashTest(folder, programs, rounds, clients, seed)
    try:
        test.play()
    except (Failure, subprocess.SubprocessError, OSError) as error:
        test.check("the test runs to its end", False, (error, test.segment.log("gcks")[-5:]))
    finally:
        test.lab.close()
    return 1 if test.failed else 0


def main() -> int:
    programs = Path(sys.argv[1]).resolve()
    rounds, clients, seed = (int(word) for word in (sys.argv[2:5] + ["5", "6", "1"][len(sys.argv) - 2:]))
    if os.environ.get(laboratory.INSIDE):
        return inside(programs, rounds, clients, seed)
    problems = laboratory.obstacles()
    if problems:
        print("FAILED: this system cannot run the test:", *problems, sep="\n  ")
        return 1
    return laboratory.enter([str(Path(__file__).resolve()), str(programs), str(rounds), str(clients), str(seed)])


if __name__ == "__main__":
    sys.exit(main())
