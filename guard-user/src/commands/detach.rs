//! `trainguard detach`: detaches the guard, through the daemon or, if no daemon answers, directly.

use crate::{
    api::{
        client::ClientError,
        control::{Detach, Detached},
    },
    bpf::pins::Pins,
    cli::DetachArgs,
    daemon::interfaces::attach::name_now,
    exit::Exit,
    netlink::devices,
    output,
    system_error::SystemError,
};

/// Runs `trainguard detach`.
pub fn run(args: &DetachArgs) -> Exit {
    let request = Detach { interfaces: args.interfaces.clone() };
    let detached = match args.daemon.client().detach(&request) {
        Ok(detached) => {
            output::message("the daemon keeps running, and attaches again when it is restarted");
            Ok(detached)
        }
        Err(
            ClientError::Unreachable { .. }
            | ClientError::Silent { .. }
            | ClientError::Garbled { .. },
        ) => {
            let pins = Pins::at(&args.daemon.directories.bpf_dir);
            detach_without_daemon(&pins, &request)
        }
        Err(error) => {
            output::error(&error);
            return Exit::NoAnswer;
        }
    };
    match detached {
        Ok(Detached { detached, not_guarded }) => {
            for name in &detached {
                output::message(format_args!("detached from `{name}`: its ports are open now"));
            }
            for name in &not_guarded {
                output::error(format_args!("`{name}` is not guarded"));
            }
            if detached.is_empty() && not_guarded.is_empty() {
                output::message("no interface is guarded");
            }
            if not_guarded.is_empty() { Exit::Yes } else { Exit::No }
        }
        Err(error) => {
            output::system_error(&error);
            Exit::NoAnswer
        }
    }
}

fn detach_without_daemon(pins: &Pins, request: &Detach) -> Result<Detached, SystemError> {
    let mut answer = Detached::default();
    if !pins.exists()? {
        answer.not_guarded.clone_from(&request.interfaces);
        return Ok(answer);
    }
    let lock = pins.lock();
    if lock.is_err() {
        output::message(
            "warning: a daemon has locked the pins but does not respond; it may attach again",
        );
    }
    // If the interfaces cannot be listed, the names at the time of pinning are used.
    let devices = devices::devices_now().unwrap_or_default();
    for pinned in pins.links()? {
        let (name, link) = (name_now(&pinned, &devices).to_owned(), pinned.link);
        if request.interfaces.is_empty() || request.interfaces.contains(&name) {
            if link.is_alive() {
                answer.detached.push(name);
            }
            link.detach()?;
        }
    }
    answer.not_guarded =
        request.interfaces.iter().filter(|name| !answer.detached.contains(name)).cloned().collect();
    if lock.is_ok() {
        pins.remove_maps()?;
    }
    Ok(answer)
}
