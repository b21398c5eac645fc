//! What a network device and its driver exchange (VIRTIO 1.4, 5.1).

use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::features::{Feature, Features, Requirement};
use crate::transport::config::Field;

/// Feature bits of network devices (VIRTIO 1.4, 5.1.3).
#[allow(non_snake_case)] // as the specification's prefix: `F::MAC` is `VIRTIO_NET_F_MAC`
pub mod F {
    use crate::features::Feature;

    /// The device gives a maximum transmission unit.
    #[doc(alias = "VIRTIO_NET_F_MTU")]
    pub const MTU: Feature = Feature::of::<3>();
    /// The device gives a MAC address.
    #[doc(alias = "VIRTIO_NET_F_MAC")]
    pub const MAC: Feature = Feature::of::<5>();
    /// Received packets may be spread over several buffers.
    #[doc(alias = "VIRTIO_NET_F_MRG_RXBUF")]
    pub const MRG_RXBUF: Feature = Feature::of::<15>();
    /// The device gives the state of the link.
    #[doc(alias = "VIRTIO_NET_F_STATUS")]
    pub const STATUS: Feature = Feature::of::<16>();
    /// There is a control queue.
    #[doc(alias = "VIRTIO_NET_F_CTRL_VQ")]
    pub const CTRL_VQ: Feature = Feature::of::<17>();
}

/// What this driver implements, and accepts where it is offered.
pub const SUPPORTED: Features = Features::RING.union(Features::of(&[F::MTU, F::MAC, F::STATUS]));

/// Prerequisites between the features of [`SUPPORTED`]: none (VIRTIO 1.4, 5.1.3.1).
pub(crate) const REQUIREMENTS: &[Requirement] = &[];

/// `mac` of the configuration.
pub(crate) const MAC: Field<[u8; 6]> = Field::gated(0, F::MAC);
/// `status` of the configuration.
pub(crate) const STATUS: Field<u16> = Field::gated(6, F::STATUS);
/// `mtu` of the configuration.
pub(crate) const MTU: Field<u16> = Field::gated(10, F::MTU);

/// In `status`: the link is up.
#[doc(alias = "VIRTIO_NET_S_LINK_UP")]
pub(crate) const LINK_UP: u16 = 1;

/// The least MTU that a device may offer, in bytes (VIRTIO 1.4, 5.1.4.1).
pub(crate) const MIN_MTU: u16 = 68;

/// Bytes of an Ethernet header.
pub(crate) const ETHERNET_HEADER: usize = 14;
/// Bytes that a VLAN tag adds.
pub(crate) const VLAN_TAG: usize = 4;
/// Bytes of an Ethernet frame without its check sequence, where the device gives no MTU.
pub(crate) const ETHERNET_FRAME: usize = 1514;

/// The header in front of every frame (VIRTIO 1.4, 5.1.6). All zero: no offload.
#[doc(alias = "virtio_net_hdr_v1")]
#[doc(alias = "virtio_net_hdr")]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct Header {
    /// Flags of checksum offload.
    pub flags: u8,
    /// Type of segmentation offload.
    pub gso_type: u8,
    /// Bytes of the headers, a hint.
    pub hdr_len: U16,
    /// Bytes of a segment.
    pub gso_size: U16,
    /// Where to start a checksum.
    pub csum_start: U16,
    /// Where to put it, from there.
    pub csum_offset: U16,
    /// Buffers of a received packet, with `VIRTIO_NET_F_MRG_RXBUF` only. Not there at all on
    /// legacy devices without that feature: see [`header_len`].
    pub num_buffers: U16,
}

/// Bytes of the header in front of every frame, both ways: 12 with `VIRTIO_F_VERSION_1` or
/// `VIRTIO_NET_F_MRG_RXBUF`, otherwise 10 (VIRTIO 1.4, 5.1.6.1).
#[must_use]
pub const fn header_len(features: Features) -> usize {
    if features.has(Feature::VERSION_1) || features.has(F::MRG_RXBUF) {
        size_of::<Header>()
    } else {
        size_of::<Header>() - size_of::<U16>()
    }
}
