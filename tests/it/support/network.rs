//! A network that can be lost.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

/// The way from a browser to the service, which can be lost. Chromium's own switch is not enough: streams that are open
/// stay open.
pub struct Network {
    /// Where the browser connects to.
    pub address: SocketAddr,
    /// Both ends of every connection; none while there is no network.
    open: Arc<Mutex<Option<Vec<TcpStream>>>>,
}

impl Network {
    /// A way of its own to an address.
    pub fn to(service: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("address");
        let open = Arc::new(Mutex::new(Some(Vec::new())));
        let network = Self { address, open: Arc::clone(&open) };
        std::thread::spawn(move || {
            for browser in listener.incoming().map_while(Result::ok) {
                let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
                // Without a network, or a service, the connection is closed at once.
                let Some(open) = open.as_mut() else { continue };
                let Ok(service) = TcpStream::connect(service) else { continue };
                pass_on(&browser, &service);
                pass_on(&service, &browser);
                open.extend([browser, service]);
            }
        });
        network
    }

    /// Ends every connection and refuses new ones.
    pub fn lose(&self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).take();
        for connection in open.into_iter().flatten() {
            // It may have ended already.
            drop(connection.shutdown(Shutdown::Both));
        }
    }

    /// Takes new connections.
    pub fn is_back(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
    }
}

/// Passes on what one end says until it is silent for good.
fn pass_on(from: &TcpStream, to: &TcpStream) {
    let mut from = from.try_clone().expect("a second handle");
    let mut to = to.try_clone().expect("a second handle");
    std::thread::spawn(move || {
        drop(std::io::copy(&mut from, &mut to));
        drop(to.shutdown(Shutdown::Both));
    });
}
