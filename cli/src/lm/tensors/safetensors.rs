//! Tensors of a safetensors file.

use std::io::{Read, Seek, SeekFrom};

use anyhow::{Result, anyhow, bail};
use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;
use safetensors::tensor::Metadata;

/// The header of a file.
pub(super) struct Index {
    metadata: Metadata,
    /// Where the numbers begin.
    start: u64,
}

impl Index {
    /// Reads the header of a file, and checks that its tensors fill the rest.
    ///
    /// # Errors
    /// One sentence with `file`.
    pub(super) fn read(bytes: &mut (impl Read + Seek), file: &str) -> Result<Self> {
        let mut read = || -> Result<Self> {
            let length = bytes.seek(SeekFrom::End(0))?;
            bytes.seek(SeekFrom::Start(0))?;
            let mut size = [0; 8];
            bytes.read_exact(&mut size).map_err(|_| anyhow!("it has {length} bytes"))?;
            let n = u64::from_le_bytes(size);
            let Some(end) = n.checked_add(8).filter(|end| *end <= length) else {
                bail!("its header has {n} bytes, and {} follow", length - 8)
            };
            let mut header = vec![0; n as usize];
            bytes.read_exact(&mut header)?;
            let metadata: Metadata = serde_json::from_slice(&header).map_err(|e| anyhow!("its header: {e}"))?;
            let wanted = metadata.data_len() as u64;
            if length - end != wanted {
                bail!("its tensors have {wanted} bytes, and {} follow the header", length - end);
            }
            Ok(Self { metadata, start: end })
        };
        read().map_err(|e| anyhow!("{file}: not a whole safetensors file: {e}"))
    }

    /// Returns the shape of every tensor.
    pub(super) fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        self.metadata.tensors().into_iter().map(|(name, info)| (name, info.shape.clone())).collect()
    }

    /// Reads a tensor in the type in which it is stored.
    pub(super) fn tensor(&self, bytes: &mut (impl Read + Seek), name: &str, file: &str) -> Result<Tensor> {
        let info = self.metadata.info(name).ok_or_else(|| anyhow!("{file}: tensor {name:?} is missing"))?;
        let dtype = match info.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => bail!("{file}: tensor {name:?} must be f32, f16 or bf16, found {other:?}"),
        };
        let (from, to) = info.data_offsets;
        let n = info.shape.iter().try_fold(dtype.size_in_bytes(), |n, size| n.checked_mul(*size));
        if to > self.metadata.data_len() || to.checked_sub(from) != n {
            bail!("{file}: tensor {name:?} of shape {:?} cannot be the bytes {from} to {to}", info.shape);
        }
        let mut data = vec![0; to - from];
        let read = bytes.seek(SeekFrom::Start(self.start + from as u64)).and_then(|_| bytes.read_exact(&mut data));
        read.map_err(|e| anyhow!("{file}: reading tensor {name:?}: {e}"))?;
        Ok(Tensor::from_raw_buffer(&data, dtype, &info.shape, &Device::Cpu)?)
    }
}
