//! Tensors of a GGUF file.

use std::io::{Read, Seek};

use anyhow::{Result, anyhow};
use candle_core::Device;
use candle_core::quantized::QTensor;
use candle_core::quantized::gguf_file::Content;

/// Reads a tensor as it is stored.
pub(super) fn tensor(content: &Content, bytes: &mut (impl Read + Seek), name: &str, file: &str) -> Result<QTensor> {
    content
        .tensor(bytes, name, &Device::Cpu)
        .map_err(|e| anyhow!("{file}: reading tensor {name:?}: {}", first_line(&e)))
}

/// Returns an error of the tensor library without the stack that may follow.
pub fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
