//! Configuration access that a kernel brings: closures, and the `pci_types` crate.

mod pci_support;

use std::cell::RefCell;

#[cfg(feature = "pci_types")]
use pci_support::FakeConfig;
use pci_support::{at, qemu_net};
#[cfg(feature = "pci_types")]
use vring::transport::pci::Address;
use vring::transport::pci::{self, ConfigAccess, PciTransport, Width};
use vring::transport::{DeviceId, Transport};

#[test]
fn two_closures_are_a_way_to_configuration_space() {
    let (config, fake) = qemu_net();
    let widths = RefCell::new(Vec::new());
    let read = |address, register, width: Width| {
        widths.borrow_mut().push(width.bytes());
        match width {
            Width::Byte => config.read8(address, register).into(),
            Width::Word => config.read16(address, register).into(),
            Width::Dword => config.read32(address, register),
        }
    };
    let write = |address, register, width, value| match width {
        Width::Byte => config.write8(address, register, value as u8),
        Width::Word => config.write16(address, register, value as u16),
        Width::Dword => config.write32(address, register, value),
    };
    // SAFETY: every call is handed on once, as it is, to the configuration space of a fake.
    let closures = unsafe { pci::from_fn(read, write) };
    let found = pci::scan(&closures).find(|f| f.virtio() == Some(DeviceId::NETWORK));
    let address = found.unwrap().address;
    let map = |addr, len| fake.map(addr, len);
    let transport = PciTransport::with_access(&closures, address, fake.clone(), map).unwrap();
    assert_eq!(transport.num_queues(), Some(3));
    for bytes in [1, 2, 4] {
        assert!(
            widths.borrow().contains(&bytes),
            "an access of {bytes} bytes is one"
        );
    }
}

#[test]
fn a_closure_that_returns_more_than_was_asked_for_is_cut_down() {
    let log = RefCell::new(Vec::new());
    let read = |_, _, _| 0x8765_4321;
    let write = |_, register, width, value| log.borrow_mut().push((register, width, value));
    // SAFETY: there is nothing behind it.
    let config = unsafe { pci::from_fn(read, write) };
    assert_eq!(config.read8(at(), 1), 0x21);
    assert_eq!(config.read16(at(), 2), 0x4321);
    assert_eq!(config.read32(at(), 4), 0x8765_4321);
    config.write8(at(), 5, 0xff);
    config.write16(at(), 6, 0xffff);
    config.write32(at(), 8, 7);
    let expected = [
        (5, Width::Byte, 0xff),
        (6, Width::Word, 0xffff),
        (8, Width::Dword, 7),
    ];
    assert_eq!(*log.borrow(), expected);
    assert!(format!("{config:?}").starts_with("FromFn"));
}

#[cfg(feature = "pci_types")]
mod pci_types_crate {
    use super::*;
    use pci_types::{ConfigRegionAccess, PciAddress};
    use vring::adapter::pci_types::Config;

    /// What a kernel built on `pci_types` has: words of 32 bits.
    struct Words<'a> {
        config: &'a FakeConfig,
        writes: RefCell<Vec<(u16, u32)>>,
    }

    impl ConfigRegionAccess for Words<'_> {
        unsafe fn read(&self, address: PciAddress, offset: u16) -> u32 {
            self.config.read32(address.into(), offset)
        }

        unsafe fn write(&self, address: PciAddress, offset: u16, value: u32) {
            self.writes.borrow_mut().push((offset, value));
            let address = Address::from(address);
            match offset {
                // The fake judges widths: here it sees the half that can be written.
                0x04 => {
                    assert_eq!(value >> 16, 0, "status bits would be cleared: {value:#x}");
                    self.config.write16(address, 4, value as u16);
                }
                0x40 => self.config.write16(address, 0x42, (value >> 16) as u16),
                _ => self.config.write32(address, offset, value),
            }
        }
    }

    fn words(config: &FakeConfig) -> Config<Words<'_>> {
        let writes = RefCell::default();
        // SAFETY: the fake takes any register of any function.
        unsafe { Config::new(Words { config, writes }) }
    }

    #[test]
    fn a_kernel_on_pci_types_opens_a_device_and_its_msix() {
        let (config, fake) = qemu_net();
        let words = words(&config);
        let address = pci::scan(&words).next().unwrap().address;
        let map = |addr, len| fake.map(addr, len);
        let mut transport = PciTransport::with_access(&words, address, fake.clone(), map).unwrap();
        let table = transport.enable_msix(&words, map).unwrap();
        assert_eq!(table.len(), 3);
        assert_eq!(config.function(at()).msix_control(), 0x8002);
    }

    #[test]
    fn bug_class_68_a_narrow_write_leaves_its_neighbors_alone_and_clears_no_status() {
        struct Log(RefCell<Vec<(u16, u32)>>);
        impl ConfigRegionAccess for &Log {
            unsafe fn read(&self, _: PciAddress, _: u16) -> u32 {
                0xf9f8_f7f6
            }
            unsafe fn write(&self, _: PciAddress, offset: u16, value: u32) {
                self.0.borrow_mut().push((offset, value));
            }
        }
        let log = Log(RefCell::default());
        // SAFETY: it takes anything.
        let config = unsafe { Config::new(&log) };
        config.write16(at(), 0x04, 0x0407);
        config.write16(at(), 0x06, 0x8000);
        config.write16(at(), 0x42, 0x1234);
        config.write8(at(), 0x3d, 0x56);
        config.write32(at(), 0x10, 0x89ab_cdef);
        let expected = [
            (0x04, 0x0000_0407),
            (0x04, 0x8000_f7f6),
            (0x40, 0x1234_f7f6),
            (0x3c, 0xf9f8_56f6),
            (0x10, 0x89ab_cdef),
        ];
        assert_eq!(*log.0.borrow(), expected);
        assert_eq!(config.read16(at(), 0x0e), 0xf9f8);
        assert_eq!(config.read8(at(), 0x0d), 0xf7);
        // Beyond what every kind of access has, nothing is asked for.
        log.0.borrow_mut().clear();
        config.write32(at(), 0x100, 1);
        config.write8(at(), 0xfff, 1);
        config.write32(at(), 2, 1);
        assert_eq!(config.read32(at(), 0x100), !0);
        assert_eq!(*log.0.borrow(), []);
    }

    #[test]
    fn addresses_are_the_same_on_both_sides() {
        let address = Address::new(0xfe, 31, 7).unwrap().with_segment(0xabcd);
        let theirs = PciAddress::from(address);
        assert_eq!(theirs.to_string(), address.to_string());
        assert_eq!(Address::from(theirs), address);
    }
}
