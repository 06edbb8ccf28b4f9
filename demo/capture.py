# SPDX-License-Identifier: Apache-2.0
"""Captures: a recorder on a packet ring, pcap files, and what a frame is."""

from __future__ import annotations

import mmap
import select
import signal
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

PCAP_HEADER = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 65535, 1)  # nanoseconds, Ethernet

SOL_PACKET, PACKET_RX_RING, PACKET_STATISTICS, PACKET_VERSION, PACKET_IGNORE_OUTGOING = 263, 5, 6, 10, 23
TPACKET_V2, STATUS_USER, HEADER_V2 = 1, 1, "<IIIHHII"
SLOT, SLOTS = 2048, 16384


def record(interface: str, path: Path) -> int:
    """Records what arrives at an interface into a pcap file until SIGTERM; gives the number of frames missed.

    The ring is shared with the kernel, so that the system's limit for receive buffers does not apply.
    """
    ring_socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    ring_socket.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V2)
    ring_socket.setsockopt(SOL_PACKET, PACKET_RX_RING, struct.pack("IIII", SLOT * 64, SLOTS // 64, SLOT, SLOTS))
    try:
        ring_socket.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    except OSError:
        pass  # an old kernel: our own ARP answers are in the capture then, which harms nothing
    ring = mmap.mmap(ring_socket.fileno(), SLOT * SLOTS)
    ring_socket.bind((interface, 3))  # ETH_P_ALL
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    position = 0
    with open(path, "wb") as file:
        file.write(PCAP_HEADER)
        file.flush()
        while True:
            taken = 0
            while struct.unpack_from("<I", ring, position * SLOT)[0] & STATUS_USER:
                base = position * SLOT
                _, length, captured, at, _, seconds, nanoseconds = struct.unpack_from(HEADER_V2, ring, base)
                file.write(struct.pack("<IIII", seconds, nanoseconds, captured, length))
                file.write(ring[base + at:base + at + captured])
                struct.pack_into("<I", ring, base, 0)  # back to the kernel
                position = (position + 1) % SLOTS
                taken += 1
            if taken:
                file.flush()
            elif stopping:
                break
            else:
                try:
                    select.select([ring_socket], [], [], 0.1)
                except InterruptedError:
                    pass
    _, missed = struct.unpack("II", ring_socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
    return missed


def read_pcap(path: Path) -> Iterator[tuple[float, bytes]]:
    """Time in seconds since 1970 and octets of each frame."""
    data = path.read_bytes()
    at = len(PCAP_HEADER)
    while at + 16 <= len(data):
        seconds, nanoseconds, captured, _ = struct.unpack_from("<IIII", data, at)
        if at + 16 + captured > len(data):
            return
        yield seconds + nanoseconds / 1e9, data[at + 16:at + 16 + captured]
        at += 16 + captured


@dataclass
class Frame:
    """An Ethernet frame, as far as it can be read."""

    time: float
    octets: bytes
    ether_type: int = 0
    protocol: int = -1
    source: str = ""
    destination: str = ""
    source_port: int = 0
    destination_port: int = 0
    spi: int = 0
    sequence: int = 0
    payload: int = 0  # where the payload of IP begins

    @property
    def kind(self) -> str:
        """ARP, ESP, IGMP, FMKE, ND (neighbour discovery and MLD), or what else it is."""
        if self.ether_type == 0x0806:
            return "ARP"
        if self.protocol == 58 and self.octets[self.payload] in (130, 131, 132, 133, 134, 135, 136, 137, 143):
            return "ND"
        if self.ether_type not in (0x0800, 0x86DD):
            return f"type {self.ether_type:04x}"
        if self.protocol == 17:
            return "FMKE" if 848 in (self.source_port, self.destination_port) else f"UDP {self.destination_port}"
        return {50: "ESP", 2: "IGMP"}.get(self.protocol, f"IP protocol {self.protocol}")


def parse(time: float, octets: bytes) -> Frame:
    """Never fails: what is cut off or unknown stays at its default."""
    frame = Frame(time, octets)
    if len(octets) >= 14:
        frame.ether_type = int.from_bytes(octets[12:14], "big")
    if frame.ether_type == 0x0800 and len(octets) >= 34:
        frame.protocol = octets[23]
        frame.source, frame.destination = socket.inet_ntoa(octets[26:30]), socket.inet_ntoa(octets[30:34])
        frame.payload = 14 + (octets[14] & 15) * 4
        fragment = int.from_bytes(octets[20:22], "big") & 0x1FFF
    elif frame.ether_type == 0x86DD and len(octets) >= 54:
        frame.protocol, frame.payload, fragment = octets[20], 54, 0
        frame.source, frame.destination = (socket.inet_ntop(socket.AF_INET6, octets[at:at + 16]) for at in (22, 38))
        if frame.protocol == 0 and len(octets) >= 62:  # before MLD
            frame.protocol, frame.payload = octets[54], 62 + 8 * octets[55]
    if frame.payload and len(octets) >= frame.payload + 8:
        if fragment == 0:
            if frame.protocol == 50:
                frame.spi, frame.sequence = struct.unpack_from("!II", octets, frame.payload)
            elif frame.protocol == 17:
                frame.source_port, frame.destination_port = struct.unpack_from("!HH", octets, frame.payload)
    return frame

