use super::*;
use std::future::Future;
use std::sync::mpsc;

use crate::platform::Caller;
use crate::serve::Server;
use crate::testing::{on_a_filesystem, put, walk};

/// Blocks that the server allocates to run one request that needs no peer.
fn allocated<T: Send + 'static>(
    server: &Server,
    operation: impl Future<Output = Result<T>> + Send + 'static,
) -> u64 {
    let (sender, receiver) = mpsc::sync_channel(1);
    let request = Request { operation: "test", ino: 1, thread: 0 };
    let counted = allocation_counter::measure(|| {
        server.serve(request, operation, move |result| sender.send(result).expect("received"));
    });
    assert!(receiver.try_recv().expect("answered at once").is_ok());
    counted.count_total
}

/// What an operation allocates the first time fills caches; the second time counts.
#[test]
fn a_request_whose_answer_is_in_memory_allocates_once() {
    on_a_filesystem(true, async |fs| {
        put(&fs, "file", b"content").await;
        let (ino, _) = walk(&fs, "file").await.expect("it is there");
        let caller = Caller { uid: 1, gid: 2, thread: 0 };
        let handle = fs.open(ino, libc::O_RDONLY, caller).await.expect("opened").handle;
        let server = Server::new(tokio::runtime::Handle::current(), Arc::new(|_, _| ()));
        let shown = Shown::Drive(fs.clone());
        for second in [false, true] {
            let (a, b, c) = (shown.clone(), shown.clone(), shown.clone());
            let counts = [
                allocated(&server, async move { a.getattr(ino).await }),
                allocated(&server, async move { b.access(ino, libc::R_OK).await }),
                allocated(&server, async move { c.read(ino, handle, 0, 7, 0).await }),
            ];
            if second {
                eprintln!("{counts:?}");
                assert!(counts.iter().all(|count| *count <= 1), "{counts:?}");
            }
        }
    });
}
