//! Network namespaces of a test: machines that reach each other and no other machine. Dropping
//! removes them.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::living::{finish, succeed};

/// Process id and this number make the names unique.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// Some machines and what connects them.
pub struct Machines {
    prefix: String,
    /// The name of every namespace here.
    names: Vec<String>,
}

impl Machines {
    /// On one cable: every machine receives broadcasts.
    pub fn on_one_cable(count: u8) -> Option<Self> {
        let machines = Self::new(count)?;
        machines.in_hub("link add cable type bridge mcast_snooping 0");
        machines.in_hub("link set cable up");
        for n in 0..count {
            machines.connect(n, &format!("10.77.0.{}/24", n + 1));
            machines.in_hub(&format!("link set to{n} master cable"));
            machines.ip(n, "route add 224.0.0.0/4 dev eth0");
        }
        Some(machines)
    }

    /// Each in a network of its own, with a router between them that forwards unicast only.
    pub fn behind_a_router(count: u8) -> Option<Self> {
        let machines = Self::new(count)?;
        for n in 0..count {
            machines.connect(n, &format!("10.77.{n}.1/24"));
            machines.in_hub(&format!("addr add 10.77.{n}.254/24 dev to{n}"));
            machines.ip(n, &format!("route add default via 10.77.{n}.254"));
        }
        machines.forward("hub");
        Some(machines)
    }

    /// As above, with the machines in `hidden` behind routers of their own, which admit answers
    /// only and hide the machines' addresses, as at home. `None` also without nft.
    pub fn behind_routers(count: u8, hidden: &[u8]) -> Option<Self> {
        let mut machines = Self::behind_a_router(count)?;
        for &n in hidden {
            if !machines.hide(n) {
                assert!(std::env::var_os("HYPERMOUNT_REFERENCE").is_none(), "nft does not work");
                eprintln!("SKIPPED: nft does not work here");
                return None;
            }
        }
        Some(machines)
    }

    /// Puts a router before a machine: it has the machine's address from now on.
    fn hide(&mut self, n: u8) -> bool {
        let (inner, router) = (n.to_string(), format!("nat{n}"));
        succeed(Command::new("ip").args(["netns", "add", &self.name(&router)]));
        self.names.push(router.clone());
        self.ip(n, "link set eth0 down");
        self.ip(n, &format!("link set eth0 netns {}", self.name(&router)));
        let ip = |of: &str, arguments: &str| {
            let name = self.name(of);
            succeed(Command::new("ip").args(["-n", &name]).args(arguments.split(' ')));
        };
        ip(&router, "link set lo up");
        ip(&router, &format!("addr add 10.77.{n}.1/24 dev eth0"));
        ip(&router, "link set eth0 up");
        ip(&router, &format!("route add default via 10.77.{n}.254"));
        let other = self.name(&inner);
        ip(&router, &format!("link add home type veth peer name eth0 netns {other}"));
        ip(&router, &format!("addr add 192.168.{n}.1/24 dev home"));
        ip(&router, "link set home up");
        ip(&inner, &format!("addr add 192.168.{n}.2/24 dev eth0"));
        ip(&inner, "link set eth0 up");
        ip(&inner, &format!("route add default via 192.168.{n}.1"));
        self.forward(&router);
        let rules = "add table ip home
            add chain ip home out { type nat hook postrouting priority 100; }
            add rule ip home out oifname eth0 masquerade
            add chain ip home in { type filter hook input priority 0; }
            add rule ip home in iifname eth0 ct state new drop
            add chain ip home through { type filter hook forward priority 0; }
            add rule ip home through iifname eth0 ct state new drop";
        let mut nft = Command::new("nft");
        let lines = rules.lines().map(str::trim).collect::<Vec<_>>().join("; ");
        finish_if_there(&mut self.inside(&router, nft.arg(lines)))
    }

    /// From now on, the router before a hidden machine uses another port for each remote.
    pub fn changes_ports(&self, n: u8) {
        let rules =
            "flush chain ip home out; add rule ip home out oifname eth0 masquerade fully-random";
        let mut nft = Command::new("nft");
        succeed(&mut self.inside(&format!("nat{n}"), nft.arg(rules)));
    }

    /// Lets a machine forward packets.
    fn forward(&self, of: &str) {
        let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward";
        succeed(self.inside(of, Command::new("sh").args(["-c", forward])).arg("--"));
    }

    /// Moves a machine to another address behind the same router; the old address leads nowhere. A
    /// hidden machine moves with the router before it, and both have other addresses.
    pub fn move_to_another_network(&self, n: u8) {
        let network = 100 + n;
        let router = format!("nat{n}");
        let hidden = self.names.contains(&router);
        let of = |of: &str, arguments: &str| {
            let name = self.name(of);
            succeed(Command::new("ip").args(["-n", &name]).args(arguments.split(' ')));
        };
        let inner = n.to_string();
        let outer = if hidden { &router } else { &inner };
        of(outer, "addr flush dev eth0");
        self.in_hub(&format!("addr flush dev to{n}"));
        of(outer, &format!("addr add 10.77.{network}.1/24 dev eth0"));
        self.in_hub(&format!("addr add 10.77.{network}.254/24 dev to{n}"));
        of(outer, &format!("route add default via 10.77.{network}.254"));
        if hidden {
            of(&inner, "addr flush dev eth0");
            of(&router, "addr flush dev home");
            of(&router, &format!("addr add 192.168.{network}.1/24 dev home"));
            of(&inner, &format!("addr add 192.168.{network}.2/24 dev eth0"));
            of(&inner, &format!("route add default via 192.168.{network}.1"));
        }
    }

    /// `None`, with a message, where the system does not allow namespaces.
    fn new(count: u8) -> Option<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let names = (0..count).map(|n| n.to_string()).chain(["hub".to_owned()]).collect();
        let machines = Self { prefix: format!("hm{}-{number}-", std::process::id()), names };
        let made = finish(Command::new("ip").args(["netns", "add", &machines.name("hub")]));
        if !made.status.success() {
            let why = String::from_utf8_lossy(&made.stderr).into_owned();
            assert!(std::env::var_os("HYPERMOUNT_REFERENCE").is_none(), "no namespaces: {why}");
            eprintln!("SKIPPED: no network namespaces here: {why}");
            return None;
        }
        for n in 0..count {
            succeed(Command::new("ip").args(["netns", "add", &machines.name(&n.to_string())]));
        }
        Some(machines)
    }

    fn name(&self, of: &str) -> String {
        format!("{}{of}", self.prefix)
    }

    fn connect(&self, n: u8, address: &str) {
        let other = self.name(&n.to_string());
        self.in_hub(&format!("link add to{n} type veth peer name eth0 netns {other}"));
        self.in_hub(&format!("link set to{n} up"));
        self.ip(n, "link set lo up");
        self.ip(n, &format!("addr add {address} dev eth0"));
        self.ip(n, "link set eth0 up");
    }

    fn in_hub(&self, arguments: &str) {
        let hub = self.name("hub");
        succeed(Command::new("ip").args(["-n", &hub]).args(arguments.split(' ')));
    }

    /// Runs `ip` on a machine.
    pub fn ip(&self, n: u8, arguments: &str) {
        let name = self.name(&n.to_string());
        succeed(Command::new("ip").args(["-n", &name]).args(arguments.split(' ')));
    }

    /// The command, to be run on a machine, with its environment.
    pub fn on(&self, n: u8, command: &mut Command) -> Command {
        self.inside(&n.to_string(), command)
    }

    fn inside(&self, of: &str, command: &mut Command) -> Command {
        let namespace = Path::new("/var/run/netns").join(self.name(of));
        let mut inside = Command::new("nsenter");
        inside.arg(format!("--net={}", namespace.display())).arg("--");
        inside.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        inside
    }
}

/// Whether a command succeeded that may not be installed.
fn finish_if_there(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| {
        let error = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            eprintln!("{command:?}: {error}");
        }
        output.status.success()
    })
}

impl Drop for Machines {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", &self.name(name)]).output();
        }
    }
}
