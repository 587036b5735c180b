//! The fuzz targets. Each module accepts any bytes and panics if a promise is broken.
//!
//! libFuzzer calls them (`make fuzz`), and so does an ordinary test (`tests/it/fuzz.rs`) with the inputs of
//! `corpus/`.

pub mod crio_toml;
pub mod machine_config;
pub mod nri_conversation;
pub mod nri_frames;
pub mod runtime_json;
pub mod subid_text;

/// A module's name, which is also that of its corpus, and the function that runs an input.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 6] = [
    ("crio_toml", crio_toml::run),
    ("machine_config", machine_config::run),
    ("nri_conversation", nri_conversation::run),
    ("nri_frames", nri_frames::run),
    ("runtime_json", runtime_json::run),
    ("subid_text", subid_text::run),
];
