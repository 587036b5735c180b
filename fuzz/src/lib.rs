//! What is fuzzed. Each module takes any bytes and panics where a promise is broken.
//!
//! libFuzzer calls them (`make fuzz`), and so does an ordinary test (`tests/it/fuzz.rs`) with the inputs of `corpus/`.

pub mod crio_toml;
pub mod machine_config;
pub mod nri_conversation;
pub mod nri_frames;
pub mod runtime_json;
pub mod subid_text;

/// One of the modules: its name, which is also that of its corpus, and what it does with an input.
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
