//! The registers of a virtio device, in memory that only stands for addresses: every access comes
//! here through [`RegisterAccess`], with its width.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use vring::transport::{Doorbell, Isr, Register, RegisterAccess, Registers};

/// The BAR layout of [`super::FakeFunction::qemu`].
pub const BAR4: u64 = 0x80_0000_0000;
pub const BAR1: u64 = 0xfebd_0000;

const ARENA: usize = 1 << 20;

/// A context is an offset in these bits, and the device's number above them.
const AT_BITS: u32 = if usize::BITS < 64 { 18 } else { 32 };
const AT_MASK: usize = (1 << AT_BITS) - 1;

/// Offsets and widths of the common configuration structure.
const COMMON: &[(usize, u16)] = &[
    (0x00, 4),
    (0x04, 4),
    (0x08, 4),
    (0x0c, 4),
    (0x10, 2),
    (0x12, 2),
    (0x14, 1),
    (0x15, 1),
    (0x16, 2),
    (0x18, 2),
    (0x1a, 2),
    (0x1c, 2),
    (0x1e, 2),
    (0x20, 4),
    (0x24, 4),
    (0x28, 4),
    (0x2c, 4),
    (0x30, 4),
    (0x34, 4),
    (0x38, 2),
    (0x3a, 2),
];

/// A register write: offset in BAR 4 (or, above 0x10000, in BAR 1), width in bytes, value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write(pub usize, pub u16, pub u32);

#[derive(Clone)]
pub struct Queue {
    pub max: u16,
    pub size: u16,
    pub vector: u16,
    pub enable: u16,
    pub notify_off: u16,
    pub notif_data: u16,
    /// desc, driver, device: low and high half of each.
    pub areas: [u32; 6],
    written: u32,
    /// Reads of `queue_reset` that show the reset as under way; `None` when there is none.
    pub resetting: Option<u32>,
}

impl Queue {
    fn new(index: u16) -> Self {
        Self {
            max: 256,
            size: 256,
            vector: 0xffff,
            enable: 0,
            notify_off: index,
            notif_data: 0x7700 + index,
            areas: [0; 6],
            written: 0,
            resetting: None,
        }
    }

    /// The queue's reset is done: everything is as it was at first.
    fn reset(&mut self, index: u16) {
        *self = Self {
            max: self.max,
            size: self.max,
            notify_off: self.notify_off,
            ..Self::new(index)
        };
    }
}

/// The device and its whims.
pub struct Model {
    pub offered: u128,
    pub accepted: [u32; 4],
    pub device_feature_select: u32,
    pub driver_feature_select: u32,
    pub status: u8,
    pub generation: u8,
    /// The generation is another one at every read.
    pub restless: bool,
    /// Changes of configuration still to come, one between each two reads of configuration.
    pub changes: Vec<Vec<u8>>,
    pub num_queues: u16,
    pub select: u16,
    pub queues: Vec<Queue>,
    pub config: Vec<u8>,
    pub config_vector: u16,
    /// Vectors that the device has resources for.
    pub vector_room: u16,
    pub refuse_enable: bool,
    pub refuse_size: bool,
    /// `queue_enable` still reads 1 when a queue's reset is done.
    pub keep_enable: bool,
    /// How often `queue_reset` reads 1 before a queue's reset is done.
    pub reset_reads: u32,
    pub packed: bool,
    pub isr: u8,
    pub msix_table: Vec<u32>,
    pub writes: Vec<Write>,
    pub reads: Vec<(usize, u16)>,
    pub rings: Vec<(usize, u16)>,
    /// Doorbells that were rung with data, and what they took.
    pub data_rings: Vec<(usize, u32)>,
    /// Addresses and lengths that were asked to be mapped.
    pub mapped: Vec<(u64, usize)>,
    /// Shorten, or misalign, what is mapped.
    pub map_short: bool,
    pub map_shift: usize,
}

struct Shared {
    id: usize,
    /// Stands for the registers: addresses in it are translated, its bytes are never used.
    arena: Mutex<Vec<u64>>,
    base: usize,
    /// Mapped ranges: offset in the arena, length, physical address.
    ranges: Mutex<Vec<(usize, usize, u64)>>,
    model: Mutex<Model>,
}

/// A handle to the device; also how its registers are reached.
#[derive(Clone)]
pub struct Fake(Arc<Shared>);

static DEVICES: Mutex<Vec<std::sync::Weak<Shared>>> = Mutex::new(Vec::new());
static NEXT: AtomicUsize = AtomicUsize::new(0);

impl Fake {
    pub fn new() -> Self {
        let mut arena = vec![0u64; ARENA / 8];
        let base = arena.as_mut_ptr().addr();
        let model = Model {
            offered: 1 << 32 | 1 << 5,
            accepted: [0; 4],
            device_feature_select: 0,
            driver_feature_select: 0,
            status: 0,
            generation: 0,
            restless: false,
            changes: Vec::new(),
            num_queues: 3,
            select: 0,
            queues: (0..3).map(Queue::new).collect(),
            config: (0..64).collect(),
            config_vector: 0xffff,
            vector_room: 0x800,
            refuse_enable: false,
            refuse_size: false,
            keep_enable: false,
            reset_reads: 0,
            packed: false,
            isr: 0,
            msix_table: vec![0; 4 * 2048],
            writes: Vec::new(),
            reads: Vec::new(),
            rings: Vec::new(),
            data_rings: Vec::new(),
            mapped: Vec::new(),
            map_short: false,
            map_shift: 0,
        };
        let mut devices = DEVICES.lock().unwrap();
        let shared = Arc::new(Shared {
            // Where numbers come again, those of devices that live at once are still different.
            id: NEXT.fetch_add(1, Ordering::Relaxed) & (usize::MAX >> AT_BITS),
            arena: Mutex::new(arena),
            base,
            ranges: Mutex::new(Vec::new()),
            model: Mutex::new(model),
        });
        devices.push(Arc::downgrade(&shared));
        Self(shared)
    }

    /// For one statement at a time: a test that holds it across an access stops, and does not hang.
    pub fn model(&self) -> MutexGuard<'_, Model> {
        self.0
            .model
            .try_lock()
            .expect("the model is held by the test")
    }

    /// The kernel's mapping hook.
    pub fn map(&self, physical: u64, len: usize) -> Option<Registers> {
        let mut model = self.model();
        model.mapped.push((physical, len));
        let mut ranges = self.0.ranges.lock().unwrap();
        let start = ranges
            .last()
            .map_or(0, |r| (r.0 + r.1).next_multiple_of(64))
            + model.map_shift;
        if start + len > ARENA {
            return None;
        }
        ranges.push((start, len, physical));
        let base = self.0.arena.lock().unwrap().as_mut_ptr().cast::<u8>();
        let base = NonNull::new(base.wrapping_add(start)).unwrap();
        let len = if model.map_short { len - 1 } else { len };
        // SAFETY: in the arena, which lives as long as the device; all accesses go to the model.
        Some(unsafe { Registers::new(base, len) })
    }

    /// Offset in BAR 4; above 0x10000 in BAR 1.
    fn offset(&self, address: usize) -> usize {
        let at = address - self.0.base;
        let ranges = self.0.ranges.lock().unwrap();
        let range = ranges.iter().find(|r| (r.0..r.0 + r.1).contains(&at));
        let &(start, _, physical) = range.expect("an access outside of what was mapped");
        let physical = physical + (at - start) as u64;
        if physical >= BAR4 {
            (physical - BAR4) as usize
        } else {
            (physical - BAR1) as usize + 0x10000
        }
    }

    fn read(&self, address: usize, width: u16) -> u32 {
        let at = self.offset(address);
        assert_eq!(address % usize::from(width), 0, "misaligned");
        self.read_at(at, width)
    }

    fn write(&self, address: usize, width: u16, value: u32) {
        let at = self.offset(address);
        assert_eq!(address % usize::from(width), 0, "misaligned");
        self.write_at(at, width, value);
    }

    /// Reads a register by its offset in BAR 4, however it is reached.
    pub fn read_at(&self, at: usize, width: u16) -> u32 {
        let mut model = self.model();
        model.reads.push((at, width));
        model.read(at, width)
    }

    /// Writes a register by its offset in BAR 4.
    pub fn write_at(&self, at: usize, width: u16, value: u32) {
        let mut model = self.model();
        model.writes.push(Write(at, width, value));
        model.write(at, width, value);
    }

    pub fn doorbell_at(&self, at: usize, value: u16) -> Doorbell {
        let ring = |context, value| {
            of_context(context)
                .model()
                .rings
                .push((context & AT_MASK, value as u16));
        };
        Doorbell::function(ring, self.0.id << AT_BITS | at, value)
    }

    pub fn doorbell_with_data_at(&self, at: usize, value: u16) -> Doorbell {
        let ring = |context, value| {
            of_context(context)
                .model()
                .data_rings
                .push((context & AT_MASK, value))
        };
        Doorbell::function(ring, self.0.id << AT_BITS | at, value).with_data()
    }

    pub fn isr_handle(&self) -> Isr {
        let ack = |context| std::mem::take(&mut of_context(context).model().isr);
        Isr::function(ack, self.0.id << AT_BITS)
    }
}

fn of_context(context: usize) -> Fake {
    let devices = DEVICES.lock().unwrap();
    let mut living = devices.iter().filter_map(std::sync::Weak::upgrade);
    Fake(living.find(|d| d.id == context >> AT_BITS).unwrap())
}

// SAFETY: this is the device, and each call reaches its register once. It uses no memory.
unsafe impl RegisterAccess for Fake {
    fn read8(&self, at: Register<u8>) -> u8 {
        self.read(at.address(), 1) as u8
    }
    fn read16(&self, at: Register<u16>) -> u16 {
        self.read(at.address(), 2) as u16
    }
    fn read32(&self, at: Register<u32>) -> u32 {
        self.read(at.address(), 4)
    }
    fn write8(&self, at: Register<u8>, value: u8) {
        self.write(at.address(), 1, value.into());
    }
    fn write16(&self, at: Register<u16>, value: u16) {
        self.write(at.address(), 2, value.into());
    }
    fn write32(&self, at: Register<u32>, value: u32) {
        self.write(at.address(), 4, value);
    }
    fn doorbell(&self, at: Register<u16>, value: u16) -> Doorbell {
        self.doorbell_at(self.offset(at.address()), value)
    }
    fn doorbell_with_data(&self, at: Register<u32>, value: u16) -> Doorbell {
        self.doorbell_with_data_at(self.offset(at.address()), value)
    }
    fn doorbell32(&self, _: Register<u32>, _: u16) -> Doorbell {
        panic!("doorbells of PCI without data have 16 bits");
    }
    fn isr_pair(&self, _: Register<u32>, _: Register<u32>) -> Isr {
        panic!("the interrupt status of PCI is one register");
    }
    fn isr(&self, _: Register<u8>) -> Isr {
        self.isr_handle()
    }
}

impl Model {
    fn queue(&mut self) -> Option<&mut Queue> {
        self.queues.get_mut(usize::from(self.select))
    }

    fn common_width(at: usize, width: u16) {
        let known = COMMON.iter().find(|c| c.0 == at);
        let (_, right) = known.unwrap_or_else(|| panic!("no common register at {at:#x}"));
        assert_eq!(width, *right, "width of the common register at {at:#x}");
    }

    fn read(&mut self, at: usize, width: u16) -> u32 {
        match at {
            0..0x1000 => {
                Self::common_width(at, width);
                self.read_common(at)
            }
            0x1000 => std::mem::take(&mut self.isr).into(),
            0x2000..0x3000 => {
                let mut bytes = [0; 4];
                let end = at - 0x2000 + usize::from(width);
                let from = self.config.get(at - 0x2000..end).unwrap_or(&[]);
                bytes[..from.len()].copy_from_slice(from);
                if let Some(config) = self.changes.pop() {
                    self.config = config;
                    self.generation = self.generation.wrapping_add(1);
                }
                u32::from_le_bytes(bytes)
            }
            0x10000.. => {
                assert_eq!(width, 4, "width of an MSI-X table access");
                self.msix_table[(at - 0x10000) / 4]
            }
            _ => panic!("read of {at:#x}"),
        }
    }

    fn read_common(&mut self, at: usize) -> u32 {
        let select = self.device_feature_select;
        let word = |features: u128, select| {
            if select < 4 {
                (features >> (32 * select)) as u32
            } else {
                0
            }
        };
        match at {
            0x00 => select,
            0x04 => word(self.offered, select),
            0x10 => self.config_vector.into(),
            0x12 => self.num_queues.into(),
            0x14 => self.status.into(),
            0x15 => {
                if self.restless {
                    self.generation = self.generation.wrapping_add(1);
                }
                self.generation.into()
            }
            0x16 => self.select.into(),
            0x18 => self.queue().map_or(0, |q| q.size).into(),
            0x1a => self.queue().map_or(0xffff, |q| q.vector).into(),
            0x1c => self.queue().map_or(0, |q| q.enable).into(),
            0x1e => self.queue().map_or(0, |q| q.notify_off).into(),
            0x38 => self.queue().map_or(0, |q| q.notif_data).into(),
            0x3a => self.read_queue_reset(),
            _ => panic!("read of common register {at:#x}"),
        }
    }

    fn read_queue_reset(&mut self) -> u32 {
        let (index, keep) = (self.select, self.keep_enable);
        let Some(queue) = self.queue() else { return 0 };
        match queue.resetting {
            Some(0) if keep => queue.resetting = None,
            Some(0) => queue.reset(index),
            Some(reads) => {
                queue.resetting = Some(reads - 1);
                return 1;
            }
            None => {}
        }
        0
    }

    fn write(&mut self, at: usize, width: u16, value: u32) {
        match at {
            0..0x1000 => {
                Self::common_width(at, width);
                self.write_common(at, value);
            }
            0x2000..0x3000 => {
                let bytes = value.to_le_bytes();
                let from = &bytes[..usize::from(width)];
                self.config[at - 0x2000..][..from.len()].copy_from_slice(from);
            }
            // A doorbell that is a write of a register, as through the window.
            0x3000..0x4000 if width == 2 => self.rings.push((at, value as u16)),
            0x3000..0x4000 => self.data_rings.push((at, value)),
            0x10000.. => {
                assert_eq!(width, 4, "width of an MSI-X table access");
                self.msix_table[(at - 0x10000) / 4] = value;
            }
            _ => panic!("write of {at:#x}"),
        }
    }

    fn write_common(&mut self, at: usize, value: u32) {
        let half = value as u16;
        let room = self.vector_room;
        let reset_reads = self.reset_reads;
        let assign = |vector| if vector < room { vector } else { 0xffff };
        let (refuse_enable, refuse_size, packed) =
            (self.refuse_enable, self.refuse_size, self.packed);
        match at {
            0x00 => self.device_feature_select = value,
            0x08 => self.driver_feature_select = value,
            0x0c => self.accepted[self.driver_feature_select as usize] = value,
            0x10 => self.config_vector = assign(half),
            0x14 if value == 0 => self.reset(),
            0x14 => self.status = value as u8,
            0x16 => self.select = half,
            0x3a => {
                assert_eq!(half, 1, "queue_reset takes only 1");
                let queue = self.queue().expect("a queue that does not exist is reset");
                assert_eq!(queue.enable, 1, "a queue that is not enabled is reset");
                assert_eq!(queue.resetting, None, "a queue is reset twice");
                queue.resetting = Some(reset_reads);
            }
            _ => {
                let queue = self
                    .queue()
                    .expect("a register of a queue that does not exist");
                assert_eq!(queue.enable, 0, "the queue is enabled already");
                match at {
                    0x18 => {
                        assert_ne!(half, 0, "queue_size written as 0");
                        assert!(packed || half.is_power_of_two(), "queue_size {half}");
                        assert!(half <= queue.max, "queue_size above the maximum");
                        if !refuse_size {
                            queue.size = half;
                        }
                    }
                    0x1a => queue.vector = assign(half),
                    0x1c => {
                        assert_eq!(half, 1, "queue_enable takes only 1");
                        assert_eq!(queue.written, 0x3f, "enabled before it was programmed");
                        queue.enable = u16::from(!refuse_enable);
                    }
                    0x20..0x38 => {
                        let word = (at - 0x20) / 4;
                        queue.areas[word] = value;
                        queue.written |= 1 << word;
                    }
                    _ => panic!("write to read-only common register {at:#x}"),
                }
            }
        }
    }

    fn reset(&mut self) {
        self.status = 0;
        self.accepted = [0; 4];
        self.config_vector = 0xffff;
        for (i, queue) in self.queues.iter_mut().enumerate() {
            queue.reset(i as u16);
        }
    }
}
