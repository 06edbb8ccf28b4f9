/* SPDX-License-Identifier: Apache-2.0 */
/* libevent's event-config.h defines _GNU_SOURCE; features.h and select.h must be seen first, or Swift finds two
   different definitions of fd_set. */
#ifndef SATIPSEC_CLIBEVENT_SHIM_H
#define SATIPSEC_CLIBEVENT_SHIM_H
#include <features.h>
#include <sys/select.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/http.h>
#include <event2/keyvalq_struct.h>
#include <event2/listener.h>
#include <event2/thread.h>
#include <event2/util.h>
#endif
