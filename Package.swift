// swift-tools-version: 6.2
// SPDX-License-Identifier: Apache-2.0
import PackageDescription

/// What every target of ours is built with: Swift 6 concurrency checks, strict memory safety, no warnings.
let common: [SwiftSetting] = [
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .treatAllWarnings(as: .error),
]
let product: [SwiftSetting] = common + [.strictMemorySafety()]

/// A module of the product. The import order is DESIGN's; `Tests/TidyTests` checks the `import` lines themselves.
func module(_ name: String, _ dependencies: [Target.Dependency] = []) -> Target {
    .target(name: name, dependencies: dependencies, swiftSettings: product)
}
func tests(of name: String, _ dependencies: [Target.Dependency] = [], resources: [Resource]? = nil) -> Target {
    .testTarget(
        name: "\(name)Tests", dependencies: [.init(stringLiteral: name)] + dependencies, resources: resources,
        swiftSettings: common)
}

let arguments = Target.Dependency.product(name: "ArgumentParser", package: "swift-argument-parser")
let logging = Target.Dependency.product(name: "Logging", package: "swift-log")

let package = Package(
    name: "satipsec",
    products: [
        .executable(name: "gcks", targets: ["gcks"]),
        .executable(name: "satipsec", targets: ["satipsec"]),
        .executable(name: "satemu", targets: ["satemu"]),
        .executable(name: "satsim", targets: ["satsim"]),
        // For bench/, a package of its own.
        .library(name: "KeyTree", targets: ["KeyTree", "Cryptography", "Basics"]),
        .library(name: "KeyServer", targets: ["KeyServer", "SQLiteStore", "Store", "IKEv1", "ISAKMP"]),
        .library(name: "CSQLite", targets: ["CSQLite"]),
        // For fuzz/, another one.
        .library(name: "FuzzTargets", targets: ["FuzzTargets"]),
        .library(name: "Simulator", targets: ["Simulator", "ReliablePush"]),
        // For bench/: the user-space back end with SAs that it is told.
        .executable(name: "dataplane-probe", targets: ["dataplane-probe"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.0"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.0"),
        .package(url: "https://github.com/jpsim/Yams", from: "6.2.0"),
    ],
    targets: [
        // C
        .systemLibrary(name: "COpenSSL", pkgConfig: "libcrypto", providers: [.apt(["libssl-dev"])]),
        .systemLibrary(name: "CLibevent", pkgConfig: "libevent_core", providers: [.apt(["libevent-dev"])]),
        .systemLibrary(name: "CSQLite", pkgConfig: "sqlite3", providers: [.apt(["libsqlite3-dev"])]),
        .systemLibrary(name: "CISAL", pkgConfig: "libisal", providers: [.apt(["libisal-dev"])]),
        .target(name: "CLinux"),

        // Ground
        module("Basics"),
        module("Cryptography", ["Basics", "COpenSSL"]),
        module("Store", ["Basics", "Cryptography"]),
        module("SQLiteStore", ["Store", "Cryptography", "Basics", "CSQLite"]),
        module("Audit", ["Cryptography", "Basics"]),
        module("AuditFile", ["Audit", "Cryptography"]),

        // Protocol, sans-I/O
        module("ISAKMP", ["Basics"]),
        module("IKEv1", ["ISAKMP", "Cryptography", "Basics"]),
        module("KeyTree", ["Cryptography", "Basics"]),
        module("ErasureCode", ["CISAL"]),
        module("ReliablePush", ["ErasureCode", "FMKE", "Basics"]),
        module("FMKE", ["ISAKMP", "IKEv1", "Cryptography", "Basics"]),
        module("ESP", ["Cryptography", "Basics"]),
        module("LinkModel", ["Basics"]),

        // Engines, sans-I/O
        module(
            "KeyServer",
            ["FMKE", "ReliablePush", "KeyTree", "Store", "Audit", "IKEv1", "ISAKMP", "Cryptography", "Basics"]),
        module(
            "GroupMember",
            ["FMKE", "ReliablePush", "KeyTree", "ESP", "Store", "IKEv1", "ISAKMP", "Cryptography", "Basics"]),

        // A whole deployment in virtual time, sans-I/O
        module(
            "Simulator",
            [
                "KeyServer", "GroupMember", "ReliablePush", "KeyTree", "FMKE", "ESP", "LinkModel", "Store", "IKEv1",
                "Cryptography", "Basics",
            ]),

        // Drivers: I/O, operating system, time
        module("EventLoop", ["CLibevent", "CLinux", "Basics"]),
        module("DataPlane", ["EventLoop", "ESP", "CLinux", "Cryptography", "Basics"]),
        module(
            "Settings",
            ["KeyServer", "ReliablePush", "IKEv1", "Cryptography", "Basics", .product(name: "Yams", package: "Yams")]),
        module(
            "DesiredState", ["Settings", "KeyServer", "Store", "Cryptography", "Basics"]),
        module("Control", ["EventLoop", "CLibevent", "Cryptography", "Basics", logging]),
        module("Commands", ["Control", "Settings", "CLinux", arguments, logging]),

        // Programs: wiring only
        .executableTarget(
            name: "gcks",
            dependencies: [
                "KeyServer", "IKEv1", "Commands", "Control", "DesiredState", "EventLoop", "Settings", "Store",
                "SQLiteStore", "Audit", "AuditFile", "Cryptography", "Basics", arguments, logging,
            ],
            swiftSettings: product),
        .executableTarget(
            name: "satipsec",
            dependencies: [
                "GroupMember", "DataPlane", "ESP", "IKEv1", "Commands", "Control", "EventLoop", "Settings",
                "Cryptography",
                "Basics", arguments, logging,
            ],
            swiftSettings: product),
        .executableTarget(
            name: "satemu",
            dependencies: ["LinkModel", "CLinux", "Basics", arguments, .product(name: "Yams", package: "Yams")],
            swiftSettings: product),
        .executableTarget(
            name: "satsim", dependencies: ["Simulator", "ReliablePush", "Basics", arguments], swiftSettings: product),

        // Tests
        tests(of: "Basics"),
        tests(of: "LinkModel", ["Basics"]),
        tests(of: "Audit", ["Cryptography", "Basics"]),
        tests(of: "AuditFile", ["Audit", "Cryptography", "Basics"]),
        // A disk that fails, under SQLite.
        .target(name: "FaultyDisk", dependencies: ["CSQLite"], path: "Tests/FaultyDisk"),
        tests(of: "SQLiteStore", ["Store", "Cryptography", "Basics", "CSQLite", "FaultyDisk"]),
        tests(of: "ErasureCode", ["Basics"]),
        tests(of: "ReliablePush", ["ErasureCode", "FMKE", "Basics"]),
        tests(of: "ISAKMP", ["Basics"]),
        tests(of: "EventLoop", ["Basics"]),
        tests(of: "FMKE", ["ISAKMP", "Cryptography", "Basics"]),
        tests(of: "Control", ["EventLoop", "Basics", logging]),
        tests(of: "DesiredState", ["Settings", "KeyServer", "IKEv1", "Store", "Cryptography", "Basics"]),
        tests(of: "Settings", ["KeyServer", "ReliablePush", "IKEv1", "Cryptography", "Basics"]),
        .testTarget(
            name: "EngineTests",
            dependencies: [
                "Simulator", "KeyServer", "GroupMember", "ReliablePush", "KeyTree", "LinkModel", "FMKE", "ESP", "IKEv1",
                "ISAKMP", "ErasureCode", "Store", "Audit", "Cryptography", "Basics",
            ],
            swiftSettings: common),
        tests(of: "gcks", ["Commands", "Control", "Settings", arguments]),
        tests(of: "satipsec", ["Commands", "Control", "Settings", arguments]),
        tests(of: "Simulator", ["KeyServer", "ReliablePush", "FMKE", "KeyTree", "Cryptography", "Basics"]),
        .testTarget(name: "TidyTests", swiftSettings: common),
        .testTarget(
            name: "DemoTests", dependencies: ["satemu"], exclude: ["test_claims.py", "test_emulator.py"],
            swiftSettings: common),
        .testTarget(
            name: "SystemTests", dependencies: ["gcks", "satipsec"],
            exclude: [
                "apply.py", "audit.py", "crash.py", "ipv6.py", "segment.py", "senders.py", "system.py", "vpn.py",
            ],
            swiftSettings: common),
        .testTarget(
            name: "KernelTests", dependencies: ["dataplane-probe", "gcks", "satipsec"],
            exclude: ["daemons.py", "kernel.py", "network.py", "vpn.py"], swiftSettings: common),
        tests(of: "satemu", ["LinkModel", "Basics"]),
        tests(of: "Cryptography", ["Basics"]),
        tests(of: "ESP", ["Cryptography", "Basics"]),
        tests(of: "KeyTree", ["Cryptography", "Basics"]),
        tests(of: "IKEv1", ["ISAKMP", "Cryptography", "Basics"]),
        tests(of: "DataPlane", ["ESP", "EventLoop", "Cryptography", "Basics", "dataplane-probe"]),
        .target(name: "AllocationCounter", path: "Tests/AllocationCounter"),
        .executableTarget(
            name: "dataplane-probe",
            dependencies: ["DataPlane", "ESP", "EventLoop", "Cryptography", "Basics", "AllocationCounter"],
            path: "Tests/DataPlaneProbe", swiftSettings: common),
        // What the fuzzer in fuzz/ drives, and the tests replay.
        .target(
            name: "FuzzTargets",
            dependencies: [
                "KeyServer", "FMKE", "ReliablePush", "ErasureCode", "KeyTree", "ESP", "IKEv1", "ISAKMP", "Settings",
                "Control", "Store", "Cryptography", "Basics",
            ],
            path: "Tests/FuzzTargets", swiftSettings: common),
        .testTarget(name: "FuzzTests", dependencies: ["FuzzTargets", "Basics"], swiftSettings: common),
        // Foreign programs judge us; the probe puts one endpoint on real sockets for them.
        .executableTarget(
            name: "phase1-probe", dependencies: ["IKEv1", "ISAKMP", "Cryptography", "Basics"],
            path: "Tests/Phase1Probe", swiftSettings: common),
        .testTarget(name: "JudgeTests", dependencies: ["phase1-probe"], swiftSettings: common),
    ],
    swiftLanguageModes: [.v6]
)
