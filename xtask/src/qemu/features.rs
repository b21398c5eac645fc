//! The features that a run can be steered by: their names, and what makes QEMU offer them.
//!
//! ```text
//!   --features +x   QEMU offers it, and the driver does not start without it
//!              -x   QEMU does not offer it, and the driver would refuse it
//!              ~x   QEMU offers it, and the driver refuses it
//! ```
//!
//! A name is the specification's, whole or without its prefix, or QEMU's; case does not matter.

use serde::{Deserialize, Serialize};

use super::stop::Stop;

/// How QEMU is told to offer a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Property {
    /// `name=on`, `name=off`.
    Switch(&'static str),
    /// A property with another value, and nothing at all to leave the feature out.
    Value(&'static str),
    /// It always offers it.
    Always,
    /// None of its back ends can.
    Never,
}

/// A feature bit by its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// Its number.
    bit: u8,
    /// The specification's.
    pub(crate) name: &'static str,
    property: Property,
    /// Another name that people use.
    alias: Option<&'static str>,
    /// The first QEMU that has the property.
    pub(crate) since: Option<(u32, u32)>,
}

const fn switch(bit: u8, name: &'static str, property: &'static str) -> Known {
    Known {
        bit,
        name,
        property: Property::Switch(property),
        alias: None,
        since: None,
    }
}

const fn other(bit: u8, name: &'static str, property: Property) -> Known {
    Known {
        property,
        ..switch(bit, name, "")
    }
}

/// What QEMU older than this cannot offer.
pub(crate) const IN_ORDER_SINCE: (u32, u32) = (9, 2);

/// Every feature that a network device of QEMU or the specification's generic part has.
pub(crate) const KNOWN: [Known; 33] = [
    Known {
        alias: Some("indirect"),
        ..switch(28, "VIRTIO_F_INDIRECT_DESC", "indirect_desc")
    },
    switch(29, "VIRTIO_F_EVENT_IDX", "event_idx"),
    other(32, "VIRTIO_F_VERSION_1", Property::Always),
    switch(33, "VIRTIO_F_ACCESS_PLATFORM", "iommu_platform"),
    Known {
        alias: Some("ring_packed"),
        ..switch(34, "VIRTIO_F_RING_PACKED", "packed")
    },
    Known {
        since: Some(IN_ORDER_SINCE),
        ..switch(35, "VIRTIO_F_IN_ORDER", "in_order")
    },
    switch(40, "VIRTIO_F_RING_RESET", "queue_reset"),
    switch(24, "VIRTIO_F_NOTIFY_ON_EMPTY", "notify_on_empty"),
    switch(27, "VIRTIO_F_ANY_LAYOUT", "any_layout"),
    other(36, "VIRTIO_F_ORDER_PLATFORM", Property::Never),
    other(37, "VIRTIO_F_SR_IOV", Property::Never),
    other(38, "VIRTIO_F_NOTIFICATION_DATA", Property::Never),
    other(39, "VIRTIO_F_NOTIF_CONFIG_DATA", Property::Never),
    other(41, "VIRTIO_F_ADMIN_VQ", Property::Never),
    other(43, "VIRTIO_F_SUSPEND", Property::Never),
    switch(0, "VIRTIO_NET_F_CSUM", "csum"),
    switch(1, "VIRTIO_NET_F_GUEST_CSUM", "guest_csum"),
    switch(2, "VIRTIO_NET_F_CTRL_GUEST_OFFLOADS", "ctrl_guest_offloads"),
    Known {
        alias: Some("host_mtu"),
        ..other(3, "VIRTIO_NET_F_MTU", Property::Value("host_mtu=1500"))
    },
    other(5, "VIRTIO_NET_F_MAC", Property::Always),
    switch(7, "VIRTIO_NET_F_GUEST_TSO4", "guest_tso4"),
    switch(8, "VIRTIO_NET_F_GUEST_TSO6", "guest_tso6"),
    switch(9, "VIRTIO_NET_F_GUEST_ECN", "guest_ecn"),
    switch(10, "VIRTIO_NET_F_GUEST_UFO", "guest_ufo"),
    switch(11, "VIRTIO_NET_F_HOST_TSO4", "host_tso4"),
    switch(12, "VIRTIO_NET_F_HOST_TSO6", "host_tso6"),
    switch(13, "VIRTIO_NET_F_HOST_ECN", "host_ecn"),
    switch(14, "VIRTIO_NET_F_HOST_UFO", "host_ufo"),
    switch(15, "VIRTIO_NET_F_MRG_RXBUF", "mrg_rxbuf"),
    switch(16, "VIRTIO_NET_F_STATUS", "status"),
    switch(17, "VIRTIO_NET_F_CTRL_VQ", "ctrl_vq"),
    switch(18, "VIRTIO_NET_F_CTRL_RX", "ctrl_rx"),
    switch(21, "VIRTIO_NET_F_GUEST_ANNOUNCE", "guest_announce"),
];

impl Known {
    fn short(&self) -> &'static str {
        let rest = self.name.strip_prefix("VIRTIO_F_");
        rest.or_else(|| self.name.strip_prefix("VIRTIO_NET_F_"))
            .unwrap_or(self.name)
    }

    fn is_called(&self, name: &str) -> bool {
        let property = match self.property {
            Property::Switch(property) => Some(property),
            _ => None,
        };
        [Some(self.name), Some(self.short()), property, self.alias]
            .into_iter()
            .flatten()
            .any(|known| known.eq_ignore_ascii_case(name))
    }

    /// Whether the crate implements it and QEMU cannot be made to offer it.
    pub(crate) fn is_driven_by_the_fake(&self) -> bool {
        // Of these two the crate has nothing: they are not about a guest's network device.
        let foreign = matches!(self.short(), "SR_IOV" | "ADMIN_VQ");
        self.property == Property::Never && !foreign
    }
}

fn find(name: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.is_called(name))
}

/// The number of a feature, by the specification's name.
pub(crate) fn bit(name: &str) -> Option<u8> {
    let known = KNOWN.iter().find(|known| known.name == name)?;
    Some(known.bit)
}

/// The specification's names of feature bits.
pub(crate) fn of_bits(bits: u64) -> Vec<String> {
    let known = KNOWN.iter().filter(|known| bits >> known.bit & 1 == 1);
    known.map(|known| known.name.into()).collect()
}

/// What a run is steered to: words of `--features`, and the ring.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Steer {
    /// Offered, and the driver does not start without it; by the specification's names.
    pub(crate) require: Vec<String>,
    /// The driver refuses it.
    pub(crate) refuse: Vec<String>,
    /// QEMU's properties of the network card.
    pub(crate) properties: Vec<String>,
    /// The first QEMU that has them all.
    pub(crate) since: Option<(u32, u32)>,
}

/// The names that exist, for a person who mistyped one.
fn names() -> String {
    let names = KNOWN.iter().map(|known| {
        let short = known.short().to_ascii_lowercase();
        match known.property {
            Property::Switch(property) if property != short => format!("{short} ({property})"),
            _ => short,
        }
    });
    names.collect::<Vec<_>>().join(", ")
}

impl Steer {
    /// Reads `+x,-y,~z`, beside the ring that was asked for.
    ///
    /// # Errors
    /// [`Stop::Usage`] for a word that is not understood, with the names that there are;
    /// [`Stop::Missing`] for a feature that QEMU cannot offer.
    pub(crate) fn new(ring: Option<Ring>, words: &str) -> Result<Self, Stop> {
        let mut steer = Self::default();
        let mut seen: Vec<&str> = Vec::new();
        let ring = ring.map(|ring| match ring {
            Ring::Split => "-packed",
            Ring::Packed => "+packed",
        });
        let words = words.split(',').map(str::trim);
        for word in ring
            .into_iter()
            .chain(words.filter(|word| !word.is_empty()))
        {
            let (sign, name) = match word.split_at_checked(1) {
                Some((sign @ ("+" | "-" | "~"), name)) => (sign, name),
                _ => {
                    return Err(Stop::Usage(format!(
                        "--features: {word:?} begins with none of + (require), - (do not offer), \
                         ~ (offer and refuse)"
                    )));
                }
            };
            let known = find(name).ok_or_else(|| {
                Stop::Usage(format!(
                    "--features: there is no feature {name:?}; there are: {}",
                    names()
                ))
            })?;
            if seen.contains(&known.name) {
                let name = known.name;
                return Err(Stop::Usage(format!(
                    "--features and --ring: more than one word about {name}"
                )));
            }
            seen.push(known.name);
            steer.take(sign, known)?;
        }
        Ok(steer)
    }

    fn take(&mut self, sign: &str, known: &Known) -> Result<(), Stop> {
        let offer = sign != "-";
        match known.property {
            Property::Switch(property) => {
                let state = if offer { "on" } else { "off" };
                // An older QEMU that has no such property does not offer it either.
                if offer || known.since.is_none() {
                    self.properties.push(format!("{property}={state}"));
                    self.since = self.since.max(known.since);
                }
            }
            Property::Value(value) if offer => self.properties.push(value.into()),
            Property::Never if offer => {
                let fix = if known.is_driven_by_the_fake() {
                    "the crate's own strict fake device does: cargo xtask test"
                } else {
                    "none is needed: the crate accepts it from no device"
                };
                return Err(Stop::missing(
                    format!("a QEMU that offers {}", known.name),
                    "no back end of QEMU's network card does",
                    fix,
                ));
            }
            _ => {}
        }
        if sign == "+" {
            self.require.push(known.name.into());
        } else if known.name == "VIRTIO_F_VERSION_1" {
            let text = "--features: the driver cannot do without VIRTIO_F_VERSION_1";
            return Err(Stop::Usage(text.into()));
        } else {
            self.refuse.push(known.name.into());
        }
        Ok(())
    }

    /// Whether it takes a kernel whose vhost has more than its first features.
    pub(crate) fn needs_new_vhost(&self) -> bool {
        let new = ["VIRTIO_F_RING_RESET", "VIRTIO_F_IN_ORDER"];
        self.require.iter().any(|name| new.contains(&name.as_str()))
    }

    /// The ring that is asked for, where one is.
    pub(crate) fn ring(&self) -> Option<&'static str> {
        let has = |list: &[String]| list.iter().any(|name| name == "VIRTIO_F_RING_PACKED");
        match (has(&self.require), has(&self.refuse)) {
            (true, _) => Some("packed"),
            (_, true) => Some("split"),
            _ => None,
        }
    }
}

/// See `--ring`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Ring {
    /// Descriptor table, available and used ring.
    Split,
    /// One ring of descriptors.
    Packed,
}

/// Descriptors of QEMU's queues, receive and transmit, for a driver that asks for so many.
///
/// QEMU takes powers of two from 256 to 1024 for the receive queue; the transmit queue stays at
/// 256 with the back ends that are used here.
pub(crate) fn device_sizes(wanted: u16) -> (u16, u16) {
    let receive = wanted.clamp(256, 1024).next_power_of_two();
    (receive, 256)
}

/// The size that a queue gets.
pub(crate) fn queue_size(wanted: u16, device: u16, packed: bool) -> u16 {
    let size = wanted.min(device);
    match size.checked_ilog2() {
        Some(log) if !packed => 1 << log,
        _ => size,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_feature_has_names_of_its_own() {
        for known in KNOWN {
            let mut names = vec![known.name, known.short()];
            names.extend(known.alias);
            if let Property::Switch(property) = known.property {
                names.push(property);
            }
            for name in names {
                let found: Vec<_> = KNOWN.iter().filter(|k| k.is_called(name)).collect();
                assert_eq!(found, [&known], "{name}");
                assert_eq!(find(&name.to_lowercase()), Some(&known));
            }
        }
    }

    #[test]
    fn words_become_properties_and_wishes() {
        let steer = Steer::new(Some(Ring::Packed), "+in_order,-event_idx,~INDIRECT").unwrap();
        assert_eq!(steer.require, ["VIRTIO_F_RING_PACKED", "VIRTIO_F_IN_ORDER"]);
        assert_eq!(
            steer.refuse,
            ["VIRTIO_F_EVENT_IDX", "VIRTIO_F_INDIRECT_DESC"]
        );
        let properties = [
            "packed=on",
            "in_order=on",
            "event_idx=off",
            "indirect_desc=on",
        ];
        assert_eq!(steer.properties, properties);
        assert_eq!(steer.since, Some(IN_ORDER_SINCE));
        assert_eq!(steer.ring(), Some("packed"));
        let steer = Steer::new(Some(Ring::Split), "-in_order,+mtu,-mac").unwrap();
        assert_eq!(steer.properties, ["packed=off", "host_mtu=1500"]);
        assert_eq!((steer.ring(), steer.since), (Some("split"), None));
        assert_eq!(Steer::new(None, "").unwrap(), Steer::default());
        assert!(!steer.needs_new_vhost());
        assert!(Steer::new(None, "+queue_reset").unwrap().needs_new_vhost());
    }

    #[test]
    fn a_wrong_word_is_named_with_what_there_is() {
        for (words, says) in [
            ("packed", "begins with none"),
            ("+nonsense", "ring_packed (packed)"),
            ("+", "no feature"),
            ("é", "begins with none"),
            ("+packed,-ring_packed", "more than one word"),
            ("-version_1", "cannot do without"),
        ] {
            match Steer::new(None, words) {
                Err(Stop::Usage(text)) => assert!(text.contains(says), "{words}: {text}"),
                other => panic!("{words}: {other:?}"),
            }
        }
        assert!(matches!(
            Steer::new(Some(Ring::Split), "+packed"),
            Err(Stop::Usage(_))
        ));
        assert!(matches!(
            Steer::new(None, "+suspend"),
            Err(Stop::Missing { .. })
        ));
        match Steer::new(None, "+sr_iov") {
            Err(Stop::Missing { fix, .. }) => assert!(fix.contains("from no device"), "{fix}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(
            Steer::new(None, "-suspend").unwrap().refuse,
            ["VIRTIO_F_SUSPEND"]
        );
    }

    #[test]
    fn sizes_are_those_that_both_sides_take() {
        assert_eq!(device_sizes(2), (256, 256));
        assert_eq!(device_sizes(300), (512, 256));
        assert_eq!(device_sizes(1024), (1024, 256));
        assert_eq!(device_sizes(32768), (1024, 256));
        assert_eq!(queue_size(200, 256, true), 200);
        assert_eq!(queue_size(200, 256, false), 128);
        assert_eq!(queue_size(1024, 256, false), 256);
    }
}
