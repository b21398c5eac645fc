//! The ring layout against the real `<linux/virtio_ring.h>`.
//!
//! A C program that includes the header is compiled and run here; it prints what the header says,
//! one `name value...` per line. Nothing of the header is copied.

#![cfg(not(miri))] // it runs a compiler

use std::collections::HashMap;
use std::fmt::Write as _;
use std::mem::{align_of, offset_of, size_of};
use std::path::{Path, PathBuf};
use std::process::Command;

use vring::ring::layout::{
    AVAIL_ALIGN_SIZE, AVAIL_F_NO_INTERRUPT, Available, DESC_ALIGN_SIZE, Descriptor,
    DescriptorFlags, LayoutError, MAX_QUEUE_SIZE, USED_ALIGN_SIZE, USED_F_NO_NOTIFY, Used,
    UsedElement, vring_init, vring_size,
};

const ALIGNS: [usize; 15] = [
    4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536,
];

const TABLE_C: &str = r#"
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <linux/virtio_ring.h>

#define TYPE(t) printf("type." #t " %zu %zu\n", sizeof(t), _Alignof(t))
#define FIELD(t, f) printf("field." #t "." #f " %zu\n", offsetof(t, f))
#define VALUE(v) printf("value." #v " %llu\n", (unsigned long long)(v))

static void ring(unsigned int num, unsigned long align)
{
    /* Any base of the largest alignment does: nothing is stored there. */
    static char block[16] __attribute__((aligned(65536)));
    struct vring vr;
    uintptr_t base = (uintptr_t)block;
    vring_init(&vr, num, block, align);
    printf("ring.%u.%lu %lu %lu %lu %lu %lu %u\n", num, align,
           (unsigned long)((uintptr_t)vr.desc - base),
           (unsigned long)((uintptr_t)vr.avail - base),
           (unsigned long)((uintptr_t)&vring_used_event(&vr) - base),
           (unsigned long)((uintptr_t)vr.used - base),
           (unsigned long)((uintptr_t)&vring_avail_event(&vr) - base),
           vring_size(num, align));
}

int main(void)
{
    unsigned long align;
    unsigned int num;
    TYPE(struct vring_desc);
    TYPE(struct vring_avail);
    TYPE(struct vring_used_elem);
    TYPE(struct vring_used);
    TYPE(vring_desc_t);
    TYPE(vring_avail_t);
    TYPE(vring_used_t);
    FIELD(struct vring_desc, addr);
    FIELD(struct vring_desc, len);
    FIELD(struct vring_desc, flags);
    FIELD(struct vring_desc, next);
    FIELD(struct vring_avail, flags);
    FIELD(struct vring_avail, idx);
    FIELD(struct vring_avail, ring);
    FIELD(struct vring_used_elem, id);
    FIELD(struct vring_used_elem, len);
    FIELD(struct vring_used, flags);
    FIELD(struct vring_used, idx);
    FIELD(struct vring_used, ring);
    VALUE(VRING_AVAIL_ALIGN_SIZE);
    VALUE(VRING_USED_ALIGN_SIZE);
    VALUE(VRING_DESC_ALIGN_SIZE);
    VALUE(VRING_DESC_F_NEXT);
    VALUE(VRING_DESC_F_WRITE);
    VALUE(VRING_DESC_F_INDIRECT);
    VALUE(VRING_AVAIL_F_NO_INTERRUPT);
    VALUE(VRING_USED_F_NO_NOTIFY);
    for (num = 1; num <= 32768; num++) {
        int power = (num & (num - 1)) == 0;
        for (align = 4; align <= 65536; align *= 2)
            /* Every power of two with every alignment; every other number with two of them. */
            if (power || align == 4 || align == 4096 || num < 300 || num % 997 == 0)
                ring(num, align);
    }
    return 0;
}
"#;

const EVENT_C: &str = r#"
#include <stdio.h>
#include <linux/virtio_ring.h>

int main(void)
{
    static const unsigned int edge[] = {
        0, 1, 2, 3, 100, 32766, 32767, 32768, 32769, 65532, 65533, 65534, 65535
    };
    unsigned int i, j, k, n = sizeof(edge) / sizeof(edge[0]);
    for (i = 0; i < n; i++)
        for (j = 0; j < n; j++)
            for (k = 0; k < n; k++)
                printf("event.%u.%u.%u %d\n", edge[i], edge[j], edge[k],
                       !!vring_need_event(edge[i], edge[j], edge[k]));
    return 0;
}
"#;

/// What the header says.
struct Oracle(HashMap<String, Vec<u64>>);

impl Oracle {
    fn compile(name: &str, source: &str) -> Self {
        const HELP: &str = "this test compares with the C header: apt-get install gcc \
                            linux-libc-dev (or set CC)";
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let (code, program) = (dir.join(format!("{name}.c")), dir.join(name));
        std::fs::write(&code, source).expect("the target directory can be written");
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
        let output = Command::new(&compiler)
            .args(["-O1", "-Wall", "-Werror", "-o"])
            .arg(&program)
            .arg(&code)
            .output()
            .unwrap_or_else(|error| panic!("{compiler}: {error}; {HELP}"));
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{compiler} failed; {HELP}\n{text}");
        Self::run(&program)
    }

    fn run(program: &Path) -> Self {
        let output = Command::new(program)
            .output()
            .expect("what was compiled runs");
        assert!(output.status.success(), "{}", output.status);
        let text = String::from_utf8(output.stdout).expect("it prints text");
        let row = |line: &str| {
            // Names of types have a space in them; values are numbers from the right.
            let is_number = |word: &&str| word.bytes().all(|byte| byte.is_ascii_digit());
            let words: Vec<_> = line.split(' ').collect();
            let values = words
                .iter()
                .rev()
                .take_while(|word| is_number(word))
                .count();
            let (name, values) = words.split_at(words.len() - values);
            let values = values.iter().map(|value| value.parse().expect("a number"));
            (name.join(" "), values.collect())
        };
        Self(text.lines().map(row).collect())
    }

    fn get(&self, name: &str) -> &[u64] {
        self.0
            .get(name)
            .unwrap_or_else(|| panic!("the header has no {name}"))
    }
}

/// Defends: SP-L03.
#[test]
fn the_layout_equals_the_headers() {
    let oracle = Oracle::compile("vring_table", TABLE_C);
    let (mut rings, mut wrong) = (0, String::new());
    for num in 1..=MAX_QUEUE_SIZE {
        for align in ALIGNS {
            let Some(theirs) = oracle.0.get(&format!("ring.{num}.{align}")) else {
                assert!(!num.is_power_of_two(), "{num} {align} was not printed");
                continue;
            };
            let layout = vring_init(num, align).unwrap();
            let ours = [
                layout.desc,
                layout.avail,
                layout.used_event,
                layout.used,
                layout.avail_event,
                layout.size(),
            ];
            assert_eq!(vring_size(num, align), Ok(layout.size()));
            assert_eq!(layout.avail_entry(num - 1) + 2, layout.used_event);
            assert_eq!(layout.used_entry(num - 1) + 8, layout.avail_event);
            rings += 1;
            if !ours
                .iter()
                .map(|&offset| offset as u64)
                .eq(theirs.iter().copied())
            {
                writeln!(
                    wrong,
                    "num {num} align {align}: {ours:?}, the header: {theirs:?}"
                )
                .unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(
        rings > 2 * 32768 + 16 * 13 + 291 * 13,
        "only {rings} rings were compared"
    );

    let types = [
        (
            "vring_desc",
            size_of::<Descriptor>(),
            align_of::<Descriptor>(),
        ),
        (
            "vring_avail",
            size_of::<Available>(),
            align_of::<Available>(),
        ),
        (
            "vring_used_elem",
            size_of::<UsedElement>(),
            align_of::<UsedElement>(),
        ),
        ("vring_used", size_of::<Used>(), align_of::<Used>()),
    ];
    for (name, size, align) in types {
        let theirs = oracle.get(&format!("type.struct {name}"));
        assert_eq!([size as u64, align as u64], theirs, "{name}");
    }
    // The header's typedefs carry the alignment that the start of each area needs.
    let starts = [
        ("vring_desc_t", size_of::<Descriptor>(), DESC_ALIGN_SIZE),
        ("vring_avail_t", size_of::<Available>(), AVAIL_ALIGN_SIZE),
        ("vring_used_t", size_of::<Used>(), USED_ALIGN_SIZE),
    ];
    for (name, size, align) in starts {
        let theirs = oracle.get(&format!("type.{name}"));
        assert_eq!([size as u64, align as u64], theirs, "{name}");
    }
    let fields = [
        ("vring_desc.addr", offset_of!(Descriptor, addr)),
        ("vring_desc.len", offset_of!(Descriptor, len)),
        ("vring_desc.flags", offset_of!(Descriptor, flags)),
        ("vring_desc.next", offset_of!(Descriptor, next)),
        ("vring_avail.flags", offset_of!(Available, flags)),
        ("vring_avail.idx", offset_of!(Available, idx)),
        ("vring_avail.ring", offset_of!(Available, ring)),
        ("vring_used_elem.id", offset_of!(UsedElement, id)),
        ("vring_used_elem.len", offset_of!(UsedElement, len)),
        ("vring_used.flags", offset_of!(Used, flags)),
        ("vring_used.idx", offset_of!(Used, idx)),
        ("vring_used.ring", offset_of!(Used, ring)),
    ];
    for (name, offset) in fields {
        assert_eq!(
            [offset as u64],
            oracle.get(&format!("field.struct {name}")),
            "{name}"
        );
    }
    let values = [
        ("VRING_AVAIL_ALIGN_SIZE", AVAIL_ALIGN_SIZE as u64),
        ("VRING_USED_ALIGN_SIZE", USED_ALIGN_SIZE as u64),
        ("VRING_DESC_ALIGN_SIZE", DESC_ALIGN_SIZE as u64),
        ("VRING_DESC_F_NEXT", DescriptorFlags::NEXT.bits().into()),
        ("VRING_DESC_F_WRITE", DescriptorFlags::WRITE.bits().into()),
        (
            "VRING_DESC_F_INDIRECT",
            DescriptorFlags::INDIRECT.bits().into(),
        ),
        ("VRING_AVAIL_F_NO_INTERRUPT", AVAIL_F_NO_INTERRUPT.into()),
        ("VRING_USED_F_NO_NOTIFY", USED_F_NO_NOTIFY.into()),
    ];
    for (name, value) in values {
        assert_eq!([value], oracle.get(&format!("value.{name}")), "{name}");
    }
}

#[test]
fn need_event_equals_the_headers() {
    let oracle = Oracle::compile("vring_event", EVENT_C);
    assert_eq!(oracle.0.len(), 13 * 13 * 13);
    for (name, says) in &oracle.0 {
        let mut numbers = name.split('.').skip(1).map(|word| word.parse().unwrap());
        let mut next = || numbers.next().unwrap();
        let (event, new, old) = (next(), next(), next());
        let ours = vring::ring::need_event(event, new, old);
        assert_eq!(
            says,
            &[u64::from(ours)],
            "event {event} new {new} old {old}"
        );
    }
}

#[test]
fn a_ring_that_cannot_be_is_refused() {
    assert_eq!(vring_init(0, 4096), Err(LayoutError::Num { num: 0 }));
    assert_eq!(
        vring_init(32769, 4096),
        Err(LayoutError::Num { num: 32769 })
    );
    assert_eq!(
        vring_size(u16::MAX, 4096),
        Err(LayoutError::Num { num: u16::MAX })
    );
    for align in [0, 1, 2, 3, 12, 4095, 4097, usize::MAX] {
        assert_eq!(vring_init(8, align), Err(LayoutError::Align { align }));
    }
    let huge = 1 << (usize::BITS - 1);
    for (num, align) in [(1, huge), (1, huge / 2), (32768, huge)] {
        assert_eq!(
            vring_init(num, align),
            Err(LayoutError::TooLarge { num, align })
        );
    }
    let far = vring_init(1, huge / 4).unwrap();
    assert!(far.legacy_size() <= isize::MAX as usize && far.used == huge / 4);
    let text = LayoutError::Align { align: 12 }.to_string();
    assert!(
        text.contains("12") && text.contains("power of two"),
        "{text}"
    );
}

/// The specification counts the used ring rounded up to a page, Linux does not; and it prints a
/// rounding that is one page too many for exact multiples.
/// Defends: SP-L02.
#[test]
fn the_legacy_size_is_the_specifications_without_its_misprint() {
    for num in (0..16).map(|log| 1_u16 << log) {
        let align = 4096;
        let layout = vring_init(num, align).unwrap();
        let (n, up) = (usize::from(num), |x: usize| x.next_multiple_of(align));
        assert_eq!(
            layout.legacy_size(),
            up(16 * n + 6 + 2 * n) + up(6 + 8 * n),
            "{num}"
        );
        assert!(layout.legacy_size() >= layout.size());
        assert!(layout.legacy_size() - layout.size() < align);
    }
    let exact = vring_init(5, 32).unwrap();
    assert_eq!(
        (exact.used_event + 2, exact.used),
        (96, 96),
        "no padding where none is due"
    );
}

/// Defends: SP-001.
#[test]
fn a_block_is_aligned_for_its_table() {
    assert_eq!(vring_init(8, 4).unwrap().alignment(), 16);
    assert_eq!(vring_init(8, 16).unwrap().alignment(), 16);
    assert_eq!(vring_init(8, 4096).unwrap().alignment(), 4096);
}

#[test]
fn layouts_are_constants() {
    const SIZE: usize = match vring_size(256, 4096) {
        Ok(size) => size,
        Err(_) => panic!(),
    };
    const LEGACY: usize = match vring_init(256, 4096) {
        Ok(layout) => layout.legacy_size(),
        Err(_) => panic!(),
    };
    static BLOCK: [u8; SIZE] = [0; SIZE];
    assert_eq!((BLOCK.len(), LEGACY), (10246, 12288));
}
