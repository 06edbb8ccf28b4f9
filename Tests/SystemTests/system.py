#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""System tests: `gcks` and `satipsec` as an operator runs them, through mistakes, faults and restarts.

Usage: system.py FOLDER_WITH_THE_PROGRAMS
One line per check, `ok: ` or `FAILED: `; exit status 0 if all are ok. It runs in namespaces that end with it.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True

from segment import ADDRESS, DEMO, GROUP, HOSTS, MARK, Checks, Segment, run

from lab import Failure

HERE = str(Path(__file__).resolve().parent)


class SystemTest(Checks):
    def __init__(self, folder: Path, programs: Path) -> None:
        super().__init__()
        self.folder = folder
        self.segment = Segment(folder, programs)
        self.lab = self.segment.lab
        self.secrets: dict[str, str] = {}
        self.command_lines = ""

    # Files

    def write(self) -> None:
        """By `gcks init`, as the README says, and then what an operator changes."""
        gcks = self.folder / "gcks"
        clients = [word for name in HOSTS for word in ("--client", f"{name}={ADDRESS[name]}")]
        made = subprocess.run(
            [self.segment.program("gcks"), "init", str(gcks), "--address", ADDRESS["gcks"], *clients],
            capture_output=True, text=True)
        self.check("gcks init makes keys, configuration and bundles", made.returncode == 0, made.stderr)
        path = self.segment.config("gcks")
        path.write_text(path.read_text() + "control-socket: gcks.sock\nphase1: {dead-peer-interval: 1s}\n")
        checked = self.segment.command("gcks", "check")
        self.check("gcks check accepts them", checked.returncode == 0, checked.stderr)
        for name in HOSTS:
            (gcks / "clients" / name).rename(self.folder / name)
            path = self.segment.config(name)
            path.write_text(path.read_text() + "control-socket: satipsec.sock\nphase1: {dead-peer-interval: 1s}\n"
                            "retry: {first: 500ms, most: 2s}\n")
            self.secrets[f"key of {name}"] = (self.folder / name / f"{name}.psk").read_text().strip()
        self.secrets["provisioning key"] = (gcks / "provisioning.key").read_text().strip()
        self.secrets["master key"] = (gcks / "master.key").read_text().strip()

    # The chapters

    def mistakes(self) -> None:
        """A configuration with errors starts nothing."""
        self.lab.run("site", "sh", "-c", f"{self.segment.program('site')} guard --config "
                     f"{self.segment.config('site')} | nft -f -")
        self.lab.run("hub", "sh", "-c", f"{self.segment.program('hub')} guard --config "
                     f"{self.segment.config('hub')} | nft -f -")
        for node, word, wrong, right in [("gcks", "serve", "adress:", "address:"), ("site", "run", "nam:", "name:")]:
            good = self.segment.config(node)
            bad = good.with_name("bad.yaml")
            bad.write_text(re.sub(rf"(?m)^{right}", wrong, good.read_text(), count=1))
            line = 1 + bad.read_text().splitlines().index(
                next(line for line in bad.read_text().splitlines() if line.startswith(wrong)))
            done = self.segment.command(node, word, config=bad)
            place = f"{bad}:{line}:1: {wrong} is not a known key; did you mean {right[:-1]}?"
            self.check(f"{node}: a wrong key of the configuration is named with file, line and column",
                       place in done.stderr.splitlines(), done.stderr)
            interfaces = self.lab.run(node, "ip", "link")
            self.check(f"{node}: and nothing is started, exit status 64",
                       done.returncode == 64 and not self.segment.listens(node) and "tun0" not in interfaces
                       and not list(good.parent.glob("*.sock")), (done.returncode, interfaces))

    def unguarded(self) -> None:
        """Without its packet filter a client does not start."""
        self.lab.run("site", "nft", "delete", "table", "netdev", "satipsec_guard")
        done = self.segment.command("site", "run")
        self.check("site: no start without the guard, with the command that sets it up",
                   done.returncode == 1 and "satipsec guard" in done.stderr, (done.returncode, done.stderr))
        self.lab.run("site", "sh", "-c", f"{self.segment.program('site')} guard --config "
                     f"{self.segment.config('site')} | nft -f -")
        done = self.segment.command("site", "guard", "--check")
        self.check("site: satipsec guard --check sees it stand again", done.returncode == 0, done.stderr)

    def registration(self) -> None:
        """One client with a wrong key first, then both with the right ones."""
        self.start_witness()
        self.segment.start("gcks", "--key-log", str(self.folder / "gcks-keys"))
        self.lab.wait_for("gcks serves", lambda: self.segment.ask("gcks", "status") != {}, 10)
        wrong = self.folder / "site" / "wrong.yaml"
        wrong.write_text(self.segment.config("site").read_text().replace("psk-file: site.psk", "psk-file: wrong.psk"))
        Path(self.folder / "site" / "wrong.psk").touch(0o600)
        Path(self.folder / "site" / "wrong.psk").write_text(secrets.token_hex(32) + "\n")
        self.segment.start("site", config=wrong, name="wrong")
        self.within("gcks: a wrong pre-shared key is said plainly, with the client's name", 10,
                    lambda: self.segment.logged("gcks", "phase1.failed", "peer=site", "the two pre-shared keys are not the same"),
                    lambda: self.segment.log("gcks")[-5:])
        self.within("site: a wrong pre-shared key is said plainly", 10,
                    lambda: self.segment.logged("wrong", "gcks.refused", "the two pre-shared keys are not the same"),
                    lambda: self.segment.log("wrong")[-5:])
        status = self.segment.command("site", "status")
        self.check("site: and satipsec status says so, exit status 2",
                   status.returncode == 2 and "the two pre-shared keys are not the same" in status.stdout, status)
        self.lab.stop("wrong")
        for name in HOSTS:
            self.segment.start(name, "--key-log", str(self.folder / f"{name}-keys"))
        self.within("both clients register and confirm their keys", 10, self.all_current, self.state)
        self.remember_command_lines()
        for host, agent in [("sink", "receive"), ("source", "send")]:
            self.lab.start(host, host, sys.executable, "-B", f"{HERE}/segment.py", agent)
            time.sleep(0.3)
        self.within("the stream comes through", 5, lambda: self.segment.flows(0.3) > 5, self.state)
        codes = [self.segment.command("gcks", "status").returncode, *(
            self.segment.command(name, "status").returncode for name in HOSTS)]
        self.check("status everywhere: exit status 0", codes == [0, 0, 0], codes)

    def guard_flushed(self) -> None:
        """Somebody loads other rules while the client runs: `nft flush ruleset` takes the guard away, too."""
        self.lab.run("site", "nft", "flush", "ruleset")
        done = self.segment.command("site", "status")
        self.check("site: satipsec status sees that the guard is gone, exit status 2",
                   done.returncode == 2 and "may pass sat0" in done.stdout, done)
        self.lab.run("site", "sh", "-c", f"{self.segment.program('site')} guard --config "
                     f"{self.segment.config('site')} | nft -f -")
        done = self.segment.command("site", "status")
        self.check("and that it is back, exit status 0", done.returncode == 0, done)

    def second_daemons(self) -> None:
        """Nobody can start a daemon twice, and an attempt harms nothing."""
        own = {name: self.lab.processes[name].pid for name in ("gcks", "hub")}
        for node, word in [("gcks", "serve"), ("hub", "run")]:
            done = self.segment.command(node, word)
            self.check(f"{node}: a second daemon is refused in a clear sentence",
                       done.returncode == 1 and "another daemon is running" in done.stderr, done)
            other = self.segment.config(node).with_name("other.yaml")
            text = re.sub(r"control-socket: \S+", "control-socket: other.sock", self.segment.config(node).read_text())
            other.write_text(text)
            if node == "gcks":
                done = self.segment.command(node, word, config=other)
                self.check("gcks: nor with another control socket, by the state", done.returncode == 1
                           and "state.db: another daemon is running" in done.stderr, done)
                text = text.replace("state.db", "other.db")
                other.write_text(text)
                done = self.segment.command(node, word, config=other)
                self.check("gcks: nor with a state of its own, by the audit file", done.returncode == 1
                           and "audit.log: another process has it open" in done.stderr, done)
                other.write_text(text.replace("audit.log", "other.log"))
            done = self.segment.command(node, word, config=other)
            what = "UDP 0.0.0.0:848" if node == "gcks" else "tun0"
            self.check(f"{node}: nor with all of that its own, by {what}", done.returncode == 1
                       and what in done.stderr and "another program has it" in done.stderr, done)
        answers = [self.segment.command(node, "status").returncode for node in own]
        flow = self.segment.flows()
        self.check("the first ones are undisturbed, and the stream flows",
                   answers == [0, 0] and flow > 5 and "tun0" in self.lab.run("hub", "ip", "link"), (answers, flow))

    def server_dies(self) -> None:
        """Killed with -9, and back."""
        before = self.active()
        self.lab.stop("gcks", signal.SIGKILL)
        took = self.within("GCKS killed: satipsec status says degraded, exit status 2", 25,
                           lambda: all(self.segment.command(name, "status").returncode == 2 for name in HOSTS),
                           self.state)
        print(f"   noticed after {took:.1f} s", flush=True)
        status = self.segment.command("hub", "status").stdout
        self.check("and which way it is degraded", status.startswith("state:") and "degraded" in status.splitlines()[0]
                   and "the peer does not answer" in status, status)
        flow = self.segment.flows()
        self.check("the clients keep their SAs and the stream flows", self.active() == before != [] and flow > 5, flow)
        done = self.segment.command("gcks", "status")
        self.check("gcks status says that no daemon listens, exit status 1",
                   done.returncode == 1 and "no daemon listens" in done.stderr, done)
        self.segment.start("gcks", "--key-log", str(self.folder / "gcks-keys"))
        took = self.within("GCKS back: the clients register by themselves", 20, self.all_current, self.state)
        print(f"   registered again after {took:.1f} s", flush=True)
        self.within("and the stream flows under new keys", 8,
                    lambda: self.active() not in ([], before) and self.segment.flows(0.3) > 5, self.state)

    def server_restarts(self) -> None:
        """Killed with -9, and back before anybody misses it."""
        before = {name: len(self.segment.log(name)) for name in HOSTS}
        self.lab.stop("gcks", signal.SIGKILL)
        self.segment.start("gcks", "--key-log", str(self.folder / "gcks-keys"))
        self.within("GCKS killed and back at once: the clients are current again", 10, self.all_current, self.state)
        time.sleep(5)  # longer than dead peer detection takes to ask
        again = [name for name in HOSTS if self.segment.logged(name, "gcks.connecting", after=before[name])
                 or self.segment.logged(name, "gcks.lost", after=before[name])]
        self.check("and none of them registered again", not again and self.all_current(), (again, self.state()))

    def client_dies(self) -> None:
        """Killed with -9, and back."""
        self.lab.stop("site", signal.SIGKILL)
        started = time.monotonic()
        done = self.segment.command("gcks", "rekey", "news", "--wait")
        took = time.monotonic() - started
        self.check("client killed: gcks rekey --wait names it as unconfirmed, exit status 2",
                   done.returncode == 2 and re.search(r"unconfirmed: site \(\w+\)", done.stdout), done)
        self.check("and returns in bounded time", took < 25, f"{took:.1f} s")
        print(f"   it took {took:.1f} s and said:\n   {done.stdout.strip()}", flush=True)
        self.within("gcks status says degraded and names it, exit status 2", 20,
                    lambda: (lambda s: s.returncode == 2 and "client site is not registered" in s.stdout)(
                        self.segment.command("gcks", "status")), self.state)
        self.segment.start("site", "--key-log", str(self.folder / "site-keys"))
        self.within("client back: current again", 10, self.all_current, self.state)
        self.within("and the stream comes through again", 5, lambda: self.segment.flows(0.3) > 5, self.state)
        done = self.segment.command("gcks", "rekey", "news", "--kek", "--wait")
        self.check("a rekey with a new KEK is confirmed by all, exit status 0", done.returncode == 0, done)
        self.remember_command_lines()

    def shut_down(self) -> None:
        """SIGTERM, and nothing is left."""
        self.lab.stop("source")
        self.lab.stop("sink")
        codes = {name: self.lab.stop(name) for name in ("site", "hub", "gcks")}
        self.check("SIGTERM ends the daemons with exit status 0", set(codes.values()) == {0}, codes)
        for name in HOSTS:
            left = self.lab.run(name, "ip", "link") + self.lab.run(name, "ip", "route", "show", "table", "all")
            self.check(f"{name}: tunnel and routes are gone", "tun0" not in left, left)
        sockets = [str(path) for name in ("gcks", *HOSTS) for path in (self.folder / name).glob("*.sock")]
        self.check("the control sockets are gone", not sockets, sockets)
        self.check("gcks: the clients said goodbye",
                   all(self.segment.logged("gcks", "client.gone", f"client={name}", "the peer ended it")
                       for name in HOSTS), self.segment.log("gcks")[-5:])
        self.lab.stop("witness")

    def revocation_lasts(self) -> None:
        """A revoked client stays out, also when the key server is killed and comes back."""
        for name in ("gcks", *HOSTS):
            self.segment.start(name)
        self.within("all daemons back: current again", 20, self.all_current, self.state)
        done = self.segment.command("gcks", "revoke", "site", "--wait")
        self.check("gcks revoke --wait: confirmed, exit status 0", done.returncode == 0, done)
        self.lab.stop("gcks", signal.SIGKILL)
        self.segment.start("gcks")

        def states() -> dict[str, str]:
            return {client["name"]: client["state"] for client in self.segment.ask("gcks", "clients")}

        self.within("GCKS killed and back: the other client registers, the revoked one does not", 20,
                    lambda: states() == {"hub": "registered", "site": "revoked"}, self.state)
        self.within("and it is turned away when it tries", 20,
                    lambda: self.segment.logged("gcks", "unknownPeer"), self.state)
        codes = {name: self.lab.stop(name) for name in ("site", "hub", "gcks")}
        self.check("SIGTERM ends the daemons again", set(codes.values()) == {0}, codes)
        path = self.folder / "gcks" / "master.key"
        path.write_text("00" * 32)
        done = self.segment.command("gcks", "serve")
        self.check("another master key is refused in a clear sentence", done.returncode == 1
                   and "state.db: it is sealed with another master key" in done.stderr, done)

    # Key log and secrets

    def key_log(self) -> None:
        """Wireshark's own program reads what the witness saw, with the keys written and not without."""
        profile = self.folder / "profile"
        profile.mkdir()
        for table in ("ikev1_decryption_table", "esp_sa"):
            lines = [line for name in ("gcks", *HOSTS) if (path := self.folder / f"{name}-keys" / table).exists()
                     for line in path.read_text().splitlines()]
            (profile / table).write_text("\n".join(dict.fromkeys(lines)) + "\n")
            for line in lines:
                self.secrets |= {f"{table} {part[:4]}": part for part in re.findall(r"[0-9a-fA-F]{32,}", line)}
        clear = self.tshark(profile, "udp.dstport==5004 && esp", "-T", "fields", "-e", "ip.dst", "-e", "data.data")
        texts = [bytes.fromhex(line.split("\t")[-1]) for line in clear.splitlines() if line.split("\t")[-1:] != [""]]
        good = sum(text.startswith(MARK) for text in texts)
        total = len(self.tshark(profile, f"esp && ip.dst=={GROUP}", "-T", "fields", "-e", "esp.spi").splitlines())
        self.check("tshark opens every ESP packet with the written esp_sa table", 0 < good == total, (good, total))
        names = self.tshark(profile, "isakmp.exchangetype==2 && isakmp.id.type", "-T", "fields", "-e",
                            "isakmp.id.data.fqdn").split()
        self.check("tshark opens Main Mode with the written ikev1_decryption_table, to the identities",
                   {"hub", "site"} <= set(names), names)
        empty = self.folder / "empty"
        empty.mkdir()
        blind = self.tshark(empty, "udp.dstport==5004 || isakmp.id.type", "-T", "fields", "-e", "frame.number")
        self.check("and neither without them", not blind.strip(), blind[:200])
        modes = [oct(path.stat().st_mode & 0o777) for name in ("gcks", *HOSTS)
                 for path in (self.folder / f"{name}-keys").iterdir()]
        self.check("the key log is for its owner's eyes only, and the daemons warned of it",
                   set(modes) == {"0o600"} and all("WARNING: --key-log" in "\n".join(self.segment.log(name))
                                                   for name in ("gcks", *HOSTS)), modes)

    def no_secrets(self) -> None:
        """No key in any log, output or argument."""
        texts = {path.name: path.read_text(errors="replace").lower()
                 for pattern in ("*.log", "*.out") for path in self.folder.glob(pattern)}
        texts["audit file"] = (self.folder / "gcks" / "audit.log").read_text().lower()
        texts["command lines"] = self.command_lines.lower()
        found = [(name, what) for what, secret in self.secrets.items() for name, text in texts.items()
                 if secret.lower() in text or bytes.fromhex(secret).hex(" ") in text]
        size = sum(map(len, texts.values()))
        self.check("no pre-shared or session key in any log, output or command line",
                   not found and len(self.secrets) > 8 and size > 5_000, (found, len(self.secrets), size))

    def tshark(self, profile: Path, what: str, *more: str) -> str:
        words = ["tshark", "-r", str(self.folder / "witness.pcap"), "-o", "esp.enable_encryption_decode:TRUE",
                 "-d", "udp.port==848,isakmp", "-Y", what, *more]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60,
                              env={**os.environ, "WIRESHARK_CONFIG_DIR": str(profile), "HOME": str(profile)})
        if done.returncode:
            raise Failure(f"tshark: {done.stderr[-300:]}")
        return done.stdout

    # Pieces

    def start_witness(self) -> None:
        capture = self.folder / "witness.pcap"
        self.lab.start("witness", "witness", sys.executable, "-B", str(DEMO / "agents.py"), "record", "sat0", str(capture))
        self.lab.wait_for("the witness records", capture.exists, 10)

    def all_current(self) -> bool:
        status = self.segment.ask("gcks", "status")
        members = [member for group in status.get("groups", []) for member in group["members"]]
        return len(members) == 2 and all(m["isCurrent"] and m["holdsKeys"] for m in members) and status["state"] == "ok"

    def active(self) -> list[str]:
        """The SPIs under which the hub sends."""
        return [sa["spi"] for sa in self.segment.ask("hub", "sas") if sa["direction"] == "outbound" and sa["isActive"]]

    def state(self) -> object:
        return {name: (self.segment.command(name, "status").stdout, self.segment.log(name)[-6:])
                for name in ("gcks", *HOSTS)}

    def remember_command_lines(self) -> None:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                for file in ("cmdline", "environ"):
                    try:
                        self.command_lines += (entry / file).read_text(errors="replace")
                    except OSError:
                        pass  # it ended, or is not ours

    def play(self) -> None:
        self.segment.build()
        self.write()
        self.mistakes()
        self.unguarded()
        self.registration()
        self.guard_flushed()
        self.second_daemons()
        self.server_dies()
        self.server_restarts()
        self.client_dies()
        self.shut_down()
        self.key_log()
        self.revocation_lasts()
        self.no_secrets()


if __name__ == "__main__":
    sys.exit(run(SystemTest))
