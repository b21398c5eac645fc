use core::ptr::NonNull;
use std::vec::Vec;

use super::{Native, RegisterAccess, Registers, field};
use crate::transport::Interrupt;

/// Memory in the place of registers: `len` bytes from 8-byte aligned memory on.
fn registers(memory: &mut [u64], len: usize) -> Registers {
    assert!(len <= memory.len() * 8);
    let base = NonNull::new(memory.as_mut_ptr().cast()).unwrap();
    // SAFETY: memory of that length, which nobody uses while registers made here are used.
    unsafe { Registers::new(base, len) }
}

fn bytes(memory: &[u64]) -> Vec<u8> {
    memory.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

#[test]
fn no_register_is_outside_of_its_range_or_misaligned() {
    let mut memory = [0; 2];
    let registers = registers(&mut memory, 10);
    for offset in 0..20 {
        assert_eq!(registers.register::<u8>(offset).is_some(), offset < 10);
        let two = offset + 2 <= 10 && offset % 2 == 0;
        assert_eq!(registers.register::<u16>(offset).is_some(), two);
        let four = offset + 4 <= 10 && offset % 4 == 0;
        assert_eq!(registers.register::<u32>(offset).is_some(), four);
    }
    for offset in [usize::MAX, usize::MAX - 1, usize::MAX - 3] {
        assert!(registers.register::<u8>(offset).is_none());
        assert!(registers.register::<u32>(offset).is_none());
    }
    assert!(registers.block::<[u32; 2]>().is_some());
    assert!(registers.block::<[u32; 3]>().is_none());
}

/// Addresses that an access of the kernel's translates, and where nothing is.
fn names(first: usize, len: usize) -> Registers {
    let base = NonNull::new(core::ptr::without_provenance_mut(first)).unwrap();
    // SAFETY: names, which never come to `Native`.
    unsafe { Registers::new(base, len) }
}

#[test]
fn registers_that_are_names_are_only_counted_with() {
    #[repr(C)]
    #[derive(zerocopy::FromBytes)]
    struct Pair {
        first: u32,
        second: u32,
    }
    let block = names(0x1_0000, 8).block::<Pair>().unwrap();
    assert_eq!(field!(block, Pair, first).address(), 0x1_0000);
    assert_eq!(field!(block, Pair, second).address(), 0x1_0004);
    assert!(names(usize::MAX - 7, 8).block::<Pair>().is_some());
    let wraps = names(usize::MAX - 3, 8);
    assert!(wraps.block::<Pair>().is_none());
    assert!(wraps.register::<u32>(0).is_some());
    assert!(wraps.register::<u32>(4).is_none());
}

#[test]
fn a_base_that_is_misaligned_gives_no_wide_registers() {
    let mut memory = [0u64; 2];
    let base = NonNull::new(memory.as_mut_ptr().cast::<u8>()).unwrap();
    // SAFETY: the first of 16 bytes.
    let base = unsafe { base.add(1) };
    // SAFETY: 15 bytes of memory that nobody else uses.
    let registers = unsafe { Registers::new(base, 15) };
    assert!(registers.register::<u8>(0).is_some());
    assert!(registers.register::<u16>(0).is_none());
    assert!(registers.register::<u16>(1).is_some());
    assert!(registers.register::<u32>(2).is_none());
    assert!(registers.block::<u32>().is_none());
    assert!(registers.is_aligned_to(1) && !registers.is_aligned_to(2));
}

#[test]
fn bug_class_74_registers_are_little_endian_and_stores_touch_no_neighbor() {
    let mut memory = [!0u64; 2];
    let registers = registers(&mut memory, 16);
    Native.write32(registers.register(0).unwrap(), 0x0403_0201);
    Native.write16(registers.register(6).unwrap(), 0x0807);
    Native.write8(registers.register(9).unwrap(), 0x0a);
    let (f, all) = (0xff, bytes(&memory));
    assert_eq!(all, [1, 2, 3, 4, f, f, 7, 8, f, 0xa, f, f, f, f, f, f]);
}

#[test]
fn loads_are_little_endian_of_their_width() {
    let mut memory = [u64::from_ne_bytes([1, 2, 3, 4, 5, 6, 7, 8])];
    let registers = registers(&mut memory, 8);
    assert_eq!(Native.read32(registers.register(4).unwrap()), 0x0807_0605);
    assert_eq!(Native.read16(registers.register(2).unwrap()), 0x0403);
    assert_eq!(Native.read8(registers.register(7).unwrap()), 8);
}

/// Defends: PCI-029.
#[test]
fn a_doorbell_is_one_16_bit_store_and_an_isr_one_8_bit_load() {
    let mut memory = [!0u64, u64::from_ne_bytes([0, 3, 0, 0, 0, 0, 0, 0])];
    let registers = registers(&mut memory, 16);
    let doorbell = Native.doorbell(registers.register(2).unwrap(), 0x1234);
    let isr = Native.isr(registers.register(9).unwrap());
    doorbell.ring(0);
    assert_eq!(isr.ack().bits(), 3);
    let (f, all) = (0xff, bytes(&memory));
    assert_eq!(all[..8], [f, f, 0x34, 0x12, f, f, f, f]);
}

/// Defends: MM-004, MM-016, MM-018.
#[test]
fn over_mmio_a_doorbell_is_one_32_bit_store_and_an_isr_takes_back_what_it_saw() {
    let mut memory = [
        !0u64,
        u64::from_ne_bytes([0xfe, 0xff, 0xff, 0xff, 7, 7, 7, 7]),
    ];
    let registers = registers(&mut memory, 16);
    let doorbell = Native.doorbell32(registers.register(4).unwrap(), 0x1234);
    let isr = Native.isr_pair(
        registers.register(8).unwrap(),
        registers.register(12).unwrap(),
    );
    // The position is not told.
    doorbell.ring(0x5678);
    // Every bit is set but that of the queues.
    assert_eq!(isr.ack(), Interrupt::CONFIG);
    let (f, all) = (0xff, bytes(&memory));
    assert_eq!(all[..8], [f, f, f, f, 0x34, 0x12, 0, 0]);
    assert_eq!(all[8..], [0xfe, f, f, f, 2, 0, 0, 0]);
}

/// Defends: MM-018.
#[test]
fn bug_class_73_without_an_event_nothing_is_acknowledged() {
    let mut memory = [u64::from_ne_bytes([0xfc, 0xff, 0xff, 0xff, 7, 7, 7, 7])];
    let registers = registers(&mut memory, 8);
    let isr = Native.isr_pair(
        registers.register(0).unwrap(),
        registers.register(4).unwrap(),
    );
    assert!(isr.ack().is_empty());
    assert_eq!(bytes(&memory)[4..], [7; 4]);
}

#[test]
fn handles_may_be_used_by_any_core() {
    fn shared<T: Send + Sync>() {}
    shared::<Registers>();
    shared::<super::Register<u32>>();
    shared::<super::Block<u32>>();
    shared::<crate::transport::Doorbell>();
    shared::<crate::transport::Isr>();
    shared::<crate::transport::pci::PciTransport>();
}
