/* SPDX-License-Identifier: Apache-2.0 */
/* What SQLiteStore uses of SQLite 3. */
#ifndef SATIPSEC_CSQLITE_SHIM_H
#define SATIPSEC_CSQLITE_SHIM_H
#include <sqlite3.h>
#endif
