//! A replica without threads: on the runtime that it is started on, in whatever world it is given. A simulation
//! runs the very code that serves users this way.

use std::sync::Arc;

use bramah_cell::{Cell, StartError, World};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::front;
use crate::server::{FRONT_STOP_LIMIT, ServerConfig, cell_config, listen, manner};

/// A replica that shares the runtime of whoever started it. It ends with that runtime, or by [`InPlace::stop`].
pub struct InPlace {
    cell: Cell,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
    telling: JoinHandle<()>,
}

impl std::fmt::Debug for InPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "replica {}", self.cell.replica())
    }
}

impl InPlace {
    /// Starts the cell's replica and then its front.
    ///
    /// # Errors
    /// As [`crate::Server::start`].
    pub async fn start(config: ServerConfig, world: World) -> Result<InPlace, StartError> {
        let (transport, manner) = (Arc::clone(&world.transport), manner(&config, world.clock.clone())?);
        let cell = Cell::start(cell_config(&config), world).await?;
        let listener = listen(transport.as_ref(), &config.clients_listen).await?;
        let (stop, mut stopped) = watch::channel(false);
        let stopping = async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        let serving = tokio::spawn(front::grpc::serve(cell.clone(), listener, manner, stopping));
        let telling = tokio::spawn(cell.dispatch_events());
        Ok(InPlace { cell, stop, serving, telling })
    }

    /// The cell's face.
    pub fn cell(&self) -> &Cell {
        &self.cell
    }

    /// Finishes what is under way, hands leadership over and ends (spec G-12).
    pub async fn stop(self) {
        self.cell.hand_over().await;
        self.stop.send_replace(true);
        let _ = tokio::time::timeout(FRONT_STOP_LIMIT, self.serving).await;
        self.telling.abort();
        self.cell.stop().await;
    }
}
