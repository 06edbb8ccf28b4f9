// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import ESP

/// Writes the packets of one batch to the tunnel, and what belongs to one flow in one piece: the kernel's way from the
/// tunnel to an application, and above all the application's wake-up, is taken once instead of for each datagram.
@safe final class TunnelWriter {
    private let descriptor: Int32
    private let gather: OpaquePointer
    /// What is gathered; `run.count` is 0 when nothing is.
    private var run = DatagramRun()
    private var first: UnsafeMutablePointer<UInt8>?
    private var firstCount = 0
    /// Packets written since the last `flush`, and packets the kernel did not take.
    private var written: UInt64 = 0
    private var failed: UInt64 = 0

    /// Datagrams in one piece, at most: what the kernel cuts at once.
    private static let longest = 64

    /// - Parameter descriptor: of a tunnel with headers; stays the caller's.
    init(descriptor: Int32) {
        self.descriptor = descriptor
        guard let gather = unsafe clinux_gather_new(UInt32(Self.longest)) else {
            preconditionFailure("memory for a list of packets is there at the start")
        }
        unsafe self.gather = unsafe gather
    }

    deinit { unsafe clinux_gather_free(gather) }

    /// Writes a packet, now or with the next `flush`: its octets must stay until then, and may be changed.
    func append(_ packet: UnsafeMutablePointer<UInt8>, count: Int) {
        let octets = unsafe Span(_unsafeStart: packet, count: count)
        if run.count > 0, run.count < Self.longest, run.extend(octets) {
            unsafe add(packet + DatagramRun.header, count - DatagramRun.header)
            return
        }
        writeRun()
        let mayGrow = run.begin(octets)
        unsafe first = packet
        firstCount = count
        unsafe add(packet, count)
        if !mayGrow { write(packets: 1, segment: 0) }
    }

    /// Writes what is left; gives how many packets were written, and how many failed, since the last time.
    func flush() -> (written: UInt64, failed: UInt64) {
        writeRun()
        defer { (written, failed) = (0, 0) }
        return (written, failed)
    }

    private func writeRun() {
        guard run.count > 0 else { return }
        if run.count > 1 {
            var header = unsafe MutableSpan(_unsafeStart: first!, count: firstCount)  // set where the run began
            run.writeHeader(&header)
        }
        write(packets: UInt64(run.count), segment: run.count > 1 ? run.segment : 0)
        run = DatagramRun()
    }

    private func add(_ octets: UnsafeMutablePointer<UInt8>, _ count: Int) {
        let result = unsafe clinux_gather_add(gather, octets, UInt32(count))
        precondition(result == 0, "a run is not longer than the list")
    }

    private func write(packets: UInt64, segment: Int) {
        let result = unsafe clinux_gather_write(
            gather, descriptor, UInt32(DatagramRun.header), UInt32(segment))
        if result == 0 { written &+= packets } else { failed &+= packets }
    }
}
