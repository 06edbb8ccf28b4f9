/* SPDX-License-Identifier: Apache-2.0 */
#include "FaultyDisk.h"

#include <sqlite3.h>
#include <string.h>

struct faulty_file {
    sqlite3_file base;
    int is_watched;
    sqlite3_file *real;
};

static sqlite3_vfs disk;
static sqlite3_vfs *below;
static long planned = -1, operations;
static enum faulty_disk_mode mode;
static int is_dead;

static struct faulty_file *file(sqlite3_file *any) { return (struct faulty_file *)any; }
static sqlite3_file *real(sqlite3_file *any) { return file(any)->real; }

/* Whether the next operation is the one to fail. */
static int fails(int is_watched) {
    if (!is_watched) return 0;
    if (is_dead) return 1;
    if (operations++ != planned) return 0;
    is_dead = mode == FAULTY_DISK_TORN || mode == FAULTY_DISK_OFF;
    return 1;
}

static int close_file(sqlite3_file *any) {
    int code = real(any)->pMethods ? real(any)->pMethods->xClose(real(any)) : SQLITE_OK;
    sqlite3_free(real(any));
    return code;
}

static int read_file(sqlite3_file *any, void *octets, int count, sqlite3_int64 offset) {
    if (file(any)->is_watched && is_dead) return SQLITE_IOERR_READ;
    return real(any)->pMethods->xRead(real(any), octets, count, offset);
}

static int write_file(sqlite3_file *any, const void *octets, int count, sqlite3_int64 offset) {
    int was_dead = is_dead;
    if (!fails(file(any)->is_watched)) return real(any)->pMethods->xWrite(real(any), octets, count, offset);
    if (was_dead) return SQLITE_IOERR_WRITE;
    if (mode == FAULTY_DISK_SHORT || mode == FAULTY_DISK_TORN)
        real(any)->pMethods->xWrite(real(any), octets, count / 2, offset);
    return mode == FAULTY_DISK_FULL || mode == FAULTY_DISK_SHORT ? SQLITE_FULL : SQLITE_IOERR_WRITE;
}

static int truncate_file(sqlite3_file *any, sqlite3_int64 size) {
    if (fails(file(any)->is_watched)) return SQLITE_IOERR_TRUNCATE;
    return real(any)->pMethods->xTruncate(real(any), size);
}

static int sync_file(sqlite3_file *any, int flags) {
    if (fails(file(any)->is_watched)) return SQLITE_IOERR_FSYNC;
    return real(any)->pMethods->xSync(real(any), flags);
}

static int file_size(sqlite3_file *any, sqlite3_int64 *size) { return real(any)->pMethods->xFileSize(real(any), size); }
static int lock_file(sqlite3_file *any, int level) { return real(any)->pMethods->xLock(real(any), level); }
static int unlock_file(sqlite3_file *any, int level) { return real(any)->pMethods->xUnlock(real(any), level); }
static int check_lock(sqlite3_file *any, int *result) {
    return real(any)->pMethods->xCheckReservedLock(real(any), result);
}
static int control_file(sqlite3_file *any, int word, void *argument) {
    return real(any)->pMethods->xFileControl(real(any), word, argument);
}
static int sector_size(sqlite3_file *any) { return real(any)->pMethods->xSectorSize(real(any)); }
/* No promises: writes may tear. */
static int characteristics(sqlite3_file *any) { return (void)any, 0; }

/* Version 1: no shared memory, which a database that is locked as a whole does not need. */
static const sqlite3_io_methods methods = {
    .iVersion = 1,
    .xClose = close_file,
    .xRead = read_file,
    .xWrite = write_file,
    .xTruncate = truncate_file,
    .xSync = sync_file,
    .xFileSize = file_size,
    .xLock = lock_file,
    .xUnlock = unlock_file,
    .xCheckReservedLock = check_lock,
    .xFileControl = control_file,
    .xSectorSize = sector_size,
    .xDeviceCharacteristics = characteristics,
};

static int is_watched(const char *path) { return path && strstr(path, "/faulty-") != NULL; }

static int open_file(sqlite3_vfs *vfs, const char *path, sqlite3_file *any, int flags, int *out) {
    (void)vfs;
    if (!is_watched(path)) return below->xOpen(below, path, any, flags, out);
    struct faulty_file *made = file(any);
    made->base.pMethods = NULL;
    if (is_dead) return SQLITE_CANTOPEN;
    made->is_watched = 1;
    made->real = sqlite3_malloc(below->szOsFile);
    if (!made->real) return SQLITE_NOMEM;
    memset(made->real, 0, (size_t)below->szOsFile);
    int code = below->xOpen(below, path, made->real, flags, out);
    if (code == SQLITE_OK)
        made->base.pMethods = &methods;
    else
        sqlite3_free(made->real);
    return code;
}

static int delete_file(sqlite3_vfs *vfs, const char *path, int is_synchronised) {
    (void)vfs;
    if (fails(is_watched(path))) return SQLITE_IOERR_DELETE;
    return below->xDelete(below, path, is_synchronised);
}

int faulty_disk_install(void) {
    if (below) return SQLITE_OK;
    below = sqlite3_vfs_find(NULL);
    if (!below) return SQLITE_ERROR;
    disk = *below;
    disk.zName = "faulty-disk";
    if (disk.szOsFile < (int)sizeof(struct faulty_file)) disk.szOsFile = (int)sizeof(struct faulty_file);
    disk.pNext = NULL;
    disk.xOpen = open_file;
    disk.xDelete = delete_file;
    return sqlite3_vfs_register(&disk, 1);
}

void faulty_disk_plan(long operation, enum faulty_disk_mode how) {
    planned = operation, mode = how, operations = 0, is_dead = 0;
}

long faulty_disk_operations(void) { return operations; }
