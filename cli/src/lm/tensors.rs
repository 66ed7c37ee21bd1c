//! Named tensors of a model, read from its files one at a time and widened to `f32`.

mod gguf;
mod safetensors;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek};
use std::path::Path;
use std::sync::Mutex;

use anyhow::{Result, bail, ensure};
use candle_core::quantized::QTensor;
use candle_core::quantized::gguf_file::Content;
use candle_core::{CpuStorage, DType, Device, Storage, Tensor};

use crate::files::read as input;
pub use gguf::first_line;

/// What tensors are read from.
trait Bytes: Read + Seek + Send {}
impl<T: Read + Seek + Send> Bytes for T {}

/// A file of tensors.
struct File {
    /// What errors call it.
    name: String,
    bytes: Mutex<Box<dyn Bytes>>,
    index: Index,
}

/// Where the tensors of a file are.
enum Index {
    Safetensors(safetensors::Index),
    Gguf(Box<Content>),
}

/// A matrix in the type in which it is stored.
pub struct Table {
    /// What errors call it.
    name: String,
    stored: Stored,
}

enum Stored {
    /// In f32, f16 or bf16.
    Plain(Tensor),
    Quantised(QTensor),
}

impl Table {
    /// Returns the rows of `ids` in `f32`.
    ///
    /// # Errors
    /// One sentence with the row that is not finite.
    pub fn rows(&self, ids: &[u32]) -> Result<Tensor> {
        let wanted = Tensor::new(ids, &Device::Cpu)?;
        let rows = match &self.stored {
            Stored::Plain(table) => table.index_select(&wanted, 0)?.to_dtype(DType::F32)?,
            Stored::Quantised(table) => table.embedding(&wanted)?,
        };
        if !is_finite(&rows)? {
            for (i, id) in ids.iter().enumerate() {
                ensure!(
                    is_finite(&rows.narrow(0, i, 1)?)?,
                    "{} holds a value that is not finite in row {id}",
                    self.name
                );
            }
        }
        Ok(rows)
    }

    /// Returns the whole matrix in `f32`.
    ///
    /// # Errors
    /// One sentence if it holds a value that is not finite.
    pub fn whole(&self) -> Result<Tensor> {
        let whole = match &self.stored {
            Stored::Plain(table) => table.to_dtype(DType::F32)?,
            Stored::Quantised(table) => table.dequantize(&Device::Cpu)?,
        };
        ensure!(is_finite(&whole)?, "{} holds a value that is not finite", self.name);
        Ok(whole)
    }
}

/// Returns whether every number of a tensor in `f32` is finite.
fn is_finite(tensor: &Tensor) -> Result<bool> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(CpuStorage::F32(all)) = &*storage else { bail!("expected numbers in f32 on the CPU") };
    let start = layout.start_offset();
    Ok(all[start..start + layout.shape().elem_count()].iter().all(|v| v.is_finite()))
}

/// Named tensors of one or several files.
pub struct Tensors {
    files: Vec<File>,
    /// The shape of each tensor, outermost dimension first, and its file.
    places: BTreeMap<String, (Vec<usize>, usize)>,
    /// Names that were asked for.
    used: Mutex<BTreeSet<String>>,
    is_gguf: bool,
}

impl Tensors {
    /// Opens a safetensors file, or several.
    ///
    /// # Errors
    /// One sentence with the file.
    pub fn open_safetensors(paths: &[impl AsRef<Path>]) -> Result<Self> {
        let mut files = Vec::new();
        for path in paths {
            let path = path.as_ref();
            files.push((path.display().to_string(), Box::new(input::open(path)?) as Box<dyn Bytes>));
        }
        Self::of_safetensors(files)
    }

    /// Reads a safetensors file in memory, which errors call `name`.
    ///
    /// # Errors
    /// One sentence with the name.
    pub fn in_memory(name: &str, bytes: &'static [u8]) -> Result<Self> {
        Self::of_safetensors(vec![(name.to_owned(), Box::new(std::io::Cursor::new(bytes)))])
    }

    fn of_safetensors(files: Vec<(String, Box<dyn Bytes>)>) -> Result<Self> {
        let mut all = Self::new(false);
        for (name, mut bytes) in files {
            let index = safetensors::Index::read(&mut bytes, &name)?;
            let shapes = index.shapes();
            all.add(File { name, bytes: Mutex::new(bytes), index: Index::Safetensors(index) }, shapes)?;
        }
        Ok(all)
    }

    /// Takes the tensors of a GGUF file whose header was read.
    ///
    /// # Errors
    /// One sentence with the file.
    pub fn of_gguf(path: &Path, content: Content) -> Result<Self> {
        let mut all = Self::new(true);
        let shapes =
            content.tensor_infos.iter().map(|(name, info)| (name.clone(), info.shape.dims().to_vec())).collect();
        let bytes = Box::new(std::io::BufReader::new(input::open(path)?));
        let name = path.display().to_string();
        all.add(File { name, bytes: Mutex::new(bytes), index: Index::Gguf(Box::new(content)) }, shapes)?;
        Ok(all)
    }

    fn new(is_gguf: bool) -> Self {
        Self { files: Vec::new(), places: BTreeMap::new(), used: Mutex::default(), is_gguf }
    }

    fn add(&mut self, file: File, shapes: Vec<(String, Vec<usize>)>) -> Result<()> {
        let at = self.files.len();
        for (tensor, shape) in shapes {
            if let Some((_, other)) = self.places.insert(tensor.clone(), (shape, at)) {
                let first = &self.files[other].name;
                bail!("{}: tensor {tensor:?} is in {first} already; expected it in one file", file.name);
            }
        }
        self.files.push(file);
        Ok(())
    }

    /// Returns whether the tensors are those of a GGUF file, which lays out some of them in ways of its own.
    pub fn is_gguf(&self) -> bool {
        self.is_gguf
    }

    /// Returns whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// Returns the names with the prefix, up to and with `part`, of one that was asked for, that nothing has asked for.
    pub fn unused_beside(&self, part: &str) -> Vec<&str> {
        let used = self.used.lock().unwrap_or_else(|e| e.into_inner());
        let prefix = used.iter().find_map(|name| name.find(part).map(|i| &name[..i + part.len()]));
        let Some(prefix) = prefix else { return Vec::new() };
        let names = self.places.keys().filter(|name| name.starts_with(prefix) && !used.contains(*name));
        names.map(String::as_str).collect()
    }

    /// Reads a tensor of a known shape in `f32`.
    ///
    /// # Errors
    /// One sentence with the file, the tensor, what was expected and what was found.
    pub fn read(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let (file, place) = self.locate(name, shape)?;
        let mut bytes = file.bytes.lock().unwrap_or_else(|e| e.into_inner());
        let tensor = match &file.index {
            Index::Safetensors(index) => index.tensor(&mut *bytes, name, place)?.to_dtype(DType::F32)?,
            Index::Gguf(content) => gguf::tensor(content, &mut *bytes, name, place)?.dequantize(&Device::Cpu)?,
        };
        drop(bytes);
        // A broken checkpoint is named before it is used.
        ensure!(is_finite(&tensor)?, "{place}: tensor {name:?} holds a value that is not finite");
        Ok(tensor)
    }

    /// Reads a matrix of which only some rows are needed at a time, in the type in which it is stored.
    ///
    /// # Errors
    /// As [`Self::read`]; that a number is not finite is found where its row is used.
    pub fn table(&self, name: &str, shape: [usize; 2]) -> Result<Table> {
        let (file, place) = self.locate(name, &shape)?;
        let mut bytes = file.bytes.lock().unwrap_or_else(|e| e.into_inner());
        let stored = match &file.index {
            Index::Safetensors(index) => Stored::Plain(index.tensor(&mut *bytes, name, place)?),
            Index::Gguf(content) => Stored::Quantised(gguf::tensor(content, &mut *bytes, name, place)?),
        };
        Ok(Table { name: format!("{place}: tensor {name:?}"), stored })
    }

    /// Returns the file of a tensor, and what errors call it.
    fn locate(&self, name: &str, shape: &[usize]) -> Result<(&File, &str)> {
        let Some((found, file)) = self.places.get(name) else {
            bail!("{}: tensor {name:?} is missing", self.files.first().map_or("the model", |file| &file.name));
        };
        self.used.lock().unwrap_or_else(|e| e.into_inner()).insert(name.to_owned());
        let file = &self.files[*file];
        ensure!(found == shape, "{}: tensor {name:?} must have shape {shape:?}, found {found:?}", file.name);
        Ok((file, &file.name))
    }
}
