//! How often a request makes the two sidecars on its way take memory from the allocator, once connections and stocks are warm.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]
#![allow(unsafe_code, reason = "an allocator cannot be written otherwise; this one passes everything on")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::atomic::{AtomicU64, Ordering},
};

use mesh_api::model::Protocol;

use self::{
    apps::{Wire, app, ok},
    mesh::{Pair, open},
};

#[path = "support/apps.rs"]
mod apps;
#[path = "support/mesh.rs"]
mod mesh;

/// Requests that are counted, after some that are not.
const REQUESTS: u64 = 1000;
const WARM: u64 = 200;
/// Allocations for each request, both sidecars together: four are those of the TLS library. Whoever adds one on the way of a request is to know it.
const MOST: f64 = 9.0;

#[global_allocator]
static COUNTING: Counting = Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

/// The system's allocator, which counts what the threads that carry traffic take.
struct Counting;

#[derive(Clone, Copy, PartialEq)]
enum Thread {
    Unknown,
    /// Its name is being looked up, which may take memory itself.
    Asked,
    Worker,
    Other,
}

thread_local! {
    static THREAD: Cell<Thread> = const { Cell::new(Thread::Unknown) };
}

fn count() {
    // At its very end a thread has no such variables any more.
    let thread = THREAD.try_with(|thread| {
        if thread.get() == Thread::Unknown {
            thread.set(Thread::Asked);
            let is_worker = std::thread::current().name() == Some("worker");
            thread.set(if is_worker { Thread::Worker } else { Thread::Other });
        }
        thread.get()
    });
    if thread == Ok(Thread::Worker) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: all of it is the system's allocator; counting takes no memory, or is not asked again while it does.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.realloc(memory, layout, size) }
    }
}

async fn ask(wire: &mut Wire, requests: u64) {
    for _ in 0..requests {
        wire.send("GET /100 HTTP/1.1\r\nHost: cart.shop\r\nUser-Agent: mesh-load\r\nAccept: */*\r\n\r\n").await;
        let (head, body) = wire.message().await.unwrap();
        assert!(head.starts_with("HTTP/1.1 200") && body.len() == 100, "{head}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_takes_memory_seldom() {
    let answer = ok(&"x".repeat(100));
    let address = app(move |mut wire: Wire, _| {
        let answer = answer.clone();
        async move { while wire.head().await.is_some() && wire.try_send(&answer).await {} }
    })
    .await;
    let pair = Pair::start(address, Protocol::Http1, open(Protocol::Http1)).await;
    let mut wire = Wire::connect(pair.entry).await;
    ask(&mut wire, WARM).await;
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    ask(&mut wire, REQUESTS).await;
    let taken = ALLOCATIONS.load(Ordering::Relaxed) - before;
    let each = f64::from(u32::try_from(taken).unwrap()) / f64::from(u32::try_from(REQUESTS).unwrap());
    println!("{each:.2} allocations for a request");
    assert!(taken > 0, "the threads that carry traffic have another name: nothing is counted");
    assert!(each <= MOST, "{each:.2} allocations for a request, and at most {MOST} are known of");
}
