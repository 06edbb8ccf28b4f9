#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""System test of the audit file: its disk is full, it is removed, its lines are spoilt, while a stream flows; and of
backups.

Usage: audit.py FOLDER_WITH_THE_PROGRAMS
One line per check, `ok: ` or `FAILED: `; exit status 0 if all are ok. It runs in namespaces that end with it.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

sys.dont_write_bytecode = True

from segment import HOSTS, run
from system import HERE, SystemTest



class AuditTest(SystemTest):
    def prepare(self) -> None:
        """The audit file on a disk of its own, of 64 kB."""
        self.write()
        self.disk = self.folder / "gcks" / "disk"
        self.disk.mkdir()
        self.lab.run(None, "mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", str(self.disk))
        path = self.segment.config("gcks")
        path.write_text(path.read_text().replace("audit-file: audit.log", "audit-file: disk/audit.log"))
        self.file = self.disk / "audit.log"
        for name in HOSTS:
            self.lab.run(name, "sh", "-c", f"{self.segment.program(name)} guard --config "
                         f"{self.segment.config(name)} | nft -f -")
        for name in ("gcks", *HOSTS):
            self.segment.start(name)
        self.within("both clients register and confirm their keys", 20, self.all_current, self.state)
        for host, agent in [("sink", "receive"), ("source", "send")]:
            self.lab.start(host, host, sys.executable, "-B", f"{HERE}/segment.py", agent)
            time.sleep(0.3)
        self.within("the stream comes through", 5, lambda: self.segment.flows(0.3) > 5, self.state)

    def verify(self) -> subprocess.CompletedProcess[str]:
        return self.segment.command("gcks", "audit", "verify")

    def events(self) -> list[dict]:
        return [json.loads(line) for line in self.file.read_text().splitlines()]

    def told(self) -> None:
        """What is in it."""
        done = self.verify()
        self.check("gcks audit verify: all good while the daemon runs, exit status 0", done.returncode == 0, done)
        done = self.segment.command("gcks", "rekey", "news", "--wait")
        events = self.events()
        names = [event["event"] for event in events]
        order = [event for event in events if event["event"] == "operator.rekey"]
        self.check("a rekey is there: the order, its operator, its keys, its verdict",
                   done.returncode == 0 and order[0]["fields"]["uid"] == "0" and int(order[0]["fields"]["pid"]) > 1
                   and names.index("operator.rekey") < names.index("rekey.started", names.index("operator.rekey"))
                   and "rekey.ended" in names, names)
        sent = {event["fields"]["client"] for event in events if event["event"] == "keys.sent"}
        self.check("who was sent keys is there, and the file is for its owner alone", sent == set(HOSTS)
                   and self.file.stat().st_mode & 0o777 == 0o600, sent)
        done = self.segment.command("gcks", "audit", "show", "--client", "site", "--since", "1h")
        self.check("gcks audit show finds a client's lines", done.returncode == 0 and "keys.sent" in done.stdout
                   and "client=hub" not in done.stdout, done)

    def given_up(self) -> None:
        """What the daemons gave up, by the kernel's word."""
        # Of the namespace that the numbers of our processes are from.
        mounted = self.folder / "proc"
        mounted.mkdir()
        self.lab.run(None, "mount", "-t", "proc", "proc", str(mounted))
        for name, kept in [("gcks", 0), ("hub", 1 << 12 | 1 << 13)]:
            process = mounted / str(self.lab.processes[name].pid)
            status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
            words = {key: status[key].strip() for key in ("CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb")}
            sets = {key: int(value, 16) for key, value in words.items()}
            self.check(f"{name}: no capability is left but those it needs",
                       sets == {"CapPrm": kept, "CapEff": kept, "CapBnd": kept, "CapInh": 0, "CapAmb": 0}, words)
            core = next(line for line in (process / "limits").read_text().splitlines() if line.startswith("Max core"))
            locked = int(status["VmLck"].split()[0]) > 1_000 or self.segment.logged(name, "memory.not-locked")
            self.check(f"{name}: no new rights, no core file, memory locked where that is allowed",
                       status["NoNewPrivs"].strip() == "1" and core.split()[4:6] == ["0", "0"] and locked,
                       (status["NoNewPrivs"], core, status["VmLck"]))

    def full(self) -> None:
        """No room for one more line."""
        filler = self.disk / "filler"
        with open(filler, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"\0" * 4096)
            except OSError:
                pass
        spis = self.active()
        for _ in range(20):  # until the file's last page is full
            done = self.segment.command("gcks", "rekey", "news")
            if self.segment.logged("gcks", "audit.failed"):
                break
        self.check("disk full: the log says so", self.segment.logged("gcks", "audit.failed", "No space left"), done)
        time.sleep(2.5)
        before = self.active()
        done = self.segment.command("gcks", "status")
        self.check("gcks status says so, exit status 2", done.returncode == 2 and "no keys are given out" in done.stdout
                   and "No space left" in done.stdout, done)
        done = self.segment.command("gcks", "rekey", "news")
        self.check("a rekey is refused with the reason, exit status 1", done.returncode == 1
                   and "no new keys are given out" in done.stderr, done)
        time.sleep(4)
        flow = self.segment.flows()
        self.check("the clients keep their SAs, stay registered, and the stream flows",
                   self.active() == before != [] and flow > 5
                   and not any(self.segment.logged("gcks", "client.gone", f"client={name}") for name in HOSTS),
                   (before, spis, self.active(), flow))
        filler.unlink()
        self.within("room again: everything is current again", 30, self.all_current, self.state)
        self.check("and no line is lost", self.verify().returncode == 0 and any(
            event["event"] == "operator.refused" for event in self.events()), self.verify())
        ended = {e["fields"]["transaction"] for e in self.events() if e["event"] == "rekey.ended"}
        started = {e["fields"]["transaction"] for e in self.events() if e["event"] == "rekey.started"}
        self.check("every transaction has its verdict", started <= ended, started - ended)
        done = self.segment.command("gcks", "rekey", "news", "--wait")
        self.check("the next rekey is confirmed", done.returncode == 0, done)

    def removed(self) -> None:
        """Somebody removes the file of a running daemon, or kills the daemon."""
        self.file.unlink()
        done = self.segment.command("gcks", "rekey", "news", "--wait")
        self.within("removed: it is put back, with all lines", 10, lambda: self.verify().returncode == 0, self.verify)
        self.within("and keys go on", 20, self.all_current, lambda: (done, self.state()))
        self.lab.stop("gcks", signal.SIGKILL)
        self.check("the daemon killed: the file is good", self.verify().returncode == 0, self.verify())
        self.segment.start("gcks")
        self.within("and goes on", 20, lambda: self.all_current() and self.verify().returncode == 0, self.state)
        done = self.segment.command("gcks", "audit", "rotate")
        self.check("set aside: two files, one chain", done.returncode == 0 and len(list(self.disk.iterdir())) == 2
                   and self.verify().returncode == 0, (done, self.verify()))

    def spoilt(self) -> None:
        """Offline, each kind of tampering."""
        self.segment.command("gcks", "rekey", "news", "--wait")
        self.lab.stop("gcks")
        good = self.file.read_bytes()
        lines = good.splitlines(keepends=True)
        middle = len(lines) // 2
        place = sum(map(len, lines[:middle])) + len(lines[middle]) // 2
        bad = {
            "changed": good[:place] + bytes([good[place] ^ 4]) + good[place + 1:],
            "removed": b"".join(lines[:middle] + lines[middle + 1:]),
            "moved": b"".join(lines[:middle] + [lines[middle + 1], lines[middle]] + lines[middle + 2:]),
            "put in": b"".join(lines[:middle] + [lines[0]] + lines[middle:]),
            "cut off": b"".join(lines[:-1]),
        }
        found = {}
        for kind, octets in bad.items():
            self.file.write_bytes(octets)
            done = self.verify()
            named = f"line {middle + 1} " in done.stderr if kind != "cut off" else "was cut off" in done.stderr
            found[kind] = done.returncode == 1 and named or done
        self.check("a line changed, removed, moved, put in or cut off is named", set(found.values()) == {True}, found)
        done = self.segment.command("gcks", "serve")
        self.check("and the daemon does not start on such a file", done.returncode == 1
                   and "Keep it as evidence" in done.stderr, done)
        self.file.write_bytes(good)
        self.check("as it was: good, with the daemon stopped", self.verify().returncode == 0, self.verify())

    def backup(self) -> None:
        """A copy while it runs, put back after more rekeys."""
        copy = self.folder / "copy"
        self.segment.start("gcks")
        self.within("daemon back: everything is current", 20, self.all_current, self.state)
        done = self.segment.command("gcks", "backup", str(copy))
        self.check("gcks backup copies the state of a running daemon, mode 0600", done.returncode == 0
                   and copy.stat().st_mode & 0o777 == 0o600, done)
        for _ in range(3):
            self.segment.command("gcks", "rekey", "news", "--kek", "--wait")
        before = self.segment.ask("gcks", "groups")[0]
        done = self.segment.command("gcks", "restore", str(copy))
        self.check("gcks restore is refused while the daemon runs", done.returncode == 1
                   and "another daemon is running" in done.stderr, done)
        self.lab.stop("gcks")
        done = self.segment.command("gcks", "restore", str(copy))
        self.check("and over a newer state", done.returncode == 1 and "newer than the backup" in done.stderr, done)
        octets = bytearray(copy.read_bytes())
        octets[len(octets) // 2] ^= 1
        bad = self.folder / "bad"
        bad.write_bytes(octets)
        done = self.segment.command("gcks", "restore", "--force", str(bad))
        self.check("and from a damaged copy", done.returncode == 1 and "it is damaged" in done.stderr, done)
        done = self.segment.command("gcks", "restore", "--force", str(copy))
        self.check("with --force it is put back, and the other state is set aside", done.returncode == 0
                   and "restored" in done.stdout and list((self.folder / "gcks").glob("state.db.before-restore-*")), done)
        self.segment.start("gcks")
        self.within("the clients register anew and are current", 60, self.all_current, self.state)
        after = self.segment.ask("gcks", "groups")[0]
        self.check("with greater numbers than ever before", after["transaction"] > before["transaction"]
                   and after["epoch"] > before["epoch"], (before, after))
        self.check("the audit file tells of it, and is good", self.verify().returncode == 0
                   and any(event["event"] == "state.restored" for event in self.events()), self.verify())
        done = self.segment.command("gcks", "recover")
        self.check("and there is nothing to recover", done.returncode == 1 and "nothing to recover" in done.stderr, done)
        self.lab.stop("gcks")
        done = self.segment.command("gcks", "backup", str(copy))
        self.check("gcks backup works with the daemon stopped, too", done.returncode == 0, done)

    def play(self) -> None:
        self.segment.build()
        self.prepare()
        self.told()
        self.given_up()
        self.full()
        self.removed()
        self.spoilt()
        self.backup()


if __name__ == "__main__":
    sys.exit(run(AuditTest))
