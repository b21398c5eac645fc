//! The rings: indices, descriptors, ordering. They know no buffers, transports or devices.
pub mod layout;
