//! The way of most machines: a unit of systemd's, and `systemctl restart`. On a real systemd in a container that shares this machine's network, so the same client asks in the same way.

use std::net::SocketAddr;
use std::path::Path;

use super::support::{World, versions};
use super::ways::Way;

/// The program in a unit of its own.
pub struct Systemctl {
    world: World,
}

impl Systemctl {
    /// Has systemd start the program, which binds by itself; none where there is no such machine, and it is said why.
    pub fn new(program: &Path) -> Option<Self> {
        let world = World::with_systemd(&versions().repo, "root")?;
        let listen = format!(" --listen {}", world.at(1));
        Some(Self::start(world, program, &listen, "service"))
    }

    /// The same, but the socket is systemd's and stays open.
    pub fn with_socket(program: &Path) -> Option<Self> {
        let world = World::with_systemd(&versions().repo, "root")?;
        let socket =
            format!("[Socket]\nListenStream={}\nFileDescriptorName=http\n[Install]\nWantedBy=sockets.target\n", world.at(1));
        std::fs::write(world.machine().path("/etc/systemd/system/greeter.socket"), socket).expect("written");
        Some(Self::start(world, program, "", "socket"))
    }

    fn start(world: World, program: &Path, args: &str, first: &str) -> Self {
        let machine = world.machine();
        std::fs::copy(program, machine.path("/usr/local/bin/greeter")).expect("copied");
        let unit = format!(
            "[Unit]\nStartLimitIntervalSec=0\n[Service]\nType=notify\nExecStart=/usr/local/bin/greeter{args}\nTimeoutStopSec=30\n"
        );
        std::fs::write(machine.path("/etc/systemd/system/greeter.service"), unit).expect("written");
        machine.run(&format!("systemctl daemon-reload && systemctl start greeter.{first} && systemctl start greeter.service"));
        assert_eq!(world.get(1, "/health").0, 200);
        Self { world }
    }
}

impl Way for Systemctl {
    fn at(&self) -> SocketAddr {
        self.world.at(1)
    }

    fn switch(&mut self) {
        self.world.machine().run("systemctl restart greeter.service");
    }
}
