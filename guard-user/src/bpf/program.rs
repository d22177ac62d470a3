//! Information of the kernel about a loaded program.

use aya::programs::{ProgramInfo, loaded_programs};

use crate::system_error::SystemError;

/// A program that is loaded in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Id of the program, unique on this machine while the program is loaded.
    pub id: u32,
    /// Name of the program, at most 15 bytes.
    pub name: String,
    /// The kernel's hash (tag) of the instructions; none if the kernel has none.
    pub tag: Option<[u8; 8]>,
}

impl Program {
    /// Finds a loaded program by id; returns none if there is none. Requires `CAP_SYS_ADMIN`.
    pub fn find(id: u32) -> Result<Option<Self>, SystemError> {
        let failed = |error| SystemError::of("listing the loaded programs", error);
        for info in loaded_programs() {
            let info = info.map_err(failed)?;
            if info.id() == id {
                return Ok(Some(Self::from(&info)));
            }
        }
        Ok(None)
    }
}

impl From<&ProgramInfo> for Program {
    fn from(info: &ProgramInfo) -> Self {
        let tag = info.tag();
        Self {
            id: info.id(),
            name: String::from_utf8_lossy(info.name()).into_owned(),
            tag: (tag != 0).then(|| tag.to_be_bytes()),
        }
    }
}
