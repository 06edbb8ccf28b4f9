#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Reads and writes FMKE messages by the text of docs/FMKE.md alone: a second implementation that judges the first.

Requests come on standard input, one `key=value` a line, an empty line between two requests; answers go out the same
way. `do` names the request:

    push       kek, group, epoch, algorithm, key (DER), datagram    opens, verifies, lists every field
               with group-key also the keys without their masks, where the key tree changes, and with flow (the
               octets of one) the keys that follow from SUCCESSION
    configure  chain (hexadecimal, from PROFILE on)                 lists every field
    answer     chain (from ACK/NACK on)
    status     chain (from REPORT on)
    seal       kek, group, epoch, spi, sequence, private (P-256 scalar), transaction, body    gives a signed datagram

A message that the document forbids is answered with one line, `refused=` and the reason.
With the argument `--fields` the octets of each field are listed as well, for a person to read.
"""

import struct
import sys

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

LABEL = b"FMKE PUSH v1"
MASK_LABEL = b"FMKE KD v1"
NEXT_LABEL = b"FMKE NEXT v1"
FLOWS_LABEL = b"FMKE FLOWS v1"
NAMES = {1: "sa", 8: "hash", 9: "sig", 12: "delete", 15: "sak", 16: "sat", 17: "kd",
         133: "profile", 134: "membership", 135: "ack", 136: "transaction", 137: "parity", 138: "report",
         140: "succession", 141: "vpn"}


class Refused(Exception):
    pass


def need(condition, reason):
    if not condition:
        raise Refused(reason)


class Reader:
    """Takes fields off the front and remembers each as (path, octets, text)."""

    def __init__(self, octets, fields, path=""):
        self.octets, self.fields, self.path, self.at = octets, fields, path, 0

    def take(self, count, name, show=None):
        need(self.at + count <= len(self.octets), f"{self.path}{name} is cut short")
        part = self.octets[self.at:self.at + count]
        self.at += count
        if name is not None:
            self.fields.append((self.path + name, part, show(part) if show else part.hex()))
        return part

    def number(self, size, name):
        return int.from_bytes(self.take(size, name, lambda part: str(int.from_bytes(part, "big"))), "big")

    def zero(self, size, name="reserved"):
        need(not any(self.take(size, name)), f"{self.path}{name} is not zero")

    def rest(self):
        return len(self.octets) - self.at

    def end(self):
        need(self.rest() == 0, f"octets left over behind {self.path}")

    def inner(self, count, name):
        need(self.at + count <= len(self.octets), f"{self.path}{name} is cut short")
        part = self.octets[self.at:self.at + count]
        self.at += count
        return Reader(part, self.fields, f"{self.path}{name}.")


def chain(reader, first):
    """Yields (type, reader of the body) until next payload 0; the chain fills the octets."""
    counts = {}
    kind = first
    while kind != 0:
        name = NAMES.get(kind, f"payload{kind}")
        index = counts[name] = counts.get(name, -1) + 1
        label = f"{name}.{index}"
        reader.path, outer = f"{reader.path}{label}.", reader.path
        following = reader.number(1, "next")
        reader.zero(1)
        length = reader.number(2, "length")
        need(length >= 4, "a payload shorter than its header")
        reader.path = outer
        yield kind, reader.inner(length - 4, label)
        kind = following
    reader.end()


def identification(reader, name):
    kind = reader.number(1, name + ".type")
    port = reader.number(2, name + ".port")
    size = reader.number(1, name + ".length")
    need({1: 4, 4: 8, 5: 16, 6: 32}.get(kind) == size, "identification of a wrong size")
    reader.take(size, name + ".data")
    return kind in (1, 4), port


def attributes(reader, table):
    """`table`: (type, size or None for basic, name, must it be there), in the order of the document."""
    found = {}
    for kind, size, name, required in table:
        have = reader.octets[reader.at:reader.at + 2]
        wanted = struct.pack(">H", kind | (0x8000 if size is None else 0))
        if have != wanted:
            need(not required, f"attribute {name} is missing in {reader.path}")
            continue
        reader.take(2, name + ".type")
        if size is None:
            found[name] = reader.number(2, name)
        else:
            length = reader.number(2, name + ".length")
            need(size == -1 or length == size, f"attribute {name} of a wrong length")
            found[name] = reader.number(length, name) if size == 4 else reader.take(length, name)
    reader.end()
    return found


def sak(reader):
    need(reader.number(1, "protocol") == 17, "SAK is not UDP")
    source = identification(reader, "source")
    destination = identification(reader, "destination")
    need(source[0] == destination[0] and source[1] == 0 and destination[1] != 0, "SAK addresses")
    spi = reader.take(16, "spi")
    reader.zero(4)
    algorithm_seen = b"\x80\x06\x00\x80" in reader.octets[reader.at:]
    found = attributes(reader, [
        (2, None, "algorithm", True), (4, 4, "lifetime", True), (5, None, "hash", not algorithm_seen),
        (6, None, "signature", True), (128, 4, "epoch", True)])
    need(found["algorithm"] == 128 and found["lifetime"] > 0, "SAK policy")
    need(found["signature"] in (1, 4, 128), "signature algorithm")
    need(found.get("hash") == (None if found["signature"] == 128 else 3), "signature hash")
    return spi


# IANA, "IPSEC ESP Transform Identifiers": lengths of keys in bits where there are several, and what octets come besides.
CIPHERS = {2: ((), 8), 3: ((), 24), 7: ((128,), 0), 11: ((), 0), 12: ((128, 192, 256), 0),
           18: ((128, 256), 4), 19: ((128, 256), 4), 20: ((128, 256), 4), 249: ((), 36)}
# "Authentication Algorithm": octets of the key.
INTEGRITY = {1: 16, 2: 20, 5: 32, 6: 48, 7: 64}


def sat(reader, in_push, in_vpn=False):
    need(reader.number(1, "protocol") == 1, "SAT is not ESP")
    reader.number(1, "ip-protocol")
    need(identification(reader, "source")[0] == identification(reader, "destination")[0], "mixed families")
    transform = reader.number(1, "transform")
    spi = reader.take(4, "spi")
    need(int.from_bytes(spi, "big") >= 256, "a reserved SPI")
    kilobytes = reader.octets[reader.at + 12:reader.at + 16] == b"\x80\x01\x00\x02"
    table = [(1, None, "seconds.unit", True), (2, 4, "seconds", True)]
    if kilobytes:
        table += [(1, None, "kilobytes.unit", True), (2, 4, "kilobytes", True)]
    lengths, fixed = CIPHERS[transform]
    is_aead = transform in (18, 19, 20, 249)
    table += [(4, None, "encapsulation", True)] + ([] if is_aead else [(5, None, "authentication", True)])
    table += [(6, None, "key-length", True)] if lengths else []
    table += [(11, None, "extended-sequence", False)] if in_vpn else []
    table += [
              (14, None, "preservation", True), (15, None, "direction", True)]
    if not in_push:
        table += [(32001, 4, "activate-in", False), (32002, 4, "deactivate-in", False)]
    found = attributes(reader, table)
    need(found["seconds.unit"] == 1 and found["seconds"] > 0, "life time")
    need(found["encapsulation"] == 1 and found["preservation"] == (1 if in_vpn else 3), "SAT policy")
    need(found["direction"] in ((1, 2) if in_vpn else (1, 2, 3)), "direction")
    need(found.get("extended-sequence", 1) == 1, "extended sequence number")
    need(not in_vpn or found["direction"] == 1 or "activate-in" not in found, "ACTIVATE-IN of a receiver")
    integrity = None if is_aead else INTEGRITY[found["authentication"]]
    need(not lengths or found["key-length"] in lengths, "key length")
    return spi, found.get("key-length", 0) // 8 + fixed, integrity


def security(reader, in_push, may_have_sak=True, in_vpn=False):
    need(reader.number(4, "doi") == 2 and reader.number(4, "situation") == 0, "not GDOI's SA")
    first = reader.number(2, "next-attribute")
    reader.zero(2)
    wanted = []
    for kind, body in chain(reader, first):
        if kind == 15:
            need(not wanted and may_have_sak, "SAK stands first, and not behind SUCCESSION")
            wanted.append((2, sak(body), 32, -1))
        else:
            need(kind == 16, "neither SAK nor SAT")
            spi, size, integrity = sat(body, in_push, in_vpn)
            wanted.append((1, spi, size, integrity))
    need(wanted, "an empty SA")
    need(len({spi for _, spi, _, _ in wanted}) == len(wanted), "an SPI twice")
    return wanted


def keys(reader, wanted, in_push, mask=None, follows_succession=False):
    """`mask`: gives the mask of a key by SPI, attribute type and length."""
    count = reader.number(2, "packets")
    reader.zero(2)
    has_tree = reader.octets[reader.at:reader.at + 1] == b"\x03"
    need(count == len(wanted) + has_tree, "number of key packets")
    masked = has_tree and in_push or follows_succession
    if has_tree:
        need(wanted[0][0] == 2, "an LKH packet without SAK")
        reader.path, outer = f"{reader.path}tree.", reader.path
        reader.number(1, "type")
        need(reader.number(1, "wrap") == 0, "wrap method of the LKH packet")
        length = reader.number(2, "length")
        need(reader.number(1, "spi-size") == 16 and reader.take(16, "spi") == wanted[0][1], "SPI of the LKH packet")
        reader.path = outer
        need(length > 21 + 4, "an LKH packet without content")
        attributes(reader.inner(length - 21, "tree"), [(2 if in_push else 1, -1, "array", True)])
    for index, (kind, spi, size, second) in enumerate(wanted):
        reader.path, outer = f"{reader.path}packet.{index}.", reader.path
        need(reader.number(1, "type") == kind, "type of a key packet")
        need(reader.number(1, "wrap") == (1 if masked else 0), "wrap method of a key packet")
        length = reader.number(2, "length")
        need(length >= 5 + len(spi), "length of a key packet")
        need(reader.number(1, "spi-size") == len(spi) and reader.take(len(spi), "spi") == spi, "SPI of a key packet")
        reader.path = outer
        body = reader.inner(length - 5 - len(spi), f"packet.{index}")
        table = [(1, size, "key", True)] if size else []
        if second is not None:
            table.append((2, second, "verifying-key" if kind == 2 else "integrity-key", True))
        # attributes() reads size 4 as a number; keys are never that short.
        found = attributes(body, table)
        for kind_of, name in ((1, "key"), (2, "integrity-key")):
            if masked and mask and name in found:
                clear = bytes(a ^ b for a, b in zip(found[name], mask(spi, kind_of, len(found[name]))))
                reader.fields.append((f"{reader.path}packet.{index}.{name}.clear", b"", clear.hex()))
    reader.end()


def transaction(reader):
    kind = reader.number(1, "kind")
    mode = reader.number(1, "mode")
    reader.number(1, "round")
    reader.zero(1)
    reader.number(4, "group"), reader.number(4, "epoch")
    identifier = reader.number(8, "id")
    block, blocks = reader.number(2, "block"), reader.number(2, "blocks")
    index, data, total = reader.number(1, "index"), reader.number(1, "data"), reader.number(1, "datagrams")
    reader.zero(1)
    first, last = reader.number(4, "first"), reader.number(4, "last")
    slot = reader.number(4, "slot")
    reader.number(4, "answer-in")
    slots = reader.number(4, "slots")
    modulus, residue = reader.number(2, "modulus"), reader.number(2, "residue")
    reader.number(2, "nack-wait"), reader.number(2, "nack-share")
    reader.number(4, "activate-in"), reader.number(4, "deactivate-in")
    reader.end()
    need(kind in (1, 2, 3, 4) and mode in (0, 1, 2), "kind or mode")
    need(block < blocks and 0 < data <= total and first <= last and residue < modulus, "contradiction")
    need((slots == 0 and slot == 0) if mode == 0 else slots > 0, "slots")
    need(mode == 2 or modulus == 1, "modulus")
    need(slots * slot <= 1000 * 0xffffffff, "slots that last too long")
    need({1: index < data, 2: data <= index < total}.get(kind, index == 0 and block == 0), "index")
    return kind, identifier


def verify(algorithm, key, signature, message):
    public = serialization.load_der_public_key(key)
    if algorithm == 4:
        need(len(signature) == 64 and public.curve.name == "secp256r1", "not P-256")
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        public.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
    elif algorithm == 128:
        public.verify(signature, message)
    else:
        public.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())


def push_keys(kek, spi, group, epoch):
    info = LABEL + spi + struct.pack(">II", group, epoch)
    material = HKDF(algorithm=hashes.SHA256(), length=36, salt=None, info=info).derive(kek)
    return material[:32], material[32:]


def key_mask(request, group, number):
    if "group-key" not in request:
        return None

    def mask(spi, kind, size):
        info = MASK_LABEL + struct.pack(">IQ", group, number) + spi + struct.pack(">H", kind)
        key = bytes.fromhex(request["group-key"])
        return HKDF(algorithm=hashes.SHA256(), length=size, salt=None, info=info).derive(key)
    return mask


def succession(reader, request, spi, group, epoch, number):
    attempt = reader.take(1, "attempt", lambda part: str(part[0]))
    reader.zero(1)
    flows = reader.number(2, "flows")
    need(flows > 0 and reader.number(4, "kek-lifetime") > 0 and reader.number(4, "data-lifetime") > 0, "SUCCESSION")
    check = reader.take(4, "check")
    need(reader.rest() > 0, "no slice")
    reader.take(reader.rest(), "slice")
    if "flow" not in request:
        return
    flow = bytes.fromhex(request["flow"])
    digest = hashes.Hash(hashes.SHA256())
    digest.update(FLOWS_LABEL + flow)
    need(flows == 1 and digest.finalize()[:4] == check, "other flows")

    def derived(name, purpose, binding, size):
        info = NEXT_LABEL + struct.pack(">BIQ", purpose, group, number) + binding
        key = HKDF(algorithm=hashes.SHA256(), length=size, salt=None, info=info)
        value = key.derive(bytes.fromhex(request["group-key"]))
        reader.fields.append((f"next.{name}", b"", value.hex()))
        return value
    binding = spi + struct.pack(">I", epoch + 1)
    derived("spi", 1, binding, 16), derived("kek", 2, binding, 32)
    binding = derived("sa.spi", 3, attempt + flow, 4) + flow
    transform, authentication, bits = struct.unpack(">BHH", flow[-9:-4])
    size = bits // 8 + CIPHERS[transform][1]
    if size:
        derived("sa.key", 4, binding, size)
    if authentication:
        derived("sa.integrity-key", 5, binding, INTEGRITY[authentication])


def do_push(request, fields):
    datagram = bytes.fromhex(request["datagram"])
    group, epoch, algorithm = int(request["group"]), int(request["epoch"]), int(request["algorithm"])
    head = Reader(datagram[:36], fields, "header.")
    spi = head.take(16, "spi")
    need(head.number(1, "next") == 136 and head.number(1, "version") == 0x10, "next payload or version")
    need(head.number(1, "exchange") == 241 and head.number(1, "flags") == 1, "exchange or flags")
    need(head.number(4, "message-id") == 0 and head.number(4, "length") == len(datagram), "message id or length")
    sequence = head.take(8, "sequence", lambda part: str(int.from_bytes(part, "big")))
    key, salt = push_keys(bytes.fromhex(request["kek"]), spi, group, epoch)
    plain = AESGCM(key).decrypt(salt + sequence, datagram[36:], datagram[:36])
    size = 256 if algorithm == 1 else 64
    signed = plain[:-(4 + size)]
    context = LABEL + b"\0" + struct.pack(">I", group) + spi + struct.pack(">I", epoch) + sequence + datagram[:28]
    verify(algorithm, bytes.fromhex(request["key"]), plain[-size:], context + signed)
    kinds, wanted, kind, mask = [], None, None, None
    for payload, body in chain(Reader(plain, fields), 136):
        kinds.append(payload)
        if payload == 136:
            kind, number = transaction(body)
            mask = key_mask(request, group, number)
        elif payload == 140:
            succession(body, request, spi, group, epoch, number)
        elif payload == 1:
            wanted = security(body, True, 140 not in kinds)
        elif payload == 12:
            need(body.number(4, "doi") == 2 and body.number(1, "protocol") == 1, "Delete")
            need(body.number(1, "spi-size") == 4, "Delete")
            for index in range(body.number(2, "count")):
                body.take(4, f"spi.{index}")
            body.end()
        elif payload == 17:
            need(wanted is not None, "KD without SA")
            keys(body, wanted, True, mask, 140 in kinds)
        elif payload == 137:
            body.take(body.rest(), "shard")
        elif payload == 9:
            need(body.rest() == size, "size of SIG")
            body.take(size, "signature")
    forms = {1: [[1, 17], [1, 12, 17], [12], [140], [140, 1, 17]], 2: [[137]], 3: [[]], 4: [[]]}
    need(kinds[0] == 136 and kinds[-1] == 9 and kinds[1:-1] in forms[kind], "order of payloads")


def vpn(body):
    """Gives the id, and whether there are SAs."""
    number = body.number(4, "vpn")
    flags = body.number(2, "flags")
    need(flags < 4, "flags")
    body.number(8, "transaction")
    kind, port, size = body.number(1, "peer.type"), body.number(2, "peer.port"), body.number(1, "peer.length")
    need({0: 0, 1: 4, 5: 16}.get(kind) == size, "peer")
    address = body.take(size, "peer.data")
    need((port != 0) == bool(flags & 1), "port of the peer")
    need(kind != 0 or flags == 2, "a section without SAs that does not keep others")
    need(kind == 0 or (address[0] >> 4 != 14 if kind == 1 else address[0] != 255), "a multicast peer")
    size = body.number(1, "name-length")
    need(size <= 64, "name")
    body.take(size, "name", lambda part: part.decode("utf-8"))
    body.end()
    return number, kind != 0


def do_configure(request, fields):
    order, wanted, ids, in_vpn, expected = [], None, [], False, [133]
    for payload, body in chain(Reader(bytes.fromhex(request["chain"]), fields), 133):
        order.append(payload)
        if payload == 133:
            body.number(8, "sequence"), body.number(4, "generation")
            need(body.number(2, "part") < body.number(2, "parts"), "part")
            body.end()
        elif payload == 141:
            number, has_sas = vpn(body)
            in_vpn = True
            ids.append(number)
            expected += [141, 1, 17] if has_sas else [141]
        elif payload == 134:
            need(not in_vpn, "a group behind a VPN")
            ids.append(body.number(4, "group"))
            body.number(4, "member-index")
            expected += [134, 1, 17]
            sender, flags = body.number(2, "sender-id"), body.number(2, "flags")
            need(flags in (0, 1, 2, 3) and (flags & 1 or not sender), "flags")
            body.number(8, "sequence"), body.number(8, "transaction")
            size = body.number(1, "name-length")
            need(size <= 64, "name")
            body.take(size, "name", lambda part: part.decode("utf-8"))
            body.end()
        elif payload == 1:
            wanted = security(body, False, not in_vpn, in_vpn)
            need(in_vpn or wanted[0][0] == 2, "no SAK")
        elif payload == 17:
            need(wanted is not None, "KD without SA")
            keys(body, wanted, False)
            wanted = None
    need(order == expected, "order of payloads")
    need(len(set(ids)) == len(ids), "an id twice")


def do_answer(request, fields):
    for payload, body in chain(Reader(bytes.fromhex(request["chain"]), fields), 135):
        need(payload == 135, "order of payloads")
        body.number(8, "sequence")
        count = body.number(2, "count")
        body.zero(2)
        for index in range(count):
            body.number(4, f"item.{index}.group"), body.number(4, f"item.{index}.spi")
            need(body.number(1, f"item.{index}.code") <= 5, "code")
            body.zero(3, f"item.{index}.reserved")
        body.end()


def do_status(request, fields):
    for payload, body in chain(Reader(bytes.fromhex(request["chain"]), fields), 138):
        need(payload == 138, "order of payloads")
        body.number(8, "report")
        count = body.number(2, "count")
        body.zero(2)
        for index in range(count):
            path = f"group.{index}."
            body.number(4, path + "id"), body.number(4, path + "epoch")
            body.number(8, path + "complete"), body.number(8, path + "sequence")
            need(body.number(2, path + "flags") in (0, 1, 2, 3), "flags")
            missing, spis = body.number(1, path + "missing-count"), body.number(1, path + "spi-count")
            for block in range(missing):
                body.number(8, f"{path}missing.{block}.transaction"), body.number(2, f"{path}missing.{block}.block")
                need(body.number(1, f"{path}missing.{block}.needed") > 0, "nothing needed")
                body.zero(1, f"{path}missing.{block}.reserved")
            for spi in range(spis):
                need(body.number(4, f"{path}spi.{spi}") >= 256, "a reserved SPI")
        body.end()


def do_seal(request, fields):
    """`transaction`: the 64 octets of the body; `body`: the plain body, first payload type in front."""
    group, epoch, sequence = int(request["group"]), int(request["epoch"]), struct.pack(">Q", int(request["sequence"]))
    spi, body = bytes.fromhex(request["spi"]), bytes.fromhex(request["body"])
    content, at = bytearray(body[1:]), 0
    while content[at] != 0:
        at += struct.unpack(">H", content[at + 2:at + 4])[0]
    content[at] = 9
    payloads = bytes([body[0], 0, 0, 68]) + bytes.fromhex(request["transaction"]) + bytes(content)
    length = 36 + len(payloads) + 68 + 16
    header = spi + bytes([136, 0x10, 241, 1]) + bytes(4) + struct.pack(">I", length)
    context = LABEL + b"\0" + struct.pack(">I", group) + spi + struct.pack(">I", epoch) + sequence + header
    private = ec.derive_private_key(int(request["private"], 16), ec.SECP256R1())
    r, s = decode_dss_signature(private.sign(context + payloads, ec.ECDSA(hashes.SHA256())))
    plain = payloads + bytes([0, 0, 0, 68]) + r.to_bytes(32, "big") + s.to_bytes(32, "big")
    key, salt = push_keys(bytes.fromhex(request["kek"]), spi, group, epoch)
    sealed = AESGCM(key).encrypt(salt + sequence, plain, header + sequence)
    datagram = header + sequence + sealed
    fields.append(("datagram", datagram, datagram.hex()))


def main():
    actions = {"push": do_push, "configure": do_configure, "answer": do_answer, "status": do_status, "seal": do_seal}
    for text in sys.stdin.read().split("\n\n"):
        if not text.strip():
            continue
        request = dict(line.split("=", 1) for line in text.strip().splitlines())
        fields = []
        try:
            actions[request["do"]](request, fields)
            for path, octets, value in fields:
                print(f"{octets.hex():<24} ; {path} = {value}" if "--fields" in sys.argv else f"{path}={value}")
        except (Refused, InvalidTag, InvalidSignature, KeyError, UnicodeDecodeError) as reason:
            print(f"refused={type(reason).__name__} {reason}")
        print()


if __name__ == "__main__":
    main()
