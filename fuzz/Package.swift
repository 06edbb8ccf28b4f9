// swift-tools-version: 6.2
// SPDX-License-Identifier: Apache-2.0
import PackageDescription

// A package of its own: it is built with libFuzzer and the address sanitizer (scripts/fuzz.sh), the programs are not.
let package = Package(
    name: "fuzz",
    dependencies: [.package(name: "satipsec", path: "..")],
    targets: [
        .target(name: "CFuzzer"),
        .executableTarget(
            name: "fuzz", dependencies: ["CFuzzer", .product(name: "FuzzTargets", package: "satipsec")],
            swiftSettings: [.treatAllWarnings(as: .error), .unsafeFlags(["-parse-as-library"])])
    ],
    swiftLanguageModes: [.v6]
)
