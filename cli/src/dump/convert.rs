//! Lines of Python, for messages, that convert files which are not read.

use std::io::Read;
use std::path::Path;

use strata_core::format::npy::NpyArray;

use super::names::extension;
use crate::files::read;

/// Returns a path as a Python string.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = !text.contains(['\\', '\'', '"', '$', '`', '\n']);
    if plain { format!("'{text}'") } else { "'FILE'".into() }
}

/// Returns the file beside `path` that a conversion writes.
fn beside(path: &Path, ending: &str) -> String {
    quoted(&path.with_extension(ending))
}

/// Returns the sentence with a line of Python.
fn line(code: &str) -> String {
    format!("convert it with: python -c \"{code}\"")
}

/// Returns the line for a `.npy` of rows that is not row-major, little-endian and of f32 or f16, if its numbers are
/// floats.
pub(super) fn npy(path: &Path, file: &[u8]) -> Option<String> {
    let array = NpyArray::parse(file).ok()?;
    let kind = array.descr.trim_start_matches(['<', '>', '|', '=']);
    if !kind.starts_with(['f', 'i', 'u']) || array.shape.len() < 2 || array.shape.contains(&0) {
        return None;
    }
    let dtype = if kind == "f2" { "<f2" } else { "<f4" };
    let reshape = if array.shape.len() > 3 { ".reshape(-1, x.shape[-1])" } else { "" };
    let (from, to) = (quoted(path), beside(path, "rows.npy"));
    Some(line(&format!(
        "import numpy as np; x = np.load({from}, mmap_mode='r'); np.save({to}, np.ascontiguousarray(x, '{dtype}'){reshape})"
    )))
}

/// Returns the line for integers that are not read.
pub(super) fn integers(path: &Path) -> String {
    let (from, to) = (quoted(path), beside(path, "ids.npy"));
    match extension(path).as_str() {
        "npy" => line(&format!("import numpy as np; np.save({to}, np.ascontiguousarray(np.load({from}), '<i8'))")),
        "npz" => line(&format!("import numpy as np; z = np.load({from}); np.save({to}, z[z.files[0]].astype('<i8'))")),
        "pt" | "pth" => {
            line(&format!("import torch, numpy as np; np.save({to}, torch.load({from}, map_location='cpu').numpy())"))
        }
        _ => "save them with numpy.save".into(),
    }
}

/// Returns what a file or directory that is not a dump seems to be, with the line that makes a dump of it.
pub(super) fn foreign(path: &Path) -> Option<String> {
    if path.is_dir() {
        return directory(path);
    }
    let from = quoted(path);
    let npy = beside(path, "npy");
    let st = beside(path, "safetensors");
    let torch = || {
        let code = format!(
            "import torch; from safetensors.torch import save_file; save_file({{'activations': torch.load({from}, \
             map_location='cpu').contiguous()}}, {st})"
        );
        format!("is a file of torch.save, which is not read; {}", line(&code))
    };
    match extension(path).as_str() {
        "pt" | "pth" | "ckpt" => Some(torch()),
        "bin" if is_zip(path) => Some(torch()),
        "npz" => Some(format!(
            "is an archive of arrays, which cannot be mapped; {}",
            line(&format!("import numpy as np; z = np.load({from}); np.save({npy}, z[z.files[0]])"))
        )),
        "h5" | "hdf5" => Some(format!(
            "is an HDF5 file, which is not read; {}",
            line(&format!(
                "import h5py, numpy as np; f = h5py.File({from}); np.save({npy}, f[list(f)[0]][:].astype('<f4'))"
            ))
        )),
        "parquet" => Some(format!(
            "is a Parquet file, which is not read; {}",
            line(&format!(
                "import pandas as pd, numpy as np; x = pd.read_parquet({from}); np.save({npy}, \
                 np.stack(x[x.columns[0]]).astype('<f4'))"
            ))
        )),
        "csv" | "tsv" => Some(format!(
            "is a text file, which is not read; {}",
            line(&format!(
                "import numpy as np; np.save({npy}, np.loadtxt({from}, delimiter={}).astype('<f4'))",
                if extension(path) == "csv" { "','" } else { "None" }
            ))
        )),
        "arrow" => Some("is one file of a data set: give the directory that holds its state.json".into()),
        "zst" => Some("is compressed: decompress it with `zstd -d` first".into()),
        "gz" => Some("is compressed: decompress it with `gunzip` first".into()),
        _ => None,
    }
}

fn is_zip(path: &Path) -> bool {
    let mut magic = [0; 4];
    read::open(path).is_ok_and(|mut f| f.read_exact(&mut magic).is_ok()) && &magic == b"PK\x03\x04"
}

fn directory(path: &Path) -> Option<String> {
    let (from, has) = (quoted(path), |name: &str| path.join(name).exists());
    let npy = beside(path, "npy");
    if has(".zarray") || has("zarr.json") || has(".zgroup") {
        let code = format!(
            "import zarr, numpy as np; z = zarr.open({from}, mode='r'); m = np.lib.format.open_memmap({npy}, 'w+', '<f4', \
             z.shape); [m.__setitem__(slice(i, i + 4096), z[i:i + 4096]) for i in range(0, len(z), 4096)]"
        );
        return Some(format!("is a zarr array, which is not read; {}", line(&code)));
    }
    if has("dataset_dict.json") {
        return Some("is several data sets: give the directory of one of them".into());
    }
    if has("state.json") || has("dataset_info.json") {
        return Some(format!(
            "is a Hugging Face data set that is not read as it is; {}",
            dataset(&path.join("state.json"))
        ));
    }
    None
}

/// Returns the line for a Hugging Face data set that includes `file`.
pub(super) fn dataset(file: &Path) -> String {
    let directory = file.parent().unwrap_or(file);
    let (from, npy) = (quoted(directory), beside(directory, "npy"));
    line(&format!(
        "from datasets import load_from_disk; import numpy as np; d = load_from_disk({from}).with_format('numpy'); \
         np.save({npy}, np.stack(d[d.column_names[0]]).astype('<f4'))"
    ))
}
