//! Typed, consistent reads of device configuration space (VIRTIO 1.4, 2.5).
//!
//! A [`Field`] is an offset, a type, and the feature that makes the field exist. [`read`] reads one
//! field, [`consistent`] several that belong together:
//!
//! ```text
//!   before = generation ─▶ read the fields ─▶ after = generation ─▶ equal? done
//!        ▲                                                           │ no
//!        └──────────────── Platform::wait(ConfigGeneration, n) ◀─────┘   false: ConfigUnstable
//! ```
//!
//! Widths are the specification's: 8, 16 and 32 bits for fields of that size, two of 32 bits, low
//! half first, for 64, and byte by byte for arrays such as a MAC address. No upper limit is put on
//! the size of the configuration space; a field beyond its end is an error of that field alone.
//!
//! A legacy device has no generation: fields are read until two reads agree (2.5.4). Its integers
//! are in the byte order of the guest, so that they are refused where that is big-endian
//! ([`TransportError::LegacyByteOrder`]); bytes have no order, and are read everywhere.
//!
//! What this module does not do: it does not judge values. A maximum of 0 queues or a capacity of
//! 2^64 - 1 is the driver's to refuse.

use core::marker::PhantomData;

use super::{Transport, TransportError};
use crate::features::{Feature, Features};
use crate::platform::{Platform, Wait};

/// A field of a device's configuration structure.
#[derive(Debug)]
pub struct Field<V> {
    offset: usize,
    gate: Option<Feature>,
    value: PhantomData<fn() -> V>,
}

impl<V> Clone for Field<V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V> Copy for Field<V> {}

impl<V: Value> Field<V> {
    /// A field that every device of the type has, `offset` bytes into the structure.
    #[must_use]
    pub const fn new(offset: usize) -> Self {
        Self {
            offset,
            gate: None,
            value: PhantomData,
        }
    }

    /// A field that exists only with `feature`.
    #[must_use]
    pub const fn gated(offset: usize, feature: Feature) -> Self {
        Self {
            offset,
            gate: Some(feature),
            value: PhantomData,
        }
    }

    /// Bytes from the start of the structure.
    #[must_use]
    pub const fn offset(self) -> usize {
        self.offset
    }
}

/// What a field holds: `u8`, `u16`, `u32`, `u64` or an array of bytes.
pub trait Value: Sized + PartialEq + sealed::Sealed {
    /// Reads it once, with the widths that the specification prescribes. It may tear.
    ///
    /// # Errors
    /// [`TransportError::ConfigOutOfRange`], [`TransportError::LegacyByteOrder`].
    fn read<T: Transport + ?Sized>(transport: &T, offset: usize) -> Result<Self, TransportError>;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! value {
    ($($int:ty)*) => {$(
        impl sealed::Sealed for $int {}
        impl Value for $int {
            fn read<T: Transport + ?Sized>(
                transport: &T,
                offset: usize,
            ) -> Result<Self, TransportError> {
                check_byte_order(transport.is_legacy(), cfg!(target_endian = "big"))?;
                let mut bytes = [0; size_of::<$int>()];
                transport.read_config(offset, &mut bytes)?;
                Ok(<$int>::from_le_bytes(bytes))
            }
        }
    )*};
}

value!(u8 u16 u32 u64);

/// Whether words that driver and device share are little-endian: those of a modern device are, those
/// of a legacy one are the guest's (VIRTIO 1.4, 2.5.3 and 2.7.3).
pub(crate) const fn check_byte_order(legacy: bool, big_endian: bool) -> Result<(), TransportError> {
    if legacy && big_endian {
        Err(TransportError::LegacyByteOrder)
    } else {
        Ok(())
    }
}

impl<const N: usize> sealed::Sealed for [u8; N] {}
impl<const N: usize> Value for [u8; N] {
    fn read<T: Transport + ?Sized>(transport: &T, offset: usize) -> Result<Self, TransportError> {
        let mut bytes = [0; N];
        for (i, byte) in bytes.iter_mut().enumerate() {
            let size = transport.config_size();
            let at = offset.checked_add(i);
            let at = at.ok_or(TransportError::ConfigOutOfRange {
                offset,
                len: N,
                size,
            })?;
            transport.read_config(at, core::slice::from_mut(byte))?;
        }
        Ok(bytes)
    }
}

/// Reads fields, and refuses those whose feature is missing.
#[derive(Debug)]
pub struct Reader<'a, T: ?Sized> {
    transport: &'a T,
    features: Features,
}

impl<T: Transport + ?Sized> Reader<'_, T> {
    /// Reads one field, once.
    ///
    /// # Errors
    /// [`TransportError::FieldAbsent`], [`TransportError::ConfigOutOfRange`].
    pub fn get<V: Value>(&self, field: Field<V>) -> Result<V, TransportError> {
        match field.gate {
            Some(feature) if !self.features.has(feature) => Err(TransportError::FieldAbsent {
                offset: field.offset,
                feature,
            }),
            _ => V::read(self.transport, field.offset),
        }
    }
}

/// Reads fields that belong together: `read` is called until the configuration did not change
/// meanwhile. A transport without a generation count is read until two results agree.
///
/// `features` are those offered or negotiated: fields whose feature is not among them are refused.
///
/// # Errors
/// What `read` returns; [`TransportError::ConfigUnstable`] when the platform gives up.
pub fn consistent<T, P, R>(
    transport: &T,
    platform: &P,
    features: Features,
    mut read: impl FnMut(&Reader<'_, T>) -> Result<R, TransportError>,
) -> Result<R, TransportError>
where
    T: Transport + ?Sized,
    P: Platform,
    R: PartialEq,
{
    let reader = Reader {
        transport,
        features,
    };
    let mut previous = None;
    let mut polls = 0;
    loop {
        let before = transport.config_generation();
        let value = read(&reader)?;
        let after = transport.config_generation();
        let settled = match (before, after) {
            (Some(before), Some(after)) => before == after,
            _ => previous.as_ref() == Some(&value),
        };
        if settled {
            return Ok(value);
        }
        previous = Some(value);
        if !platform.wait(Wait::ConfigGeneration, polls) {
            return Err(TransportError::ConfigUnstable);
        }
        polls = polls.saturating_add(1);
    }
}

/// Reads one field: see [`consistent`].
///
/// # Errors
/// [`TransportError::FieldAbsent`] when the field's feature is not among `features`,
/// [`TransportError::ConfigOutOfRange`], [`TransportError::ConfigUnstable`].
pub fn read<T, P, V>(
    transport: &T,
    platform: &P,
    features: Features,
    field: Field<V>,
) -> Result<V, TransportError>
where
    T: Transport + ?Sized,
    P: Platform,
    V: Value,
{
    consistent(transport, platform, features, |reader| reader.get(field))
}
