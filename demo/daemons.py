# SPDX-License-Identifier: Apache-2.0
"""The programs under demonstration: their configuration files and what their commands answer."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lab import Failure, Lab

GROUP = "news"
GROUP_ADDRESS, GROUP_PORT = "239.1.1.1", 5004
GROUP_V6 = "ff18::1"
CONTROL_ADDRESS = "239.1.1.100"
SERVER_ADDRESS = "10.0.0.10"
SATELLITE = {"hub": "10.0.0.1", "gcks": SERVER_ADDRESS, "site1": "10.0.0.2", "site2": "10.0.0.3",
             "outsider": "10.0.0.254"}
CLIENTS = {"hub": "sender", "site1": "receiver", "site2": "receiver"}
SATELLITE_V6 = {"hub": "fd00::1", "site1": "fd00::2", "site2": "fd00::3"}
LAN = {"hub": 1, "site1": 2, "site2": 3}  # 192.168.x.0/24
VPN, VPN_ENDS = "office", ("hub", "site1")


@dataclass
class Daemons:
    """Starts the programs and asks them; knows their files."""

    lab: Lab
    binaries: Path
    folder: Path

    def program(self, name: str) -> str:
        return str(self.binaries / name)

    def config(self, name: str) -> Path:
        return self.folder / name / ("gcks.yaml" if name == "gcks" else "satipsec.yaml")

    def write(self) -> None:
        """What an operator would write, and the secrets beside it."""
        keys = {name: secrets.token_hex(32) for name in CLIENTS}
        for name in ["gcks", *CLIENTS]:
            (self.folder / name).mkdir(mode=0o700)
        home = self.folder / "gcks"
        for name, key in keys.items():
            write_secret(home / f"{name}.psk", key)
            write_secret(self.folder / name / "gcks.psk", key)
        self.make_signing_key(home / "signing-key.pem")
        clients = "".join(f"""
  - name: {name}
    address: {SATELLITE[name]}
    psk-file: {name}.psk""" for name in CLIENTS)
        members = "".join(f"""
      - client: {name}
        role: {role}""" for name, role in CLIENTS.items())
        self.config("gcks").write_text(f"""identity: gcks
address: {SERVER_ADDRESS}
satellite-interface: sat0
control-socket: gcks.sock
signing-key-file: signing-key.pem
clients:{clients}
groups:
  - name: {GROUP}
    id: 1
    control: {CONTROL_ADDRESS}:848
    flows:
      - source: 192.168.{LAN['hub']}.0/24
        destination: {GROUP_ADDRESS}
        protocol: udp
        destination-port: {GROUP_PORT}
      - source: fd0{LAN['hub']}::/64
        destination: "{GROUP_V6}"
    members:{members}
    revocation: lkh
vpns:
  - name: {VPN}
    id: 2
    ends: [{VPN_ENDS[0]}, {VPN_ENDS[1]}]
    flows:
      - {{source: 192.168.{LAN[VPN_ENDS[0]]}.0/24, destination: 192.168.{LAN[VPN_ENDS[1]]}.0/24, protocol: tcp}}
""")
        for name in CLIENTS:
            self.config(name).write_text(f"""name: {name}
gcks:
  address: {SERVER_ADDRESS}
  identity: gcks
psk-file: gcks.psk
satellite-interface: sat0
terrestrial-interface: lan0
control-socket: satipsec.sock
""")

    def make_signing_key(self, path: Path) -> None:
        done = subprocess.run(
            ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"], capture_output=True,
            check=True, timeout=20)
        write_secret(path, done.stdout.decode())

    def start(self, name: str) -> None:
        """In the namespace of the same name."""
        words = ["gcks", "serve"] if name == "gcks" else ["satipsec", "run"]
        self.lab.start(name, name, self.program(words[0]), words[1], "--config", str(self.config(name)))

    def ask(self, name: str, *words: str, timeout: float = 20) -> object:
        """What a command of the GCKS or of a client answers, as JSON. Exit status 2 (degraded) is an answer too."""
        program = "gcks" if name == "gcks" else "satipsec"
        command = [self.program(program), *words, "--config", str(self.config(name)), "--json"]
        done = subprocess.run(
            self.lab.command(name, *command), capture_output=True, text=True, timeout=timeout)
        if done.returncode not in (0, 2):
            raise Failure(f"{program} {' '.join(words)} at {name}: {done.stderr.strip() or done.returncode}")
        try:
            return json.loads(done.stdout)
        except ValueError:
            raise Failure(f"{program} {' '.join(words)} at {name} answered no JSON: {done.stdout[:200]!r}") from None

    def guard(self, name: str) -> str:
        """The nftables ruleset that keeps clear packets off a gateway's satellite interface."""
        return self.lab.run(name, self.program("satipsec"), "guard", "--config", str(self.config(name)))

    def is_serving(self) -> bool:
        try:
            self.ask("gcks", "status")
            return True
        except Failure:
            return False

    def all_keyed(self) -> bool:
        """Has every client confirmed the group's newest keys?"""
        status = self.ask("gcks", "status")
        members = [member for group in status["groups"] for member in group["members"]]
        return len(members) == len(CLIENTS) and all(m["holdsKeys"] and m["isCurrent"] for m in members)


def write_secret(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def verdict_members(answer: object) -> list[tuple[str, bool, str]]:
    """Who confirmed what and when, from the answer to a rekey or a revocation: name, confirmed, text."""
    reports = answer if isinstance(answer, list) else answer.get("reports", [answer])
    result = []
    for report in reports:
        keys = f"transaction {report['transaction']} (epoch {report['epoch']})"
        for one in report["confirmed"]:
            result.append((one["client"], True, f"confirmed {keys} after {one['seconds']:.2f} s"))
        for one in report["unconfirmed"]:
            result.append((one["client"], False, f"did not confirm {keys}: {one['reason']}"))
        for client in report["absent"]:
            result.append((client, False, f"absent from {keys}"))
    return result
