//! The network driver's parts, awaited.

use std::task::Poll;
use std::thread;

use vring::adapter::futures::{AsyncControl, AsyncReceiver, AsyncTransmitter, ReceiveError};
use vring::buffer::Window;
use vring::device::net::{Driver, Options, RECEIVE_QUEUE, TRANSMIT_QUEUE, TransmitFailure};
use vring::features::Features;
use vring::init::InitFailure;
use vring::testing::{Bouncing, Discontiguous, Fake, FakeDevice, InPlace, Kind, Legacy};
use vring::transport::{DeviceId, Interrupt};
use vring::virtqueue::{Fault, Reject};

use super::tasks::{Task, block_on};
use super::wire::{
    Buffer, HEADER, OFFERED, buffer, configuration, deliver, device, driver, refill, scaled, take,
};

macro_rules! every_platform {
    ($f:ident) => {{
        $f(&InPlace::new());
        $f(&Bouncing::new());
        if cfg!(not(miri)) {
            $f(&Discontiguous::new(1024));
        }
    }};
}

/// A frame of `len` bytes that are all `byte`, with headroom.
fn frame(len: usize, byte: u8) -> Window<Buffer> {
    let mut frame = Window::new(buffer(HEADER + len), HEADER, len);
    frame.as_mut_slice().fill(byte);
    frame
}

/// Bytes of memory that came back, by the last of them.
fn last(memory: &Buffer) -> u8 {
    *memory.last().unwrap()
}

#[test]
fn a_frame_is_awaited_and_a_future_that_is_gone_takes_none_with_it() {
    every_platform!(receives);
}

fn receives<K: Kind>(platform: &Fake<K>) {
    let device = device(platform, OFFERED, 1500);
    let mut net = driver(platform, &device, 16, 16);
    refill(&mut net);
    let mut rx = AsyncReceiver::new(net.rx());
    let handler = rx.notifier();
    for i in 0..scaled(40, 6) as u8 {
        let mut task = Task::new(rx.receive());
        task.sleeps();
        let before = device.interrupts();
        assert!(deliver(&device, &[i; 60]));
        assert_eq!(device.interrupts(), before + 1, "it was armed");
        handler.wake();
        assert!(task.is_woken());
        match i % 4 {
            0 => drop(task),
            1 => task.forget(),
            _ => {
                let frame = task.wakes_up().unwrap();
                assert_eq!(frame.as_slice(), [i; 60]);
                drop(task);
                rx.get().give(frame.into_memory()).unwrap();
                continue;
            }
        }
        // The frame is still there.
        let frame = Task::new(rx.receive()).ready().unwrap();
        assert_eq!(frame.as_slice(), [i; 60]);
        rx.get().give(frame.into_memory()).unwrap();
    }
    let _: &mut vring::device::net::Receiver<_, _> = rx.into_inner();
    net.shutdown(|_, _| {}).unwrap();
    device.assert_clean();
    platform.assert_no_leaks();
}

/// Defends: SP-020, SP-022.
#[test]
fn who_awaits_a_frame_announces_what_was_given_and_waits_for_nothing_impossible() {
    every_platform!(announces);
}

fn announces<K: Kind>(platform: &Fake<K>) {
    let device = device(platform, OFFERED, 1500);
    let mut net = driver(platform, &device, 16, 16);
    let len = net.rx().buffer_len();
    let mut rx = AsyncReceiver::new(net.rx());
    let nothing = ReceiveError::NoBuffers { room: 16 };
    assert_eq!(Task::new(rx.receive()).ready().err(), Some(nothing));
    assert!(nothing.to_string().contains("no receive buffer"));
    rx.get().give(buffer(len)).unwrap();
    let handler = rx.notifier();
    let mut task = Task::new(rx.receive());
    task.sleeps();
    assert_eq!(device.kicks(RECEIVE_QUEUE), 1);
    device.assert_kicked(RECEIVE_QUEUE);
    assert!(deliver(&device, &[7; 60]));
    handler.wake();
    assert_eq!(task.wakes_up().unwrap().as_slice(), [7; 60]);
    drop(task);
    assert_eq!(Task::new(rx.receive()).ready().err(), Some(nothing));
    net.shutdown(|_, _| {}).unwrap();
    platform.assert_no_leaks();
}

#[test]
fn a_broken_receive_queue_ends_the_waiting() {
    let platform = InPlace::new();
    let device = device(&platform, OFFERED, 1500);
    device.violations().set_lenient();
    let mut net = driver(&platform, &device, 16, 16);
    refill(&mut net);
    let mut rx = AsyncReceiver::new(net.rx());
    let handler = rx.notifier();
    let mut task = Task::new(rx.receive());
    task.sleeps();
    device.with_queue(RECEIVE_QUEUE, |queue| queue.forge_used(99, 0));
    handler.wake();
    let fault = Fault::UsedIdOutOfRange { id: 99, size: 16 };
    assert_eq!(task.wakes_up().err(), Some(ReceiveError::Fault(fault)));
    drop(task);
    let mut back = 0;
    net.shutdown(|_, _| back += 1).unwrap();
    assert_eq!(back, 16);
}

#[test]
fn a_flood_of_frames_leaves_other_tasks_their_turn() {
    let platform = InPlace::new();
    let device = device(&platform, OFFERED, 1500);
    let mut net = driver(&platform, &device, 8, 8);
    refill(&mut net);
    let mut rx = AsyncReceiver::new(net.rx());
    let frames = scaled(256, 65);
    let mut task = Task::new(async {
        for i in 0..frames {
            assert!(deliver(&device, &[i as u8; 60]));
            let frame = rx.receive().await.unwrap();
            assert_eq!(frame.as_slice(), [i as u8; 60]);
            rx.get().give(frame.into_memory()).unwrap();
            rx.get().kick();
        }
    });
    let mut polls = 1;
    while task.poll().is_pending() {
        assert!(task.is_woken());
        polls += 1;
    }
    assert_eq!(polls, frames.div_ceil(64));
    drop(task);
    assert_eq!(device.interrupts(), 0, "it never slept");
    net.shutdown(|_, _| {}).unwrap();
}

#[test]
fn bug_class_80_a_frame_waits_for_room_and_buffers_come_back() {
    every_platform!(waits_for_room);
}

fn waits_for_room<K: Kind>(platform: &Fake<K>) {
    let device = device(platform, OFFERED, 1500);
    let mut net = driver(platform, &device, 4, 4);
    let mut back = Vec::new();
    let mut tx = AsyncTransmitter::new(net.tx(), |memory| back.push(last(&memory)));
    let handler = tx.notifier();
    let (mut sent, mut out) = (0, 0);
    // As many as there is room for.
    loop {
        let mut task = Task::new(tx.transmit(frame(60, sent)));
        if task.poll().is_ready() {
            sent += 1;
            continue;
        }
        assert!(!task.is_woken());
        device.assert_kicked(TRANSMIT_QUEUE);
        // In pages, a frame may take as much room as two that came back.
        loop {
            let interrupt = device.with_queue(TRANSMIT_QUEUE, |queue| {
                let chain = queue.pop().unwrap();
                assert_eq!(queue.read(&chain)[HEADER..], [out; 60]);
                queue.complete(chain, 0)
            });
            assert_eq!(interrupt, Some(true));
            out += 1;
            handler.wake();
            assert!(task.is_woken());
            if let Poll::Ready(transmitted) = task.poll() {
                transmitted.unwrap();
                break;
            }
        }
        break;
    }
    assert!(sent >= 2);
    // All go out in order.
    for i in out..=sent {
        assert_eq!(take(&device).unwrap().1, [i; 60]);
    }
    assert!(take(&device).is_none());
    // Room is awaited the same way; there is all of it.
    Task::new(tx.room()).ready().unwrap();
    drop(tx);
    assert_eq!(back, (0..=sent).collect::<Vec<_>>());
    net.shutdown(|_, _| panic!("one was left")).unwrap();
    device.assert_clean();
    platform.assert_no_leaks();
}

#[test]
fn bug_class_49_a_frame_that_was_not_taken_comes_back_when_its_future_is_dropped() {
    // In pages, a small frame may find room where another has not.
    not_taken(&InPlace::new());
    not_taken(&Bouncing::new());
}

fn not_taken<K: Kind>(platform: &Fake<K>) {
    let device = device(platform, OFFERED, 1500);
    let mut net = driver(platform, &device, 4, 4);
    let mut back = Vec::new();
    let mut tx = AsyncTransmitter::new(net.tx(), |memory| back.push(last(&memory)));
    let handler = tx.notifier();
    // Never polled.
    drop(tx.transmit(frame(60, 100)));
    assert_eq!(
        tx.transmit(frame(60, 101)).cancel().unwrap().as_slice(),
        [101; 60]
    );
    let mut sent = 0;
    while let Some(()) = {
        let mut task = Task::new(tx.transmit(frame(60, sent)));
        task.poll().is_ready().then_some(())
    } {
        sent += 1;
    }
    // The last one waited, and was dropped. One more is forgotten, with its frame.
    let mut task = Task::new(tx.transmit(frame(60, 102)));
    task.sleeps();
    task.forget();
    let mut task = Task::new(tx.room());
    task.sleeps();
    while take(&device).is_some() {}
    handler.wake();
    task.ready().unwrap();
    drop(task);
    tx.get().kick();
    // Nothing of those frames has gone out.
    assert!(take(&device).is_none());
    drop(tx);
    let mut expected = vec![100, sent];
    expected.extend(0..sent);
    assert_eq!(back, expected);
    net.shutdown(|_, _| panic!("one was left")).unwrap();
    device.assert_clean();
    platform.assert_no_leaks();
}

#[test]
fn what_the_transmitter_never_takes_is_an_error_at_once() {
    let platform = InPlace::new();
    let device = device(&platform, OFFERED, 1000);
    device.violations().set_lenient();
    let mut net = driver(&platform, &device, 4, 4);
    let mut tx = AsyncTransmitter::new(net.tx(), drop);
    let error = Task::new(tx.transmit(frame(1200, 1))).ready().unwrap_err();
    let max = 1014;
    assert_eq!(error.why, TransmitFailure::TooLong { len: 1200, max });
    assert_eq!(error.frame.as_slice(), [1; 1200]);
    // A queue that breaks while somebody waits for room.
    while Task::new(tx.transmit(frame(60, 0))).poll().is_ready() {}
    let handler = tx.notifier();
    let mut task = Task::new(tx.transmit(frame(60, 9)));
    task.sleeps();
    device.with_queue(TRANSMIT_QUEUE, |queue| queue.forge_used(99, 0));
    handler.wake();
    let error = task.wakes_up().unwrap_err();
    let fault = Fault::UsedIdOutOfRange { id: 99, size: 4 };
    assert_eq!(error.why, TransmitFailure::Queue(Reject::Broken(fault)));
    assert_eq!(error.frame.as_slice(), [9; 60]);
    drop(task);
    assert_eq!(Task::new(tx.room()).ready(), Err(fault));
    drop(tx);
    net.shutdown(|_, _| {}).unwrap();
}

/// One interrupt line for the queues and the configuration, as INTx has it.
#[test]
fn bug_class_72_a_change_of_the_configuration_is_awaited() {
    let platform = InPlace::new();
    let device = device(&platform, OFFERED, 1500);
    let mut net = driver(&platform, &device, 4, 4);
    let isr = net.control().take_isr().unwrap();
    let mut control = AsyncControl::new(net.control());
    let handler = control.notifier();
    let interrupt = || {
        let why = isr.ack();
        if why.contains(Interrupt::CONFIG) {
            handler.wake();
        }
        why
    };
    let mut task = Task::new(control.config_change());
    task.sleeps();
    device.change_config(&configuration(0, 1500));
    assert_eq!(interrupt(), Interrupt::CONFIG);
    task.wakes_up().unwrap();
    drop(task);
    assert_eq!(control.get().link_up(), Ok(false));
    // A queue's interrupt on the same line is no change; nor is one for another device.
    let mut task = Task::new(control.config_change());
    task.sleeps();
    device.interrupt();
    assert_eq!(interrupt(), Interrupt::QUEUE);
    assert_eq!(interrupt(), Interrupt::empty());
    assert!(!task.is_woken());
    // Both at once.
    device.interrupt();
    device.change_config(&configuration(1, 1500));
    assert_eq!(interrupt(), Interrupt::QUEUE | Interrupt::CONFIG);
    task.wakes_up().unwrap();
    drop(task);
    // A device that fails says so in the same way.
    device.fail();
    handler.wake();
    let failed = Task::new(control.config_change()).ready();
    assert_eq!(failed, Err(InitFailure::NeedsReset));
    drop(control);
    net.shutdown(|_, _| {}).unwrap();
}

/// A device that sends all frames back, and its handler.
fn echo(device: &FakeDevice, handlers: &[vring::adapter::futures::Notifier; 2], frames: usize) {
    let mut echoed = 0;
    while echoed < frames {
        let taken = device.with_queue(TRANSMIT_QUEUE, |queue| {
            let chain = queue.pop()?;
            let bytes = queue.read(&chain);
            Some((bytes, queue.complete(chain, 0)))
        });
        let Some((bytes, interrupt)) = taken.flatten() else {
            thread::yield_now();
            continue;
        };
        if interrupt {
            handlers[1].wake();
        }
        let interrupt = loop {
            let done = device.with_queue(RECEIVE_QUEUE, |queue| {
                let chain = queue.pop()?;
                let len = queue.write(&chain, &bytes);
                Some(queue.complete(chain, len))
            });
            match done.flatten() {
                Some(interrupt) => break interrupt,
                None => thread::yield_now(),
            }
        };
        if interrupt {
            handlers[0].wake();
        }
        echoed += 1;
    }
}

/// One half on each core, and the device on a third.
#[test]
fn halves_are_awaited_on_cores_of_their_own() {
    every_platform!(halves);
}

fn halves<K: Kind + Sync>(platform: &Fake<K>) {
    let device = device(platform, OFFERED, 1500);
    let mut net = driver(platform, &device, 8, 8);
    refill(&mut net);
    let (rx, tx, control) = net.split();
    let mut rx = AsyncReceiver::new(rx);
    let mut tx = AsyncTransmitter::new(tx, drop);
    let handlers = [rx.notifier(), tx.notifier()];
    let frames = scaled(2000, 9);
    let (rx, tx) = thread::scope(|scope| {
        scope.spawn(|| echo(&device, &handlers, frames));
        let rx = scope.spawn(move || {
            block_on(async {
                for i in 0..frames {
                    let frame = rx.receive().await.unwrap();
                    assert_eq!(frame.as_slice(), [i as u8; 60]);
                    rx.get().give(frame.into_memory()).unwrap();
                    if i % 4 == 3 {
                        rx.get().kick();
                    }
                }
            });
            rx.into_inner()
        });
        let tx = scope.spawn(move || {
            block_on(async {
                for i in 0..frames {
                    tx.transmit(frame(60, i as u8)).await.unwrap();
                }
            });
            tx.into_inner()
        });
        (rx.join().unwrap(), tx.join().unwrap())
    });
    let net = vring::device::net::Driver::join(rx, tx, control).unwrap();
    net.shutdown(|_, _| {}).unwrap();
    device.assert_clean();
    platform.assert_no_leaks();
}

/// A buffer takes two descriptors there.
#[test]
#[cfg(target_endian = "little")]
fn nobody_waits_for_a_frame_that_has_no_buffer_on_a_legacy_device() {
    let platform = InPlace::new();
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK)
        .legacy(Legacy::FixedSizes)
        .offer(Features::EMPTY)
        .queues(&[16, 16])
        .header(RECEIVE_QUEUE, 10)
        .header(TRANSMIT_QUEUE, 10)
        .config(&[0; 12]);
    let options = Options::default();
    let mut net: Driver<_, _, Buffer> = Driver::new(platform, device.transport(), options).unwrap();
    let mut rx = AsyncReceiver::new(net.rx());
    let none = Task::new(rx.receive()).ready().unwrap_err();
    assert_eq!(none, ReceiveError::NoBuffers { room: 8 });
}
