//! What operators order, by signal and by the control socket.

use std::time::Instant;

use nix::sys::signal::Signal;

use super::state::Master;
use crate::arbiter::{Event, Order};
use crate::control::{Command, Reply};
use crate::signals;

impl Master<'_> {
    pub(super) fn take_signals(&mut self) {
        while let Some(came) = self.own.as_ref().and_then(|own| own.signals.next()) {
            let (signal, order) = match came {
                Ok(Signal::SIGCHLD) => {
                    self.reap();
                    continue;
                }
                Ok(signal @ Signal::SIGTERM) => (signal, Order::Stop { quick: false }),
                Ok(signal @ (Signal::SIGINT | Signal::SIGQUIT)) => {
                    (signal, Order::Stop { quick: true })
                }
                Ok(signal @ Signal::SIGHUP) => (signal, Order::Reload),
                Ok(signal @ Signal::SIGTTIN) => (signal, Order::More),
                Ok(signal @ Signal::SIGTTOU) => (signal, Order::Fewer),
                // A terminal sends it whenever its size changes; gunicorn too ignores it unless it is a daemon.
                Ok(Signal::SIGWINCH) => {
                    tracing::debug!("SIGWINCH is ignored");
                    continue;
                }
                stray => {
                    signals::note_stray(stray);
                    continue;
                }
            };
            tracing::info!("handling signal {signal}");
            self.feed(Event::Order(order));
        }
    }

    pub(super) fn take_commands(&mut self) {
        let Some(mut control) = self.own.as_mut().and_then(|own| own.control.take()) else {
            return;
        };
        let mut orders = Vec::new();
        control.turn(Instant::now(), |command| self.answer(command, &mut orders));
        // Back in its place before an order may fork.
        if let Some(own) = &mut self.own {
            own.control = Some(control);
        }
        for order in orders {
            self.feed(Event::Order(order));
        }
    }

    fn answer(&self, command: Command, orders: &mut Vec<Order>) -> Reply {
        match command {
            Command::Status => Reply::ok(self.status()),
            Command::Stop { quick } => {
                tracing::info!(quick, "ordered to stop");
                orders.push(Order::Stop { quick });
                Reply::until_the_end(self.status())
            }
            Command::Reload => {
                tracing::info!("ordered to reload");
                orders.push(Order::Reload);
                Reply::AfterReload
            }
        }
    }
}
