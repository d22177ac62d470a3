//! Names of the pins, and the definitions of the maps in the kernel object.

use std::path::Path;

use anyhow::{Context as _, Result};
use aya_obj::Object;
use guard_common::names;
use guard_user::{attach_mode::Hook, bpf::pins::Pins, embedded_object::kernel_object};

/// Returns the lines about pins, and about maps if this program embeds the kernel object.
pub(crate) fn lines() -> Result<Vec<(String, String)>> {
    let pins = Pins::at(Path::new(""));
    let link = |from, hook| pins.link_path("eth0.100", from, hook).display().to_string();
    let mut lines = vec![
        ("pin of a link".to_owned(), link(None, Hook::Xdp)),
        ("pin of a link of the tc hook".to_owned(), link(None, Hook::Tc)),
        ("pin of the link of a renamed interface".to_owned(), link(Some("eth0"), Hook::Tc)),
        ("pins of maps".to_owned(), names::SHARED_MAPS.join(" ")),
    ];
    let Some(object) = kernel_object() else { return Ok(lines) };
    let object = Object::parse(object).context("reading the kernel object")?;
    for name in names::SHARED_MAPS {
        let map = object.maps.get(name).with_context(|| format!("no map {name}"))?;
        for (what, value) in [
            ("type", map.map_type()),
            ("key_size", map.key_size()),
            ("value_size", map.value_size()),
            ("max_entries", map.max_entries()),
            ("flags", map.map_flags()),
        ] {
            lines.push((format!("map {name}.{what}"), value.to_string()));
        }
    }
    Ok(lines)
}
