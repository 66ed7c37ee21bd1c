//! Watch-lists: the codes of the listed latents are those of encoding everything, to the bit, for less work.

use super::ffi::allocator::allocations;
use super::hierarchy::model;
use proptest::prelude::*;
use std::sync::Arc;
use strata_core::config::{Activation, Decoder, GateKind, ModelKind, Source};
use strata_core::model::{
    Arch, Codes, Encoder, Lanes, LevelArch, Model, Scratch, TopkBy, Variant, Watch, WeightType, Why,
};
use strata_core::row_norm::RowNorm;
use strata_core::{Compute, Isa, Par, Philox, ROOT};
#[cfg(emulator)]
use strata_tests::emulator;
use strata_tests::vary::Vary;

/// Returns architectures of every activation, gate, source and decoder, with every variant that the activations allow.
fn any_arch() -> impl Strategy<Value = Arch> {
    use Activation::{Batchtopk, Gated, Jumprelu, Relu, Topk};
    let activation = || prop::sample::select(vec![Relu, Topk, Batchtopk, Jumprelu, Gated]);
    let gate =
        prop::sample::select(vec![GateKind::None, GateKind::Hard, GateKind::GroupTop1, GateKind::Mul, GateKind::Add]);
    let source = prop::sample::select(vec![Source::X, Source::Res, Source::Z1]);
    let decoder = prop::sample::select(vec![Decoder::Cum, Decoder::Ind, Decoder::Comp]);
    let topk_by = prop::sample::select(vec![TopkBy::Value, TopkBy::Absolute, TopkBy::Group]);
    let prune = || prop::sample::select(vec![0.0f32, 0.0, 0.7]);
    let flat = prop::bool::weighted(0.1);
    let shape = (1usize..24, 1usize..8, 1usize..60, flat);
    let variant = (topk_by, prune(), prune(), any::<bool>(), any::<bool>(), any::<bool>());
    (shape, (activation(), activation()), (gate, source, decoder), variant).prop_map(
        |((d, groups, f2, flat), (one, two), (gate, source, decoder), (topk_by, prune1, prune2, raw, scale, norm))| {
            // Groups of one size: three latents per group of the three that fire.
            let f1 = 3 * groups;
            let f2 = if flat { 0 } else { f2 };
            let prune = [(one, prune1), (two, prune2)].map(|(a, share)| if a.has_threshold() { share } else { 0.0 });
            Arch {
                model: ModelKind::Tree,
                d,
                level: [
                    LevelArch { latents: f1, activation: one, k: 3.0 },
                    LevelArch { latents: f2, activation: two, k: f2.clamp(1, 5) as f64 },
                ],
                source,
                decoder: if flat { Decoder::Cum } else { decoder },
                gate: if flat { GateKind::None } else { gate },
                variant: Variant {
                    topk_by: if one == Topk { topk_by } else { TopkBy::Value },
                    prune: [prune[0], if flat { 0.0 } else { prune[1] }],
                    raw_input: raw,
                    scale,
                    row_norm: if norm { RowNorm::Layer } else { RowNorm::None },
                    ..Variant::default()
                },
            }
        },
    )
}

fn any_model(arch: Arch, seed: u64) -> Arc<Model> {
    let mut model = model(arch, seed, 3);
    if !arch.gate.has_families() {
        model.parents.clear();
    }
    Arc::new(model)
}

/// A list of none, a few, many or all of `f` latents, in a random order.
fn list(f: usize, share: u64, rng: &mut Philox) -> Vec<u32> {
    let mut all: Vec<u32> = (0..f as u32).filter(|_| rng.below(10) < share).collect();
    rng.shuffle(&mut all);
    all
}

fn rows(n: usize, d: usize, seed: u64) -> Vec<f32> {
    let mut rng = Philox::new(seed, 1);
    (0..n * d).map(|_| rng.normal_f32()).collect()
}

/// What is left of all codes when only the listed ones are looked at.
fn filtered(codes: &Codes, latents: &[u32]) -> Codes {
    let mut out = Codes::new();
    for i in 0..codes.n() {
        for (j, z) in codes.row(i).index.iter().zip(codes.row(i).value) {
            if latents.contains(j) {
                out.index.push(*j);
                out.value.push(*z);
            }
        }
        out.end_row();
    }
    out
}

fn everything(encoder: &Encoder, x: &[f32]) -> [Codes; 2] {
    let [mut one, mut two] = [Codes::new(), Codes::new()];
    encoder.encode(x, &mut Scratch::new(&encoder.model().arch), &mut one, &mut two).expect("finite rows");
    [one, two]
}

fn bits(codes: &Codes) -> (Vec<usize>, Vec<u32>, Vec<u32>) {
    (codes.offsets.clone(), codes.index.clone(), codes.value.iter().map(|z| z.to_bits()).collect())
}

/// Compares the codes of a watch-list with those of everything; returns the pairs of a row and a latent that were computed.
fn check(encoder: &Encoder, watch: &Watch, x: &[f32], all: &[Codes; 2]) -> Result<u64, TestCaseError> {
    let arch = encoder.model().arch;
    let mut scratch = Scratch::for_rows(&arch, 16);
    let [mut one, mut two] = [Codes::new(), Codes::new()];
    encoder.encode_watched(watch, x, &mut scratch, &mut one, &mut two).expect("finite rows");
    for (level, found) in [&one, &two].into_iter().enumerate() {
        let want = filtered(&all[level], watch.latents(level));
        prop_assert_eq!(bits(found), bits(&want), "level {} of {:?}", level + 1, arch);
        let most = (0..found.n()).map(|i| found.row(i).index.len()).max().unwrap_or(0);
        prop_assert!(most <= watch.max_active(level), "a row has {} codes of level {}", most, level + 1);
    }
    // In lanes, whose memory had the codes of more rows before.
    let mut lanes = Lanes::default();
    encoder.encode_in(Par::Rayon, &[x, x].concat(), &mut lanes).expect("finite rows");
    prop_assert_eq!(joined(&lanes).each_ref().map(Codes::n), [2 * all[0].n(); 2], "rows in the lanes");
    encoder.encode_in(Par::Rayon, x, &mut lanes).expect("finite rows");
    prop_assert_eq!(joined(&lanes).each_ref().map(bits), all.each_ref().map(bits), "in lanes, of {:?}", arch);
    encoder.encode_watched_in(watch, Par::Rayon, x, &mut lanes).expect("finite rows");
    prop_assert_eq!(joined(&lanes).each_ref().map(bits), [&one, &two].map(bits), "watched in lanes, of {:?}", arch);
    Ok(scratch.work().exact + scratch.work().screened)
}

/// The codes of all parts of lanes.
fn joined(lanes: &Lanes) -> [Codes; 2] {
    let mut all = [Codes::new(), Codes::new()];
    for part in lanes.parts() {
        all.iter_mut().zip(part).for_each(|(all, part)| all.append(part));
    }
    all
}

#[test]
fn lanes_have_no_codes_after_an_error() {
    let arch = base(4);
    let [mine, other] = [encoder(arch), encoder(arch)];
    let mut lanes = Lanes::default();
    let mut x = rows(20, 4, 1);
    let watch = other.watch([&[1], &[]]).expect("a list");
    for wrong in ["a row", "a watch-list"] {
        mine.encode_in(Par::Seq, &rows(20, 4, 1), &mut lanes).expect("finite rows");
        assert_eq!(joined(&lanes)[0].n(), 20, "rows in the lanes");
        if wrong == "a row" {
            x[77] = f32::NAN;
            assert!(mine.encode_in(Par::Seq, &x, &mut lanes).is_err(), "a row that is not finite");
        } else {
            let found = mine.encode_watched_in(&watch, Par::Seq, &rows(20, 4, 1), &mut lanes);
            assert!(found.is_err(), "a watch-list of another model");
        }
        assert_eq!(joined(&lanes)[0].n(), 0, "rows in the lanes after {wrong}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn watched_codes_are_those_of_all_latents(
        arch in any_arch(),
        n in 0usize..40,
        seed in 0u64..1000,
        shares in prop::sample::select(vec![[0, 0], [2, 0], [0, 2], [2, 2], [10, 1], [1, 10], [10, 10], [5, 5]]),
    ) {
        let model = any_model(arch, seed);
        model.check().expect("a model");
        let x = rows(n, arch.d, seed);
        let mut rng = Philox::new(seed, 2);
        let lists = [0, 1].map(|l| list(arch.level[l].latents, shares[l], &mut rng));
        let mut found = Vec::new();
        for isa in Isa::all_available() {
            for weights in WeightType::ALL {
                let encoder = Encoder::with_weights(model.clone(), Compute::new(isa, Par::Seq), weights).expect("a model");
                let all = everything(&encoder, &x);
                let watch = encoder.watch([&lists[0], &lists[1]]).expect("a list");
                let mut sorted = lists.clone();
                sorted.iter_mut().for_each(|list| list.sort_unstable());
                prop_assert_eq!([watch.latents(0), watch.latents(1)], [&sorted[0][..], &sorted[1][..]]);
                let work = check(&encoder, &watch, &x, &all)?;
                found.push(watch.computed());
                // The pairs of a soft gate are not counted, and those of AbsTopK are counted twice.
                let [one, two] = watch.computed().map(|level| level.latents as u64);
                if arch.variant.topk_by != TopkBy::Absolute {
                    prop_assert!(work <= n as u64 * (one + two), "{} pairs of {} rows: {:?}", work, n, watch.computed());
                }
            }
        }
        let [one, two] = found[0];
        let is_alone = |l: usize| !arch.level[l].activation.has_whole_k() && arch.variant.prune[l] == 0.0;
        if lists[1].is_empty() && is_alone(0) {
            prop_assert_eq!((one.latents, one.why), (lists[0].len(), None), "a list of level 1 is computed alone");
            prop_assert_eq!((two.latents, two.why), (0, None));
        }
        if is_alone(1) && matches!(arch.gate, GateKind::None | GateKind::Hard) {
            prop_assert_eq!((two.latents, two.why), (lists[1].len(), None), "a list of level 2 is computed alone");
            if is_alone(0) && arch.source == Source::X {
                prop_assert!(one.latents <= lists[0].len() + lists[1].len(), "and needs at most its parents: {:?}", one);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn long_lists_of_screened_levels_are_those_of_all_latents(
        gate in prop::sample::select(vec![GateKind::None, GateKind::Hard, GateKind::GroupTop1]),
        d in 96usize..130,
        n in 1usize..70,
        shares in prop::sample::select(vec![[1, 1], [2, 3], [3, 2], [9, 0], [0, 9], [10, 10]]),
        activations in prop::sample::select(vec![[Activation::Batchtopk; 2], [Activation::Jumprelu, Activation::Batchtopk], [Activation::Relu, Activation::Topk]]),
        seed in 0u64..1000,
    ) {
        let arch = Arch { gate, ..base(d) }.sized([560, 800]).activated(activations).keeping([6.0, 5.0]);
        let model = any_model(arch, seed);
        let encoder = Encoder::new(model, Compute::new(Isa::detect(), Par::Seq)).expect("a model");
        let x = rows(n, d, seed);
        let mut rng = Philox::new(seed, 2);
        let lists = [0, 1].map(|l| list(arch.level[l].latents, shares[l], &mut rng));
        let watch = encoder.watch([&lists[0], &lists[1]]).expect("a list");
        let all = everything(&encoder, &x);
        // In turn with encoding everything, whose rounded rows the scratch may still hold.
        let mut scratch = Scratch::new(&arch);
        for _ in 0..2 {
            let [mut one, mut two] = [Codes::new(), Codes::new()];
            encoder.encode_watched(&watch, &x, &mut scratch, &mut one, &mut two).expect("finite rows");
            prop_assert_eq!(bits(&one), bits(&filtered(&all[0], &lists[0])));
            prop_assert_eq!(bits(&two), bits(&filtered(&all[1], &lists[1])));
            let [mut one, mut two] = [Codes::new(), Codes::new()];
            encoder.encode(&x, &mut scratch, &mut one, &mut two).expect("finite rows");
            prop_assert_eq!([bits(&one), bits(&two)], [bits(&all[0]), bits(&all[1])]);
        }
    }
}

fn base(d: usize) -> Arch {
    Arch {
        model: ModelKind::Tree,
        d,
        level: [
            LevelArch { latents: 24, activation: Activation::Batchtopk, k: 4.0 },
            LevelArch { latents: 60, activation: Activation::Batchtopk, k: 4.0 },
        ],
        source: Source::X,
        decoder: Decoder::Cum,
        gate: GateKind::Hard,
        variant: Variant::default(),
    }
}

fn encoder(arch: Arch) -> Encoder {
    Encoder::new(any_model(arch, 4), Compute::new(Isa::detect(), Par::Seq)).expect("a model")
}

#[test]
fn each_reason_for_a_whole_level_is_said() {
    let base = base(16);
    let whole = encoder(base);
    let siblings_of = |parent: &u32| whole.families().children(*parent);
    let has_siblings = |parent: &&u32| ![3, ROOT].contains(*parent) && siblings_of(parent).len() > 1;
    let parent = whole.families().parents().iter().find(has_siblings).expect("a parent of several children");
    let child = siblings_of(parent)[0];
    let whys = |arch: Arch| {
        let computed = encoder(arch).watch([&[3], &[child]]).expect("a list").computed();
        computed.map(|level| (level.latents, level.why))
    };
    let flat = Arch { gate: GateKind::None, ..base };
    assert_eq!(whys(flat), [(1, None), (1, None)]);
    assert_eq!(whys(base), [(2, Some(Why::Gate)), (1, None)]);
    assert_eq!(whys(flat.activated([Activation::Topk, Activation::Relu])), [(24, Some(Why::Topk)), (1, None)]);
    assert_eq!(whys(flat.activated([Activation::Relu, Activation::Topk])), [(1, None), (60, Some(Why::Topk))]);
    assert_eq!(
        whys(base.activated([Activation::Relu, Activation::Topk])),
        [(24, Some(Why::Gate)), (60, Some(Why::Topk))]
    );
    assert_eq!(whys(Arch { source: Source::Res, ..flat }), [(24, Some(Why::Source)), (1, None)]);
    assert_eq!(whys(Arch { gate: GateKind::Mul, ..base }), [(24, Some(Why::Gate)), (60, Some(Why::Gate))]);
    let pruned = |prune| Variant { prune, ..Variant::default() };
    assert_eq!(whys(Arch { variant: pruned([1.0, 0.0]), ..flat }), [(24, Some(Why::Pruning)), (1, None)]);
    assert_eq!(
        whys(Arch { variant: pruned([0.0, 1.0]), ..flat }),
        [(24, Some(Why::Pruning)), (60, Some(Why::Pruning))]
    );
    let alone = Arch { variant: pruned([0.0, 1.0]), decoder: Decoder::Ind, ..flat };
    assert_eq!(whys(alone), [(1, None), (60, Some(Why::Pruning))]);
    let seed = Arch { model: ModelKind::Seed, source: Source::Z1, decoder: Decoder::Comp, gate: GateKind::Mul, ..base };
    assert_eq!(whys(seed.activated([Activation::Relu; 2])), [(24, Some(Why::Seed)), (60, Some(Why::Seed))]);
    // The siblings of a child compete with it.
    let [one, two] = whys(Arch { gate: GateKind::GroupTop1, ..base });
    assert_eq!([one, two], [(2, Some(Why::Gate)), (siblings_of(parent).len(), Some(Why::Gate))]);
    for why in [Why::Topk, Why::Pruning, Why::Source, Why::Gate, Why::Screen, Why::Seed, Why::Device] {
        assert!(!why.to_string().is_empty(), "{why:?} is a sentence");
    }
}

#[test]
fn lists_that_are_wrong_are_refused() {
    let encoder = encoder(base(16));
    let said = |lists: [&[u32]; 2]| encoder.watch(lists).expect_err("a wrong list").to_string();
    assert_eq!(said([&[3, 24], &[]]), "watch-list of level 1: index 24 is outside of 0..24");
    assert_eq!(said([&[], &[u32::MAX]]), format!("watch-list of level 2: index {} is outside of 0..60", u32::MAX));
    assert!(said([&[5, 2, 5], &[]]).contains("each latent once, found 5 twice"), "{}", said([&[5, 2, 5], &[]]));
    assert!(said([&[], &[0, 0]]).contains("found 0 twice"));
    let flat = self::encoder(Arch { gate: GateKind::None, ..base(16) }.sized([24, 0]));
    assert!(flat.watch([&[], &[0]]).is_err(), "a model of one level has no children");
    let watch = flat.watch([&[1], &[]]).expect("a list");
    let (mut one, mut two) = (Codes::new(), Codes::new());
    let mut scratch = Scratch::new(&encoder.model().arch);
    let error =
        encoder.encode_watched(&watch, &[0.0; 16], &mut scratch, &mut one, &mut two).expect_err("another model");
    assert!(error.to_string().contains("another"), "{error}");
    assert_eq!((one.n(), two.n()), (0, 0), "nothing was appended");
    let watch = encoder.watch([&[1], &[2]]).expect("a list");
    assert!(encoder.encode_watched(&watch, &[f32::NAN; 16], &mut scratch, &mut one, &mut two).is_err());
    assert!(encoder.encode_watched(&watch, &[0.0; 15], &mut scratch, &mut one, &mut two).is_err());
}

#[test]
fn a_watched_block_allocates_nothing() {
    use Activation::{Batchtopk, Gated, Jumprelu, Relu, Topk};
    let base = base(16);
    let archs = [
        base,
        Arch { gate: GateKind::None, ..base },
        Arch { gate: GateKind::GroupTop1, ..base },
        Arch { gate: GateKind::Add, ..base },
        Arch { source: Source::Res, gate: GateKind::None, ..base },
        Arch { variant: Variant { prune: [0.5, 0.5], ..Variant::default() }, ..base },
    ];
    let big = Arch { d: 100, ..base }.sized([600, 900]);
    let kinds = [[Batchtopk; 2], [Relu, Jumprelu], [Topk, Gated], [Relu, Topk]];
    for arch in archs.iter().flat_map(|arch| kinds.map(|kinds| arch.activated(kinds))).chain([big]) {
        let thresholds = arch.level.map(|level| level.activation.has_threshold());
        if (0..2).any(|l| arch.variant.prune[l] > 0.0 && !thresholds[l]) {
            continue;
        }
        let encoder = encoder(arch);
        let watch = encoder.watch([&[0, 3, 5], &[1, 2, 9, 40]]).expect("a list");
        let mut scratch = Scratch::for_rows(&arch, 32).reserved(&encoder);
        let x: Vec<f32> = rows(32, arch.d, 5).iter().map(|v| 4.0 * v).collect();
        let n = allocations(|| encoder.encode_watched_block(&watch, &x, &mut scratch).expect("finite rows"));
        assert_eq!(n, 0, "{arch:?}");
        assert!(!scratch.codes()[0].index.is_empty(), "something fires: {arch:?}");
    }
}

#[cfg(emulator)]
#[test]
fn a_device_finds_the_same_codes() {
    let device = emulator::device(0);
    for arch in [base(16), base(16).activated([Activation::Topk; 2])] {
        let on_cpu = encoder(arch);
        let x = rows(20, arch.d, 6);
        let all = everything(&on_cpu, &x);
        let of_cpu = on_cpu.watch([&[0, 5], &[9, 4, 30]]).expect("a list");
        let on_device = on_cpu.on(&device).expect("a model that devices have");
        let watch = on_device.watch([&[0, 5], &[9, 4, 30]]).expect("a list");
        assert_eq!(watch.computed().map(|level| level.why), [Some(Why::Device); 2]);
        for watch in [&watch, &of_cpu] {
            check(&on_device, watch, &x, &all).expect("the same codes");
            let mut scratch = Scratch::for_rows(&arch, 32).reserved(&on_device);
            on_device.encode_watched_block(watch, &x, &mut scratch).expect("finite rows");
            assert_eq!(scratch.codes()[1], filtered(&all[1], &[4, 9, 30]), "a block");
        }
    }
}
