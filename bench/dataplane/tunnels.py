# SPDX-License-Identifier: Apache-2.0
"""The tunnels that are measured: ours and its peers, each between two namespaces of its own with one wire between.

Each carries multicasts that an application in namespace A sends to its interface, to one in namespace B that joined the
group there. AES-128-GCM, where the tunnel has it."""
import os
import shutil
import time

from network import Failure, Process, WORK, fields, namespace, run, until, wire

QUEUE = 2000
"""Packets in a tunnel interface's queue, for all of them."""


class Tunnel:
    name = ""
    programs = {}
    """Each program it needs, with the Debian package that has it."""
    group = "239.1.1.1"
    address_a, address_b = "10.9.0.1", "10.9.0.2"
    """Inner addresses, where there are some."""

    def __init__(self):
        self.a, self.b = f"{self.tag}A", f"{self.tag}B"
        self.interface_a = self.interface_b = "tun0"
        self.processes = []

    @classmethod
    def missing(cls):
        """Debian packages of the programs that are not there."""
        return sorted({package for program, package in cls.programs.items() if shutil.which(program) is None})

    def start(self):
        for place in (self.a, self.b):
            namespace(place)
        wire(self.a, "sat0", "10.0.0.1/24", self.b, "sat0", "10.0.0.2/24")
        self.connect()
        for place, interface in ((self.a, self.interface_a), (self.b, self.interface_b)):
            run("ip", "link", "set", interface, "txqueuelen", QUEUE, place=place, check=False)

    def connect(self):
        """Brings the tunnel up."""

    def pids(self):
        """Of the processes at A and at B."""
        return [process.pid for process in self.processes]

    def stop(self):
        for process in self.processes:
            process.end()


class Bare(Tunnel):
    name, tag = "no tunnel", "bare"
    address_a, address_b = "10.0.0.1", "10.0.0.2"

    def connect(self):
        self.interface_a = self.interface_b = "sat0"


def certificates():
    """A key and a self-signed certificate for each end; gives their fingerprints."""
    prints = {}
    for end in ("a", "b"):
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", f"/CN={end}", "-keyout", f"{WORK}/{end}.key", "-out", f"{WORK}/{end}.crt")
        shown = run("openssl", "x509", "-in", f"{WORK}/{end}.crt", "-noout", "-fingerprint", "-sha256")
        prints[end] = shown.strip().split("=", 1)[1]
    return prints


class OpenVPN(Tunnel):
    name, tag = "openvpn", "ovpn"
    programs = {"openvpn": "openvpn", "openssl": "openssl"}
    common = ["openvpn", "--dev", "tun0", "--dev-type", "tun", "--proto", "udp4", "--disable-dco", "--dh", "none",
              "--data-ciphers", "AES-128-GCM", "--txqueuelen", QUEUE, "--sndbuf", 4 << 20, "--rcvbuf", 4 << 20,
              "--verb", 3]

    def connect(self):
        prints = certificates()
        ends = (("a", self.a, "b", "--tls-server", ["--local", "10.0.0.1"], (self.address_a, self.address_b)),
                ("b", self.b, "a", "--tls-client", ["--nobind", "--remote", "10.0.0.1"],
                 (self.address_b, self.address_a)))
        for end, place, other, role, transport, addresses in ends:
            command = self.common + [
                role, "--peer-fingerprint", prints[other], "--key", f"{WORK}/{end}.key", "--cert",
                f"{WORK}/{end}.crt", "--ifconfig", *addresses, "--log", f"{WORK}/{place}.openvpn", *transport]
            if end == "b":
                command = [word for word in command if word not in ("--dh", "none")]
            self.processes.append(Process(place, command, place))
        for place in (self.a, self.b):
            until(f"openvpn in {place}", lambda: "Initialization Sequence Completed" in read(f"{place}.openvpn"), 20)
            if "Data Channel: cipher 'AES-128-GCM'" not in read(f"{place}.openvpn"):
                raise Failure("openvpn took another cipher")


def read(name):
    try:
        with open(f"{WORK}/{name}", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""


class WireGuardGo(Tunnel):
    name, tag = "wireguard-go", "wg"
    programs = {"wireguard-go": "wireguard-go", "wg": "wireguard-tools"}

    def connect(self):
        self.interface_a, self.interface_b = "wgA", "wgB"
        os.makedirs("/run/wireguard", exist_ok=True)
        keys = {}
        for place, interface in ((self.a, "wgA"), (self.b, "wgB")):
            self.processes.append(Process(place, ["wireguard-go", "-f", interface], place))
            until(f"wireguard-go in {place}", lambda: os.path.exists(f"/run/wireguard/{interface}.sock"))
            secret = run("wg", "genkey").strip()
            with open(f"{WORK}/{interface}.key", "w") as file:
                file.write(secret)
            keys[interface] = run("wg", "pubkey", input=secret).strip()
        ends = ((self.a, "wgA", "wgB", "10.0.0.2", self.address_a), (self.b, "wgB", "wgA", "10.0.0.1", self.address_b))
        for place, own, other, endpoint, address in ends:
            run("wg", "set", own, "listen-port", 51820, "private-key", f"{WORK}/{own}.key", "peer", keys[other],
                "allowed-ips", "10.9.0.0/24,239.0.0.0/8", "endpoint", f"{endpoint}:51820", place=place)
            run("ip", "addr", "add", f"{address}/24", "dev", own, place=place)
            run("ip", "link", "set", own, "up", place=place)


class StrongSwan(Tunnel):
    name, tag = "strongSwan libipsec", "swan"
    daemon = "/usr/sbin/charon-systemd"
    programs = {daemon: "charon-systemd", "swanctl": "strongswan-swanctl"}
    plugins = ("random nonce openssl aes sha1 sha2 kdf gmp curve25519 pem pkcs1 x509 pubkey constraints revocation"
               " kernel-libipsec kernel-netlink socket-default vici updown")

    @classmethod
    def missing(cls):
        packages = super().missing()
        if not os.path.exists("/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so"):
            packages.append("libcharon-extra-plugins")
        return packages

    def connect(self):
        self.interface_a = self.interface_b = "ipsec0"
        ends = ((self.a, "10.0.0.1", "10.0.0.2", self.address_a, self.address_b),
                (self.b, "10.0.0.2", "10.0.0.1", self.address_b, self.address_a))
        for place, own, other, inner, remote in ends:
            folder = f"{WORK}/{place}"
            os.makedirs(folder, exist_ok=True)
            # Inner addresses that are somewhere: the sender's packets must match the selectors.
            wire(place, "lan0", f"{inner}/32", place, "lan1")
            with open(f"{folder}/strongswan.conf", "w") as file:
                file.write(f"charon-systemd {{\n load_modular = no\n load = {self.plugins}\n"
                           f" plugins {{ vici {{ socket = unix://{folder}/vici.sock }}\n"
                           "  kernel-libipsec { allow_peer_ts = yes } }\n"
                           f" filelog {{ f {{ path = {folder}/charon.log\n default = 1\n flush_line = yes }} }} }}\n")
            with open(f"{folder}/swanctl.conf", "w") as file:
                file.write(f"""connections {{ c {{ version = 2
 local_addrs = {own}
 remote_addrs = {other}
 proposals = aes128-sha256-curve25519
 local {{ auth = psk
  id = {own} }}
 remote {{ auth = psk
  id = {other} }}
 children {{ net {{ local_ts = {inner}/32, 239.1.1.0/24
  remote_ts = {remote}/32, 239.1.1.0/24
  esp_proposals = aes128gcm16 }} }} }} }}
secrets {{ ike-1 {{ secret = "benchmark-only" }} }}
""")
            # charon's files below /run are its own only where nobody else sees them.
            script = ("mount --make-rprivate / && mount --bind %s /mnt && mount -t tmpfs tmpfs /run && mkdir -p %s &&"
                      " mount --bind /mnt %s && STRONGSWAN_CONF=%s/strongswan.conf exec %s"
                      % (folder, folder, folder, folder, self.daemon))
            self.processes.append(Process(place, ["unshare", "-m", "bash", "-c", script], place))
            until(f"charon in {place}", lambda: os.path.exists(f"{folder}/vici.sock"))
        for place in (self.a, self.b):
            run("swanctl", "--load-all", "--clear", "--file", f"{WORK}/{place}/swanctl.conf", "--uri",
                f"unix://{WORK}/{place}/vici.sock")
        said = run("swanctl", "--initiate", "--child", "net", "--timeout", 10, "--uri",
                   f"unix://{WORK}/{self.a}/vici.sock", check=False)
        if "initiate completed successfully" not in said:
            raise Failure(f"strongSwan: {said[-300:]}")
        # It leaves no route where no other way leads there.
        run("ip", "route", "add", self.address_b, "dev", "ipsec0", "src", self.address_a, place=self.a)
        run("ip", "route", "add", self.address_a, "dev", "ipsec0", "src", self.address_b, place=self.b)


class Ours(Tunnel):
    name, tag = "satipsec", "ours"
    probe = ""
    """The built `dataplane-probe`: the product's user-space back end with SAs that it is told."""
    programs = {"nft": "nftables"}
    address_a, address_b = "192.168.1.1", "192.168.2.1"
    options = []

    def gateway(self, place, address, remote, sender):
        """Starts one of ours, behind its guard as it has to be."""
        wire(place, "lan0", f"{address}/24", place, "lan1")
        run("sysctl", "-qw", "net.ipv4.ip_forward=1", place=place)
        run("nft", "-f", "-", place=place, input=run(self.probe, "ruleset", "interface=sat0", "terrestrial=lan0"))
        process = Process(
            place, [self.probe, f"sender={sender}", f"remote={remote}"] + self.options, place)
        self.processes.append(process)
        said = process.line()
        if said != "ready":
            raise Failure(f"{place}: {said}")
        return process

    def tell(self, process, text):
        said = process.tell(text)
        if said != "ok":
            raise Failure(f"{process.name}: {text}: {said}")

    def connect(self):
        a = self.gateway(self.a, self.address_a, "192.168.2.0/24", 1)
        b = self.gateway(self.b, self.address_b, "192.168.1.0/24", 2)
        self.secure(101, self.group, [a], [b], "0.0.0.0/0", f"{self.group}/32")

    def secure(self, spi, outer, senders, receivers, source, destination):
        """One SA, make before break."""
        for process in receivers:
            self.tell(process, f"inbound {spi} {outer} aes128-gcm {source} {destination}")
        for process in senders:
            self.tell(process, f"outbound {spi} {outer} aes128-gcm {source} {destination}")
            self.tell(process, f"activate {spi} {outer}")

    def allocations(self):
        """Calls of the memory allocator in both since their start."""
        return sum(fields(process.tell("status"))["allocations"] for process in self.processes)

    def rekey(self, spi, pause):
        """The group's next SA; the last one goes, at the receiver after what was on its way has come."""
        a, b = self.processes
        self.secure(spi, self.group, [a], [b], "0.0.0.0/0", f"{self.group}/32")
        self.tell(a, f"remove-outbound {spi - 1} {self.group}")
        time.sleep(pause)
        self.tell(b, f"remove-inbound {spi - 1} {self.group}")

    def secure_unicast(self):
        """SAs for all that goes from LAN to LAN."""
        a, b = self.processes
        self.secure(301, "10.0.0.2", [a], [b], "192.168.1.0/24", "192.168.2.0/24")
        self.secure(302, "10.0.0.1", [b], [a], "192.168.2.0/24", "192.168.1.0/24")



class Hub:
    """One sender and many receivers on a bridge; `tunnels` of them are up."""

    def __init__(self, tag):
        self.tag, self.count, self.processes = tag, 0, []
        for place in (f"{tag}0", f"{tag}Hub"):
            namespace(place)
        run("ip", "link", "add", "bridge", "type", "bridge", "mcast_snooping", 0, place=f"{tag}Hub")
        run("ip", "link", "set", "bridge", "up", place=f"{tag}Hub")
        self.attach(0)

    def attach(self, number):
        """Puts a namespace on the bridge."""
        hub = f"{self.tag}Hub"
        wire(f"{self.tag}{number}", "sat0", f"10.0.0.{number + 1}/24", hub, f"port{number}")
        run("ip", "link", "set", f"port{number}", "master", "bridge", place=hub)

    def grow(self, count):
        """Goes on until there are so many receivers."""
        while self.count < count:
            self.count += 1
            namespace(f"{self.tag}{self.count}")
            self.attach(self.count)
            self.add(f"{self.tag}{self.count}")

    def counter(self, number, interface, name):
        """A counter of an interface, for example rx_packets."""
        return int(run("cat", f"/sys/class/net/{interface}/statistics/{name}", place=f"{self.tag}{number}"))

    def delivered(self, number):
        """Packets that a receiver wrote to its tunnel interface."""
        return self.counter(number, "tun0", "rx_packets")

    def stop(self):
        for process in self.processes:
            process.end()


class OurHub(Hub):
    address = "192.168.1.1"

    def __init__(self):
        super().__init__("oursHub")
        self.ours = Ours()
        self.processes.append(self.ours.gateway(f"{self.tag}0", self.address, "192.168.2.0/24", 1))
        self.ours.secure(101, Ours.group, self.processes, [], "0.0.0.0/0", f"{Ours.group}/32")

    def add(self, place):
        process = self.ours.gateway(place, "192.168.2.1", "192.168.1.0/24", 2)
        self.ours.secure(101, Ours.group, [], [process], "0.0.0.0/0", f"{Ours.group}/32")
        self.processes.append(process)

    def delivered(self, number):
        # The interface counts a piece of several datagrams as one.
        return fields(self.processes[number].tell("status"))["to-tunnel"]


class OpenVPNHub(Hub):
    """A server that copies a multicast to each of its clients."""

    address = "10.8.0.1"

    def __init__(self):
        super().__init__("ovpnHub")
        self.prints = certificates()
        self.start(f"{self.tag}0", [
            "--mode", "server", "--tls-server", "--dh", "none", "--server", "10.8.0.0", "255.255.255.0", "--topology",
            "subnet", "--duplicate-cn", "--local", "10.0.0.1"], "a", "b")

    def start(self, place, options, own, other):
        common = [word for word in OpenVPN.common if word not in ("--dh", "none")]
        self.processes.append(Process(place, common + options + [
            "--peer-fingerprint", self.prints[other], "--key", f"{WORK}/{own}.key", "--cert", f"{WORK}/{own}.crt",
            "--log", f"{WORK}/{place}.openvpn"], place))
        until(f"openvpn in {place}", lambda: "Initialization Sequence Completed" in read(f"{place}.openvpn"), 20)

    def add(self, place):
        self.start(place, ["--client", "--nobind", "--remote", "10.0.0.1"], "b", "a")


class OursPortable(Ours):
    """The same by plain reads, writes and raw sockets."""

    name, tag = "satipsec, portable path", "port"
    options = ["path=portable"]


ALL = [Bare, Ours, OursPortable, OpenVPN, WireGuardGo, StrongSwan]
