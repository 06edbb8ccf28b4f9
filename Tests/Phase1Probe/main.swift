// SPDX-License-Identifier: Apache-2.0

// A test program, not part of the product: one phase 1 endpoint on two UDP sockets, for other implementations to talk
// to. It prints one line per event and ends by itself.

import Glibc

do {
    exit(try Probe(options: Options(CommandLine.arguments.dropFirst())).run())
} catch {
    print("usage: phase1-probe initiate|respond --local A --remote A --identity N --peer N --suite S --psk-file F")
    print("       [--port P] [--key-log F] [--seconds N] [--hold N] [--dpd N]")
    print("error \(error)")
    exit(64)
}
