//! Metadata of a GGUF file as JSON.

use candle_core::quantized::gguf_file::Value as Datum;
use serde_json::Value;

/// Returns a number, text or switch as JSON; a list of equal numbers, one per block, as the number.
pub(super) fn number(value: &Datum) -> Value {
    match value {
        Datum::U8(v) => (*v).into(),
        Datum::I8(v) => (*v).into(),
        Datum::U16(v) => (*v).into(),
        Datum::I16(v) => (*v).into(),
        Datum::U32(v) => (*v).into(),
        Datum::I32(v) => (*v).into(),
        Datum::U64(v) => (*v).into(),
        Datum::I64(v) => (*v).into(),
        Datum::F32(v) => f64::from(*v).into(),
        Datum::F64(v) => (*v).into(),
        Datum::Bool(v) => (*v).into(),
        Datum::String(v) => v.as_str().into(),
        Datum::Array(values) => {
            let all: Vec<Value> = values.iter().map(number).collect();
            match all.first() {
                Some(first) if all.iter().all(|v| v == first) => first.clone(),
                _ => Value::Array(all),
            }
        }
    }
}
