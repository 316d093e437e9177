use std::io::{BufRead, BufReader};

use super::*;

struct Fixture {
    _folder: tempfile::TempDir,
    control: Control,
    client: BufReader<UnixStream>,
}

fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control");
    let control = Control::bind(&path).unwrap();
    let client = UnixStream::connect(&path).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    Fixture { _folder: folder, control, client: BufReader::new(client) }
}

fn echo(command: Command) -> Reply {
    #[derive(Serialize)]
    struct Echo {
        asked: String,
    }
    Reply::ok(Echo { asked: format!("{command:?}") })
}

impl Fixture {
    fn ask(&mut self, line: &str) -> String {
        self.client.get_mut().write_all(line.as_bytes()).unwrap();
        self.control.turn(Instant::now(), echo);
        let mut reply = String::new();
        self.client.read_line(&mut reply).unwrap();
        reply
    }
}

#[test]
fn commands_are_understood() {
    let mut it = fixture();
    assert_eq!(it.ask("{\"command\":\"status\"}\n"), "{\"ok\":true,\"asked\":\"Status\"}\n");
    let quick = it.ask("{\"command\":\"stop\",\"quick\":true}\n");
    assert!(quick.contains("Stop { quick: true }"), "{quick}");
    let slow = it.ask("{\"command\":\"stop\"}\n");
    assert!(slow.contains("Stop { quick: false }"), "{slow}");
}

#[test]
fn nonsense_is_refused_and_the_connection_lives() {
    let mut it = fixture();
    for nonsense in ["\n", "{}\n", "{\"command\":\"dance\"}\n", "\u{1F984}\n"] {
        let reply = it.ask(nonsense);
        assert!(reply.starts_with("{\"ok\":false") && reply.contains("status"), "{reply}");
    }
    assert!(it.ask("{\"command\":\"status\"}\n").contains("true"));
}

#[test]
fn a_command_may_come_in_pieces() {
    let mut it = fixture();
    it.client.get_mut().write_all(b"{\"command\":").unwrap();
    it.control.turn(Instant::now(), echo);
    assert!(it.ask("\"reload\"}\n").contains("Reload"));
}

#[test]
fn who_closes_its_side_is_answered_all_the_same() {
    let mut it = fixture();
    it.client.get_mut().write_all(b"{\"command\":\"status\"}\n").unwrap();
    it.client.get_mut().shutdown(std::net::Shutdown::Write).unwrap();
    it.control.turn(Instant::now(), echo);
    let mut reply = String::new();
    it.client.read_to_string(&mut reply).unwrap();
    assert_eq!(reply, "{\"ok\":true,\"asked\":\"Status\"}\n");
}

#[test]
fn an_endless_line_ends_the_connection() {
    let mut it = fixture();
    it.client.get_mut().write_all(&[b'x'; 2 * LONGEST_LINE]).unwrap();
    it.control.turn(Instant::now(), echo);
    it.control.turn(Instant::now(), echo);
    assert_eq!(it.control.clients.len(), 0);
}

#[test]
fn silent_clients_are_dropped_and_do_not_block() {
    let mut it = fixture();
    let now = Instant::now();
    it.control.turn(now, echo);
    assert_eq!(it.control.clients.len(), 1);
    assert_eq!(it.control.deadline(), Some(now + IDLE));
    it.control.turn(now + IDLE, echo);
    assert_eq!(it.control.clients.len(), 0);
}

/// Who comes is served, however many sit there and say nothing.
#[test]
fn silent_clients_do_not_keep_others_out() {
    let mut it = fixture();
    let path = it._folder.path().join("control");
    let silent: Vec<_> = (0..500)
        .map(|_| {
            let silent = UnixStream::connect(&path).unwrap();
            it.control.turn(Instant::now(), echo);
            silent
        })
        .collect();
    it.client = BufReader::new(UnixStream::connect(&path).unwrap());
    it.client.get_ref().set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert!(it.ask("{\"command\":\"status\"}\n").contains("true"));
    assert!(it.control.clients.len() <= MOST_CLIENTS);
    drop(silent);
}

#[test]
fn a_client_that_does_not_read_does_not_block() {
    let mut it = fixture();
    let now = Instant::now();
    it.client.get_ref().set_nonblocking(true).unwrap();
    for _ in 0..10_000 {
        // In the end its own writes would block, since nobody reads it either.
        let _ = it.client.get_mut().write_all(b"{\"command\":\"status\"}\n");
        it.control.turn(now, echo);
    }
    let kept: usize = it.control.clients.iter().map(|client| client.outgoing.len()).sum();
    assert!(kept <= 1024, "{kept}");
}

#[test]
fn who_waits_for_a_reload_is_answered_when_that_one_is_over() {
    let mut it = fixture();
    let now = Instant::now();
    it.client.get_mut().write_all(b"{\"command\":\"reload\"}\n{\"command\":\"status\"}\n").unwrap();
    it.control.turn(now, |_| Reply::AfterReload);
    it.control.reload_ends(b"the one before\n", now);
    it.control.reload_begins();
    it.control.reload_is_tried();
    it.control.reload_ends(b"still the one before\n", now);
    it.control.reload_begins();
    it.control.reload_is_refused(b"the one after\n", now);
    it.control.turn(now + 2 * IDLE, |_| panic!("it is asked nothing while it waits"));
    assert_eq!(it.control.deadline(), None);
    it.control.reload_ends(b"over\n", now);
    it.control.turn(now, echo);
    let mut reply = String::new();
    it.client.read_line(&mut reply).unwrap();
    assert_eq!(reply, "over\n");
    reply.clear();
    it.client.read_line(&mut reply).unwrap();
    assert!(reply.contains("Status"), "{reply}");
}

#[test]
fn who_asks_while_a_reload_is_tried_waits_for_the_next_one() {
    let mut it = fixture();
    let now = Instant::now();
    it.control.reload_is_tried();
    it.client.get_mut().write_all(b"{\"command\":\"reload\"}\n").unwrap();
    it.control.turn(now, |_| Reply::AfterReload);
    it.control.reload_is_refused(b"the one before\n", now);
    it.control.reload_is_tried();
    it.control.reload_is_refused(b"refused\n", now);
    let mut reply = String::new();
    it.client.read_line(&mut reply).unwrap();
    assert_eq!(reply, "refused\n");
}

#[test]
fn who_asks_for_the_stop_and_closes_its_side_sees_the_end() {
    let mut it = fixture();
    it.client.get_mut().write_all(b"{\"command\":\"stop\"}\n").unwrap();
    it.client.get_mut().shutdown(std::net::Shutdown::Write).unwrap();
    for _ in 0..3 {
        it.control.turn(Instant::now(), |_| Reply::until_the_end(()));
    }
    assert_eq!(it.control.clients.len(), 1, "it waits");
    assert!(
        it.control.interests().all(|(_, flags)| flags.is_empty() || flags == PollFlags::POLLIN)
    );
    assert_eq!(it.control.clients[0].interest().1, PollFlags::empty());
    it.client = BufReader::new(UnixStream::pair().unwrap().0);
    it.control.turn(Instant::now(), echo);
    assert_eq!(it.control.clients.len(), 0);
}

#[test]
fn who_waits_for_a_reload_and_leaves_is_forgotten() {
    let mut it = fixture();
    it.client.get_mut().write_all(b"{\"command\":\"reload\"}\n").unwrap();
    it.control.turn(Instant::now(), |_| Reply::AfterReload);
    it.client.get_mut().shutdown(std::net::Shutdown::Write).unwrap();
    it.control.turn(Instant::now(), echo);
    assert_eq!(it.control.clients.len(), 1, "it still reads");
    it.client = BufReader::new(UnixStream::pair().unwrap().0);
    it.control.turn(Instant::now(), echo);
    assert_eq!(it.control.clients.len(), 0);
}

#[test]
fn many_questions_at_once_are_answered_one_by_one() {
    let mut it = fixture();
    it.client.get_mut().write_all(&b"{\"command\":\"status\"}\n".repeat(50)).unwrap();
    it.client.get_mut().shutdown(std::net::Shutdown::Write).unwrap();
    let (now, mut answered) = (Instant::now(), 0);
    for turn in 1..=50 {
        it.control.turn(now, |command| {
            answered += 1;
            echo(command)
        });
        assert_eq!(answered, turn);
        assert_eq!(it.control.deadline() == Some(now), turn < 50, "the next turn is due at once");
    }
    let mut replies = String::new();
    it.client.read_to_string(&mut replies).unwrap();
    assert_eq!(replies.lines().count(), 50);
}
