# SPDX-License-Identifier: Apache-2.0
"""satemu in network namespaces: delay, broadcast, loss, seed, drop log, statistics, signals.

The path of satemu is in the environment variable SATEMU.
"""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
DEMO = Path(__file__).resolve().parents[2] / "demo"
sys.path.insert(0, str(DEMO))

import lab as laboratory
from capture import read_pcap
from lab import Lab

ETHER_TYPE = 0x88B5  # for local experiments (IEEE 802)
STATIONS = {"a": "10.0.0.1", "b": "10.0.0.2", "c": "10.0.0.3"}
COUNT = 1500


def numbered_frames():
    """Station a's program: broadcasts that carry a number each."""
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    raw.bind(("sat0", 0))
    for number in range(COUNT):
        raw.send(b"\xff" * 6 + b"\x02" * 6 + struct.pack("!HI", ETHER_TYPE, number) + bytes(100))
        time.sleep(0.0005)


def numbers(path):
    return [struct.unpack_from("!I", octets, 14)[0] for _, octets in read_pcap(path)
            if octets[12:14] == struct.pack("!H", ETHER_TYPE)]


class Inside(unittest.TestCase):
    """Runs within the outer namespace."""

    @classmethod
    def setUpClass(cls):
        Lab.prepare()
        cls.folder = Path("/run/test")
        cls.folder.mkdir()
        cls.lab = Lab(cls.folder)
        for name in STATIONS:
            cls.lab.add_namespace(name)
            cls.lab.set(name, ipv6__conf__all__disable_ipv6=1, ipv6__conf__default__disable_ipv6=1)

    def tearDown(self):
        self.lab.close()

    def lines(self, name):
        return [json.loads(line) for line in (self.folder / name).read_text().splitlines()]

    def start(self, run, *options, addresses=STATIONS):
        words = [word for name in STATIONS for word in ("--terminal", f"{name}=sat0@{name}")]
        self.lab.start(f"satemu{run}", None, os.environ["SATEMU"], *words, *options,
                       "--stats", f"/run/test/stats{run}", "--drop-log", f"/run/test/drops{run}")
        output = self.folder / f"satemu{run}.out"
        self.lab.wait_for("satemu is ready", lambda: '"ready"' in output.read_text(), 10)
        for name, address in addresses.items():
            self.lab.run(name, "ip", "address", "add", f"{address}/24", "dev", "sat0")
            self.lab.run(name, "ip", "link", "set", "sat0", "up")

    def broadcast(self, run):
        """What each station hears of station a's broadcasts."""
        for name in STATIONS:
            self.lab.start(f"recorder-{name}{run}", name, sys.executable, str(DEMO / "agents.py"), "record", "sat0",
                           f"/run/test/{name}{run}.pcap")
            path = self.folder / f"{name}{run}.pcap"
            self.lab.wait_for("the recorder records", lambda: path.exists() and path.stat().st_size > 0, 10)
        self.lab.run("a", sys.executable, __file__, "numbered-frames")
        time.sleep(1)
        for name in STATIONS:
            self.lab.stop(f"recorder-{name}{run}")
        return {name: numbers(self.folder / f"{name}{run}.pcap") for name in STATIONS}

    def test_broadcast_loss_and_seed(self):
        heard = {}
        for run, seed in [("1", "5"), ("2", "5"), ("3", "6")]:
            self.start(run, "--uplink", "delay=20ms", "--downlink", "delay=30ms", "--link", "b:downlink:loss=20%",
                       "--link", "c:downlink:loss=burst:20%:5", "--seed", seed)
            heard[run] = self.broadcast(run)
            self.lab.stop(f"satemu{run}")
        first = heard["1"]
        self.assertEqual(first["a"], [], "the sender hears not itself")
        for name in ("b", "c"):
            self.assertEqual(first[name], sorted(set(first[name])), "in order, once each")
            # 20 % of 1,500: five standard deviations, for bursts of 5 some three times as many.
            self.assertLess(abs(COUNT - len(first[name]) - COUNT // 5), 80 if name == "b" else 240)
        self.assertNotEqual(first["b"], first["c"])
        self.assertEqual(first, heard["2"], "the same seed and frames give the same losses")
        self.assertNotEqual(first["b"], heard["3"]["b"])
        self.check_reports(first)

    def check_reports(self, heard):
        drops = self.lines("drops1")
        for name, reason in [("b", "loss"), ("c", "burst")]:
            mine = [drop for drop in drops if drop["terminal"] == name]
            self.assertEqual(len(mine), COUNT - len(heard[name]), "every loss is in the log")
            self.assertEqual({(d["direction"], d["reason"], d["ether_type"], d["octets"]) for d in mine},
                             {("downlink", reason, ETHER_TYPE, 118)})
        stats = {(line["terminal"], line["direction"]): line for line in self.lines("stats1")}
        self.assertEqual(len(stats), 6)
        self.assertEqual(stats["a", "uplink"]["offered"], COUNT)
        self.assertEqual(stats["a", "uplink"]["lost"], 0)
        self.assertEqual(stats["b", "downlink"]["delivered"], len(heard["b"]))
        self.assertEqual(stats["c", "downlink"]["lost_burst"], COUNT - len(heard["c"]))

    def round_trip(self):
        answer = self.lab.run("a", sys.executable, str(DEMO / "agents.py"), "round-trip", "sat0", STATIONS["a"],
                              STATIONS["b"])
        return json.loads(answer)["seconds"]

    def test_delay_and_reload(self):
        links = self.folder / "links.yaml"
        links.write_text("uplink: {delay: 125ms}\ndownlink: {delay: 125ms}\n")
        self.start("4", "--links", str(links))
        slow = self.round_trip()
        self.assertGreaterEqual(slow, 0.5, "250 ms one way")
        links.write_text("uplink: {delay: forever}\n")
        self.lab.processes["satemu4"].send_signal(signal.SIGHUP)
        log = self.folder / "satemu4.log"
        self.lab.wait_for("satemu complains", lambda: "nothing changed" in log.read_text(), 10)
        self.assertIn("links.yaml:1:10", log.read_text())
        self.assertGreaterEqual(self.round_trip(), 0.5, "a file with an error changes nothing")
        links.write_text("uplink: {delay: 5ms}\n")
        self.lab.processes["satemu4"].send_signal(signal.SIGHUP)
        time.sleep(0.3)
        fast = self.round_trip()
        self.assertGreaterEqual(fast, 0.01)
        self.assertLess(fast, slow)
        self.lab.processes["satemu4"].send_signal(signal.SIGUSR1)
        self.lab.wait_for("satemu reports", lambda: len(self.lines("stats4")) == 6, 10)
        self.assertEqual(self.lab.stop("satemu4"), 0)
        self.assertNotIn("sat0", self.lab.run("a", "ip", "link"), "the interfaces go with it")

    def test_an_interface_that_is_down(self):
        self.start("5", addresses={"a": STATIONS["a"], "b": STATIONS["b"]})
        self.lab.run("a", sys.executable, __file__, "numbered-frames")
        self.lab.stop("satemu5")
        stats = {(line["terminal"], line["direction"]): line for line in self.lines("stats5")}
        self.assertEqual((stats["c", "downlink"]["refused"], stats["b", "downlink"]["refused"]), (COUNT, 0))
        self.assertEqual({drop["reason"] for drop in self.lines("drops5")}, {"interface"})

    def test_errors_at_the_start(self):
        def run(*words):
            done = subprocess.run([os.environ["SATEMU"], *words], capture_output=True, text=True, timeout=20)
            return done.returncode, done.stderr
        status, text = run("--terminal", "a=sat0@nowhere", "--terminal", "b=sat0@b")
        self.assertEqual(status, 1)
        self.assertIn("/run/netns/nowhere: No such file", text)
        self.assertEqual(run("--terminal", "a=sat0@a")[0], 64)
        (self.folder / "bad.yaml").write_text("sideways: {}\n")
        status, text = run("--terminal", "a=sat0@a", "--terminal", "b=sat0@b", "--links", "/run/test/bad.yaml")
        self.assertEqual(status, 64)
        self.assertIn("bad.yaml:1:1: unknown key sideways", text)


class Outside(unittest.TestCase):
    def test_in_namespaces(self):
        problems = laboratory.obstacles()
        if problems:
            self.skipTest("; ".join(problems))
        self.assertTrue(os.access(os.environ["SATEMU"], os.X_OK))
        status = subprocess.run(
            [*laboratory.unshare_command(), sys.executable, __file__], timeout=200,
            env={**os.environ, laboratory.INSIDE: "1"}).returncode
        self.assertEqual(status, 0)


def load_tests(loader, _tests, _pattern):
    inside = os.environ.get(laboratory.INSIDE)
    return loader.loadTestsFromTestCase(Inside if inside else Outside)


if __name__ == "__main__":
    if sys.argv[1:] == ["numbered-frames"]:
        numbered_frames()
    else:
        unittest.main()
