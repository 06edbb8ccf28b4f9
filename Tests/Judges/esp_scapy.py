#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Scapy's IPsec as the judge of our ESP packets, in tunnel mode.

Reads a list of JSON objects on standard input, one for each SA:
  suite, spi, cipher_key, authentication_key (hexadecimal or ""), source, destination: the SA
  high: the upper half of extended sequence numbers, or null; first: the lower half of the first packet to seal
  open: outer packets to decrypt, seal: inner packets to encrypt (hexadecimal, each IPv4 or IPv6)
Writes one for each: opened (the inner packets, or null where scapy refuses) and sealed (outer packets).
"""
import json
import logging
import re
import struct
import sys

logging.getLogger("scapy").setLevel(logging.ERROR)
from cryptography.hazmat.primitives.ciphers import algorithms, modes
from cryptography.hazmat.primitives.hmac import HMAC
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import AUTH_ALGOS, CRYPT_ALGOS, ESP, CryptAlgo, SecurityAssociation

CIPHERS = {"aes128": "AES-CBC", "aes192": "AES-CBC", "aes256": "AES-CBC", "3des": "3DES", "des": "DES",
           "blowfish128": "Blowfish", "null": "NULL"}
HASHES = {"md5": "HMAC-MD5-96", "sha1": "HMAC-SHA1-96", "sha256": "SHA2-256-128", "sha384": "SHA2-384-192",
          "sha512": "SHA2-512-256"}

# Scapy's own AES-GCM takes ICVs of 16 octets only; this is the form it has for other ciphers with tags.
CRYPT_ALGOS["AES-GCM-SHORT"] = CryptAlgo(
    "AES-GCM-SHORT", cipher=algorithms.AES, mode=modes.GCM, salt_size=4, block_size=1, iv_size=8, icv_size=16,
    format_mode_iv=lambda sa, iv, **_: sa.crypt_salt + iv)


class ExtendedHMAC:
    """An HMAC over a packet and the upper half of its sequence number (RFC 4303 2.2.1), which scapy leaves out."""

    high = None

    def __init__(self, key, digest, backend):
        self.mac = HMAC(key, digest, backend)

    def update(self, data):
        self.mac.update(data)

    def finalize(self):
        if self.high is not None:
            self.mac.update(struct.pack("!L", self.high))
        return self.mac.finalize()


for name in HASHES.values():
    AUTH_ALGOS[name].mac = ExtendedHMAC


def algorithms_of(suite):
    """Names of cipher and integrity, and the ICV's size where the cipher is to be told."""
    if suite == "chacha20-poly1305":
        return "CHACHA20-POLY1305", "NULL", None
    gcm = re.fullmatch(r"aes\d+-gcm(8|12)?", suite)
    if gcm:
        return ("AES-GCM-SHORT", "NULL", int(gcm[1])) if gcm[1] else ("AES-GCM", "NULL", None)
    cipher, integrity = suite.split("-")
    return CIPHERS[cipher], HASHES[integrity], None


def packet(text):
    octets = bytes.fromhex(text)
    return IPv6(octets) if octets[0] >> 4 == 6 else IP(octets)


def association(request):
    outer = IPv6 if ":" in request["source"] else IP
    cipher, integrity, icv_size = algorithms_of(request["suite"])
    return SecurityAssociation(
        ESP,
        spi=request["spi"],
        seq_num=request["first"],
        crypt_algo=cipher,
        crypt_key=bytes.fromhex(request["cipher_key"]) or None,
        crypt_icv_size=icv_size,
        auth_algo=integrity,
        auth_key=bytes.fromhex(request["authentication_key"]) or None,
        tunnel_header=outer(src=request["source"], dst=request["destination"]),
        esn_en=request["high"] is not None,
        esn=request["high"] or 0,
    )


def opened(sa, text):
    try:
        return bytes(sa.decrypt(packet(text))).hex()
    except Exception:
        return None


def answer(request):
    ExtendedHMAC.high = request["high"]
    opener, sealer = association(request), association(request)
    return {
        "opened": [opened(opener, text) for text in request["open"]],
        "sealed": [bytes(sealer.encrypt(packet(text))).hex() for text in request["seal"]],
    }


json.dump([answer(request) for request in json.load(sys.stdin)], sys.stdout)
