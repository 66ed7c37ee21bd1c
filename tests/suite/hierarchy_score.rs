//! The hierarchy score of Tree SAE: its probes against PyTorch's, and worlds whose pairs are known.

use safetensors::SafeTensors;
use strata_core::metrics::absorption::Dictionary;
use strata_core::metrics::hierarchy::{CHILDREN, HierarchyReport, hierarchy};
use strata_core::metrics::probe::together::{Settings, fit};
use strata_core::rng::Philox;
use strata_core::{Codes, Compute, Error, Isa, Par, ROOT};

#[test]
fn probes_have_the_directions_of_pytorch() {
    let golden = SafeTensors::deserialize(include_bytes!("../golden/together.safetensors")).expect("tensors");
    let floats = |name: &str| -> Vec<f32> {
        let bytes = golden.tensor(name).expect("a tensor").data();
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four bytes"))).collect()
    };
    let (x, weight, y) = (floats("x"), floats("weight"), golden.tensor("y").expect("labels"));
    let [_, labels] = *y.shape() else { panic!("a matrix of labels") };
    let d = weight.len() / labels;
    let rows: Vec<Vec<u32>> = (0..labels)
        .map(|l| (0..x.len() / d).filter(|i| y.data()[i * labels + l] == 1).map(|i| i as u32).collect())
        .collect();
    let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
    // From 0, and all rows in a batch, so that nothing is drawn.
    let settings =
        Settings { batch: x.len() / d, lr: 0.05, end_lr: 1e-4, weight_decay: 1e-2, first: 0.0, ..Settings::default() };
    let found = fit(Compute::new(Isa::detect(), Par::Seq), &x, d, &rows, &settings).expect("probes");
    let mut mean = 0.0;
    for (l, (found, wanted)) in found.chunks(d).zip(weight.chunks(d)).enumerate() {
        let square = |of: &mut dyn Iterator<Item = f32>| of.map(|v| v * v).sum::<f32>();
        let off = square(&mut found.iter().zip(wanted).map(|(a, b)| a - b)) / square(&mut wanted.iter().copied());
        // Without the fall of the learning rate, the weights of positive rows or the correction of the moments it is .3 to 1.9.
        assert!(off.sqrt() < 0.15, "label {l}: off by {}", off.sqrt());
        mean += off.sqrt() / labels as f32;
    }
    assert!(mean < 0.06, "off by {mean}");
    let settings = Settings { batch: 100, ..Settings::default() };
    let found = fit(Compute::new(Isa::detect(), Par::Seq), &x, d, &rows, &settings).expect("probes");
    // The bits do not depend on threads and instruction sets.
    for compute in [Compute::new(Isa::SCALAR, Par::Seq), Compute::new(Isa::detect(), Par::Rayon)] {
        assert_eq!(fit(compute, &x, d, &rows, &settings).expect("probes"), found);
    }
}

/// Parents fire at random; a child of a parent fires on some of its rows. A row is the sum of the directions of what fires, except that
/// with `without_parents` children leave out that of their parents.
struct World {
    d: usize,
    x: Vec<f32>,
    codes: Codes,
    decoder: Vec<f32>,
    parent: Vec<u32>,
}

const F1: usize = 12;
const F2: usize = 36;

impl World {
    fn new(without_parents: bool) -> Self {
        let (n, d) = (6000, 96);
        let mut rng = Philox::new(5, 0);
        let mut decoder: Vec<f32> = (0..(F1 + F2) * d).map(|_| rng.normal_f32()).collect();
        decoder.chunks_mut(d).for_each(|row| {
            let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
            row.iter_mut().for_each(|v| *v /= norm);
        });
        let parent: Vec<u32> = (0..F2).map(|j| if j % 9 == 8 { ROOT } else { (j % F1) as u32 }).collect();
        let (mut x, mut codes) = (Vec::new(), Codes::new());
        for _ in 0..n {
            let mut row: Vec<f32> = (0..d).map(|_| 0.1 * rng.normal_f32()).collect();
            let on: Vec<bool> = (0..F1).map(|_| rng.below(6) == 0).collect();
            let fires: Vec<bool> = parent
                .iter()
                .map(|p| if *p == ROOT { rng.below(20) == 0 } else { on[*p as usize] && rng.below(3) == 0 })
                .collect();
            for j in (0..F1 + F2).filter(|j| if *j < F1 { on[*j] } else { fires[j - F1] }) {
                let is_left_out = without_parents && j < F1 && (0..F2).any(|c| fires[c] && parent[c] == j as u32);
                let value = 1.0 + rng.uniform_f32();
                codes.index.push(j as u32);
                codes.value.push(value);
                if !is_left_out {
                    row.iter_mut().zip(&decoder[j * d..]).for_each(|(x, w)| *x += value * w);
                }
            }
            codes.end_row();
            x.extend(row);
        }
        Self { d, x, codes, decoder, parent }
    }

    fn score(&self, parent: &[u32], compute: Compute) -> HierarchyReport {
        let codes = self.codes.view(F1 + F2).expect("codes");
        let of = Dictionary { x: &self.x, d: self.d, centre: &[], codes, decoder: &self.decoder, f1: F1 };
        hierarchy(compute, &of, parent, 0).expect("a report").expect("pairs")
    }
}

#[test]
fn pairs_that_share_a_direction_are_told_from_pairs_that_only_fire_together() {
    let compute = Compute::new(Isa::detect(), Par::Rayon);
    let world = World::new(false);
    let found = world.score(&world.parent, compute);
    let tree = found.tree.expect("a tree");
    assert_eq!((found.rows, tree.pairs), (6000, F2 - F2 / 9));
    assert!(tree.both.value > 0.95 && tree.null < 0.4, "{tree:?}");
    assert_eq!(tree.both.blocks, F1);
    // The children are those that their firing suggests.
    assert!(found.coverage.pairs == tree.pairs && found.coverage.both.value > 0.9, "{:?}", found.coverage);
    assert_eq!(world.score(&world.parent, Compute::new(Isa::SCALAR, Par::Seq)), found, "the bits");

    // Children fire as before, but rows have no direction of their parents: what coverage alone cannot see.
    let apart = World::new(true);
    let found = apart.score(&apart.parent, compute);
    let tree = found.tree.expect("a tree");
    assert!(tree.child > 0.95 && tree.both.value < 0.3, "{tree:?}");

    // Wrong parents.
    let wrong: Vec<u32> = world.parent.iter().map(|p| if *p == ROOT { ROOT } else { (*p + 1) % F1 as u32 }).collect();
    let found = world.score(&wrong, compute);
    let tree = found.tree.expect("a tree");
    assert!(tree.child > 0.95 && tree.both.value < 0.4, "{tree:?}");

    // Without a tree: pairs of the half that fires most, by coverage.
    let found = world.score(&[], compute);
    assert!(found.tree.is_none() && found.coverage.pairs <= (F1 + F2) / 2 * CHILDREN, "{found:?}");
    assert!(found.coverage.both.value > 0.3 && found.coverage.null < found.coverage.both.value, "{found:?}");
}

#[test]
fn what_cannot_be_scored_is_said() {
    let world = World::new(false);
    let compute = Compute::new(Isa::detect(), Par::Seq);
    let of = |x: &[f32], parent: &[u32], decoder: &[f32], codes: &Codes| {
        let codes = codes.view(F1 + F2).expect("codes");
        hierarchy(compute, &Dictionary { x, d: world.d, centre: &[], codes, decoder, f1: F1 }, parent, 0)
    };
    let wrong = of(&world.x[1..], &world.parent, &world.decoder, &world.codes);
    assert!(matches!(wrong, Err(Error::Shape { what: "x", .. })), "{wrong:?}");
    let wrong = of(&world.x, &world.parent, &world.decoder[1..], &world.codes);
    assert!(matches!(wrong, Err(Error::Shape { what: "decoder", .. })), "{wrong:?}");
    let wrong = of(&world.x, &world.parent[1..], &world.decoder, &world.codes);
    assert!(matches!(wrong, Err(Error::Shape { what: "parents of level 2", .. })), "{wrong:?}");
    let wrong = of(&world.x, &[F1 as u32; F2], &world.decoder, &world.codes);
    assert!(matches!(wrong, Err(Error::Index { .. })), "{wrong:?}");
    // Children that are too rare are no pairs, and their parents are measured by coverage.
    let mut rare = Codes::new();
    for t in 0..6000 {
        let row = world.codes.row(t);
        for (j, z) in row.index.iter().zip(row.value).filter(|(j, _)| **j < F1 as u32 || t < 600) {
            rare.index.push(*j);
            rare.value.push(*z);
        }
        rare.end_row();
    }
    let found = of(&world.x, &world.parent, &world.decoder, &rare).expect("a report").expect("pairs");
    assert!(found.tree.is_none() && found.coverage.pairs > 0, "{found:?}");
    // Latents that never fire are no pairs.
    let mut silent = Codes::new();
    (0..6000).for_each(|_| silent.end_row());
    assert_eq!(of(&world.x, &world.parent, &world.decoder, &silent).expect("nothing"), None);
}
