//! How a queue is made: its size, its memory, its private state.

use core::alloc::Layout;

use super::{Epoch, QueueError};
use crate::buffer::DmaBuf;
use crate::dma::DmaRegion;
use crate::features::{Feature, Features};
use crate::platform::{DmaError, Platform};
use crate::ring::core::{Memory, Ring, RingOptions};
use crate::ring::layout::{self, USED_ALIGN_SIZE};
use crate::ring::storage::{MOST_IN_TABLE, Slot, Storage};
use crate::shared::{CellMemory, PackedMemory, SplitMemory, TableMemory};
use crate::transport::{LEGACY_PAGE_SIZE, QueueIndex, Transport, TransportError};
use crate::virtqueue::{MappingSlot, Parts, QueueStorage, Virtqueue};

/// What a queue is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueConfig {
    /// Descriptors wanted, at most. The queue gets as many as this, the device's maximum and lent
    /// storage allow; a split queue the largest power of two of that. Where the device
    /// [fixes](Transport::is_queue_size_fixed) the size, the queue has that one.
    pub size: u16,
    /// Bytes of a header cell per slot, for [`Virtqueue::submit_with`]; 0: none.
    pub header: u16,
    /// Bytes of a reply cell per slot; 0: none.
    pub reply: u16,
    /// Descriptors of an indirect table per slot, at most; 0: none. Used where
    /// `VIRTIO_F_INDIRECT_DESC` was negotiated, for chains that are worth it.
    pub indirect: u16,
    /// Descriptors of a chain, in a table or in the ring, header and reply included, at most; 0: as
    /// many as the queue has. For devices that say how many they take, as `seg_max` of a block
    /// device does: it counts neither header nor reply.
    pub longest: u16,
    /// Interrupt vector of the queue; `None`: none.
    pub vector: Option<u16>,
    /// Where the indices start. Only fakes can follow anything but 0: this is for tests of the
    /// wrap.
    #[cfg(feature = "test-util")]
    pub start_index: u16,
}

impl QueueConfig {
    /// A queue of at most `size` descriptors, without cells or interrupt vector.
    #[must_use]
    pub const fn new(size: u16) -> Self {
        Self {
            size,
            header: 0,
            reply: 0,
            indirect: 0,
            longest: 0,
            vector: None,
            #[cfg(feature = "test-util")]
            start_index: 0,
        }
    }

    /// With cells of so many bytes for headers and replies. A slot with a reply has cache lines of 64
    /// bytes for itself, so that the device does not write into the line of another slot's header;
    /// headers alone are packed to 16 bytes.
    #[must_use]
    pub const fn cells(mut self, header: u16, reply: u16) -> Self {
        self.header = header;
        self.reply = reply;
        self
    }

    /// With an indirect table of so many descriptors per slot.
    #[must_use]
    pub const fn indirect(mut self, entries: u16) -> Self {
        self.indirect = entries;
        self
    }

    /// With chains of so many descriptors at most (VIRTIO 1.4, 2.7.5.3.1 and 2.8.5).
    #[must_use]
    pub const fn longest(mut self, descriptors: u16) -> Self {
        self.longest = descriptors;
        self
    }

    /// Descriptors of a chain at most, in a queue of that size.
    const fn longest_of(&self, size: u16) -> u16 {
        if self.longest == 0 || self.longest > size {
            size
        } else {
            self.longest
        }
    }

    /// With an interrupt vector.
    #[must_use]
    pub const fn vector(mut self, vector: Option<u16>) -> Self {
        self.vector = vector;
        self
    }
}

/// Makes queues of one device in one initialization.
pub(super) struct Maker<'a, P: Platform, T: Transport> {
    pub(super) transport: &'a mut T,
    pub(super) platform: &'a P,
    pub(super) features: Features,
    pub(super) epoch: Epoch,
}

/// What driver and device share of a queue.
struct Regions<P: Platform> {
    memory: Memory<P>,
    cells: Option<CellMemory<P>>,
    tables: Option<TableMemory<P>>,
}

/// Why a queue was not made.
pub(super) enum MakeError<P: Platform, B: DmaBuf> {
    /// Before the device was told of it.
    Before(QueueError),
    /// The device may have taken the addresses.
    Exposed(Virtqueue<P, B>, TransportError),
}

impl<P: Platform, B: DmaBuf> From<QueueError> for MakeError<P, B> {
    fn from(why: QueueError) -> Self {
        Self::Before(why)
    }
}

impl<P: Platform, T: Transport> Maker<'_, P, T> {
    /// A queue with its private state on the heap.
    #[cfg(feature = "alloc")]
    pub(super) fn queue<B: DmaBuf>(
        mut self,
        index: QueueIndex,
        config: &QueueConfig,
    ) -> Result<Virtqueue<P, B>, MakeError<P, B>> {
        let size = self.size(index, config.size)?;
        let regions = self.regions(size, config)?;
        let parts = self.assemble_on_heap(index, size, config, regions);
        self.expose(parts, config)
    }

    #[cfg(feature = "alloc")]
    fn assemble_on_heap<B: DmaBuf>(
        &self,
        index: QueueIndex,
        size: u16,
        config: &QueueConfig,
        regions: Regions<P>,
    ) -> Parts<P, B> {
        let slots = Storage::heap(size.into(), Slot::new);
        let mappings = usize::from(size) * self.mappings_per_slot(size, config);
        let mappings = Storage::heap(mappings, MappingSlot::new);
        self.assemble(index, config, regions, slots, mappings)
    }

    /// Storage may be longer than the queue: it keeps the rest, to grow after a reset.
    fn assemble_in<B: DmaBuf>(
        &self,
        index: QueueIndex,
        config: &QueueConfig,
        regions: Regions<P>,
        storage: QueueStorage<B>,
    ) -> Parts<P, B> {
        let QueueStorage { slots, mappings } = storage;
        for slot in slots.iter_mut() {
            *slot = Slot::new();
        }
        for mapping in mappings.iter_mut() {
            *mapping = MappingSlot::new();
        }
        let (slots, mappings) = (Storage::Lent(slots), Storage::Lent(mappings));
        self.assemble(index, config, regions, slots, mappings)
    }

    /// A queue with its private state in memory that was lent, as large as that allows.
    pub(super) fn queue_in<B: DmaBuf>(
        mut self,
        index: QueueIndex,
        config: &QueueConfig,
        storage: QueueStorage<B>,
    ) -> Result<Virtqueue<P, B>, MakeError<P, B>> {
        let (slots, mappings) = (storage.slots.len(), storage.mappings.len());
        let size = self.size_in(index, config, slots, mappings)?;
        let regions = self.regions(size, config)?;
        let parts = self.assemble_in(index, config, regions, storage);
        self.expose(parts, config)
    }

    /// Makes a queue that was reset anew, in its place, on the heap or in the storage that it was
    /// lent. It is not exposed yet. When it cannot be made, the old one stays, to be tried again.
    pub(super) fn remake<B: DmaBuf>(
        &mut self,
        old: &mut Virtqueue<P, B>,
        config: &QueueConfig,
    ) -> Result<(), QueueError> {
        let index = old.index();
        let size = match old.lent() {
            None => self.size(index, config.size)?,
            Some((slots, mappings)) => self.size_in(index, config, slots, mappings)?,
        };
        let regions = self.regions(size, config)?;
        let parts = match old.take_storage() {
            Some(storage) => self.assemble_in(index, config, regions, storage),
            #[cfg(feature = "alloc")]
            None => self.assemble_on_heap(index, size, config, regions),
            // Without a heap, all is lent.
            #[cfg(not(feature = "alloc"))]
            None => return Err(QueueError::Failed),
        };
        let new = Virtqueue::new(parts);
        drop(core::mem::replace(old, new).take_apart());
        Ok(())
    }

    /// The size of a queue in storage that was lent.
    fn size_in(
        &mut self,
        queue: QueueIndex,
        config: &QueueConfig,
        slots: usize,
        mappings: usize,
    ) -> Result<u16, QueueError> {
        let room = slots.min(self.mapped(mappings, config));
        let room = room.min(usize::from(layout::MAX_QUEUE_SIZE));
        if self.transport.is_queue_size_fixed() {
            let size = self.size(queue, config.size)?;
            if room < usize::from(size) {
                return Err(QueueError::FixedSizeStorage {
                    queue,
                    size,
                    slots,
                    mappings,
                });
            }
            return Ok(size);
        }
        let limit = config.size.min(room as u16);
        if limit == 0 && config.size != 0 {
            return Err(QueueError::Storage {
                queue,
                slots,
                mappings,
            });
        }
        self.size(queue, limit)
    }

    /// The largest size that neither the device nor the driver is below: for a split queue, a power
    /// of two (VIRTIO 1.4, 2.7). Or the device's, where it takes no other.
    fn size(&mut self, queue: QueueIndex, wanted: u16) -> Result<u16, QueueError> {
        if wanted == 0 {
            return Err(QueueError::ZeroSize { queue });
        }
        let packed = self.features.has(Feature::RING_PACKED);
        let max = self.transport.max_queue_size(queue);
        let most = max.min(wanted).min(layout::MAX_QUEUE_SIZE);
        match most.checked_ilog2() {
            None => Err(QueueError::Unavailable { queue }),
            Some(_) if self.transport.is_queue_size_fixed() => {
                if max <= layout::MAX_QUEUE_SIZE && (packed || max.is_power_of_two()) {
                    Ok(max)
                } else {
                    Err(QueueError::FixedSize { queue, size: max })
                }
            }
            Some(_) if packed => Ok(most),
            Some(log) => Ok(1 << log),
        }
    }

    /// Descriptors of an indirect table: no chain is longer than the queue (VIRTIO 1.4,
    /// 2.7.5.3.1), nor than a slot can tell of a table.
    fn table_entries(&self, size: u16, config: &QueueConfig) -> u16 {
        if self.features.has(Feature::INDIRECT_DESC) {
            config
                .indirect
                .min(config.longest_of(size))
                .min(MOST_IN_TABLE)
        } else {
            0
        }
    }

    /// The largest size for whose slots so many mappings suffice. A queue that is smaller than its
    /// tables were to be has smaller tables.
    fn mapped(&self, mappings: usize, config: &QueueConfig) -> usize {
        if P::DIRECT {
            return usize::MAX;
        }
        let per_slot = usize::from(self.table_entries(u16::MAX, config).max(1));
        match mappings.checked_div(per_slot) {
            Some(size) if size >= per_slot => size,
            // As many entries as slots.
            _ => mappings.isqrt(),
        }
    }

    #[cfg(feature = "alloc")]
    fn mappings_per_slot(&self, size: u16, config: &QueueConfig) -> usize {
        if P::DIRECT {
            0
        } else {
            self.table_entries(size, config).max(1).into()
        }
    }

    /// Allocates what driver and device share.
    fn regions(&self, size: u16, config: &QueueConfig) -> Result<Regions<P>, QueueError> {
        Ok(Regions {
            memory: self.ring_memory(size)?,
            cells: self.cells(size, config)?,
            tables: self.tables(size, self.table_entries(size, config))?,
        })
    }

    fn assemble<B: DmaBuf>(
        &self,
        index: QueueIndex,
        config: &QueueConfig,
        regions: Regions<P>,
        slots: Storage<Slot<B>>,
        mappings: Storage<MappingSlot>,
    ) -> Parts<P, B> {
        #[cfg(feature = "test-util")]
        let start = config.start_index;
        #[cfg(not(feature = "test-util"))]
        let start = 0;
        let options = RingOptions {
            event_idx: self.features.has(Feature::EVENT_IDX),
            in_order: self.features.has(Feature::IN_ORDER),
            strong: self.features.has(Feature::ORDER_PLATFORM),
            start,
        };
        let ring = Ring::new(regions.memory, slots, options);
        let longest = config.longest_of(ring.size());
        Parts {
            ring,
            platform: self.platform.clone(),
            cells: regions.cells,
            tables: regions.tables,
            mappings,
            longest,
            index,
            epoch: self.epoch,
        }
    }

    fn expose<B: DmaBuf>(
        self,
        parts: Parts<P, B>,
        config: &QueueConfig,
    ) -> Result<Virtqueue<P, B>, MakeError<P, B>> {
        let mut queue = Virtqueue::new(parts);
        match queue.expose(self.transport, config.vector) {
            Ok(()) => Ok(queue),
            Err(error) => Err(MakeError::Exposed(queue, error)),
        }
    }

    fn ring_memory(&self, size: u16) -> Result<Memory<P>, QueueError> {
        #[cfg(not(vring_ring = "packed"))]
        if !self.features.has(Feature::RING_PACKED) || cfg!(vring_ring = "split") {
            let legacy = self.transport.is_legacy();
            let align = if legacy {
                LEGACY_PAGE_SIZE as usize
            } else {
                USED_ALIGN_SIZE
            };
            let layout = layout::vring_init(size, align).map_err(QueueError::Layout)?;
            let bytes = if legacy {
                layout.legacy_size()
            } else {
                layout.size()
            };
            let region = self.region(bytes, layout.alignment())?;
            return SplitMemory::new(region, size, align)
                .map(Memory::Split)
                .map_err(QueueError::Layout);
        }
        #[cfg(not(vring_ring = "split"))]
        {
            let layout = layout::packed_init(size).map_err(QueueError::Layout)?;
            let region = self.region(layout.size(), layout.alignment())?;
            PackedMemory::new(region, size)
                .map(Memory::Packed)
                .map_err(QueueError::Layout)
        }
        #[cfg(vring_ring = "split")]
        Err(QueueError::Failed)
    }

    fn region(&self, size: usize, align: usize) -> Result<DmaRegion<P>, QueueError> {
        let layout = Layout::from_size_align(size, align)
            .map_err(|_| QueueError::Memory(DmaError::OutOfMemory { size, align }))?;
        DmaRegion::alloc(self.platform, layout).map_err(QueueError::Memory)
    }

    fn cells(&self, size: u16, config: &QueueConfig) -> Result<Option<CellMemory<P>>, QueueError> {
        let (header, reply) = (config.header, config.reply);
        if header == 0 && reply == 0 {
            return Ok(None);
        }
        let layout = CellMemory::<P>::layout(size, header, reply).ok_or(TOO_LARGE)?;
        let region = self.region(layout.size(), layout.align())?;
        CellMemory::new(region, size, header, reply)
            .ok_or(TOO_LARGE)
            .map(Some)
    }

    fn tables(&self, size: u16, entries: u16) -> Result<Option<TableMemory<P>>, QueueError> {
        // A table of one descriptor is not worth its memory.
        if entries < 2 {
            return Ok(None);
        }
        let layout = TableMemory::<P>::layout(size, entries).ok_or(TOO_LARGE)?;
        let region = self.region(layout.size(), layout.align())?;
        TableMemory::new(region, size, entries)
            .ok_or(TOO_LARGE)
            .map(Some)
    }
}

/// More than the address space holds.
const TOO_LARGE: QueueError = QueueError::Memory(DmaError::OutOfMemory {
    size: usize::MAX,
    align: 1,
});

#[cfg(all(test, feature = "test-util", not(vring_loom)))]
mod tests {
    use super::*;
    use crate::testing::{FakeDevice, InPlace};
    use crate::transport::DeviceId;

    #[test]
    fn a_slot_can_tell_how_many_pieces_the_longest_table_holds() {
        let platform = InPlace::new();
        let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK);
        let maker = Maker {
            transport: &mut device.transport(),
            platform: &platform,
            features: Features::of(&[Feature::INDIRECT_DESC]),
            epoch: Epoch::new().unwrap(),
        };
        let config = QueueConfig::new(layout::MAX_QUEUE_SIZE).indirect(u16::MAX);
        let mut slot = Slot::<()>::new();
        for size in [2, 3, 1 << 14, layout::MAX_QUEUE_SIZE] {
            let most = maker.table_entries(size, &config);
            for (pieces, table) in [(most, true), (2, true), (size, false), (1, false)] {
                slot.set_pieces(pieces, table);
                assert_eq!(slot.pieces(), (pieces, table));
            }
        }
    }
}
