//! The table of settings: its ranges, the output of `strata settings`, and `docs/settings.md`.

use serde_json::Value;
use strata_cli::settings;
use strata_cli::settings::preset::Preset;
use strata_core::Config;
use strata_core::config::{Allowed, Consistency, Setting};

use super::cli::{D, args, rows, strata, train_args, write_dump};

const PAGE: &str = include_str!("../../docs/settings.md");

fn all() -> Vec<Setting> {
    Config::default().sections().into_iter().flat_map(|s| s.settings).collect()
}

/// Returns the text of a value just outside of the range, for each end of it.
fn outside(allowed: &Allowed) -> Vec<String> {
    match allowed {
        Allowed::Switch => vec![],
        Allowed::Choice(_) | Allowed::Tokens => vec![],
        Allowed::Integer(range) => {
            let low = range.start().checked_sub(1);
            let high = range.end().checked_add(1);
            low.into_iter().chain(high).map(|x| x.to_string()).collect()
        }
        Allowed::Number(range) => {
            let ends = [range.start().next_down(), range.end().next_up()];
            ends.into_iter().filter(|x| x.is_finite()).map(|x| format!("{x:e}")).collect()
        }
    }
}

fn with(key: &str, value: &str) -> Config {
    settings::load(Config::default(), None, &[format!("{key}={value}")], None)
        .unwrap_or_else(|e| panic!("{key}={value}: {e:#}"))
}

#[test]
fn a_value_outside_of_its_range_is_refused_with_key_range_and_value() {
    let mut n = 0;
    for setting in all() {
        for value in outside(&setting.allowed) {
            let error = with(&setting.key, &value).validate(64).expect_err(&setting.key).to_string();
            assert!(error.starts_with(&format!("setting `{}`: expected ", setting.key)), "{error}");
            assert!(error.contains(", found "), "{error}");
            n += 1;
        }
        if let Allowed::Number(_) = setting.allowed {
            let error = with(&setting.key, "nan").validate(64).expect_err(&setting.key).to_string();
            assert!(error.contains(&setting.key) && error.ends_with("found NaN"), "{error}");
        }
    }
    assert!(n > 60, "only {n} ends of ranges were tried");
    let error = with("train.batch", "0").validate(64).expect_err("0 rows per step").to_string();
    assert_eq!(error, "setting `train.batch`: expected 1 to 16777216, found 0");
}

#[test]
fn numbers_are_read_as_people_write_them() {
    for (text, value) in [(".3", 0.3), ("0.3", 0.3), ("1.", 1.0), ("1", 1.0), ("3e-1", 0.3)] {
        assert_eq!(with("gate.root_below", text).gate.root_below, value, "{text}");
    }
    let error = settings::load(Config::default(), None, &["gate.root_below=half".into()], None).expect_err("a word");
    assert!(error.to_string().contains("expected a float, found a string `\"half\"`"), "{error}");
}

#[test]
fn the_ends_of_a_range_are_allowed() {
    for setting in all() {
        // Values that conflict with other settings are refused with another message.
        let ends = match &setting.allowed {
            Allowed::Integer(range) => [*range.start(), (*range.end()).min(i64::MAX as u64)].map(|x| x.to_string()),
            Allowed::Number(range) => [*range.start(), *range.end()].map(|x| format!("{x:e}")),
            _ => continue,
        };
        for end in ends.iter().filter(|e| *e != "inf") {
            if let Err(error) = with(&setting.key, end).validate(64) {
                let error = error.to_string();
                assert!(!error.contains(&format!("expected {}, found", setting.allowed)), "{error}");
            }
        }
    }
}

#[test]
fn every_default_is_allowed_and_every_setting_has_a_meaning() {
    Config::default().validate(64).expect("the defaults can be trained with");
    let all = all();
    // `config.toml` has the same keys in the same order.
    let toml: toml_keys::Keys = toml_keys::of(&settings::to_toml(&Config::default()).expect("the defaults fit TOML"));
    assert_eq!(all.iter().map(|s| s.key.clone()).collect::<Vec<_>>(), toml);
    for s in &all {
        assert!(s.meaning.ends_with('.') && s.meaning.len() > 10, "{}: {}", s.key, s.meaning);
        assert!(!s.meaning.contains('|') && !s.meaning.contains("  "), "{}: {}", s.key, s.meaning);
    }
}

mod toml_keys {
    //! The dotted keys of a TOML text, in order.

    pub type Keys = Vec<String>;

    pub fn of(text: &str) -> Keys {
        let mut section = String::new();
        let mut keys = Vec::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                section = format!("{name}.");
            } else if let Some((key, _)) = line.split_once(" = ") {
                keys.push(format!("{section}{key}"));
            }
        }
        keys
    }
}

#[test]
fn strata_settings_prints_every_setting_aligned() {
    let text = strata(&args!["settings"]).ok().out;
    let header = text.lines().next().expect("a header");
    let columns = ["default", "range", "meaning"].map(|c| header.find(c).unwrap_or_else(|| panic!("{c}: {header}")));
    for s in all() {
        let line = text.lines().find(|l| l.starts_with(&format!("{} ", s.key))).unwrap_or_else(|| panic!("{}", s.key));
        assert!(line[columns[0]..].starts_with(&s.value.to_string()), "{line}");
        let first = |text: &str| text.split(' ').next().unwrap_or_default().to_owned();
        assert!(line[columns[1]..].starts_with(&first(&s.allowed.to_string())), "{line}");
        assert!(line[columns[2]..].starts_with(&first(s.meaning)), "{line}");
    }
    assert!(text.lines().all(|l| l.chars().count() <= 110), "{text}");
}

#[test]
fn strata_settings_takes_sections_and_keys_and_names_the_nearest() {
    let keys = |args: &[std::ffi::OsString]| -> Vec<String> {
        let json = strata(args).ok().json();
        json.as_array().expect("a list").iter().map(|s| s["key"].as_str().expect("a key").to_owned()).collect()
    };
    assert_eq!(keys(&args!["settings", "--json"]), all().into_iter().map(|s| s.key).collect::<Vec<_>>());
    let some = keys(&args!["settings", "revive", "train.steps", "--json"]);
    assert_eq!(some, ["train.steps", "revive.dead_after", "revive.k_aux", "revive.reseed"]);
    strata(&args!["settings", "gates"]).fails(&["`gates`", "did you mean `gate`?"]);
    strata(&args!["settings", "steps"]).fails(&["`steps`", "did you mean `train.steps`?"]);
    strata(&args!["settings", "--markdown", "--json"]).fails(&["--markdown", "--json"]);
}

#[test]
fn the_json_of_a_setting_has_its_limits_or_its_choices() {
    let of = |key: &str| -> Value { strata(&args!["settings", key, "--json"]).ok().json()[0].clone() };
    let k = of("level2.k");
    assert_eq!((k["default"].as_f64(), k["range"].as_str()), (Some(12.0), Some("more than 0")));
    assert!(k["high"].is_null() && k["low"].as_f64().is_some_and(|low| low > 0.0), "{k}");
    assert_eq!(of("source")["choices"], serde_json::json!(["x", "res", "z1"]));
    assert_eq!(of("train.batch")["high"], 1 << 24);
    assert!(of("train.steps")["high"].is_null());
    assert_eq!(of("data.centre")["choices"], serde_json::json!([true, false]));
}

#[test]
fn a_preset_comes_between_defaults_and_what_is_given() {
    let dir = tempfile::tempdir().expect("a directory");
    let dump = write_dump(&dir.path().join("acts.safetensors"), &rows(400), D);
    let run = dir.path().join("run");
    let sets = ["train.steps=2", "level1.latents=32", "level2.latents=64", "level2.k=5", "data.skip_special=false"];
    let preset = args!["--preset", "language"];
    let start = train_args(&dump, &run, &sets);
    strata(&[&start[..], &preset].concat()).ok();
    let text = std::fs::read_to_string(run.join("config.toml")).expect("settings");
    let config = settings::parse(&text, "config.toml").expect("settings");
    assert_eq!((config.level2.k, config.gate.root_below), (5.0, 0.3));
    assert_eq!(config.loss.consistency, Consistency::Contain);
    assert!(!config.data.skip_special, "--set comes after the preset");
    // The other preset is this one and pruning.
    let [language, pruned] =
        [Preset::Language, Preset::LanguagePruned].map(|preset| preset.config().expect("settings"));
    let mut expected = language;
    (expected.train.prune, expected.level1.prune, expected.level2.prune) = (0.6, 1.5, 1.5);
    assert_eq!(pruned, expected);
    strata(&[&start[..], &preset, &args!["--resume"]].concat()).fails(&["--preset: ", "leave it out"]);
    let other = strata(&[&start[..], &args!["--preset", "speech"]].concat());
    assert!(other.code == 2 && other.err.contains("language"), "{}", other.err);
}

#[test]
fn the_page_of_settings_is_the_table() {
    let page = strata(&args!["settings", "--markdown"]).ok().out;
    let differs = page.lines().zip(PAGE.lines()).find(|(made, written)| made != written);
    assert!(
        page == PAGE,
        "docs/settings.md: write it anew by `strata settings --markdown`; first difference: {differs:?}"
    );
}
