//! Facts from `/proc` and `/sys`: settings, capabilities, RDMA devices, virtual functions. The root
//! directory can be replaced by a test.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use super::facts::{MaybeHidden, Rdma};

/// A directory with `proc` and `sys` in it.
#[derive(Debug, Clone)]
pub(super) struct Tree(PathBuf);

impl Tree {
    pub(super) fn of_this_machine() -> Self {
        Self(PathBuf::from("/"))
    }

    #[cfg(test)]
    pub(super) fn at(root: &Path) -> Self {
        Self(root.to_owned())
    }

    /// Returns the text of a file, without trailing white space.
    pub(super) fn text(&self, path: &str) -> MaybeHidden<String> {
        fs::read_to_string(self.0.join(path))
            .map(|text| text.trim_end().to_owned())
            .map_err(|error| format!("/{path}: {error}"))
            .into()
    }

    /// Returns the number in a file.
    pub(super) fn number(&self, path: &str) -> MaybeHidden<i64> {
        match self.text(path) {
            MaybeHidden::Known(text) => text
                .trim()
                .parse()
                .map_err(|_no_number| format!("/{path} contains `{text}`, expected a number"))
                .into(),
            MaybeHidden::Hidden(why) => MaybeHidden::Hidden(why),
        }
    }

    /// Returns an IPv4 setting of this network namespace.
    pub(super) fn ipv4(&self, name: &str) -> MaybeHidden<i64> {
        self.number(&format!("proc/sys/net/ipv4/{name}"))
    }

    /// Returns an IPv4 setting of one interface, or of `all`.
    pub(super) fn ipv4_of(&self, interface: &str, name: &str) -> MaybeHidden<i64> {
        self.ipv4(&format!("conf/{interface}/{name}"))
    }

    /// Returns a list of port ranges, which the kernel writes as `1-5,9`.
    pub(super) fn port_ranges(&self, name: &str) -> MaybeHidden<Vec<(u16, u16)>> {
        let text = match self.text(&format!("proc/sys/net/ipv4/{name}")) {
            MaybeHidden::Known(text) => text,
            MaybeHidden::Hidden(why) => return MaybeHidden::Hidden(why),
        };
        // `ip_local_port_range` has a tab in place of the dash.
        let ranges = text.split(',').map(str::trim).filter(|range| !range.is_empty());
        let ranges: Option<Vec<(u16, u16)>> = ranges
            .map(|range| {
                let mut ends = range.split(['-', '\t', ' ']).filter(|end| !end.is_empty());
                let first = ends.next()?.parse().ok()?;
                Some((first, ends.next().map_or(Some(first), |last| last.parse().ok())?))
            })
            .collect();
        ranges.ok_or_else(|| format!("{name} contains `{text}`, expected port ranges")).into()
    }

    /// Returns the effective capabilities of this process, one bit each; 0 if they cannot be read.
    pub(super) fn capabilities(&self) -> u64 {
        let status = self.text("proc/self/status");
        let line = status.known().and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
            u64::from_str_radix(line.trim(), 16).ok()
        });
        line.unwrap_or(0)
    }

    /// Returns the driver of an interface, and its number of virtual functions.
    pub(super) fn driver(&self, interface: &str) -> (Option<String>, u32) {
        let device = self.0.join("sys/class/net").join(interface).join("device");
        let driver = fs::read_link(device.join("driver")).ok();
        let driver = driver.as_deref().and_then(Path::file_name);
        let functions = fs::read_to_string(device.join("sriov_numvfs")).ok();
        let functions = functions.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        (driver.map(|name| name.to_string_lossy().into_owned()), functions)
    }

    /// Returns the RDMA devices, sorted by name.
    pub(super) fn rdma(&self) -> MaybeHidden<Vec<Rdma>> {
        let class = self.0.join("sys/class/infiniband");
        match names(&class) {
            Ok(devices) => MaybeHidden::Known(
                devices.into_iter().map(|name| rdma_device(&class.join(&name), name)).collect(),
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => MaybeHidden::Known(Vec::new()),
            Err(error) => MaybeHidden::Hidden(format!("/sys/class/infiniband: {error}")),
        }
    }
}

fn rdma_device(path: &Path, name: String) -> Rdma {
    let mut netdevs: BTreeSet<String> =
        names(&path.join("device/net")).unwrap_or_default().into_iter().collect();
    let mut link_layer = None;
    for port in names(&path.join("ports")).unwrap_or_default() {
        let port = path.join("ports").join(port);
        let read = |file: PathBuf| Some(fs::read_to_string(file).ok()?.trim().to_owned());
        link_layer = link_layer.or_else(|| read(port.join("link_layer")));
        let ndevs = port.join("gid_attrs/ndevs");
        // An unused GID entry cannot be read.
        netdevs.extend(
            names(&ndevs).unwrap_or_default().into_iter().filter_map(|gid| read(ndevs.join(gid))),
        );
    }
    netdevs.retain(|name| !name.is_empty());
    Rdma { name, netdevs: netdevs.into_iter().collect(), link_layer }
}

/// Returns the names in a directory, sorted.
fn names(directory: &Path) -> io::Result<Vec<String>> {
    let names = fs::read_dir(directory)?
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()));
    let mut names: Vec<String> = names.collect::<io::Result<_>>()?;
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn tree() -> (tempfile::TempDir, Tree) {
        let directory = tempfile::tempdir().expect("a directory");
        let tree = Tree::at(directory.path());
        (directory, tree)
    }

    fn write(tree: &Tree, path: &str, text: &str) {
        let path = tree.0.join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("directories");
        fs::write(path, text).expect("a file");
    }

    /// Cases 81 and 82 require that RDMA and virtual functions, which bypass the guard, are found.
    #[test]
    fn rdma_devices_and_virtual_functions_are_found_by_interface() {
        let (_directory, tree) = tree();
        assert_eq!(tree.rdma(), MaybeHidden::Known(vec![]));
        write(&tree, "sys/class/infiniband/mlx5_1/ports/1/link_layer", "InfiniBand\n");
        write(&tree, "sys/class/infiniband/mlx5_0/ports/1/link_layer", "Ethernet\n");
        write(&tree, "sys/class/infiniband/mlx5_0/ports/1/gid_attrs/ndevs/0", "rail0\n");
        write(&tree, "sys/class/infiniband/mlx5_0/ports/1/gid_attrs/ndevs/1", "rail0\n");
        write(&tree, "sys/class/infiniband/mlx5_0/device/net/rail0/mtu", "9000\n");
        let device = |name: &str, netdevs: &[&str], layer: &str| Rdma {
            name: name.to_owned(),
            netdevs: netdevs.iter().map(|name| (*name).to_owned()).collect(),
            link_layer: Some(layer.to_owned()),
        };
        let expected =
            vec![device("mlx5_0", &["rail0"], "Ethernet"), device("mlx5_1", &[], "InfiniBand")];
        assert_eq!(tree.rdma(), MaybeHidden::Known(expected));

        write(&tree, "sys/class/net/rail0/device/sriov_numvfs", "8\n");
        let driver = tree.0.join("sys/class/net/rail0/device/driver");
        symlink("../../../bus/pci/drivers/mlx5_core", driver).expect("a link");
        assert_eq!(tree.driver("rail0"), (Some("mlx5_core".to_owned()), 8));
        assert_eq!(tree.driver("none"), (None, 0));
    }

    #[test]
    fn port_ranges_are_parsed_as_the_kernel_writes_them() {
        let (_directory, tree) = tree();
        for (text, expected) in [
            ("32768\t60999\n", Some(vec![(32768, 60999)])),
            ("9091,29500-29510\n", Some(vec![(9091, 9091), (29500, 29510)])),
            ("\n", Some(vec![])),
            ("x\n", None),
        ] {
            write(&tree, "proc/sys/net/ipv4/a_range", text);
            assert_eq!(tree.port_ranges("a_range").known(), expected.as_ref(), "{text:?}");
        }
        let hidden = tree.port_ranges("no_such");
        assert!(
            matches!(&hidden, MaybeHidden::Hidden(why) if why.contains("no_such")),
            "{hidden:?}"
        );
    }
}
