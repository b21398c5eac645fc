//! What is different about a legacy device (VIRTIO 1.4, 2.2.3, 2.7.2, 3.1.2 and 6.3).
//!
//! It has a register of 32 bits for features, no `FEATURES_OK`, and is told a page frame number, from
//! which it works out where a ring is. The ids of violations end in `-Lnn`.

use alloc::format;

use super::Registers;
use crate::features::{Feature, Features};
use crate::platform::DmaAddr;
use crate::ring::layout::vring_init;
use crate::testing::device::Legacy;
use crate::transport::{DeviceId, LEGACY_PAGE_SIZE, QueueAreas, QueueIndex, TransportError};

/// What early versions of the interface had in place of a check.
const BIT_30: Feature = Feature::of::<30>();

impl Registers {
    pub(in crate::testing) fn is_legacy(&self) -> bool {
        self.legacy.is_some()
    }

    pub(in crate::testing) fn has_fixed_sizes(&self) -> bool {
        self.legacy == Some(Legacy::FixedSizes)
    }

    /// The driver reads the features.
    pub(in crate::testing) fn read_features(&self) -> Features {
        match self.legacy {
            Some(_) => self.offered & Features::LEGACY,
            None => self.offered,
        }
    }

    /// The driver has written its features.
    pub(super) fn judge_legacy_features(&self) {
        let accepted = self.accepted;
        let beyond = accepted - Features::LEGACY;
        if !beyond.is_empty() {
            let what = format!("{beyond:?} written, where the register has 32 bits");
            self.violation("FE-L02", what);
        }
        let has = self.read_features().has(Feature::ANY_LAYOUT);
        if has && !accepted.has(Feature::ANY_LAYOUT) {
            let what = format!("{accepted:?} without VIRTIO_F_ANY_LAYOUT");
            self.violation("FE-L03", what);
        }
        if accepted.has(BIT_30) {
            self.violation("FE-L04", format!("{accepted:?}: bit 30"));
        }
    }

    /// Bytes of the header that has to be a descriptor of its own in a queue, and the statement that
    /// says so.
    pub(super) fn framed_header(&self, index: QueueIndex) -> Option<(u16, &'static str)> {
        if !self.is_legacy() || self.accepted.has(Feature::ANY_LAYOUT) {
            return None;
        }
        let id = match self.id {
            DeviceId::NETWORK => "NET-L08",
            DeviceId::BLOCK => "BLK-L07",
            _ => "FE-L02",
        };
        let header = self.queues.get(usize::from(index.0))?.header?;
        Some((header, id))
    }

    /// Where a ring is for a device that is told the page at which it starts, and how large.
    pub(super) fn legacy_ring(
        &self,
        queue: QueueIndex,
        size: u16,
        areas: &QueueAreas,
    ) -> Result<(QueueAreas, u16), TransportError> {
        let page = u64::from(LEGACY_PAGE_SIZE);
        if !areas.desc.0.is_multiple_of(page) {
            let what = format!("{queue}: the ring at {} does not start a page", areas.desc);
            self.violation("SP-L03", what);
        }
        let base = u64::from(areas.page_frame(queue)?) * page;
        let max = self.max_queue_size(queue);
        let size = match self.has_fixed_sizes() {
            true => max,
            false => size,
        };
        let Ok(layout) = vring_init(size, page as usize) else {
            return Err(TransportError::QueueSize { queue, size, max });
        };
        let at = |offset: usize| DmaAddr(base + offset as u64);
        let told = QueueAreas {
            desc: at(layout.desc),
            driver: at(layout.avail),
            device: at(layout.used),
        };
        if told != *areas {
            let what = format!("{queue}: {areas:?}, where a ring of {size} has {told:?}");
            let id = match self.has_fixed_sizes() {
                true => "SP-L01",
                false => "SP-L03",
            };
            self.violation(id, what);
        }
        if let Err(fault) = self.bus.words(told.desc, layout.legacy_size()) {
            let what = format!("{queue}: a ring of {size} descriptors: {fault}");
            self.violation("SP-L02", what);
        }
        Ok((told, size))
    }
}
