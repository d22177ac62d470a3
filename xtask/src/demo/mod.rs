//! `cargo xtask demo`
pub(crate) mod cluster;
pub(crate) mod traffic;
/// x
#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {}
pub(crate) fn run(_: &DemoArgs) -> anyhow::Result<bool> {
    Ok(false)
}
