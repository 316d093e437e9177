//! What a statement's text tells: whether running it may leave something behind in the session.

mod scanner;

pub use scanner::Syntax;
use scanner::{Scanner, Token};

/// The statements that surely leave nothing behind in the session: what they begin with, and which words
/// make even those suspect.
///
/// A statement is read as its server reads it, so a word in a literal or in a comment does not count. What
/// cannot be understood is not plain, and of two ways to read a text (a backslash in a literal depends on
/// the server's settings) each must be. What a stored function does is not seen.
///
/// # Example
///
/// ```
/// use farrier_connection::{Alteration, PlainStatements, Syntax};
///
/// const PLAIN: PlainStatements =
///     PlainStatements::new(Syntax::MySql, &["SELECT", "INSERT"], &["TEMPORARY", "GET_LOCK"]);
/// assert!(PLAIN.contains(b"SELECT id FROM users WHERE mail = 'ann@example.com'; -- why"));
/// assert!(!PLAIN.contains(b"SELECT @id := 7"));
/// assert!(!PLAIN.contains(b"SELECT 1; SET autocommit = 0"));
/// assert_eq!(PLAIN.alteration(b"SELECT get_lock('a', 1)"), Alteration::Resettable);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct PlainStatements {
    syntax: Syntax,
    beginnings: &'static [&'static str],
    unless: &'static [&'static str],
    if_made: &'static [&'static str],
    transaction_local: &'static [&'static str],
    lasting: &'static [&'static str],
    lasting_unless_plain: &'static [&'static str],
}

/// What a statement may leave behind in its session, the worst last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Alteration {
    /// Nothing: the statement is a plain one.
    #[default]
    Nothing,
    /// Something that a reset removes, such as a setting or a transaction.
    Resettable,
    /// Something that only goes with the session.
    Lasting,
}

impl PlainStatements {
    /// Statements that begin with one of `beginnings`, of one word or two, and have none of the words
    /// `unless`; one that ends in `*` stands for all that begin like that.
    #[must_use]
    pub const fn new(
        syntax: Syntax,
        beginnings: &'static [&'static str],
        unless: &'static [&'static str],
    ) -> Self {
        Self {
            syntax,
            beginnings,
            unless,
            if_made: &[],
            transaction_local: &[],
            lasting: &[],
            lasting_unless_plain: &[],
        }
    }

    /// Words that make a statement suspect only where it makes something: somewhere after a `CREATE`, or
    /// right after an `INTO`.
    #[must_use]
    pub const fn if_made(mut self, words: &'static [&'static str]) -> Self {
        self.if_made = words;
        self
    }

    /// Words among those `unless` that are plain as a function's name if its last argument is `TRUE`,
    /// which says that what it does ends with the transaction.
    #[must_use]
    pub const fn transaction_local(mut self, functions: &'static [&'static str]) -> Self {
        self.transaction_local = functions;
        self
    }

    /// Words with which no statement is plain, and each is [`Lasting`](Alteration::Lasting).
    #[must_use]
    pub const fn lasting(mut self, words: &'static [&'static str]) -> Self {
        self.lasting = words;
        self
    }

    /// Words with which a statement is [`Lasting`](Alteration::Lasting) if something else says that it is
    /// not plain: those that are a column's name as well.
    #[must_use]
    pub const fn lasting_unless_plain(mut self, words: &'static [&'static str]) -> Self {
        self.lasting_unless_plain = words;
        self
    }

    /// Whether `sql` is one such statement.
    #[must_use]
    pub fn contains(&self, sql: &[u8]) -> bool {
        Scanner::ways(sql, self.syntax).all(|tokens| self.is_plain(tokens))
    }

    /// What `sql` may leave behind.
    #[must_use]
    pub fn alteration(&self, sql: &[u8]) -> Alteration {
        if self.contains(sql) {
            Alteration::Nothing
        } else if Scanner::ways(sql, self.syntax).any(|tokens| self.is_lasting(tokens)) {
            Alteration::Lasting
        } else {
            Alteration::Resettable
        }
    }

    fn is_plain(&self, mut tokens: Scanner<'_>) -> bool {
        let first = tokens.find(|token| *token != Token::Open);
        let Some(Token::Word(first)) = first else { return false };
        if !self.begins(first, &tokens) {
            return false;
        }
        let mut creates = first.eq_ignore_ascii_case(b"CREATE");
        let mut into = false;
        while let Some(token) = tokens.next() {
            match token {
                Token::Word(word) | Token::Name(word) => {
                    let local =
                        || matches(self.transaction_local, word) && is_local(tokens.clone());
                    if matches(self.lasting, word)
                        || matches(self.unless, word) && !local()
                        || (creates || into) && matches(self.if_made, word)
                    {
                        return false;
                    }
                    creates |= word.eq_ignore_ascii_case(b"CREATE");
                    into = word.eq_ignore_ascii_case(b"INTO")
                        || into && matches(&["LOCAL", "GLOBAL"], word);
                }
                Token::Suspect => return false,
                Token::Semicolon => return tokens.next().is_none(),
                Token::Open | Token::Close | Token::Comma | Token::Other => into = false,
            }
        }
        true
    }

    /// Of two words there must be a third: `SET LOCAL.x` is no `SET LOCAL`.
    fn begins(&self, first: &[u8], rest: &Scanner<'_>) -> bool {
        let is = |word: &[u8], beginning: &str| word.eq_ignore_ascii_case(beginning.as_bytes());
        self.beginnings.iter().any(|beginning| match beginning.split_once(' ') {
            None => is(first, beginning),
            Some((one, two)) if is(first, one) => {
                let mut rest = rest.clone();
                matches!(rest.next(), Some(Token::Word(second)) if is(second, two))
                    && matches!(rest.next(), Some(Token::Word(_) | Token::Name(_)))
            }
            Some(_) => false,
        })
    }

    fn is_lasting(&self, mut tokens: Scanner<'_>) -> bool {
        tokens.any(|token| match token {
            Token::Word(word) | Token::Name(word) => {
                matches(self.lasting, word) || matches(self.lasting_unless_plain, word)
            }
            _ => false,
        })
    }
}

fn matches(words: &[&str], word: &[u8]) -> bool {
    words.iter().any(|one| match one.strip_suffix('*') {
        None => word.eq_ignore_ascii_case(one.as_bytes()),
        Some(start) => {
            word.get(..start.len()).is_some_and(|word| word.eq_ignore_ascii_case(start.as_bytes()))
        }
    })
}

/// Whether the arguments that come next end in `, TRUE`.
fn is_local(mut tokens: Scanner<'_>) -> bool {
    if tokens.next() != Some(Token::Open) {
        return false;
    }
    let mut depth = 1;
    let mut last = [Token::Open; 2];
    for token in tokens {
        match token {
            Token::Open => depth += 1,
            Token::Close => depth -= 1,
            Token::Suspect => return false,
            _ => {}
        }
        if depth == 0 {
            return matches!(last, [Token::Comma, Token::Word(word)]
                if word.eq_ignore_ascii_case(b"TRUE"));
        }
        last = [last[1], token];
    }
    false
}

#[cfg(test)]
mod tests;
