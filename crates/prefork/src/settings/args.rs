//! The settings as flags.

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches, Parser};

use super::error::SettingsError;
use super::given::{CONFIG, Given};
use super::sources::process_variable;
use super::table::{KEYS, Key, Settings};
use crate::complain::complain;

/// The launcher's settings as flags, to be flattened into a program's own parser.
///
/// ```
/// use clap::Parser;
///
/// #[derive(Parser)]
/// struct Cli {
///     /// Greeting to answer with.
///     #[arg(long, default_value = "hello")]
///     greeting: String,
///     #[command(flatten)]
///     launcher: farrier_prefork::Args,
/// }
///
/// let cli = Cli::parse_from(["app", "--greeting", "hi", "--workers", "4", "--timeout", "2.5"]);
/// let settings = cli.launcher.settings()?;
/// assert_eq!(settings.workers, 4);
/// # Ok::<(), farrier_prefork::SettingsError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Args {
    pub(super) given: Given,
}

/// Parses the command line, and reports a wrong one in a single line on standard error.
///
/// # Errors
///
/// The exit code to return from `main`: 0 if help or version was asked for and printed, 1 otherwise
/// (clap itself would exit with 2).
pub fn parse_args<P: Parser>() -> Result<P, ExitCode> {
    P::try_parse().map_err(|error| report(P::command().get_name(), &error))
}

/// Prints what clap has to say; the exit code comes back.
pub(crate) fn report(name: &str, error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // Nobody is left to be told that standard output is closed.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    complain(name, &one_line(error));
    ExitCode::FAILURE
}

/// What is wrong with a command line, in one line.
pub(super) fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut message = lines.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    for tip in lines.filter_map(|line| line.strip_prefix("tip: ")) {
        message.push_str("; ");
        message.push_str(tip);
    }
    message.push_str("; --help lists what is allowed");
    message
}

impl Args {
    /// The flags of the process's own command line, for a program that has none but these.
    ///
    /// # Errors
    ///
    /// clap's, if there is another flag or help was asked for.
    pub(crate) fn of_process(name: &str) -> Result<Self, clap::Error> {
        let command = <Self as clap::Args>::augment_args(Command::new(name.to_owned()));
        Self::from_arg_matches(&command.try_get_matches()?)
    }

    /// The settings: the flags over the environment over `farrier.toml` over the defaults.
    ///
    /// # Errors
    ///
    /// The first wrong setting.
    pub fn settings(&self) -> Result<Settings, SettingsError> {
        self.settings_over(Settings::default())
    }

    /// The same over what the program itself chose.
    ///
    /// # Errors
    ///
    /// The first wrong setting.
    pub fn settings_over(&self, base: Settings) -> Result<Settings, SettingsError> {
        Settings::resolved(base, &self.given, process_variable)
    }

    fn take(&mut self, matches: &ArgMatches, name: &'static str) {
        // `try_`: a program may have replaced one of the flags with its own.
        if let Ok(Some(values)) = matches.try_get_many::<String>(name) {
            self.given.insert(name, values.cloned().collect());
        }
    }
}

impl FromArgMatches for Args {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut args = Self::default();
        args.update_from_arg_matches(matches)?;
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.take(matches, CONFIG);
        for key in KEYS {
            self.take(matches, key.name);
        }
        Ok(())
    }
}

impl clap::Args for Args {
    fn augment_args(command: Command) -> Command {
        let defaults = Settings::default();
        let config = Arg::new(CONFIG)
            .short('c')
            .long(CONFIG)
            .value_name("PATH")
            .help("Settings file [default: ./farrier.toml if it exists] [env: FARRIER_CONFIG]");
        KEYS.iter()
            .map(|key| key.arg(&defaults))
            .fold(command.arg(config.help_heading("Launcher")), Command::arg)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl Key {
    fn arg(&self, defaults: &Settings) -> Arg {
        let first: Vec<_> =
            self.doc.iter().map(|line| line.trim()).take_while(|line| !line.is_empty()).collect();
        let default = match (self.show)(defaults) {
            default if default.is_empty() => default,
            default => format!(" [default: {default}]"),
        };
        let arg = Arg::new(self.name)
            .long(self.flag())
            .value_name(self.metavar)
            .help(format!(
                "{}{default} [env: {}]",
                first.join(" ").replace('`', ""),
                self.variable()
            ))
            .help_heading("Launcher")
            .allow_negative_numbers(true);
        let arg = if self.many {
            arg.action(ArgAction::Append)
        } else {
            // The last one wins, as everywhere in the sources.
            arg.action(ArgAction::Set).overrides_with(self.name)
        };
        let arg = match self.short {
            Some(short) => arg.short(short),
            None => arg,
        };
        match self.alias {
            Some(alias) => arg.alias(alias),
            None => arg,
        }
    }
}
