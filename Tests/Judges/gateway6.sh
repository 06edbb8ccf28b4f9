#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What gateway.sh does with IPv4, with both families at the same time:
#
#   srv fd01::10 --- lan0 [gwA] sat0 fd10::1 --+-- fd10::2 sat0 [gwB] lan0 --- fd02::10 rcv
#       192.168.1.10            10.0.0.1       |   10.0.0.2                    192.168.2.10
#                                      outsider fd10::9, 10.0.0.9
#
# usage: gateway6.sh PROBE      (PROBE: the built dataplane-probe)
. "$(dirname "$0")/gateway_lib.sh"

# --- The network ----------------------------------------------------------------------------------------------------
sites
satellite ageing_time 0
address() { # NAMESPACE INTERFACE ADDRESS [PREFERRED-LIFETIME]
    within "$1" ip addr add "$3" dev "$2" ${4:+preferred_lft $4}
}
address srv eth0 fd01::10/64; address gwA lan0 fd01::1/64
address rcv eth0 fd02::10/64; address gwB lan0 fd02::1/64
address rcv eth0 192.168.3.10/24; address gwB lan0 192.168.3.1/24
address rcv eth0 fd03::10/64 0; address gwB lan0 fd03::1/64
address gwA sat0 fd10::1/64; address gwB sat0 fd10::2/64; address out sat0 fd10::9/64
for host in srv:1 rcv:2; do
    within ${host%:*} ip route add default via 192.168.${host#*:}.1
    within ${host%:*} ip -6 route add default via fd0${host#*:}::1
done
for gateway in gwA gwB; do
    within $gateway sysctl -qw net.ipv6.conf.all.forwarding=1
    within $gateway ip -6 route add default dev sat0
done
within gwA ip neigh add fd02::10 lladdr 02:00:00:00:00:77 dev sat0 nud permanent # as if it were on the link

one_way=ff15::1:1 two_way=ff15::1:2 old_way=239.1.1.1
sa() { # SPI GROUP SUITE: for the commands inbound and outbound
    case $2 in *:*) echo "$1 $2 $3 ::/0 $2/128" ;; *) echo "$1 $2 $3 0.0.0.0/0 $2/32" ;; esac
}
# Everything that could leak, from both sides and from the gateways themselves.
pour() {
    tool srv send --to $one_way --interface eth0 --count 10 --interval 1 >/dev/null &
    local a=$!
    tool srv send --to fd02::10 --count 10 --interval 1 >/dev/null 2>&1 &
    local b=$!
    within srv ping -6 -q -c 3 -i 0.01 -W 0.1 fd02::10 >/dev/null 2>&1
    tool rcv send --to $two_way --interface eth0 --count 10 --interval 1 >/dev/null 2>&1
    tool gwA send --to $one_way --count 10 --interval 1 >/dev/null 2>&1
    tool gwA send --to fd10::9 --count 10 --interval 1 >/dev/null 2>&1
    within gwA ping -6 -q -c 3 -i 0.01 -W 0.1 fd10::9 >/dev/null 2>&1
    wait $a $b
}

# --- 1. Without and with the guard ----------------------------------------------------------------------------------
sniff bare.log
pour
unsniff
check "the sniffer does see clear packets when nothing keeps them in" [ "$(total bare.log clear-total)" -gt 0 ]
check "and echo requests among them" grep -q "^clear fd01::10>fd02::10 protocol 58" bare.log
hear rcv.log rcv --v6 --interface eth0 --count 5
tool out forge clear --interface sat0 --source fd10::9 --to fd02::10 --mac "$macB" >/dev/null
heard rcv.log
is "and the outsider's packets do reach the receiver" rcv.log count 5
for gateway in gwA gwB; do
    "$probe" ruleset interface=sat0 terrestrial=lan0 >guard.nft
    within $gateway nft -f guard.nft || fail "the guard's rules do not load in $gateway"
done
sniff never.log
pour
unsniff
no_clear "never started: nothing in clear, no echo request either" never.log
within gwA ip neigh flush dev sat0
within out ip neigh flush dev sat0
tool gwA send --to fd10::9 --count 1 >/dev/null 2>&1
sleep 0.2
check "neighbour discovery passes the guard" \
    bash -c 'ip -n gwA neigh show fd10::9 dev sat0 | grep -q lladdr'

# --- 2. Start -------------------------------------------------------------------------------------------------------
start gwA
start gwB
within gwA "$probe" tunnel=tun9 </dev/null >refused.log 2>&1
check "a second multicast router is told so" grep -q "another multicast router is running" refused.log
status gwA
is "both addresses of the satellite interface are used" gwA.answer addresses 10.0.0.1,fd10::1
is "the tunnel's MTU leaves room for the default suite" gwA.answer mtu 1446
is "and that for IPv6 for the larger outer header" gwA.answer mtu-v6 1426
is "nothing to warn of" gwA.answer warnings 0
check "the tunnel has no address" bash -c '! ip -n gwA addr show tun0 | grep -q inet'
sniff before.log
pour
unsniff
no_clear "running without SAs: nothing in clear" before.log
check "running without SAs: no ESP either" bash -c '! grep -q ^esp before.log'

# --- 3. One way -----------------------------------------------------------------------------------------------------
sniff mld.log
tell gwB "inbound $(sa 101 $one_way aes256-gcm)"
check "the group is joined on the satellite side" bash -c "ip -n gwB maddr show dev sat0 | grep -q $one_way"
tell gwA "outbound $(sa 101 $one_way aes256-gcm)"
tell gwA "activate 101 $one_way"
delivered() { within gwB awk '$1 == "Ip6InDelivers" { print $2 }' /proc/net/snmp6; }
before=$(delivered)
hear rcv.log rcv --groups $one_way --interface eth0 --count 200
tool srv send --to $one_way --interface eth0 --count 200 --interval 1 --tos 137 >/dev/null
heard rcv.log
unsniff
stack=$(($(delivered) - before))
check "one way: the receiver's IP stack sees none of them ($stack packets)" [ $stack -lt 100 ]
is "one way: every packet arrives" rcv.log count 200
is "one way: in order" rcv.log ordered yes
is "one way: the inner source is kept" rcv.log sources fd01::10
is "one way: each router takes one from the hop limit" rcv.log ttl 6
is "one way: the inner traffic class is kept" rcv.log tos 137
no_clear "one way: nothing in clear" mld.log
check "one way: outer source and destination are gateway and group" \
    equals "$(total mld.log "esp fd10::1>$one_way spi=101")" 200
check "one way: DSCP and ECN field show outside" equals "$(total mld.log "tos 137")" 200
check "one way: the outer hop limit is ours" equals "$(total mld.log "hops 64")" 200
check "one way: the outer flow label says nothing" equals "$(total mld.log "label 0")" 200
check "MLD passes the guard" grep -q "^icmp6 count=" mld.log
status gwA
check "the kernel's own packets stay in the tunnel" [ "$(field gwA.answer kernel)" -gt 0 ]

# --- 4. Both ways, and IPv4 beside it -------------------------------------------------------------------------------
for gateway in gwA gwB; do
    for group in "201 $two_way aes256-sha256" "301 $old_way aes128-gcm"; do
        tell $gateway "inbound $(sa $group)"
        tell $gateway "outbound $(sa $group)"
        tell $gateway "activate ${group% *}"
    done
done
sniff both.log
hear rcv.log rcv --groups $two_way --interface eth0 --count 100
hear srv.log srv --groups $two_way --interface eth0 --count 100
hear rcv4.log rcv --groups $old_way --interface eth0 --count 100 --port 5001
tool srv send --to $two_way --interface eth0 --count 100 >/dev/null &
a=$!
tool srv send --to $old_way --interface eth0 --count 100 --port 5001 >/dev/null &
b=$!
tool rcv send --to $two_way --interface eth0 --count 100 >/dev/null
wait $a $b
heard rcv.log
heard srv.log
heard rcv4.log
unsniff
is "both ways: A to B" rcv.log count 100
is "both ways: A to B, from srv only" rcv.log sources fd01::10
is "both ways: B to A" srv.log count 100
is "both ways: B to A, from rcv only" srv.log sources fd02::10
is "IPv4 at the same time" rcv4.log count 100
no_clear "both ways: nothing in clear" both.log
check "IPv4: no packet to a group says don't fragment" equals "$(total both.log df)" ""
check "both ways: no packet goes round" \
    equals "$(total both.log "esp fd10::1>$two_way spi=201")/$(total both.log "esp fd10::2>$two_way spi=201")" 100/100

# --- 5. Roll-over ---------------------------------------------------------------------------------------------------
hear rcv.log rcv --groups $one_way --interface eth0 --count 1000
tool srv send --to $one_way --interface eth0 --count 1000 --interval 1 >/dev/null &
sender=$!
sent gwA 101 300
for spi in 102 103; do
    sleep 0.1
    tell gwB "inbound $(sa $spi $one_way aes128-gcm)"
    tell gwA "outbound $(sa $spi $one_way aes128-gcm)"
    tell gwA "activate $spi $one_way"
    tell gwA "remove-outbound $((spi - 1)) $one_way"
    sleep 0.1
    tell gwB "remove-inbound $((spi - 1)) $one_way"
done
wait $sender
heard rcv.log
is "two roll-overs lose nothing" rcv.log count 1000
is "two roll-overs keep the order" rcv.log ordered yes

# --- 6. What the outsider sends -------------------------------------------------------------------------------------
hear app.log gwB --groups $one_way --interface tun0 --count 1000
hear rcv.log rcv --groups $one_way $two_way --interface eth0 --count 1000
tool out forge clear --interface sat0 --source fd01::10 --to $one_way >/dev/null
tool out forge clear --interface sat0 --source fd10::1 --to $one_way >/dev/null
tool out forge clear --interface sat0 --source fd01::10 --to fd02::10 --mac "$macB" >/dev/null
tool out forge esp --interface sat0 --source fd10::1 --to $one_way --spi 103 >/dev/null
tool out forge esp --interface sat0 --source fd10::1 --to $one_way --spi 999 >/dev/null
hush rcv.log app.log
is "forged packets in clear and forged ESP do not reach the receiver" rcv.log count 0
is "nor an application on the gateway" app.log count 0
status gwB
is "forged ESP is counted as not authentic" gwB.answer drop-notAuthentic 5
is "ESP of an unknown SA is counted" gwB.answer drop-unknownSPI 5
tool out forge replay --interface sat0 --source fd10::1 --count 3 >forge.log &
forger=$!
hear rcv.log rcv --groups $one_way --interface eth0 --count 1000
await forge.log '^ready'
tool srv send --to $one_way --interface eth0 --count 5 >/dev/null
wait $forger
hush rcv.log
is "replayed ESP is delivered once" rcv.log count 5
status gwB
is "replayed ESP is counted" gwB.answer drop-replay 15

# --- 7. Packets larger than the tunnel ------------------------------------------------------------------------------
hear rcv.log rcv --groups $one_way --interface eth0 --count 9
tool srv send --to $one_way --interface eth0 --count 10 --size 1452 --interval 20 >/dev/null
heard rcv.log
is "the kernel tells the sender of a large multicast, whose next ones come as fragments" rcv.log count 9
is "and arrive whole" rcv.log size 1452

# --- 8. Unicast: four nestings --------------------------------------------------------------------------------------
nesting() { # SPI OUTER INNER-SOURCE INNER-NETWORK
    tell gwA "outbound $1 $2 aes128-sha1 $3 $4"
    tell gwB "inbound $1 $2 aes128-sha1 $3 $4"
    tell gwA "activate $1 $2"
}
nesting 401 10.0.0.2 192.168.1.0/24 192.168.2.0/24
nesting 402 10.0.0.2 fd01::/64 fd02::/64
nesting 403 fd10::2 192.168.1.0/24 192.168.3.0/24
nesting 404 fd10::2 fd01::/64 fd03::/64
for one in "401 192.168.2.10 10.0.0.1>10.0.0.2" "402 fd02::10 10.0.0.1>10.0.0.2" \
    "403 192.168.3.10 fd10::1>fd10::2" "404 fd03::10 fd10::1>fd10::2"; do
    read -r spi inner outer <<<"$one"
    sniff unicast.log
    case $inner in *:*) v6=--v6 ;; *) v6= ;; esac
    hear rcv.log rcv --interface eth0 --count 20 $v6
    tool srv send --to "$inner" --count 20 >/dev/null
    heard rcv.log
    unsniff
    is "unicast to $inner in $outer arrives" rcv.log count 20
    is "unicast to $inner in $outer: routers take one each" rcv.log ttl 6
    check "unicast to $inner: by its SA" equals "$(total unicast.log "esp $outer spi=$spi")" 20
    no_clear "unicast to $inner: nothing in clear" unicast.log
done

sniff df.log
hear rcv.log rcv --interface eth0 --count 20
tool srv send --to 192.168.2.10 --count 10 --df >/dev/null
tool srv send --to 192.168.2.10 --count 10 >/dev/null
heard rcv.log
unsniff
check "to a peer DF is outside as it is inside" equals "$(total df.log df)" 10

# --- 9. Congestion marks on the way ---------------------------------------------------------------------------------
within gwB nft -f - <<'RULES'
table netdev congestion {
  chain ingress {
    type filter hook ingress device "sat0" priority -600; policy accept;
    ip protocol esp ip ecn set ce
    ip6 nexthdr esp ip6 ecn set ce
  }
}
RULES
for inner in 192.168.2.10 fd02::10 192.168.3.10 fd03::10; do
    case $inner in *:*) v6=--v6 ;; *) v6= ;; esac
    hear rcv.log rcv --interface eth0 --count 5 $v6
    tool srv send --to "$inner" --count 5 --tos 137 >/dev/null
    heard rcv.log
    check "a congestion mark outside reaches $inner" equals "$(field rcv.log count)/$(field rcv.log tos)" 5/139
done
tool srv send --to fd03::10 --count 5 --tos 136 >/dev/null
sleep 0.1
status gwB
is "where the sender knows no marks, the packet is dropped" gwB.answer drop-congestion 5
within gwB nft delete table netdev congestion

# --- 10. Segments of TCP --------------------------------------------------------------------------------------------
tell gwB "outbound 405 10.0.0.1 aes128-sha1 192.168.2.0/24 192.168.1.0/24"
tell gwA "inbound 405 10.0.0.1 aes128-sha1 192.168.2.0/24 192.168.1.0/24"
tell gwB "activate 405 10.0.0.1"
for gateway in gwA gwB; do
    "$probe" ruleset interface=sat0 terrestrial=lan0 clamp=tun0 >guard.nft
    within $gateway nft -f guard.nft || fail "the guard's rules with the clamp do not load in $gateway"
done
: >listen.log
tool rcv connection 192.168.2.10 --listen >listen.log &
listener=$!
await listen.log '^ready'
tool srv connection 192.168.2.10 >connect.log
wait $listener
check "TCP agrees on segments that fit the tunnel (with time stamps)" \
    equals "$(field connect.log mss)/$(field listen.log mss)" 1386/1370

# --- 11. Path MTU ---------------------------------------------------------------------------------------------------
too_big() { # SPI MTU: the outsider plays a router
    case $1 in
        401) tool out forge toobig --interface sat0 --source 10.0.0.9 --to 10.0.0.1 --peer 10.0.0.2 --mac "$macA" \
            --spi "${3:-$1}" --sequence 3 --mtu "$2" --count 1 ;;
        404) tool out forge toobig --interface sat0 --source fd10::9 --to fd10::1 --peer fd10::2 --mac "$macA" \
            --spi "${3:-$1}" --sequence 3 --mtu "$2" --count 1 ;;
    esac >/dev/null
    sleep 0.1
    status gwA
}
too_big 401 1000 4711
is "a message that quotes no SA of ours is not believed" gwA.answer path-10.0.0.2 ""
too_big 404 1300 4711
is "nor one over IPv6" gwA.answer path-fd10::2 ""
too_big 401 1000
is "fragmentation needed: the path's MTU is noted" gwA.answer path-10.0.0.2 1000
too_big 404 1300
is "packet too big: the path's MTU is noted" gwA.answer path-fd10::2 1300
tool srv send --to 192.168.2.10 --count 10 --size 1200 --df --interval 20 >sent.log 2>&1
check "a sender that sets DF is told" grep -q "failures=[6-9]" sent.log
hear rcv.log rcv --interface eth0 --count 10
tool srv send --to 192.168.2.10 --count 10 --size 1200 >/dev/null
heard rcv.log
is "without DF the outer packet may be cut" rcv.log count 10
hear rcv.log rcv --v6 --interface eth0 --count 9
tool srv send --to fd03::10 --count 10 --size 1340 --interval 20 >/dev/null
heard rcv.log
is "an IPv6 sender is told, and cuts its packets" rcv.log count 9
too_big 401 100
is "no less than 576 is believed" gwA.answer path-10.0.0.2 576
too_big 404 100
is "nor less than 1280 over IPv6" gwA.answer path-fd10::2 1280

# --- 12. All gone ----------------------------------------------------------------------------------------------------
tell gwB "inbound $(sa 105 $one_way aes256-gcm)"
tell gwA "outbound $(sa 105 $one_way aes256-gcm)"
tell gwA "activate 105 $one_way"
sniff killed.log
tool srv send --to $one_way --interface eth0 --count 400 --interval 1 >/dev/null &
sender=$!
sent gwA 105 50
kill -9 "${probe_pid[gwA]}"
end gwA
pour
wait $sender
unsniff
check "the killed gateway had been sending" grep -q "^esp fd10::1>$one_way spi=105" killed.log
no_clear "killed in the middle: nothing in clear" killed.log
check "killed: the tunnel is gone" bash -c '! ip -n gwA link show tun0'
start gwA
tell gwA remove-all
tell gwA stop
end gwA
tell gwB stop
end gwB
check "stopped: the tunnels are gone" bash -c '! ip -n gwA link show tun0 && ! ip -n gwB link show tun0'
check "stopped: no interface of a multicast router is left" \
    equals "$(within gwB cat /proc/net/ip6_mr_vif | wc -l)" 1
check "stopped: no group is left" bash -c '! ip -n gwB maddr show dev sat0 | grep -q ff15'

# --- 13. Outer fragments --------------------------------------------------------------------------------------------
start gwA mtu=1600 dscp=46
start gwB mtu=1600
new_way=ff15::1:3 # srv has learned nothing of its path yet
for spi in "501 $new_way" "502 $old_way"; do
    tell gwB "inbound $(sa $spi aes256-gcm)"
    tell gwA "outbound $(sa $spi aes256-gcm)"
    tell gwA "activate $spi"
done
sniff fragments.log
for group in $new_way $old_way; do
    hear rcv.log rcv --groups $group --interface eth0 --count 10
    tool srv send --to $group --interface eth0 --count 10 --size 1452 >/dev/null
    heard rcv.log
    is "fragments of ESP to $group are put together again" rcv.log count 10
done
unsniff

check "the configured DSCP shows outside" equals "$(total fragments.log "tos 184")" 40
check "they were fragments over IPv6" equals "$(total fragments.log "esp fd10::1>$new_way spi=0")" 10
check "they were fragments over IPv4" equals "$(total fragments.log "esp 10.0.0.1>$old_way spi=0")" 10
no_clear "fragments: nothing in clear" fragments.log
tell gwA stop
end gwA
tell gwB stop
end gwB

finish
