#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Scapy's IPsec as the judge of our ESP packets, in tunnel mode.

Reads one JSON object on standard input:
  suite, spi, cipher_key, authentication_key (hexadecimal or ""), source, destination: the SA
  open: outer IPv4 packets to decrypt, seal: inner IPv4 packets to encrypt (hexadecimal)
Writes one: opened (the inner packets, or null where scapy refuses) and sealed (outer packets).
"""
import json
import logging
import sys

logging.getLogger("scapy").setLevel(logging.ERROR)
from scapy.layers.inet import IP
from scapy.layers.ipsec import ESP, SecurityAssociation

SUITES = {
    "aes128-gcm": ("AES-GCM", "NULL"),
    "aes256-gcm": ("AES-GCM", "NULL"),
    "aes128-sha1": ("AES-CBC", "HMAC-SHA1-96"),
    "aes256-sha1": ("AES-CBC", "HMAC-SHA1-96"),
    "aes128-sha256": ("AES-CBC", "SHA2-256-128"),
    "aes256-sha256": ("AES-CBC", "SHA2-256-128"),
}


def association(request):
    cipher, authentication = SUITES[request["suite"]]
    return SecurityAssociation(
        ESP,
        spi=request["spi"],
        crypt_algo=cipher,
        crypt_key=bytes.fromhex(request["cipher_key"]),
        auth_algo=authentication,
        auth_key=bytes.fromhex(request["authentication_key"]) or None,
        tunnel_header=IP(src=request["source"], dst=request["destination"]),
    )


def opened(sa, packet):
    try:
        return bytes(sa.decrypt(IP(bytes.fromhex(packet)))).hex()
    except Exception:
        return None


def main():
    request = json.load(sys.stdin)
    opener, sealer = association(request), association(request)
    json.dump(
        {
            "opened": [opened(opener, packet) for packet in request["open"]],
            "sealed": [bytes(sealer.encrypt(IP(bytes.fromhex(packet)))).hex() for packet in request["seal"]],
        },
        sys.stdout,
    )


main()
