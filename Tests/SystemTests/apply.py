#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""System test of the desired state: clients and groups are added, changed and taken out while the key server runs and
a stream flows that must not lose a packet by it.

Usage: apply.py FOLDER_WITH_THE_PROGRAMS
One line per check, `ok: ` or `FAILED: `; exit status 0 if all are ok. It runs in namespaces that end with it.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True

from segment import ADDRESS, HOSTS, Checks, Segment, run
from system import HERE


ADDRESS["third"] = "10.77.0.4"
HOSTS["third"] = ("cellar", 3)
RADIO = """
  - name: radio
    id: 2
    control: 239.255.0.2:848
    flows:
      - {source: any, destination: 239.1.2.1}
    members:
      - {client: site, role: both}
      - {client: third, role: receiver}
"""


class ApplyTest(Checks):
    def __init__(self, folder: Path, programs: Path) -> None:
        super().__init__()
        self.folder = folder
        self.segment = Segment(folder, programs)
        self.lab = self.segment.lab
        self.printed = ""

    def write(self) -> None:
        """Two clients in the configuration, and a third one whose bundle nobody asked for yet."""
        for names in (["hub", "site"], ["third"]):
            clients = [word for name in names for word in ("--client", f"{name}={ADDRESS[name]}")]
            made = subprocess.run(
                [self.segment.program("gcks"), "init", str(self.folder / "gcks"), "--address", ADDRESS["gcks"], *clients],
                capture_output=True, text=True)
            self.check(f"gcks init makes bundles for {' and '.join(names)}", made.returncode == 0, made.stderr)
        path = self.segment.config("gcks")
        path.write_text(path.read_text() + "control-socket: gcks.sock\nphase1: {dead-peer-interval: 1s}\n")
        for name in HOSTS:
            (self.folder / "gcks" / "clients" / name).rename(self.folder / name)
            path = self.segment.config(name)
            path.write_text(path.read_text() + "control-socket: satipsec.sock\nphase1: {dead-peer-interval: 1s}\n"
                            "retry: {first: 500ms, most: 2s}\n")
            self.lab.run(name, "sh", "-c", f"{self.segment.program(name)} guard --config "
                         f"{self.segment.config(name)} | nft -f -")

    def begin(self) -> None:
        self.segment.start("gcks")
        self.lab.wait_for("gcks serves", lambda: self.segment.ask("gcks", "status") != {}, 10)
        for name in HOSTS:
            self.segment.start(name)
        self.within("two clients register", 20, lambda: self.current() == {"news": ["hub", "site"]}, self.state)
        for host, agent in [("sink", "receive"), ("source", "send")]:
            self.lab.start(host, host, sys.executable, "-B", f"{HERE}/segment.py", agent)
            time.sleep(0.3)
        self.within("the stream comes through", 5, lambda: self.segment.flows(0.3) > 5, self.state)

    # The chapters

    def one_more_client(self) -> None:
        """In the configuration file, and then SIGHUP."""
        path = self.segment.config("gcks")
        text = path.read_text()
        text = text.replace("\ngroups:", "  - {name: third, address: 10.77.0.4, psk: derived}\n\ngroups:", 1)
        path.write_text(text.replace("    members:\n", "    members:\n      - {client: third, role: receiver}\n", 1))
        self.hang_up()
        self.within("SIGHUP: one more client registers and has its keys", 20,
                    lambda: self.current() == {"news": ["hub", "site", "third"]}, self.state)
        self.check("and the others were sent nothing", self.profiles() == {"hub": 1, "site": 1, "third": 1},
                   self.profiles())
        self.hang_up()
        self.within("SIGHUP without a change says so", 5,
                    lambda: self.segment.logged("gcks", "inventory.unchanged", "revision=2"), self.tail)

    def one_more_group(self) -> None:
        exported = self.command("export")
        inventory = self.folder / "inventory.yaml"
        inventory.write_text(exported.stdout)
        same = self.command("apply", "-f", str(inventory))
        self.check("gcks export gives a file that changes nothing",
                   same.returncode == 0 and "nothing differs from revision 2" in same.stdout, same)
        inventory.write_text(exported.stdout + RADIO.removeprefix("\n"))
        dry = self.command("apply", "-f", str(inventory), "--dry-run")
        self.check("gcks apply --dry-run says what would change and what it takes, and changes nothing",
                   dry.returncode == 0 and "group radio: added" in dry.stdout and "2 by unicast" in dry.stdout
                   and list(self.current()) == ["news"], dry)
        done = self.command("apply", "-f", str(inventory), "--wait", "-m", "a second group")
        self.check("gcks apply --wait: confirmed by the members of the new group, exit status 0",
                   done.returncode == 0 and "group radio: confirmed by 2 of 2 members" in done.stdout, done)
        foretold = [line for line in dry.stdout.splitlines() if line.startswith("on the link: ")]
        self.check("and it took what was foretold", foretold and foretold[0] in done.stdout, (dry.stdout, done.stdout))
        self.check("both groups are there", self.current()["radio"] == ["site", "third"], self.state())

    def other_keys(self) -> None:
        """The group of the stream changes by roll-over."""
        inventory = self.folder / "inventory.yaml"
        text = inventory.read_text()
        inventory.write_text(text.replace("suite: aes256-gcm", "suite: chacha20-poly1305", 1)
                             .replace("239.255.0.1:848", "239.255.0.3:848", 1))
        done = self.command("apply", "-f", str(inventory), "--wait")
        self.check("another suite and another control channel: confirmed by all", done.returncode == 0
                   and "group news: confirmed by 3 of 3 members" in done.stdout, done)
        self.within("and in use", 10, lambda: {sa["suite"] for sa in self.segment.ask("hub", "sas") if sa["isActive"]}
                    == {"chacha20-poly1305"}, self.state)

    def mistakes(self) -> None:
        before = self.segment.ask("gcks", "history")[0]["number"]
        path = self.segment.config("gcks")
        good = path.read_text()
        path.write_text(good.replace("groups:", "gruops:", 1))
        line = 1 + path.read_text().splitlines().index("gruops:")
        self.hang_up()
        self.within("SIGHUP with a bad file: the log names file, line and key", 5,
                    lambda: self.segment.logged("gcks", "inventory.refused", f"line={line}", "path=gruops", str(path)),
                    self.tail)
        path.write_text(good)
        bad = self.folder / "bad.yaml"
        bad.write_text((self.folder / "inventory.yaml").read_text().replace("client: hub", "client: hup", 1))
        done = self.command("apply", "-f", str(bad))
        self.check("gcks apply of a bad file: file, line, column, path and remedy, exit status 64",
                   done.returncode == 64 and f"{bad}:" in done.stderr and "did you mean hub?" in done.stderr, done)
        self.check("and all goes on as it was", self.segment.ask("gcks", "history")[0]["number"] == before
                   and self.current()["news"] == ["hub", "site", "third"], self.state())

    def one_less(self) -> None:
        inventory = self.folder / "inventory.yaml"
        lines = [line for line in inventory.read_text().splitlines() if "third" not in line]
        inventory.write_text("\n".join(lines) + "\n")
        done = self.command("apply", "-f", str(inventory), "--wait", "-m", "the third is closed")
        self.check("a client is taken out: confirmed by the others, exit status 0", done.returncode == 0
                   and "disconnected: third" in done.stdout and "group news: confirmed by 2 of 2" in done.stdout, done)
        self.within("its connection ended, and it may not come back", 20,
                    lambda: self.segment.logged("gcks", "unknownPeer"), self.tail)
        used = {sa["spi"] for sa in self.segment.ask("hub", "sas") if sa["isActive"]}
        held = {sa["spi"] for sa in self.segment.ask("third", "sas")}
        self.check("and has not what is in use now", used and not used & held, (used, held))

    def lossless(self) -> None:
        self.lab.stop("source")
        time.sleep(0.5)
        numbers = [number for _, number in self.segment.arrivals()]
        self.check("in all of that the stream lost no packet",
                   len(numbers) > 300 and numbers == list(range(numbers[0], numbers[0] + len(numbers))),
                   [pair for pair in zip(numbers, numbers[1:]) if pair[1] != pair[0] + 1][:5])

    def back_and_forth(self) -> None:
        done = self.command("rollback", "2", "--wait", "-m", "as it was")
        self.check("gcks rollback brings the client back and takes the group out", done.returncode == 0
                   and "client third: added" in done.stdout and "group radio: removed" in done.stdout, done)
        self.within("and it registers again", 20, lambda: self.current() == {"news": ["hub", "site", "third"]}, self.state)
        history = self.command("history").stdout
        self.check("gcks history says who, when and why", "rollback to 2" in history and "uid 0" in history
                   and "the third is closed" in history and "config file" in history, history)
        diff = self.command("diff", "2").stdout
        self.check("gcks diff finds no difference to the revision that came back", "nothing differs" in diff, diff)
        wrong = self.command("rollback", "99")
        self.check("an unknown revision is refused, exit status 1", wrong.returncode == 1
                   and "there is no revision 99" in wrong.stderr, wrong)
        self.lab.stop("gcks", signal.SIGKILL)
        self.segment.start("gcks")
        self.within("GCKS killed and back: the newest revision is in force", 20,
                    lambda: self.current() == {"news": ["hub", "site", "third"]}, self.state)
        self.check("which needs no revision more", self.command("history").stdout == history, history)
        keys = [(self.folder / name / f"{name}.psk").read_text().strip() for name in HOSTS]
        texts = self.printed + "".join(path.read_text(errors="replace") for path in self.folder.glob("*.log"))
        self.check("no key in what was printed and logged", len(texts) > 5_000 and not any(k in texts for k in keys))
        codes = {name: self.lab.stop(name) for name in (*HOSTS, "gcks")}
        self.check("SIGTERM ends the daemons", set(codes.values()) == {0}, codes)

    # Pieces

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        done = self.segment.command("gcks", *words)
        self.printed += done.stdout + done.stderr
        return done

    def hang_up(self) -> None:
        self.lab.processes["gcks"].send_signal(signal.SIGHUP)

    def current(self) -> dict[str, list[str]]:
        """Of each group the members that have its newest keys."""
        groups = self.segment.ask("gcks", "status").get("groups", [])
        return {group["name"]: sorted(m["client"] for m in group["members"] if m["isCurrent"] and m["holdsKeys"])
                for group in groups}

    def profiles(self) -> dict[str, int]:
        lines = [line for line in self.segment.log("gcks") if " configure.sent " in line]
        return {name: sum(f"client={name} " in line for line in lines) for name in HOSTS}

    def tail(self) -> object:
        return self.segment.log("gcks")[-8:]

    def state(self) -> object:
        return {name: (self.segment.command(name, "status").stdout, self.segment.log(name)[-6:])
                for name in ("gcks", *HOSTS)}

    def play(self) -> None:
        self.segment.build()
        self.write()
        self.begin()
        self.one_more_client()
        self.one_more_group()
        self.other_keys()
        self.mistakes()
        self.one_less()
        self.lossless()
        self.back_and_forth()


if __name__ == "__main__":
    sys.exit(run(ApplyTest))
