//! Frames as text, for data files: layers separated by slashes, each with its fields.
//!
//! `vlan tag=5 / ipv4 from=192.0.2.66 options=8 / tcp to=9091 flags=S / bytes 100 / pad 6`
//!
//! An Ethernet header is added in front unless the text begins with one. Numbers are decimal or `0x`. At
//! the end, `pad N` adds bytes that no header counts, and `cut N` removes bytes.

use std::str::FromStr;

use anyhow::{Context as _, Result, bail, ensure};

use crate::packet::{self, Ethernet, Extension, Ipv4, Ipv6, Kind, Layer, Ports, Vlan};

/// Default destination: the guarded node of all worlds.
const NODE4: &str = "10.77.0.10";
const NODE6: &str = "fd77::10";

/// Parses a text into a frame.
pub fn frame(text: &str) -> Result<Vec<u8>> {
    let mut layers = Vec::new();
    let mut pad = 0;
    let mut cut = 0;
    for part in text.split('/').map(str::trim) {
        let mut fields = Fields::new(part);
        let word = fields.word.clone();
        match word.as_str() {
            "pad" => pad += fields.bare::<usize>()?,
            "cut" => cut += fields.bare::<usize>()?,
            _ => layers.push(layer(&word, &mut fields).with_context(|| format!("`{part}`"))?),
        }
        ensure!(fields.rest.is_empty(), "`{part}`: unknown fields {:?}", fields.rest);
    }
    if !matches!(layers.first(), Some(Layer::Ethernet(_))) {
        layers.insert(0, Layer::Ethernet(Ethernet { to: [2, 0, 0, 0, 0, 2], ethertype: None }));
    }
    let mut bytes = packet::frame(&layers);
    bytes.resize(bytes.len() + pad, 0);
    bytes.truncate(bytes.len().checked_sub(cut).context("`cut` exceeds the length of the frame")?);
    Ok(bytes)
}

fn layer(word: &str, fields: &mut Fields) -> Result<Layer> {
    Ok(match word {
        "eth" => {
            let to = if fields.flag("broadcast") { [0xff; 6] } else { [2, 0, 0, 0, 0, 2] };
            Layer::Ethernet(Ethernet { to, ethertype: fields.number("type")? })
        }
        "vlan" | "svlan" => Layer::Vlan(Vlan {
            kind: if word == "vlan" { 0x8100 } else { 0x88a8 },
            tag: fields.number("tag")?.unwrap_or(1),
            ethertype: fields.number("type")?,
        }),
        "ipv4" => Layer::Ipv4(Ipv4 {
            from: fields.text("from").context("`from`")?.parse()?,
            to: fields.text("to").as_deref().unwrap_or(NODE4).parse()?,
            options: fields.number("options")?.unwrap_or(0),
            offset: fields.number("offset")?.unwrap_or(0),
            more: fields.flag("more"),
            version: fields.number("version")?,
            ihl: fields.number("ihl")?,
            total: fields.number("total")?,
            protocol: fields.number("protocol")?,
        }),
        "ipv6" => Layer::Ipv6(Ipv6 {
            from: fields.text("from").context("`from`")?.parse()?,
            to: fields.text("to").as_deref().unwrap_or(NODE6).parse()?,
            version: fields.number("version")?,
            payload: fields.number("payload")?,
            protocol: fields.number("protocol")?,
        }),
        "hop" => extension(Kind::HopByHop, fields)?,
        "routing" => extension(Kind::Routing, fields)?,
        "fragment" => extension(Kind::Fragment, fields)?,
        "ah" => extension(Kind::Authentication, fields)?,
        "destination" => extension(Kind::Destination, fields)?,
        "tcp" => ports(6, fields)?,
        "udp" => ports(17, fields)?,
        "sctp" => ports(132, fields)?,
        "udplite" => ports(136, fields)?,
        "icmp" => Layer::Protocol(1, vec![8, 0, 0, 0, 0, 1, 0, 1]),
        "icmp6" => Layer::Protocol(58, vec![135, 0, 0, 0, 0, 0, 0, 0]),
        "gre" => Layer::Protocol(47, vec![0, 0, 8, 0]),
        "protocol" => Layer::Protocol(fields.bare()?, vec![0; 16]),
        "bytes" => Layer::Bytes(vec![0; fields.bare()?]),
        _ => bail!("unknown layer `{word}`"),
    })
}

fn extension(kind: Kind, fields: &mut Fields) -> Result<Layer> {
    let shortest = Extension::new(kind);
    Ok(Layer::Extension(Extension {
        units: fields.number("units")?.unwrap_or(shortest.units),
        lie: fields.number("lie")?,
        offset: fields.number("offset")?.unwrap_or(0),
        more: fields.flag("more"),
        protocol: fields.number("protocol")?,
        ..shortest
    }))
}

fn ports(protocol: u8, fields: &mut Fields) -> Result<Layer> {
    let mut flags = 0;
    for letter in fields.text("flags").unwrap_or_default().chars() {
        flags |= match letter {
            'F' => 0x01,
            'S' => 0x02,
            'R' => 0x04,
            'P' => 0x08,
            'A' => 0x10,
            'E' => 0x40,
            'C' => 0x80,
            _ => bail!("unknown TCP flag `{letter}`"),
        };
    }
    Ok(Layer::Ports(Ports {
        protocol,
        from: fields.number("from")?.unwrap_or(40000),
        to: fields.number("to")?.context("`to`")?,
        flags,
        len: fields.number("len")?,
    }))
}

/// The words of one layer. Each field is removed when it is read, so that an unknown field is left over
/// and reported.
struct Fields {
    word: String,
    rest: Vec<String>,
}

impl Fields {
    fn new(part: &str) -> Self {
        let mut words = part.split_whitespace().map(str::to_owned);
        Self { word: words.next().unwrap_or_default(), rest: words.collect() }
    }

    fn flag(&mut self, name: &str) -> bool {
        let before = self.rest.len();
        self.rest.retain(|word| word != name);
        self.rest.len() != before
    }

    fn text(&mut self, name: &str) -> Option<String> {
        let at = self.rest.iter().position(|word| word.split('=').next() == Some(name))?;
        self.rest.remove(at).split_once('=').map(|(_, value)| value.to_owned())
    }

    fn number<T: TryFrom<u64>>(&mut self, name: &str) -> Result<Option<T>> {
        self.text(name).map(|text| parse(&text)).transpose()
    }

    /// Takes the only word.
    fn bare<T: TryFrom<u64>>(&mut self) -> Result<T> {
        ensure!(self.rest.len() == 1, "expected one number, found {:?}", self.rest);
        parse(&self.rest.remove(0))
    }
}

fn parse<T: TryFrom<u64>>(text: &str) -> Result<T> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => u64::from_str(text),
    };
    let number = number.with_context(|| text.to_owned())?;
    T::try_from(number).ok().with_context(|| format!("{text} is out of range for its field"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_a_frame() {
        let bytes =
            frame("vlan tag=5 / ipv4 from=192.0.2.66 options=8 / udp to=53 / pad 6").unwrap();
        assert_eq!(bytes.len(), 14 + 4 + 28 + 8 + 6);
        assert_eq!(bytes[12..20], [0x81, 0, 0, 5, 0x08, 0, 0x47, 0]);
        assert_eq!(bytes[18 + 2..18 + 4], [0, 36]);
    }

    #[test]
    fn misspelt_fields_are_refused() {
        for text in ["ipv4 from=192.0.2.66 option=8", "tcp flags=S", "ipv5", "pad", "pad 300 4"] {
            assert!(frame(text).is_err(), "{text}");
        }
    }
}
