//! Any bytes as each of the files that Strata reads: a parser gives a view that lies in the bytes, or an error with a
//! sentence.
//!
//! The first byte of an input says which parser reads the rest.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::Arc;
use strata_core::format::dump::{MEAN, Manifest, TOKENS, TensorTable};
use strata_core::format::heads::{read, write};
use strata_core::format::npy::NpyHeader;
use strata_core::format::weights::{read_model, read_model_shared, write_cfg, write_weights};
use strata_core::model::SharedBytes;
use strata_core::{Error, Rows};

fuzz_target!(|data: &[u8]| {
    let Some((which, file)) = data.split_first() else { return };
    match which % 5 {
        0 => npy(file),
        1 => manifest(file),
        2 => table(file),
        3 => model(file),
        _ => heads(file),
    }
});

fn explained(error: Error) {
    assert!(!error.to_string().is_empty());
}

fn npy(file: &[u8]) {
    match NpyHeader::parse(file) {
        Ok(header) => {
            let (bytes, [n, d]) = (&file[header.data_offset..], header.shape);
            if n > 0 && d > 0 {
                let stride = d * header.dtype.size_bytes();
                let rows = Rows::new(bytes, n, d, stride, header.dtype).expect("the header fits the file");
                let mut row = vec![0.0; d];
                rows.widen_row(n - 1, &mut row);
                let mut again = NpyHeader::bytes(header.dtype, n, d).expect("a header that was read");
                again.extend_from_slice(bytes);
                let read = NpyHeader::parse(&again).expect("what was written");
                assert_eq!((read.dtype, read.shape), (header.dtype, header.shape));
            }
        }
        Err(error) => explained(error),
    }
}

fn manifest(file: &[u8]) {
    match Manifest::parse(file) {
        Ok(manifest) => {
            let bytes = manifest.to_json().expect("a manifest that was read");
            let mut again = Manifest::parse(&bytes).expect("what was written");
            // The JSON parser is the fast one, whose doubles may differ in their last bit.
            if let (Some(a), Some(b)) = (&mut again.stats, &manifest.stats) {
                assert!((a.mean_norm - b.mean_norm).abs() <= 1e-12 * b.mean_norm);
                a.mean_norm = b.mean_norm;
            }
            assert_eq!(again, manifest);
        }
        Err(error) => explained(error),
    }
}

fn table(file: &[u8]) {
    match TensorTable::parse(file) {
        Ok(table) => {
            match table.activations() {
                Ok(m) => {
                    let stride = m.d * m.dtype.size_bytes();
                    let rows = Rows::new(&file[m.bytes], m.n, m.d, stride, m.dtype).expect("the shape fits the bytes");
                    let _ = rows.first_not_finite();
                }
                Err(error) => explained(error),
            }
            for (name, dtype) in [(TOKENS, safetensors::Dtype::U32), (MEAN, safetensors::Dtype::F32)] {
                match table.vector(name, dtype) {
                    Ok(Some(range)) => assert!(file[range].len() % 4 == 0),
                    Ok(None) => {}
                    Err(error) => explained(error),
                }
            }
        }
        Err(error) => explained(error),
    }
}

fn heads(file: &[u8]) {
    match read(file) {
        Ok(heads) => {
            let bytes = write(&heads).expect("heads that were read");
            assert_eq!(read(&bytes).expect("what was written"), heads);
        }
        Err(error) => explained(error),
    }
}

/// Two bytes for the length of `cfg.json`, and both files: reading copied bytes and bytes in place gives the same
/// result.
fn model(file: &[u8]) {
    let Some((len, rest)) = file.split_first_chunk::<2>() else { return };
    let (cfg, weights) = rest.split_at(usize::from(u16::from_le_bytes(*len)).min(rest.len()));
    let shared: SharedBytes = Arc::new(weights.to_vec());
    match (read_model(cfg, weights), read_model_shared(cfg, &shared)) {
        (Ok((model, origin)), Ok(in_place)) => {
            assert_eq!((&model, &origin), (&in_place.0, &in_place.1));
            let weights = write_weights(&model).expect("a model that was read");
            let cfg = write_cfg(&model.arch, &origin);
            assert_eq!(read_model(&cfg, &weights).expect("what was written").0.params, model.params);
        }
        (Err(copied), Err(in_place)) => {
            assert_eq!(copied, in_place);
            explained(copied);
        }
        (copied, in_place) => panic!("{} copied, {} in place", copied.is_ok(), in_place.is_ok()),
    }
}
