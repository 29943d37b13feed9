//! The hash by which LLD deals strings out to its shards: XXH3 with 64 bits, as its specification defines it, without a seed.

const P32: [u64; 3] = [0x9e37_79b1, 0x85eb_ca77, 0xc2b2_ae3d];
const P64: [u64; 5] =
    [0x9e37_79b1_85eb_ca87, 0xc2b2_ae3d_27d4_eb4f, 0x1656_67b1_9e37_79f9, 0x85eb_ca77_c2b2_ae63, 0x27d4_eb2f_1656_67c5];

/// The specification's secret.
#[rustfmt::skip]
static SECRET: [u8; 192] = [
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c,
    0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f,
    0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
    0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c,
    0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
    0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
    0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d,
    0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64,
    0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
    0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e,
    0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce,
    0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
];

/// Returns the hash of a string.
pub(super) fn hash(text: &[u8]) -> u64 {
    match text.len() {
        0 => finish(secret(56) ^ secret(64)),
        len @ 1..=3 => {
            let byte = |at: usize| u64::from(text[at]);
            let all = byte(0) << 16 | byte(len / 2) << 24 | byte(len - 1) | (len as u64) << 8;
            finish(all ^ ((secret(0) ^ secret(0) >> 32) & 0xffff_ffff))
        }
        len @ 4..=8 => {
            let keyed = (half(text, len - 4) | half(text, 0) << 32) ^ secret(8) ^ secret(16);
            let mixed = (keyed ^ keyed.rotate_left(49) ^ keyed.rotate_left(24)).wrapping_mul(0x9fb2_1c65_1e98_df25);
            let mixed = (mixed ^ (mixed >> 35).wrapping_add(len as u64)).wrapping_mul(0x9fb2_1c65_1e98_df25);
            mixed ^ mixed >> 28
        }
        len @ 9..=16 => {
            let low = word(text, 0) ^ secret(24) ^ secret(32);
            let high = word(text, len - 8) ^ secret(40) ^ secret(48);
            avalanche((len as u64).wrapping_add(low.swap_bytes()).wrapping_add(high).wrapping_add(fold(low, high)))
        }
        17..=128 => short(text),
        129..=240 => middle(text),
        _ => long(text),
    }
}

fn short(text: &[u8]) -> u64 {
    let len = text.len();
    let mut sum = (len as u64).wrapping_mul(P64[0]);
    for k in 0..=(len - 1) / 32 {
        sum = sum.wrapping_add(mix(text, 16 * k, 32 * k)).wrapping_add(mix(text, len - 16 * (k + 1), 32 * k + 16));
    }
    avalanche(sum)
}

fn middle(text: &[u8]) -> u64 {
    let len = text.len();
    let first = (0..8).fold((len as u64).wrapping_mul(P64[0]), |sum, k| sum.wrapping_add(mix(text, 16 * k, 16 * k)));
    let rest = (8..len / 16).fold(mix(text, len - 16, 119), |sum, k| sum.wrapping_add(mix(text, 16 * k, 16 * (k - 8) + 3)));
    avalanche(avalanche(first).wrapping_add(rest))
}

fn long(text: &[u8]) -> u64 {
    let mut lanes = [P32[2], P64[0], P64[1], P64[2], P64[3], P32[1], P64[4], P32[0]];
    let n_stripes = (text.len() - 1) / 64;
    for k in 0..n_stripes {
        stripe(&mut lanes, &text[64 * k..], k % 16 * 8);
        if k % 16 == 15 {
            for (i, lane) in lanes.iter_mut().enumerate() {
                *lane = (*lane ^ *lane >> 47 ^ secret(128 + 8 * i)).wrapping_mul(P32[0]);
            }
        }
    }
    stripe(&mut lanes, &text[text.len() - 64..], 121);
    let start = (text.len() as u64).wrapping_mul(P64[0]);
    avalanche(
        (0..4).fold(start, |sum, i| {
            sum.wrapping_add(fold(lanes[2 * i] ^ secret(11 + 16 * i), lanes[2 * i + 1] ^ secret(19 + 16 * i)))
        }),
    )
}

fn stripe(lanes: &mut [u64; 8], text: &[u8], at: usize) {
    for i in 0..8 {
        let value = word(text, 8 * i);
        let keyed = value ^ secret(at + 8 * i);
        lanes[i ^ 1] = lanes[i ^ 1].wrapping_add(value);
        lanes[i] = lanes[i].wrapping_add((keyed & 0xffff_ffff).wrapping_mul(keyed >> 32));
    }
}

fn mix(text: &[u8], at: usize, key: usize) -> u64 {
    fold(word(text, at) ^ secret(key), word(text, at + 8) ^ secret(key + 8))
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

fn finish(mut hash: u64) -> u64 {
    hash = (hash ^ hash >> 33).wrapping_mul(P64[1]);
    hash = (hash ^ hash >> 29).wrapping_mul(P64[2]);
    hash ^ hash >> 32
}

fn avalanche(mut hash: u64) -> u64 {
    hash = (hash ^ hash >> 37).wrapping_mul(0x1656_6791_9e37_79f9);
    hash ^ hash >> 32
}

fn secret(at: usize) -> u64 {
    word(&SECRET, at)
}

fn word(text: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(text[at..at + 8].try_into().expect("eight bytes"))
}

fn half(text: &[u8], at: usize) -> u64 {
    u64::from(u32::from_le_bytes(text[at..at + 4].try_into().expect("four bytes")))
}

#[cfg(test)]
mod tests {
    use super::hash;

    /// The reference implementation's, of bytes 3, 10, 17 and so on.
    #[test]
    fn hashes_are_those_of_the_reference_implementation() {
        let text: Vec<u8> = (0..2000).map(|i: usize| (i * 7 + 3) as u8).collect();
        for (len, expected) in [
            (0, 0x2d06_8005_38d3_94c2),
            (1, 0x13e6_08bc_156d_efed),
            (2, 0x1c90_74b9_3943_b86c),
            (3, 0xa908_8dda_485b_481c),
            (4, 0x6d92_53b1_6c8b_1ed3),
            (5, 0x9986_20e1_0e3a_4b37),
            (8, 0x6053_9db6_3047_1163),
            (9, 0xfeff_6683_61d7_23a8),
            (15, 0x9ec1_69f4_a982_31c1),
            (16, 0xb8c8_59b0_f030_b585),
            (17, 0x714a_0440_8e79_b80f),
            (32, 0x19ff_4ee1_d6ba_1a55),
            (33, 0x3e44_983a_d216_79c8),
            (64, 0x287e_b1fa_9e4b_e2c1),
            (65, 0x8292_18de_4d79_8646),
            (96, 0xf084_e7cf_bc62_4743),
            (97, 0x1daa_8327_1a8e_7b7c),
            (127, 0x998f_a063_1fd7_8d0b),
            (128, 0x6742_5a03_6502_61bf),
            (129, 0xc664_bf33_11c6_abc4),
            (140, 0x5f3d_7378_60af_ebc8),
            (200, 0x746c_d002_5327_bf5b),
            (239, 0x1d86_1931_c1f3_cafa),
            (240, 0x6455_6dc6_b462_a6cf),
            (241, 0x8bea_dd3a_8874_fe17),
            (300, 0xfd9a_a0f0_d62e_0227),
            (512, 0xf582_02b8_d901_9d1d),
            (1023, 0xd269_86a0_b85d_cc44),
            (1024, 0x9b81_661c_641c_72b1),
            (1025, 0x806c_2072_ed71_3576),
            (1088, 0x2f87_81e0_1841_f0da),
            (1500, 0x636e_b310_3aa6_44e2),
            (2000, 0x71f8_268c_6d85_6c4a),
        ] {
            assert_eq!(hash(&text[..len]), expected, "{len} bytes");
        }
    }
}
