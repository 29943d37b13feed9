//! What a machine lacks for rooms, in words: the part, and the line that mends it.

use std::ffi::{CStr, c_int};
use std::fs;
use std::io;
use std::path::Path;

use df_core::text::escape;

use super::plan::Step;

/// Something that a strict build needs and this machine does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lacking {
    /// What is missing, with what the kernel said.
    pub part: String,
    /// The line that mends it.
    pub mend: String,
}

impl std::fmt::Display for Lacking {
    /// Writes the part and its line as one line.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; mend it by: {}", self.part, self.mend)
    }
}

/// What can be seen of the reasons why a room is refused.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Seen {
    /// Namespaces of which none may be made, as sysctl calls them.
    forbidden: Vec<&'static str>,
    /// Debian's old switch is off.
    debian: bool,
    /// Ubuntu's switch is on.
    ubuntu: bool,
    /// Whether this is a container of docker or podman.
    container: bool,
    /// The security modules that are on.
    modules: Option<String>,
}

impl Lacking {
    /// The namespaces could not be made.
    pub(super) fn namespaces(error: &io::Error) -> Self {
        Self::of_namespaces(error, &Seen::here())
    }

    /// The users of a room could not be made.
    pub(super) fn users(error: &io::Error) -> Self {
        Self::in_room("the users of a user namespace", error, &Seen::here())
    }

    /// A step failed.
    pub(super) fn step(step: &Step, errno: c_int) -> Self {
        Self::of_step(step, &io::Error::from_raw_os_error(errno), &Seen::here())
    }

    pub(super) fn landlock(error: &io::Error) -> Self {
        Self::of_landlock(error, &Seen::here())
    }

    pub(super) fn old_landlock(version: u32) -> Self {
        let part = format!("Landlock of version 2 or newer (found {version}, which lets nothing be moved between directories)");
        Self { part, mend: "run Linux 5.19 or newer".to_owned() }
    }

    /// A file or directory could not be put into the room.
    pub(super) fn place(path: &Path, error: &io::Error) -> Self {
        let shown = escape(path.as_os_str().as_encoded_bytes());
        Self { part: format!("{shown} for the room ({error})"), mend: format!("ls -ld {shown}") }
    }

    /// A program in the room did not do what it does elsewhere.
    pub(super) fn at_work(how: &str) -> Self {
        let part = format!("a room in which /bin/true works ({how})");
        Self { part, mend: "apt-get install --reinstall coreutils libc6".to_owned() }
    }

    fn of_namespaces(error: &io::Error, seen: &Seen) -> Self {
        let part = |what: &str| format!("{what} ({error})");
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EUSERS) if !seen.forbidden.is_empty() => {
                let name = seen.forbidden[0];
                let words = name.trim_start_matches("max_").replace('_', " ");
                Self { part: part(&words), mend: sysctl(&format!("user.{name}=16384")) }
            }
            Some(libc::ENOSPC | libc::EUSERS) => {
                Self { part: part("one more user namespace"), mend: sysctl("user.max_user_namespaces=16384") }
            }
            Some(libc::EINVAL) => Self {
                part: part("a kernel with all namespaces"),
                mend: "run a kernel with CONFIG_USER_NS, CONFIG_PID_NS, CONFIG_NET_NS, CONFIG_IPC_NS, CONFIG_UTS_NS and CONFIG_CGROUPS".to_owned(),
            },
            Some(libc::ENOSYS) if !seen.container => Self { part: part("clone3"), mend: "run Linux 5.19 or newer".to_owned() },
            _ => Self::in_room("user namespaces", error, seen),
        }
    }

    fn of_step(step: &Step, error: &io::Error, seen: &Seen) -> Self {
        let refused = matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES));
        match step {
            Step::Proc if refused && (!seen.ubuntu || seen.container) => Self {
                part: format!("a /proc of one's own: the one here is masked ({error})"),
                mend: "run the container with --security-opt systempaths=unconfined".to_owned(),
            },
            Step::Proc => Self::in_room("a /proc of one's own", error, seen),
            Step::Overlay { .. } => Self {
                part: format!("overlayfs in user namespaces ({error})"),
                mend: "modprobe overlay, or put the cache on ext4, xfs or btrfs".to_owned(),
            },
            // Mounting itself is tried by earlier steps: here it is the place.
            Step::Bind { from, .. } => {
                let shown = escape(from.to_bytes().strip_prefix(b"/.host").unwrap_or(from.to_bytes()));
                Self { part: format!("{shown} for the room ({error})"), mend: format!("ls -ld {shown}") }
            }
            Step::Directory { at, .. } | Step::File { at, .. } | Step::Link { at, .. } => in_root(at, error),
            Step::Landlock { .. } => Self::of_landlock(error, seen),
            Step::Filter { .. } => {
                Self { part: format!("seccomp filters ({error})"), mend: "run a kernel with CONFIG_SECCOMP_FILTER=y".to_owned() }
            }
            Step::BecomeBuilder | Step::NoGroups | Step::NoCapabilities | Step::NoNewPrivileges => {
                Self::in_room("giving up rights in a user namespace", error, seen)
            }
            Step::NewRoot { .. } if error.raw_os_error() == Some(libc::EINVAL) => Self {
                part: format!("a root directory that can be left (pivot_root: {error})"),
                mend: "boot from a disk, not from an initramfs, and leave any chroot".to_owned(),
            },
            _ => Self::in_room("mounting in a user namespace", error, seen),
        }
    }

    fn of_landlock(error: &io::Error, seen: &Seen) -> Self {
        let part = format!("Landlock ({error})");
        let mend = match (error.raw_os_error(), &seen.modules) {
            (Some(libc::EOPNOTSUPP), Some(modules)) => format!("boot with lsm=landlock,{}", modules.trim()),
            (Some(libc::EOPNOTSUPP), None) => "boot with landlock first in lsm=".to_owned(),
            (Some(libc::EPERM), _) => container().to_owned(),
            _ => "run Linux 5.19 or newer with CONFIG_SECURITY_LANDLOCK=y".to_owned(),
        };
        Self { part, mend }
    }

    /// A right was refused that the owner of a user namespace has: somebody forbids it.
    fn in_room(what: &str, error: &io::Error, seen: &Seen) -> Self {
        let mend = if seen.debian {
            sysctl("kernel.unprivileged_userns_clone=1")
        } else if seen.ubuntu {
            sysctl("kernel.apparmor_restrict_unprivileged_userns=0")
        } else if let Some(name) = seen.forbidden.first() {
            sysctl(&format!("user.{name}=16384"))
        } else if seen.container {
            container().to_owned()
        } else {
            "run df outside of a chroot and of any sandbox".to_owned()
        };
        Self { part: format!("{what} ({error})"), mend }
    }
}

impl Seen {
    fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).ok();
        let is = |path: &str, value: &str| read(path).is_some_and(|text| text.trim() == value);
        let all = ["max_user_namespaces", "max_mnt_namespaces", "max_pid_namespaces", "max_net_namespaces", "max_ipc_namespaces"];
        let more = ["max_uts_namespaces", "max_cgroup_namespaces"];
        Self {
            forbidden: all.into_iter().chain(more).filter(|name| is(&format!("/proc/sys/user/{name}"), "0")).collect(),
            debian: is("/proc/sys/kernel/unprivileged_userns_clone", "0"),
            ubuntu: is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
            container: ["/.dockerenv", "/run/.containerenv"].iter().any(|path| Path::new(path).exists()),
            modules: read("/sys/kernel/security/lsm"),
        }
    }
}

fn sysctl(setting: &str) -> String {
    format!("echo {setting} | sudo tee /etc/sysctl.d/60-df.conf && sudo sysctl --system")
}

fn container() -> &'static str {
    "run the container with --security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined"
}

fn in_root(at: &CStr, error: &io::Error) -> Lacking {
    Lacking::place(Path::new(&escape(at.to_bytes())), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(errno: i32) -> io::Error {
        io::Error::from_raw_os_error(errno)
    }

    #[test]
    fn each_refusal_has_its_own_line() {
        let none = Seen::default();
        let ubuntu = Seen { ubuntu: true, ..Seen::default() };
        let debian = Seen { debian: true, ..Seen::default() };
        let full = Seen { forbidden: vec!["max_user_namespaces"], ..Seen::default() };
        let docker = Seen { container: true, ..Seen::default() };
        let mounting = |seen: &Seen| Lacking::of_step(&Step::Unshare, &said(libc::EACCES), seen).mend;
        assert!(mounting(&ubuntu).contains("kernel.apparmor_restrict_unprivileged_userns=0"));
        assert!(mounting(&docker).contains("--security-opt apparmor=unconfined"));
        assert!(Lacking::of_namespaces(&said(libc::EPERM), &debian).mend.contains("kernel.unprivileged_userns_clone=1"));
        let lacking = Lacking::of_namespaces(&said(libc::ENOSPC), &full);
        assert!(lacking.part.starts_with("user namespaces"), "{lacking}");
        assert!(lacking.mend.contains("user.max_user_namespaces="), "{lacking}");
        let masked = Lacking::of_step(&Step::Proc, &said(libc::EPERM), &docker);
        assert!(masked.mend.contains("systempaths=unconfined"), "{masked}");
        let modules = Seen { modules: Some("capability,yama\n".to_owned()), ..Seen::default() };
        assert_eq!(Lacking::of_landlock(&said(libc::EOPNOTSUPP), &modules).mend, "boot with lsm=landlock,capability,yama");
        assert!(Lacking::of_landlock(&said(libc::ENOSYS), &none).part.starts_with("Landlock"));
    }
}
