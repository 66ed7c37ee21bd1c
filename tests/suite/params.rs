//! The iteration over parameters: its names, shapes and fields agree with the files and the training.

use safetensors::SafeTensors;
use strata_core::config::{Activation, Decoder, GateKind, ModelKind, Source};
use strata_core::format::weights::{Origin, read_model, write_cfg, write_weights};
use strata_core::model::{Arch, LevelArch, N_TENSORS, NAMES, Params};
use strata_core::{Model, Philox, ROOT};

/// Returns architectures with every combination of the options that decide which tensors exist.
fn archs() -> Vec<Arch> {
    let mut archs = Vec::new();
    for &activation in Activation::ALL {
        for &gate in GateKind::ALL {
            for &source in Source::ALL {
                for &decoder in Decoder::ALL {
                    for f2 in [0, 6] {
                        let level = [
                            LevelArch { latents: 4, activation, k: 2.0 },
                            LevelArch { latents: f2, activation, k: 3.0 },
                        ];
                        archs.push(Arch {
                            model: ModelKind::Tree,
                            d: 5,
                            level,
                            source,
                            decoder,
                            gate,
                            variant: Default::default(),
                        });
                    }
                }
            }
        }
    }
    for gate in [GateKind::None, GateKind::Mul, GateKind::Add] {
        let level = [4, 6].map(|latents| LevelArch { latents, activation: Activation::Relu, k: 2.0 });
        let (source, decoder) = (Source::Z1, Decoder::Comp);
        archs.push(Arch { model: ModelKind::Seed, d: 5, level, source, decoder, gate, variant: Default::default() });
    }
    archs
}

fn model(arch: Arch) -> Model {
    let (mut params, mut rng) = (arch.zeros(), Philox::new(3, 3));
    params.each_mut().flatten().for_each(|v| *v = rng.normal_f32());
    let children = if arch.gate.has_families() { arch.level[1].latents } else { 0 };
    Model { arch, params, parents: vec![ROOT; children], tau: [0.5; 2] }
}

#[test]
fn a_saved_file_holds_the_tensors_of_the_walk_in_their_shapes() {
    for arch in archs() {
        let model = model(arch);
        let bytes = write_weights(&model).expect("a sound model");
        let file = SafeTensors::deserialize(&bytes).expect("a file");
        let mut expected: Vec<&str> = Vec::new();
        for ((name, spec), (_, tensor)) in arch.specs().tensors().into_iter().zip(model.params.tensors()) {
            assert_eq!(tensor.len(), spec.len(), "{name} of {arch:?}");
            if spec.is_empty() {
                continue;
            }
            let view = file.tensor(name).unwrap_or_else(|e| panic!("{name} of {arch:?}: {e}"));
            let shape = if spec.width == 1 { vec![spec.rows] } else { vec![spec.rows, spec.width] };
            assert_eq!(view.shape(), shape, "{name} of {arch:?}");
            assert_eq!(view.data(), bytemuck::cast_slice::<f32, u8>(tensor), "{name} of {arch:?}");
            expected.push(name);
        }
        expected.extend((!model.parents.is_empty()).then_some("parent"));
        for (l, name) in ["level1.tau", "level2.tau"].into_iter().enumerate().take(arch.n_levels()) {
            expected.extend(arch.level[l].activation.has_tau().then_some(name));
        }
        let mut found = file.names();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected, "{arch:?}");
        let cfg = write_cfg(&arch, &Origin::default());
        let (again, _) = read_model(&cfg, &bytes).expect("what was written");
        assert_eq!((again.arch, &again.params), (arch, &model.params));
    }
}

#[test]
fn every_name_is_that_of_its_field() {
    let mut names = Params::<String> { b_dec: "b_dec".into(), ..Params::default() };
    for (l, level) in names.level.iter_mut().enumerate() {
        let of = |field: &str| format!("level{}.{field}", l + 1);
        (level.w_enc, level.b_enc, level.w_dec) = (of("w_enc"), of("b_enc"), of("w_dec"));
        (level.threshold, level.r_mag, level.b_mag) = (of("threshold"), of("r_mag"), of("b_mag"));
        (level.gate_w, level.gate_b) = (of("gate_w"), of("gate_b"));
    }
    (names.gate.w, names.gate.b, names.b_dec2) = ("gate.w".into(), "gate.b".into(), "level2.b_dec".into());
    (names.level[0].scale, names.w_skip) = ("level1.scale".into(), "w_skip".into());
    let expected = names.clone();
    assert_eq!(names.tensors().map(|(name, field)| (name, field.clone())), NAMES.map(|name| (name, name.to_owned())));
    assert_eq!(
        names.tensors_mut().map(|(name, field)| (name, field.clone())),
        NAMES.map(|name| (name, name.to_owned()))
    );
    assert_eq!(names.map(Clone::clone), expected);
    assert_eq!(NAMES.len(), N_TENSORS);
}

#[test]
fn an_architecture_is_written_with_the_keys_it_always_had() {
    let level = [
        LevelArch { latents: 4, activation: Activation::Topk, k: 2.0 },
        LevelArch { latents: 6, activation: Activation::Batchtopk, k: 2.5 },
    ];
    let (source, decoder, gate) = (Source::Res, Decoder::Ind, GateKind::GroupTop1);
    let arch = Arch { model: ModelKind::Tree, d: 5, level, source, decoder, gate, variant: Default::default() };
    let json = r#"{"model":"tree","d":5,"f1":4,"f2":6,"activation1":"topk","activation2":"batchtopk","k1":2.0,"k2":2.5,"source":"res","decoder":"ind","gate":"group-top1"}"#;
    assert_eq!(serde_json::to_string(&arch).expect("JSON"), json);
    assert_eq!(serde_json::from_str::<Arch>(json).expect("an architecture"), arch);
    for (from, to, expected) in
        [("\"f2\"", "\"f3\"", "unknown field `f3`"), ("\"k2\":2.5,", "", "missing field `k2`"), ("4", "-4", "-4")]
    {
        let error = serde_json::from_str::<Arch>(&json.replace(from, to)).expect_err(to).to_string();
        assert!(error.contains(expected), "{error}");
    }
}
