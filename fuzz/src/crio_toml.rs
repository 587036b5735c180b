//! Any bytes as a file of CRI-O's: read, merged and judged without a panic; and what is planned beside
//! it is TOML.

use usernsd_domain::crio::CrioVersion;
use usernsd_domain::crio::check::{check, unchecked};
use usernsd_domain::crio::config::{ConfFile, Content, Effective, MAIN_FILE};
use usernsd_domain::crio::drop_in::{CrioNode, CrioOptions, plan};
use usernsd_domain::crio::loaded::differences;
use usernsd_prepare::runtime_files::parse;

/// See the module.
pub fn run(bytes: &[u8]) {
    let Some((minor, text)) = bytes.split_first() else { return };
    let version = CrioVersion::new(1, 20 + u16::from(*minor) % 18, 0);
    let file = ConfFile { path: MAIN_FILE.to_owned(), link: false, content: parse(text) };
    let files = [file.clone()];
    let _ = Effective::of(version, &files);
    let _ = check(version, &files, &unchecked);
    assert!(differences(version, &files, &file).is_empty(), "a file is itself");
    let node = CrioNode { version, kubernetes: None, files: Some(&files), programs: &unchecked };
    if let Ok(drop_in) = plan(node, CrioOptions::default())
        && let Some(text) = drop_in.text
    {
        assert!(matches!(parse(text.as_bytes()), Content::Toml(_)), "{text}");
    }
}
