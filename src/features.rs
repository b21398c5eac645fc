//! Feature words of 128 bits, and what is done with them (VIRTIO 1.4, 2.2 and 6).
//!
//! ```text
//!   offered by the device ─┐
//!   wished by the driver ──┼─▶ negotiate ─▶ accepted, refused    or a NegotiateError that names
//!   prerequisites ─────────┤                                     the bit
//!   access of the platform ┘
//! ```
//!
//! A [`Feature`] is one bit, a [`Features`] a set of them. The bits of this page are the generic
//! ones; each device driver names its own (`Feature::of::<5>()`) and says with [`Requirement`]s
//! which of them mean something only together with others. [`negotiate`] accepts what is offered
//! *and* wished *and* whose prerequisites are accepted, so that a driver never acknowledges a
//! feature that it does not implement, nor one that the specification forbids it to accept.

use core::fmt;
use core::ops::{BitAnd, BitOr, BitOrAssign, Not, Sub};

mod negotiate;
#[cfg(test)]
mod tests;

pub(crate) use negotiate::negotiate_over;
pub use negotiate::{NegotiateError, Negotiation, Wish, negotiate, negotiate_legacy};

/// The number of a feature bit, 0 to 127.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Feature(u8);

macro_rules! generic {
    ($($(#[$doc:meta])* $name:ident = $bit:literal, $c_name:literal;)*) => {
        impl Feature {
            $($(#[$doc])* #[doc(alias = $c_name)] pub const $name: Self = Self($bit);)*

            /// The name in the specification, for the bits that mean the same for every device.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($bit => Some($c_name),)*
                    _ => None,
                }
            }

            /// The generic bit of that name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($c_name => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

generic! {
    /// Legacy: interrupt when the queue runs empty, even if suppressed.
    NOTIFY_ON_EMPTY = 24, "VIRTIO_F_NOTIFY_ON_EMPTY";
    /// Legacy: no assumption about how a request is cut into descriptors.
    ANY_LAYOUT = 27, "VIRTIO_F_ANY_LAYOUT";
    /// Descriptors may point to tables of descriptors (2.7.5.3, 2.8.7).
    INDIRECT_DESC = 28, "VIRTIO_F_INDIRECT_DESC";
    /// Notifications are suppressed by event indices (2.7.7, 2.7.10, 2.8.10).
    EVENT_IDX = 29, "VIRTIO_F_EVENT_IDX";
    /// The device follows VIRTIO 1.0 or later.
    VERSION_1 = 32, "VIRTIO_F_VERSION_1";
    /// Addresses are the platform's: translated, or limited in reach.
    ACCESS_PLATFORM = 33, "VIRTIO_F_ACCESS_PLATFORM";
    /// The packed ring (2.8).
    RING_PACKED = 34, "VIRTIO_F_RING_PACKED";
    /// Buffers are used in the order in which they were made available (2.7.9, 2.8.8).
    IN_ORDER = 35, "VIRTIO_F_IN_ORDER";
    /// Memory is ordered as for hardware devices.
    ORDER_PLATFORM = 36, "VIRTIO_F_ORDER_PLATFORM";
    /// Single-root I/O virtualization; PCI only.
    SR_IOV = 37, "VIRTIO_F_SR_IOV";
    /// A doorbell carries the next index too (2.9).
    NOTIFICATION_DATA = 38, "VIRTIO_F_NOTIFICATION_DATA";
    /// A doorbell carries a value that the device chose (4.1.5.2).
    NOTIF_CONFIG_DATA = 39, "VIRTIO_F_NOTIF_CONFIG_DATA";
    /// A queue can be reset on its own (2.6.1).
    RING_RESET = 40, "VIRTIO_F_RING_RESET";
    /// The device has administration queues (2.13); PCI only.
    ADMIN_VQ = 41, "VIRTIO_F_ADMIN_VQ";
    /// The device can be suspended (3.4).
    SUSPEND = 43, "VIRTIO_F_SUSPEND";
}

impl Feature {
    /// Bit `BIT`; one above 127 does not compile.
    #[must_use]
    pub const fn of<const BIT: u8>() -> Self {
        const { assert!(BIT < 128, "feature bits are 0 to 127") }
        Self(BIT)
    }

    /// Bit `bit`, `None` above 127.
    #[must_use]
    pub const fn new(bit: u8) -> Option<Self> {
        if bit < 128 { Some(Self(bit)) } else { None }
    }

    /// The number of the bit.
    #[must_use]
    pub const fn bit(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "feature bit {}", self.0),
        }
    }
}

impl fmt::Debug for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A set of feature bits, 0 to 127.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Features(pub u128);

impl Features {
    /// No feature.
    pub const EMPTY: Self = Self(0);

    /// Every generic feature that this crate implements, whatever the type of the device: what a
    /// driver wishes besides its own. Those of them that are in [`TRANSPORT`](Self::TRANSPORT) are
    /// accepted where the transport implements them, too.
    pub const RING: Self = Self::of(&[
        Feature::INDIRECT_DESC,
        Feature::EVENT_IDX,
        Feature::VERSION_1,
        Feature::ACCESS_PLATFORM,
        Feature::RING_PACKED,
        Feature::IN_ORDER,
        Feature::ORDER_PLATFORM,
        Feature::NOTIFICATION_DATA,
        Feature::NOTIF_CONFIG_DATA,
        Feature::RING_RESET,
        Feature::SUSPEND,
    ]);

    /// Features that take code in the transport. A transport says which of them it has
    /// ([`Transport::transport_features`](crate::transport::Transport::transport_features)).
    pub const TRANSPORT: Self = Self::of(&[
        Feature::NOTIFICATION_DATA,
        Feature::NOTIF_CONFIG_DATA,
        Feature::RING_RESET,
    ]);

    /// What a legacy device can offer and be given: bits 0 to 31 (VIRTIO 1.4, 4.1.4.10).
    pub const LEGACY: Self = Self((1 << 32) - 1);

    /// Bits that no device type defines for itself, and that this crate does not implement:
    /// `VIRTIO_F_NOTIFY_ON_EMPTY`, `VIRTIO_F_SR_IOV`, `VIRTIO_F_ADMIN_VQ`, and those that are
    /// reserved (VIRTIO 1.4, 2.2). They are accepted from no device, whatever is wished, save that
    /// `VIRTIO_F_ANY_LAYOUT` is from a legacy one ([`negotiate_legacy`]).
    pub const FOREIGN: Self = {
        // 24 to 41, and 43 to 49; 42 is a device type's.
        let generic = ((1 << 50) - (1 << 24)) & !(1 << 42);
        Self(generic).difference(Self::RING)
    };

    /// The set of these features.
    #[must_use]
    pub const fn of(features: &[Feature]) -> Self {
        let mut set = Self::EMPTY;
        let mut rest = features;
        while let [first, others @ ..] = rest {
            set = set.with(*first);
            rest = others;
        }
        set
    }

    /// The set and this feature.
    #[must_use]
    pub const fn with(self, feature: Feature) -> Self {
        Self(self.0 | 1 << feature.0)
    }

    /// The set without this feature.
    #[must_use]
    pub const fn without(self, feature: Feature) -> Self {
        Self(self.0 & !(1 << feature.0))
    }

    /// Features of either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Features of both sets.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Features of this set that are not in the other.
    #[must_use]
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether the feature is in the set.
    #[must_use]
    pub const fn has(self, feature: Feature) -> bool {
        self.0 & (1 << feature.0) != 0
    }

    /// Whether all of the other set are in this one.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }

    /// Whether the sets share a feature.
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many there are.
    #[must_use]
    pub const fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// The features, lowest bit first.
    #[must_use]
    pub const fn iter(self) -> Iter {
        Iter(self.0)
    }

    /// Bits `32 * select` to `32 * select + 31`, as transports exchange them; 0 above `select` 3.
    #[must_use]
    pub const fn word(self, select: u32) -> u32 {
        if select < 4 {
            (self.0 >> (32 * select)) as u32
        } else {
            0
        }
    }

    /// The set and these bits from `32 * select` on; above `select` 3 they have no place.
    #[must_use]
    pub const fn with_word(self, select: u32, word: u32) -> Self {
        if select < 4 {
            Self(self.0 | (word as u128) << (32 * select))
        } else {
            self
        }
    }
}

/// The features of a set, lowest bit first.
#[derive(Clone, Debug)]
pub struct Iter(u128);

impl Iterator for Iter {
    type Item = Feature;

    fn next(&mut self) -> Option<Feature> {
        let bit = Feature::new(self.0.trailing_zeros() as u8)?;
        self.0 &= self.0 - 1;
        Some(bit)
    }
}

impl IntoIterator for Features {
    type Item = Feature;
    type IntoIter = Iter;

    fn into_iter(self) -> Iter {
        self.iter()
    }
}

impl From<Feature> for Features {
    fn from(feature: Feature) -> Self {
        Self::EMPTY.with(feature)
    }
}

impl FromIterator<Feature> for Features {
    fn from_iter<I: IntoIterator<Item = Feature>>(features: I) -> Self {
        features.into_iter().fold(Self::EMPTY, Self::with)
    }
}

impl<F: Into<Self>> BitOr<F> for Features {
    type Output = Self;
    fn bitor(self, other: F) -> Self {
        self.union(other.into())
    }
}

impl<F: Into<Features>> BitOr<F> for Feature {
    type Output = Features;
    fn bitor(self, other: F) -> Features {
        Features::from(self).union(other.into())
    }
}

impl<F: Into<Self>> BitOrAssign<F> for Features {
    fn bitor_assign(&mut self, other: F) {
        *self = *self | other;
    }
}

impl<F: Into<Self>> BitAnd<F> for Features {
    type Output = Self;
    fn bitand(self, other: F) -> Self {
        self.intersection(other.into())
    }
}

impl<F: Into<Self>> Sub<F> for Features {
    type Output = Self;
    fn sub(self, other: F) -> Self {
        self.difference(other.into())
    }
}

impl Not for Features {
    type Output = Self;
    fn not(self) -> Self {
        Self(!self.0)
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("no features");
        }
        for (i, feature) in self.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{feature}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Features({:#x}: {self})", self.0)
    }
}

/// A feature that may be accepted only together with others: one row of a driver's table
/// (VIRTIO 1.4, "Feature bit requirements" of each device type). Two rows for one feature must
/// both hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The feature.
    pub feature: Feature,
    /// What it needs.
    pub needs: Needs,
}

/// What a feature needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Every one of these.
    All(Features),
    /// At least one of these.
    Any(Features),
}

impl Requirement {
    /// `feature` needs every one of `needs`.
    #[must_use]
    pub const fn all(feature: Feature, needs: &[Feature]) -> Self {
        let needs = Needs::All(Features::of(needs));
        Self { feature, needs }
    }

    /// `feature` needs at least one of `needs`.
    #[must_use]
    pub const fn any(feature: Feature, needs: &[Feature]) -> Self {
        let needs = Needs::Any(Features::of(needs));
        Self { feature, needs }
    }

    /// Whether a set of features may be accepted as far as this row goes.
    #[must_use]
    pub const fn is_met_by(&self, features: Features) -> bool {
        !features.has(self.feature)
            || match self.needs {
                Needs::All(needs) => features.contains(needs),
                Needs::Any(needs) => features.intersects(needs),
            }
    }
}
