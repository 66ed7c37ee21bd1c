//! The verdict on real trainings is "yes" for models with a hierarchy and for no other.
//!
//! Every case is a training of 1,500 steps with its control and, where it is asked for, a second seed. Models
//! without a control of their own are given one, so that they fail by their numbers and not for want of a control.

use super::synth_cli::{read_json, strata};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strata_cli::dump::{Dump, DumpSpec, DumpWriter};
use strata_cli::eval::Intervals;
use strata_cli::eval::control::ControlReport;
use strata_cli::eval::verdict::{self, Answer, Evidence, Seeds, Trained};
use strata_cli::run::Run;
use strata_core::config::GateKind;
use strata_core::format::weights::{write_cfg, write_weights};
use strata_core::metrics::bootstrap::Interval;
use strata_core::metrics::coherence::Draws;
use strata_core::metrics::composition::{Composition, EdgeIntervals};
use strata_core::metrics::stability::{Matched, ParentAgreement, StabilityReport};
use strata_core::rng::Philox;
use strata_core::{Codes, Compute, Dtype, Isa, Model, Par, ROOT};

const ROWS: usize = 60_000;

/// Settings of the default for a world, with budgets equal to the true L0 (for world B below it).
fn sets(k1: &str, k2: &str) -> Vec<String> {
    let own = [format!("level1.k={k1}"), format!("level2.k={k2}")];
    let shared = [
        "level1.latents=40",
        "level2.latents=200",
        "train.steps=1500",
        "train.batch=256",
        "train.lr=3e-3",
        "train.warmup=0.1333",
        "train.checkpoint_every=0",
        "revive.dead_after=102400",
        "data.outlier=0",
    ];
    shared.map(String::from).into_iter().chain(own).collect()
}

struct Place {
    dir: tempfile::TempDir,
    dump: PathBuf,
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

#[track_caller]
fn run(line: &[&str]) -> String {
    let (code, out, err) = strata(line);
    assert_eq!(code, 0, "{err}");
    out
}

impl Place {
    fn world(world: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let dump = dir.path().join("dump");
        run(&["synth", "--world", world, "--rows", &ROWS.to_string(), "--out", text(&dump)]);
        Self { dir, dump }
    }

    fn train(&self, name: &str, sets: &[String], more: &[&str]) -> PathBuf {
        let out = self.dir.path().join(name);
        let mut line = vec!["train", "--dump", text(&self.dump), "--out", text(&out), "--quiet"];
        sets.iter().for_each(|s| line.extend(["--set", s]));
        line.extend(more);
        run(&line);
        out
    }

    /// A run with its control, and another seed.
    fn pair(&self, name: &str, sets: &[String]) -> [PathBuf; 2] {
        let other = format!("{name}-other");
        [self.train(name, sets, &["--control"]), self.train(&other, sets, &["--seed", "1"])]
    }

    /// Returns the verdict on a run, and the evaluation that it was derived from.
    fn verdict(&self, run_dir: &Path, against: Option<&Path>) -> (String, Value) {
        let mut line = vec!["eval", text(run_dir), "--dump", text(&self.dump), "--quiet"];
        line.extend(against.iter().flat_map(|other| ["--against", text(other)]));
        let printed = run(&line);
        let eval = read_json(&run_dir.join("eval.json"));
        let verdict = eval["verdict"].clone();
        let sentence = verdict["sentence"].as_str().expect("a sentence");
        assert!(printed.contains(sentence) && printed.contains("Intervals of 95 % must not touch"), "{printed}");
        println!("{}: {sentence} {:#}", run_dir.display(), verdict["inputs"]);
        (verdict["answer"].as_str().expect("an answer").to_owned(), eval)
    }

    /// A directory like that of `like`, control included, with another model.
    fn with_model(&self, name: &str, like: &Path, model: &Model) -> PathBuf {
        let out = self.dir.path().join(name);
        let copy = |from: &Path, to: &Path| {
            fs::create_dir_all(to.join("sae")).expect("a directory");
            for file in ["config.toml", "sae/cfg.json", "sae/sae_weights.safetensors"] {
                fs::copy(from.join(file), to.join(file)).expect("a copy");
            }
        };
        copy(like, &out);
        copy(&like.join("control"), &out.join("control"));
        let origin = Run::open(like).expect("a run").origin;
        fs::write(out.join("sae/cfg.json"), write_cfg(&model.arch, &origin)).expect("a file");
        fs::write(out.join("sae/sae_weights.safetensors"), write_weights(model).expect("a model")).expect("a file");
        out
    }

    /// A flat model cut in two: its first latents are parents, the others children of those they fire with most.
    fn cut(&self, flat: &Path) -> Model {
        let flat = Run::open(flat).expect("a run");
        let (f1, d) = (40, flat.model.arch.d);
        let mut model = (*flat.model).clone();
        let f2 = model.arch.level[0].latents - f1;
        model.arch.level[1] = model.arch.level[0];
        (model.arch.level[0].latents, model.arch.level[1].latents, model.arch.gate) = (f1, f2, GateKind::Hard);
        let [one, two] = &mut model.params.level;
        for (one, two, width) in [
            (&mut one.w_enc, &mut two.w_enc, d),
            (&mut one.b_enc, &mut two.b_enc, 1),
            (&mut one.w_dec, &mut two.w_dec, d),
        ] {
            let all = one.to_vec();
            *one = all[..f1 * width].to_vec().into();
            *two = all[f1 * width..].to_vec().into();
        }
        model.tau[1] = model.tau[0];
        model.parents = self.cofiring(&model);
        model
    }

    /// The parent of the highest expected log-lift of each child, as in training: ROOT under a containment of a half.
    fn cofiring(&self, model: &Model) -> Vec<u32> {
        let mut open = model.clone();
        (open.arch.gate, open.parents) = (GateKind::None, Vec::new());
        let ([f1, f2], d) = (model.arch.latents(), model.arch.d);
        let dump = Dump::open(std::slice::from_ref(&self.dump), None).expect("a dump");
        let n = ROWS / 2;
        let mut x = vec![0.0; n * d];
        dump.read_range(0, n, &mut x).expect("rows");
        let encoder =
            strata_core::Encoder::new(Arc::new(open), Compute::new(Isa::detect(), Par::Rayon)).expect("a model");
        let (mut one, mut two) = (Codes::new(), Codes::new());
        encoder.encode_par(Par::Rayon, &x, &mut one, &mut two).expect("codes");
        let (mut fires1, mut fires2, mut both) = (vec![0.0; f1], vec![0.0; f2], vec![0.0; f1 * f2]);
        for t in 0..n {
            one.row(t).index.iter().for_each(|i| fires1[*i as usize] += 1.0);
            for j in two.row(t).index {
                fires2[*j as usize] += 1.0;
                one.row(t).index.iter().for_each(|i| both[*j as usize * f1 + *i as usize] += 1.0);
            }
        }
        let parent = |j: usize| {
            let score = |i: usize| {
                let p: f64 = both[j * f1 + i] / fires2[j];
                if p >= 0.5 { p * (p * n as f64 / fires1[i]).ln() } else { f64::NEG_INFINITY }
            };
            let best = (0..f1).max_by(|a, b| score(*a).total_cmp(&score(*b))).expect("a parent");
            if score(best) > 0.0 { best as u32 } else { ROOT }
        };
        (0..f2).map(parent).collect()
    }
}

/// An interval of `value` plus and minus `half`.
fn around(value: f64, half: f64) -> Interval {
    Interval { value, low: value - half, high: value + half, standard_error: half / 2.0, blocks: 32, undefined: 0 }
}

fn edges(attachment: Interval) -> EdgeIntervals {
    let any = around(0.5, 0.1);
    EdgeIntervals {
        attachment,
        containment: any,
        median_lift: any,
        real_edges: any,
        phi: any,
        exclusivity: any,
        purity: any,
    }
}

/// The rule on numbers: each part by itself takes the "yes" away.
#[test]
fn the_rule_needs_every_part_and_intervals_that_do_not_touch() {
    // Twenty children of two parents; each child fires on four tokens, three of them with its parent.
    let parent: Vec<u32> = (0..20).map(|j| j % 2).collect();
    let (mut one, mut two) = (Codes::new(), Codes::new());
    for t in 0..800u32 {
        let child = t % 20;
        two.index.push(child);
        two.value.push(1.0);
        two.end_row();
        one.index.push(if t / 20 % 4 == 0 { 1 - child % 2 } else { child % 2 });
        one.value.push(1.0);
        one.end_row();
    }
    let of = |parent: &[u32]| {
        let mut c = Composition::new(2, parent).expect("a tree");
        c.add(&one.view(2).expect("codes"), &two.view(20).expect("codes"), None).expect("tokens");
        (c.report(), c.null(Par::Seq, Draws::default()))
    };
    let (composition, null) = of(&parent);
    assert_eq!(composition.attachment, 0.5);
    let any = around(0.5, 0.1);
    let intervals = |attachment, fvu2| Intervals {
        fvu1: any,
        fvu2,
        gain: any,
        l0_1: any,
        l0_2: any,
        edges: Some(edges(attachment)),
    };
    let control = |attachment, fvu2_more| ControlReport {
        root_children: 0,
        fvu2: around(0.08, 0.002),
        fvu2_more,
        edges: edges(attachment),
    };
    let matched = || Matched { partner: Vec::new(), mcc: 1.0, exact: true };
    let stability = |pairs, agreement, chance| StabilityReport {
        level1: matched(),
        level2: matched(),
        edges: 20,
        edges_unmatched: 0,
        edge_agreement: 1.0,
        edge_chance: 0.5,
        parents: ParentAgreement { pairs, found_again: 1.0, agreement, chance },
    };
    let own = intervals(around(0.5, 0.1), around(0.05, 0.002));
    let beaten = control(around(0.1, 0.1), around(0.03, 0.01));
    let agreed = stability(20, around(0.9, 0.1), 0.5);
    let evidence = || Evidence {
        two_levels: true,
        composition: Some(&composition),
        null: Some(&null),
        intervals: &own,
        control: Some(&beaten),
        stability: Some(&agreed),
        seeds: Some(Seeds::Other),
        trained: Trained::BehindThem,
    };
    let answer = |e: &Evidence<'_>| {
        let found = verdict::of(e);
        assert!(!found.sentence.is_empty() && found.rule == verdict::RULE);
        (found.answer, found.sentence)
    };
    assert_eq!(answer(&evidence()).0, Answer::Yes);

    // Intervals that touch, or that are separate by less than the margin.
    for control_attachment in [around(0.3, 0.1), around(0.25, 0.1)] {
        let near = control(control_attachment, around(0.03, 0.01));
        let (found, said) = answer(&Evidence { control: Some(&near), ..evidence() });
        assert!(found == Answer::NotShown && said.contains("hardly more than those of the control"), "{said}");
    }
    let as_good = control(around(0.1, 0.1), around(0.01, 0.01));
    let (found, said) = answer(&Evidence { control: Some(&as_good), ..evidence() });
    assert!(found == Answer::NotShown && said.contains("random parents reconstruct as well"), "{said}");
    let (found, said) = answer(&Evidence { control: None, ..evidence() });
    assert!(found == Answer::NotShown && said.contains("no control run"), "{said}");
    let (found, said) = answer(&Evidence { control: None, trained: Trained::Without, ..evidence() });
    assert!(found == Answer::NotShown && said.contains("trained without families"), "{said}");
    let low = intervals(around(0.0, 0.1), around(0.05, 0.002));
    let far = control(around(-0.5, 0.1), around(0.03, 0.01));
    let (found, said) = answer(&Evidence { intervals: &low, control: Some(&far), ..evidence() });
    assert!(found == Answer::NotShown && said.contains("shuffled families"), "{said}");

    let short = Intervals { fvu2: Interval { blocks: 7, ..around(0.05, 0.0) }, ..own };
    let (found, said) = answer(&Evidence { intervals: &short, ..evidence() });
    assert!(found == Answer::NotShown && said.contains("7 blocks of sequences"), "{said}");

    // The second seed: none, the same one, other settings, an agreement of chance, one above chance, no child found
    // again.
    let (found, said) = answer(&Evidence { seeds: None, stability: None, ..evidence() });
    assert!(found == Answer::Partly && said.contains("no other seed"), "{said}");
    for (seeds, words) in [(Seeds::Same, "same seed"), (Seeds::Unlike, "not another seed")] {
        let (found, said) = answer(&Evidence { seeds: Some(seeds), ..evidence() });
        assert!(found == Answer::Partly && said.contains(words), "{said}");
    }
    for (pairs, agreement, expected, words) in [
        (20, around(0.55, 0.1), Answer::NotShown, "no more than by chance"),
        (20, around(0.65, 0.1), Answer::Yes, "another seed has the same"),
        (0, around(f64::NAN, 0.0), Answer::NotShown, "found again"),
    ] {
        let other = stability(pairs, agreement, 0.5);
        let (found, said) = answer(&Evidence { stability: Some(&other), ..evidence() });
        assert!(found == expected && said.contains(words), "{said}");
    }
    let beyond = stability(20, around(0.3, 0.1), 0.1);
    let (found, said) = answer(&Evidence { stability: Some(&beyond), ..evidence() });
    assert!(found == Answer::Partly && said.contains("many of the same children"), "{said}");

    // One child in twenty has a parent; none has; none has in either run; a flat model.
    let lonely: Vec<u32> = (0..20).map(|j| if j == 0 { 0 } else { ROOT }).collect();
    let (composition, null) = of(&lonely);
    let (found, said) = answer(&Evidence { composition: Some(&composition), null: Some(&null), ..evidence() });
    assert!(found == Answer::Partly || found == Answer::NotShown, "{said}");
    assert!(said.contains("only 1 of 20"), "{said}");
    let (composition, _) = of(&[ROOT; 20]);
    assert_eq!(answer(&Evidence { composition: Some(&composition), ..evidence() }).0, Answer::None);
    assert_eq!(answer(&Evidence { composition: None, ..evidence() }).0, Answer::None);
    assert_eq!(answer(&Evidence { two_levels: false, ..evidence() }).0, Answer::None);
}

#[test]
fn the_default_has_a_hierarchy_on_worlds_a_b_and_c() {
    for (world, k1, k2) in [("a", "3.2", "2.0"), ("b", "2.2", "1.4"), ("c", "3.2", "1.6")] {
        let place = Place::world(world);
        let [own, other] = place.pair("run", &sets(k1, k2));
        assert_eq!(place.verdict(&own, None).0, "partly", "world {world} without a second seed");
        let (answer, eval) = place.verdict(&own, Some(&other));
        assert_eq!(answer, "yes", "world {world}");
        assert!(eval["verdict"]["inputs"].as_array().expect("inputs").iter().all(|i| i["holds"] == true));
        // A run is not a second seed for itself.
        assert_eq!(place.verdict(&own, Some(&own)).0, "partly", "world {world} against itself");
        if world != "a" {
            continue;
        }

        // Parents that were permuted after the training have a gate, a control and a second seed, but are random.
        let mut model = (*Run::open(&own).expect("a run").model).clone();
        let mut parents: Vec<u32> = model.parents.iter().copied().filter(|p| *p != ROOT).collect();
        Philox::new(1, 0).shuffle(&mut parents);
        model.parents.iter_mut().filter(|p| **p != ROOT).zip(parents).for_each(|(p, drawn)| *p = drawn);
        let shuffled = place.with_model("shuffled", &own, &model);
        let (answer, eval) = place.verdict(&shuffled, Some(&other));
        assert_eq!(answer, "not shown", "parents permuted after training");
        assert_eq!(eval["gated"]["containment_by_construction"], 1.0, "the gate contains any child in any parent");

        // The control run itself.
        assert_ne!(place.verdict(&own.join("control"), None).0, "yes");
    }
}

#[test]
fn random_parents_are_no_hierarchy() {
    let place = Place::world("a");
    let random = [sets("3.2", "2.0"), vec!["gate.parents=random".into()]].concat();
    let [own, other] = place.pair("random", &random);
    let (answer, eval) = place.verdict(&own, Some(&other));
    assert_eq!(answer, "not shown");
    // The scores by construction of the gate are those of any parents.
    assert_eq!(eval["gated"]["containment_by_construction"], 1.0);
    assert!(eval["gated"]["median_lift_by_construction"].as_f64().expect("a lift") > 5.0, "{}", eval["gated"]);
    assert!(eval["composition"]["median_lift"].as_f64().expect("a lift") < 2.0);
}

#[test]
fn a_model_that_was_cut_in_two_afterwards_is_no_hierarchy() {
    let place = Place::world("a");
    let [own, other] = place.pair("run", &sets("3.2", "2.0"));
    let flat =
        [sets("5.2", "2.0"), vec!["level2.latents=0".into(), "level1.latents=240".into(), "gate.kind=none".into()]];
    let cut = ["0", "1"].map(|seed| {
        let run = place.train(&format!("flat-{seed}"), &flat.concat(), &["--seed", seed]);
        (place.cut(&run), run)
    });
    // With its own settings there is no control.
    let as_it_is = place.with_model("cut", &own, &cut[0].0);
    fs::copy(cut[0].1.join("config.toml"), as_it_is.join("config.toml")).expect("a copy");
    fs::remove_dir_all(as_it_is.join("control")).expect("a directory");
    assert_eq!(place.verdict(&as_it_is, None).0, "not shown");
    // With the settings and the control of the default, and a second seed that was cut in the same way.
    let posing = place.with_model("posing", &own, &cut[0].0);
    let second = place.with_model("posing-other", &own, &cut[1].0);
    fs::copy(other.join("config.toml"), second.join("config.toml")).expect("a copy");
    assert_ne!(place.verdict(&posing, Some(&second)).0, "yes", "a flat SAE");

    let matryoshka = [sets("3.2", "2.0"), vec!["budget=shared".into(), "gate.kind=none".into()]].concat();
    let run = place.train("matryoshka", &matryoshka, &[]);
    let mut model = (*Run::open(&run).expect("a run").model).clone();
    model.parents = place.cofiring(&model);
    model.arch.gate = GateKind::Hard;
    assert!(model.parents.iter().any(|p| *p != ROOT), "it has children that fire with its parents");
    let as_it_is = place.with_model("matryoshka-cut", &own, &model);
    fs::copy(run.join("config.toml"), as_it_is.join("config.toml")).expect("a copy");
    fs::remove_dir_all(as_it_is.join("control")).expect("a directory");
    let (answer, eval) = place.verdict(&as_it_is, None);
    assert_eq!(answer, "not shown");
    assert!(
        eval["verdict"]["sentence"].as_str().expect("words").contains("trained without families"),
        "{}",
        eval["verdict"]
    );
}

#[test]
fn noise_has_no_hierarchy() {
    let dir = tempfile::tempdir().expect("a directory");
    let dump = dir.path().join("dump");
    let d = 64;
    let mut rng = Philox::new(3, 0);
    let x: Vec<f32> = (0..ROWS * d).map(|_| rng.normal_f32()).collect();
    let mut writer = DumpWriter::create(&dump, DumpSpec::new(d, Dtype::F32)).expect("a dump");
    writer.append(&x, None).expect("rows");
    writer.finish().expect("a dump");
    let place = Place { dir, dump };
    // With ROOT hardly any child has a parent; without ROOT every child has the parent with which it fires most.
    for root_below in ["0.5", "0"] {
        let sets = [sets("3.2", "2.0"), vec![format!("gate.root_below={root_below}")]].concat();
        let [own, other] = place.pair(&format!("noise-{root_below}"), &sets);
        let (answer, _) = place.verdict(&own, Some(&other));
        assert!(["not shown", "none"].contains(&answer.as_str()), "{answer}");
    }
}
