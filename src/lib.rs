//! Guest-side virtio.
#![no_std]
