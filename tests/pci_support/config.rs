//! Configuration space that judges every access.

use std::cell::RefCell;
use std::collections::BTreeMap;

use vring::transport::pci::{Address, ConfigAccess};

pub const COMMAND: u16 = 4;
pub const IO: u16 = 1;
pub const MEMORY: u16 = 2;
pub const BUS_MASTER: u16 = 4;
pub const INTX_DISABLE: u16 = 1 << 10;

/// A capability: its bytes, in which the pointer to the next one is filled in.
pub struct Cap(pub Vec<u8>);

impl Cap {
    /// `struct virtio_pci_cap`.
    pub fn virtio(cfg_type: u8, bar: u8, offset: u32, length: u32) -> Self {
        let mut bytes = vec![0x09, 0, 16, cfg_type, bar, 0, 0, 0];
        bytes.extend(offset.to_le_bytes());
        bytes.extend(length.to_le_bytes());
        Self(bytes)
    }

    /// `struct virtio_pci_notify_cap`.
    pub fn notify(bar: u8, offset: u32, length: u32, multiplier: u32) -> Self {
        let mut cap = Self::virtio(2, bar, offset, length);
        cap.0.extend(multiplier.to_le_bytes());
        cap.0[2] = 20;
        cap
    }

    /// `struct virtio_pci_cfg_cap`: the window.
    pub fn window() -> Self {
        let mut cap = Self::virtio(5, 0, 0, 0);
        cap.0.extend([0; 4]);
        cap.0[2] = 20;
        cap
    }

    /// `struct virtio_pci_cap64`: a shared memory region.
    pub fn shared_memory(id: u8, bar: u8, offset: u64, length: u64) -> Self {
        let mut cap = Self::virtio(8, bar, offset as u32, length as u32);
        cap.0.extend(((offset >> 32) as u32).to_le_bytes());
        cap.0.extend(((length >> 32) as u32).to_le_bytes());
        cap.0[2] = 24;
        cap.0[5] = id;
        cap
    }

    /// MSI-X with a table of `vectors` at `offset` of `bar`.
    pub fn msix(vectors: u16, bar: u32, offset: u32) -> Self {
        let mut bytes = vec![0x11, 0];
        bytes.extend((vectors - 1).to_le_bytes());
        bytes.extend((offset | bar).to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        Self(bytes)
    }
}

/// One function.
#[derive(Clone)]
pub struct FakeFunction {
    pub space: Vec<u8>,
    /// Which bits of each BAR can be written.
    bar_masks: [u32; 6],
    /// Where the MSI-X control word is.
    msix: Option<u16>,
    /// Where the window is, and what it may show: BAR, offset, length.
    window: Option<u16>,
    structures: Vec<(u8, u32, u32)>,
    pub msix_stuck_off: bool,
    pub msix_stuck_masked: bool,
    pub command_stuck: u16,
}

impl FakeFunction {
    pub fn new(vendor: u16, device: u16) -> Self {
        let mut function = Self {
            space: vec![0; 4096],
            bar_masks: [0; 6],
            msix: None,
            window: None,
            structures: Vec::new(),
            msix_stuck_off: false,
            msix_stuck_masked: false,
            command_stuck: 0,
        };
        function.put16(0, vendor).put16(2, device).put16(6, 0x10);
        function
    }

    /// As QEMU makes a virtio device without a legacy interface: everything in 64-bit BAR 4.
    pub fn qemu(device: u16) -> Self {
        Self::new(0x1af4, device)
            .memory_bar64(4, 0x80_0000_0000, 0x4000)
            .memory_bar(1, 0xfebd_0000, 0x1000)
            .caps(vec![
                Cap::msix(3, 1, 0),
                Cap(vec![
                    0x09, 0, 20, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                ]),
                Cap::notify(4, 0x3000, 0x1000, 4),
                Cap::virtio(4, 4, 0x2000, 0x1000),
                Cap::virtio(3, 4, 0x1000, 0x1000),
                Cap::virtio(1, 4, 0, 0x1000),
            ])
    }

    pub fn put16(&mut self, at: usize, value: u16) -> &mut Self {
        self.space[at..at + 2].copy_from_slice(&value.to_le_bytes());
        self
    }

    pub fn put32(&mut self, at: usize, value: u32) -> &mut Self {
        self.space[at..at + 4].copy_from_slice(&value.to_le_bytes());
        self
    }

    pub fn get16(&self, at: u16) -> u16 {
        let at = usize::from(at);
        u16::from_le_bytes(self.space[at..at + 2].try_into().unwrap())
    }

    pub fn get32(&self, at: u16) -> u32 {
        let at = usize::from(at);
        u32::from_le_bytes(self.space[at..at + 4].try_into().unwrap())
    }

    /// A BAR: what it reads, and which bits can be written.
    pub fn bar(mut self, bar: usize, value: u32, mask: u32) -> Self {
        self.bar_masks[bar] = mask;
        self.put32(0x10 + 4 * bar, value);
        self
    }

    pub fn memory_bar(self, bar: usize, address: u32, size: u32) -> Self {
        self.bar(bar, address, !(size - 1))
    }

    pub fn memory_bar64(self, bar: usize, address: u64, size: u64) -> Self {
        let mask = !(size - 1);
        self.bar(bar, address as u32 | 0xc, mask as u32).bar(
            bar + 1,
            (address >> 32) as u32,
            (mask >> 32) as u32,
        )
    }

    pub fn io_bar(self, bar: usize, port: u32, size: u32) -> Self {
        self.bar(bar, port | 1, !(size - 1))
    }

    /// Chains the capabilities from 0x40 on.
    pub fn caps(mut self, caps: Vec<Cap>) -> Self {
        let mut at = 0x40;
        let mut link = 0x34;
        for Cap(bytes) in &caps {
            self.space[link] = at as u8;
            self.space[at..at + bytes.len()].copy_from_slice(bytes);
            self.space[at + 1] = 0;
            match bytes.as_slice() {
                [0x11, ..] => self.msix = Some(at as u16 + 2),
                [0x09, _, _, 5, ..] => self.window = Some(at as u16),
                &[0x09, _, _, _, bar, ..] => {
                    let word = |i: usize| u32::from_le_bytes(bytes[i..i + 4].try_into().unwrap());
                    self.structures.push((bar, word(8), word(12)));
                }
                _ => {}
            }
            link = at + 1;
            at += bytes.len().next_multiple_of(4);
            assert!(at <= 256, "the capabilities do not fit");
        }
        self
    }

    /// What the window shows when its data is accessed at `at`: the BAR and the offset.
    fn shown(&self, at: u16, width: u16) -> Option<(u8, u32)> {
        let window = self
            .window
            .filter(|window| (window + 16..window + 20).contains(&at))?;
        let bar = self.space[usize::from(window) + 4];
        let (offset, length) = (self.get32(window + 8), self.get32(window + 12));
        assert_eq!(
            (at, width.into()),
            (window + 16, length),
            "data as long as the length"
        );
        let inside =
            |s: &&(u8, u32, u32)| s.0 == bar && offset >= s.1 && offset - s.1 + length <= s.2;
        let structure = self.structures.iter().find(inside);
        assert!(
            structure.is_some(),
            "BAR {bar}, offset {offset:#x}: in no structure"
        );
        Some((bar, offset))
    }

    pub fn command(&self) -> u16 {
        self.get16(COMMAND)
    }

    /// The MSI-X control word.
    pub fn msix_control(&self) -> u16 {
        self.get16(self.msix.unwrap())
    }

    fn write(&mut self, at: u16, width: u16, value: u32) {
        match (at, width) {
            (COMMAND, 2) => {
                let value = value as u16 & !self.command_stuck;
                self.put16(4, value);
            }
            (0x10..0x28, 4) => {
                assert_eq!(
                    self.command() & (IO | MEMORY),
                    0,
                    "BAR register {at:#x} written with decoding on"
                );
                let bar = usize::from((at - 0x10) / 4);
                let bars = match self.space[0xe] & 0x7f {
                    0 => 6,
                    1 => 2,
                    _ => 0,
                };
                assert!(bar < bars, "register {at:#x} is no BAR of this header");
                let mask = self.bar_masks[bar];
                let fixed = self.get32(at) & !mask & 0xf;
                self.put32(at.into(), value & mask | fixed);
            }
            (at, 1) if Some(at.wrapping_sub(4)) == self.window => {
                self.space[usize::from(at)] = value as u8
            }
            (at, 4) if Some(at.wrapping_sub(8)) == self.window => {
                let length = self.get32(at + 4);
                assert!(
                    value.is_multiple_of(length),
                    "offset {value:#x}, length {length}"
                );
                self.put32(at.into(), value);
            }
            (at, 4) if Some(at.wrapping_sub(12)) == self.window => {
                assert!(matches!(value, 1 | 2 | 4), "length {value}");
                self.put32(at.into(), value);
            }
            (at, 2) if Some(at) == self.msix => {
                let writable = if self.msix_stuck_off { 0 } else { 0xc000 };
                let fixed = self.get16(at) & !writable;
                let stuck = if self.msix_stuck_masked { 0x4000 } else { 0 };
                self.put16(at.into(), value as u16 & writable | fixed | stuck);
            }
            _ => panic!("write of {width} bytes to read-only register {at:#x}"),
        }
    }
}

/// A bus.
#[derive(Default)]
pub struct FakeConfig {
    pub functions: RefCell<BTreeMap<Address, FakeFunction>>,
    /// Writes, in order: register, width in bytes, value.
    pub writes: RefCell<Vec<(u16, u16, u32)>>,
    pub reads: RefCell<usize>,
    /// What the window of the function shows, and which BARs and offsets it showed.
    pub device: RefCell<Option<super::Fake>>,
    pub shown: RefCell<Vec<(u8, u32, u16)>>,
}

impl FakeConfig {
    pub fn with(address: Address, function: FakeFunction) -> Self {
        let config = Self::default();
        config.add(address, function);
        config
    }

    pub fn add(&self, address: Address, function: FakeFunction) {
        self.functions.borrow_mut().insert(address, function);
    }

    /// A copy of a function as it is now.
    pub fn function(&self, address: Address) -> FakeFunction {
        self.functions.borrow()[&address].clone()
    }

    fn get(&self, address: Address, at: u16, width: u16) -> u32 {
        assert!(
            at < 4096 && at.is_multiple_of(width),
            "read of {width} at {at:#x}"
        );
        *self.reads.borrow_mut() += 1;
        let functions = self.functions.borrow();
        let Some(function) = functions.get(&address) else {
            return !0;
        };
        if let Some((bar, offset)) = function.shown(at, width) {
            self.shown.borrow_mut().push((bar, offset, width));
            let device = self.device.borrow();
            return device.as_ref().unwrap().read_at(offset as usize, width);
        }
        let at = usize::from(at);
        (0..usize::from(width))
            .rev()
            .fold(0, |value, i| value << 8 | u32::from(function.space[at + i]))
    }

    fn put(&self, address: Address, at: u16, width: u16, value: u32) {
        assert!(
            at < 4096 && at.is_multiple_of(width),
            "write of {width} at {at:#x}"
        );
        self.writes.borrow_mut().push((at, width, value));
        let functions = self.functions.borrow();
        let shown = functions.get(&address).and_then(|f| f.shown(at, width));
        drop(functions);
        if let Some((bar, offset)) = shown {
            self.shown.borrow_mut().push((bar, offset, width));
            let device = self.device.borrow();
            return device
                .as_ref()
                .unwrap()
                .write_at(offset as usize, width, value);
        }
        if let Some(function) = self.functions.borrow_mut().get_mut(&address) {
            function.write(at, width, value);
        }
    }
}

// SAFETY: this is the machine, made up, and no registers are behind it but those of fakes.
unsafe impl ConfigAccess for FakeConfig {
    fn read32(&self, address: Address, register: u16) -> u32 {
        self.get(address, register, 4)
    }
    fn read16(&self, address: Address, register: u16) -> u16 {
        self.get(address, register, 2) as u16
    }
    fn read8(&self, address: Address, register: u16) -> u8 {
        self.get(address, register, 1) as u8
    }
    fn write32(&self, address: Address, register: u16, value: u32) {
        self.put(address, register, 4, value);
    }
    fn write16(&self, address: Address, register: u16, value: u16) {
        self.put(address, register, 2, value.into());
    }
    fn write8(&self, address: Address, register: u16, value: u8) {
        self.put(address, register, 1, value.into());
    }
}
