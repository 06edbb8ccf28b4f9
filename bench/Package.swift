// swift-tools-version: 6.2
// SPDX-License-Identifier: Apache-2.0
import PackageDescription

// A package of its own, so that what measures never reaches those who use the programs.
let package = Package(
    name: "bench",
    dependencies: [.package(name: "satipsec", path: "..")],
    targets: [
        .target(name: "CPeer"),
        // Sends, counts and times packets for the case `dataplane`.
        .executableTarget(name: "traffic", linkerSettings: [.linkedLibrary("crypto")]),
        .executableTarget(
            name: "bench",
            dependencies: [
                "CPeer", .product(name: "KeyTree", package: "satipsec"),
                .product(name: "Simulator", package: "satipsec"),
                .product(name: "KeyServer", package: "satipsec"), .product(name: "CSQLite", package: "satipsec"),
            ],
            swiftSettings: [.treatAllWarnings(as: .error)]),
    ],
    swiftLanguageModes: [.v6]
)
