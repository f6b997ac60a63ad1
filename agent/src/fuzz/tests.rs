//! The kept inputs, as they are and varied: quick, and without coverage.

use std::{
    collections::BTreeSet,
    fs,
    panic::catch_unwind,
    path::{Path, PathBuf},
};

use super::*;

/// Bytes that all kept inputs together may have: they are there to be read.
const BYTES: usize = 64 << 10;

/// Inputs that one target may have.
const INPUTS: usize = 60;

/// Variations of the inputs of each target, in the everyday run and in the full one.
const VARIED: (usize, usize) = (5_000, 100_000);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz")
}

fn inputs(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = folder().join("corpus").join(target.name);
    let entries = fs::read_dir(&folder).expect("every target has kept inputs");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("a file").path()).collect();
    files.sort();
    files.into_iter().map(|file| (file.clone(), fs::read(file).expect("a file"))).collect()
}

/// Whether the laws hold for an input; what breaks them is on standard error.
fn holds(target: &Target, input: &[u8]) -> bool {
    catch_unwind(|| (target.run)(input)).is_ok()
}

#[test]
fn kept_inputs_find_nothing() {
    for target in TARGETS {
        for (file, input) in inputs(target) {
            assert!(holds(target, &input), "{} is a finding", file.display());
        }
    }
}

#[test]
fn varied_inputs_find_nothing() {
    let count = if std::env::var_os("POSTERN_TEST_FULL").is_some() { VARIED.1 } else { VARIED.0 };
    for target in TARGETS {
        let inputs = inputs(target);
        let mut random = Random(0x9E37_79B9_7F4A_7C15);
        for _ in 0..count {
            let input = varied(&inputs, &mut random);
            assert!(holds(target, &input), "target {}: this is a finding:\n{}", target.name, input.escape_ascii());
        }
    }
}

#[test]
fn what_is_kept_is_little_and_belongs_to_a_target() {
    let folders = |name: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(folder().join(name)).expect("a folder");
        entries.map(|entry| entry.expect("an entry").path()).map(|path| stem(&path)).collect()
    };
    let names: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(folders("corpus"), names);
    assert_eq!(folders("dictionary"), names);
    for target in TARGETS {
        let count = inputs(target).len();
        assert!(count <= INPUTS, "{}: {count} inputs are kept: at most {INPUTS}", target.name);
    }
    let kept: usize = TARGETS.iter().flat_map(inputs).map(|(_, input)| input.len()).sum();
    assert!(kept <= BYTES, "{kept} bytes are kept: at most {BYTES}");
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// An input out of lines of others, some of their bytes changed.
fn varied(inputs: &[(PathBuf, Vec<u8>)], random: &mut Random) -> Vec<u8> {
    let any = |random: &mut Random| &inputs[random.below(inputs.len())].1;
    let mut input = any(random).clone();
    for _ in 0..=random.below(3) {
        match random.below(4) {
            0 => {
                let other = any(random);
                let lines: Vec<&[u8]> = other.split_inclusive(|&byte| byte == b'\n').collect();
                let line = lines.get(random.below(lines.len())).copied().unwrap_or_default();
                let at = input.iter().skip(random.below(input.len())).position(|&byte| byte == b'\n').unwrap_or(0);
                input.splice(at..at, line.iter().copied());
            }
            1 => input.truncate(random.below(input.len())),
            _ => {
                let at = random.below(input.len());
                if let Some(byte) = input.get_mut(at) {
                    *byte = random.next() as u8;
                }
            }
        }
    }
    input
}

/// The same numbers at each run: whoever sees a failure can see it again.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below this; 0 if there is none.
    fn below(&mut self, end: usize) -> usize {
        (self.next() >> 16) as usize % end.max(1)
    }
}
