//! Typed, consistent reads of device configuration space (VIRTIO 1.4, 2.5).
