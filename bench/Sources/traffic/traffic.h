/* SPDX-License-Identifier: Apache-2.0 */
/* What the pieces of this program share. Nothing here is fit for anything but the benchmark: a mistake ends it. */
#ifndef SATIPSEC_TRAFFIC_H
#define SATIPSEC_TRAFFIC_H
#include <stddef.h>
#include <stdint.h>

/* Ends the program with what went wrong, and errno's words. */
_Noreturn void die(const char *what);
/* Seconds of a monotonic clock, and of this process's processor time. */
double wall_seconds(void);
double cpu_seconds(void);
/* A whole number from an argument. */
long number(const char *text);
/* An interface's index; ends the program for a name that does not exist. */
int interface_index(const char *name);

int tcp_main(int count, char **argument);
int parts_main(int count, char **argument);
#endif
