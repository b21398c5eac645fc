use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use crate::features::{Feature, Features};
use crate::platform::DmaAddr;
use crate::transport::{
    DeviceId, Doorbell, Isr, QueueAreas, QueueIndex, ShmRegion, Status, Transport, TransportError,
};

/// Notes which call came, and answers what no default does.
struct Noting(Rc<RefCell<Vec<&'static str>>>);

impl Noting {
    fn note(&self, call: &'static str) {
        self.0.borrow_mut().push(call);
    }
}

// SAFETY: no queue is ever enabled.
unsafe impl Transport for Noting {
    fn device_id(&self) -> DeviceId {
        self.note("device_id");
        DeviceId(63)
    }
    fn is_legacy(&self) -> bool {
        self.note("is_legacy");
        true
    }
    fn is_queue_size_fixed(&self) -> bool {
        self.note("is_queue_size_fixed");
        true
    }
    fn num_queues(&self) -> Option<u16> {
        self.note("num_queues");
        Some(7)
    }
    fn status(&self) -> Status {
        self.note("status");
        Status::FAILED
    }
    fn set_status(&mut self, _: Status) {
        self.note("set_status");
    }
    fn device_features(&mut self) -> Features {
        self.note("device_features");
        Feature::EVENT_IDX.into()
    }
    fn transport_features(&self) -> Features {
        self.note("transport_features");
        Feature::RING_RESET.into()
    }
    fn set_driver_features(&mut self, _: Features) {
        self.note("set_driver_features");
    }
    fn max_queue_size(&mut self, _: QueueIndex) -> u16 {
        self.note("max_queue_size");
        9
    }
    unsafe fn enable_queue(
        &mut self,
        queue: QueueIndex,
        _: u16,
        _: &QueueAreas,
        _: Option<u16>,
    ) -> Result<Doorbell, TransportError> {
        self.note("enable_queue");
        Err(TransportError::QueueInUse { queue })
    }
    fn reset_queue(&mut self, _: QueueIndex) -> Result<(), TransportError> {
        self.note("reset_queue");
        Ok(())
    }
    fn is_queue_reset(&mut self, _: QueueIndex) -> bool {
        self.note("is_queue_reset");
        true
    }
    fn set_config_vector(&mut self, _: Option<u16>) -> Result<(), TransportError> {
        self.note("set_config_vector");
        Ok(())
    }
    fn config_generation(&self) -> Option<u32> {
        self.note("config_generation");
        Some(3)
    }
    fn config_size(&self) -> usize {
        self.note("config_size");
        11
    }
    fn read_config(&self, _: usize, dst: &mut [u8]) -> Result<(), TransportError> {
        self.note("read_config");
        dst.fill(0x5a);
        Ok(())
    }
    fn write_config(&mut self, _: usize, _: &[u8]) -> Result<(), TransportError> {
        self.note("write_config");
        Ok(())
    }
    fn shm_region(&mut self, id: u8) -> Option<ShmRegion> {
        self.note("shm_region");
        Some(ShmRegion {
            address: id.into(),
            length: 1,
        })
    }
    fn take_isr(&mut self) -> Option<Isr> {
        self.note("take_isr");
        Some(Isr::function(|_| 1, 0))
    }
}

/// A call that a box forgets would get the trait's default, which is a wrong answer: of a legacy
/// device, that it is a modern one.
#[test]
fn a_boxed_transport_hands_on_every_call_and_takes_no_default() {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let mut boxed: Box<dyn Transport> = Box::new(Noting(seen.clone()));
    // By the name of the trait: a method call would go past the box.
    let t = &mut boxed;
    assert_eq!(Transport::device_id(t), DeviceId(63));
    assert!(Transport::is_legacy(t));
    assert!(Transport::is_queue_size_fixed(t));
    assert_eq!(Transport::num_queues(t), Some(7));
    assert_eq!(Transport::status(t), Status::FAILED);
    Transport::set_status(t, Status::empty());
    assert_eq!(Transport::device_features(t), Feature::EVENT_IDX.into());
    assert_eq!(Transport::transport_features(t), Feature::RING_RESET.into());
    Transport::set_driver_features(t, Features::EMPTY);
    let queue = QueueIndex(1);
    assert_eq!(Transport::max_queue_size(t, queue), 9);
    let (desc, driver, device) = (DmaAddr(0), DmaAddr(0), DmaAddr(0));
    let areas = QueueAreas {
        desc,
        driver,
        device,
    };
    // SAFETY: it is refused.
    let enabled = unsafe { Transport::enable_queue(t, queue, 4, &areas, None) };
    assert_eq!(enabled.err(), Some(TransportError::QueueInUse { queue }));
    assert_eq!(Transport::reset_queue(t, queue), Ok(()));
    assert!(Transport::is_queue_reset(t, queue));
    assert_eq!(Transport::set_config_vector(t, Some(1)), Ok(()));
    assert_eq!(Transport::config_generation(t), Some(3));
    assert_eq!(Transport::config_size(t), 11);
    let mut byte = [0];
    assert_eq!(Transport::read_config(t, 0, &mut byte), Ok(()));
    assert_eq!(byte, [0x5a]);
    assert_eq!(Transport::write_config(t, 0, &byte), Ok(()));
    assert!(Transport::shm_region(t, 1).is_some());
    assert!(Transport::take_isr(t).is_some());

    let expected = [
        "device_id",
        "is_legacy",
        "is_queue_size_fixed",
        "num_queues",
        "status",
        "set_status",
        "device_features",
        "transport_features",
        "set_driver_features",
        "max_queue_size",
        "enable_queue",
        "reset_queue",
        "is_queue_reset",
        "set_config_vector",
        "config_generation",
        "config_size",
        "read_config",
        "write_config",
        "shm_region",
        "take_isr",
    ];
    assert_eq!(*seen.borrow(), expected);
}
