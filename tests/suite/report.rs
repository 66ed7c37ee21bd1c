//! `strata report`: a self-contained page that loads nothing, whatever tokens and names contain.

use super::synth_cli::{small_dump, strata};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use strata_cli::eval::latents::{self, Children, Context, LatentRecord};

/// The settings of the runs: 6 parents and 12 children.
const SETS: &str = "level1.latents=6 level1.k=1.5 level2.latents=12 level2.k=1.5 train.steps=40 train.batch=32 \
                    train.log_every=10 data.outlier=0.0 data.stats_rows=256";

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    /// A directory with a run of 6 parents and 12 children, trained and evaluated.
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().expect("a directory") };
        small_dump(&place.path("dump"), "600");
        let [dump, run] = ["dump", "run"].map(|n| place.path(n).to_str().expect("UTF-8").to_owned());
        let mut train = vec!["train", "--dump", &dump, "--out", &run];
        for set in SETS.split_whitespace() {
            train.extend(["--set", set]);
        }
        ok(&train);
        ok(&["eval", &run, "--dump", &dump]);
        place
    }

    /// Another run, of another seed, evaluated too.
    fn other(&self) {
        let [dump, run] = ["dump", "other"].map(|n| self.path(n).to_str().expect("UTF-8").to_owned());
        let mut train = vec!["train", "--dump", &dump, "--out", &run, "--seed", "1"];
        for set in SETS.split_whitespace() {
            train.extend(["--set", set]);
        }
        ok(&train);
        ok(&["eval", &run, "--dump", &dump]);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes the report of `from` and returns the page.
    fn report(&self, from: &str) -> String {
        ok(&["report", self.path(from).to_str().expect("UTF-8")]);
        fs::read_to_string(self.path(from).join("report.html")).expect("a report")
    }
}

#[track_caller]
fn ok(line: &[&str]) {
    let (code, _, err) = strata(line);
    assert_eq!(code, 0, "{err}");
}

/// Returns the text of the script element with this id.
fn script<'a>(html: &'a str, id: &str) -> Option<&'a str> {
    let from = html.find(&format!("id=\"{id}\">"))? + id.len() + 6;
    Some(&html[from..from + html[from..].find("</script").expect("an end")])
}

/// Returns the page without the script of plotly, which contains addresses that it does not open.
fn own(html: &str) -> String {
    html.replace(script(html, "plotly").expect("plotly"), "")
}

#[test]
fn a_run_becomes_one_page_with_every_latent_that_loads_nothing() {
    let place = Place::new();
    let html = place.report("run");
    assert!(html.contains("default-src 'none'"), "the policy that forbids requests");
    assert!(script(&html, "plotly").expect("plotly").contains("plotly.js v"));
    let own = own(&html).replace("http://www.w3.org/2000/svg", "");
    for load in ["http:", "https:", "src=", "url(", "@import", "fetch(", "XMLHttpRequest", "<link"] {
        assert!(!own.contains(load), "`{load}` in the page");
    }
    let index: Value = serde_json::from_str(script(&html, "index").expect("an index")).expect("JSON");
    assert_eq!((&index["f1"], &index["f2"]), (&json!(6), &json!(12)));
    let records: Vec<&str> = script(&html, "records").expect("records").lines().collect();
    let known = latents::read(&place.path("run").join("latents.jsonl")).expect("latents");
    assert_eq!(records.len(), 18);
    for (i, (line, known)) in records.iter().zip(&known).enumerate() {
        let record: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(index["fires"][i].as_u64(), Some(known.fires));
        assert_eq!(record["contexts"].as_array().map(Vec::len), Some(known.contexts.len()));
        assert_eq!(record["sampled"].as_array().map(Vec::len), Some(known.sampled.len()));
        let bars = record["bars"].as_array().expect("bars").iter().map(|b| b.as_u64().expect("a count")).sum::<u64>();
        assert_eq!(bars, known.fires);
        for (shown, context) in record["contexts"].as_array().expect("contexts").iter().zip(&known.contexts) {
            assert_eq!((shown["row"].as_u64(), shown["n"].as_u64()), (Some(context.row), Some(context.length as u64)));
            assert_eq!(shown["kids"].as_array().map_or(0, Vec::len), context.children.at.len());
        }
        assert_eq!(record["neighbours"].as_array().map(Vec::len), Some(known.neighbours.len()));
    }
    let plots: Vec<Value> = serde_json::from_str(script(&html, "plots").expect("plots")).expect("JSON");
    assert_eq!(plots.len(), html.matches("data-plot=").count());
    assert!(plots.len() > 6 && plots.iter().all(|p| p["data"].as_array().is_some_and(|d| !d.is_empty())));
    for said in ["Is this a good SAE?", "Is the hierarchy real?", "The truth of this world is known", "recovery.mcc"] {
        assert!(html.contains(said), "`{said}` is not in the page");
    }
    assert_eq!(place.report("run"), html, "the same inputs, the same bytes");
}

#[test]
fn tokens_and_names_are_text_whatever_they_hold() {
    let place = Place::new();
    let scripts = place.report("run").matches("</script").count();
    let hostile = [
        "</script><img src=x onerror=alert(1)>",
        "<!--<script>",
        "]]>",
        "\u{2028}\u{2029}",
        "\"'`&amp;\\",
        "{{ frame }}",
        "\u{0}\n\t ",
    ];
    let path = place.path("run").join("latents.jsonl");
    let mut records = latents::read(&path).expect("latents");
    let texts = || hostile.iter().map(|t| (*t).to_owned());
    records[3] = LatentRecord {
        tokens: texts().map(|t| (t, 0.1)).collect(),
        promotes: texts().map(|t| (t, 0.2)).collect(),
        contexts: vec![Context {
            row: 5,
            peak: 1,
            length: 3,
            at: vec![1],
            values: vec![1.5],
            tokens: texts().take(3).collect(),
            ..Context::default()
        }],
        ..records[3].clone()
    };
    latents::write(&records, &path).expect("written");
    let name = "a <b>&\"' run";
    fs::rename(place.path("run"), place.path(name)).expect("renamed");
    let html = place.report(name);
    assert_eq!(html.matches("</script").count(), scripts);
    assert!(!own(&html).contains("<img") && !html.contains("<b>&\""), "a token or name became markup");
    assert!(!own(&html).contains("<!--") && !html.contains('\u{2028}'));
    let index: Value = serde_json::from_str(script(&html, "index").expect("an index")).expect("JSON");
    let strings = index["strings"].as_array().expect("strings");
    let shown: Vec<&str> = index["top"][3]
        .as_array()
        .expect("tokens")
        .iter()
        .map(|i| strings[i.as_u64().expect("a place") as usize].as_str().expect("a text"))
        .collect();
    assert_eq!(shown, hostile);
}

#[test]
fn what_is_missing_is_said_and_the_rest_is_there() {
    let place = Place::new();
    let run = place.path("run");
    fs::remove_file(run.join("latents.jsonl")).expect("removed");
    let html = place.report("run");
    assert!(html.contains("need latents.jsonl: <code>strata eval") && html.contains("Is this a good SAE?"));
    assert!(script(&html, "index").is_none() && !html.contains("href=\"#/map\""));

    fs::remove_file(run.join("eval.json")).expect("removed");
    let html = place.report("run");
    assert!(html.contains("has not been evaluated yet: <code>strata eval") && !html.contains("Is this a good SAE?"));
    assert!(html.contains("Variance left unexplained"), "the curves of training");

    fs::write(run.join("eval.json"), "{}").expect("written");
    assert!(place.report("run").contains("Not known."), "an evaluation without any number");
}

#[track_caller]
fn fails(line: &[&str], parts: &[&str]) {
    let (code, _, err) = strata(line);
    assert!(code == 1 && err.lines().count() == 1 && parts.iter().all(|part| err.contains(part)), "{code}: {err}");
}

#[test]
fn a_report_has_a_title_of_its_own_and_says_its_size() {
    let place = Place::new();
    let run = place.path("run").to_str().expect("UTF-8").to_owned();
    let (code, out, err) = strata(&["report", &run, "--title", "Layer 6 & \"more\"", "--json"]);
    assert_eq!(code, 0, "{err}");
    let html = fs::read_to_string(place.path("run").join("report.html")).expect("a report");
    assert!(
        html.contains("<h1>Layer 6 &#38; &#34;more&#34;</h1>")
            || html.contains("<h1>Layer 6 &amp; &quot;more&quot;</h1>")
    );
    let said: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(said["bytes"].as_u64(), Some(html.len() as u64));
    let (_, _, err) = strata(&["report", &run]);
    assert!(err.contains(" MB) is in ") && err.contains("report.html"), "{err}");
}

#[test]
fn labels_beside_a_run_are_in_its_page_and_wrong_ones_are_refused() {
    let place = Place::new();
    let run = place.path("run").to_str().expect("UTF-8").to_owned();
    let index = |html: &str| -> Value { serde_json::from_str(script(html, "index").expect("an index")).expect("JSON") };
    assert_eq!(index(&place.report("run"))["labels"], json!([]));
    let sums = fs::read_to_string(place.path("run").join("sae/SHA256SUMS")).expect("sums");
    let model = sums.lines().find(|l| l.ends_with("sae_weights.safetensors")).expect("a sum").split(' ').next();
    let label = json!({ "level": 2, "latent": 11, "label": "</script> names", "note": "a\nb" });
    let file = |labels: Value, model: Option<&str>| {
        json!({ "format": "strata-labels", "version": 1, "run": "run", "model": model, "labels": labels }).to_string()
    };
    let path = place.path("run").join("labels.json");
    fs::write(&path, file(json!([label]), model)).expect("written");
    let html = place.report("run");
    assert_eq!(index(&html)["labels"], json!([label]));
    assert_eq!(index(&html)["model"].as_str(), model);
    assert!(!own(&html).contains("</script> names"));

    let other = place.path("mine.json");
    let named = ["report", &run, "--labels", other.to_str().expect("UTF-8")];
    fails(&named, &["mine.json", "no such file"]);
    fs::write(&other, file(json!([{ "level": 1, "latent": 0, "label": "mine" }]), None)).expect("written");
    ok(&named);
    let html = fs::read_to_string(place.path("run").join("report.html")).expect("a report");
    assert_eq!(index(&html)["labels"][0]["label"], "mine");
    for (text, parts) in [
        (file(json!([{ "level": 2, "latent": 12 }]), None), &["latent 2/12", "6 and 12"][..]),
        (file(json!([{ "level": 3, "latent": 0 }]), None), &["latent 3/0"]),
        (file(json!([label, label]), None), &["latent 2/11", "two labels"]),
        (file(json!([{ "level": 1, "latent": 0, "lable": "x" }]), None), &["unknown field `lable`"]),
        (file(json!([]), Some("00")), &["other weights"]),
        (json!({ "format": "x", "version": 1, "labels": [] }).to_string(), &["strata-labels"]),
        ("[".into(), &["EOF"]),
    ] {
        fs::write(&other, text).expect("written");
        fails(&named, &[&["mine.json"], parts].concat());
    }
    fs::remove_file(place.path("run").join("latents.jsonl")).expect("removed");
    fails(&named, &["no latents.jsonl", "strata eval"]);
}

#[test]
fn two_runs_are_one_page_with_the_latents_of_both() {
    let place = Place::new();
    place.other();
    let [a, b] = ["run", "other"].map(|n| place.path(n).to_str().expect("UTF-8").to_owned());
    ok(&["report", &a, &b]);
    let html = fs::read_to_string(place.path("run").join("report-with-other.html")).expect("a report of both");
    for (id, name) in [("index", "run"), ("index-2", "other")] {
        let index: Value = serde_json::from_str(script(&html, id).expect("an index")).expect("JSON");
        assert_eq!((&index["run"], &index["f1"], &index["f2"]), (&json!(name), &json!(6), &json!(12)));
    }
    assert!(script(&html, "records-2").is_some() && script(&html, "stream-2").is_some());
    for said in [
        "<h1>run and other</h1>",
        "Latents of A",
        "Latents of B",
        "B less A",
        "Settings that differ",
        "<code>seed</code>",
        "recovery.mcc",
        "Variance left unexplained",
    ] {
        assert!(html.contains(said), "`{said}` is not in the page");
    }
    let plots: Vec<Value> = serde_json::from_str(script(&html, "plots").expect("plots")).expect("JSON");
    let names: Vec<&str> =
        plots[0]["data"].as_array().expect("traces").iter().filter_map(|t| t["name"].as_str()).collect();
    assert!(names.contains(&"A: level 1") && names.contains(&"B: level 2"), "{names:?}");
    assert_eq!(plots.len(), html.matches("data-plot=").count());
    let own = own(&html).replace("http://www.w3.org/2000/svg", "");
    assert!(!own.contains("http:") && !own.contains("https:"), "nothing is loaded");

    fails(&["report", &a, &b, &a], &["one directory or two, found 3", "strata ablate"]);
    fails(&["report", &a, &b, "--labels", "x.json"], &["--labels", "two runs"]);
    fs::write(place.path("ablation.json"), "{}").expect("written");
    fails(&["report", &a, place.dir.path().to_str().expect("UTF-8")], &["two runs"]);
}

#[test]
fn every_part_of_an_evaluation_has_a_name_for_people() {
    let place = Place::new();
    place.other();
    let [run, dump, other] = ["run", "dump", "other"].map(|n| place.path(n).to_str().expect("UTF-8").to_owned());
    ok(&["eval", &run, "--dump", &dump, "--against", &other]);
    let eval: Value =
        serde_json::from_str(&fs::read_to_string(place.path("run").join("eval.json")).expect("a file")).expect("JSON");
    let html = place.report("run");
    let metrics = html.split("id=\"metrics\"").nth(1).expect("every metric");
    let titles: Vec<&str> =
        metrics.split("<h3>").skip(1).map(|part| part.split("</h3>").next().expect("an end")).collect();
    for (key, value) in eval.as_object().expect("an object").iter().filter(|(_, v)| v.is_object()) {
        assert!(!titles.contains(&key.replace('_', " ").as_str()), "{key} is called by its key");
        assert!(value.as_object().is_some_and(|part| !part.is_empty()));
    }
    assert!(titles.contains(&"What was evaluated") && titles.contains(&"How far another run agrees"), "{titles:?}");
    assert!(html.contains("The other run that was compared with is other."));
    assert!(html.contains("The other run: of those, with the same parent"));
}

#[test]
fn contexts_that_do_not_fit_their_windows_are_refused() {
    let place = Place::new();
    let path = place.path("run").join("latents.jsonl");
    let records = latents::read(&path).expect("latents");
    let sound = Context { length: 3, peak: 1, at: vec![1], values: vec![1.5], ..Context::default() };
    for broken in [
        Context { peak: 3, ..sound.clone() },
        Context { at: vec![3], ..sound.clone() },
        Context { values: vec![], ..sound.clone() },
        Context { tokens: ["a"].iter().collect(), ..sound.clone() },
        Context { children: Children { at: vec![9], child: vec![0], values: vec![1.0] }, ..sound.clone() },
        Context { children: Children { at: vec![1], child: vec![], values: vec![1.0] }, ..sound.clone() },
    ] {
        let mut wrong = records.clone();
        wrong[4].sampled = vec![broken];
        latents::write(&wrong, &path).expect("written");
        fails(&["report", place.path("run").to_str().expect("UTF-8")], &["latents.jsonl, line 5", "window"]);
    }
    let line =
        fs::read_to_string(&path).expect("a file").lines().next().expect("a line").replace("\"histogram\"", "\"old\"");
    fs::write(&path, format!("{line}\n")).expect("written");
    fails(
        &["report", place.path("run").to_str().expect("UTF-8")],
        &["latents.jsonl, line 1", "evaluate the run again"],
    );
}

#[test]
fn what_is_no_run_is_one_sentence() {
    let place = Place { dir: tempfile::tempdir().expect("a directory") };
    let fails = |from: &Path, part: &str| {
        let (code, _, err) = strata(&["report", from.to_str().expect("UTF-8")]);
        assert!(code == 1 && err.lines().count() == 1 && err.contains(part), "{code}: {err}");
    };
    fails(&place.path("nowhere"), "no such file");
    fails(place.dir.path(), "is neither a run nor an ablation: expected config.toml or ablation.json in it");
    fs::write(place.path("eval.json"), "[").expect("written");
    fails(place.dir.path(), "eval.json");
    fs::write(place.path("ablation.json"), "{\"suites\": 5}").expect("written");
    fails(place.dir.path(), "ablation.json");
    assert!(!place.path("report.html").exists());
}

#[test]
fn an_ablation_has_a_sentence_a_plot_and_a_table_a_question() {
    let place = Place { dir: tempfile::tempdir().expect("a directory") };
    let run = |fvu2: f64| json!({ "seed": 0, "dir": "runs/x/seed-0", "metrics": { "fvu2": fvu2, "mcc": null } });
    let row = |name: &str, reference: bool, mean: f64, difference: Value| {
        json!({ "name": name, "reference": reference, "set": ["loss.w1=0.5"], "runs": [run(mean), run(mean + 0.01)],
            "mean": { "fvu2": mean, "mcc": null, "median_lift": mean * 2.0, "attachment": mean / 2.0,
                "root_children": 3.0 }, "sd": { "fvu2": 0.0125 }, "difference": difference })
    };
    let less = |mean: f64| json!({ "fvu2": { "mean": mean, "low": mean - 0.01, "high": mean + 0.01, "pairs": 3 } });
    let rows = json!([
        row("none", false, 0.3, json!({})),
        row("a <better> one", false, 0.2, less(-0.1)),
        row("flat", true, 0.4, json!({ "fvu2": { "mean": 0.1, "low": null, "high": null, "pairs": 1 } })),
    ]);
    let suites = json!([{ "name": "gates", "base": "none", "rows": rows }]);
    fs::write(place.path("ablation.json"), json!({ "dump": "d", "suites": suites }).to_string()).expect("written");
    let out = place.path("page.html");
    ok(&[
        "report",
        place.dir.path().to_str().expect("UTF-8"),
        "-o",
        out.to_str().expect("UTF-8"),
        "--title",
        "Of <gates>",
    ]);
    let html = fs::read_to_string(&out).expect("a report");
    for said in [
        "<h1>Of &#60;gates&#62;</h1>",
        "Which gate between the levels is best?",
        "<code>a &lt;better&gt; one</code> lowers FVU2 most surely: \u{2212}0.1000 [\u{2212}0.1100, \u{2212}0.0900]",
        "<code>flat</code> +0.1000",
        "3 seeds: an interval spans the extremes",
        "loss.w1=0.5",
        "attachment, without the gate",
        "0.2000 \u{b1} 0.0125",
        "children under ROOT",
        "<td class=\"n\">3</td>",
    ] {
        assert!(html.contains(said), "`{said}` is not in the page");
    }
    let plots: Vec<Value> = serde_json::from_str(script(&html, "plots").expect("plots")).expect("JSON");
    assert_eq!(plots.len(), 2, "FVU2, and the attachment, which differs; nothing is ranked by lift");
    assert_eq!(plots[0]["data"][0]["x"], json!([0.2]));
    assert!((plots[0]["data"][0]["error_x"]["array"][0].as_f64().expect("an arm") - 0.01).abs() < 1e-12);
}
