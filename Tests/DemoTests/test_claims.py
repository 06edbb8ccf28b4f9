# SPDX-License-Identifier: Apache-2.0
"""The demonstration's verification must refute what is not so. Run: python3 -m unittest discover -s Tests/DemoTests"""

import random
import struct
import sys
import tempfile
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "demo"))

import claims
import mpegts
from capture import PCAP_HEADER, parse, read_pcap
from claims import Change, Run

HUB, SERVER, GROUP = "10.0.0.1", "192.168.1.10", "239.1.1.1"


def packed(address):
    return bytes(int(part) for part in address.split("."))


def ethernet(payload, ether_type=0x0800):
    return b"\x01\x00\x5e\x01\x01\x01\x02\x00\x00\x00\x00\x01" + struct.pack("!H", ether_type) + payload


def ipv4(protocol, payload, source=HUB, destination=GROUP):
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0) + packed(source) + packed(
        destination) + payload


def esp_frame(time, spi, sequence, secret, **addresses):
    return parse(time, ethernet(ipv4(50, struct.pack("!II", spi, sequence) + secret, **addresses)))


def udp_frame(time, payload, source=HUB, destination="10.0.0.10", port=848):
    return parse(time, ethernet(ipv4(17, struct.pack("!HHHH", port, port, 8 + len(payload), 0) + payload, source,
                                     destination)))


def transport_packet(pid, counter, generator):
    return struct.pack("!BHB", 0x47, pid, 0x10 | counter) + generator.randbytes(184)


def make_film(count, seed=1):
    generator = random.Random(seed)
    packets = [transport_packet(256, number % 16, generator) for number in range(count * 7)]
    return [b"".join(packets[at:at + 7]) for at in range(0, len(packets), 7)]


class Scene:
    """A small demonstration that went well: two SAs per change, some link losses."""

    def __init__(self, count=600):
        generator = random.Random(2)
        self.film = make_film(count)
        self.spis = [0x1111, 0x2222, 0x3333]
        frames, sent, drops = [], [], []
        logs = {"site1": [], "site2": []}
        numbers = dict.fromkeys(self.spis, 0)
        for index in range(count):
            time = 1000 + index * 0.01
            spi = self.spis[min(index * 3 // count, 2)]
            numbers[spi] += 1
            sent.append((time, index))
            frames.append(esp_frame(time + 0.25, spi, numbers[spi], generator.randbytes(1380)))
            for site in logs:
                if generator.random() < 0.02:
                    drops.append({"terminal": site, "direction": "downlink", "reason": "loss", "spi": spi,
                                  "sequence": numbers[spi], "destination": GROUP})
                elif site == "site1" or spi != self.spis[2]:
                    logs[site].append((time + 0.26, self.film[index]))
        self.run = Run(film=self.film, sent=sent, frames=frames, drops=drops, received=logs, hub=HUB, server=SERVER,
                       group=GROUP, streaming=(999.0, 2000.0))
        self.rekey = Change("rekey", 1001.0, 1001.9, {})
        self.revocation = Change("revocation", 1003.0, 1003.9, {})

    def decrypted(self, site="site1", until=float("inf")):
        changes = [self.rekey] if site == "site2" else [self.rekey, self.revocation]
        return claims.decrypted(self.run, claims.follow(self.run), site, "decrypted", changes, until)

    def revoked(self):
        return claims.revoked(self.run, claims.follow(self.run), "site2", self.revocation)

    def clear_text(self):
        return claims.clear_text(self.run, [b"the prober's text"])


class DecryptionTests(unittest.TestCase):
    def test_a_good_run_is_verified(self):
        scene = Scene()
        self.assertTrue(scene.decrypted().verified, scene.decrypted().evidence)
        self.assertTrue(scene.decrypted("site2", until=1003.0).verified)
        self.assertIn("by rekeying", scene.decrypted().evidence[2])

    def test_one_packet_lost_at_a_rekey_refutes_it(self):
        scene = Scene()
        boundary = next(i for i, f in enumerate(scene.run.frames) if f.spi == 0x2222)
        victim = scene.film[boundary + 2]
        scene.run.received["site1"] = [entry for entry in scene.run.received["site1"] if entry[1] != victim]
        claim = scene.decrypted()
        self.assertFalse(claim.verified)
        self.assertTrue(any("NOT SO: rekey" in line and "1 by rekeying" in line for line in claim.evidence))

    def test_two_packets_in_the_wrong_order_refute_it(self):
        scene = Scene()
        log = scene.run.received["site1"]
        log[50], log[51] = log[51], log[50]
        self.assertFalse(scene.decrypted().verified)

    def test_a_changed_octet_refutes_it(self):
        scene = Scene()
        time, datagram = scene.run.received["site1"][9]
        scene.run.received["site1"][9] = (time, datagram[:100] + bytes([datagram[100] ^ 1]) + datagram[101:])
        self.assertFalse(scene.decrypted().verified)

    def test_a_packet_the_hub_did_not_encrypt_refutes_it(self):
        scene = Scene()
        del scene.run.frames[10]
        self.assertFalse(scene.decrypted().verified)

    def test_a_gap_in_the_sequence_numbers_refutes_it(self):
        scene = Scene()
        scene.run.frames[10] = esp_frame(scene.run.frames[10].time, 0x1111, 99, bytes(100))
        self.assertFalse(scene.decrypted().verified)

    def test_no_move_to_new_keys_refutes_it(self):
        scene = Scene()
        scene.rekey = Change("rekey", 1100.0, 1101.0, {})
        self.assertFalse(scene.decrypted().verified)

    def test_a_receiver_that_heard_nothing_refutes_it(self):
        scene = Scene()
        scene.run.received["site1"] = []
        self.assertFalse(scene.decrypted().verified)
        scene.run.frames, scene.run.sent = [], []
        self.assertFalse(scene.decrypted().verified)


class RevocationTests(unittest.TestCase):
    def test_a_good_run_is_verified(self):
        self.assertTrue(Scene().revoked().verified, Scene().revoked().evidence)

    def test_one_packet_decoded_afterwards_refutes_it(self):
        scene = Scene()
        scene.run.received["site2"].append((1006.3, scene.film[-1]))
        self.assertFalse(scene.revoked().verified)

    def test_a_site_that_could_not_hear_proves_nothing(self):
        scene = Scene()
        for frame in scene.run.frames:
            if frame.spi == 0x3333:
                scene.run.drops.append({"terminal": "site2", "direction": "downlink", "spi": frame.spi,
                                        "sequence": frame.sequence, "destination": GROUP})
        self.assertFalse(scene.revoked().verified)

    def test_a_hub_that_keeps_its_keys_refutes_it(self):
        scene = Scene()
        scene.revocation = Change("revocation", 1500.0, 1501.0, {})
        self.assertFalse(scene.revoked().verified)


class VPNTests(unittest.TestCase):
    SITE = "10.0.0.2"

    def claim(self, same=True, verdict="confirmed", spis=(1, 2), started=1000.0):
        scene = Scene()
        scene.run.frames = [
            esp_frame(1001, 10 * spi + number, 1, b"x" * 40, source=ends[0], destination=ends[1])
            for spi in spis for number, ends in enumerate([(HUB, self.SITE), (self.SITE, HUB)])]
        copied = {"same": same, "octets": 5_000, "started": started, "ended": 1005.0}
        return claims.vpn(scene.run, copied, Change("rekey", 1002.0, 1003.0, {"verdict": verdict}), (HUB, self.SITE))

    def test_a_whole_file_under_two_sas_each_way_is_verified(self):
        self.assertTrue(self.claim().verified, self.claim().evidence)

    def test_each_flaw_refutes_it(self):
        for flaw in ({"same": False}, {"verdict": "partial"}, {"spis": (1,)}, {"started": 1002.5}):
            self.assertFalse(self.claim(**flaw).verified, flaw)


class EvictionTests(unittest.TestCase):
    GCKS, CONTROL = "10.0.0.10", "239.1.1.100"

    def message(self, time, exchange, octets, destination=CONTROL, kek=b"old"):
        payload = kek.ljust(16, b"\0") + bytes([136, 0x10, exchange, 1]) + bytes(octets - 20)
        return udp_frame(time, payload, self.GCKS, destination, 848)

    def evicted(self, *frames):
        scene = Scene()
        scene.run.frames = [self.message(990, 241, 188), self.message(1001, 241, 336), *frames]
        answer = {"reports": [{"verdict": "confirmed", "confirmed": [{"client": "hub"}], "seconds": 0.6, "rounds": 1}]}
        return claims.evicted(scene.run, Change("revocation", 1003.0, 1003.9, answer), self.GCKS, self.CONTROL)

    def test_one_multicast_and_its_copy_are_verified_and_counted(self):
        claim = self.evicted(self.message(1003.1, 241, 635), self.message(1003.3, 241, 642),
                             self.message(1003.8, 241, 188, kek=b"new"))
        self.assertTrue(claim.verified, claim.evidence)
        self.assertIn("2 datagrams with keys, 1333 octets", claim.evidence[0])

    def test_no_multicast_refutes_it(self):
        self.assertFalse(self.evicted(self.message(1003.8, 241, 188, kek=b"new")).verified)

    def test_keys_under_a_new_kek_refute_it(self):
        self.assertFalse(self.evicted(self.message(1003.1, 241, 635, kek=b"new")).verified)

    def test_a_profile_meanwhile_refutes_it(self):
        claim = self.evicted(self.message(1003.1, 241, 635), self.message(1003.4, 240, 540, destination="10.0.0.2"))
        self.assertFalse(claim.verified)


class ClearTextTests(unittest.TestCase):
    def refuted_by(self, frame):
        scene = Scene()
        self.assertTrue(scene.clear_text().verified, scene.clear_text().evidence)
        scene.run.frames.append(frame(scene) if callable(frame) else frame)
        self.assertFalse(scene.clear_text().verified)

    def test_a_piece_of_the_film_inside_esp(self):
        self.refuted_by(lambda scene: esp_frame(1001, 1, 1, b"abc" + scene.film[300][188:376] + bytes(9)))

    def test_a_piece_of_the_film_inside_fmke(self):
        self.refuted_by(lambda scene: udp_frame(1001, bytes(31) + scene.film[7][:188]))

    def test_the_inner_addresses(self):
        self.refuted_by(esp_frame(1001, 1, 1, packed(SERVER) + packed(GROUP)))
        self.refuted_by(udp_frame(1001, b"x" + packed(SERVER)))

    def test_the_probers_text(self):
        self.refuted_by(esp_frame(1001, 1, 1, b"...the prober's text..."))

    def test_frames_of_other_kinds(self):
        self.refuted_by(udp_frame(1001, b"hello", port=5004))
        self.refuted_by(parse(1001, ethernet(ipv4(1, bytes(8)))))
        self.refuted_by(parse(1001, ethernet(bytes(40), 0x86DD)))

    def test_a_cipher_that_leaves_structure(self):
        scene = Scene()
        scene.run.frames = [esp_frame(1000 + i * 0.01, 1, i, b"\x17" * 1300) for i in range(1, 100)]
        self.assertFalse(scene.clear_text().verified)

    def test_after_the_kill(self):
        scene = Scene()
        sent = [(1901.0, 7)]
        self.assertTrue(claims.fail_closed(scene.run, 1900.0, sent).verified)
        self.assertFalse(claims.fail_closed(scene.run, 1900.0, []).verified, "silence of a server that sent nothing")
        scene.run.frames.append(udp_frame(1901.0, b"hello", source=SERVER, destination=GROUP, port=5004))
        self.assertFalse(claims.fail_closed(scene.run, 1900.0, sent).verified)


class KeyTests(unittest.TestCase):
    def frames(self, seconds):
        def isakmp(exchange):
            return bytes(16) + b"\x08\x10" + bytes([exchange]) + bytes(9)
        return [udp_frame(1000.25, isakmp(2)), udp_frame(1000.9, isakmp(240), "10.0.0.10", HUB),
                udp_frame(1000.25 + seconds, isakmp(240))]

    def claim(self, frames):
        scene = Scene()
        scene.run.frames = frames
        return claims.time_to_keys(scene.run, {"hub": HUB}, "10.0.0.10", 0.5, 3.1)

    def test_round_trips(self):
        self.assertTrue(self.claim(self.frames(1.5)).verified)
        self.assertFalse(self.claim(self.frames(1.6)).verified)
        self.assertFalse(self.claim(self.frames(1.5)[:2]).verified)
        self.assertFalse(self.claim([]).verified)

    def test_confirmations(self):
        def claim(members, seconds=1.0):
            return claims.rekeys([Change("rekey", 0, seconds, {})], lambda _: members, 3, {"hub", "site1"})
        self.assertTrue(claim([("hub", True, ""), ("site1", True, "")]).verified)
        self.assertFalse(claim([("hub", True, ""), ("site1", False, "silent")]).verified)
        self.assertFalse(claim([("hub", True, "")]).verified, "a member that nobody speaks of")
        self.assertFalse(claim([("hub", True, ""), ("site1", True, "")], seconds=3.5).verified)
        self.assertFalse(claim([]).verified)


class TransportStreamTests(unittest.TestCase):
    def test_continuity_of_a_whole_stream(self):
        result = mpegts.continuity(make_film(50))
        self.assertEqual((result.packets, result.malformed, result.discontinuities), (350, 0, []))

    def test_each_gap_is_found_once(self):
        film = make_film(50)
        result = mpegts.continuity(film[:10] + film[11:30] + film[32:])
        self.assertEqual([gap.datagram for gap in result.discontinuities], [10, 29])

    def test_stuffing_duplicates_and_announced_jumps(self):
        generator = random.Random(3)
        null = struct.pack("!BHB", 0x47, 0x1FFF, 0x10) + bytes(184)
        adaptation_only = struct.pack("!BHBB", 0x47, 256, 0x21, 183) + bytes(183)
        jump = struct.pack("!BHBBB", 0x47, 256, 0x39, 1, 0x80) + bytes(182)
        first, second = transport_packet(256, 0, generator), transport_packet(256, 1, generator)
        good = mpegts.continuity([first + null + second + second + adaptation_only + jump + null])
        self.assertEqual(good.discontinuities, [])
        self.assertEqual(mpegts.continuity([b"\x00" * 188]).malformed, 1)

    def test_matching(self):
        self.assertEqual(claims.match([b"a", b"b", b"b", b"c"], [b"a", b"b", b"b", b"c"]), ([], 0))
        self.assertEqual(claims.match([b"a", b"b", b"c", b"d"], [b"a", b"d"]), ([1, 2], 0))
        self.assertEqual(claims.match([b"a", b"b"], [b"a", b"x", b"b", b"b"]), ([], 2))


class CaptureTests(unittest.TestCase):
    def test_pcap_files(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.pcap"
            frame = ethernet(ipv4(50, struct.pack("!II", 7, 8) + bytes(40)))
            record = struct.pack("<IIII", 1000, 250_000_000, len(frame), len(frame)) + frame
            path.write_bytes(PCAP_HEADER + record + record + record[:20])  # the last one cut off
            frames = [parse(time, octets) for time, octets in read_pcap(path)]
        self.assertEqual([frame.time for frame in frames], [1000.25, 1000.25])
        self.assertEqual((frames[0].kind, frames[0].spi, frames[0].sequence), ("ESP", 7, 8))

    def test_cut_frames_are_no_error(self):
        whole = ethernet(ipv4(50, struct.pack("!II", 7, 8)))
        for length in range(len(whole)):
            self.assertEqual(parse(0, whole[:length]).spi, 0)


if __name__ == "__main__":
    unittest.main()
