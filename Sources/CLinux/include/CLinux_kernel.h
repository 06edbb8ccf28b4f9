/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel's IPsec: the messages of NETLINK_XFRM and NETLINK_ROUTE, and sockets for them and for PF_KEY. */
#ifndef SATIPSEC_CLINUX_KERNEL_H
#define SATIPSEC_CLINUX_KERNEL_H
#include <netinet/in.h>
#include <linux/fib_rules.h>
#include <linux/if_link.h>
#include <linux/ipsec.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/xfrm.h>

/* A netlink socket of that protocol, blocking with a time limit of some seconds; `group`, when not 0, is a multicast
   group to hear. Its negative errno otherwise. */
int clinux_netlink_open(int protocol, int group);
/* A PF_KEYv2 socket, of the same kind. */
int clinux_pfkey_open(void);

#endif
