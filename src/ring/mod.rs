//! The rings: indices, descriptors, ordering. They know no buffers, transports or devices.
//!
//! [`layout`] is public: the shapes of shared memory, as the specification and Linux's
//! `virtio_ring.h` have them. The ring itself is reached through
//! [`Virtqueue`](crate::virtqueue::Virtqueue).

pub mod layout;
pub(crate) mod notify;
pub(crate) mod split;
pub(crate) mod storage;

pub use notify::need_event;
pub use storage::Slot;
