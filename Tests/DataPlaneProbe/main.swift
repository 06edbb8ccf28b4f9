// SPDX-License-Identifier: Apache-2.0

// Runs a user-space back end with SAs that come line by line on standard input; for the gateway test only.
Probe.main()
