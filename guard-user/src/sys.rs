//! System calls that aya does not provide, and all unsafe code of this crate.
//!
//! Links are created here instead of with `Xdp::attach`: on `EINVAL`, aya 0.14 falls back to
//! attaching with netlink. Such an attachment cannot be pinned, and stays without an owner when this
//! process ends.

use std::{
    ffi::{CString, c_long},
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya_obj::generated::{
    BPF_F_XDP_HAS_FRAGS, bpf_attach_type, bpf_attr, bpf_cmd, bpf_link_info, bpf_map_info,
    bpf_map_type, bpf_prog_info, bpf_prog_type,
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::attach_mode::{Hook, Mode};

/// Information of the kernel about a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkInfo {
    /// Id of the link, unique on this machine while the link exists.
    pub id: u32,
    /// Hook of the link; none if it is neither XDP nor tc.
    pub hook: Option<Hook>,
    /// Id of the program.
    pub program_id: u32,
    /// Index of the interface; 0 once the interface is gone or the link was detached.
    pub ifindex: u32,
}

/// Attaches a program to an interface. The program stays attached as long as the link exists, which
/// its descriptors and pins keep.
/// Decision: `docs/decisions/0010-own-link-create.md`.
///
/// # Errors
/// XDP: `EBUSY` or `EEXIST` if another program is attached; `EOPNOTSUPP`, `ERANGE` or `EINVAL` if the
/// driver cannot run it. tc: `EINVAL` if the kernel has no TCX (before 6.6); `ERANGE` if the
/// interface has the maximum number of programs. Both: `ENODEV`, `EPERM`.
pub fn link_create(program: BorrowedFd<'_>, ifindex: u32, mode: Mode) -> io::Result<OwnedFd> {
    let mut attr = zeroed_attr();
    // Writing to a union of plain integers is safe. The kernel reads these fields for this command.
    attr.link_create.__bindgen_anon_1.prog_fd = raw(program);
    attr.link_create.__bindgen_anon_2.target_ifindex = ifindex;
    attr.link_create.attach_type = mode.attach_type() as u32;
    attr.link_create.flags = mode.flags();
    descriptor(bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr)?)
}

/// Registers a descriptor so that tokio tasks can wait until it is readable. Must be called in a
/// runtime.
///
/// # Errors
/// `EPERM` if the descriptor does not support polling.
pub fn readiness(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` always names the one open descriptor that it owns, and closes it only
    // when it is dropped, which the `AsyncFd` that owns it does after giving up the registration.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

/// Replaces the program of a link atomically: each frame is evaluated by the old or by the new one.
///
/// # Errors
/// `ENOLINK` if the interface is gone.
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed_attr();
    attr.link_update.link_fd = raw(link);
    attr.link_update.__bindgen_anon_1.new_prog_fd = raw(program);
    bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// Detaches the program of a link, even if other processes hold the link.
///
/// # Errors
/// `ENOLINK` if the interface is gone.
pub fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed_attr();
    attr.link_detach.link_fd = raw(link);
    bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr).map(drop)
}

/// Returns the program, the hook and the interface of a link.
pub fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    // SAFETY: plain integers, for which all bits zero is a value.
    let mut info: bpf_link_info = unsafe { std::mem::zeroed() };
    let mut attr = zeroed_attr();
    attr.info.bpf_fd = raw(link);
    attr.info.info_len = u32::try_from(size_of::<bpf_link_info>()).unwrap_or(0);
    attr.info.info = (&raw mut info) as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    // SAFETY: a union of plain integers, all of them initialised above; for an XDP link the kernel
    // has filled in this member (`bpf_xdp_link_fill_link_info`, net/core/dev.c). That of a tc link
    // (`tcx_link_fill_info`, kernel/bpf/tcx.c) begins with the same field.
    let ifindex = unsafe { info.__bindgen_anon_1.xdp.ifindex };
    let hook = Hook::of_link(info.type_);
    Ok(LinkInfo { id: info.id, hook, program_id: info.prog_id, ifindex })
}

/// Maximum number of tc programs of an interface (`BPF_MPROG_MAX`, `include/linux/bpf_mprog.h`).
const MAX_TC_PROGRAMS: usize = 64;

/// Returns the ids of the tc programs of an interface (TCX, ingress), in the order in which they run.
///
/// # Errors
/// `EINVAL` if the kernel has no TCX, `ENODEV`, `EPERM`.
pub fn tc_programs(ifindex: u32) -> io::Result<Vec<u32>> {
    let mut ids = [0_u32; MAX_TC_PROGRAMS];
    let mut attr = zeroed_attr();
    attr.query.__bindgen_anon_1.target_ifindex = ifindex;
    attr.query.attach_type = bpf_attach_type::BPF_TCX_INGRESS as u32;
    attr.query.prog_ids = (&raw mut ids) as u64;
    attr.query.__bindgen_anon_2.count = u32::try_from(ids.len()).unwrap_or(0);
    bpf(bpf_cmd::BPF_PROG_QUERY, &mut attr)?;
    // SAFETY: a union of plain integers, all of them initialised; the kernel has set this one.
    let count = unsafe { attr.query.__bindgen_anon_2.count };
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    Ok(ids.get(..count).unwrap_or(&ids).to_vec())
}

/// Pins a map, program or link at a path of a bpf file system, so that it outlives this process.
pub fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    attr.__bindgen_anon_4.bpf_fd = raw(object);
    bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
}

/// Opens the map, program or link that is pinned at a path.
pub fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    descriptor(bpf(bpf_cmd::BPF_OBJ_GET, &mut attr)?)
}

/// Creates a map, to test whether the kernel supports it. The map is freed with its descriptor.
///
/// # Errors
/// `EINVAL` if the kernel does not support the map type; `EPERM`.
pub fn map_create(kind: bpf_map_type, key: u32, value: u32, entries: u32) -> io::Result<OwnedFd> {
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_1.map_type = kind as u32;
    attr.__bindgen_anon_1.key_size = key;
    attr.__bindgen_anon_1.value_size = value;
    attr.__bindgen_anon_1.max_entries = entries;
    descriptor(bpf(bpf_cmd::BPF_MAP_CREATE, &mut attr)?)
}

/// A map with arbitrary keys and values, which are read as bytes.
#[derive(Debug)]
pub struct RawMap {
    fd: OwnedFd,
    /// Id of the map. The kernel does not reuse it before a reboot.
    pub id: u32,
    key_size: usize,
    /// Bytes that a lookup writes. For a per-CPU map, this is a value for each possible CPU, each
    /// padded to 8 bytes.
    answer_size: usize,
    /// Maximum number of entries.
    pub entries: u32,
}

impl RawMap {
    /// Opens a pinned map.
    ///
    /// # Errors
    /// `ENOENT` if nothing is pinned at the path, `EINVAL` if it is not a map, `EPERM`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let fd = open_pinned(path)?;
        // For a link or a program, the kernel would fill in the same buffer differently, without an
        // error.
        let what = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
        if what != Path::new("anon_inode:bpf-map") {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: plain integers and bytes, for which all bits zero is a value.
        let mut info: bpf_map_info = unsafe { std::mem::zeroed() };
        let mut attr = zeroed_attr();
        attr.info.bpf_fd = raw(fd.as_fd());
        attr.info.info_len = u32::try_from(size_of::<bpf_map_info>()).unwrap_or(0);
        attr.info.info = (&raw mut info) as u64;
        bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
        let is_per_cpu = [
            bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY,
            bpf_map_type::BPF_MAP_TYPE_PERCPU_HASH,
            bpf_map_type::BPF_MAP_TYPE_LRU_PERCPU_HASH,
            bpf_map_type::BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE,
        ];
        let value_size = info.value_size as usize;
        let answer_size = if is_per_cpu.iter().any(|kind| *kind as u32 == info.type_) {
            let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
            value_size.next_multiple_of(8).saturating_mul(cpus)
        } else {
            value_size
        };
        Ok(Self {
            fd,
            id: info.id,
            key_size: info.key_size as usize,
            answer_size,
            entries: info.max_entries,
        })
    }

    /// Returns the value of a key. For a per-CPU map, these are the values of all possible CPUs.
    ///
    /// # Errors
    /// `ENOENT` if there is no such key, `EINVAL` if the key has the wrong size.
    pub fn lookup(&self, key: &[u8]) -> io::Result<Vec<u8>> {
        self.check(key)?;
        let mut value = vec![0; self.answer_size];
        let mut attr = zeroed_attr();
        attr.__bindgen_anon_2.map_fd = raw(self.fd.as_fd());
        attr.__bindgen_anon_2.key = key.as_ptr() as u64;
        // The kernel reads the key, and writes `answer_size` bytes.
        attr.__bindgen_anon_2.__bindgen_anon_1.value = value.as_mut_ptr() as u64;
        bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr)?;
        Ok(value)
    }

    /// Returns the key after this one, or the first key. None after the last key.
    ///
    /// # Errors
    /// `EINVAL` if the key has the wrong size, `ENOTSUPP` if the map has no keys.
    pub fn next_key(&self, key: Option<&[u8]>) -> io::Result<Option<Vec<u8>>> {
        let mut next = vec![0; self.key_size];
        let mut attr = zeroed_attr();
        attr.__bindgen_anon_2.map_fd = raw(self.fd.as_fd());
        if let Some(key) = key {
            self.check(key)?;
            attr.__bindgen_anon_2.key = key.as_ptr() as u64;
        }
        attr.__bindgen_anon_2.__bindgen_anon_1.next_key = next.as_mut_ptr() as u64;
        match bpf(bpf_cmd::BPF_MAP_GET_NEXT_KEY, &mut attr) {
            Ok(_) => Ok(Some(next)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn check(&self, key: &[u8]) -> io::Result<()> {
        if key.len() == self.key_size { Ok(()) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }
}

/// Loads an XDP program of these instructions (`struct bpf_insn`, 8 bytes each), to test whether the
/// kernel supports it. With `frags`, the program accepts frames in several buffers. It is freed with
/// its descriptor.
///
/// # Errors
/// `EINVAL` if the kernel does not support the flag; `EPERM`.
pub fn xdp_load(instructions: &[[u8; 8]], frags: bool) -> io::Result<OwnedFd> {
    const LICENSE: &std::ffi::CStr = c"GPL";
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_3.prog_type = bpf_prog_type::BPF_PROG_TYPE_XDP as u32;
    attr.__bindgen_anon_3.expected_attach_type = bpf_attach_type::BPF_XDP as u32;
    attr.__bindgen_anon_3.insn_cnt = u32::try_from(instructions.len()).unwrap_or(u32::MAX);
    attr.__bindgen_anon_3.insns = instructions.as_ptr() as u64;
    attr.__bindgen_anon_3.license = LICENSE.as_ptr() as u64;
    attr.__bindgen_anon_3.prog_flags = if frags { BPF_F_XDP_HAS_FRAGS } else { 0 };
    descriptor(bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr)?)
}

/// Returns the size of the machine code of a program in bytes; 0 if the kernel interprets the
/// program, or if the caller lacks `CAP_BPF`.
pub fn compiled_len(program: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: plain integers, for which all bits zero is a value; its pointers are null, so the
    // kernel copies nothing else.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    let mut attr = zeroed_attr();
    attr.info.bpf_fd = raw(program);
    attr.info.info_len = u32::try_from(size_of::<bpf_prog_info>()).unwrap_or(0);
    attr.info.info = (&raw mut info) as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info.jited_prog_len)
}

/// Returns freed memory to the system, after a large policy was compiled.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointers and only touches free memory of the allocator.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Returns the supplementary groups of the process at the other end of a unix socket, as of the time
/// when it connected. `/proc` is not used, because a service may not see the processes of other users
/// there.
///
/// # Errors
/// The error of `getsockopt(2)`.
pub fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; 64];
    loop {
        let mut length =
            libc::socklen_t::try_from(size_of_val(groups.as_slice())).map_err(io::Error::other)?;
        // SAFETY: the kernel writes at most `length` bytes, which is the size of `groups`, and any
        // bytes are valid `u32` values.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = length as usize / size_of::<u32>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // With `ERANGE`, the kernel sets the length that is needed.
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    u32::try_from(fd.as_raw_fd()).unwrap_or(u32::MAX)
}

fn zeroed_attr() -> bpf_attr {
    // SAFETY: a union of plain integers, for which all bits zero is a value; the kernel requires
    // unused bytes to be zero (`CHECK_ATTR`, kernel/bpf/syscall.c).
    unsafe { std::mem::zeroed() }
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<c_long> {
    // SAFETY: `attr` is a whole, initialised `bpf_attr`, and the pointers in it, if the command
    // has any, point to values that live until this call returns.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as c_long, std::ptr::from_mut(attr), size_of_val(attr))
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn descriptor(result: c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the kernel has just created this descriptor, and no other code owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
