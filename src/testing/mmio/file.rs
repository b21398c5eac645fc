//! The register file: what each register does, and who may touch it when (VIRTIO 1.4, 4.2.2).

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;

use super::FakeDevice;
use crate::DmaAddr;
use crate::features::{Feature, Features};
use crate::ring::layout::vring_init;
use crate::transport::{QueueAreas, QueueIndex, Status, Transport};

const CONFIG: usize = 0x100;
/// The bits of events that have a name.
const EVENTS: u32 = 3;

/// Who may access a register.
#[derive(Clone, Copy, PartialEq, Eq)]
enum May {
    Read,
    Write,
    Both,
}

/// The registers of both versions, of version 1 alone, and of version 2 alone.
const COMMON: &[(usize, May)] = &[
    (0x000, May::Read),
    (0x004, May::Read),
    (0x008, May::Read),
    (0x00c, May::Read),
    (0x010, May::Read),
    (0x014, May::Write),
    (0x020, May::Write),
    (0x024, May::Write),
    (0x030, May::Write),
    (0x034, May::Read),
    (0x038, May::Write),
    (0x050, May::Write),
    (0x060, May::Read),
    (0x064, May::Write),
    (0x070, May::Both),
];
const LEGACY: &[(usize, May)] = &[(0x028, May::Write), (0x03c, May::Write), (0x040, May::Both)];
const MODERN: &[(usize, May)] = &[
    (0x044, May::Both),
    (0x080, May::Write),
    (0x084, May::Write),
    (0x090, May::Write),
    (0x094, May::Write),
    (0x0a0, May::Write),
    (0x0a4, May::Write),
    (0x0ac, May::Write),
    (0x0b0, May::Read),
    (0x0b4, May::Read),
    (0x0b8, May::Read),
    (0x0bc, May::Read),
    (0x0c0, May::Both),
    (0x0fc, May::Read),
];

/// What the driver has written of a queue that is not enabled.
#[derive(Clone, Copy, Default)]
struct Program {
    size: Option<u32>,
    align: Option<u32>,
    /// desc, driver, device: low and high half of each.
    areas: [Option<u32>; 6],
    frame: u32,
    /// It was told to reset, and was not seen to have done so.
    resetting: bool,
}

pub(super) struct File {
    device: FakeDevice,
    legacy: bool,
    /// How many of magic, version and device id were read, in that order.
    identified: usize,
    device_features_sel: Option<u32>,
    driver_features_sel: Option<u32>,
    features: Features,
    page_size: Option<u32>,
    queue_sel: Option<u16>,
    queues: BTreeMap<u16, Program>,
    shm_sel: Option<u32>,
    events: u32,
}

impl File {
    pub(super) fn new(device: &FakeDevice) -> Self {
        Self {
            device: device.clone(),
            legacy: device.transport().is_legacy(),
            identified: 0,
            device_features_sel: None,
            driver_features_sel: None,
            features: Features::EMPTY,
            page_size: None,
            queue_sel: None,
            queues: BTreeMap::new(),
            shm_sel: None,
            events: 0,
        }
    }

    fn violation(&self, id: &'static str, what: String) {
        self.device.violations().report(id, what);
    }

    /// The events that are not acknowledged, with those that the device has had since.
    pub(super) fn collect_interrupts(&mut self) -> u32 {
        self.events |= u32::from(self.device.registers().acknowledge());
        self.events
    }

    pub(super) fn read(&mut self, at: usize, width: u8) -> u32 {
        self.judge_identification(at, false);
        if at >= CONFIG {
            return self.read_config(at - CONFIG, width);
        }
        if !self.judge(at, width, May::Read) {
            return 0;
        }
        match at {
            0x000 => 0x7472_6976,
            0x004 => 2 - u32::from(self.legacy),
            0x008 => self.device.registers().id.0.into(),
            0x00c => 0x554d_4551,
            0x010 => self.read_features(),
            0x034 => self.read_queue_max(),
            0x040 if self.is_enabled() => self.queue().frame,
            0x044 => self.is_enabled().into(),
            0x060 => self.collect_interrupts(),
            0x070 => self.read_status(),
            0x0b0 => self.read_shm().1 as u32,
            0x0b4 => (self.read_shm().1 >> 32) as u32,
            0x0b8 => self.read_shm().0 as u32,
            0x0bc => (self.read_shm().0 >> 32) as u32,
            0x0c0 => self.read_queue_reset(),
            0x0fc => self.device.registers().read_generation().unwrap_or(0),
            _ => 0,
        }
    }

    /// What was written to the doorbell is returned: it is rung when nothing is locked.
    pub(super) fn write(&mut self, at: usize, width: u8, value: u32) -> Option<u32> {
        self.judge_identification(at, true);
        if at >= CONFIG {
            self.write_config(at - CONFIG, width, value);
            return None;
        }
        if !self.judge(at, width, May::Write) {
            return None;
        }
        match at {
            0x014 => self.device_features_sel = Some(value),
            0x020 => self.write_features(value),
            0x024 => self.driver_features_sel = Some(value),
            0x028 => self.page_size = Some(value),
            0x030 => self.select_queue(value),
            0x038 => self.write_queue_size(value),
            0x03c => self.program(at, |queue| queue.align = Some(value)),
            0x040 => self.write_frame(value),
            0x044 => self.write_ready(value),
            0x050 => return self.judge_doorbell(value),
            0x064 => self.write_ack(value),
            0x070 => self.write_status(value),
            0x0ac => self.shm_sel = Some(value),
            0x0c0 => self.write_queue_reset(value),
            _ => self.write_area(at, value),
        }
        None
    }

    /// 4.2.3.1.1: magic, version and device id come first, and nothing comes after an id of 0.
    fn judge_identification(&mut self, at: usize, write: bool) {
        let order = [0x000, 0x004, 0x008];
        if self.identified == 3 {
            if at > 0x008 && self.device.registers().id.0 == 0 {
                self.violation(
                    "MM-023",
                    format!("{at:#x} is accessed, and no device is there"),
                );
            }
        } else if at == order[self.identified] && !write {
            self.identified += 1;
        } else if at == order[0] && !write {
            self.identified = 1;
        } else {
            let id = if self.identified < 2 {
                "MM-020"
            } else {
                "MM-021"
            };
            let what = format!("{at:#x} is accessed before magic, version and device id were read");
            self.violation(id, what);
        }
    }

    /// Whether the register is there, and this access is allowed.
    fn judge(&self, at: usize, width: u8, how: May) -> bool {
        let version = if self.legacy { LEGACY } else { MODERN };
        let mut known = COMMON.iter().chain(version);
        let Some(&(_, may)) = known.find(|known| known.0 == at) else {
            self.violation("MM-001", format!("there is no register at {at:#x}"));
            return false;
        };
        if width != 32 {
            self.violation("MM-004", format!("{width} bits at {at:#x}, not 32"));
        }
        if may != May::Both && may != how {
            let (id, what) = match how {
                May::Read => ("MM-003", "read from"),
                _ => ("MM-002", "written to"),
            };
            self.violation(id, format!("the register at {at:#x} is {what}"));
            return false;
        }
        true
    }

    fn read_features(&mut self) -> u32 {
        let Some(select) = self.device_features_sel else {
            self.violation(
                "MM-010",
                "DeviceFeatures is read before it was selected".into(),
            );
            return 0;
        };
        let offered = self.device.transport().device_features();
        offered.word(select)
    }

    fn write_features(&mut self, word: u32) {
        let Some(select) = self.driver_features_sel else {
            let what = "DriverFeatures is written before it was selected".into();
            return self.violation("MM-011", what);
        };
        let mask = Features::EMPTY.with_word(select, !0);
        self.features = (self.features - mask).with_word(select, word);
        self.device.transport().set_driver_features(self.features);
    }

    fn write_status(&mut self, value: u32) {
        let Ok(status) = u8::try_from(value) else {
            return self.violation("ST-001", format!("status {value:#x}: it has 8 bits"));
        };
        if status == 0 {
            // What the driver has selected and written is forgotten. Queues are enabled until the
            // device has done what it was told, and so are events.
            self.device_features_sel = None;
            self.driver_features_sel = None;
            self.features = Features::EMPTY;
            self.queue_sel = None;
            self.queues.clear();
            self.shm_sel = None;
            self.page_size = None;
        }
        self.device
            .transport()
            .set_status(Status::from_bits_retain(status));
    }

    fn read_status(&mut self) -> u32 {
        let status = self.device.transport().status();
        if status.is_empty() {
            self.events = 0;
        }
        status.bits().into()
    }

    fn select_queue(&mut self, value: u32) {
        match u16::try_from(value) {
            Ok(queue) => self.queue_sel = Some(queue),
            Err(_) => self.violation("bug-6", format!("queue {value:#x} is selected")),
        }
    }

    /// The queue that is selected.
    fn selected(&self) -> QueueIndex {
        if self.queue_sel.is_none() {
            self.violation(
                "bug-36",
                "a queue's register is used and no queue selected".into(),
            );
        }
        QueueIndex(self.queue_sel.unwrap_or(0))
    }

    fn queue(&mut self) -> &mut Program {
        let queue = self.selected();
        self.queues.entry(queue.0).or_default()
    }

    fn is_enabled(&self) -> bool {
        let queue = self.selected();
        self.device.registers().is_enabled(queue)
    }

    fn read_queue_max(&mut self) -> u32 {
        let queue = self.selected();
        if self.legacy && self.is_enabled() {
            let what = format!("QueueSizeMax is read while {queue} is used: 4.2.4");
            self.violation("MM-013", what);
        }
        self.device.transport().max_queue_size(queue).into()
    }

    /// Changes what is written of the queue that is selected, which must not be enabled.
    fn program(&mut self, at: usize, write: impl FnOnce(&mut Program)) {
        if self.is_enabled() {
            let queue = self.selected();
            let what = format!("{at:#x} is written while {queue} is enabled");
            return self.violation("MM-013", what);
        }
        write(self.queue());
    }

    fn write_queue_size(&mut self, size: u32) {
        let queue = self.selected();
        let max = self.device.transport().max_queue_size(queue);
        if size > max.into() {
            let what = format!("{queue}: QueueSize {size}, and QueueSizeMax is {max}");
            self.violation("MM-012", what);
        }
        self.program(0x038, |queue| queue.size = Some(size));
    }

    fn write_area(&mut self, at: usize, value: u32) {
        // 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4.
        let word = (at - 0x80) / 16 * 2 + at % 16 / 4;
        self.program(at, |queue| queue.areas[word] = Some(value));
    }

    fn write_ready(&mut self, value: u32) {
        let queue = self.selected();
        if value != 1 {
            let what = format!("{queue}: QueueReady {value}; this driver resets to stop a queue");
            return self.violation("MM-014", what);
        }
        let program = *self.queue();
        let (Some(size), [Some(d0), Some(d1), Some(a0), Some(a1), Some(u0), Some(u1)]) =
            (program.size, program.areas)
        else {
            let what =
                format!("{queue} is enabled before its size and both halves of each address");
            return self.violation("bug-65", what);
        };
        let address = |low, high| DmaAddr(u64::from(high) << 32 | u64::from(low));
        let areas = QueueAreas {
            desc: address(d0, d1),
            driver: address(a0, a1),
            device: address(u0, u1),
        };
        self.enable(queue, size, &areas);
    }

    /// A legacy queue: its block begins at the page, and the rest follows (4.2.4).
    fn write_frame(&mut self, frame: u32) {
        let queue = self.selected();
        if frame == 0 {
            let what = format!("{queue}: QueuePFN 0, which resets the device in QEMU");
            return self.violation("bug-66", what);
        }
        let program = *self.queue();
        let (Some(page), Some(size), Some(align)) = (self.page_size, program.size, program.align)
        else {
            let what = format!("{queue} gets its page before page size, queue size and alignment");
            return self.violation("bug-61", what);
        };
        let layout = match vring_init(size as u16, align as usize) {
            Ok(layout) if page.is_power_of_two() => layout,
            _ => {
                let what = format!("{queue}: size {size}, alignment {align}, pages of {page}");
                return self.violation("bug-7", what);
            }
        };
        let start = u64::from(frame) * u64::from(page);
        let areas = QueueAreas {
            desc: DmaAddr(start + layout.desc as u64),
            driver: DmaAddr(start + layout.avail as u64),
            device: DmaAddr(start + layout.used as u64),
        };
        self.enable(queue, size, &areas);
        self.queue().frame = frame;
    }

    fn enable(&mut self, queue: QueueIndex, size: u32, areas: &QueueAreas) {
        let mut transport = self.device.transport();
        // SAFETY: the driver promised to the transport what this one asks for.
        let result = unsafe { transport.enable_queue(queue, size as u16, areas, None) };
        // What was wrong is reported there; the queue does not read back as enabled.
        if let Err(error) = result {
            log::debug!("{error}");
        }
    }

    fn write_queue_reset(&mut self, value: u32) {
        let queue = self.selected();
        if value != 1 {
            let what = format!("{queue}: QueueReset takes 1, not {value}");
            return self.violation("MM-019", what);
        }
        if self.device.transport().reset_queue(queue).is_ok() {
            self.queue().resetting = true;
        }
    }

    fn read_queue_reset(&mut self) -> u32 {
        let queue = self.selected();
        if !self.device.registers().accepted.has(Feature::RING_RESET) {
            self.violation("FE-001", "QueueReset is read without RING_RESET".into());
        }
        if self.queue().resetting && self.device.transport().is_queue_reset(queue) {
            *self.queue() = Program::default();
        }
        self.queue().resetting.into()
    }

    /// The doorbell: it must be of a queue that there is. The value is the device's to judge.
    fn judge_doorbell(&mut self, value: u32) -> Option<u32> {
        let queues = self.device.registers().queues.len();
        if value as usize & 0xffff >= queues {
            self.violation(
                "MM-001",
                format!("QueueNotify {value:#x}, of {queues} queues"),
            );
            return None;
        }
        Some(value)
    }

    fn write_ack(&mut self, value: u32) {
        if value & !EVENTS != 0 {
            self.violation(
                "MM-018",
                format!("InterruptACK {value:#x}: bits without a name"),
            );
        }
        if value & EVENTS & !self.events != 0 {
            let what = format!("InterruptACK {value:#x} where {:#x} was seen", self.events);
            self.violation("MM-017", what);
        }
        self.events &= !value;
    }

    /// Address and length.
    fn read_shm(&mut self) -> (u64, u64) {
        let Some(select) = self.shm_sel else {
            self.violation(
                "MM-024",
                "shared memory is read before it was selected".into(),
            );
            return (0, 0);
        };
        let region = u8::try_from(select).ok();
        let region = region.and_then(|id| self.device.transport().shm_region(id));
        region.map_or((u64::MAX, u64::MAX), |region| {
            (region.address, region.length)
        })
    }

    fn read_config(&mut self, at: usize, width: u8) -> u32 {
        let mut bytes = [0; 4];
        let into = &mut bytes[..usize::from(width) / 8];
        let result = self.device.registers().read_config(at, into);
        if result.is_err() {
            self.violation(
                "MM-001",
                format!("{width} bits of configuration at {at:#x}"),
            );
        }
        u32::from_le_bytes(bytes)
    }

    fn write_config(&mut self, at: usize, width: u8, value: u32) {
        let bytes = value.to_le_bytes();
        let from = &bytes[..usize::from(width) / 8];
        let result = self.device.registers().write_config(at, from);
        if result.is_err() {
            self.violation(
                "MM-001",
                format!("{width} bits of configuration at {at:#x}"),
            );
        }
    }
}
