//! Feature words of 128 bits, and what is done with them (VIRTIO 1.4, 2.2 and 6).

/// A set of feature bits, 0 to 127.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Features(pub u128);
