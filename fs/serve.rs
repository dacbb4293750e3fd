//! The border between the kernel's synchronous requests and asynchronous operations.
//!
//! An operation is polled once on the thread that received the request. Nearly all operations
//! finish there and are answered at once, at the cost of a plain call. An operation that needs a
//! peer moves, with its reply, to the runtime, and the thread takes the next request: no thread of
//! the mount waits for the network.
//!
//! A parked operation ends in one of four ways: it is done (its own deadlines ensure that), the
//! mount is taken down, the calling process has received a signal, or the operation panicked. FUSE
//! reports the signal by INTERRUPT, but fuser answers that with "not implemented" itself, so this
//! file polls the process.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hypermount_drive::sync::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::errno::{Error, Result, errno};
use crate::patience::as_request;
use crate::platform;

/// How often the process of a parked operation is checked: half the time that a person notices.
const INTERRUPT_CHECK: Duration = Duration::from_millis(250);

/// Operations that wait for the disk of the store rather than for the network.
const STORING: [&str; 4] = ["flush", "fsync", "fsyncdir", "release"];

/// The caller and the operation, for the log and to notice that the caller has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub operation: &'static str,
    pub ino: u64,
    /// The thread that waits; 0 if unknown (another pid namespace, or the kernel itself).
    pub thread: u32,
}

/// Runs operations and ensures that each gets exactly one reply.
pub(crate) struct Server {
    runtime: Handle,
    stopping: watch::Sender<bool>,
    parked: Arc<Mutex<Vec<u32>>>,
    witness: Witness,
}

/// Called for every request that failed.
pub(crate) type Witness = Arc<dyn Fn(Request, &Error) + Send + Sync>;

impl Server {
    pub(crate) fn new(runtime: Handle, witness: Witness) -> Self {
        Self { runtime, stopping: watch::Sender::new(false), parked: Arc::default(), witness }
    }

    /// Runs `operation` and passes its result to `reply`, on this thread if it need not wait.
    pub(crate) fn serve<T: Send + 'static>(
        &self,
        request: Request,
        operation: impl Future<Output = Result<T>> + Send + 'static,
        reply: impl FnOnce(Result<T>) + Send + 'static,
    ) {
        if *self.stopping.borrow() {
            return finish(&self.witness, request, Err(Error::ShuttingDown), reply);
        }
        let _context = self.runtime.enter();
        let operation = as_request(caught(request, operation));
        let mut operation: Pin<Box<_>> = Box::pin(operation);
        match operation.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => finish(&self.witness, request, result, reply),
            Poll::Pending => {
                let stopping = self.stopping.subscribe();
                let parked = (!STORING.contains(&request.operation))
                    .then(|| Parked::new(self.parked.clone(), request.thread));
                let witness = self.witness.clone();
                self.runtime.spawn(async move {
                    let result = wait(request, operation, stopping).await;
                    drop(parked);
                    finish(&witness, request, result, reply);
                });
            }
        }
    }

    /// Runs an operation that never waits and borrows from its request.
    pub(crate) fn serve_now<T>(
        &self,
        request: Request,
        operation: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        if *self.stopping.borrow() {
            return Err(Error::ShuttingDown);
        }
        let result = catch_unwind(AssertUnwindSafe(operation)).unwrap_or_else(|panic| {
            log_panic(request, &*panic);
            Err(Error::Panicked)
        });
        if let Err(error) = &result {
            log_failure(request, error);
            (self.witness)(request, error);
        }
        result
    }

    /// Refuses new requests and ends the parked ones.
    pub(crate) fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// The threads whose requests wait for the network now, one entry for each request.
    pub(crate) fn parked(&self) -> Vec<u32> {
        self.parked.lock().clone()
    }
}

struct Parked {
    all: Arc<Mutex<Vec<u32>>>,
    thread: u32,
}

impl Parked {
    fn new(all: Arc<Mutex<Vec<u32>>>, thread: u32) -> Self {
        all.lock().push(thread);
        Self { all, thread }
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        if let Some(at) = all.iter().position(|thread| *thread == self.thread) {
            all.swap_remove(at);
        }
    }
}

async fn wait<T>(
    request: Request,
    mut operation: Pin<Box<impl Future<Output = Result<T>>>>,
    mut stopping: watch::Receiver<bool>,
) -> Result<T> {
    let mut check = interval_at(Instant::now() + INTERRUPT_CHECK, INTERRUPT_CHECK);
    check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            result = &mut operation => return result,
            // An error means that the server is gone, so the operation ends as well.
            _ = stopping.wait_for(|stopping| *stopping) => return Err(Error::ShuttingDown),
            _ = check.tick() => {
                if platform::is_interrupted(request.thread) {
                    return Err(Error::Interrupted);
                }
            }
        }
    }
}

/// Runs the operation, and turns a panic into a failure of this one request. The operation lies in the
/// returned future, so that [`Server::serve`] allocates once for both.
async fn caught<T>(
    request: Request,
    operation: impl Future<Output = Result<T>> + Send,
) -> Result<T> {
    let mut operation = pin!(operation);
    poll_fn(|context| {
        // The operation is not polled again after a panic: the result ends it.
        catch_unwind(AssertUnwindSafe(|| operation.as_mut().poll(context))).unwrap_or_else(
            |panic| {
                log_panic(request, &*panic);
                Poll::Ready(Err(Error::Panicked))
            },
        )
    })
    .await
}

fn finish<T>(
    witness: &Witness,
    request: Request,
    result: Result<T>,
    reply: impl FnOnce(Result<T>),
) {
    if let Err(error) = &result {
        log_failure(request, error);
        witness(request, error);
    }
    // A reply that is dropped unsent answers EIO by itself.
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| reply(result))) {
        log_panic(request, &*panic);
    }
}

fn log_failure(request: Request, error: &Error) {
    let level = match errno(error).code() {
        libc::EIO | libc::ETIMEDOUT => log::Level::Warn,
        _ => log::Level::Debug,
    };
    log::log!(level, "{} of inode {}: {error}", request.operation, request.ino);
}

fn log_panic(request: Request, panic: &(dyn Any + Send)) {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let Request { operation, ino, .. } = request;
    log::error!("bug: {operation} of inode {ino} panicked: {}", text.unwrap_or("(no message)"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use tokio::sync::oneshot;

    const REQUEST: Request = Request { operation: "test", ino: 1, thread: 0 };

    fn runtime() -> tokio::runtime::Runtime {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).enable_all().build().expect("a runtime starts")
    }

    #[test]
    fn a_ready_operation_is_answered_on_the_same_thread() {
        let runtime = runtime();
        let server = Server::new(runtime.handle().clone(), Arc::new(|_, _| ()));
        let (sender, receiver) = mpsc::channel();
        server.serve(REQUEST, async { Ok(7) }, move |result| {
            sender.send((result.ok(), std::thread::current().id())).expect("received");
        });
        let here = std::thread::current().id();
        assert_eq!(receiver.try_recv(), Ok((Some(7), here)));
    }

    #[test]
    fn a_waiting_operation_is_parked_and_answered_when_it_is_done() {
        let runtime = runtime();
        let server = Server::new(runtime.handle().clone(), Arc::new(|_, _| ()));
        let (sender, receiver) = mpsc::channel();
        let (done, waits) = oneshot::channel();
        server.serve(REQUEST, async move { Ok(waits.await.ok()) }, move |result| {
            sender.send(result.ok().flatten()).expect("received");
        });
        assert_eq!(server.parked(), [REQUEST.thread]);
        assert!(receiver.try_recv().is_err());
        done.send(8).expect("the operation waits");
        assert_eq!(receiver.recv(), Ok(Some(8)));
        assert!(server.parked().is_empty());
    }

    #[test]
    fn stopping_ends_parked_requests_and_refuses_new_ones() {
        let runtime = runtime();
        let server = Server::new(runtime.handle().clone(), Arc::new(|_, _| ()));
        let (sender, receiver) = mpsc::channel();
        for _ in 0..2 {
            let sender = sender.clone();
            server.serve(REQUEST, std::future::pending::<Result<()>>(), move |result| {
                sender.send(result).expect("received");
            });
            server.stop();
            let result = receiver.recv().expect("answered");
            assert!(matches!(result, Err(Error::ShuttingDown)));
        }
    }

    #[test]
    fn a_panic_fails_its_request_only_whether_at_once_or_parked() {
        let runtime = runtime();
        let server = Server::new(runtime.handle().clone(), Arc::new(|_, _| ()));
        let (sender, receiver) = mpsc::channel();
        for parks in [false, true] {
            let sender = sender.clone();
            let operation = async move {
                if parks {
                    tokio::task::yield_now().await;
                }
                if parks || sender_is_there() {
                    panic!("as the test wants")
                }
                Ok(())
            };
            server.serve(REQUEST, operation, move |result| {
                sender.send(result).expect("received");
            });
            assert!(matches!(receiver.recv(), Ok(Err(Error::Panicked))));
        }
        fn sender_is_there() -> bool {
            true
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_request_of_a_process_that_is_gone_is_given_up() {
        let mut child = std::process::Command::new("true").spawn().expect("`true` runs");
        child.wait().expect("it ends");
        let runtime = runtime();
        let server = Server::new(runtime.handle().clone(), Arc::new(|_, _| ()));
        let (sender, receiver) = mpsc::channel();
        let request = Request { thread: child.id(), ..REQUEST };
        server.serve(request, std::future::pending::<Result<()>>(), move |result| {
            sender.send(result).expect("received");
        });
        assert!(matches!(receiver.recv(), Ok(Err(Error::Interrupted))));
    }
}
