//! Frames out, the same frames back, and every buffer accounted for.

use std::fmt::Debug;
use std::time::Duration;

use vring::buffer::{StableBytesMut, Window};
use vring::device::net::{self, Header, RECEIVE_QUEUE, TRANSMIT_QUEUE};
use vring::features::{Feature, Features, Wish};
use vring::init::{self, Live, QueueConfig};
use vring::platform::{Direction, Platform};
use vring::transport::QueueIndex;
use vring::virtqueue::{Completion, Reject, Rejected, Virtqueue};
use vring_hosted::event::Interrupts;
use vring_hosted::frame::{self, Random};
use vring_hosted::memory::{Bouncing, Chain, PoolBuf, Shared};
use vring_hosted::testpmd::Forward;
use vring_hosted::vhost_user::VhostUser;

use crate::rig::{Patience, Rig};

/// Bytes of `virtio_net_hdr_v1`.
const HEADER: usize = size_of::<Header>();
/// Bytes of a block: one takes a header and the longest frame.
const BLOCK: usize = 2048;
/// Pieces of a chain at most, without a header in a cell.
const PIECES: usize = 5;
/// Frames that are polled for: the indices of a split ring wrap at 65,536.
const POLLED: u64 = 66_500;
/// The same for rings that hold a few frames at most, so that each takes a turn of both sides.
const POLLED_IF_TINY: u64 = 6_000;
/// Frames that are waited for.
const WAITED: u64 = 4_000;
/// Frames after the reset.
const AGAIN: u64 = 2_000;
/// How long a device that goes on after a reset has to show it.
const SETTLE: Duration = Duration::from_millis(20);
/// How long an interrupt that is due may take.
const INTERRUPT: Duration = Duration::from_secs(10);

/// Where the buffers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Buffers {
    /// In the shared region: the back end reaches them.
    Shared,
    /// On the heap: the platform copies.
    Bounced,
}

/// What is negotiated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    pub(crate) packed: bool,
    pub(crate) in_order: bool,
    pub(crate) event_idx: bool,
    pub(crate) indirect: bool,
    pub(crate) size: u16,
    pub(crate) buffers: Buffers,
}

impl Cell {
    pub(crate) const fn split(size: u16) -> Self {
        Self {
            packed: false,
            in_order: false,
            event_idx: false,
            indirect: false,
            size,
            buffers: Buffers::Shared,
        }
    }

    pub(crate) const fn packed(size: u16) -> Self {
        Self {
            packed: true,
            ..Self::split(size)
        }
    }

    /// Whether some chains are longer than the ring.
    fn is_tiny(&self) -> bool {
        self.size < 8
    }

    pub(crate) fn features(&self) -> Features {
        [
            (self.packed, Feature::RING_PACKED),
            (self.in_order, Feature::IN_ORDER),
            (self.event_idx, Feature::EVENT_IDX),
            (self.indirect, Feature::INDIRECT_DESC),
        ]
        .into_iter()
        .filter_map(|(on, feature)| on.then_some(feature))
        .fold(Feature::VERSION_1.into(), Features::with)
    }
}

/// Runs a cell, with buffers where it wants them.
pub(crate) fn run(cell: Cell) {
    let rig = Rig::new(Forward::MacSwap);
    let free = rig.region.free_bytes();
    match cell.buffers {
        Buffers::Shared => {
            let block = || PoolBuf::new(&rig.region, BLOCK).expect("a block");
            run_on(&rig, cell, &Shared::new(&rig.region), block);
        }
        Buffers::Bounced => {
            let block = || vec![0; BLOCK].into_boxed_slice();
            run_on(&rig, cell, &Bouncing::new(&rig.region), block);
        }
    }
    assert_eq!(rig.region.free_bytes(), free, "shared memory was lost");
    assert_eq!(rig.region.leaked(), (0, 0));
}

fn run_on<P: Platform + Debug, M: StableBytesMut + Debug>(
    rig: &Rig,
    cell: Cell,
    platform: &P,
    block: impl Fn() -> M,
) {
    // As many as the rings can hold, whatever the shape of chains.
    let blocks = 2 * PIECES * usize::from(cell.size);
    let pool: Vec<M> = (0..blocks).map(|_| block()).collect();
    let (pool, transport) = session(rig, cell, platform, rig.connect(), pool, |traffic| {
        traffic.poll(if cell.is_tiny() {
            POLLED_IF_TINY
        } else {
            POLLED
        });
        traffic.wait(if cell.is_tiny() { AGAIN } else { WAITED });
    });
    assert_eq!(pool.len(), blocks, "buffers were lost");
    let pool = untouched(pool);
    let (pool, _) = session(rig, cell, platform, transport, pool, |traffic| {
        traffic.poll(AGAIN);
    });
    assert_eq!(pool.len(), blocks, "buffers were lost");
}

/// After a reset the device writes into no buffer any more.
pub(crate) fn untouched<M: StableBytesMut>(pool: Vec<M>) -> Vec<M> {
    let mut blocks: Vec<_> = pool.into_iter().map(|m| Window::new(m, 0, BLOCK)).collect();
    for block in &mut blocks {
        block.as_mut_slice().fill(0xa5);
    }
    std::thread::sleep(SETTLE);
    let same = |block: &Window<M>| block.as_slice().iter().all(|&byte| byte == 0xa5);
    assert!(blocks.iter().all(same), "the device writes after a reset");
    blocks.into_iter().map(Window::into_memory).collect()
}

/// From the first step of initialization to a reset in the middle of traffic.
fn session<P: Platform + Debug, M: StableBytesMut + Debug>(
    rig: &Rig,
    cell: Cell,
    platform: &P,
    transport: VhostUser,
    pool: Vec<M>,
    run: impl FnOnce(&mut Traffic<'_, P, M>),
) -> (Vec<M>, VhostUser) {
    let features = cell.features();
    let wish = Wish {
        require: features,
        refuse: net::F::MRG_RXBUF.into(),
        ..Wish::default()
    };
    let reset = init::reset(transport, platform).unwrap_or_else(|e| rig.fail(e));
    let mut negotiated = reset.negotiate(&wish).unwrap_or_else(|e| rig.fail(e));
    assert_eq!(negotiated.features(), features);
    assert!(negotiated.offered().has(net::F::MRG_RXBUF), "it offers it");
    let config = QueueConfig::new(cell.size).indirect(8);
    let rx = negotiated.queue(RECEIVE_QUEUE, &config);
    let rx = rx.unwrap_or_else(|e| rig.fail(e));
    let tx = negotiated.queue(TRANSMIT_QUEUE, &config.cells(HEADER as u16, 0));
    let tx = tx.unwrap_or_else(|e| rig.fail(e));
    let live = negotiated.finish().unwrap_or_else(|e| rig.fail(e));
    let rx = rx.start(&live).expect("it is of this device");
    let tx = tx.start(&live).expect("it is of this device");
    assert_eq!((rx.size(), tx.size()), (cell.size, cell.size));
    let mut traffic = Traffic {
        rig,
        live: &live,
        rx,
        tx,
        pool,
        random: Random::new(cell.size.into()),
        sent: 0,
        received: 0,
        assumed: 0,
    };
    run(&mut traffic);
    traffic.leave_frames_under_way();
    let Traffic {
        rx,
        tx,
        mut pool,
        assumed,
        ..
    } = traffic;
    let counters = [
        (RECEIVE_QUEUE, rx.counters()),
        (TRANSMIT_QUEUE, tx.counters()),
    ];
    for (queue, counters) in counters {
        let rings = live.transport().bell(queue).take_rings();
        assert_eq!(rings, counters.kicks, "{queue}: every kick is one ring");
        assert_eq!((counters.faults, counters.overruns), (0, 0), "{queue}");
        // It polls, and says so.
        assert!(counters.suppressed_kicks > counters.kicks, "{counters:?}");
    }
    // In order, DPDK returns four frames and more with one descriptor of a packed ring.
    assert_eq!(
        assumed != 0,
        cell.packed && cell.in_order,
        "{assumed} assumed"
    );
    let (transport, proof) = live.reset().unwrap_or_else(|e| rig.fail(e.why));
    for (queue, (index, counters)) in [rx, tx].into_iter().zip(counters) {
        let closed = queue.close(&proof).expect("it is of this device");
        let mut back = 0;
        for chain in closed {
            back += 1;
            pool.extend(chain.pieces.into_iter().map(Window::into_memory));
        }
        assert_eq!(counters.submitted, counters.completed + back, "{index}");
    }
    (pool, transport)
}

type Queue<P, M> = Virtqueue<P, Chain<M>>;

struct Traffic<'a, P: Platform, M: StableBytesMut> {
    rig: &'a Rig,
    live: &'a Live<P, VhostUser>,
    rx: Queue<P, M>,
    tx: Queue<P, M>,
    pool: Vec<M>,
    random: Random,
    /// Number of the next frame that goes out.
    sent: u64,
    /// Number of the next frame that comes in.
    received: u64,
    assumed: u64,
}

impl<P: Platform, M: StableBytesMut> Traffic<'_, P, M> {
    fn under_way(&self) -> u64 {
        self.sent - self.received
    }

    fn stalled(&self, what: &str) -> ! {
        let (sent, received) = (self.sent, self.received);
        self.rig.fail(format_args!(
            "{what}: {sent} frames sent, {received} received\n{:#?}\n{:#?}",
            self.rx, self.tx
        ))
    }

    /// A chain of blocks, cut to these lengths.
    fn chain(&mut self, lens: &[usize], direction: Direction) -> Chain<M> {
        let piece = |&len| Window::new(self.pool.pop().expect("there are enough blocks"), 0, len);
        Chain {
            pieces: lens.iter().map(piece).collect(),
            direction,
        }
    }

    /// Takes a chain back that found no room. Another one may be shorter.
    fn put_back(&mut self, rejected: Rejected<Chain<M>>) {
        match rejected.why {
            Reject::Full { .. } => self.recycle(rejected.buf),
            Reject::TooManySegments { most, .. } if most < 8 => self.recycle(rejected.buf),
            why => self.rig.fail(why),
        }
    }

    fn recycle(&mut self, chain: Chain<M>) {
        let blocks = chain.pieces.into_iter().map(Window::into_memory);
        self.pool.extend(blocks);
    }

    /// Gives the device buffers to write to, while there is room.
    fn refill(&mut self) {
        while self.rx.free() != 0 {
            // The first piece of several holds no frame: where four do in a packed ring, DPDK 22.11
            // takes them for four buffers, and does not look for `NEXT` (in its function
            // `virtio_dev_rx_sync_batch_check`).
            let lens: &[usize] = match self.random.below(4) {
                0 => &[HEADER, BLOCK],
                1 => &[HEADER + 30, 600, 1000],
                2 => &[HEADER, 300, 7, 1300],
                _ => &[BLOCK],
            };
            let chain = self.chain(lens, Direction::Writable);
            if let Err(rejected) = self.rx.submit(chain) {
                self.put_back(rejected);
                break;
            }
        }
        self.rx.kick();
    }

    /// Sends up to `burst` frames, as chains of all shapes, while no more than `window` are under
    /// way, and each has a buffer to come back in.
    fn send(&mut self, burst: u64, window: u64, last: u64) -> bool {
        let window = window.min(self.rx.outstanding().into());
        let before = self.sent;
        while self.sent < (before + burst).min(last) && self.under_way() < window {
            let bytes = frame::make(self.sent);
            let shape = self.random.below(4);
            let submitted = if shape < 2 {
                // The header in the slot's cell.
                let pieces = if shape == 0 { 1 } else { PIECES };
                let chain = self.scatter(&bytes, pieces);
                self.tx.submit_with(&Header::default(), chain)
            } else {
                let pieces = if shape == 2 { 1 } else { 3 };
                let whole = [&[0; HEADER][..], &bytes].concat();
                let chain = self.scatter(&whole, pieces);
                self.tx.submit(chain)
            };
            match submitted {
                Ok(_) => self.sent += 1,
                Err(rejected) => {
                    self.put_back(rejected);
                    break;
                }
            }
        }
        self.tx.kick();
        self.sent != before
    }

    /// Bytes in 1 to `most` pieces; a header in front of them stays whole.
    fn scatter(&mut self, bytes: &[u8], most: usize) -> Chain<M> {
        let pieces = self.random.below(most) + 1;
        let mut lens = Vec::new();
        let mut left = bytes.len();
        for _ in 1..pieces {
            let most = left.saturating_sub(HEADER).max(1);
            let len = (self.random.below(most) + 1).max(HEADER).min(left - 1);
            lens.push(len);
            left -= len;
            if left == 1 {
                break;
            }
        }
        lens.push(left);
        let mut chain = self.chain(&lens, Direction::Readable);
        let mut rest = bytes;
        for piece in &mut chain.pieces {
            let (here, behind) = rest.split_at(piece.as_slice().len());
            piece.as_mut_slice().copy_from_slice(here);
            rest = behind;
        }
        assert!(rest.is_empty());
        chain
    }

    /// Takes what came back, on both queues.
    fn harvest(&mut self) -> bool {
        let Self { rx, tx, .. } = self;
        let (mut frames, mut done) = (Vec::new(), Vec::new());
        let mut assumed = 0;
        let mut transmitted = |completion: Completion<'_, Chain<M>>| {
            // In a packed ring, DPDK leaves the length as it was, where it is reserved.
            assert_eq!(completion.claimed(), 0, "it writes what it reads");
            assert_eq!(completion.written(), 0);
            assumed += u64::from(completion.is_assumed());
            done.push(completion.into_buf());
        };
        // Both ways of taking, for both queues.
        let result = if self.random.below(2) == 0 {
            let drained = tx.drain(&mut transmitted).map(|_| ());
            drained.and_then(|()| {
                while let Some(completion) = rx.next_completion()? {
                    frames.push((completion.written(), completion.into_buf()));
                }
                Ok(())
            })
        } else {
            let received = |completion: Completion<'_, Chain<M>>| {
                frames.push((completion.written(), completion.into_buf()));
            };
            let drained = rx.drain(received).map(|_| ());
            drained.and_then(|()| {
                while let Some(completion) = tx.next_completion()? {
                    transmitted(completion);
                }
                Ok(())
            })
        };
        if let Err(fault) = result {
            self.stalled(&fault.to_string());
        }
        self.assumed += assumed;
        let happened = !frames.is_empty() || !done.is_empty();
        for (written, chain) in frames {
            self.check(written, &chain);
            self.received += 1;
            self.recycle(chain);
        }
        for chain in done {
            self.recycle(chain);
        }
        happened
    }

    /// A frame came in: the next one, whole.
    fn check(&self, written: u32, chain: &Chain<M>) {
        let mut bytes = chain
            .pieces
            .iter()
            .map(Window::as_slice)
            .collect::<Vec<_>>()
            .concat();
        bytes.truncate(written as usize);
        let Some((header, frame)) = bytes.split_at_checked(HEADER) else {
            self.stalled(&format!("{written} bytes are less than a header"));
        };
        // All zero but for `num_buffers`, which DPDK sets only when buffers are mergeable.
        assert_eq!(header[..HEADER - 2], [0; HEADER - 2], "no offload");
        if let Err(why) = frame::check_swapped(frame, self.received) {
            self.stalled(&why);
        }
    }

    /// How many may be under way: one, a few, a cache line of descriptors, all that fit.
    fn window(&mut self) -> u64 {
        let windows = [1, 2, 7, 32, u64::MAX, u64::MAX];
        windows[self.random.below(windows.len())]
    }

    /// Moves so many frames, looking all the time.
    fn poll(&mut self, frames: u64) {
        let last = self.sent + frames;
        let mut patience = Patience::new();
        while self.received < last {
            let window = self.window();
            // A few frames at a time take many turns of both sides; many fill a few laps of a ring.
            let until = (self.received + window.saturating_mul(32).min(2000)).min(last);
            while self.received < until {
                self.refill();
                let burst = self.random.below(40) as u64 + 1;
                let sent = self.send(burst, window, until);
                let happened = self.harvest();
                if !patience.goes_on(sent || happened) {
                    self.stalled("nothing happens");
                }
            }
        }
    }

    /// Moves so many frames, asleep until an interrupt comes.
    fn wait(&mut self, frames: u64) {
        let live = self.live;
        let call = |queue: QueueIndex| live.transport().call(queue);
        let interrupts = Interrupts::new([call(RECEIVE_QUEUE), call(TRANSMIT_QUEUE)]);
        let interrupts = interrupts.expect("an epoll");
        let last = self.sent + frames;
        let mut slept = 0u32;
        while self.received < last {
            self.refill();
            let (burst, window) = (self.random.below(40) as u64 + 1, self.window());
            self.send(burst, window, last);
            // Transmitted frames are in no hurry while others come in.
            let raced = self.rx.arm() | self.tx.arm_delayed();
            if !raced && self.under_way() != 0 {
                slept += 1;
                match interrupts.wait(INTERRUPT) {
                    Ok(true) => {}
                    Ok(false) => self.stalled("no interrupt comes"),
                    Err(error) => self.rig.fail(error),
                }
            }
            self.rx.disarm();
            self.tx.disarm();
            self.harvest();
        }
        assert!(slept > 0, "no interrupt was waited for");
    }

    /// Fills both queues, so that a reset finds the device at work.
    fn leave_frames_under_way(&mut self) {
        self.fill();
        let mut patience = Patience::new();
        let before = self.received;
        while self.received == before {
            let happened = self.harvest();
            if !patience.goes_on(happened) {
                self.stalled("nothing happens");
            }
        }
        self.fill();
    }

    /// Fills both queues. In a tiny ring the first chain may be one that never fits: then it is the
    /// turn of another.
    fn fill(&mut self) {
        let mut patience = Patience::new();
        loop {
            let happened = self.harvest();
            self.refill();
            let sent = self.send(u64::MAX / 2, u64::MAX, u64::MAX);
            if self.under_way() != 0 {
                break;
            }
            if !patience.goes_on(happened || sent) {
                self.stalled("nothing can be sent");
            }
        }
    }
}
