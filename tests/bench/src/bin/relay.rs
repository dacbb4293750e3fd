//! A link between two TCP endpoints with a given delay and bandwidth, for kernels without netem.
//!
//! `relay --to HOST:PORT [--rtt MS] [--mbit N]` prints the address it listens on. Every byte first
//! waits until the link has serialised the bytes before it (one queue per direction, shared by all
//! connections), then travels half a round trip. A connection opens as slowly as over a real link:
//! the client's first bytes enter the link one round trip after its connect, and the far side sees
//! the connection half a round trip later. `--mbit 0` is no limit; `--rtt 0 --mbit 0` splices bytes
//! through the kernel at nearly no cost.
//!
//! On stdin, a line each: `reset` clears the counters, `report` prints them as one line of JSON.
//! The end of stdin, SIGTERM and SIGINT print them a last time and end the relay.
//!
//! Deliberately not in it: loss, reordering, slow start, acknowledgements. TCP ends on both sides of
//! the relay, so it is the friendliest link of its kind, and equally friendly to every candidate.

use clap::Parser;
use hypermount_bench::counters::{Counters, Direction};
use hypermount_bench::signal::{block_termination, wait_for_termination};
use nix::fcntl::{SpliceFFlags, splice};
use nix::sys::socket::{setsockopt, sockopt};
use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes moved at once on a link without limits.
const SPLICE: usize = 1 << 20;
/// Largest piece that travels as one, in bytes. A limited link uses the bytes that it carries in a
/// millisecond.
const PIECE: usize = 64 << 10;
/// Smallest such piece: a packet.
const PACKET: usize = 1500;
/// Pieces under way in one direction of one connection. With [`PIECE`] that is a window of
/// 64 MiB: more than a kernel grants, so the relay never limits an unlimited link.
const WINDOW: usize = 1024;
/// The bottleneck's queue is one bandwidth-delay product, but at least this many bytes.
const MIN_QUEUE: f64 = 65_536.0;
/// Share of a link's bits that is TCP payload: 1,448 bytes of each full packet of 1,500.
const PAYLOAD: f64 = 1448.0 / 1500.0;
/// How long the far side may take to accept.
const CONNECT: Duration = Duration::from_secs(10);

#[derive(Parser)]
#[command(about = "A TCP link with a given round trip and bandwidth")]
struct Options {
    /// Where the connections lead
    #[arg(long)]
    to: SocketAddr,
    /// Round trip time in milliseconds
    #[arg(long, default_value_t = 0.0)]
    rtt: f64,
    /// Bandwidth of each direction in 10^6 bit/s, packet headers included; 0 is no limit
    #[arg(long, default_value_t = 0.0)]
    mbit: f64,
}

/// One direction of the link: the time at which it will have serialised all bytes given to it.
struct Lane {
    free_at: Mutex<Instant>,
}

struct Link {
    delay: Duration,
    /// Bytes per second; `None` without a limit.
    rate: Option<f64>,
    lanes: [Lane; 2],
    counters: Counters,
}

/// Bytes, or `None` for the end of the stream, and the time at which they reach the far end.
struct Travelling {
    arrival: Instant,
    bytes: Option<Vec<u8>>,
}

impl Link {
    fn new(options: &Options) -> Link {
        let lane = || Lane { free_at: Mutex::new(Instant::now()) };
        Link {
            delay: Duration::from_secs_f64(options.rtt / 2000.0),
            rate: (options.mbit > 0.0).then_some(options.mbit * 125_000.0 * PAYLOAD),
            lanes: [lane(), lane()],
            counters: Counters::default(),
        }
    }

    fn unlimited(&self) -> bool {
        self.rate.is_none() && self.delay.is_zero()
    }

    fn piece(&self) -> usize {
        self.rate.map_or(PIECE, |rate| ((rate / 1000.0) as usize).clamp(PACKET, PIECE))
    }

    /// Waits until the queue before the link has room again.
    fn wait_for_room(&self, direction: Direction) {
        let Some(rate) = self.rate else { return };
        let queue = (rate * 2.0 * self.delay.as_secs_f64()).max(MIN_QUEUE) / rate;
        let free_at = *self.lane(direction);
        if let Some(room_at) = free_at.checked_sub(Duration::from_secs_f64(queue)) {
            sleep_until(room_at);
        }
    }

    /// Puts bytes on the link. Returns the time at which the last of them reaches the far end.
    fn enter(&self, direction: Direction, length: usize) -> Instant {
        let mut free_at = self.lane(direction);
        let serialisation = self.rate.map_or(0.0, |rate| length as f64 / rate);
        let left = Instant::now().max(*free_at) + Duration::from_secs_f64(serialisation);
        *free_at = left;
        self.counters.passed(direction, length as u64, left + self.delay / 2);
        left + self.delay
    }

    fn lane(&self, direction: Direction) -> std::sync::MutexGuard<'_, Instant> {
        let lane = &self.lanes[direction as usize];
        lane.free_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn sleep_until(instant: Instant) {
    thread::sleep(instant.saturating_duration_since(Instant::now()));
}

/// Serves one connection until both of its directions have ended.
fn carry(link: &Arc<Link>, client: TcpStream, to: SocketAddr) -> io::Result<()> {
    let accepted = Instant::now();
    client.set_nodelay(true)?;
    link.counters.connected();
    if link.unlimited() {
        let server = TcpStream::connect_timeout(&to, CONNECT)?;
        server.set_nodelay(true)?;
        return both(
            || move_through(link, Direction::ToServer, &client, &server),
            || move_through(link, Direction::ToClient, &server, &client),
        );
    }
    limit_buffer(link, &client)?;
    let server = OnceLock::new();
    thread::scope(|scope| {
        let (uphill, at_server) = sync_channel(WINDOW);
        let (downhill, at_client) = sync_channel(WINDOW);
        scope.spawn(|| {
            // The client may send when the second packet of the handshake has come back.
            sleep_until(accepted + 2 * link.delay);
            take_in(link, Direction::ToServer, &client, uphill);
        });
        // The far side sees the connection when the third one arrives.
        sleep_until(accepted + 3 * link.delay);
        let connected = TcpStream::connect_timeout(&to, CONNECT).inspect_err(|_| {
            // No endpoint there: the client sees a reset.
            let _ = client.shutdown(Shutdown::Both);
        })?;
        let server = server.get_or_init(|| connected);
        server.set_nodelay(true)?;
        limit_buffer(link, server)?;
        scope.spawn(move || let_out(server, at_server));
        scope.spawn(move || take_in(link, Direction::ToClient, server, downhill));
        let_out(&client, at_client);
        Ok(())
    })
}

/// Limits the receive buffer on a limited link, which would otherwise hold megabytes before the queue.
fn limit_buffer(link: &Link, socket: &TcpStream) -> io::Result<()> {
    if link.rate.is_some() {
        setsockopt(socket, sockopt::RcvBuf, &(256 << 10))?;
    }
    Ok(())
}

/// Reads from one end and puts the bytes on the link.
fn take_in(link: &Link, direction: Direction, mut from: &TcpStream, to: SyncSender<Travelling>) {
    let mut buffer = vec![0; link.piece()];
    loop {
        link.wait_for_room(direction);
        let bytes = match from.read(&mut buffer) {
            Ok(0) => None,
            Ok(length) => buffer.get(..length).map(<[u8]>::to_vec),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => None,
        };
        let arrival = link.enter(direction, bytes.as_ref().map_or(0, Vec::len));
        let ended = bytes.is_none();
        if to.send(Travelling { arrival, bytes }).is_err() || ended {
            return;
        }
    }
}

/// Writes bytes that have arrived to the other end.
fn let_out(mut to: &TcpStream, from: Receiver<Travelling>) {
    while let Ok(Travelling { arrival, bytes }) = from.recv() {
        sleep_until(arrival);
        let Some(bytes) = bytes else {
            let _ = to.shutdown(Shutdown::Write);
            return;
        };
        if to.write_all(&bytes).is_err() {
            // The reader of the other direction ends with this, and so the connection.
            let _ = to.shutdown(Shutdown::Both);
            return;
        }
    }
}

fn both(
    a: impl FnOnce() -> io::Result<()> + Send,
    b: impl FnOnce() -> io::Result<()> + Send,
) -> io::Result<()> {
    thread::scope(|scope| {
        let a = scope.spawn(a);
        let b = b();
        a.join().unwrap_or_else(|_| Err(io::Error::other("a direction panicked")))?;
        b
    })
}

/// Moves bytes from socket to socket inside the kernel.
fn move_through(
    link: &Link,
    direction: Direction,
    from: &TcpStream,
    to: &TcpStream,
) -> io::Result<()> {
    let (outlet, inlet) = nix::unistd::pipe()?;
    // A refusal (the user's limit for pipes) leaves the default size.
    let _ = nix::fcntl::fcntl(&inlet, nix::fcntl::FcntlArg::F_SETPIPE_SZ(SPLICE as i32));
    let flags = SpliceFFlags::SPLICE_F_MOVE;
    let moved = (|| {
        loop {
            let mut held = splice(from, None, &inlet, None, SPLICE, flags)?;
            if held == 0 {
                return to.shutdown(Shutdown::Write);
            }
            link.counters.passed(direction, held as u64, Instant::now());
            while held > 0 {
                held -= splice(&outlet, None, to, None, held, flags)?;
            }
        }
    })();
    if moved.is_err() {
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }
    moved
}

fn print_line(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

fn obey(link: &Link) -> io::Result<()> {
    for line in io::stdin().lock().lines() {
        match line?.as_str() {
            "reset" => link.counters.reset(),
            "report" => print_line(&link.counters.json())?,
            other => eprintln!("relay: no such command: {other}"),
        }
    }
    Ok(())
}

fn end(link: &Link) -> ! {
    let _ = print_line(&link.counters.json());
    std::process::exit(0)
}

fn main() -> io::Result<()> {
    let options = Options::parse();
    let signals = block_termination()?;
    // The kernel may otherwise wake a sleeper 50 microseconds late to save power.
    nix::sys::prctl::set_timerslack(1)?;
    let link = Arc::new(Link::new(&options));
    let listener = TcpListener::bind("127.0.0.1:0")?;
    print_line(&listener.local_addr()?.to_string())?;
    thread::spawn({
        let link = link.clone();
        move || {
            // Either way the process that started the relay has ended.
            let _ = obey(&link);
            end(&link)
        }
    });
    thread::spawn({
        let link = link.clone();
        move || {
            // Fails only for an invalid set; the relay then ends as after a signal.
            let _ = wait_for_termination(&signals);
            end(&link)
        }
    });
    for client in listener.incoming() {
        let (link, client) = (link.clone(), client?);
        thread::spawn(move || {
            if let Err(error) = carry(&link, client, options.to) {
                eprintln!("relay: {error}");
            }
        });
    }
    Ok(())
}
