//! The simple programs: the reference programs, and the sender.

use std::{
    os::fd::{AsFd as _, BorrowedFd},
    path::Path,
};

use anyhow::{Context as _, Result};
use aya::{Ebpf, EbpfLoader, programs::Xdp};

/// An object with simple programs: the reference programs, or the sender.
#[derive(Debug)]
pub struct Simple(pub Ebpf);

impl Simple {
    /// Loads some programs of the object. The sender sends out of the interface with index `index`.
    pub fn load(object: &Path, index: u32, programs: &[&str]) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        loader.override_global("FLOOD_TO", &index, false);
        let ebpf = loader.load_file(object);
        let mut simple = Self(ebpf.with_context(|| object.display().to_string())?);
        for name in programs {
            simple.xdp(name)?.load().with_context(|| format!("loading `{name}`"))?;
        }
        Ok(simple)
    }

    /// Returns the descriptor of one of the programs.
    pub fn program(&self, name: &str) -> Result<BorrowedFd<'_>> {
        let program = self
            .0
            .program(name)
            .with_context(|| format!("the kernel object has no program `{name}`"))?;
        Ok(program.fd()?.as_fd())
    }

    fn xdp(&mut self, name: &str) -> Result<&mut Xdp> {
        let program = self
            .0
            .program_mut(name)
            .with_context(|| format!("the kernel object has no program `{name}`"))?;
        Ok(program.try_into()?)
    }
}
