//! What the harness is told about the card before and while it works.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use guest_services::Pings;
use vring::features::{Feature, Features};
use vring::transport::{QueueAreas, Transport as _};
use vring_protocol::{Event, Transport};

use super::Card;
use crate::kernel::access::Counts;
use crate::kernel::device_interrupts::DeviceInterrupts;
use crate::report::event;

/// Device, features, queues.
pub(super) fn announce(
    card: &mut Card,
    interrupts: &DeviceInterrupts,
    address: String,
    transport: Transport,
) {
    let (rx, tx, control) = card.driver().parts();
    event(&Event::Device {
        address,
        device_type: control.live().transport().device_id().0,
        transport,
        mac: control
            .mac()
            .map(|[a, b, c, d, e, f]| format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")),
        mtu: control.mtu(),
        interrupts: interrupts.name().into(),
    });
    let (offered, acked) = (control.offered(), control.features());
    features(offered, acked);
    let ring = if acked.has(Feature::RING_PACKED) {
        "packed"
    } else {
        "split"
    };
    queue(0, "rx", ring, rx.size(), rx.areas());
    queue(1, "tx", ring, tx.size(), tx.areas());
}

/// What was offered, and what of it is in use.
pub(in super::super) fn features(offered: Features, acked: Features) {
    event(&Event::Features {
        offered: names(offered),
        acked: names(acked),
        refused: names(offered - acked),
    });
}

fn queue(index: u16, name: &str, ring: &str, num: u16, areas: QueueAreas) {
    event(&Event::Queue {
        index,
        name: name.into(),
        ring: ring.into(),
        num,
        desc: areas.desc.0,
        avail: areas.driver.0,
        used: areas.device.0,
    });
}

/// How often registers were reached so far, where that was counted.
pub(super) fn registers() {
    let Counts {
        accesses,
        doorbells,
        acknowledged,
    } = Counts::now();
    event(&Event::Registers {
        accesses,
        doorbells,
        acknowledged,
    });
}

/// The guest's own pings are over.
pub(super) fn pings(pings: &Pings) {
    // Nothing was asked for: there is nothing to tell.
    if pings.sent > 0 {
        event(&Event::Ping {
            sent: pings.sent,
            received: pings.received,
        });
    }
}

/// The specification's names of a set of feature bits.
pub(super) fn names(features: Features) -> Vec<String> {
    features.iter().map(name).collect()
}

fn name(feature: Feature) -> String {
    let net = NET_FEATURES.iter().find(|(bit, _)| *bit == feature.bit());
    match (feature.name(), net) {
        (Some(generic), _) => generic.into(),
        (None, Some((_, net))) => format!("VIRTIO_NET_F_{net}"),
        (None, None) => format!("{feature}"),
    }
}

/// The features of these names; an error names one that is not known.
pub(in super::super) fn by_name(names: &[String]) -> Result<Features, String> {
    names.iter().try_fold(Features::EMPTY, |set, name| {
        let net = || {
            let name = name.strip_prefix("VIRTIO_NET_F_")?;
            let (bit, _) = NET_FEATURES.iter().find(|(_, known)| *known == name)?;
            Feature::new(*bit)
        };
        let feature = Feature::from_name(name).or_else(net);
        Ok(set.with(feature.ok_or_else(|| name.clone())?))
    })
}

/// Feature bits of network devices (VIRTIO 1.4, 5.1.3), and the legacy `GSO`.
const NET_FEATURES: [(u8, &str); 37] = [
    (0, "CSUM"),
    (1, "GUEST_CSUM"),
    (2, "CTRL_GUEST_OFFLOADS"),
    (3, "MTU"),
    (5, "MAC"),
    (6, "GSO"),
    (7, "GUEST_TSO4"),
    (8, "GUEST_TSO6"),
    (9, "GUEST_ECN"),
    (10, "GUEST_UFO"),
    (11, "HOST_TSO4"),
    (12, "HOST_TSO6"),
    (13, "HOST_ECN"),
    (14, "HOST_UFO"),
    (15, "MRG_RXBUF"),
    (16, "STATUS"),
    (17, "CTRL_VQ"),
    (18, "CTRL_RX"),
    (19, "CTRL_VLAN"),
    (20, "CTRL_RX_EXTRA"),
    (21, "GUEST_ANNOUNCE"),
    (22, "MQ"),
    (23, "CTRL_MAC_ADDR"),
    (50, "DEVICE_STATS"),
    (51, "HASH_TUNNEL"),
    (52, "VQ_NOTF_COAL"),
    (53, "NOTF_COAL"),
    (54, "GUEST_USO4"),
    (55, "GUEST_USO6"),
    (56, "HOST_USO"),
    (57, "HASH_REPORT"),
    (59, "GUEST_HDRLEN"),
    (60, "RSS"),
    (61, "RSC_EXT"),
    (62, "STANDBY"),
    (63, "SPEED_DUPLEX"),
    (65, "GUEST_UDP_TUNNEL_GSO"),
];
