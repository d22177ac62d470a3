//! What the kernel tells of a loaded program.

use aya::programs::{ProgramInfo, loaded_programs};

use crate::system_error::SystemError;

/// A loaded program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Its id, which no other program of this machine has while it lives.
    pub id: u32,
    /// Its name, at most 15 bytes.
    pub name: String,
    /// The kernel's hash of its instructions; none if it keeps none.
    pub tag: Option<[u8; 8]>,
}

impl Program {
    /// Looks for a program by id; none if there is none. Takes `CAP_SYS_ADMIN`.
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
