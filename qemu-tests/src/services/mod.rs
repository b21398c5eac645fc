//! The network services that the guest offers to its peer.
#![no_std]
