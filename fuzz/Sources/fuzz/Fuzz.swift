// SPDX-License-Identifier: Apache-2.0
import CFuzzer
import FuzzTargets
import Glibc

// fuzz is a libFuzzer program: the loop is the library's. FUZZ_TARGET names the reader to drive; with FUZZ_SEEDS=FOLDER it
// writes inputs to begin with and ends. scripts/fuzz.sh does both.

nonisolated(unsafe) private var target = FuzzTarget.isakmp

@_cdecl("LLVMFuzzerInitialize")
public func initialize(
    _ count: UnsafeMutablePointer<CInt>, _ arguments: UnsafeMutablePointer<UnsafeMutablePointer<CChar>>
) -> CInt {
    let name = getenv("FUZZ_TARGET").map { String(cString: $0) } ?? ""
    guard let chosen = FuzzTarget(rawValue: name) else {
        print("FUZZ_TARGET is one of: " + FuzzTarget.allCases.map(\.rawValue).joined(separator: " "))
        exit(64)
    }
    target = chosen
    if let folder = getenv("FUZZ_SEEDS") {
        for (number, seed) in target.seeds.enumerated() {
            write(seed, to: "\(String(cString: folder))/seed-\(number)")
        }
        exit(0)
    }
    return 0
}

@_cdecl("LLVMFuzzerTestOneInput")
public func test(_ data: UnsafePointer<UInt8>, _ size: Int) -> CInt {
    target.run(Array(UnsafeBufferPointer(start: data, count: size)))
    return 0
}

private func write(_ octets: [UInt8], to path: String) {
    guard let file = fopen(path, "w") else { return perror(path) }
    fwrite(octets, 1, octets.count, file)
    fclose(file)
}
