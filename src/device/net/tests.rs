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

#[test]
fn a_header_that_is_not_zero_in_any_one_place_is_cleared() {
    // A modern device that obeys VIRTIO 1.4, 5.1.6.4.1 leaves `num_buffers` at 1.
    for len in [10, 12] {
        for place in 0..len {
            let mut memory: Box<[u8]> = vec![0; 64].into();
            memory[place] = 1;
            let mut frame = Window::new(memory, len, 20);
            assert!(put_header(&mut frame, len));
            assert_eq!(
                frame.into_memory(),
                vec![0; 64].into(),
                "byte {place} of {len}"
            );
        }
    }
}
