/* SPDX-License-Identifier: Apache-2.0 */
/* A disk under SQLite that fails where it is told to: a VFS around the system's, for paths with "/faulty-" in them. */
#ifndef SATIPSEC_FAULTY_DISK_H
#define SATIPSEC_FAULTY_DISK_H

enum faulty_disk_mode {
    FAULTY_DISK_FULL = 0,  /* nothing is written: ENOSPC */
    FAULTY_DISK_ERROR = 1, /* nothing is written, or synchronised: EIO */
    FAULTY_DISK_SHORT = 2, /* half is written, then ENOSPC */
    FAULTY_DISK_TORN = 3,  /* half is written, and from then on nothing works: the power is gone */
    FAULTY_DISK_OFF = 4,   /* nothing is written, and nothing works any more */
};

/* Makes it the system everybody opens files with. 0 on success. */
int faulty_disk_install(void);

/* The operation of this number from now on, counted from 0, fails: a write, a synchronisation, a truncation or a
   deletion. Below 0: none does. */
void faulty_disk_plan(long operation, enum faulty_disk_mode mode);

/* Operations since the plan was made. */
long faulty_disk_operations(void);

#endif
