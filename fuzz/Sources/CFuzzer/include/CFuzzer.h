/* SPDX-License-Identifier: Apache-2.0 */
/* The package manager wants a `fuzz_main` of each program; libFuzzer has the loop. */
#ifndef SATIPSEC_CFUZZER_H
#define SATIPSEC_CFUZZER_H
int fuzz_main(int argc, char **argv);
#endif
