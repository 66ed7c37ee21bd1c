//! The absorption scores of codes with planted absorption, SAEBench's fraction by its formula, and boundary cases.

use strata_core::metrics::absorption::{Absorption, Dictionary, OUTSIDE, Scope, Thresholds, absorption, sample};
use strata_core::model::Codes;
use strata_core::{Error, Par, Philox};

/// Tokens of a class with three members and of no class. The class is direction 0; member `m` is direction `1 + m`.
/// Latents: 0 is the class, `1 + m` the members, 4 is noise that fires anywhere.
struct World {
    x: Vec<f32>,
    z: Vec<f32>,
    member: Vec<u32>,
    is_test: Vec<bool>,
    decoder: Vec<f32>,
}

const D: usize = 6;
const LATENTS: usize = 5;

impl World {
    /// On a token of member `m` the class latent is silent if `silence(m, i)`; member 0's latent then carries it.
    fn new(n: usize, silence: impl Fn(u32, usize) -> bool) -> Self {
        // The direction of member 0's latent contains that of the class.
        Self::with(n, [0.8, 0.6], silence)
    }

    fn with(n: usize, member0: [f32; 2], silence: impl Fn(u32, usize) -> bool) -> Self {
        let mut rng = Philox::new(8, 0);
        let mut decoder = vec![0.0f32; LATENTS * D];
        decoder[0] = 1.0;
        for m in 0..3 {
            decoder[(1 + m) * D + 1 + m] = 1.0;
        }
        decoder[D..D + 2].copy_from_slice(&member0);
        decoder[4 * D + 5] = 1.0;
        let (mut x, mut z, mut member) = (vec![], vec![], vec![]);
        for i in 0..n {
            let m = match rng.below(6) {
                m @ 0..=2 => m as u32,
                _ => OUTSIDE,
            };
            let mut row = [0.0f32; LATENTS];
            if m != OUTSIDE {
                let silent = silence(m, i);
                row[0] = if silent { 0.0 } else { 4.0 };
                row[1 + m as usize] = if silent && m == 0 { 5.0 } else { 1.0 };
            }
            row[4] = if rng.below(3) == 0 { 1.0 } else { 0.0 };
            let mut at = [0.0f32; D];
            for (j, v) in row.iter().enumerate() {
                at.iter_mut().zip(&decoder[j * D..]).for_each(|(a, w)| *a += v * w);
            }
            if m != OUTSIDE && row[0] == 0.0 && m != 0 {
                at[0] += 4.0; // the row is of the class, the codes miss it
            }
            x.extend(at.iter().map(|a| a + 0.05 * rng.normal_f32() + 1.0));
            z.extend(row);
            member.push(m);
        }
        let is_test = (0..n).map(|i| i % 2 == 1).collect();
        Self { x, z, member, is_test, decoder }
    }

    fn codes(&self) -> Codes {
        let mut codes = Codes::new();
        for row in self.z.chunks_exact(LATENTS) {
            for (j, v) in row.iter().enumerate().filter(|(_, v)| **v > 0.0) {
                codes.index.push(j as u32);
                codes.value.push(*v);
            }
            codes.end_row();
        }
        codes
    }

    fn dictionary<'a>(&'a self, codes: &'a Codes, f1: usize) -> Dictionary<'a> {
        let codes = codes.view(LATENTS).unwrap();
        Dictionary { x: &self.x, d: D, centre: &[1.0; D], codes, decoder: &self.decoder, f1 }
    }

    /// The class latent alone in level 1, and either level may absorb.
    fn score(&self) -> Absorption {
        self.score_in(1, Scope::of_levels(1, LATENTS - 1, true).swap_remove(0))
    }

    fn score_in(&self, f1: usize, scope: Scope) -> Absorption {
        let codes = self.codes();
        let scopes = [scope];
        let found = absorption(
            Par::Rayon,
            &self.dictionary(&codes, f1),
            &self.member,
            &self.is_test,
            &scopes,
            &Thresholds::default(),
        )
        .unwrap();
        let of_class = self.test_rows(|_| true);
        assert_eq!((found.tokens, found.found), (of_class as u64, of_class as u64), "the probe finds every token");
        assert!(found.probe.f1 > 0.99 && found.probe.converged, "the probe separates the class: {:?}", found.probe);
        found.scope.into_iter().next().unwrap()
    }

    fn test_rows(&self, of: impl Fn(u32) -> bool) -> usize {
        (0..self.member.len()).filter(|&i| self.is_test[i] && self.member[i] != OUTSIDE && of(self.member[i])).count()
    }
}

#[test]
fn a_planted_absorption_is_measured_exactly() {
    let world = World::new(3000, |m, _| m == 0);
    let share = world.test_rows(|m| m == 0) as f64 / world.test_rows(|_| true) as f64;
    for (f1, level) in [(1, 1), (5, 0)] {
        let found = world.score_in(f1, Scope { main: 0..1, absorbers: 0..LATENTS });
        assert_eq!(found.main, [0]);
        assert_eq!((found.silent, found.absorbed, found.missed), (share, share, 0.0));
        let mut by_level = [0.0; 2];
        by_level[level] = share;
        assert_eq!((found.absorbed_by_level, found.absorbed_by_member), (by_level, share));
        let member = &found.member;
        assert_eq!(member.iter().map(|m| m.member).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(member[0].absorbed == member[0].tokens && member[1].silent == 0 && member[2].silent == 0);
        // The fraction is 1 on tokens of member 0. On the others the class latent carries nearly the whole projection,
        // so that no
        // latent absorbs.
        assert!((found.fraction - share).abs() < 0.02, "{} {share}", found.fraction);
    }
    // If the absorber may be a main latent as well, both latents are.
    let found = world.score_in(5, Scope { main: 0..LATENTS, absorbers: 0..LATENTS });
    assert_eq!((found.main, found.silent, found.main_f1), (vec![0, 1], 0.0, 1.0));
    // With a scope without absorbers nothing is absorbed.
    let found = world.score_in(1, Scope { main: 0..1, absorbers: 0..1 });
    assert_eq!((found.silent, found.absorbed, found.missed, found.fraction), (share, 0.0, share, 0.0));
}

#[test]
fn what_is_silent_without_an_absorber_is_missed() {
    // The class latent is off on every fourth token of member 1, and no other latent fires in its place.
    let world = World::new(3000, |m, i| m == 1 && i % 4 == 1);
    let missed = (0..3000).filter(|&i| world.is_test[i] && world.member[i] == 1 && i % 4 == 1).count();
    let share = missed as f64 / world.test_rows(|_| true) as f64;
    let found = world.score();
    assert_eq!((found.silent, found.absorbed, found.missed, found.fraction), (share, 0.0, share, 0.0));
    // Without a planted silence the class latent always fires.
    let found = World::new(3000, |_, _| false).score();
    assert_eq!((found.silent, found.absorbed, found.missed), (0.0, 0.0, 0.0));
    assert_eq!(found.main_f1, 1.0);
}

#[test]
fn the_fraction_is_what_absorbers_carry_of_what_the_main_latents_leave() {
    // The class latent is at half strength on member 0, whose own latent adds what is missing.
    let mut world = World::new(3000, |_, _| false);
    for i in (0..3000).filter(|&i| world.member[i] == 0) {
        let before = [world.z[i * LATENTS], world.z[i * LATENTS + 1]];
        world.z[i * LATENTS] = 2.0;
        world.z[i * LATENTS + 1] = 5.0;
        for c in 0..D {
            let moved = (2.0 - before[0]) * world.decoder[c] + (5.0 - before[1]) * world.decoder[D + c];
            world.x[i * D + c] += moved;
        }
    }
    let found = world.score();
    assert_eq!((found.main.as_slice(), found.silent), (&[0][..], 0.0));
    // The probe is nearly direction 0. The main latent has a projection of 2, the absorber of 4 and the row of 6:
    // min(4, 6 - 2) / (4 + 2).
    let share = world.test_rows(|m| m == 0) as f64 / world.test_rows(|_| true) as f64;
    assert!((found.fraction / share - 2.0 / 3.0).abs() < 0.1, "{} {share}", found.fraction);
}

#[test]
fn absorption_does_not_depend_on_the_order_of_latents_or_names_of_members() {
    let world = World::new(1500, |m, i| m == 0 || i % 9 == 0);
    let every = || Scope { main: 0..LATENTS, absorbers: 0..LATENTS };
    let plain = world.score_in(5, every());
    let place = [3usize, 0, 4, 1, 2];
    let mut other = World::new(1500, |m, i| m == 0 || i % 9 == 0);
    for (i, row) in world.z.chunks_exact(LATENTS).enumerate() {
        (0..LATENTS).for_each(|j| other.z[i * LATENTS + place[j]] = row[j]);
    }
    for (j, row) in world.decoder.chunks_exact(D).enumerate() {
        other.decoder[place[j] * D..][..D].copy_from_slice(row);
    }
    other.member.iter_mut().filter(|m| **m != OUTSIDE).for_each(|m| *m = 90 - *m);
    let moved = other.score_in(5, every());
    assert_eq!(moved.main, plain.main.iter().map(|j| place[*j as usize] as u32).collect::<Vec<_>>());
    let rates = |a: &Absorption| [a.main_f1, a.silent, a.absorbed, a.missed, a.absorbed_by_member];
    assert_eq!(rates(&plain), rates(&moved));
    assert!((plain.fraction - moved.fraction).abs() < 1e-12 && (plain.hedging - moved.hedging).abs() < 1e-9);
}

#[test]
fn a_latent_that_leans_to_one_member_hedges() {
    let clean = World::with(6000, [0.0, 1.0], |_, _| false);
    let mut leaning = World::with(6000, [0.0, 1.0], |_, _| false);
    // Half on the class, half on member 1, whose offset from the mean of three is (-1, 2, -1) / sqrt(6).
    (leaning.decoder[0], leaning.decoder[2]) = (0.5f32.sqrt(), 0.5f32.sqrt());
    let expected = (2.0 + 1.0 + 1.0) / 6f64.sqrt() * 0.5f64.sqrt() / 3.0;
    let [clean, leaning] = [&clean, &leaning].map(|w| w.score().hedging);
    assert!(clean < 0.02 && (leaning - expected).abs() < 0.02, "{clean} {leaning} {expected}");
}

#[test]
fn absorption_refuses_what_does_not_fit() {
    let world = World::new(200, |_, _| false);
    let codes = world.codes();
    let t = Thresholds::default();
    let scopes = Scope::of_levels(1, 4, true);
    let run = |dictionary: &Dictionary<'_>, member: &[u32], is_test: &[bool], scopes: &[Scope]| {
        absorption(Par::Seq, dictionary, member, is_test, scopes, &t).unwrap_err()
    };
    let dictionary = world.dictionary(&codes, 1);
    let (member, is_test) = (&world.member, &world.is_test);
    let shape = |e: Error| matches!(e, Error::Shape { .. });
    assert!(shape(run(&dictionary, &member[1..], is_test, &scopes)));
    assert!(shape(run(&dictionary, member, &is_test[1..], &scopes)));
    assert!(shape(run(&Dictionary { centre: &[0.0; D - 1], ..dictionary }, member, is_test, &scopes)));
    assert!(shape(run(&Dictionary { decoder: &world.decoder[1..], ..dictionary }, member, is_test, &scopes)));
    assert!(shape(run(&dictionary, &[OUTSIDE; 200], is_test, &scopes)), "no token of the class");
    assert!(shape(run(&dictionary, &[1; 200], is_test, &scopes)), "nothing else");
    assert!(shape(run(&dictionary, member, &[false; 200], &scopes)), "nothing to test on");
    let far = [Scope { main: 0..1, absorbers: 0..6 }];
    assert!(matches!(run(&dictionary, member, is_test, &far), Error::Index { index: 6, len: 5, .. }));
    let scope = |main, absorbers| Scope { main, absorbers };
    assert_eq!(Scope::of_levels(3, 0, true), [scope(0..3, 0..3)]);
    assert_eq!(Scope::of_levels(3, 4, true), [scope(0..3, 0..7), scope(3..7, 3..7), scope(0..7, 0..7)]);
    assert_eq!(Scope::of_levels(3, 4, false), [scope(0..3, 0..3), scope(3..7, 3..7)]);
}

#[test]
fn a_sample_is_spread_over_the_rows() {
    let rows = sample(100, 1100, 50, 7);
    assert!(rows.windows(2).all(|w| w[0] < w[1]) && rows.len() == 50);
    for (i, row) in rows.iter().enumerate() {
        assert!((100 + 20 * i as u64..120 + 20 * i as u64).contains(row), "{i}: {row}");
    }
    assert_eq!(rows, sample(100, 1100, 50, 7));
    assert_ne!(rows, sample(100, 1100, 50, 8));
    assert_eq!(sample(5, 9, 50, 7), [5, 6, 7, 8]);
    assert_eq!(sample(5, 8, 2, 7).len(), 2);
    assert!(sample(5, 5, 50, 7).is_empty() && sample(9, 5, 1, 0).is_empty() && sample(0, 9, 0, 0).is_empty());
}
