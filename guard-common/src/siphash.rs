//! SipHash-1-3 (Aumasson and Bernstein, 2012) over two words.
//!
//! A hash with a secret key: without the key, a sender cannot construct collisions. Implemented
//! here because the kernel build has no dependencies; the tests compare it with the `siphasher`
//! crate.

/// Hashes the 16 bytes of `a` and `b` (little endian) under `key`.
#[inline(always)]
pub fn hash(key: [u64; 2], a: u64, b: u64) -> u64 {
    let [k0, k1] = key;
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    // The last word holds the length, 16, in its highest byte.
    for word in [a, b, 16 << 56] {
        let [v0, v1, v2, v3] = v;
        let [v0, v1, v2, v3] = round([v0, v1, v2, v3 ^ word]);
        v = [v0 ^ word, v1, v2, v3];
    }
    let [v0, v1, v2, v3] = v;
    let [v0, v1, v2, v3] = round(round(round([v0, v1, v2 ^ 0xff, v3])));
    v0 ^ v1 ^ v2 ^ v3
}

#[inline(always)]
fn round([v0, v1, v2, v3]: [u64; 4]) -> [u64; 4] {
    let v0 = v0.wrapping_add(v1);
    let v1 = v1.rotate_left(13) ^ v0;
    let v0 = v0.rotate_left(32);
    let v2 = v2.wrapping_add(v3);
    let v3 = v3.rotate_left(16) ^ v2;
    let v0 = v0.wrapping_add(v3);
    let v3 = v3.rotate_left(21) ^ v0;
    let v2 = v2.wrapping_add(v1);
    let v1 = v1.rotate_left(17) ^ v2;
    let v2 = v2.rotate_left(32);
    [v0, v1, v2, v3]
}

#[cfg(test)]
mod tests {
    use core::hash::Hasher as _;

    use proptest::prelude::*;
    use siphasher::sip::SipHasher13;

    proptest! {
        #[test]
        fn agrees_with_the_reference(k0: u64, k1: u64, a: u64, b: u64) {
            let mut reference = SipHasher13::new_with_keys(k0, k1);
            reference.write(&a.to_le_bytes());
            reference.write(&b.to_le_bytes());
            prop_assert_eq!(super::hash([k0, k1], a, b), reference.finish());
        }
    }
}
