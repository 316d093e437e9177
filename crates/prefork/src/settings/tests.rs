use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use clap::{CommandFactory, Parser};

use super::error::SettingsError;
use super::table::KEYS;
use super::*;

#[derive(Debug, Parser)]
struct Cli {
    #[arg(long, default_value = "hello")]
    greeting: String,
    #[command(flatten)]
    launcher: Args,
}

fn args(flags: &[&str]) -> Args {
    Cli::try_parse_from([&["app"], flags].concat()).unwrap().launcher
}

/// The sources with this environment, and no file beside the test.
fn resolved(flags: &[&str], environment: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    over(Settings::default(), flags, environment)
}

fn over(
    base: Settings,
    flags: &[&str],
    environment: &[(&str, &str)],
) -> Result<Settings, SettingsError> {
    let variable = |name: &str| {
        let found = environment.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| OsString::from(value))
    };
    Settings::resolved(base, &args(flags).given, variable)
}

fn file(content: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("farrier.toml");
    std::fs::write(&path, content).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

#[test]
fn the_parser_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn later_sources_win() {
    let (_folder, path) = file("workers = 3\ntimeout = 3.5\nkeepalive = 3\nbacklog = 3\n");
    let mut base = Settings::default();
    (base.workers, base.timeout) = (2, Duration::from_secs(2));
    (base.keepalive, base.threads) = (Duration::from_secs(2), 2);
    let settings = over(
        base,
        &["--config", &path, "--workers", "5"],
        &[("FARRIER_WORKERS", "4"), ("FARRIER_TIMEOUT", "4.25"), ("WEB_CONCURRENCY", "9")],
    )
    .unwrap();
    assert_eq!(settings.workers, 5, "flag");
    assert_eq!(settings.timeout, Duration::from_millis(4250), "environment");
    assert_eq!(settings.keepalive, Duration::from_secs(3), "file");
    assert_eq!(settings.threads, 2, "code");
    assert_eq!(settings.graceful_timeout, Duration::from_secs(30), "default");
}

#[test]
fn an_empty_variable_is_unset() {
    let settings = resolved(&[], &[("FARRIER_WORKERS", ""), ("PORT", "")]).unwrap();
    assert_eq!(settings.workers, 1);
    assert_eq!(settings.bind, [Bind::default()]);
}

#[test]
fn the_platforms_variables_are_weaker_than_all_that_names_farrier() {
    let platform = [("WEB_CONCURRENCY", "4"), ("PORT", "9000")];
    let settings = resolved(&[], &platform).unwrap();
    assert_eq!(settings.workers, 4);
    assert_eq!(settings.bind, [Bind::Tcp("0.0.0.0".into(), 9000)]);

    let (_folder, path) = file("workers = 2\nbind = '[::1]:1'\n");
    let settings = resolved(&["-c", &path], &platform).unwrap();
    assert_eq!(settings.workers, 2);
    assert_eq!(settings.bind, [Bind::Tcp("::1".into(), 1)]);

    let refused = resolved(&[], &[("WEB_CONCURRENCY", "many")]).unwrap_err().to_string();
    assert!(refused.contains("WEB_CONCURRENCY") && refused.contains("many"), "{refused}");
}

#[test]
fn several_binds_come_from_everywhere() {
    let both = [Bind::Tcp("127.0.0.1".into(), 1), Bind::Unix("/run/s".into())];
    let flags = ["-b", "127.0.0.1:1", "--bind", "unix:/run/s"];
    assert_eq!(resolved(&flags, &[]).unwrap().bind, both);
    let variable = [("FARRIER_BIND", "127.0.0.1:1, unix:/run/s")];
    assert_eq!(resolved(&[], &variable).unwrap().bind, both);
    let (_folder, path) = file("bind = ['127.0.0.1:1', 'unix:/run/s']");
    assert_eq!(resolved(&["-c", &path], &[]).unwrap().bind, both);
}

#[test]
fn gunicorns_flags_are_understood() {
    let flags =
        ["-w", "3", "-t", "2", "-p", "/run/pid", "--keep-alive", "7", "--log-level", "debug"];
    let settings = resolved(&flags, &[]).unwrap();
    assert_eq!((settings.workers, settings.timeout.as_secs()), (3, 2));
    assert_eq!(settings.keepalive.as_secs(), 7);
    assert_eq!(settings.loglevel, LogLevel::Debug);
    assert_eq!(settings.control_path().as_deref(), Some(Path::new("/run/pid.sock")));
    assert_eq!(resolved(&["-w", "3", "-w", "4"], &[]).unwrap().workers, 4, "the last one wins");
}

#[test]
fn every_setting_can_be_named_in_every_source() {
    for key in KEYS {
        let value = match (key.show)(&Settings::default()) {
            value if value.is_empty() => "/tmp/x".to_owned(),
            value => value,
        };
        let flag = format!("--{}={value}", key.flag());
        let written = |settings: Settings| (key.show)(&settings);
        assert_eq!(written(resolved(&[&flag], &[]).unwrap()), value, "{flag}");
        let variable = key.variable();
        assert_eq!(written(resolved(&[], &[(&variable, &value)]).unwrap()), value, "{variable}");
        let (_folder, path) = file(&format!("{} = '{value}'", key.name));
        assert_eq!(written(resolved(&["-c", &path], &[]).unwrap()), value, "{}", key.name);
    }
}

#[test]
fn a_wrong_value_is_named_with_what_is_allowed_and_where_it_stands() {
    let wrong = [
        ("workers", "0"),
        ("workers", "many"),
        ("workers", "513"),
        ("threads", "-1"),
        ("backlog", "0"),
        ("timeout", "-1"),
        ("timeout", "NaN"),
        ("timeout", "inf"),
        ("graceful_timeout", "30s"),
        ("bind", "::1"),
        ("bind", "localhost:http"),
        ("bind", "localhost:70000"),
        ("bind", "/run/socket"),
        ("bind", "[::1"),
        ("bind", "unix:"),
        ("loglevel", "loud"),
    ];
    for (name, value) in wrong {
        let key = KEYS.iter().find(|key| key.name == name).unwrap();
        let (_folder, path) = file(&format!("\n\n{name} = '{value}'\n"));
        let flag = format!("--{}={value}", key.flag());
        let variable = key.variable();
        for (error, place) in [
            (resolved(&[&flag], &[]).unwrap_err(), format!("--{}", key.flag())),
            (resolved(&[], &[(&variable, value)]).unwrap_err(), variable.clone()),
            (resolved(&["-c", &path], &[]).unwrap_err(), format!("{path}, line 3")),
        ] {
            let text = error.to_string();
            for part in [name, value, key.allowed, &place] {
                assert!(text.contains(part), "{part} is not in {text}");
            }
            assert_eq!(text.lines().count(), 1, "{text}");
        }
    }
}

#[test]
fn a_variable_that_is_no_text_is_named() {
    use std::os::unix::ffi::OsStrExt;

    for name in ["FARRIER_PIDFILE", "FARRIER_CONFIG", "WEB_CONCURRENCY"] {
        let value = std::ffi::OsStr::from_bytes(b"/run/\xff");
        let variable = |asked: &str| (asked == name).then(|| value.to_owned());
        let text = Settings::resolved(Settings::default(), &args(&[]).given, variable)
            .unwrap_err()
            .to_string();
        assert!(text.contains(name) && text.contains("/run/") && text.contains("UTF-8"), "{text}");
    }
}

#[test]
fn what_the_program_sets_is_checked_too() {
    Settings::default().check().unwrap();
    let wrong: [(&str, fn(&mut Settings)); 4] = [
        ("workers", |settings| settings.workers = 0),
        ("workers", |settings| settings.workers = 10_000),
        ("bind", |settings| settings.bind.clear()),
        ("graceful_timeout", |settings| settings.graceful_timeout = Duration::MAX),
    ];
    for (name, change) in wrong {
        let mut settings = Settings::default();
        change(&mut settings);
        let text = settings.check().unwrap_err().to_string();
        assert!(text.contains(name) && text.contains("set by the program"), "{text}");
        let over = over(settings, &[], &[]).unwrap_err().to_string();
        assert_eq!(over, text);
    }
}

#[test]
fn a_wrong_file_is_named_with_the_line() {
    let (_folder, path) = file("workers = 2\nworker = 3\n");
    let text = resolved(&["-c", &path], &[]).unwrap_err().to_string();
    assert!(text.contains("line 2") && text.contains("workers"), "{text}");

    let (_folder, path) = file("workers = 2\nworkers = = 3\n");
    let text = resolved(&["-c", &path], &[]).unwrap_err().to_string();
    assert!(text.contains("line 2") && text.lines().count() == 1, "{text}");

    let text = resolved(&["-c", "/nowhere/farrier.toml"], &[]).unwrap_err().to_string();
    assert!(text.contains("/nowhere/farrier.toml") && text.contains("--config"), "{text}");
    let text = resolved(&[], &[("FARRIER_CONFIG", "/nowhere/f")]).unwrap_err().to_string();
    assert!(text.contains("/nowhere/f") && text.contains("FARRIER_CONFIG"), "{text}");

    let (_folder, path) = file("workers = [1, 2]\n");
    resolved(&["-c", &path], &[]).unwrap_err();
    let (_folder, path) = file("bind = []\n");
    resolved(&["-c", &path], &[]).unwrap_err();
}

#[test]
fn tables_belong_to_the_program() {
    let (_folder, path) = file("workers = 2\n[app]\ngreeting = 'hi'\n");
    assert_eq!(resolved(&["-c", &path], &[]).unwrap().workers, 2);
}

/// Behaviour L38.
#[test]
fn settings_can_be_read_again() {
    let (_folder, path) = file("workers = 2\n");
    let settings = args(&["-c", &path, "--timeout", "5"]).settings().unwrap();
    std::fs::write(&path, "workers = 3\nbacklog = 7\n").unwrap();
    let again = settings.reread().unwrap();
    assert_eq!((again.workers, again.timeout.as_secs()), (3, 5));
    assert_eq!(settings.fixed_until_restart(&again), ["backlog"]);
    std::fs::write(&path, "workers = 0\n").unwrap();
    again.reread().unwrap_err();
    assert_eq!(Settings::default().reread().unwrap().workers, 1, "made in code, it stays");
}

#[test]
fn binds_are_written_as_they_are_read() {
    for text in ["127.0.0.1:0", "[::]:80", "localhost:8000", "unix:/run/s", "unix:s"] {
        assert_eq!(Bind::parse(text).unwrap().to_string(), text);
    }
    assert_eq!(Bind::parse("localhost").unwrap().to_string(), "localhost:8000");
    assert_eq!(Bind::parse(":80").unwrap().to_string(), "0.0.0.0:80");
    assert_eq!(Bind::parse("[::1]").unwrap().to_string(), "[::1]:8000");
}

#[test]
fn an_unknown_flag_is_told_in_one_line() {
    let error = Cli::try_parse_from(["app", "--worker", "3"]).unwrap_err();
    let line = args::one_line(&error);
    assert!(line.contains("--worker") && line.contains("--workers"), "{line}");
    assert_eq!(line.lines().count(), 1);
}
