// SPDX-License-Identifier: Apache-2.0

// Commands owns what the command lines of both programs have in common: how a command finds the daemon and shows its
// answer, how a daemon is started, how a configuration file is checked, and what exit codes mean.
