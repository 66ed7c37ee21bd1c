use proptest::prelude::*;
use strata_core::format::npy::{NpyArray, NpyHeader};
use strata_core::{Dtype, Error};

/// A header of version `major` with the literal `text`, then `data` zeros.
fn npy(major: u8, text: &str, data: usize) -> Vec<u8> {
    let mut file = b"\x93NUMPY".to_vec();
    file.extend([major, 0]);
    match major {
        1 => file.extend((text.len() as u16).to_le_bytes()),
        _ => file.extend((text.len() as u32).to_le_bytes()),
    }
    file.extend(text.as_bytes());
    file.resize(file.len() + data, 0);
    file
}

fn why(file: &[u8]) -> String {
    match NpyHeader::parse(file).unwrap_err() {
        Error::Format { offset, what } => {
            assert!(offset <= file.len(), "{what}: byte {offset} of {}", file.len());
            what
        }
        e => panic!("{e}"),
    }
}

#[test]
fn headers_of_all_versions_are_read() {
    let text = "{'descr': '<f2', 'fortran_order': False, 'shape': (3, 5), }   \n";
    for major in 1..=3 {
        let header = NpyHeader::parse(&npy(major, text, 30)).unwrap();
        let data_offset = if major == 1 { 10 } else { 12 } + text.len();
        assert_eq!(header, NpyHeader { dtype: Dtype::F16, shape: [3, 5], context: None, data_offset });
    }
    // Another order of keys, both kinds of quotes, no trailing comma, and the long integers of Python 2.
    let text = "{\"shape\": (2L, 1L,), 'fortran_order':False,'descr':\"<f4\"}";
    assert_eq!(NpyHeader::parse(&npy(1, text, 8)).unwrap().shape, [2, 1]);
    assert_eq!(
        NpyHeader::parse(&npy(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 7)}", 0)).unwrap().shape[0],
        0
    );
}

/// The bytes of `np.save` for `np.zeros((8064, 384), '<f2')`, NumPy 2.
#[test]
fn written_headers_are_those_of_numpy() {
    let mut expected =
        b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f2', 'fortran_order': False, 'shape': (8064, 384), }".to_vec();
    expected.resize(127, b' ');
    expected.push(b'\n');
    assert_eq!(NpyHeader::bytes(Dtype::F16, 8064, 384).unwrap(), expected);
    assert!(NpyHeader::bytes(Dtype::Bf16, 1, 1).is_err());
    assert_eq!(NpyHeader::bytes(Dtype::F32, usize::MAX, usize::MAX).unwrap().len() % 64, 0);
}

#[test]
fn what_is_not_rows_of_floats_is_refused_in_one_clear_sentence() {
    let with = |descr: &str, order: &str, shape: &str| {
        why(&npy(1, &format!("{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"), 24))
    };
    for (descr, found) in [
        ("'>f4'", "big-endian"),
        ("'>f2'", "big-endian"),
        ("'<f8'", "float64: save as float32"),
        ("'<i4'", "found '<i4'"),
        ("'|V2'", ".npy has no bf16"),
        ("'|O'", "found '|O'"),
    ] {
        let why = with(descr, "False", "(2, 3)");
        assert!(why.starts_with("descr: expected '<f4' or '<f2'") && why.contains(found), "{why}");
    }
    let structured =
        npy(1, "{'descr': [('a', '<f4'), ('b', '<f2', (2,))], 'fortran_order': False, 'shape': (4,), }", 24);
    assert_eq!(
        why(&structured),
        "descr: expected '<f4' or '<f2' (float32 or float16, little-endian), found a structured type"
    );
    assert!(with("'<f4'", "True", "(2, 3)").contains("fortran_order: expected False"));
    for (shape, n) in [("(6,)", 1), ("(1, 1, 2, 3)", 4)] {
        let dims = "shape: expected 2 dimensions (rows, width) or 3 (sequences, rows, width)";
        assert_eq!(with("'<f4'", "False", shape), format!("{dims}, found {n}"));
    }
    assert_eq!(with("'<f4'", "False", "(6, 0)"), "shape: expected a width of at least 1, found 0");
    assert_eq!(with("'<f4'", "False", "(2, 4)"), "data: expected 32 bytes (2 x 4 f32), found 24");
    assert_eq!(with("'<f2'", "False", "(2, 3)"), "data: expected 12 bytes (2 x 3 f16), found 24");
    let max = u64::MAX;
    assert!(with("'<f4'", "False", &format!("({max}, {max})")).starts_with("data: expected"));
    assert!(with("'<f4'", "False", "(18446744073709551616, 1)").starts_with("shape: expected a size below 2^64"));
    assert!(with("'<f4'", "False", "(-1, 6)").starts_with("shape: expected a size"));
    assert!(why(b"PK\x03\x04 an npz").starts_with("magic"));
    assert!(why(b"").starts_with("magic"));
    assert!(why(&npy(4, "", 0)).contains("version: expected 1.0 to 3.0, found 4.0"));
    assert!(why(&npy(1, "{'descr': '<f4', 'descr': '<f4'}", 0)).contains("`descr` is there twice"));
    assert!(why(&npy(1, "{'descr': '<f4', 'shape': (2, 3)}", 24)).contains("`fortran_order` is missing"));
}

#[test]
fn every_truncation_is_an_error() {
    let file = npy(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n", 24);
    assert!(NpyHeader::parse(&file).is_ok());
    for length in 0..file.len() {
        why(&file[..length]);
    }
}

#[test]
fn every_header_byte_overwritten_is_an_error_or_consistent() {
    let good = npy(2, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n", 24);
    for at in 0..good.len() - 24 {
        for byte in 0..=u8::MAX {
            let mut file = good.clone();
            file[at] = byte;
            assert_is_error_or_consistent(&file);
        }
    }
}

fn assert_is_error_or_consistent(file: &[u8]) {
    if let Ok(NpyHeader { dtype, shape: [n, d], data_offset, .. }) = NpyHeader::parse(file) {
        assert_eq!(
            data_offset + n * d * dtype.size_bytes(),
            file.len(),
            "a header that was accepted describes the whole file"
        );
    }
}

#[test]
fn three_dimensions_are_sequences_of_rows() {
    let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3, 5), }";
    let header = NpyHeader::parse(&npy(1, text, 120)).unwrap();
    assert_eq!((header.shape, header.context), ([6, 5], Some(3)));
    let array = NpyArray::parse(&npy(1, &text.replace("<f4", "<i4").replace("False", "True"), 120)).unwrap();
    assert_eq!((array.shape.as_slice(), array.integer(), array.fortran_order), (&[2, 3, 5][..], Some((4, true)), true));
    for (descr, integer) in [("|b1", (1, false)), ("<u8", (8, false)), ("<i2", (2, true))] {
        let n = 120 / integer.0;
        let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({n},)}}");
        assert_eq!(NpyArray::parse(&npy(1, &text, 120)).unwrap().integer(), Some(integer));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_header_text_is_an_error_or_consistent(
        text in "\\{(('descr'|'shape'|'fortran_order'|\"|'|[\\[\\](),: ]|False|True|<f4|[0-9L]{1,4}|é|\u{2028}){0,30}\\}?)",
        data in 0_usize..40,
    ) {
        assert_is_error_or_consistent(&npy(1, &text, data));
    }

    #[test]
    fn written_headers_are_read(n in 0_usize..50, d in 1_usize..50, half: bool) {
        let dtype = if half { Dtype::F16 } else { Dtype::F32 };
        let mut file = NpyHeader::bytes(dtype, n, d).unwrap();
        let data_offset = file.len();
        file.resize(data_offset + n * d * dtype.size_bytes(), 0);
        prop_assert_eq!(NpyHeader::parse(&file), Ok(NpyHeader { dtype, shape: [n, d], context: None, data_offset }));
    }
}
