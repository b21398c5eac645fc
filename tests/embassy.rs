//! The network driver on embassy's executor: a task for each half, one for the configuration, and a
//! device with its interrupt handler on another core.

#[path = "support/net.rs"]
mod wire;

use std::sync::OnceLock;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use embassy_executor::{Executor, Spawner};
use vring::adapter::futures::{AsyncControl, AsyncReceiver, AsyncTransmitter, Notifier, Queue};
use vring::buffer::{Window, Writable};
use vring::device::net::{
    ControlHalf, RECEIVE_QUEUE, ReceiverHalf, TRANSMIT_QUEUE, TransmitterHalf,
};
use vring::features::{Feature, Wish};
use vring::init::{self, QueueConfig};
use vring::testing::{FakeDevice, FakeTransport, InPlace};
use vring::transport::{DeviceId, QueueIndex};

use wire::{Buffer, HEADER, OFFERED, buffer, configuration, driver, refill};

type Receiver = AsyncReceiver<ReceiverHalf<InPlace, FakeTransport, Buffer>>;
type Transmitter = AsyncTransmitter<TransmitterHalf<InPlace, FakeTransport, Buffer>, fn(Buffer)>;
type Control = AsyncControl<ControlHalf<InPlace, FakeTransport, Buffer>>;

/// How long a task may sleep that ought to be woken.
const LIMIT: Duration = Duration::from_secs(60);

const FRAMES: usize = 500;

/// Where a kernel's interrupt handlers find whom to wake: for receiving, transmitting, changes.
static NOTIFIERS: OnceLock<[Notifier; 3]> = OnceLock::new();

/// What a kernel's handler does, by the number of the vector.
fn interrupt(vector: usize) {
    if let Some(notifiers) = NOTIFIERS.get() {
        notifiers[vector].wake();
    }
}

#[embassy_executor::task]
async fn receive(mut rx: Receiver, done: Sender<Receiver>) {
    for i in 0..FRAMES {
        let frame = rx.receive().await.unwrap();
        assert_eq!(frame.as_slice(), [i as u8; 60]);
        rx.get().give(frame.into_memory()).unwrap();
    }
    done.send(rx).unwrap();
}

#[embassy_executor::task]
async fn transmit(mut tx: Transmitter, done: Sender<Transmitter>) {
    for i in 0..FRAMES {
        let mut frame = Window::new(buffer(HEADER + 60), HEADER, 60);
        frame.as_mut_slice().fill(i as u8);
        tx.transmit(frame).await.unwrap();
    }
    done.send(tx).unwrap();
}

#[embassy_executor::task]
async fn watch(mut control: Control, done: Sender<Control>) {
    while control.get().link_up().unwrap() {
        control.config_change().await.unwrap();
    }
    done.send(control).unwrap();
}

/// Serves the next chain: what was in it, and whether the driver wants an interrupt.
fn serve_next(device: &FakeDevice, queue: QueueIndex, bytes: Option<&[u8]>) -> (Vec<u8>, bool) {
    let start = Instant::now();
    loop {
        let served = device.with_queue(queue, |queue| {
            let chain = queue.pop()?;
            let read = queue.read(&chain);
            let len = bytes.map_or(0, |bytes| queue.write(&chain, bytes));
            Some((read, queue.complete(chain, len)))
        });
        match served.flatten() {
            Some(served) => return served,
            None => thread::yield_now(),
        }
        assert!(start.elapsed() < LIMIT, "a task sleeps");
    }
}

/// Sends all frames back, and then takes the link down.
fn run_device(device: &FakeDevice) {
    for _ in 0..FRAMES {
        let (frame, wanted) = serve_next(device, TRANSMIT_QUEUE, None);
        if wanted {
            interrupt(1);
        }
        let (_, wanted) = serve_next(device, RECEIVE_QUEUE, Some(&frame));
        if wanted {
            interrupt(0);
        }
    }
    device.change_config(&configuration(0, 1500));
    interrupt(2);
}

/// Runs tasks on an executor in a thread of its own, which never ends.
fn execute(spawn: impl FnOnce(Spawner) + Send + 'static) {
    thread::spawn(|| {
        let executor: &'static mut Executor = Box::leak(Box::new(Executor::new()));
        executor.run(spawn);
    });
}

#[test]
fn the_halves_of_a_driver_run_as_tasks_of_embassy() {
    let platform = InPlace::new();
    let device = wire::device(&platform, OFFERED, 1500);
    let mut net = driver(&platform, &device, 8, 8);
    refill(&mut net);
    let (rx, tx, control) = net.split();
    let rx = AsyncReceiver::new(rx);
    let tx: Transmitter = AsyncTransmitter::new(tx, drop::<Buffer>);
    let control = AsyncControl::new(control);
    let notifiers = [rx.notifier(), tx.notifier(), control.notifier()];
    assert!(NOTIFIERS.set(notifiers).is_ok());

    let (rx_done, rx_end) = mpsc::channel();
    let (tx_done, tx_end) = mpsc::channel();
    let (control_done, control_end) = mpsc::channel();
    execute(|spawner| {
        spawner.spawn(receive(rx, rx_done).unwrap());
        spawner.spawn(transmit(tx, tx_done).unwrap());
        spawner.spawn(watch(control, control_done).unwrap());
    });
    run_device(&device);

    let rx = rx_end.recv_timeout(LIMIT).unwrap().into_inner();
    let tx = tx_end.recv_timeout(LIMIT).unwrap().into_inner();
    let control = control_end.recv_timeout(LIMIT).unwrap().into_inner();
    let net = vring::device::net::Driver::join(rx, tx, control).unwrap();
    net.shutdown(|_, _| {}).unwrap();
    device.assert_clean();
    platform.assert_no_leaks();
}

type Blocks = Queue<InPlace, Writable<Vec<u8>>>;

const REQUESTS: QueueIndex = QueueIndex(0);

/// Several of these share a queue that has less room than they ask for.
#[embassy_executor::task(pool_size = 6)]
async fn request(queue: &'static Blocks, number: usize, done: Sender<usize>) {
    for _ in 0..50 {
        let buffer = Writable(vec![0; number + 1]);
        let in_flight = queue.submit(buffer).await.unwrap();
        let finished = in_flight.await.unwrap();
        assert_eq!(finished.written() as usize, number + 1);
        assert_eq!(finished.into_buf().0, vec![0x5a; number + 1]);
    }
    done.send(number).unwrap();
}

#[test]
fn tasks_of_embassy_share_a_queue() {
    let platform = InPlace::new();
    let device = FakeDevice::new(platform.bus(), DeviceId::ENTROPY)
        .offer(Feature::VERSION_1 | Feature::EVENT_IDX);
    let reset = init::reset(device.transport(), &platform).unwrap();
    let mut negotiated = reset.negotiate(&Wish::default()).unwrap();
    let pending = negotiated.queue(REQUESTS, &QueueConfig::new(4)).unwrap();
    let live = negotiated.finish().unwrap();
    let queue: &'static Blocks = Box::leak(Box::new(Queue::new(pending.start(&live).unwrap())));
    let handler = queue.notifier();

    let (done, end) = mpsc::channel();
    execute(move |spawner| {
        for number in 0..6 {
            spawner.spawn(request(queue, number, done.clone()).unwrap());
        }
    });
    let mut finished = Vec::new();
    let start = Instant::now();
    while finished.len() < 6 {
        assert!(start.elapsed() < LIMIT, "a task sleeps");
        // In whatever order, what is there.
        let wanted = device.with_queue(REQUESTS, |queue| {
            let mut chains: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
            chains.reverse();
            let mut wanted = false;
            for chain in chains {
                let len = queue.write(&chain, &vec![0x5a; chain.writable() as usize]);
                wanted |= queue.complete(chain, len);
            }
            wanted
        });
        if wanted.unwrap() {
            handler.wake();
        }
        finished.extend(end.try_iter());
        thread::yield_now();
    }
    finished.sort_unstable();
    assert_eq!(finished, [0, 1, 2, 3, 4, 5]);
    let (_, proof) = live.reset().unwrap();
    assert_eq!(queue.take().unwrap().close(&proof).unwrap().count(), 0);
    device.assert_clean();
    platform.assert_no_leaks();
}
