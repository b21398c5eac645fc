//! The registers of a device over MMIO (VIRTIO 1.4, 4.2.2 and, for legacy devices, 4.2.4).

/// The 256 bytes of control registers. Never read or written as a whole: it gives each register its
/// offset, by field projection. All have 32 bits; an address or a length of 64 bits is two of them.
///
/// `R` may only be read, `W` only written. Between them are gaps that belong to nobody.
#[derive(zerocopy::FromBytes)]
#[repr(C)]
pub(super) struct Control {
    /// R. [`MAGIC`].
    pub(super) magic_value: u32,
    /// R. 2; 1 of a legacy device.
    pub(super) version: u32,
    /// R. 0 where nothing is plugged in.
    pub(super) device_id: u32,
    /// R.
    pub(super) vendor_id: u32,
    /// R. The word that `device_features_sel` says.
    pub(super) device_features: u32,
    /// W.
    pub(super) device_features_sel: u32,
    _18: [u32; 2],
    /// W. The word that `driver_features_sel` says.
    pub(super) driver_features: u32,
    /// W.
    pub(super) driver_features_sel: u32,
    /// W. Legacy: bytes of the pages that `queue_pfn` counts in.
    pub(super) guest_page_size: u32,
    _2c: u32,
    /// W. Which queue the registers below mean.
    pub(super) queue_sel: u32,
    /// R. 0: there is no such queue.
    pub(super) queue_size_max: u32,
    /// W.
    pub(super) queue_size: u32,
    /// W. Legacy: bytes that the used ring is aligned to.
    pub(super) queue_align: u32,
    /// RW. Legacy: the page at which the ring starts; 0: the queue is not used.
    pub(super) queue_pfn: u32,
    /// RW. 1: the queue is enabled.
    pub(super) queue_ready: u32,
    _48: [u32; 2],
    /// W. The doorbell of every queue.
    pub(super) queue_notify: u32,
    _54: [u32; 3],
    /// R. Events that are not acknowledged.
    pub(super) interrupt_status: u32,
    /// W. Events that are.
    pub(super) interrupt_ack: u32,
    _68: [u32; 2],
    /// RW. 0 resets the device.
    pub(super) status: u32,
    _74: [u32; 3],
    /// W.
    pub(super) queue_desc_low: u32,
    /// W.
    pub(super) queue_desc_high: u32,
    _88: [u32; 2],
    /// W.
    pub(super) queue_driver_low: u32,
    /// W.
    pub(super) queue_driver_high: u32,
    _98: [u32; 2],
    /// W.
    pub(super) queue_device_low: u32,
    /// W.
    pub(super) queue_device_high: u32,
    _a8: u32,
    /// W. Which shared memory region the registers below mean.
    pub(super) shm_sel: u32,
    /// R. All-ones, both halves: there is no such region.
    pub(super) shm_len_low: u32,
    /// R.
    pub(super) shm_len_high: u32,
    /// R.
    pub(super) shm_base_low: u32,
    /// R.
    pub(super) shm_base_high: u32,
    /// RW. 1: the queue's reset is under way.
    pub(super) queue_reset: u32,
    _c4: [u32; 14],
    /// R.
    pub(super) config_generation: u32,
}

const _: () = {
    use core::mem::offset_of;
    assert!(offset_of!(Control, driver_features) == 0x20);
    assert!(offset_of!(Control, queue_sel) == 0x30);
    assert!(offset_of!(Control, queue_ready) == 0x44);
    assert!(offset_of!(Control, queue_notify) == 0x50);
    assert!(offset_of!(Control, interrupt_status) == 0x60);
    assert!(offset_of!(Control, status) == 0x70);
    assert!(offset_of!(Control, queue_desc_low) == 0x80);
    assert!(offset_of!(Control, queue_driver_low) == 0x90);
    assert!(offset_of!(Control, queue_device_low) == 0xa0);
    assert!(offset_of!(Control, shm_sel) == 0xac);
    assert!(offset_of!(Control, queue_reset) == 0xc0);
    assert!(offset_of!(Control, config_generation) == 0xfc);
    assert!(size_of::<Control>() == CONFIG);
};

/// `virt`, little-endian.
#[doc(alias = "VIRTIO_MMIO_MAGIC_VALUE")]
pub(super) const MAGIC: u32 = 0x7472_6976;

/// Offset of the device's configuration space.
#[doc(alias = "VIRTIO_MMIO_CONFIG")]
pub(super) const CONFIG: usize = 0x100;
