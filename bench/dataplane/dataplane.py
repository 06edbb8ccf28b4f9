# SPDX-License-Identifier: Apache-2.0
"""The data plane beside its peers: how fast without loss, and what a delivered packet costs.

usage: dataplane.py PROBE TRAFFIC      (in new mount, network and process namespaces; `make bench CASE=dataplane`)

Writes one line per result to standard output, its cells divided by tabs: workload, figure, limit or peer, ratio,
target, and `met`, `missed` or nothing; first one line `note TEXT`. What it is doing goes to standard error."""
import os
import statistics
import sys
import time

import network
import tunnels
from network import Failure, Process, fields, run

SIZE = 1316
"""Octets of UDP payload: seven packets of an MPEG transport stream."""
TICK = 1000
"""Microseconds between the sender's bursts."""
LOSS = 0.001
PORT = 5004
SEARCHES, SECONDS = 3, 0.7
"""Searches for each tunnel's highest rate, and how long a rate is tried."""
PASSES, PASS_SECONDS = 7, 1.5
"""Runs of each tunnel at the common rate, taken in turn, and how long each lasts."""
LOWEST, HIGHEST = 2_000, 400_000


def say(text):
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def row(workload, figure, peer="", ratio="", target="", is_met=None):
    verdict = {None: "", True: "met", False: "missed"}[is_met]
    print("\t".join([workload, figure, peer, ratio, target, verdict]), flush=True)


def spread(values, form="{:.0f}"):
    """Median and range."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{form.format(middle)} [{form.format(low)}-{form.format(high)}]"


class Stream:
    """Sends to a tunnel, counts behind it."""

    def __init__(self, traffic, tunnel):
        self.traffic, self.tunnel = traffic, tunnel
        self.receiver = Process(
            f"{tunnel.b}-receiver", [traffic, "receive", tunnel.interface_b, PORT, tunnel.group], tunnel.b)
        self.receiver.line()

    def counted(self):
        return fields(self.receiver.tell("count"))

    def settled(self):
        """The count when nothing comes any more."""
        last = self.counted()["packets"]
        for _ in range(40):
            time.sleep(0.05)
            now = self.counted()["packets"]
            if now == last:
                return now
            last = now
        return last

    def times(self):
        return [network.cpu_seconds(pid) for pid in self.tunnel.pids()]

    def run(self, rate, seconds):
        """One run: packets sent and delivered, the rate that was reached, processor seconds of each process."""
        before, start = self.settled(), self.times()
        said = run(self.traffic, "send", self.tunnel.interface_a, self.tunnel.address_a, PORT, SIZE, int(rate), seconds, TICK,
                   self.tunnel.group, place=self.tunnel.a)
        sent = fields(said)
        delivered = self.settled() - before
        spent = [after - then for then, after in zip(start, self.times())]
        return {"sent": sent["sent"], "delivered": delivered, "rate": sent["sent"] / sent["seconds"],
                "loss": 1 - delivered / max(sent["sent"], 1), "cpu": spent}

    def highest_rate(self, guess):
        """The highest rate without loss, by doubling and halving, then by closing in; what else the machine does makes
        a rate fail now and then, so that each may be tried three times."""
        best, low, high = None, LOWEST, HIGHEST

        def passes(rate):
            nonlocal best
            for _ in range(3):
                result = self.run(rate, SECONDS)
                if result["loss"] < LOSS:
                    if best is None or result["rate"] > best["rate"]:
                        best = result
                    # A sender that was held up has not tried this rate.
                    if result["rate"] > 0.9 * rate:
                        return True
            return False

        rate = guess
        if passes(rate):
            while rate < HIGHEST and passes(rate * 1.6):
                rate *= 1.6
            low, high = rate, min(rate * 1.6, HIGHEST)
        else:
            while rate > LOWEST and not passes(rate / 1.6):
                rate /= 1.6
            low, high = rate / 1.6, rate
        for _ in range(3):
            middle = (low * high) ** 0.5
            low, high = (middle, high) if passes(middle) else (low, middle)
        return best


def nanoseconds(result):
    return [spent / max(result["delivered"], 1) * 1e9 for spent in result["cpu"]]


def measure_rates(streams):
    """Each tunnel's highest rates, in turn."""
    best = {name: [] for name in streams}
    guesses = {name: 30_000 for name in streams}
    for turn in range(SEARCHES):
        for name, stream in streams.items():
            result = stream.highest_rate(guesses[name])
            if result is None:
                say(f"{name}: no rate without loss")
                continue
            best[name].append(result)
            guesses[name] = result["rate"]
            cost = " + ".join(f"{value:.0f}" for value in nanoseconds(result))
            say(f"search {turn + 1}: {name}: {result['rate'] / 1e3:.1f} kpps, {cost or 'no'} ns a packet")
    return best


def measure_costs(streams, rate):
    """Nanoseconds per delivered packet at one rate, in turn; runs that lost packets are taken too, and said."""
    costs, losses = {name: [] for name in streams}, {name: 0.0 for name in streams}
    for _ in range(PASSES):
        for name, stream in streams.items():
            result = stream.run(rate, PASS_SECONDS)
            if result["delivered"] > 0:
                costs[name].append(nanoseconds(result))
            losses[name] = max(losses[name], result["loss"])
    for name, values in costs.items():
        say(f"at {rate / 1e3:.1f} kpps: {name}: " + ", ".join("+".join(f"{x:.0f}" for x in run) for run in values))
    return costs, losses


def report_tunnels(best, costs, losses, rate):
    ours = tunnels.Ours.name
    for name, results in best.items():
        if not results:
            row(f"{name}: highest rate, loss < 0.1 %", "none")
            continue
        rates = [result["rate"] / 1e3 for result in results]
        own = statistics.median([result["rate"] / 1e3 for result in best[ours]]) if best[ours] else 0
        ratio = "" if name == ours else f"{own / statistics.median(rates):.2f}"
        row(f"{name}: highest rate, loss < 0.1 %", f"{spread(rates, '{:.1f}')} kpps", "" if not ratio else "satipsec",
            ratio)
    for name, runs in costs.items():
        if not runs or not runs[0]:
            continue
        total = [sum(values) for values in runs]
        ends = " + ".join(f"{statistics.median(side):.0f}" for side in zip(*runs))
        row(f"{name}: CPU per packet at {rate / 1e3:.1f} kpps", f"{spread(total)} ns",
            f"sender {ends} receiver, loss <= {100 * losses[name]:.2f} %")
    for name, least in (("openvpn", 2), ("wireguard-go", 3), ("strongSwan libipsec", 4)):
        if costs.get(name) and costs.get(ours):
            theirs = statistics.median([sum(values) for values in costs[name]])
            own = statistics.median([sum(values) for values in costs[ours]])
            row(f"CPU per packet, {name} / satipsec", f"{theirs:.0f} / {own:.0f} ns", name, f"{theirs / own:.2f}",
                f">= {least}.00", theirs >= least * own)


def report_parts(traffic, costs):
    """What the best of the single parts add up to, and how far we are from it."""
    names = ("partsA", "partsB")
    for name in names:
        network.namespace(name)
    network.wire("partsA", "sat0", "10.0.0.1/24", "partsB", "sat0", "10.0.0.2/24")
    run("ip", "route", "add", "default", "dev", "sat0", place="partsA")
    rounds = [fields(run(traffic, "parts", "partsA", "sat0", "partsB", "sat0", SIZE, 500, place="partsA").replace(
        "\n", " ")) for _ in range(5)]
    parts = {name: statistics.median([values[name] for values in rounds]) for name in rounds[0]}
    say("parts: " + ", ".join(f"{name} {value:.0f}" for name, value in parts.items()))
    write = min("tun-write", "tun-write-coalesced", key=parts.get)
    ways = [name[5:] for name in parts if name.startswith("send-")]
    way = min(ways, key=lambda way: parts["send-" + way] + parts["receive-" + way])
    chosen = ["tun-read", "seal", "send-" + way, "receive-" + way, "open", write]
    total = sum(parts[name] for name in chosen)
    row("the parts alone, the cheapest of each", f"{total:.0f} ns",
        ", ".join(f"{name} {parts[name]:.0f}" for name in chosen))
    row("the parts alone, the others", "",
        ", ".join(f"{name} {value:.0f}" for name, value in parts.items() if name not in chosen))
    runs = costs.get(tunnels.Ours.name)
    if runs:
        own = statistics.median([sum(values) for values in runs])
        row("CPU per packet, satipsec / the parts", f"{own:.0f} / {total:.0f} ns", "sum of the parts",
            f"{own / total:.2f}", "<= 1.80", own <= 1.8 * total)


def report_tcp(traffic, tunnel):
    """One TCP stream from A to B."""
    if isinstance(tunnel, tunnels.Ours):
        tunnel.secure_unicast()
    server = Process(f"{tunnel.b}-tcp", [traffic, "tcp-serve", 5201], tunnel.b)
    try:
        server.line()
        rates, cpu = [], []
        for _ in range(3):
            start = [network.cpu_seconds(pid) for pid in tunnel.pids()]
            run(traffic, "tcp-send", tunnel.address_a, tunnel.address_b, 5201, 1.5, place=tunnel.a)
            got = fields(server.line(20))
            spent = sum(network.cpu_seconds(pid) for pid in tunnel.pids()) - sum(start)
            rates.append(got["octets"] * 8e-6 / got["seconds"])
            cpu.append(spent / (got["octets"] / 1e6) * 1e3)
        row(f"{tunnel.name}: one TCP stream", f"{spread(rates)} Mb/s",
            f"CPU {statistics.median(cpu):.2f} ms per MB" if tunnel.pids() else "")
    except Failure as failure:
        row(f"{tunnel.name}: one TCP stream", "none", str(failure)[-80:])
    finally:
        server.end()


def report_rekeys(stream, rate, seconds=10):
    """A new SA each second under load."""
    tunnel = stream.tunnel
    before = stream.settled()
    sender = Process(f"{tunnel.a}-rekeyed", [
        stream.traffic, "send", tunnel.interface_a, tunnel.address_a, PORT, SIZE, int(rate), seconds, TICK,
        tunnel.group], tunnel.a)
    try:
        for spi in range(102, 102 + seconds - 1):
            time.sleep(0.8)
            tunnel.rekey(spi, 0.2)
        sent = fields(sender.line(seconds))["sent"]
        lost = sent - (stream.settled() - before)
        row(f"{tunnel.name}: new keys each second at {rate / 1e3:.1f} kpps, {seconds} s", f"{lost:.0f} lost",
            f"of {sent:.0f}", "", "0 lost", lost == 0)
    finally:
        sender.end()


def report_allocations(stream, rate):
    """Calls of the allocator for a stream, without those of the two reports."""
    tunnel = stream.tunnel
    first, second = tunnel.allocations(), tunnel.allocations()
    result = stream.run(rate, 2)
    own = tunnel.allocations() - second - (second - first)
    each = max(own, 0) / max(result["delivered"], 1)
    row(f"{tunnel.name}: allocations per packet, both ends", f"{each:.4f}", f"{own:.0f} for {result['sent']:.0f}", "",
        "<= 0.01", each <= 0.01)


def report_receivers(traffic, kind, name, rate=1_000):
    """What the sender's end pays for more receivers, and what the link carries."""
    hub = None
    try:
        hub = kind()
        for count in (1, 10, 30):
            hub.grow(count)
            costs, copies, complete = [], [], []
            for _ in range(5):
                before = [hub.delivered(number) for number in range(1, count + 1)]
                link, start = hub.counter(0, "sat0", "tx_packets"), network.cpu_seconds(hub.processes[0].pid)
                sent = fields(run(traffic, "send", "tun0", hub.address, PORT, SIZE, rate, 1, TICK, tunnels.Tunnel.group,
                                  place=f"{hub.tag}0"))["sent"]
                time.sleep(0.3)
                costs.append((network.cpu_seconds(hub.processes[0].pid) - start) / sent * 1e9)
                copies.append((hub.counter(0, "sat0", "tx_packets") - link) / sent)
                after = [hub.delivered(number) for number in range(1, count + 1)]
                complete.append(sum(now - then >= sent * (1 - LOSS) for then, now in zip(before, after)))
            row(f"{name}: {count} receivers, sender's CPU per packet", f"{spread(costs)} ns",
                f"{statistics.median(copies):.2f} packets on the link for one, copied by the bridge on the sender's"
                f" time; {min(complete)} of {count} got all")
    except Failure as failure:
        row(f"{name}: many receivers", "none", str(failure)[-80:])
    finally:
        if hub:
            hub.stop()


def main():
    probe, traffic = map(os.path.abspath, sys.argv[1:3])
    network.own_everything()
    niceness = network.go_first()
    tunnels.Ours.probe = probe
    run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0")
    softirqs = network.softirq_threads()
    active, problems = [], []
    for kind in tunnels.ALL:
        packages = kind.missing()
        if packages:
            problems.append((kind.name, f"not installed: apt-get install {' '.join(packages)}"))
            continue
        tunnel = kind()
        try:
            tunnel.start()
            active.append(tunnel)
            say(f"{tunnel.name} is up")
        except Failure as failure:
            problems.append((kind.name, f"did not start: {failure}"))
            tunnel.stop()
    try:
        measure(traffic, active, problems, softirqs, niceness)
    finally:
        for tunnel in active:
            tunnel.stop()


def measure(traffic, active, problems, softirqs, niceness):
    streams = {tunnel.name: Stream(traffic, tunnel) for tunnel in active}
    start, softirq = time.monotonic(), network.softirq_seconds(softirqs)
    best = measure_rates(streams)
    slowest = min((statistics.median([r["rate"] for r in results]) for results in best.values() if results), default=0)
    rate = min(20_000, 0.7 * slowest)
    costs, losses = measure_costs(streams, max(rate, 1_000))
    share = (network.softirq_seconds(softirqs) - softirq) / (time.monotonic() - start)
    print(f"note {SIZE} octets of UDP payload in multicasts, bursts every {TICK / 1000:g} ms, one receiver, one wire"
          " (veth); CPU: user and system time of the tunnel's processes by the scheduler's account, per delivered"
          f" packet, median of {PASSES} [lowest-highest]; what the kernel does at the other end of the wire on receipt"
          f" (softirq) counts as the sender's; ksoftirqd besides, whole machine: {100 * share:.1f} % of one core;"
          f" niceness of all {niceness}, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
    report_tunnels(best, costs, losses, rate)
    for name in (tunnels.Ours.name, tunnels.OursPortable.name):
        if name in streams:
            report_rekeys(streams[name], max(rate, 1_000))
            report_allocations(streams[name], max(rate, 1_000))
    for name, problem in problems:
        row(f"{name}: not measured", "-", problem)
    report_parts(traffic, costs)
    for tunnel in active:
        report_tcp(traffic, tunnel)
    for tunnel in active:
        tunnel.stop()
    names = [tunnel.name for tunnel in active]
    for kind, name in ((tunnels.OurHub, tunnels.Ours.name), (tunnels.OpenVPNHub, tunnels.OpenVPN.name)):
        if name in names:
            report_receivers(traffic, kind, name)


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"dataplane: {failure}")
