// SPDX-License-Identifier: Apache-2.0
import Basics
import FMKE
import ISAKMP
import Testing

@Suite struct DigestTests {
    /// SHA-256 of 0000000a 0000000000000005 0000000b 0000000000000008, computed by Python's hashlib.
    @Test func itIsWhatTheDocumentSays() throws {
        let digest = ReportDigest([11: 8, 10: 5])
        #expect(digest.payload.type == PayloadType(rawValue: 139))
        #expect(hexadecimal(digest.payload.body) == "a291f037b904cf6c")
        #expect(ReportDigest(payloads: [digest.payload]) == digest)
        for other in [[10: 5], [10: 5, 11: 7], [10: 5, 12: 8], [:]] as [[UInt32: UInt64]] {
            #expect(ReportDigest(other) != digest)
        }
    }

    @Test func anythingElseIsNone() {
        let body = ReportDigest([1: 2]).payload.body
        #expect(ReportDigest(payloads: []) == nil)
        #expect(ReportDigest(payloads: [RawPayload(.report, body)]) == nil)
        #expect(ReportDigest(payloads: [RawPayload(.digest, Array(body.dropLast()))]) == nil)
        #expect(ReportDigest(payloads: [RawPayload(.digest, body + [0])]) == nil)
        #expect(ReportDigest(payloads: [RawPayload(.digest, body), RawPayload(.digest, body)]) == nil)
    }
}
