use half::{bf16, f16};
use ndarray::{Array2, ArrayView2, s};
use strata_core::{Dtype, Error, Rows};

const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::Bf16];

fn sample(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.25).collect() // exact in every type
}

#[test]
fn every_f16_widens_as_ieee_says() {
    for h in 0..=u16::MAX {
        let mut out = [0.0];
        Rows::new(&h.to_le_bytes(), 1, 1, 2, Dtype::F16).unwrap().widen_row(0, &mut out);
        let expected = f16::from_bits(h).to_f32();
        assert!(out[0].to_bits() == expected.to_bits() || out[0].is_nan() && expected.is_nan(), "{h:#06x}: {}", out[0]);
    }
}

#[test]
fn every_bf16_widens_as_its_upper_half() {
    for h in 0..=u16::MAX {
        let mut out = [0.0];
        Rows::new(&h.to_le_bytes(), 1, 1, 2, Dtype::Bf16).unwrap().widen_row(0, &mut out);
        assert_eq!(out[0].to_bits(), u32::from(h) << 16);
    }
}

#[test]
fn narrowing_rounds_to_nearest_even() {
    for v in [0.0, -0.0, 1.0, 1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0, 65504.0, 65519.0, 65520.0, 1e-8, 6e-8, f32::MAX] {
        let mut bytes = Vec::new();
        Dtype::F16.narrow(&[v], &mut bytes);
        assert_eq!(bytes, f16::from_f32(v).to_le_bytes());
        bytes.clear();
        Dtype::Bf16.narrow(&[v], &mut bytes);
        assert_eq!(bytes, bf16::from_f32(v).to_le_bytes());
    }
}

#[test]
fn rows_come_back_at_every_alignment_and_stride() {
    for dtype in DTYPES {
        for (n, d) in [(0, 3), (1, 1), (5, 7), (3, 16), (4, 33)] {
            let values = sample(n * d);
            for gap in [0, 1, 2, 5] {
                for shift in 0..4 {
                    let stride = d * dtype.size_bytes() + gap;
                    let mut bytes = vec![0xFF; shift];
                    for row in values.chunks(d) {
                        dtype.narrow(row, &mut bytes);
                        bytes.resize(bytes.len() + gap, 0xFF);
                    }
                    // The last row needs no gap after it.
                    let end = bytes.len() - if n > 0 { gap } else { 0 };
                    let rows = Rows::new(&bytes[shift..end], n, d, stride, dtype).unwrap();
                    let mut out = vec![f32::NAN; n * d];
                    rows.widen(0..n, &mut out);
                    assert_eq!(out, values, "{rows:?}");
                    assert_eq!(rows.first_not_finite(), None);
                    if n > 2 {
                        let part = rows.slice(1..n - 1);
                        let mut out = vec![f32::NAN; (n - 2) * d];
                        part.widen(0..n - 2, &mut out);
                        assert_eq!(out, values[d..(n - 1) * d]);
                        part.widen_row(n - 3, &mut out[..d]);
                        assert_eq!(out[..d], values[(n - 2) * d..(n - 1) * d]);
                        assert_eq!((part.n(), part.d(), part.dtype()), (n - 2, d, dtype));
                    }
                    assert_eq!(rows.slice(n..n).n(), 0);
                }
            }
        }
    }
}

#[test]
fn the_first_number_that_is_not_finite_is_found() {
    for dtype in DTYPES {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = sample(4 * 9);
            values[2 * 9 + 5] = bad;
            values[3 * 9] = bad;
            let mut bytes = Vec::new();
            dtype.narrow(&values, &mut bytes);
            let rows = Rows::new(&bytes, 4, 9, 9 * dtype.size_bytes(), dtype).unwrap();
            assert_eq!(rows.first_not_finite(), Some((2, 5)), "{dtype} {bad}");
            assert_eq!(rows.slice(0..2).first_not_finite(), None);
            assert_eq!(Rows::from_f32(&values, 9).unwrap().first_not_finite(), Some((2, 5)));
        }
        let mut largest = Vec::new();
        dtype.narrow(&[65504.0, -65504.0, f32::MIN_POSITIVE, 0.0], &mut largest);
        assert_eq!(Rows::new(&largest, 1, 4, 16, dtype).unwrap().first_not_finite(), None);
    }
}

#[test]
fn sizes_that_do_not_fit_are_errors() {
    let bytes = [0_u8; 64];
    let shape = |r: Result<Rows<'_>, Error>| match r.unwrap_err() {
        Error::Shape { expected, got, .. } => (expected, got),
        e => panic!("{e}"),
    };
    assert_eq!(shape(Rows::new(&bytes, 4, 0, 16, Dtype::F32)), (1, 0));
    assert_eq!(shape(Rows::new(&bytes, 4, 4, 15, Dtype::F32)), (16, 15));
    assert_eq!(shape(Rows::new(&bytes, 5, 4, 16, Dtype::F32)), (80, 64));
    assert_eq!(shape(Rows::new(&bytes, 4, 4, 17, Dtype::F32)), (67, 64));
    assert_eq!(shape(Rows::new(&bytes, usize::MAX, 4, 16, Dtype::F32)), (usize::MAX, 64));
    assert!(Rows::new(&bytes, 2, usize::MAX, usize::MAX, Dtype::F16).is_err());
    assert!(Rows::new(&bytes, 1, usize::MAX / 2 + 2, usize::MAX, Dtype::F16).is_err());
    assert!(Rows::from_f32(&[0.0; 7], 2).is_err());
    assert!(Rows::from_f32(&[], 0).is_err());
    assert_eq!(Rows::from_f32(&[], 4).unwrap().n(), 0);
}

#[test]
fn arrays_are_viewed_without_a_copy() {
    let array = Array2::from_shape_vec((4, 6), sample(24)).unwrap();
    let rows = Rows::from_array(array.view()).unwrap();
    let mut out = vec![0.0; 24];
    rows.widen(0..4, &mut out);
    assert_eq!(out, sample(24));
    assert_eq!(Rows::from_array(array.slice(s![1..3, ..])).unwrap().n(), 2);
    assert!(Rows::from_array(array.t()).is_err());
    assert!(Rows::from_array(array.slice(s![.., 1..])).is_err());
    assert!(Rows::from_array(ArrayView2::from_shape((3, 0), &[]).unwrap()).is_err());
    assert_eq!(Rows::from_array(ArrayView2::from_shape((0, 3), &[]).unwrap()).unwrap().d(), 3);
}

#[test]
fn dtypes_are_read_and_written_by_name() {
    for dtype in DTYPES {
        assert_eq!(dtype.name().parse(), Ok(dtype));
        assert_eq!(dtype.to_string(), dtype.name());
    }
    assert!("float32".parse::<Dtype>().unwrap_err().to_string().contains("expected f32, f16 or bf16, found `float32`"));
}
