use alloc::string::ToString;

use super::{InitFailure, reset};
use crate::features::{Features, Wish};
use crate::testing::{FakeDevice, InPlace, Legacy};
use crate::transport::config::{Field, check_byte_order, read};
use crate::transport::{DeviceId, TransportError};

const BIG: bool = cfg!(target_endian = "big");

/// Miri runs this on a big-endian target, too.
///
/// Defends: SP-L04.
#[test]
fn bug_class_74_a_legacy_device_is_refused_where_its_byte_order_would_be_big_endian() {
    let error = TransportError::LegacyByteOrder;
    assert_eq!(check_byte_order(true, true), Err(error));
    for (legacy, big) in [(true, false), (false, true), (false, false)] {
        assert_eq!(check_byte_order(legacy, big), Ok(()));
    }
    assert!(error.to_string().contains("big-endian"));

    let platform = InPlace::new();
    let config = [1, 0, 0, 0, 0, 0, 0, 2];
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK).config(&config);
    // A modern device is driven on either kind of target.
    let modern = reset(device.transport(), &platform).unwrap();
    assert!(modern.negotiate(&Wish::default()).is_ok());

    let device = device.legacy(Legacy::FixedSizes);
    let transport = device.transport();
    let word = read(&transport, &platform, Features::EMPTY, Field::<u64>::new(0));
    let bytes = read(
        &transport,
        &platform,
        Features::EMPTY,
        Field::<[u8; 8]>::new(0),
    );
    assert_eq!(bytes, Ok(config), "bytes have no order");
    let before = device.events().len();
    let was_reset = reset(transport, &platform).map(drop);
    let why = was_reset.map_err(|refused| refused.why);
    if BIG {
        assert_eq!(why, Err(InitFailure::Transport(error)));
        assert_eq!(word, Err(error));
        assert_eq!(device.events().len(), before, "it was not touched");
    } else {
        assert_eq!(why, Ok(()));
        assert_eq!(word, Ok(u64::from_ne_bytes(config)));
    }
    device.assert_clean();
}
