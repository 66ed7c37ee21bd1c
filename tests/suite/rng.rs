use strata_core::Philox;
use strata_core::rng::philox4x32_10;

/// `kat_vectors` of Random123 1.14: the lines `philox4x32 10`, as (counter, key, result).
const PUBLISHED: [([u32; 4], [u32; 2], [u32; 4]); 3] = [
    ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
    ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
    (
        [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
        [0xa409_3822, 0x299f_31d0],
        [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
    ),
];

#[test]
fn philox_equals_the_published_vectors() {
    for (counter, key, expected) in PUBLISHED {
        assert_eq!(philox4x32_10(counter, key), expected);
        let join = |lo: u32, hi: u32| u64::from(lo) | u64::from(hi) << 32;
        let stream = Philox::new(join(key[0], key[1]), join(counter[2], counter[3]));
        assert_eq!(stream.block(join(counter[0], counter[1])), expected);
    }
}

#[test]
fn a_stream_is_its_blocks_in_order() {
    let mut stream = Philox::new(7, 3);
    for counter in 0..9 {
        for word in Philox::new(7, 3).block(counter) {
            assert_eq!(stream.next_u32(), word);
        }
    }
    assert_eq!(stream.position(), 36);
    let mut wide = Philox::new(7, 3);
    let [a, b, ..] = wide.block(0);
    assert_eq!(wide.next_u64(), u64::from(a) | u64::from(b) << 32);
}

#[test]
fn a_stream_continues_from_its_position() {
    let mut stream = Philox::new(1, 2);
    for drawn in 0..50 {
        let mut resumed = Philox::new(1, 2);
        resumed.seek(stream.position());
        let mut copy = stream.clone();
        assert_eq!(
            (resumed.next_u32(), resumed.next_u64(), resumed.normal_f32().to_bits(), resumed.below(1000)),
            (copy.next_u32(), copy.next_u64(), copy.normal_f32().to_bits(), copy.below(1000)),
            "after {drawn} words"
        );
        stream.next_u32();
    }
}

#[test]
fn streams_and_seeds_differ() {
    let first = |seed, stream| Philox::new(seed, stream).next_u64();
    let all = [first(0, 0), first(0, 1), first(1, 0), first(0, 1 << 32), first(1 << 32, 0)];
    for (i, a) in all.iter().enumerate() {
        assert!(all[..i].iter().all(|b| a != b));
    }
}

#[test]
fn uniform_numbers_lie_in_the_half_open_unit_interval() {
    let mut rng = Philox::new(5, 0);
    let (mut sum, mut sum64) = (0.0, 0.0);
    for _ in 0..100_000 {
        let (a, b) = (rng.uniform_f32(), rng.uniform_f64());
        assert!((0.0..1.0).contains(&a) && (0.0..1.0).contains(&b), "{a} {b}");
        sum += f64::from(a);
        sum64 += b;
    }
    // The mean of 1e5 has a standard deviation of 0.29 / 316 = 9.1e-4.
    assert!((sum / 1e5 - 0.5).abs() < 5e-3 && (sum64 / 1e5 - 0.5).abs() < 5e-3);
}

#[test]
fn below_is_in_range_and_even() {
    let mut rng = Philox::new(11, 0);
    let mut seen = [0_u32; 7];
    for _ in 0..70_000 {
        seen[rng.below(7) as usize] += 1;
    }
    // Binomial: 10000 +- 93.
    assert!(seen.iter().all(|&n| n.abs_diff(10_000) < 500), "{seen:?}");
    assert_eq!(rng.below(1), 0);
    // With n just above 2^63 nearly every second draw is refused: a biased method puts 2/3 below n / 2.
    let n = (1 << 63) + 1;
    let low = (0..10_000).filter(|_| rng.below(n) < n / 2).count();
    assert!(low.abs_diff(5000) < 250, "{low}");
}

#[test]
fn normal_numbers_have_the_moments_of_a_normal() {
    let mut rng = Philox::new(2, 9);
    let n = 200_000;
    for double in [false, true] {
        let x: Vec<f64> = (0..n).map(|_| if double { rng.normal_f64() } else { f64::from(rng.normal_f32()) }).collect();
        let moment = |p: i32| x.iter().map(|v| v.powi(p)).sum::<f64>() / f64::from(n);
        // Standard errors: 2.2e-3, 3.2e-3, 8.7e-3, 2.2e-2.
        assert!(moment(1).abs() < 0.012 && (moment(2) - 1.0).abs() < 0.016);
        assert!(moment(3).abs() < 0.045 && (moment(4) - 3.0).abs() < 0.11);
        assert!(x.iter().all(|v| v.is_finite()));
    }
}

/// The numbers of a stream must never change, on any platform.
#[test]
fn the_numbers_of_a_stream_are_pinned() {
    let mut rng = Philox::new(42, 1);
    let drawn = (
        rng.next_u64(),
        rng.uniform_f32().to_bits(),
        rng.uniform_f64().to_bits(),
        rng.normal_f32().to_bits(),
        rng.normal_f64().to_bits(),
        rng.below(1_000_003),
        rng.position(),
    );
    assert_eq!(drawn, PINNED, "{drawn:#x?}");
    let mut items = [0, 1, 2, 3, 4, 5, 6, 7];
    rng.shuffle(&mut items);
    assert_eq!(items, PINNED_SHUFFLE);
}

const PINNED: (u64, u32, u64, u32, u64, u64, u64) =
    (0x2051_e913_0293_3769, 0x3e6d_a2c0, 0x3fc0_7fc8_9cdb_1620, 0x3dd2_f170, 0xbfe4_9313_8b55_c010, 119_351, 13);
const PINNED_SHUFFLE: [u8; 8] = [0, 3, 4, 2, 5, 7, 6, 1];

#[test]
fn shuffle_reaches_every_order_equally_often() {
    let mut rng = Philox::new(0, 0);
    let mut seen = std::collections::BTreeMap::<[u8; 4], u32>::new();
    for _ in 0..24_000 {
        let mut items = [0, 1, 2, 3];
        rng.shuffle(&mut items);
        *seen.entry(items).or_default() += 1;
    }
    assert_eq!(seen.len(), 24);
    // Binomial: 1000 +- 31.
    assert!(seen.values().all(|n| n.abs_diff(1000) < 160), "{seen:?}");
    rng.shuffle::<u8>(&mut []);
}
