// SPDX-License-Identifier: Apache-2.0

// Runs a back end with SAs that come line by line on standard input; for the tests of gateways only.
Probe.main()
