#![cfg(feature = "alloc")]

use std::boxed::Box;
use std::vec;

use super::tx::put_header;
use super::wire::header_len;
use crate::buffer::Window;
use crate::features::{Feature, Features};

#[test]
fn a_header_of_either_length_is_put_in_front_and_touches_nothing_else() {
    for features in [Features::EMPTY, Feature::VERSION_1.into()] {
        let header_len = header_len(features);
        for (headroom, len) in [(12, 1), (10, 1), (10, 50), (30, 50), (9, 50), (0, 50)] {
            let memory = || -> Box<[u8]> { vec![0xee; headroom + len + 20].into() };
            let mut frame = Window::new(memory(), headroom, len);
            let fits = headroom >= header_len;
            assert_eq!(put_header(&mut frame, header_len), fits);
            let front = if fits {
                headroom - header_len
            } else {
                headroom
            };
            assert_eq!(frame.headroom(), front);
            assert_eq!(frame.as_slice().len(), headroom - front + len);
            let mut expected = memory();
            expected[front..headroom].fill(0);
            assert_eq!(frame.into_memory(), expected);
        }
    }
}
