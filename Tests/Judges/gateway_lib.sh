# SPDX-License-Identifier: Apache-2.0
# What the gateway tests share: namespaces of their own, reporting, wiring, the probes in gwA and gwB, and the agents
# beside them. A test sources this first, with its own arguments: PROBE, the built dataplane-probe. What follows runs as
# root of new namespaces, in an empty folder, and vanishes with them; nobody need be root for it.
set -u
probe=$(realpath "$1")
here=$(cd "$(dirname "$0")" && pwd)
if [ "${2-}" != inside ]; then
    user=()
    [ "$(id -u)" = 0 ] || user=(-Ur)
    # Twenty seconds on a quiet machine; whatever hangs ends here, and takes all with it.
    exec timeout -k 1 58 unshare "${user[@]}" -nmpf --mount-proc --kill-child "$0" "$probe" inside
fi
mount -t tmpfs tmpfs /run && mkdir -p /run/netns /run/gateway && cd /run/gateway || exit 1

python=/usr/bin/python3
failures=0

ok() { echo "ok: $1"; }
fail() { echo "FAIL: $1"; failures=$((failures + 1)); }
# check TEXT COMMAND...: the command decides.
check() {
    local text=$1
    shift
    if "$@" >/dev/null 2>&1; then ok "$text"; else fail "$text [$*]"; fi
}
# The field NAME of the line in FILE: values are written name=value.
field() { grep -o "\b$2=[^ ]*" "$1" | tail -1 | cut -d= -f2; }
is() { # TEXT FILE NAME EXPECTED
    local got
    got=$(field "$2" "$3")
    if [ "$got" = "$4" ]; then ok "$1"; else fail "$1: $3 is '$got', not '$4' ($(tr '\n' '|' <"$2" | cut -c1-300))"; fi
}
within() { ip netns exec "$@"; }
tool() { local place=$1; shift; ip netns exec "$place" $python "$here/gateway_tools.py" "$@"; }
# Ends the test with its verdict.
finish() {
    [ $failures = 0 ] && echo "all ok" && exit 0
    echo "$failures failed"
    exit 1
}
# Waits until FILE has a line that matches.
await() {
    for _ in $(seq 200); do
        grep -q "$2" "$1" 2>/dev/null && return 0
        sleep 0.02
    done
    fail "waited in vain for '$2' in $1: $(cat "$1" 2>/dev/null)"
    return 1
}

hosts() { # NAMESPACE...
    local name
    for name in "$@"; do
        ip netns add "$name"
        within "$name" ip link set lo up
        within "$name" sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 \
            net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
    done
}
wire() { # NAMESPACE INTERFACE ADDRESS NAMESPACE INTERFACE [ADDRESS]
    ip link add "$2" netns "$1" type veth peer name "$5" netns "$4"
    [ "$3" = - ] || within "$1" ip addr add "$3" dev "$2"
    [ "${6--}" = - ] || within "$4" ip addr add "$6" dev "$5"
    within "$1" ip link set "$2" up
    within "$4" ip link set "$5" up
}

# srv and rcv behind gwA and gwB.
sites() {
    hosts srv gwA gwB rcv
    wire srv eth0 192.168.1.10/24 gwA lan0 192.168.1.1/24
    wire rcv eth0 192.168.2.10/24 gwB lan0 192.168.2.1/24
    mkfifo gwA.in gwB.in
}
# Both gateways and the outsider on one segment. gwA and gwB are as badly set up as may be: they forward, and all they
# have no better route for goes to the satellite.
satellite() { # ARGUMENT...: of the bridge
    hosts seg out
    within seg ip link add bridge type bridge mcast_snooping 0 "$@"
    within seg ip link set bridge up
    wire gwA sat0 10.0.0.1/24 seg portA
    wire gwB sat0 10.0.0.2/24 seg portB
    wire out sat0 10.0.0.9/24 seg portO
    local name
    for name in portA portB portO; do within seg ip link set $name master bridge; done
    for name in gwA gwB; do
        within $name sysctl -qw net.ipv4.ip_forward=1
        within $name ip route add default dev sat0
    done
    macA=$(within gwA cat /sys/class/net/sat0/address)
    macB=$(within gwB cat /sys/class/net/sat0/address)
}

# --- Starting and telling the probes --------------------------------------------------------------------------------
declare -A probe_pid
start() { # GATEWAY ARGUMENT...
    local place=$1 sender=1
    shift
    [ "$place" = gwB ] && sender=2
    : >"$place.log"
    ip netns exec "$place" "$probe" sender=$sender "$@" <"$place.in" >"$place.log" 2>&1 &
    probe_pid[$place]=$!
    if [ "$place" = gwA ]; then exec 5>"$place.in"; else exec 6>"$place.in"; fi
    # Nothing that follows would make sense without it.
    await "$place.log" '^ready' || exit 1
}
tell() { # GATEWAY LINE
    local before
    before=$(wc -l <"$1.log")
    if [ "$1" = gwA ]; then echo "$2" >&5; else echo "$2" >&6; fi
    for _ in $(seq 200); do
        [ "$(wc -l <"$1.log")" -gt "$before" ] && break
        sleep 0.02
    done
    tail -1 "$1.log" >"$1.answer"
    case $(cat "$1.answer") in ok | *mtu=*) ;; *) fail "$1: '$2' was answered '$(cat "$1.answer")'" ;; esac
}
status() { tell "$1" status; }
# GATEWAY SPI COUNT: waits until the SA has sent that many packets.
sent() {
    for _ in $(seq 100); do
        status "$1"
        [ "$(field "$1.answer" "outbound-$2")" -ge "$3" ] && return
        sleep 0.02
    done
    fail "$1 never sent $3 packets with SA $2"
}
end() { # GATEWAY: waits for the probe's end
    wait "${probe_pid[$1]}" 2>/dev/null
    if [ "$1" = gwA ]; then exec 5>&-; else exec 6>&-; fi
}

# Not by a function: the process to end must be the sniffer itself, which `ip netns exec` replaces itself by.
sniff() {
    : >"$1"
    ip netns exec out $python "$here/gateway_tools.py" sniff --interface sat0 >"$1" &
    sniffer=$!
    await "$1" '^ready'
}
unsniff() { sleep 0.15; kill -TERM $sniffer; wait $sniffer; }
# A receiver in the background, for as long as it takes: it ends when it has its count, or is told to.
declare -A receivers
hear() { # FILE NAMESPACE ARGUMENT...
    local file=$1 place=$2
    shift 2
    : >"$file" # an earlier one's `ready` is not this one's
    ip netns exec "$place" $python "$here/gateway_tools.py" receive "$@" >"$file" &
    receivers[$file]=$!
    await "$file" '^ready'
}
heard() { wait "${receivers[$1]}"; } # FILE: waits until it has its count
# FILE...: when what must not arrive has had time to arrive.
hush() {
    local file
    sleep 0.25
    for file in "$@"; do kill -TERM "${receivers[$file]}"; wait "${receivers[$file]}"; done
}
# total FILE NAME: the count of the line NAME
total() { sed -n "s/^$2 count=//p" "$1"; }
equals() { [ "$1" = "$2" ]; }
no_clear() { # TEXT FILE
    if equals "$(total "$2" clear-total)/$(total "$2" marker)" 0/0; then
        ok "$1"
    else
        fail "$1: $(grep clear "$2" | tr '\n' '|')"
    fi
}
