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
. "$(dirname "$0")/gateway_lib.sh"

sites
wire gwA sat0 10.0.0.1/24 gwB sat0 10.0.0.2/24
for gateway in gwA gwB; do
    "$probe" ruleset interface=sat0 terrestrial=lan0 >guard.nft
    within $gateway nft -f guard.nft || fail "the guard's rules do not load in $gateway"
done

group=239.1.1.1
sa() { echo "$1 $group $2 0.0.0.0/0 $group/32"; }
listen() { hear "$1" rcv --groups $group --interface eth0 --count "$2" --seconds 20; } # FILE COUNT
stream() { # COUNT SIZE BURST INTERVAL: from srv
    tool srv send --to $group --interface eth0 --count "$1" --size "$2" --burst "$3" --interval "$4" >/dev/null
}
# PATH COUNT SIZE BURST: bursts, with what they cost in memory
bursts() {
    listen rcv.log "$2"
    tell gwA status; local a; a=$(field gwA.answer allocations)
    tell gwB status; local b; b=$(field gwB.answer allocations)
    stream "$2" "$3" "$4" 20
    heard rcv.log
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
# Packets that the IP stack of gwB handed to somebody: those that came by the raw sockets.
delivered() { within gwB awk '/^Ip: [0-9]/ { print $10 }' /proc/net/snmp; }
diverted() { within gwB nft list table netdev satipsec_ring; }
unharmed() { ! diverted; }
# PATH: a new SA each second, make before break.
rekeyed() {
    local count=6000 spi
    listen rcv.log $count
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
    heard rcv.log
    is "$1: new keys each second under load lose nothing" rcv.log count $count
    is "$1: new keys each second under load double nothing" rcv.log distinct $count
}

for path in automatic portable; do
    start gwA path=$path
    start gwB path=$path
    tell gwB "inbound $(sa 201 aes128-gcm)"
    tell gwA "outbound $(sa 201 aes128-gcm)"
    tell gwA "activate 201 $group"
    # First packets of a sender and a group are worth an allocation.
    listen warm.log 50
    stream 50 200 10 5
    heard warm.log
    is "$path: packets arrive" warm.log count 50
    # No larger than a receiver's usual buffer.
    before=$(delivered)
    bursts $path 2000 200 50
    stack=$(($(delivered) - before))
    if [ $path = automatic ]; then
        check "automatic: groups' ESP is kept from the IP stack" diverted
        check "automatic: the IP stack has seen none of it ($stack packets)" [ $stack -lt 100 ]
    else
        check "portable: nothing is kept from the IP stack" unharmed
        check "portable: the IP stack has seen it all ($stack packets)" [ $stack -ge 2000 ]
    fi
    bursts $path 1000 1400 25
    rekeyed $path
    tell gwB status
    tell gwA stop
    tell gwB stop
    end gwA
    end gwB
    check "$path: afterwards nothing is kept from the IP stack" unharmed
done

start gwB
check "a second start keeps groups' ESP from the IP stack again" diverted
kill -9 "${probe_pid[gwB]}"
end gwB
check "a client that was killed leaves nothing behind" unharmed

finish
