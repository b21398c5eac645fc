//! Counts the instructions of one round on the data path, under callgrind.
//!
//! A round is: one chain submitted, published, the kick decided, used by a device, reaped, and
//! checked. The device is the smallest that works, in the same thread and in functions of its own,
//! so that callgrind counts the driver alone: `cargo xtask test` runs this program under
//! `valgrind --tool=callgrind --toggle-collect=...` for each function named `burst_*` or `single_*`,
//! which holds [`ROUNDS`] rounds and the caller's loop.
//!
//! Buffers are of 1, 2 and 3 descriptors, owned by handles of one word: a block of 64 bytes, a frame
//! with a header apart, and a request to read a block. `slice` is a buffer whose length is not
//! known before it is used: a boxed slice.

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use vring::Platform;
use vring::buffer::{DmaBuf, Readable, Segment, Writable};
use vring::features::{Feature, Features, Wish};
use vring::init::{self, QueueConfig};
use vring::platform::{Direction, DmaAddr, DmaError, Mapping, RawRegion};
use vring::transport::{
    DeviceId, Doorbell, Isr, QueueAreas, QueueIndex, Registers, Status, Transport, TransportError,
};
use vring::virtqueue::Virtqueue;

/// Rounds per call of a `round_*` function.
const ROUNDS: usize = 32 * 64;

/// Physical is virtual.
#[derive(Clone, Copy, Debug)]
struct Identity;

// SAFETY: the global allocator gives memory that is ours alone; the "device" is in this process,
// and an address is a pointer.
unsafe impl Platform for Identity {
    const DIRECT: bool = true;

    fn alloc(&self, layout: Layout) -> Result<RawRegion, DmaError> {
        // SAFETY: rings have a size.
        let ptr = unsafe { std::alloc::alloc_zeroed(layout) };
        let (size, align) = (layout.size(), layout.align());
        let ptr = NonNull::new(ptr).ok_or(DmaError::OutOfMemory { size, align })?;
        Ok(RawRegion {
            ptr,
            addr: DmaAddr(ptr.as_ptr().expose_provenance() as u64),
            layout,
        })
    }

    unsafe fn dealloc(&self, region: RawRegion) {
        // SAFETY: it came from `alloc`.
        unsafe { std::alloc::dealloc(region.ptr.as_ptr(), region.layout) }
    }

    #[inline]
    unsafe fn map(&self, buf: NonNull<[u8]>, _: Direction) -> Result<Mapping, DmaError> {
        let ptr = buf.cast::<u8>();
        let addr = DmaAddr(ptr.as_ptr().expose_provenance() as u64);
        Ok(Mapping {
            addr,
            len: buf.len() as u32,
            ptr,
            token: 0,
        })
    }

    unsafe fn unmap(&self, _: Mapping, _: Direction, _: u32) {}
}

/// A device that accepts everything and remembers where its queue is.
#[derive(Debug)]
struct Board {
    features: Features,
    status: Status,
    areas: Option<QueueAreas>,
}

// SAFETY: there is no device behind it but `Device` below, which stops when `main` does.
unsafe impl Transport for Board {
    fn device_id(&self) -> DeviceId {
        DeviceId::NETWORK
    }
    fn num_queues(&self) -> Option<u16> {
        Some(1)
    }
    fn status(&self) -> Status {
        self.status
    }
    fn set_status(&mut self, status: Status) {
        self.status = status;
    }
    fn device_features(&mut self) -> Features {
        self.features
    }
    fn set_driver_features(&mut self, _: Features) {}
    fn max_queue_size(&mut self, _: QueueIndex) -> u16 {
        256
    }
    unsafe fn enable_queue(
        &mut self,
        queue: QueueIndex,
        _: u16,
        areas: &QueueAreas,
        _: Option<u16>,
    ) -> Result<Doorbell, TransportError> {
        self.areas = Some(*areas);
        let doorbell = NonNull::from(Box::leak(Box::new(0u16)));
        // SAFETY: two bytes that nobody else uses stand in for a register.
        let registers = unsafe { Registers::new(doorbell.cast(), size_of::<u16>()) };
        let register = registers
            .register(0)
            .ok_or(TransportError::QueueUnavailable { queue })?;
        Ok(Doorbell::register(register, queue.0))
    }
    fn set_config_vector(&mut self, _: Option<u16>) -> Result<(), TransportError> {
        Ok(())
    }
    fn config_generation(&self) -> Option<u32> {
        None
    }
    fn config_size(&self) -> usize {
        0
    }
    fn read_config(&self, _: usize, _: &mut [u8]) -> Result<(), TransportError> {
        Err(TransportError::Unsupported {
            what: "configuration",
        })
    }
    fn write_config(&mut self, _: usize, _: &[u8]) -> Result<(), TransportError> {
        Err(TransportError::Unsupported {
            what: "configuration",
        })
    }
    fn take_isr(&mut self) -> Option<Isr> {
        None
    }
}

/// Returns everything that is available, in order, with length 0.
enum Device {
    Split(SplitDevice),
    Packed(PackedDevice),
}

impl Device {
    #[inline(never)]
    fn run(&mut self) {
        match self {
            Self::Split(device) => device.run(),
            Self::Packed(device) => device.run(),
        }
    }
}

struct SplitDevice {
    avail: *const u16,
    used: *mut u16,
    num: u16,
    at: u16,
    /// Of several chains, names the last only: in order.
    batch: bool,
}

impl SplitDevice {
    #[inline(always)]
    fn run(&mut self) {
        let word = |i: usize| {
            // SAFETY: `i` is a word of the available ring, which lives until `main` ends.
            let at = unsafe { self.avail.add(i) };
            // SAFETY: as above, and every access to it is atomic.
            unsafe { AtomicU16::from_ptr(at.cast_mut()) }
        };
        let idx = word(1).load(Ordering::Acquire);
        let first = self.at;
        while self.at != idx {
            let slot = usize::from(self.at % self.num);
            let head = word(2 + slot).load(Ordering::Relaxed);
            let at = if self.batch { first } else { self.at };
            let place = usize::from(at % self.num);
            // SAFETY: an element of the used ring.
            let element = unsafe { self.used.add(2 + place * 4) }.cast::<u32>();
            // SAFETY: as for the available ring.
            unsafe { AtomicU32::from_ptr(element) }.store(head.into(), Ordering::Relaxed);
            self.at = self.at.wrapping_add(1);
        }
        // SAFETY: the index of the used ring.
        let idx = unsafe { self.used.add(1) };
        // SAFETY: as for the available ring.
        unsafe { AtomicU16::from_ptr(idx) }.store(self.at, Ordering::Release);
    }
}

struct PackedDevice {
    desc: *const u64,
    num: usize,
    at: usize,
    /// The flags AVAIL and USED of a descriptor that is available in this lap.
    available: u64,
    /// Of several chains, names the last only: in order.
    batch: bool,
}

/// The flags AVAIL and USED, where they are in the second word of a descriptor.
const BOTH: u64 = 1 << 55 | 1 << 63;
/// The flag NEXT, likewise.
const NEXT: u64 = 1 << 48;

impl PackedDevice {
    fn word(&self, at: usize) -> &AtomicU64 {
        // SAFETY: a descriptor of the ring, which lives until `main` ends, has two words.
        let word = unsafe { self.desc.add(at * 2 + 1) };
        // SAFETY: as above, and every access to it is atomic.
        unsafe { AtomicU64::from_ptr(word.cast_mut()) }
    }

    fn lap(&self) -> u64 {
        if self.available & 1 << 55 != 0 {
            BOTH
        } else {
            0
        }
    }

    fn next(&mut self) {
        self.at += 1;
        if self.at == self.num {
            self.at = 0;
            self.available ^= BOTH;
        }
    }

    #[inline(always)]
    fn run(&mut self) {
        let (first, first_lap) = (self.at, self.lap());
        let mut last = None;
        loop {
            let (head, lap) = (self.at, self.lap());
            let mut seen = self.word(head).load(Ordering::Acquire);
            if seen & BOTH != self.available {
                break;
            }
            while seen & NEXT != 0 {
                self.next();
                seen = self.word(self.at).load(Ordering::Relaxed);
            }
            self.next();
            // The id stays; nothing was written; both flags are as the lap's.
            let used = seen & 0xffff << 32;
            if self.batch {
                last = Some(used);
            } else {
                self.word(head).store(used | lap, Ordering::Release);
            }
        }
        if let Some(used) = last {
            self.word(first).store(used | first_lap, Ordering::Release);
        }
    }
}

/// A block of 64 bytes for the device to read.
type Block = Readable<Box<[u8; 64]>>;
/// The same, of any length.
type Slice = Readable<Box<[u8]>>;

/// A frame, and a header in front of it that is not next to it: two descriptors.
struct Frame(Box<FrameBytes>);

struct FrameBytes {
    header: [u8; 12],
    frame: [u8; 64],
}

// SAFETY: both blocks are on the heap, initialized, and reached through the box alone.
unsafe impl DmaBuf for Frame {
    #[inline]
    fn count(&self) -> usize {
        2
    }

    #[inline]
    fn segment(&mut self, index: usize) -> Segment {
        let block: &mut [u8] = match index {
            0 => &mut self.0.header,
            _ => &mut self.0.frame,
        };
        // SAFETY: as above.
        unsafe {
            Segment::new(
                NonNull::from(&mut *block).cast(),
                block.len(),
                Direction::Readable,
            )
        }
    }
}

/// A request to read a block: three descriptors.
struct Request(Box<RequestBytes>);

struct RequestBytes {
    header: [u8; 16],
    data: [u8; 512],
    status: [u8; 1],
}

// SAFETY: all blocks are on the heap, initialized, and reached through the box alone.
unsafe impl DmaBuf for Request {
    #[inline]
    fn count(&self) -> usize {
        3
    }

    #[inline]
    fn segment(&mut self, index: usize) -> Segment {
        let (block, direction): (&mut [u8], _) = match index {
            0 => (&mut self.0.header, Direction::Readable),
            1 => (&mut self.0.data, Direction::Writable),
            _ => (&mut self.0.status, Direction::Writable),
        };
        // SAFETY: as above.
        unsafe { Segment::new(NonNull::from(&mut *block).cast(), block.len(), direction) }
    }
}

/// Idle buffers. There are never more of them than it was made for: as in a kernel, the data path
/// does not grow it.
struct Pool<B>(Vec<B>);

impl<B> Pool<B> {
    #[inline]
    fn push(&mut self, buf: B) {
        assert!(self.0.len() < self.0.capacity(), "a buffer too many");
        self.0.push(buf);
    }
}

type Queue<B> = Virtqueue<Identity, B>;

/// The three ways to call a queue, for one kind of buffers.
macro_rules! rounds {
    ($buf:ty: $burst_32:ident, $single_32:ident, $single_1:ident) => {
        #[inline(never)]
        fn $burst_32(queue: &mut Queue<$buf>, device: &mut Device, pool: &mut Pool<$buf>) {
            for _ in 0..ROUNDS / 32 {
                let mut bufs = pool.0.drain(pool.0.len() - 32..);
                queue.submit_burst(&mut bufs).expect("room for 32");
                drop(bufs);
                queue.kick();
                device.run();
                queue
                    .drain(|done| pool.push(done.into_buf()))
                    .expect("an honest device");
            }
        }

        #[inline(never)]
        fn $single_32(queue: &mut Queue<$buf>, device: &mut Device, pool: &mut Pool<$buf>) {
            for _ in 0..ROUNDS / 32 {
                for _ in 0..32 {
                    let buf = pool.0.pop().expect("a buffer");
                    queue.submit(buf).expect("room for 32");
                }
                queue.kick();
                device.run();
                while let Some(done) = queue.next_completion().expect("an honest device") {
                    pool.push(done.into_buf());
                }
            }
        }

        #[inline(never)]
        fn $single_1(queue: &mut Queue<$buf>, device: &mut Device, pool: &mut Pool<$buf>) {
            for _ in 0..ROUNDS {
                let buf = pool.0.pop().expect("a buffer");
                queue.submit(buf).expect("room for one");
                queue.kick();
                device.run();
                while let Some(done) = queue.next_completion().expect("an honest device") {
                    pool.push(done.into_buf());
                }
            }
        }
    };
}

rounds!(Block: burst_32_of_1, single_32_of_1, single_1_of_1);
rounds!(Frame: burst_32_of_2, single_32_of_2, single_1_of_2);
rounds!(Request: burst_32_of_3, single_32_of_3, single_1_of_3);
rounds!(Slice: burst_32_of_slice, single_32_of_slice, single_1_of_slice);

/// The block of a request whose header and status are in the queue's cells.
type Data = Writable<Box<[u8; 512]>>;

#[inline(never)]
fn single_32_of_cells(queue: &mut Queue<Data>, device: &mut Device, pool: &mut Pool<Data>) {
    for _ in 0..ROUNDS / 32 {
        for sector in 0..32u64 {
            let buf = pool.0.pop().expect("a buffer");
            let header = [0, sector];
            queue.submit_with(&header, buf).expect("room for 32");
        }
        queue.kick();
        device.run();
        while let Some(done) = queue.next_completion().expect("an honest device") {
            let status = done.reply::<u8>();
            assert_eq!(status, Some(0xff), "it is not written");
            pool.push(done.into_buf());
        }
    }
}

type Call<B> = fn(&mut Queue<B>, &mut Device, &mut Pool<B>);

/// Makes a queue, as the modes say, and runs the functions on it.
fn run<B: DmaBuf>(modes: &[String], buf: impl Fn() -> B, cells: (u16, u16), calls: &[Call<B>]) {
    let has = |mode: &str| modes.iter().any(|word| word == mode);
    let mut offered = Features::from(Feature::VERSION_1);
    for (mode, feature) in [
        ("event-idx", Feature::EVENT_IDX),
        ("packed", Feature::RING_PACKED),
        ("in-order", Feature::IN_ORDER),
        ("indirect", Feature::INDIRECT_DESC),
    ] {
        if has(mode) {
            offered = offered.with(feature);
        }
    }
    let wish = Wish {
        want: offered,
        ..Wish::default()
    };
    let board = Board {
        features: offered,
        status: Status::empty(),
        areas: None,
    };
    let mut negotiated = init::reset(board, &Identity)
        .expect("reset")
        .negotiate(&wish)
        .expect("features");
    let mut config = QueueConfig::new(256);
    if has("indirect") {
        config = config.indirect(4);
    }
    if cells != (0, 0) {
        config = config.cells(cells.0, cells.1);
    }
    let pending = negotiated.queue(QueueIndex(0), &config).expect("queue");
    let live = negotiated.finish().expect("live");
    let Ok(mut queue) = pending.start::<Board>(&live) else {
        unreachable!("one device")
    };

    let areas = queue.areas();
    let at = |addr: DmaAddr| std::ptr::with_exposed_provenance_mut::<u16>(addr.0 as usize);
    let (num, batch) = (queue.size(), has("batch"));
    let mut device = if has("packed") {
        Device::Packed(PackedDevice {
            desc: at(areas.desc).cast(),
            num: num.into(),
            at: 0,
            available: 1 << 55,
            batch,
        })
    } else {
        Device::Split(SplitDevice {
            avail: at(areas.driver),
            used: at(areas.device),
            num,
            at: 0,
            batch,
        })
    };

    let mut pool = Pool((0..64).map(|_| buf()).collect());
    for _ in 0..4 {
        for call in calls {
            call(&mut queue, &mut device, &mut pool);
        }
    }
    let (_, proof) = live.reset().expect("reset");
    let left = queue.close(&proof).map(Iterator::count);
    assert_eq!(left.unwrap_or(usize::MAX), 0);
}

fn main() {
    let modes: Vec<String> = std::env::args()
        .skip(1)
        .flat_map(|arg| arg.split('+').map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let block = || Readable(Box::new([0; 64]));
    let calls: &[Call<Block>] = &[burst_32_of_1, single_32_of_1, single_1_of_1];
    run(&modes, block, (0, 0), calls);
    let frame = || {
        Frame(Box::new(FrameBytes {
            header: [0; 12],
            frame: [0; 64],
        }))
    };
    let calls: &[Call<Frame>] = &[burst_32_of_2, single_32_of_2, single_1_of_2];
    run(&modes, frame, (0, 0), calls);
    let request = || {
        Request(Box::new(RequestBytes {
            header: [0; 16],
            data: [0; 512],
            status: [0xff],
        }))
    };
    let calls: &[Call<Request>] = &[burst_32_of_3, single_32_of_3, single_1_of_3];
    run(&modes, request, (0, 0), calls);
    let slice = || Readable(vec![0; 64].into_boxed_slice());
    let calls: &[Call<Slice>] = &[burst_32_of_slice, single_32_of_slice, single_1_of_slice];
    run(&modes, slice, (0, 0), calls);
    let data = || Writable(Box::new([0; 512]));
    run(&modes, data, (16, 1), &[single_32_of_cells as Call<Data>]);
    println!("{ROUNDS} rounds a call, 4 calls of each");
}
