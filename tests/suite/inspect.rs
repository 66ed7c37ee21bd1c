use std::path::Path;

use strata_cli::dump::{Dump, DumpSpec};
use strata_cli::inspect::{Inspection, inspect, inspect_with, print};
use strata_core::format::npy::NpyHeader;
use strata_core::{Dtype, Philox};
use tempfile::TempDir;

use crate::dump::{open, write};

fn normal(n: usize, d: usize, mean: f32) -> Vec<f32> {
    let mut rng = Philox::new(8, 0);
    (0..n * d).map(|_| rng.normal_f32() + mean).collect()
}

fn look(dir: &Path, name: &str, rows: &[f32], d: usize) -> Inspection {
    let path = dir.join(name);
    write(&path, DumpSpec { max_shard_bytes: 20_000, ..DumpSpec::new(d, Dtype::F32) }, rows, None);
    inspect(&open(&path).unwrap(), None).unwrap()
}

fn assert_near(a: f64, b: f64, relative: f64) {
    assert!((a - b).abs() <= relative * b.abs(), "{a} is not near {b}");
}

#[test]
fn statistics_are_those_of_the_definitions() {
    let dir = TempDir::new().unwrap();
    let (n, d) = (3001, 8);
    let rows = normal(n, d, 2.0);
    let found = look(dir.path(), "a", &rows, d);
    let mut norms: Vec<f64> =
        rows.chunks(d).map(|r| r.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt()).collect();
    norms.sort_by(f64::total_cmp);
    let mean: Vec<f64> = (0..d).map(|j| rows.chunks(d).map(|r| f64::from(r[j])).sum::<f64>() / n as f64).collect();
    let variance: f64 =
        rows.chunks(d).flat_map(|r| r.iter().zip(&mean).map(|(&v, m)| (f64::from(v) - m).powi(2))).sum();
    let norm_of_mean = mean.iter().map(|m| m * m).sum::<f64>().sqrt();
    assert_eq!((found.n_rows, found.n_inspected, found.d), (n as u64, n as u64, d));
    assert_near(found.mean_norm, norms.iter().sum::<f64>() / n as f64, 1e-12);
    assert!(found.median_is_exact);
    assert_near(found.median_norm, norms[n / 2], 1e-7);
    assert_near(found.min_norm, norms[0], 1e-7);
    assert_near(found.max_norm, norms[n - 1], 1e-7);
    assert_near(found.norm_of_mean, norm_of_mean, 1e-12);
    assert_near(found.norm_of_mean_to_median.unwrap(), norm_of_mean / norms[n / 2], 1e-7);
    assert_near(found.total_variance, variance / n as f64, 1e-10);
    assert_eq!((found.n_outliers, found.n_zero, found.n_not_finite), (0, 0, 0));
    assert!(found.is_ready && found.verdict == "ready to train on");
}

#[test]
fn rows_that_training_leaves_out_do_not_move_the_variance() {
    let dir = TempDir::new().unwrap();
    let (n, d) = (2000, 16);
    let rows = normal(n, d, 1.0);
    let without = look(dir.path(), "without", &rows, d);
    // One row in 128 at 170 times the norm, nearly all of it in one column, as the first tokens of language models.
    let mut with = Vec::new();
    for (i, row) in rows.chunks(d).enumerate() {
        with.extend_from_slice(row);
        if i % 128 == 0 {
            with.extend((0..d).map(|j| if j == 5 { 680.0 } else { row[j] }));
        }
    }
    let with = look(dir.path(), "with", &with, d);
    assert_eq!((with.n_outliers, without.n_outliers), (16, 0));
    assert_near(with.total_variance, without.total_variance, 1e-12);
    assert_near(with.norm_of_mean, without.norm_of_mean, 1e-9);
    assert!(with.dominant_columns.is_empty() && with.notes == without.notes, "{:?}", with.notes);
    assert!(with.max_norm > 600.0, "the norms are of all rows");
}

#[test]
fn the_median_of_an_even_number_of_rows_is_between_the_middle_two() {
    let dir = TempDir::new().unwrap();
    assert_eq!(look(dir.path(), "a", &[4.0, 1.0, 2.0, 3.0], 1).median_norm, 2.5);
    assert_eq!(look(dir.path(), "b", &[4.0, -1.0], 1).median_norm, 2.5);
    assert_eq!(look(dir.path(), "c", &[4.0], 1).median_norm, 4.0);
}

#[test]
fn a_median_from_a_histogram_says_so_and_is_close() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a");
    let mut rows = normal(5000, 4, 0.0);
    rows[..4 * 10].iter_mut().for_each(|v| *v *= 1000.0);
    write(&path, DumpSpec::new(4, Dtype::F32), &rows, None);
    let dump = open(&path).unwrap();
    let (exact, near) = (inspect(&dump, None).unwrap(), inspect_with(&dump, None, 100).unwrap());
    assert!(exact.median_is_exact && !near.median_is_exact);
    assert_near(near.median_norm, exact.median_norm, 5e-4);
    assert_eq!((near.n_outliers, exact.n_outliers), (10, 10));
    let mut text = Vec::new();
    print(&near, &mut text).unwrap();
    assert!(String::from_utf8(text).unwrap().contains("(from a histogram, within 0.05 %)"));
}

#[test]
fn numbers_that_are_not_finite_are_counted_and_the_first_is_named() {
    let dir = TempDir::new().unwrap();
    let mut rows = normal(5000, 4, 0.0);
    for at in [3100 * 4 + 3, 3100 * 4 + 1, 4999 * 4] {
        rows[at] = f32::NAN;
    }
    let path = dir.path().join("bad.npy");
    let mut bytes = NpyHeader::bytes(Dtype::F16, 5000, 4).unwrap();
    Dtype::F16.narrow(&rows, &mut bytes);
    std::fs::write(&path, bytes).unwrap();
    let dump = open(&path).unwrap();
    let found = inspect(&dump, None).unwrap();
    let first = found.first_not_finite.clone().unwrap();
    assert_eq!((found.n_not_finite, first.row, first.column), (2, 3100, 1));
    assert!(first.shard.ends_with("bad.npy"));
    assert!(!found.is_ready && found.mean_norm.is_finite());
    assert!(found.verdict.starts_with("2 of 5000 rows hold NaN or infinity, the first in `"), "{}", found.verdict);
    assert!(found.verdict.contains("at row 3100, column 1"));
    let limited = inspect(&dump, Some(3100)).unwrap();
    assert_eq!((limited.n_inspected, limited.n_not_finite, limited.is_ready), (3100, 0, true));
    let nothing = inspect(&dump, Some(0)).unwrap();
    assert_eq!((nothing.n_inspected, nothing.is_ready), (0, false));
}

#[test]
fn the_verdict_says_what_is_wrong() {
    let dir = TempDir::new().unwrap();
    let verdict = |name: &str, rows: &[f32]| look(dir.path(), name, rows, 4).verdict;
    assert_eq!(
        verdict("equal", &[0.1, 0.2, 0.3, 0.4].repeat(500)),
        "all 500 rows are equal, so that there is nothing to learn"
    );
    let mut zeros = normal(100, 4, 0.0);
    zeros[..4 * 60].fill(0.0);
    assert_eq!(verdict("zeros", &zeros), "60 of 100 rows are all zeros: were padding tokens captured?");
    let mut tail = normal(100, 4, 0.0);
    tail[4 * 98..].fill(0.0);
    assert_eq!(verdict("tail", &tail), "rows 98 to 99 of the dump, to its end, are zeros: was the file filled?");
    let mut long = normal(100, 4, 0.0);
    long[..4 * 5].iter_mut().for_each(|v| *v *= 1e4);
    // Training leaves such rows out.
    assert_eq!(verdict("long", &long), "ready to train on");
    assert_eq!(verdict("few", &normal(3, 4, 0.0)), "there are only 3 rows for 4 dimensions: capture more");
    assert_eq!(verdict("one", &normal(1, 4, 0.0)), "there is only one row, so that there is nothing to learn");
    assert_eq!(verdict("good", &normal(30, 4, 0.0)), "ready to train on");
}

#[test]
fn the_table_names_what_the_dump_is() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("acts");
    let spec = DumpSpec {
        model: Some("gpt".into()),
        hook: Some("blocks.1".into()),
        context: Some(8),
        vocab: Some(vec!["a".into()]),
        ..DumpSpec::new(4, Dtype::Bf16)
    };
    write(&path, spec, &normal(64, 4, 0.0), Some(&[0; 64]));
    let found = inspect(&open(&path).unwrap(), None).unwrap();
    let mut text = Vec::new();
    print(&found, &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    for part in [
        "64 x 4 bf16, 0.5 kB in 1 file(s)",
        "gpt, blocks.1",
        "one per row, 1 texts",
        "8 of 8 rows",
        "ready to train on",
    ] {
        assert!(text.contains(part), "`{part}` is not in\n{text}");
    }
    let json = serde_json::to_value(&found).unwrap();
    assert_eq!((&json["dtype"], &json["n_rows"]), (&"bf16".into(), &64.into()));
}

#[test]
fn the_numbers_do_not_depend_on_the_number_of_threads() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a");
    write(&path, DumpSpec { max_shard_bytes: 9999, ..DumpSpec::new(4, Dtype::F16) }, &normal(9000, 4, 1.0), None);
    let dump: Dump = open(&path).unwrap();
    let on =
        |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap().install(|| inspect(&dump, None).unwrap());
    assert_eq!(on(1), on(4));
}

#[test]
fn zeros_at_the_end_are_named_whatever_their_share() {
    let dir = TempDir::new().unwrap();
    let mut rows = normal(5000, 4, 0.0);
    rows[4 * 4990..].fill(0.0);
    let found = look(dir.path(), "tail", &rows, 4);
    assert_eq!((found.n_zero, found.n_zero_tail, found.is_ready), (10, 10, false));
    assert_eq!(found.verdict, "rows 4990 to 4999 of the dump, to its end, are zeros: was the file filled?");
    // Zeros in the middle may be padding.
    let mut rows = normal(5000, 4, 0.0);
    rows[4 * 100..4 * 110].fill(0.0);
    let found = look(dir.path(), "middle", &rows, 4);
    assert_eq!((found.n_zero, found.n_zero_tail, found.is_ready), (10, 0, true));
    assert_eq!(found.notes, ["10 rows are all zeros: were padding tokens captured?"]);
    // Whole chunks of zeros.
    let mut rows = normal(9000, 4, 0.0);
    rows[4 * 3000..].fill(0.0);
    assert_eq!(look(dir.path(), "long", &rows, 4).n_zero_tail, 6000);
    assert_eq!(look(dir.path(), "all", &[0.0; 4000], 4).n_zero_tail, 1000);
}

#[test]
fn constant_and_dominant_columns_are_said() {
    let dir = TempDir::new().unwrap();
    let (n, d) = (3000, 40);
    let mut rows = normal(n, d, 0.0);
    for (i, row) in rows.chunks_mut(d).enumerate() {
        row[3] = 7.25;
        // The column is equal in all rows but the last.
        row[4] = if i + 1 == n { 2.0 } else { 1.0 };
        row[11] *= 30.0;
    }
    let found = look(dir.path(), "a", &rows, d);
    assert_eq!((found.n_constant_columns, found.dominant_columns.len(), found.is_ready), (1, 1, true));
    let variance = |j: usize| {
        let mean = rows.chunks(d).map(|r| f64::from(r[j])).sum::<f64>() / n as f64;
        rows.chunks(d).map(|r| (f64::from(r[j]) - mean).powi(2)).sum::<f64>() / n as f64
    };
    let total: f64 = (0..d).map(variance).sum();
    assert_eq!(found.dominant_columns[0].column, 11);
    assert_near(found.dominant_columns[0].share, variance(11) / total, 1e-9);
    assert_eq!(found.notes[0], "1 column is the same number in every row");
    assert!(found.notes[1].starts_with("few columns dominate: column 11 has 9"), "{:?}", found.notes);
    assert!(look(dir.path(), "b", &normal(n, d, 1.0), d).notes.is_empty());
}

#[test]
fn shards_that_hold_the_same_rows_are_named() {
    let dir = TempDir::new().unwrap();
    let rows = normal(600, 4, 0.0);
    let npy = |name: &str, rows: &[f32]| {
        let mut bytes = NpyHeader::bytes(Dtype::F32, rows.len() / 4, 4).unwrap();
        Dtype::F32.narrow(rows, &mut bytes);
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let mut nearly = rows[..800].to_vec();
    nearly[401] += 1.0;
    let (a, b, c) = (npy("a.npy", &rows[..800]), npy("b.npy", &rows[800..1600]), npy("c.npy", &nearly));
    assert!(inspect(&Dump::open(&[a.clone(), b.clone(), c.clone()], None).unwrap(), None).unwrap().is_ready);
    let copy = npy("copy.npy", &rows[..800]);
    let found = inspect(&Dump::open(&[b, copy.clone(), c, a.clone()], None).unwrap(), None).unwrap();
    assert!(!found.is_ready && found.verdict.contains("hold the same rows"), "{}", found.verdict);
    assert_eq!(found.equal_shards, Some([copy, a].map(|p| p.display().to_string())));
}

#[test]
fn numbers_can_be_read_and_other_types_are_suspected() {
    let dir = TempDir::new().unwrap();
    let text = |found: &Inspection| {
        let mut text = Vec::new();
        print(found, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    };
    let small: Vec<f32> = normal(5000, 32, 1.0).iter().map(|v| v * 2.0_f32.powi(-20)).collect();
    let found = look(dir.path(), "small", &small, 32);
    let shown = text(&found);
    let line = |name: &str| shown.lines().find(|l| l.starts_with(name)).unwrap_or_default().to_owned();
    assert!(line("mean norm").contains("e-6") && line("total variance").contains("e-11"), "{shown}");
    // Half of the rows are zeros, so that the median norm is 0 and no row is an outlier relative to it.
    let mut rows = normal(5000, 32, 1.0);
    rows[32..32 * 3500].fill(0.0);
    let found = look(dir.path(), "zeros", &rows, 32);
    assert_eq!((found.median_norm, found.norm_of_mean_to_median, found.n_outliers), (0.0, None, 0));
    assert!(!text(&found).contains("of the median norm,") && found.verdict.contains("all zeros"), "{}", text(&found));
    // Numbers of f32 stored as f64 and read as f32.
    let path = dir.path().join("f64.bin");
    let wide: Vec<u8> = normal(5000, 32, 1.0).iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect();
    std::fs::write(&path, wide).unwrap();
    let raw = strata_cli::dump::RawSpec { dtype: Dtype::F32, dim: 32 };
    let found = inspect(&Dump::open(&[path], Some(raw)).unwrap(), None).unwrap();
    assert!(!found.is_ready && found.verdict.contains("are the numbers f64"), "{}", found.verdict);
    assert!(text(&found).lines().all(|l| l.len() < 120), "{}", text(&found));
}
