//! Fields of device configuration: read until they settle, refused when they are not there.

mod pci_support;

use std::alloc::Layout;
use std::cell::RefCell;
use std::ptr::NonNull;

use pci_support::{Fake, open, qemu_net};
use vring::features::{Feature, Features};
use vring::platform::{Direction, DmaError, Mapping, Platform, RawRegion, Wait};
use vring::transport::config::{Field, consistent, read};
use vring::transport::pci::PciTransport;
use vring::transport::{Transport, TransportError};

/// Only its patience is asked for.
#[derive(Clone)]
struct Patience<'a> {
    polls: u32,
    asked: &'a RefCell<Vec<u32>>,
}

// SAFETY: no memory is given out.
unsafe impl Platform for Patience<'_> {
    const DIRECT: bool = true;
    fn alloc(&self, _: Layout) -> Result<RawRegion, DmaError> {
        unreachable!()
    }
    unsafe fn dealloc(&self, _: RawRegion) {
        unreachable!()
    }
    unsafe fn map(&self, _: NonNull<[u8]>, _: Direction) -> Result<Mapping, DmaError> {
        unreachable!()
    }
    unsafe fn unmap(&self, _: Mapping, _: Direction, _: u32) {
        unreachable!()
    }
    fn wait(&self, what: Wait, polls: u32) -> bool {
        assert_eq!(what, Wait::ConfigGeneration);
        self.asked.borrow_mut().push(polls);
        polls < self.polls
    }
}

fn ready() -> (Fake, PciTransport<Fake>) {
    let (config, fake) = qemu_net();
    let transport = open(&config, &fake).unwrap();
    (fake, transport)
}

/// Reads with the patience for five attempts, and tells how often it was asked to wait.
fn with_patience<R>(
    f: impl FnOnce(&Patience<'_>) -> Result<R, TransportError>,
) -> (Result<R, TransportError>, Vec<u32>) {
    let asked = RefCell::default();
    let polls = 4;
    let result = f(&Patience {
        polls,
        asked: &asked,
    });
    (result, asked.into_inner())
}

const MTU: Feature = Feature::of::<3>();
const MAC: Field<[u8; 6]> = Field::new(0);
const U8: Field<u8> = Field::new(17);
const U16: Field<u16> = Field::gated(10, MTU);
const U32: Field<u32> = Field::new(20);
const U64: Field<u64> = Field::new(8);

#[test]
fn fields_are_little_endian_and_bytes_are_bytes() {
    let (fake, transport) = ready();
    let all = Features::of(&[MTU]);
    fake.model().reads.clear();
    with_patience(|p| {
        assert_eq!(read(&transport, p, all, MAC)?, [0, 1, 2, 3, 4, 5]);
        assert_eq!(read(&transport, p, all, U8)?, 17);
        assert_eq!(read(&transport, p, all, U16)?, 0x0b0a);
        assert_eq!(read(&transport, p, all, U32)?, 0x1716_1514);
        assert_eq!(read(&transport, p, all, U64)?, 0x0f0e_0d0c_0b0a_0908);
        let words: Field<[u8; 4]> = Field::new(0);
        assert_eq!(read(&transport, p, all, words)?, [0, 1, 2, 3]);
        Ok(())
    })
    .0
    .unwrap();
    let model = fake.model();
    let config = model.reads.iter().filter(|r| r.0 >= 0x2000);
    let widths = config.map(|r| r.1).collect::<Vec<_>>();
    assert_eq!(widths, [1, 1, 1, 1, 1, 1, 1, 2, 4, 4, 4, 1, 1, 1, 1]);
}

/// Defends: CF-003.
#[test]
fn bug_class_42_a_field_whose_feature_is_missing_is_not_read() {
    let (fake, transport) = ready();
    fake.model().reads.clear();
    let (result, _) = with_patience(|p| read(&transport, p, Features::EMPTY, U16));
    let absent = TransportError::FieldAbsent {
        offset: 10,
        feature: MTU,
    };
    assert_eq!(result, Err(absent));
    assert!(fake.model().reads.iter().all(|r| r.0 < 0x2000));
    assert_eq!(U16.offset(), 10);
}

/// Defends: CF-005.
#[test]
fn bug_class_42_a_field_beyond_the_end_is_its_own_error() {
    let (_, transport) = ready();
    let size = transport.config_size();
    for offset in [size - 1, size, usize::MAX - 2] {
        let field: Field<u32> = Field::new(offset);
        let (result, waits) = with_patience(|p| read(&transport, p, Features::EMPTY, field));
        let error = TransportError::ConfigOutOfRange {
            offset,
            len: 4,
            size,
        };
        assert_eq!((result, waits), (Err(error), vec![]));
        let field: Field<[u8; 6]> = Field::new(offset);
        let (result, _) = with_patience(|p| read(&transport, p, Features::EMPTY, field));
        assert!(
            matches!(result, Err(TransportError::ConfigOutOfRange { .. })),
            "{result:?}"
        );
    }
}

/// Defends: CF-002.
#[test]
fn bug_class_41_a_generation_that_never_settles_is_given_up_on() {
    let (fake, transport) = ready();
    fake.model().restless = true;
    let (result, waits) = with_patience(|p| read(&transport, p, Features::EMPTY, U32));
    assert_eq!(result, Err(TransportError::ConfigUnstable));
    assert_eq!(
        waits,
        [0, 1, 2, 3, 4],
        "bug class 43: as often as the platform allows"
    );
}

/// Defends: CF-001, CF-002.
#[test]
fn a_value_that_changes_under_the_reader_is_read_again() {
    let (fake, transport) = ready();
    // Between the halves of the 64-bit field everything changes, twice.
    fake.model().changes = vec![vec![0xcc; 64], vec![0xbb; 64]];
    let (result, waits) = with_patience(|p| read(&transport, p, Features::EMPTY, U64));
    assert_eq!(result, Ok(0xcccc_cccc_cccc_cccc));
    assert_eq!(waits, [0]);
}

/// Defends: CF-001, CF-002.
#[test]
fn fields_that_belong_together_are_of_one_generation() {
    let (fake, transport) = ready();
    fake.model().changes = vec![vec![0xbb; 64]];
    let (result, waits) = with_patience(|p| {
        consistent(&transport, p, Features::EMPTY, |r| {
            Ok((r.get(U8)?, r.get(U32)?, r.get(MAC)?))
        })
    });
    assert_eq!(result, Ok((0xbb, 0xbbbb_bbbb, [0xbb; 6])));
    assert_eq!(waits, [0]);
}

/// A transport without a generation count, as the legacy interface is: each read takes the next
/// of the values.
struct NoGeneration(RefCell<Vec<u8>>);

// SAFETY: there is no device.
unsafe impl Transport for NoGeneration {
    fn device_id(&self) -> vring::transport::DeviceId {
        vring::transport::DeviceId(0)
    }
    fn num_queues(&self) -> Option<u16> {
        None
    }
    fn status(&self) -> vring::transport::Status {
        vring::transport::Status::empty()
    }
    fn set_status(&mut self, _: vring::transport::Status) {}
    fn device_features(&mut self) -> Features {
        Features::EMPTY
    }
    fn set_driver_features(&mut self, _: Features) {}
    fn max_queue_size(&mut self, _: vring::transport::QueueIndex) -> u16 {
        0
    }
    unsafe fn enable_queue(
        &mut self,
        queue: vring::transport::QueueIndex,
        _: u16,
        _: &vring::transport::QueueAreas,
        _: Option<u16>,
    ) -> Result<vring::transport::Doorbell, TransportError> {
        Err(TransportError::QueueUnavailable { queue })
    }
    fn set_config_vector(&mut self, _: Option<u16>) -> Result<(), TransportError> {
        Err(TransportError::NoVectors)
    }
    fn config_generation(&self) -> Option<u32> {
        None
    }
    fn config_size(&self) -> usize {
        64
    }
    fn read_config(&self, _: usize, dst: &mut [u8]) -> Result<(), TransportError> {
        dst.fill(self.0.borrow_mut().remove(0));
        Ok(())
    }
    fn write_config(&mut self, _: usize, _: &[u8]) -> Result<(), TransportError> {
        Ok(())
    }
    fn take_isr(&mut self) -> Option<vring::transport::Isr> {
        None
    }
}

#[test]
fn without_a_generation_count_two_reads_must_agree() {
    let transport = NoGeneration(RefCell::new(vec![1, 2, 3, 3, 9]));
    let object: &dyn Transport = &transport;
    let (result, waits) = with_patience(|p| read(object, p, Features::EMPTY, U16_PLAIN));
    assert_eq!((result, waits), (Ok(0x0303), vec![0, 1, 2]));

    let transport = NoGeneration(RefCell::new((0..100).collect()));
    let (result, waits) = with_patience(|p| read(&transport, p, Features::EMPTY, U16_PLAIN));
    assert_eq!(
        (result, waits.len()),
        (Err(TransportError::ConfigUnstable), 5)
    );
}

const U16_PLAIN: Field<u16> = Field::new(0);
