//! `strata.h` agrees with the sources.

use std::path::Path;

#[test]
fn the_header_is_what_the_sources_say() {
    let ffi = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ffi");
    let config = cbindgen::Config::from_file(ffi.join("cbindgen.toml")).unwrap();
    let mut generated = Vec::new();
    cbindgen::Builder::new().with_crate(&ffi).with_config(config).generate().unwrap().write(&mut generated);
    let path = ffi.join("include/strata.h");
    if std::env::var_os("STRATA_WRITE_HEADER").is_some() {
        std::fs::write(&path, &generated).unwrap();
    }
    let same = std::fs::read(&path).unwrap() == generated;
    assert!(same, "include/strata.h is not what the sources say: run ffi/generate-header.sh");
}

#[test]
fn constants_have_the_prefix_and_those_that_are_unsigned_say_so() {
    let header = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ffi/include/strata.h");
    let header = std::fs::read_to_string(header).unwrap();
    let mut constants = 0;
    for line in header.lines().filter(|line| line.starts_with("#define ") && *line != "#define STRATA_H") {
        let (name, value) = line["#define ".len()..].split_once(' ').unwrap();
        assert!(name.starts_with("STRATA_"), "{line}");
        assert_eq!(value.ends_with('u'), !name.starts_with("STRATA_STATUS_"), "{line}");
        constants += 1;
    }
    assert!(constants > 20, "{constants} constants");
    assert!(header.contains("#define STRATA_ROOT 4294967295u\n"));
    // A reader meets every number before the first type and function that has it.
    let (first, last) = (header.find("typedef").unwrap(), header.rfind("#define STRATA_").unwrap());
    assert!(last < first, "a constant behind the types: {}", header[last..].lines().next().unwrap());
}

#[test]
fn every_exported_function_is_in_the_header_and_in_the_list() {
    let ffi = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ffi");
    let [header, list] =
        ["include/strata.h", "exports.txt"].map(|name| std::fs::read_to_string(ffi.join(name)).unwrap());
    let files = std::fs::read_dir(ffi.join("src")).unwrap().map(|file| file.unwrap().path());
    let source: String = files.map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let mut exported: Vec<&str> =
        source.split("extern \"C\" fn ").skip(1).map(|rest| rest.split('(').next().unwrap()).collect();
    exported.sort_unstable();
    assert_eq!(exported, list.lines().collect::<Vec<_>>());
    for name in exported {
        assert_eq!(header.matches(&format!("{name}(")).count(), 1, "{name}");
    }
}
