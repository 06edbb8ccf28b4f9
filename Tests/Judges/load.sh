#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Two gateways under load, on each of the ways in and out of the system:
#
#   srv 192.168.1.10 --- lan0 [gwA] sat0 10.0.0.1 --- 10.0.0.2 sat0 [gwB] lan0 --- 192.168.2.10 rcv
#
# Bursts arrive whole and unchanged, keys change under load without a loss, and packets cost no allocation. Prints one
# line per check, `ok: ...` or `FAIL: ...`, and ends with 1 if any failed. Needs no root: everything happens in namespaces
# of its own, which vanish with it.
#
# usage: load.sh PROBE      (PROBE: the built dataplane-probe)
set -u
probe=$(realpath "$1")
here=$(cd "$(dirname "$0")" && pwd)
if [ "${2-}" != inside ]; then
    user=()
    [ "$(id -u)" = 0 ] || user=(-Ur)
    # Fifteen seconds on a quiet machine; whatever hangs ends here, and takes all with it.
    exec timeout -k 1 58 unshare "${user[@]}" -nmpf --mount-proc --kill-child "$0" "$probe" inside
fi

mount -t tmpfs tmpfs /run && mkdir -p /run/netns /run/load && cd /run/load || exit 1
failures=0
ok() { echo "ok: $1"; }
fail() { echo "FAIL: $1"; failures=$((failures + 1)); }
# The field NAME of the line in FILE.
field() { grep -o "\b$2=[^ ]*" "$1" | tail -1 | cut -d= -f2; }
is() { # TEXT FILE NAME EXPECTED
    local got
    got=$(field "$2" "$3")
    if [ "$got" = "$4" ]; then ok "$1"; else fail "$1: $3 is '$got', not '$4' ($(tr '\n' '|' <"$2" | cut -c1-300))"; fi
}
tool() { local place=$1; shift; ip netns exec "$place" /usr/bin/python3 "$here/gateway_tools.py" "$@"; }
await() { # FILE LINE
    for _ in $(seq 200); do
        grep -q "$2" "$1" 2>/dev/null && return 0
        sleep 0.02
    done
    fail "waited in vain for '$2' in $1: $(cat "$1" 2>/dev/null)"
    exit 1
}

for name in srv gwA gwB rcv; do
    ip netns add $name
    ip netns exec $name ip link set lo up
    ip netns exec $name sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
done
wire() { # NAMESPACE INTERFACE ADDRESS NAMESPACE INTERFACE ADDRESS
    ip link add "$2" netns "$1" type veth peer name "$5" netns "$4"
    ip -n "$1" addr add "$3" dev "$2"
    ip -n "$4" addr add "$6" dev "$5"
    ip -n "$1" link set "$2" up
    ip -n "$4" link set "$5" up
}
wire srv eth0 192.168.1.10/24 gwA lan0 192.168.1.1/24
wire rcv eth0 192.168.2.10/24 gwB lan0 192.168.2.1/24
wire gwA sat0 10.0.0.1/24 gwB sat0 10.0.0.2/24
for gateway in gwA gwB; do
    "$probe" ruleset interface=sat0 terrestrial=lan0 >guard.nft
    ip netns exec $gateway nft -f guard.nft || fail "the guard's rules do not load in $gateway"
    mkfifo $gateway.in
done

declare -A pid
start() { # GATEWAY DESCRIPTOR ARGUMENT...
    local place=$1
    : >"$place.log"
    ip netns exec "$place" "$probe" "${@:3}" <"$place.in" >"$place.log" 2>&1 &
    pid[$place]=$!
    if [ "$2" = 5 ]; then exec 5>"$place.in"; else exec 6>"$place.in"; fi
    await "$place.log" '^ready'
}
tell() { # GATEWAY LINE
    local before
    before=$(wc -l <"$1.log")
    if [ "$1" = gwA ]; then echo "$2" >&5; else echo "$2" >&6; fi
    for _ in $(seq 500); do
        [ "$(wc -l <"$1.log")" -gt "$before" ] && break
        sleep 0.01
    done
    tail -1 "$1.log" >"$1.answer"
    grep -Eq '^(ok$|.*mtu=)' "$1.answer" || fail "$1: '$2' was answered '$(cat "$1.answer")'"
}
group=239.1.1.1
sa() { echo "$1 $group $2 0.0.0.0/0 $group/32"; }
hear() { # FILE COUNT
    ip netns exec rcv /usr/bin/python3 "$here/gateway_tools.py" receive --groups $group --interface eth0 --count "$2" \
        --seconds 20 >"$1" &
    receiver=$!
    await "$1" '^ready'
}
stream() { # COUNT SIZE BURST INTERVAL: from srv
    tool srv send --to $group --interface eth0 --count "$1" --size "$2" --burst "$3" --interval "$4" >/dev/null
}
# PATH COUNT SIZE BURST: bursts, with what they cost in memory
bursts() {
    hear rcv.log "$2"
    tell gwA status; local a; a=$(field gwA.answer allocations)
    tell gwB status; local b; b=$(field gwB.answer allocations)
    stream "$2" "$3" "$4" 20
    wait $receiver
    is "$1: bursts of $3 octets arrive, all" rcv.log count "$2"
    is "$1: bursts of $3 octets: none twice" rcv.log distinct "$2"
    is "$1: bursts of $3 octets: in order" rcv.log ordered yes
    is "$1: bursts of $3 octets: of their size" rcv.log size "$3"
    is "$1: bursts of $3 octets: undamaged" rcv.log damaged 0
    is "$1: bursts of $3 octets: the inner TTL as ever" rcv.log ttl 6
    tell gwA status; a=$(($(field gwA.answer allocations) - a))
    tell gwB status; b=$(($(field gwB.answer allocations) - b))
    # A report makes some of its own, the same for any number of packets. Without the optimiser closures and generics
    # allocate; `make bench CASE=dataplane` looks at what is shipped.
    if [ "$(field gwA.answer optimised)" = no ]; then
        ok "$1: $2 packets of $3 octets: $a and $b allocations, built without the optimiser"
    elif [ $a -lt $(($2 / 4)) ] && [ $b -lt $(($2 / 4)) ]; then
        ok "$1: $2 packets of $3 octets cost no allocation each ($a and $b in all)"
    else
        fail "$1: $2 packets of $3 octets cost $a and $b allocations"
    fi
}
# PATH: a new SA each second, make before break.
rekeyed() {
    local count=6000 spi
    hear rcv.log $count
    stream $count 200 4 2 & # two in a millisecond
    local sender=$!
    for spi in 202 203 204; do
        sleep 0.8
        tell gwB "inbound $(sa $spi aes128-gcm)"
        tell gwA "outbound $(sa $spi aes128-gcm)"
        tell gwA "activate $spi $group"
        tell gwA "remove-outbound $((spi - 1)) $group"
        # What is on its way still needs the old one; behind the first packet of the new one nothing is.
        for _ in $(seq 200); do
            tell gwB status
            [ "$(field gwB.answer inbound-$spi)" -gt 0 ] && break
            sleep 0.05
        done
        tell gwB "remove-inbound $((spi - 1)) $group"
    done
    wait $sender
    wait $receiver
    is "$1: new keys each second under load lose nothing" rcv.log count $count
    is "$1: new keys each second under load double nothing" rcv.log distinct $count
}

for path in automatic portable; do
    start gwA 5 sender=1 path=$path
    start gwB 6 sender=2 path=$path
    tell gwB "inbound $(sa 201 aes128-gcm)"
    tell gwA "outbound $(sa 201 aes128-gcm)"
    tell gwA "activate 201 $group"
    # First packets of a sender and a group are worth an allocation.
    hear warm.log 50
    stream 50 200 10 5
    wait $receiver
    is "$path: packets arrive" warm.log count 50
    # No larger than a receiver's usual buffer.
    bursts $path 2000 200 50
    bursts $path 1000 1400 25
    rekeyed $path
    tell gwB status
    tell gwA stop
    tell gwB stop
    wait "${pid[gwA]}" "${pid[gwB]}"
    exec 5>&- 6>&-
done

[ $failures = 0 ] && echo "all ok" && exit 0
echo "$failures failed"
exit 1
