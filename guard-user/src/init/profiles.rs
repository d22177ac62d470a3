//! The policies that `trainguard init` can write, and which hosts have the roles of each.

/// Which hosts have a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The host that `--scheduler` names. It must be named: it is in no host list.
    Scheduler,
    /// The host that `--scheduler` names, else the head that the host list tells, else the first.
    First,
    /// Every host of the list.
    Listed,
    /// The first hosts of the list, as many as there are servers.
    Servers,
    /// Every host of the list without a role of another kind; all, if none is left.
    Others,
    /// Hosts whose name begins with the role; the first host, if there are none.
    Named,
}

/// A policy that comes with the program.
#[derive(Debug, Clone, Copy)]
pub struct Profile {
    /// What it is called, on the command line and in itself.
    pub name: &'static str,
    /// Its text.
    pub policy: &'static str,
    /// Its roles, each with the hosts that have it.
    pub roles: &'static [(&'static str, Which)],
}

/// All of them, by name.
pub const PROFILES: &[Profile] = &[
    Profile {
        name: "byteps",
        policy: include_str!("../../../policies/byteps.yaml"),
        roles: &[
            ("scheduler", Which::Scheduler),
            ("server", Which::Servers),
            ("worker", Which::Listed),
        ],
    },
    Profile {
        name: "dask",
        policy: include_str!("../../../policies/dask.yaml"),
        roles: &[("scheduler", Which::First), ("worker", Which::Others)],
    },
    Profile {
        name: "dcgm-exporter",
        policy: include_str!("../../../policies/dcgm-exporter.yaml"),
        roles: &[("gpu", Which::Listed)],
    },
    Profile {
        name: "deepspeed",
        policy: include_str!("../../../policies/deepspeed.yaml"),
        roles: &[("trainer", Which::Listed)],
    },
    Profile {
        name: "horovod",
        policy: include_str!("../../../policies/horovod.yaml"),
        roles: &[("launcher", Which::First), ("worker", Which::Listed)],
    },
    Profile {
        name: "jupyter",
        policy: include_str!("../../../policies/jupyter.yaml"),
        roles: &[("jupyter", Which::Listed)],
    },
    Profile {
        name: "mlflow",
        policy: include_str!("../../../policies/mlflow.yaml"),
        roles: &[("mlflow", Which::First), ("mlflow-client", Which::Others)],
    },
    Profile {
        name: "mpi",
        policy: include_str!("../../../policies/mpi.yaml"),
        roles: &[("rank", Which::Listed)],
    },
    Profile {
        name: "mxnet",
        policy: include_str!("../../../policies/mxnet.yaml"),
        roles: &[
            ("scheduler", Which::Scheduler),
            ("server", Which::Servers),
            ("worker", Which::Listed),
        ],
    },
    Profile {
        name: "pytorch",
        policy: include_str!("../../../policies/pytorch.yaml"),
        roles: &[("trainer", Which::Listed)],
    },
    Profile {
        name: "ray",
        policy: include_str!("../../../policies/ray.yaml"),
        roles: &[("head", Which::First), ("worker", Which::Others)],
    },
    Profile {
        name: "slurm",
        policy: include_str!("../../../policies/slurm.yaml"),
        roles: &[
            ("controller", Which::Scheduler),
            ("compute", Which::Others),
            ("login", Which::Named),
        ],
    },
    Profile {
        name: "tensorboard",
        policy: include_str!("../../../policies/tensorboard.yaml"),
        roles: &[("tensorboard", Which::Listed)],
    },
    Profile {
        name: "tensorflow",
        policy: include_str!("../../../policies/tensorflow.yaml"),
        roles: &[("task", Which::Listed)],
    },
];

impl Profile {
    /// Whether a role goes to some hosts of this kind.
    pub(super) fn has(&self, which: Which) -> bool {
        self.roles.iter().any(|(_, w)| *w == which)
    }

    /// Whether one host is set apart: a scheduler, head or controller.
    pub(super) fn has_first(&self) -> bool {
        [Which::Scheduler, Which::First, Which::Named].iter().any(|which| self.has(*which))
    }
}

/// The profile of a name.
pub fn find(name: &str) -> Option<&'static Profile> {
    PROFILES.iter().find(|profile| profile.name == name)
}

/// The names of all profiles.
pub fn names() -> impl Iterator<Item = &'static str> {
    PROFILES.iter().map(|profile| profile.name)
}
