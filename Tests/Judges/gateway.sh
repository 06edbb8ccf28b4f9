#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Two gateways, a satellite segment with an outsider on it, a host behind each gateway:
#
#   srv 192.168.1.10 --- lan0 [gwA] sat0 10.0.0.1 --+-- 10.0.0.2 sat0 [gwB] lan0 --- 192.168.2.10 rcv
#                                              outsider 10.0.0.9
#
# The back end runs in gwA and gwB with SAs given by this script; every packet on the segment is seen by a sniffer that
# shares no code with the product. Prints one line per check, `ok: ...` or `FAIL: ...`, and ends with 1 if any failed.
# Needs no root: everything happens in namespaces of its own, which vanish with it.
#
# usage: gateway.sh PROBE      (PROBE: the built dataplane-probe)
. "$(dirname "$0")/gateway_lib.sh"

# --- The network ----------------------------------------------------------------------------------------------------
sites
satellite
within srv ip route add default via 192.168.1.1
within rcv ip route add default via 192.168.2.1

one_way=239.1.1.1 two_way=239.1.1.2
# sa SPI GROUP SUITE: for the commands inbound and outbound
sa() { echo "$1 $2 $3 0.0.0.0/0 $2/32"; }

# Everything that could leak, from both sides and from the gateways themselves.
pour() {
    tool srv send --to $one_way --interface eth0 --count 10 --interval 1 >/dev/null &
    local a=$!
    tool srv send --to 192.168.2.10 --count 10 --interval 1 >/dev/null &
    local b=$!
    tool rcv send --to $two_way --interface eth0 --count 10 --interval 1 >/dev/null 2>&1
    tool gwA send --to $one_way --count 10 --interval 1 >/dev/null 2>&1
    tool gwA send --to 10.0.0.9 --count 10 --interval 1 >/dev/null 2>&1
    wait $a $b
}

# --- 1. Without the guard -------------------------------------------------------------------------------------------
within gwA "$probe" </dev/null >refused.log 2>&1
check "without the guard the back end refuses to start, and says so" grep -q "^error: the fail-closed guard" refused.log
sniff bare.log
pour
unsniff
check "the sniffer does see clear packets when nothing keeps them in" [ "$(total bare.log clear-total)" -gt 0 ]
hear rcv.log rcv --interface eth0 --count 5
tool out forge clear --interface sat0 --source 10.0.0.9 --to 192.168.2.10 --mac "$macB" >/dev/null
heard rcv.log
is "and the outsider's packets do reach the receiver" rcv.log count 5

for gateway in gwA gwB; do
    "$probe" ruleset interface=sat0 terrestrial=lan0 >guard.nft
    within $gateway nft -f guard.nft || fail "the guard's rules do not load in $gateway"
    within $gateway nft -f guard.nft || fail "the guard's rules do not load twice in $gateway"
done
ok "the guard's rules load, and load again"

# --- 2. Guard, no daemon --------------------------------------------------------------------------------------------
sniff never.log
pour
unsniff
no_clear "never started: nothing in clear" never.log

# The operator lets one flow of the gateway's through; what stands before it in the list does not come under it.
policy="discard,0.0.0.0/0,10.0.0.9/32,17,5001;bypass,10.0.0.0/24,10.0.0.8/31,17,0"
"$probe" ruleset interface=sat0 terrestrial=lan0 "policy=$policy" >bypass.nft
within gwA nft -f bypass.nft || fail "the guard's rules with a bypass do not load"
sniff bypass.log
pour
tool gwA send --to 10.0.0.9 --port 5001 --count 10 --interval 1 >/dev/null 2>&1
unsniff
check "a bypass passes in clear, and exactly it" \
    equals "$(grep '^clear ' bypass.log)" "clear 10.0.0.1>10.0.0.9 protocol 17 count=10"
within gwA nft -f guard.nft || fail "the guard's rules do not load again"

# --- 3. What is wrong is said ---------------------------------------------------------------------------------------
within gwA sysctl -qw net.ipv4.conf.all.rp_filter=1
within gwA "$probe" </dev/null >refused.log 2>&1
check "a reverse path filter that would drop everything is named" grep -q "rp_filter is 1" refused.log
within gwA sysctl -qw net.ipv4.conf.all.rp_filter=0
start gwA
within gwA "$probe" tunnel=tun9 </dev/null >refused.log 2>&1
check "a second multicast router is told so" grep -q "another multicast router is running" refused.log
check "a start that failed leaves no tunnel" bash -c '! ip -n gwA link show tun9'
start gwB
status gwA
is "the tunnel's MTU is that of the default suite" gwA.answer mtu 1446
is "the guard is reported" gwA.answer guarded yes

# --- 4. Before the first SA -----------------------------------------------------------------------------------------
sniff before.log
pour
unsniff
no_clear "running without SAs: nothing in clear" before.log
check "running without SAs: no ESP either" bash -c '! grep -q ^esp before.log'

# --- 5. One way -----------------------------------------------------------------------------------------------------
tell gwB "inbound $(sa 101 $one_way aes256-gcm)"
tell gwA "outbound $(sa 101 $one_way aes256-gcm)"
sniff idle.log
hear rcv.log rcv --groups $one_way --interface eth0
pour
hush rcv.log
unsniff
is "an SA that is not active sends nothing" rcv.log count 0
no_clear "an SA that is not active: nothing in clear" idle.log

tell gwA "activate 101 $one_way"
sniff oneway.log
hear rcv.log rcv --groups $one_way --interface eth0 --count 200
tool srv send --to $one_way --interface eth0 --count 200 --interval 1 --tos 137 >/dev/null
heard rcv.log
unsniff
is "one way: every packet arrives" rcv.log count 200
is "one way: in order" rcv.log ordered yes
is "one way: the inner source is kept" rcv.log sources 192.168.1.10
is "one way: each router takes one from the TTL" rcv.log ttl 6
no_clear "one way: nothing in clear" oneway.log
check "one way: outer source and destination are gateway and group" \
    equals "$(total oneway.log "esp 10.0.0.1>$one_way spi=101")" 200
check "one way: DSCP and ECN field show outside" equals "$(grep ^tos oneway.log)" "tos 137 count=200"

# --- 6. Both ways ---------------------------------------------------------------------------------------------------
for gateway in gwA gwB; do
    tell $gateway "inbound $(sa 201 $two_way aes256-sha256)"
    tell $gateway "outbound $(sa 201 $two_way aes256-sha256)"
    tell $gateway "activate 201 $two_way"
done
status gwA
is "the tunnel's MTU leaves room for the suites of both SAs" gwA.answer mtu 1438
sniff both.log
hear rcv.log rcv --groups $two_way --interface eth0 --count 100
hear srv.log srv --groups $two_way --interface eth0 --count 100
tool srv send --to $two_way --interface eth0 --count 100 >/dev/null &
sender=$!
tool rcv send --to $two_way --interface eth0 --count 100 >/dev/null
wait $sender
heard rcv.log
heard srv.log
unsniff
is "both ways: A to B" rcv.log count 100
is "both ways: A to B, from srv only" rcv.log sources 192.168.1.10
is "both ways: B to A" srv.log count 100
is "both ways: B to A, from rcv only" srv.log sources 192.168.2.10
is "both ways: TTL" srv.log ttl 6
no_clear "both ways: nothing in clear" both.log
check "both ways: no packet goes round" \
    equals "$(total both.log "esp 10.0.0.1>$two_way spi=201")/$(total both.log "esp 10.0.0.2>$two_way spi=201")" 100/100

# --- 7. Roll-over: make before break --------------------------------------------------------------------------------
sniff roll.log
hear rcv.log rcv --groups $one_way --interface eth0 --count 2000
tool srv send --to $one_way --interface eth0 --count 2000 --interval 1 >/dev/null &
sender=$!
sent gwA 101 300
for next in 102:chacha20-poly1305 103:3des-sha1 104:aes256-gcm; do
    spi=${next%:*}
    sleep 0.1
    tell gwB "inbound $(sa $spi $one_way ${next#*:})"
    tell gwA "outbound $(sa $spi $one_way ${next#*:})"
    tell gwA "activate $spi $one_way"
    tell gwA "remove-outbound $((spi - 1)) $one_way"
    sleep 0.1
    tell gwB "remove-inbound $((spi - 1)) $one_way"
done
wait $sender
heard rcv.log
unsniff
is "three roll-overs lose nothing" rcv.log count 2000
is "three roll-overs double nothing" rcv.log distinct 2000
is "three roll-overs keep the order" rcv.log ordered yes
check "all four SAs carried packets" equals "$(grep -c "^esp 10.0.0.1>$one_way spi=10[1234] " roll.log)" 4
no_clear "three roll-overs: nothing in clear" roll.log

# --- 8. What the outsider sends -------------------------------------------------------------------------------------
# An application on the gateway listens as badly as it can: on all interfaces, while the daemon has joined the group.
hear app.log gwB --groups $one_way --interface tun0 --count 1000
hear rcv.log rcv --groups $one_way $two_way --interface eth0 --count 1000
tool out forge clear --interface sat0 --source 192.168.1.10 --to $one_way >/dev/null
tool out forge clear --interface sat0 --source 10.0.0.1 --to $one_way >/dev/null
tool out forge clear --interface sat0 --source 192.168.1.10 --to 192.168.2.10 --mac "$macB" >/dev/null
tool out forge esp --interface sat0 --source 10.0.0.1 --to $one_way --spi 104 >/dev/null
tool out forge esp --interface sat0 --source 10.0.0.1 --to $one_way --spi 999 >/dev/null
hush rcv.log app.log
is "forged packets in clear and forged ESP do not reach the receiver" rcv.log count 0
is "nor an application on the gateway" app.log count 0
status gwB
is "forged ESP is counted as not authentic" gwB.answer drop-notAuthentic 5
is "ESP of an unknown SA is counted" gwB.answer drop-unknownSPI 5

tool out forge replay --interface sat0 --source 10.0.0.1 --count 3 >forge.log &
forger=$!
hear rcv.log rcv --groups $one_way --interface eth0 --count 1000
await forge.log '^ready'
tool srv send --to $one_way --interface eth0 --count 5 >/dev/null
wait $forger
hush rcv.log
is "the outsider replayed" forge.log forged 15
is "replayed ESP is delivered once" rcv.log count 5
status gwB
is "replayed ESP is counted" gwB.answer drop-replay 15

# --- 9. Packets larger than the tunnel ------------------------------------------------------------------------------
hear rcv.log rcv --groups $one_way --interface eth0 --count 10
tool srv send --to $one_way --interface eth0 --count 10 --size 1472 --df >/dev/null
heard rcv.log
is "large multicasts with DF pass with the guard's rule for the LAN" rcv.log count 10
is "large multicasts arrive whole" rcv.log size 1472
within gwA nft delete table ip satipsec_guard
tool srv send --to $one_way --interface eth0 --count 10 --size 1472 --df >/dev/null
sleep 0.1
status gwA
is "without the rule the kernel drops them and the status says so" gwA.answer fragmentation-failures 10

# --- 10. Unicast ----------------------------------------------------------------------------------------------------
tell gwA "outbound 301 10.0.0.2 aes128-sha1 192.168.1.0/24 192.168.2.0/24"
tell gwB "inbound 301 10.0.0.2 aes128-sha1 192.168.1.0/24 192.168.2.0/24"
tell gwA "activate 301 10.0.0.2"
sniff unicast.log
hear rcv.log rcv --interface eth0 --count 20
tool srv send --to 192.168.2.10 --count 20 >/dev/null
heard rcv.log
unsniff
is "a unicast SA carries its network" rcv.log count 20
no_clear "unicast: nothing in clear" unicast.log

# --- 11. Many groups ------------------------------------------------------------------------------------------------
for last in $(seq 30); do tell gwB "inbound $(sa $((400 + last)) 239.2.0.$last aes128-gcm)"; done
check "30 groups are joined, more than one socket takes" \
    equals "$(within gwB ip maddr show dev sat0 | grep -c 239.2.0)" 30
tell gwB "remove-inbound 401 239.2.0.1"
check "a group is left with its last SA" equals "$(within gwB ip maddr show dev sat0 | grep -c 239.2.0)" 29
check "the satellite interface is no multicast router's" bash -c '! ip netns exec gwB grep -q sat0 /proc/net/ip_mr_vif'

# --- 12. All gone ---------------------------------------------------------------------------------------------------
tell gwA remove-all
sniff removed.log
pour
unsniff
no_clear "after removal of all SAs: nothing in clear" removed.log
check "after removal of all SAs: no ESP either" bash -c '! grep -q "^esp 10.0.0.1" removed.log'

tell gwA "outbound $(sa 105 $one_way aes256-gcm)"
tell gwA "activate 105 $one_way"
tell gwB "inbound $(sa 105 $one_way aes256-gcm)"
sniff killed.log
tool srv send --to $one_way --interface eth0 --count 600 --interval 1 >/dev/null &
sender=$!
sent gwA 105 50
kill -9 "${probe_pid[gwA]}"
end gwA
pour
wait $sender
unsniff
check "the killed gateway had been sending" grep -q "^esp 10.0.0.1>$one_way spi=105" killed.log
no_clear "killed in the middle: nothing in clear" killed.log
check "killed: the tunnel is gone" bash -c '! ip -n gwA link show tun0'
start gwA
ok "it starts again after the kill"
tell gwA stop
end gwA
tell gwB stop
end gwB
check "stopped: the tunnels are gone" bash -c '! ip -n gwA link show tun0 && ! ip -n gwB link show tun0'
check "stopped: no virtual interface of a multicast router is left" \
    equals "$(within gwB cat /proc/net/ip_mr_vif | wc -l)" 1
check "stopped: no group is left" bash -c '! ip -n gwB maddr show dev sat0 | grep -q 239\\.'
sniff stopped.log
pour
unsniff
no_clear "stopped: nothing in clear" stopped.log

finish
