//! Two smoltcp hosts on two network devices, and what the adapter does when things go wrong.

#[path = "support/net.rs"]
mod wire;

use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{Device as _, RxToken as _, TxToken as _};
use smoltcp::socket::{icmp, tcp, udp};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{
    EthernetAddress, HardwareAddress, Icmpv4Packet, Icmpv4Repr, IpAddress, IpCidr, Ipv4Address,
};
use vring::adapter::smoltcp::Device;
use vring::device::net::{RECEIVE_QUEUE, TRANSMIT_QUEUE};
use vring::testing::{
    Bouncing, Discontiguous, Fake, FakeDevice, FakeTransport, InPlace, Kind, ResetAnswer,
};
use vring::virtqueue::Fault;

use wire::{HEADER, OFFERED, deliver, device, driver, scaled, take};

type Net<K> = Device<Fake<K>, FakeTransport>;

const NOW: Instant = Instant::ZERO;

fn adapter<K: Kind>(platform: &Fake<K>, receive: u16, transmit: u16) -> (FakeDevice, Net<K>) {
    let device = device(platform, OFFERED, 1500);
    let net = Device::new(driver(platform, &device, receive, transmit)).unwrap();
    (device, net)
}

/// One host: a device, a stack, an address.
struct Host<K: Kind> {
    device: FakeDevice,
    net: Net<K>,
    iface: Interface,
    sockets: SocketSet<'static>,
}

fn address(n: u8) -> Ipv4Address {
    Ipv4Address::new(10, 0, 0, n)
}

impl<K: Kind> Host<K> {
    fn new(platform: &Fake<K>, n: u8, size: u16) -> Self {
        let (device, mut net) = adapter(platform, size, size);
        let mac = HardwareAddress::Ethernet(EthernetAddress([2, 0, 0, 0, 0, n]));
        let mut iface = Interface::new(Config::new(mac), &mut net, NOW);
        iface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(address(n).into(), 24)).unwrap();
        });
        let sockets = SocketSet::new(Vec::new());
        Self {
            device,
            net,
            iface,
            sockets,
        }
    }

    fn poll(&mut self, now: Instant) {
        self.iface.poll(now, &mut self.net, &mut self.sockets);
        assert_eq!(self.net.fault(), None);
        self.device.assert_clean();
    }
}

/// Carries frames from one device to the other; false when there were none. What finds no receive
/// buffer is lost, as on a wire.
fn carry(from: &FakeDevice, to: &FakeDevice) -> bool {
    let mut any = false;
    while let Some((header, frame, _)) = take(from) {
        assert_eq!(header, [0; HEADER]);
        deliver(to, &frame);
        any = true;
    }
    // As a device does before it rests.
    for device in [from, to] {
        for queue in [RECEIVE_QUEUE, TRANSMIT_QUEUE] {
            device.with_queue(queue, |queue| queue.enable_notifications());
        }
    }
    any
}

/// Lets both hosts run until `done` says so.
fn run<A: Kind, B: Kind>(
    a: &mut Host<A>,
    b: &mut Host<B>,
    mut done: impl FnMut(&mut Host<A>, &mut Host<B>) -> bool,
) {
    let mut now = NOW;
    for _ in 0..scaled(20_000, 2_000) {
        a.poll(now);
        carry(&a.device, &b.device);
        b.poll(now);
        carry(&b.device, &a.device);
        if done(a, b) {
            return;
        }
        now += Duration::from_millis(10);
    }
    panic!("nothing happens any more: {:?}", a.net.driver());
}

fn ping<A: Kind, B: Kind>(a: &mut Host<A>, b: &mut Host<B>, count: usize) {
    let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 4096]);
    let socket = icmp::Socket::new(buffer(), buffer());
    let handle = a.sockets.add(socket);
    let checksums = a.net.capabilities().checksum;
    let (mut sent, mut received) = (0, 0);
    run(a, b, |a, _| {
        let socket = a.sockets.get_mut::<icmp::Socket>(handle);
        if !socket.is_open() {
            socket.bind(icmp::Endpoint::Ident(7)).unwrap();
        }
        if sent == received && socket.can_send() {
            let data = vec![sent as u8; 56];
            let request = Icmpv4Repr::EchoRequest {
                ident: 7,
                seq_no: sent as u16,
                data: &data,
            };
            let bytes = socket
                .send(request.buffer_len(), IpAddress::Ipv4(address(2)))
                .unwrap();
            request.emit(&mut Icmpv4Packet::new_unchecked(bytes), &checksums);
            sent += 1;
        }
        if socket.can_recv() {
            let (bytes, from) = socket.recv().unwrap();
            assert_eq!(from, IpAddress::Ipv4(address(2)));
            let packet = Icmpv4Packet::new_checked(bytes).unwrap();
            let reply = Icmpv4Repr::parse(&packet, &checksums).unwrap();
            let data = vec![received as u8; 56];
            let expected = Icmpv4Repr::EchoReply {
                ident: 7,
                seq_no: received as u16,
                data: &data,
            };
            assert_eq!(reply, expected);
            received += 1;
        }
        received == count
    });
}

fn datagrams<A: Kind, B: Kind>(a: &mut Host<A>, b: &mut Host<B>, count: usize) {
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 16_384]);
    let (mut one, mut two) = (
        udp::Socket::new(buffer(), buffer()),
        udp::Socket::new(buffer(), buffer()),
    );
    one.bind(1000).unwrap();
    two.bind(2000).unwrap();
    let (one, two) = (a.sockets.add(one), b.sockets.add(two));
    let (mut sent, mut received) = (0, 0);
    run(a, b, |a, b| {
        let socket = a.sockets.get_mut::<udp::Socket>(one);
        if sent == received {
            let data = vec![sent as u8; 1 + sent % 1472];
            socket.send_slice(&data, (address(2), 2000)).unwrap();
            sent += 1;
        }
        let socket = b.sockets.get_mut::<udp::Socket>(two);
        while let Ok((data, _)) = socket.recv() {
            assert_eq!(data, vec![received as u8; 1 + received % 1472]);
            received += 1;
        }
        received == count
    });
}

fn transfer<A: Kind, B: Kind>(a: &mut Host<A>, b: &mut Host<B>, bytes: usize) {
    let socket = || {
        let buffer = || tcp::SocketBuffer::new(vec![0; 16_384]);
        tcp::Socket::new(buffer(), buffer())
    };
    let (client, server) = (a.sockets.add(socket()), b.sockets.add(socket()));
    b.sockets.get_mut::<tcp::Socket>(server).listen(80).unwrap();
    let context = a.iface.context();
    a.sockets
        .get_mut::<tcp::Socket>(client)
        .connect(context, (address(2), 80), 40_000)
        .unwrap();
    let byte = |i: usize| (i * 7 + i / 251) as u8;
    let (mut sent, mut received) = (0, 0);
    run(a, b, |a, b| {
        let socket = a.sockets.get_mut::<tcp::Socket>(client);
        while sent < bytes && socket.can_send() {
            sent += socket
                .send(|room| {
                    let len = room.len().min(bytes - sent);
                    let data = room[..len].iter_mut().enumerate();
                    data.for_each(|(i, place)| *place = byte(sent + i));
                    (len, len)
                })
                .unwrap();
        }
        let socket = b.sockets.get_mut::<tcp::Socket>(server);
        while socket.can_recv() {
            received += socket
                .recv(|data| {
                    let right = data
                        .iter()
                        .enumerate()
                        .all(|(i, &b)| b == byte(received + i));
                    assert!(right, "after {received} bytes");
                    (data.len(), data.len())
                })
                .unwrap();
        }
        received == bytes
    });
}

fn two_hosts<A: Kind, B: Kind>(one: &Fake<A>, two: &Fake<B>, size: u16) {
    let (mut a, mut b) = (Host::new(one, 1, size), Host::new(two, 2, size));
    ping(&mut a, &mut b, scaled(50, 2));
    datagrams(&mut a, &mut b, scaled(200, 3));
    transfer(&mut a, &mut b, scaled(500_000, 6_000));
    assert_eq!(a.net.control().mac(), Some(wire::MAC));
    let counters = a.net.driver().rx().counters();
    assert!(counters.completed > 0 && counters.faults == 0 && counters.overruns == 0);
    drop((a, b));
    one.assert_no_leaks();
    two.assert_no_leaks();
}

#[test]
fn two_hosts_resolve_ping_and_exchange_datagrams_and_a_stream() {
    two_hosts(&InPlace::new(), &Bouncing::new(), 64);
}

#[test]
fn two_hosts_whose_buffers_cross_pages() {
    two_hosts(&Discontiguous::new(1024), &Discontiguous::new(512), 64);
}

#[test]
#[cfg_attr(miri, ignore = "the same as above, with more losses")]
fn two_hosts_with_the_smallest_queues() {
    for size in [1, 2, 4] {
        two_hosts(&InPlace::new(), &Bouncing::new(), size);
    }
}

#[test]
fn buffers_that_cross_pages_fill_the_queue_as_far_as_they_do() {
    // Each takes two or three descriptors of eight, and the last one finds too few.
    let platform = Discontiguous::new(1024);
    let (device, mut net) = adapter(&platform, 8, 8);
    let given = net.driver().rx().counters().submitted;
    assert!((2..=4).contains(&given), "{given}");
    for i in 0..20 {
        assert!(deliver(&device, &[i; 60]));
        let (rx, _) = net.receive(NOW).unwrap();
        rx.consume(|frame| assert_eq!(frame, [i; 60]));
        assert!(net.receive(NOW).is_none());
    }
}

#[test]
fn a_token_that_is_dropped_puts_its_buffer_back() {
    for size in [1, 4, 32] {
        let platform = InPlace::new();
        let (device, mut net) = adapter(&platform, size, size);
        for i in 0..200_u8 {
            drop(net.transmit(NOW).unwrap());
            assert!(net.receive(NOW).is_none());
            device.with_queue(RECEIVE_QUEUE, |queue| queue.enable_notifications());
            assert!(deliver(&device, &[i; 60]), "the device has a buffer");
            let (rx, tx) = net.receive(NOW).unwrap();
            match i % 3 {
                0 => drop((rx, tx)),
                1 => drop((tx, rx)),
                _ => {
                    rx.consume(|frame| assert_eq!(frame, [i; 60]));
                    drop(tx);
                }
            }
        }
        assert!(take(&device).is_none(), "nothing was transmitted");
        assert_eq!(net.dropped(), 0);
        // All are there: the receive queue is full, and the transmit queue can be filled.
        assert_eq!(net.driver().rx().room(), 0);
        let sent = fill(&mut net);
        assert_eq!(
            sent,
            if size == 1 { 1 } else { size - 1 },
            "room for two is kept"
        );
        let mut buffers = 0;
        net.into_driver().shutdown(|_, _| buffers += 1).unwrap();
        assert_eq!(buffers, size + sent);
        platform.assert_no_leaks();
    }
}

/// Transmits until there is no token.
fn fill<K: Kind>(net: &mut Net<K>) -> u16 {
    let mut sent = 0;
    while let Some(token) = net.transmit(NOW) {
        token.consume(60, |frame| frame.fill(sent as u8));
        sent += 1;
    }
    sent
}

#[test]
fn bug_class_80_a_full_transmit_queue_gives_no_token_and_goes_on_later() {
    let platform = Bouncing::new();
    let (device, mut net) = adapter(&platform, 8, 8);
    for _ in 0..5 {
        let sent = fill(&mut net);
        assert!(net.transmit(NOW).is_none());
        for i in 0..sent {
            assert_eq!(take(&device).unwrap().1, [i as u8; 60]);
        }
        assert!(take(&device).is_none());
    }
    assert_eq!(net.dropped(), 0);
}

#[test]
fn bug_class_81_receiving_does_not_wait_for_room_to_transmit() {
    let platform = InPlace::new();
    let (device, mut net) = adapter(&platform, 8, 8);
    let sent = fill(&mut net);
    for i in 0..100 {
        assert!(deliver(&device, &[i; 60]), "frame {i}");
        let (rx, tx) = net
            .receive(NOW)
            .expect("the device does not transmit, and we receive");
        rx.consume(|frame| assert_eq!(frame, [i; 60]));
        // The answer is lost, as it could be on any wire, and its buffer is not.
        tx.consume(60, |frame| frame.fill(0xaa));
        device.with_queue(RECEIVE_QUEUE, |queue| queue.enable_notifications());
    }
    // One of them went into the last descriptor.
    assert_eq!(net.dropped(), 99);
    for i in 0..sent {
        assert_eq!(take(&device).unwrap().1, [i as u8; 60]);
    }
    assert_eq!(take(&device).unwrap().1, [0xaa; 60]);
    assert!(take(&device).is_none());
    assert_eq!(fill(&mut net), sent);
}

#[test]
fn who_waits_for_room_to_transmit_is_woken() {
    for size in [1, 2, 4, 8] {
        let platform = InPlace::new();
        let (device, mut net) = adapter(&platform, size, size);
        assert!(!net.arm(), "with room, only frames are waited for");
        device.with_queue(TRANSMIT_QUEUE, |queue| assert!(!queue.should_interrupt()));
        fill(&mut net);
        assert!(net.transmit(NOW).is_none());
        assert!(!net.arm());
        let before = device.interrupts();
        device.serve(TRANSMIT_QUEUE, |_, _| 0);
        assert_eq!(device.interrupts(), before + 1, "size {size}");
        assert!(net.transmit(NOW).is_some());
    }
}

#[test]
fn who_waits_for_frames_is_woken_and_no_buffer_is_held_back() {
    // With one receive buffer, whoever sleeps before the device was told of it sleeps for ever.
    for size in [1, 2, 8] {
        let platform = InPlace::new();
        let (device, mut net) = adapter(&platform, size, size);
        device.with_queue(RECEIVE_QUEUE, |queue| queue.enable_notifications());
        for i in 0..100 {
            assert!(!net.arm());
            let before = device.interrupts();
            assert!(deliver(&device, &[i; 60]), "size {size}, frame {i}");
            assert_eq!(device.interrupts(), before + 1);
            assert!(net.arm(), "it is there");
            net.disarm();
            // One frame, and no look for another.
            let (rx, _) = net.receive(NOW).unwrap();
            rx.consume(|frame| assert_eq!(frame, [i; 60]));
            device.with_queue(RECEIVE_QUEUE, |queue| queue.enable_notifications());
        }
    }
}

#[test]
fn bug_class_79_buffers_that_the_queue_did_not_take_are_tried_again() {
    for size in [1, 2, 4] {
        let platform = Bouncing::new();
        let (device, mut net) = adapter(&platform, size, 4);
        for i in 0..50 {
            assert!(deliver(&device, &[i; 60]), "size {size}, frame {i}");
            let (rx, _) = net.receive(NOW).unwrap();
            // The bounce space is empty just now.
            platform.fail_nth_map(1);
            rx.consume(|frame| assert_eq!(frame, [i; 60]));
            match i % 2 {
                0 => assert!(net.receive(NOW).is_none()),
                _ => assert!(!net.arm()),
            }
            assert_eq!(net.driver().rx().room(), 0, "it is with the device again");
        }
    }
}

#[test]
fn without_any_receive_buffer_nobody_sleeps() {
    let platform = Bouncing::new();
    let (device, mut net) = adapter(&platform, 1, 4);
    assert!(deliver(&device, &[1; 60]));
    let (rx, _) = net.receive(NOW).unwrap();
    platform.fail_nth_map(1);
    drop(rx);
    platform.fail_nth_map(1);
    assert!(net.arm(), "no frame can come: an interrupt neither");
    assert!(!net.arm(), "now one can");
}

#[test]
fn a_broken_queue_is_reported_and_nothing_panics() {
    let platform = Bouncing::new();
    for broken in [RECEIVE_QUEUE, TRANSMIT_QUEUE] {
        let (device, mut net) = adapter(&platform, 8, 8);
        fill(&mut net);
        device.with_queue(broken, |queue| queue.forge_used(0xdead, 0));
        for i in 0..20 {
            if deliver(&device, &[i; 60]) && broken == TRANSMIT_QUEUE {
                let (rx, tx) = net.receive(NOW).expect("it receives all the same");
                rx.consume(|frame| assert_eq!(frame, [i; 60]));
                tx.consume(60, |frame| frame.fill(1));
                device.with_queue(RECEIVE_QUEUE, |queue| queue.enable_notifications());
            } else if broken == RECEIVE_QUEUE {
                assert!(net.receive(NOW).is_none());
            }
            let _ = net
                .transmit(NOW)
                .map(|token| token.consume(60, |frame| frame.fill(1)));
            assert!(net.arm(), "nobody sleeps on a broken queue");
            net.disarm();
        }
        assert_eq!(
            net.fault(),
            Some(Fault::UsedIdOutOfRange {
                id: 0xdead,
                size: 8
            })
        );
        drop(net);
        platform.assert_no_leaks();
    }
}

#[test]
fn a_frame_longer_than_its_buffer_gets_what_there_is() {
    // smoltcp asks for no more than the capabilities say; another user might.
    let platform = InPlace::new();
    let (device, mut net) = adapter(&platform, 8, 8);
    let max = net.capabilities().max_transmission_unit;
    assert_eq!(max, 1514);
    let got = net
        .transmit(NOW)
        .unwrap()
        .consume(100_000, |frame| frame.len());
    assert_eq!((got, take(&device).unwrap().1.len()), (max, max));
    net.transmit(NOW)
        .unwrap()
        .consume(0, |frame| assert!(frame.is_empty()));
    assert_eq!(net.dropped(), 1, "a frame of no bytes");
    assert!(take(&device).is_none());
}

#[test]
fn the_mtu_of_the_device_is_that_of_the_stack() {
    let platform = InPlace::new();
    for mtu in [68, 1280, 1500, 9000, 65_535] {
        let device = device(&platform, OFFERED, mtu);
        let mut net = Device::new(driver(&platform, &device, 4, 4)).unwrap();
        let max = net.capabilities().max_transmission_unit;
        assert_eq!(max, usize::from(mtu) + 14);
        net.transmit(NOW)
            .unwrap()
            .consume(max, |frame| frame.fill(9));
        assert_eq!((net.dropped(), take(&device).unwrap().1), (0, vec![9; max]));
        // A frame of the usual length is received whatever the MTU.
        let frame = vec![8; max.max(1514)];
        assert!(deliver(&device, &frame));
        net.receive(NOW)
            .unwrap()
            .0
            .consume(|got| assert_eq!(got, frame));
    }
}

#[test]
fn a_device_whose_buffers_are_refused_is_reset_and_the_buffer_comes_back() {
    let platform = Bouncing::with_space(5000);
    let device = device(&platform, OFFERED, 1500);
    let error = Device::new(driver(&platform, &device, 8, 8)).unwrap_err();
    assert_eq!((error.taken, error.buffer.len()), (3, 1526));
    assert!(device.status().is_empty(), "it was reset");
    platform.assert_no_leaks();
}

/// Big-endian guests refuse legacy devices.
#[cfg(target_endian = "little")]
#[test]
fn bug_class_79_a_legacy_device_that_takes_headers_apart_is_served() {
    use vring::features::Feature;
    use vring::testing::Legacy;

    let platform = InPlace::new();
    let device = device(&platform, OFFERED.without(Feature::VERSION_1), 1500)
        .legacy(Legacy::FixedSizes)
        .queues(&[8, 8])
        .header(RECEIVE_QUEUE, 10)
        .header(TRANSMIT_QUEUE, 10);
    let mut net = Device::new(driver(&platform, &device, 8, 8)).unwrap();
    let at_rest = |net: &mut Net<_>| {
        // What went out comes back when there is no room.
        drop(net.transmit(NOW));
        let rx = net.driver().rx();
        assert_eq!(
            (rx.outstanding(), rx.room()),
            (4, 0),
            "two descriptors each"
        );
        assert!(!net.arm(), "frames can come");
        net.disarm();
    };
    for i in 0..50_u8 {
        at_rest(&mut net);
        let bytes = [[0; 10].as_slice(), &[i; 60]].concat();
        device.with_queue(RECEIVE_QUEUE, |queue| {
            let chain = queue.pop().unwrap();
            let len = queue.write(&chain, &bytes);
            queue.complete(chain, len);
        });
        let (rx, tx) = net.receive(NOW).unwrap();
        rx.consume(|frame| assert_eq!(frame, [i; 60]));
        tx.consume(60, |frame| frame.fill(!i));
        device.with_queue(TRANSMIT_QUEUE, |queue| {
            let chain = queue.pop().unwrap();
            let lens: Vec<_> = chain.segments().iter().map(|segment| segment.len).collect();
            assert_eq!(lens, [10, 60]);
            assert_eq!(queue.read(&chain)[10..], [!i; 60]);
            queue.complete(chain, 0);
        });
    }
    at_rest(&mut net);
    assert_eq!((net.dropped(), net.fault()), (0, None));
    assert_eq!(fill(&mut net), 4);
    let mut came = [0, 0];
    net.into_driver()
        .shutdown(|queue, _| came[usize::from(queue.0)] += 1)
        .unwrap();
    assert_eq!(came, [4, 4]);
    device.assert_clean();
    platform.assert_no_leaks();
}

#[test]
fn a_driver_that_is_taken_back_is_whole() {
    let platform = Bouncing::new();
    let (device, mut net) = adapter(&platform, 8, 8);
    let sent = fill(&mut net);
    device.set_reset(ResetAnswer::After(2));
    let mut came = [0, 0];
    net.into_driver()
        .shutdown(|queue, _| came[usize::from(queue.0)] += 1)
        .unwrap();
    assert_eq!(came, [8, sent]);
    platform.assert_no_leaks();
}
