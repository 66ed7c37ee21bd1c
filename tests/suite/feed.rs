//! The feed: batches that are read ahead have the rows of the order, and reading ahead does not move the cursor.

use crate::dump::{open, write};
use std::path::Path;
use strata_cli::dump::{Dump, DumpSpec};
use strata_cli::feed::{Feed, Given, Reader};
use strata_cli::row_filter::RowFilter;
use strata_core::normalise::Normalisation;
use strata_core::{Config, Dtype, Isa, Philox, RowOrder};
use tempfile::TempDir;

const D: usize = 6;
const N: usize = 2000;

/// Writes `N` rows in several shards: every seventh is long enough to be an outlier, `row_of_nan` holds a NaN.
fn dump(dir: &Path, row_of_nan: Option<usize>) -> Dump {
    let mut rng = Philox::new(5, 0);
    let mut rows: Vec<f32> = (0..N * D).map(|_| rng.normal_f32()).collect();
    rows.chunks_mut(D).step_by(7).for_each(|row| row.iter_mut().for_each(|v| *v *= 100.0));
    let path = dir.join("rows");
    let max_shard_bytes = (300 * D * 4) as u64;
    let none = None::<String>;
    let spec = DumpSpec {
        d: D,
        dtype: Dtype::F32,
        max_shard_bytes,
        model: none.clone(),
        hook: none,
        context: None,
        vocab: None,
        special_tokens: Vec::new(),
    };
    write(&path, spec, &rows, None);
    if let Some(row) = row_of_nan {
        // The writer refuses such a row, so change the file after it is written.
        let (shard, row) = (row / 300, row % 300);
        let mut shards: Vec<_> = std::fs::read_dir(&path).unwrap().map(|f| f.unwrap().path()).collect();
        shards.retain(|f| f.extension().is_some_and(|e| e == "safetensors"));
        shards.sort();
        let mut bytes = std::fs::read(&shards[shard]).unwrap();
        let first = bytes.len() - D * 4 * (N - shard * 300).min(300);
        bytes[first + row * D * 4..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
        std::fs::write(&shards[shard], bytes).unwrap();
    }
    open(&path).unwrap()
}

fn config() -> Config {
    let mut config = Config { seed: 11, ..Config::default() };
    (config.data.block, config.data.window) = (16, 4);
    config
}

fn normalisation() -> Normalisation {
    Normalisation {
        mean: vec![0.25; D],
        scale: 0.5,
        centre: vec![0.0; D],
        variance: 1.0,
        norm_limit: 20.0,
        row_norm: Default::default(),
    }
}

#[test]
fn rows_as_they_lie_are_those_that_are_widened() {
    let folder = TempDir::new().unwrap();
    let dump = dump(folder.path(), None);
    let read = |raw: bool| {
        let take = |feed: &mut Feed<'_>| {
            let mut all = Vec::new();
            for _ in 0..9 {
                let rows = match feed.next_given()? {
                    Given::Normalised(rows) => (false, rows.x.to_vec()),
                    Given::Raw(rows) => {
                        let mut x = vec![0.0; rows.n() * D];
                        rows.widen(0..rows.n(), &mut x);
                        normalisation().apply(&mut x);
                        (true, x)
                    }
                };
                assert_eq!(rows.0, raw, "how rows are given");
                all.push((rows.1, feed.cursor()));
            }
            Ok(all)
        };
        reader(&dump, 1500, 0).raw(raw).ahead(100, 9, take).unwrap()
    };
    assert_eq!(read(true), read(false));
}

/// Returns the batches, each with the cursor after it, read row by row.
fn expected(dump: &Dump, n_train: u64, config: &Config, batch: usize, n_batches: usize) -> Vec<(Vec<f32>, u64)> {
    let order = RowOrder::new(config.seed, n_train, config.data.block, config.data.window);
    let normalisation = normalisation();
    let (mut cursor, mut id, mut row) = (0, [0], vec![0.0; D]);
    let mut batches = Vec::new();
    for _ in 0..n_batches {
        let mut rows = Vec::new();
        while rows.len() < batch * D {
            order.fill(cursor, &mut id);
            dump.read_rows(&id, &mut row).unwrap();
            cursor += 1;
            if normalisation.keeps(Isa::default(), &row) {
                rows.extend_from_slice(&row);
            }
        }
        normalisation.apply(&mut rows);
        batches.push((rows, cursor));
    }
    batches
}

fn reader<'a>(dump: &'a Dump, n_train: u64, cursor: u64) -> Reader<'a> {
    Reader::new(dump, n_train, &config(), filter(normalisation().norm_limit), normalisation(), cursor).unwrap()
}

/// Returns a filter that leaves out rows whose norm is above `norm_limit`. It is leaked, to have the static lifetime.
fn filter(norm_limit: f32) -> &'static RowFilter<'static> {
    let mut filter = RowFilter::none(Isa::default());
    filter.set_limit(norm_limit);
    Box::leak(Box::new(filter))
}

#[test]
fn batches_that_are_read_ahead_are_those_of_the_order() {
    let dir = TempDir::new().unwrap();
    let dump = dump(dir.path(), None);
    // Smaller and larger than what a thread reads at a time, and larger than an epoch.
    for (batch, n_train) in [(1, 900), (100, 1900), (700, 1900), (2500, 2000)] {
        let want = expected(&dump, n_train, &config(), batch, 5);
        let got = reader(&dump, n_train, 0).ahead(batch, 5, |feed| {
            let mut got = Vec::new();
            for _ in 0..5 {
                let rows = feed.next_batch()?.x.to_vec();
                got.push((rows, feed.cursor()));
            }
            assert!(feed.next_batch().is_err(), "there are five batches");
            Ok(got)
        });
        assert!(got.unwrap() == want, "batches of {batch} of {n_train} rows");
        // Continue as a training that was stopped after two steps.
        let rest = reader(&dump, n_train, want[1].1).ahead(batch, 3, |feed| {
            assert_eq!(feed.cursor(), want[1].1, "the cursor before the first batch");
            (0..3).map(|_| Ok((feed.next_batch()?.x.to_vec(), feed.cursor()))).collect()
        });
        let rest: Vec<_> = rest.unwrap();
        assert!(rest == want[2..], "batches of {batch} of {n_train} rows from the third on");
    }
}

#[test]
fn a_row_that_cannot_be_read_is_an_error_of_its_batch() {
    let dir = TempDir::new().unwrap();
    let order = RowOrder::new(config().seed, N as u64, config().data.block, config().data.window);
    // A row that is no outlier, far enough into the order to be in the fourth batch.
    let positions = expected(&dump(dir.path(), None), N as u64, &config(), 100, 4);
    let position = (positions[2].1..positions[3].1).find(|p| !order.row(0, *p).is_multiple_of(7)).unwrap();
    let bad = order.row(0, position) as usize;
    let other = TempDir::new().unwrap();
    let dump = dump(other.path(), Some(bad));
    let mut taken = 0;
    let error = reader(&dump, N as u64, 0).ahead(100, 10, |feed| {
        for (want, _) in &positions {
            assert!(feed.next_batch()?.x == want, "batch {taken} is as without that row");
            taken += 1;
        }
        Ok(())
    });
    let error = format!("{:#}", error.unwrap_err());
    assert_eq!(taken, 3, "batches before the error: {error}");
    assert!(error.contains(&format!("row {bad} of the dump")), "{error}");
}

/// The test ends only if the threads of the feed end.
#[test]
fn a_training_that_ends_early_ends_the_reading() {
    let dir = TempDir::new().unwrap();
    let dump = dump(dir.path(), None);
    for taken in 0..4 {
        let ended = reader(&dump, N as u64, 0).ahead(500, u64::MAX, |feed| {
            for _ in 0..taken {
                feed.next_batch()?;
            }
            Ok(feed.cursor())
        });
        let want = expected(&dump, N as u64, &config(), 500, taken).last().map_or(0, |b| b.1);
        assert_eq!(ended.unwrap(), want, "the cursor after {taken} batches");
    }
    // An error of the training is returned, and a panic of the training is passed on.
    let error = reader(&dump, N as u64, 0).ahead(500, 9, |_| anyhow::Result::<()>::Err(anyhow::anyhow!("a loss")));
    assert_eq!(error.unwrap_err().to_string(), "a loss");
    let panics = std::panic::catch_unwind(|| {
        reader(&dump, N as u64, 0).ahead(500, 9, |feed| {
            feed.next_batch()?;
            if feed.cursor() > 0 {
                panic!("in a step");
            }
            Ok(())
        })
    });
    assert!(panics.is_err(), "a panic of the training");
}

#[test]
fn an_epoch_of_outliers_is_an_error() {
    let dir = TempDir::new().unwrap();
    let dump = dump(dir.path(), None);
    let reader = Reader::new(&dump, N as u64, &config(), filter(1e-6), normalisation(), 0).unwrap();
    let error = reader.ahead(100, 1, |feed| feed.next_batch().map(|_| ())).unwrap_err();
    assert!(error.to_string().contains("is left out"), "{error}");
}
