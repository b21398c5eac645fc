//! Configuration access by address and by ports, and the scan over it.

mod pci_support;

use std::ptr::NonNull;
use std::sync::Mutex;

use pci_support::{Fake, FakeConfig, FakeFunction};
use vring::transport::Registers;
use vring::transport::pci::{
    Address, ConfigAccess, ConfigPorts, Ecam, Function, PortIo, VENDOR, scan, scan_buses, scan_from,
};

fn address(bus: u8, device: u8, function: u8) -> Address {
    Address::new(bus, device, function).unwrap()
}

#[test]
fn an_address_has_32_devices_of_8_functions_and_prints_as_people_write_it() {
    assert_eq!(Address::new(0, 32, 0), None);
    assert_eq!(Address::new(0, 0, 8), None);
    let last = Address::new(255, 31, 7).unwrap().with_segment(0xffff);
    assert_eq!(last.to_string(), "ffff:ff:1f.7");
    assert_eq!(
        (last.segment(), last.bus(), last.device(), last.function()),
        (0xffff, 255, 31, 7)
    );
}

/// Memory for `buses` buses of ECAM.
fn ecam_memory(buses: usize) -> Vec<u64> {
    vec![0; buses << 20 >> 3]
}

fn registers(memory: &mut [u64]) -> Registers {
    let base = NonNull::new(memory.as_mut_ptr().cast()).unwrap();
    // SAFETY: plain memory of that length, used by nobody else while the registers are.
    unsafe { Registers::new(base, memory.len() * 8) }
}

#[test]
fn ecam_puts_each_function_at_its_4_kib() {
    let mut memory = ecam_memory(3);
    let ecam = Ecam::new(registers(&mut memory), 7, 0x10..=0x12);
    let last = address(0x12, 31, 7).with_segment(7);
    ecam.write32(last, 0xffc, 0x1234_5678);
    ecam.write16(last, 0x004, 0xabcd);
    ecam.write8(last, 0x00f, 0xef);
    assert_eq!(ecam.read32(last, 0xffc), 0x1234_5678);
    assert_eq!(ecam.read16(last, 0xffe), 0x1234);
    assert_eq!(ecam.read8(last, 0xffd), 0x56);
    let at = (2 << 20 | 31 << 15 | 7 << 12) / 8;
    assert_eq!(memory[at + 0xff8 / 8].to_le(), 0x1234_5678_0000_0000);
    assert_eq!(memory[at].to_le(), 0x0000_abcd_0000_0000);
    assert_eq!(memory[at + 1].to_le(), 0xef00_0000_0000_0000);
}

#[test]
fn ecam_reads_all_ones_where_it_has_nothing() {
    let mut memory = ecam_memory(1);
    // Three buses are promised, memory is there for one.
    let ecam = Ecam::new(registers(&mut memory), 0, 1..=3);
    for nowhere in [address(0, 0, 0), address(2, 0, 0), address(4, 0, 0)] {
        ecam.write32(nowhere, 0, 5);
        assert_eq!(ecam.read32(nowhere, 0), !0);
        assert_eq!(ecam.read16(nowhere, 0), !0);
        assert_eq!(ecam.read8(nowhere, 0), !0);
    }
    let here = address(1, 0, 0);
    assert_eq!(ecam.read32(here, 0), 0);
    assert_eq!(ecam.read32(here.with_segment(1), 0), !0);
    assert_eq!(ecam.read32(here, 4096), !0);
    assert_eq!(ecam.read32(here, 2), !0, "misaligned");
    assert!(memory.iter().all(|&word| word == 0));
}

#[test]
fn ecam_goes_through_the_register_access_that_it_was_given() {
    let fake = Fake::new();
    fake.model().msix_table[2] = 0x1af4;
    let registers = fake.map(pci_support::device::BAR1, 0x1000).unwrap();
    let ecam = Ecam::with_access(registers, 0, 0..=0, fake.clone());
    assert_eq!(ecam.read32(address(0, 0, 0), 8), 0x1af4);
    assert_eq!(fake.model().reads, [(0x10008, 4)]);
}

/// Records what the ports saw; stops the test when a transfer does not follow its own selection.
#[derive(Default)]
struct Ports(Mutex<Vec<(u16, u16, Option<u32>)>>);

impl Ports {
    fn note(&self, port: u16, width: u16, value: Option<u32>) {
        self.0.lock().unwrap().push((port, width, value));
        // Make room for another thread to come between.
        std::thread::yield_now();
    }
}

// SAFETY: this is the machine, made up, and no registers are behind it but those of fakes.
unsafe impl ConfigPorts for &Ports {
    fn read8(&self, port: u16) -> u8 {
        self.note(port, 1, None);
        0x11
    }
    fn read16(&self, port: u16) -> u16 {
        self.note(port, 2, None);
        0x2222
    }
    fn read32(&self, port: u16) -> u32 {
        self.note(port, 4, None);
        0x4444_4444
    }
    fn write8(&self, port: u16, value: u8) {
        self.note(port, 1, Some(value.into()));
    }
    fn write16(&self, port: u16, value: u16) {
        self.note(port, 2, Some(value.into()));
    }
    fn write32(&self, port: u16, value: u32) {
        self.note(port, 4, Some(value));
    }
}

#[test]
fn bug_class_68_ports_are_used_with_the_width_of_the_access_and_the_lane_of_the_register() {
    let ports = Ports::default();
    let io = PortIo::new(&ports);
    let at = address(0x12, 0x1f, 7);
    assert_eq!(io.read32(at, 0x10), 0x4444_4444);
    assert_eq!(io.read16(at, 0x06), 0x2222);
    assert_eq!(io.read8(at, 0x0f), 0x11);
    io.write32(at, 0xfc, 0xdead_beef);
    io.write16(at, 0x04, 0x0407);
    io.write8(at, 0x3d, 0x5a);
    let select = 0x8012_ff00;
    let expected = [
        (0xcf8, 4, Some(select | 0x10)),
        (0xcfc, 4, None),
        (0xcf8, 4, Some(select | 0x04)),
        (0xcfe, 2, None),
        (0xcf8, 4, Some(select | 0x0c)),
        (0xcff, 1, None),
        (0xcf8, 4, Some(select | 0xfc)),
        (0xcfc, 4, Some(0xdead_beef)),
        (0xcf8, 4, Some(select | 0x04)),
        (0xcfc, 2, Some(0x0407)),
        (0xcf8, 4, Some(select | 0x3c)),
        (0xcfd, 1, Some(0x5a)),
    ];
    assert_eq!(*ports.0.lock().unwrap(), expected);
}

#[test]
fn ports_reach_only_the_first_256_registers_of_segment_0() {
    let ports = Ports::default();
    let io = PortIo::new(&ports);
    let at = address(0, 0, 0);
    io.write32(at, 256, 0);
    assert_eq!(io.read32(at, 256), !0);
    assert_eq!(io.read16(at, 4094), !0);
    assert_eq!(io.read8(at.with_segment(1), 0), !0);
    assert_eq!(io.read32(at, 2), !0, "misaligned");
    assert_eq!(*ports.0.lock().unwrap(), []);
}

#[test]
fn bug_class_68_the_pair_of_ports_is_one_resource_for_all_cores() {
    let ports = Ports::default();
    std::thread::scope(|scope| {
        for core in 0..4 {
            let ports = &ports;
            // Each core has an access of its own, as drivers that do not know each other would.
            scope.spawn(move || {
                let io = PortIo::new(ports);
                for i in 0..250 {
                    io.write8(address(core, i % 32, 0), 0, core);
                }
            });
        }
    });
    let log = ports.0.lock().unwrap();
    assert_eq!(log.len(), 2000);
    for pair in log.chunks(2) {
        let [(0xcf8, 4, Some(select)), (0xcfc, 1, Some(core))] = *pair else {
            panic!("another core came between: {pair:x?}")
        };
        assert_eq!(select >> 16 & 0xff, core);
    }
}

/// Has 32-bit reads only, as small kernels do.
struct Dwords;

// SAFETY: this is the machine, made up, and no registers are behind it but those of fakes.
unsafe impl ConfigAccess for Dwords {
    fn read32(&self, _: Address, register: u16) -> u32 {
        assert_eq!(register % 4, 0);
        0x4433_2211
    }
    fn write32(&self, _: Address, _: u16, _: u32) {}
    fn write16(&self, _: Address, _: u16, _: u16) {}
    fn write8(&self, _: Address, _: u16, _: u8) {}
}

#[test]
fn narrow_reads_come_from_the_word_around_them_by_default() {
    let at = address(0, 0, 0);
    assert_eq!([0, 2].map(|r| Dwords.read16(at, r)), [0x2211, 0x4433]);
    assert_eq!(
        [0, 1, 2, 3].map(|r| Dwords.read8(at, r)),
        [0x11, 0x22, 0x33, 0x44]
    );
    let borrowed: &dyn ConfigAccess = &Dwords;
    assert_eq!((&borrowed).read16(at, 2), 0x4433);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn native_ports_touch_no_other_port() {
    // SAFETY: no port is touched: every one below is refused.
    let ports = unsafe { vring::transport::pci::NativePorts::new() };
    for port in [0, 0xcf7, 0xd00, 0xffff] {
        assert_eq!(ports.read8(port), !0);
        ports.write8(port, 0);
    }
    // The last byte of these lies beyond the eight.
    assert_eq!(ports.read16(0xcff), !0);
    assert_eq!(ports.read32(0xcfd), !0);
    ports.write32(0xcfd, 0);
}

fn bridge(secondary: u8) -> FakeFunction {
    let mut bridge = FakeFunction::new(0x1b36, 0x000c);
    bridge.space[0xe] = 1;
    bridge.space[0x19] = secondary;
    bridge
}

fn found(config: &FakeConfig) -> Vec<Address> {
    scan(config).map(|f| f.address).collect()
}

#[test]
fn a_scan_looks_at_function_0_first_and_at_the_others_only_of_multi_function_devices() {
    let config = FakeConfig::default();
    let single = FakeFunction::qemu(0x1041);
    let mut multi = single.clone();
    multi.space[0xe] = 0x80;
    config.add(address(0, 1, 0), single.clone());
    config.add(address(0, 1, 3), single.clone()); // an alias: device 1 is not multi-function
    config.add(address(0, 2, 0), multi);
    config.add(address(0, 2, 5), single.clone());
    config.add(address(0, 4, 1), single.clone()); // device 4 has no function 0
    config.add(address(0, 31, 0), single.clone());
    config.add(address(1, 0, 0), single); // no bridge leads there
    let expected = [
        address(0, 1, 0),
        address(0, 2, 0),
        address(0, 2, 5),
        address(0, 31, 0),
    ];
    assert_eq!(found(&config), expected);
    // 32 devices and 7 further functions; four registers a function that is there, one otherwise.
    assert!(
        *config.reads.borrow() < 32 + 7 + 6 * 5,
        "{}",
        config.reads.borrow()
    );
}

#[test]
fn a_function_is_described_by_its_header() {
    let mut function = FakeFunction::qemu(0x1041);
    function
        .put32(8, 0x0200_0001)
        .put16(0x2c, 0x1af4)
        .put16(0x2e, 0x1100);
    let config = FakeConfig::with(address(0, 3, 0), function);
    let expected = Function {
        address: address(0, 3, 0),
        vendor: VENDOR,
        device: 0x1041,
        subsystem: 0x1100,
        revision: 1,
        class: 0x02_0000,
        header_type: 0,
    };
    assert_eq!(scan(&config).collect::<Vec<_>>(), [expected]);
}

#[test]
fn a_scan_follows_bridges_and_visits_each_bus_once_whatever_they_say() {
    let config = FakeConfig::default();
    let device = || FakeFunction::qemu(0x1041);
    config.add(address(0, 1, 0), bridge(200));
    config.add(address(0, 2, 0), bridge(0)); // not configured, or lying
    config.add(address(0, 3, 0), bridge(200)); // the same bus again
    config.add(address(200, 0, 0), bridge(5));
    config.add(address(200, 1, 0), device());
    config.add(address(5, 0, 0), bridge(200)); // back up
    config.add(address(5, 1, 0), bridge(5)); // to itself
    config.add(address(5, 2, 0), device());
    let expected = [
        address(0, 1, 0),
        address(0, 2, 0),
        address(0, 3, 0),
        address(200, 0, 0),
        address(200, 1, 0),
        address(5, 0, 0),
        address(5, 1, 0),
        address(5, 2, 0),
    ];
    assert_eq!(found(&config), expected);
    assert_eq!(scan_from(&config, 0, 200).count(), 5);
    assert_eq!(scan_buses(&config, 0, 0..=100).count(), 6);
    assert_eq!(
        scan_buses(&config, 1, 0..=255).count(),
        0,
        "another segment"
    );
}

#[test]
fn bug_class_43_a_scan_of_bridges_everywhere_ends() {
    struct Bridges;
    // SAFETY: this is the machine, made up, and no registers are behind it but those of fakes.
    unsafe impl ConfigAccess for Bridges {
        fn read32(&self, at: Address, register: u16) -> u32 {
            match register {
                0 => 0x000c_1b36,
                0xc => 0x0081_0000,
                0x18 => u32::from(at.bus().wrapping_add(at.device()).wrapping_mul(7)) << 8,
                _ => 0,
            }
        }
        fn write32(&self, _: Address, _: u16, _: u32) {}
        fn write16(&self, _: Address, _: u16, _: u16) {}
        fn write8(&self, _: Address, _: u16, _: u8) {}
    }
    assert_eq!(scan(&Bridges).count(), 256 * 32 * 8);
}

#[test]
fn an_empty_machine_has_no_functions() {
    assert_eq!(found(&FakeConfig::default()), []);
    // A vendor id of 0 is no function either.
    let config = FakeConfig::with(address(0, 0, 0), FakeFunction::new(0, 0));
    assert_eq!(found(&config), []);
}
