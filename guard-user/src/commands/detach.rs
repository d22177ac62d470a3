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
    let wish = Detach { interfaces: args.interfaces.clone() };
    let detached = match args.ask.client().detach(&wish) {
        Ok(detached) => {
            output::talk("the daemon stays, and attaches again when it is restarted");
            Ok(detached)
        }
        Err(
            ClientError::Unreachable { .. }
            | ClientError::Silent { .. }
            | ClientError::Garbled { .. },
        ) => {
            let pins = Pins::at(&args.ask.directories.bpf_dir);
            alone(&pins, &wish)
        }
        Err(error) => {
            output::error(&error);
            return Exit::NoAnswer;
        }
    };
    match detached {
        Ok(Detached { detached, not_guarded }) => {
            for name in &detached {
                output::talk(format_args!("detached from `{name}`: its ports are open now"));
            }
            for name in &not_guarded {
                output::error(format_args!("`{name}` is not guarded"));
            }
            if detached.is_empty() && not_guarded.is_empty() {
                output::talk("nothing is guarded");
            }
            if not_guarded.is_empty() { Exit::Yes } else { Exit::No }
        }
        Err(error) => {
            output::refusal(&error);
            Exit::NoAnswer
        }
    }
}

fn alone(pins: &Pins, wish: &Detach) -> Result<Detached, SystemError> {
    let mut answer = Detached::default();
    if !pins.exists()? {
        answer.not_guarded.clone_from(&wish.interfaces);
        return Ok(answer);
    }
    let lock = pins.lock();
    if lock.is_err() {
        output::talk(
            "warning: a daemon uses the pins but does not answer; it may attach again when it wakes",
        );
    }
    // If the interfaces cannot be listed, the names at the time of pinning are used.
    let devices = devices::devices_now().unwrap_or_default();
    for pinned in pins.links()? {
        let (name, link) = (name_now(&pinned, &devices).to_owned(), pinned.link);
        if wish.interfaces.is_empty() || wish.interfaces.contains(&name) {
            if link.is_alive() {
                answer.detached.push(name);
            }
            link.detach()?;
        }
    }
    answer.not_guarded =
        wish.interfaces.iter().filter(|name| !answer.detached.contains(name)).cloned().collect();
    if lock.is_ok() {
        pins.remove_maps()?;
    }
    Ok(answer)
}
