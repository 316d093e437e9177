//! What a statement's text tells: whether running it may leave something behind in the session.

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
/// use farrier_connection::{PlainStatements, Syntax};
///
/// const PLAIN: PlainStatements =
///     PlainStatements::new(Syntax::MySql, &["SELECT", "INSERT"], &["TEMPORARY", "GET_LOCK"]);
/// assert!(PLAIN.contains(b"SELECT id FROM users WHERE mail = 'ann@example.com'; -- why"));
/// assert!(!PLAIN.contains(b"SELECT @id := 7"));
/// assert!(!PLAIN.contains(b"SELECT 1; SET autocommit = 0"));
/// assert!(!PLAIN.contains(b"SELECT get_lock('a', 1)"));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct PlainStatements {
    syntax: Syntax,
    first_words: &'static [&'static str],
    unless: &'static [&'static str],
}

/// Whose SQL it is: what is a comment, a literal, a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Syntax {
    /// MySQL and MariaDB; whatever `sql_mode` says of quotes and backslashes. A user variable is never
    /// plain.
    MySql,
    /// PostgreSQL, whatever `standard_conforming_strings` says.
    Postgres,
    /// SQLite.
    Sqlite,
}

/// What a backslash in a literal does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escapes {
    Nowhere,
    /// In those that PostgreSQL writes `E'..'`.
    Marked,
    SingleQuoted,
    BothQuoted,
}

struct Scanner<'a> {
    sql: &'a [u8],
    at: usize,
    syntax: Syntax,
    escapes: Escapes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    /// Keywords, and names without their quotes: those of functions count as well.
    Word(&'a [u8]),
    /// In quotes, which a keyword is not.
    Name(&'a [u8]),
    Semicolon,
    Open,
    /// A literal, a number, a parameter, an operator.
    Other,
    /// A user variable, something that the server executes though it looks like a comment, something
    /// that does not end.
    Suspect,
}

// === impl PlainStatements ===

impl PlainStatements {
    /// Statements that begin with one of `first_words` and have none of the words `unless`; one that
    /// ends in `*` stands for all that begin like that.
    #[must_use]
    pub const fn new(
        syntax: Syntax,
        first_words: &'static [&'static str],
        unless: &'static [&'static str],
    ) -> Self {
        Self { syntax, first_words, unless }
    }

    /// Whether `sql` is one such statement.
    #[must_use]
    pub fn contains(&self, sql: &[u8]) -> bool {
        let ways: &[Escapes] = match self.syntax {
            Syntax::Sqlite => &[Escapes::Nowhere],
            Syntax::Postgres => &[Escapes::Marked, Escapes::SingleQuoted],
            Syntax::MySql => &[Escapes::BothQuoted, Escapes::SingleQuoted, Escapes::Nowhere],
        };
        let ways = if sql.contains(&b'\\') { ways } else { &ways[..1] };
        ways.iter()
            .all(|&escapes| self.is_plain(Scanner { sql, at: 0, syntax: self.syntax, escapes }))
    }

    fn is_plain<'a>(&self, mut tokens: impl Iterator<Item = Token<'a>>) -> bool {
        let first = tokens.find(|token| *token != Token::Open);
        let Some(Token::Word(first)) = first else { return false };
        if !self.first_words.iter().any(|word| first.eq_ignore_ascii_case(word.as_bytes())) {
            return false;
        }
        while let Some(token) = tokens.next() {
            match token {
                Token::Word(word) | Token::Name(word) if self.is_suspect(word) => return false,
                Token::Suspect => return false,
                Token::Semicolon => return tokens.next().is_none(),
                Token::Word(_) | Token::Name(_) | Token::Open | Token::Other => {}
            }
        }
        true
    }

    fn is_suspect(&self, word: &[u8]) -> bool {
        self.unless.iter().any(|suspect| match suspect.strip_suffix('*') {
            None => word.eq_ignore_ascii_case(suspect.as_bytes()),
            Some(start) => word
                .get(..start.len())
                .is_some_and(|word| word.eq_ignore_ascii_case(start.as_bytes())),
        })
    }
}

// === impl Scanner ===

impl<'a> Scanner<'a> {
    fn peek(&self, ahead: usize) -> Option<u8> {
        self.sql.get(self.at + ahead).copied()
    }

    fn rest(&self) -> &'a [u8] {
        self.sql.get(self.at..).unwrap_or_default()
    }

    fn skip_space(&mut self) {
        let is_space = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
        self.at += self.rest().iter().take_while(|byte| is_space(byte)).count();
    }

    fn begins_line_comment(&self) -> bool {
        let dashes = self.rest().starts_with(b"--");
        match self.syntax {
            Syntax::Postgres | Syntax::Sqlite => dashes,
            // `--` needs a space after it; without, it is two times minus.
            Syntax::MySql => {
                let is_space = |byte: u8| byte == b' ' || byte.is_ascii_control();
                self.peek(0) == Some(b'#') || dashes && self.peek(2).is_none_or(is_space)
            }
        }
    }

    /// To the end of the line, which not every server ends at the same byte.
    fn line_comment(&mut self) {
        let ends = |byte: &u8| match self.syntax {
            // MySQL's ends at a NUL, too, which is suspect by itself.
            Syntax::MySql => matches!(byte, b'\n' | 0),
            Syntax::Postgres => matches!(byte, b'\n' | b'\r'),
            Syntax::Sqlite => *byte == b'\n',
        };
        self.at += self.rest().iter().take_while(|byte| !ends(byte)).count();
    }

    /// Whether it is only a comment, and ends.
    fn block_comment(&mut self) -> bool {
        let executes = self.rest().starts_with(b"/*!") || self.rest().starts_with(b"/*M!");
        if self.syntax == Syntax::MySql && executes {
            return false;
        }
        let begin = self.at;
        self.at += 2;
        let mut depth = 1;
        while depth > 0 {
            match (self.peek(0), self.peek(1)) {
                (Some(b'*'), Some(b'/')) => {
                    depth -= 1;
                    self.at += 2;
                }
                (Some(b'/'), Some(b'*')) if self.syntax == Syntax::Postgres => {
                    depth += 1;
                    self.at += 2;
                }
                (Some(_), _) => self.at += 1,
                (None, _) => return false,
            }
        }
        let comment = self.sql.get(begin..self.at).unwrap_or_default();
        // The end of a comment may stand in a name in an optimizer hint, and is none.
        let is_hint = self.syntax == Syntax::MySql && comment.starts_with(b"/*+");
        !is_hint || !comment.iter().any(|byte| matches!(byte, b'`' | b'"' | b'\''))
    }

    /// What is between a quote and the next one like it that is neither doubled nor escaped.
    fn quoted(&mut self, escaped: bool) -> Option<&'a [u8]> {
        let quote = self.peek(0)?;
        let begin = self.at + 1;
        self.at = begin;
        loop {
            match self.peek(0)? {
                b'\\' if escaped => self.at += 2,
                byte if byte == quote && self.peek(1) == Some(quote) => self.at += 2,
                byte => {
                    self.at += 1;
                    if byte == quote {
                        return self.sql.get(begin..self.at - 1);
                    }
                }
            }
        }
    }

    fn string(&mut self, escaped: bool) -> Token<'a> {
        match self.quoted(escaped) {
            None => Token::Suspect,
            Some(text) if self.syntax == Syntax::Sqlite => {
                // SQLite takes 'temp'.t for a name.
                self.skip_space();
                let may_be_name = matches!(self.peek(0), Some(b'.' | b'-' | b'/'));
                if may_be_name { Token::Name(text) } else { Token::Other }
            }
            Some(_) => Token::Other,
        }
    }

    fn name(&mut self) -> Token<'a> {
        let escaped = self.escapes == Escapes::BothQuoted && self.peek(0) == Some(b'"');
        self.quoted(escaped).map_or(Token::Suspect, Token::Name)
    }

    fn word(&mut self) -> Token<'a> {
        let is_part =
            |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | 0x80..);
        let length = self.rest().iter().take_while(|byte| is_part(byte)).count();
        let word = self.rest().get(..length).unwrap_or_default();
        self.at += length;
        if self.syntax != Syntax::Postgres {
            return Token::Word(word);
        }
        match (word, self.peek(0), self.peek(1)) {
            (b"E" | b"e", Some(b'\''), _) => {
                let string = self.string(true);
                self.skip_space();
                // The next line goes on with it, in the same way.
                if self.peek(0) == Some(b'\'') { Token::Suspect } else { string }
            }
            // Names and literals with escapes of their own.
            (b"U" | b"u", Some(b'&'), Some(b'\'' | b'"')) => Token::Suspect,
            _ => Token::Word(word),
        }
    }

    /// PostgreSQL's `$tag$..$tag$`, or a parameter.
    fn dollar(&mut self) -> Token<'a> {
        let is_tag = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | 0x80..);
        let rest = self.rest();
        let tag = rest.iter().skip(1).take_while(|byte| is_tag(byte)).count() + 2;
        let is_number = rest.get(1).is_some_and(u8::is_ascii_digit);
        let tag = match (rest.get(tag - 1), rest.get(..tag)) {
            (Some(b'$'), Some(tag)) if !is_number => tag,
            _ => return self.one(Token::Other),
        };
        let body = rest.get(tag.len()..).unwrap_or_default();
        match body.windows(tag.len()).position(|end| end == tag) {
            Some(end) => {
                self.at += tag.len() + end + tag.len();
                Token::Other
            }
            None => Token::Suspect,
        }
    }

    fn one(&mut self, token: Token<'a>) -> Token<'a> {
        self.at += 1;
        token
    }
}

impl<'a> Iterator for Scanner<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        use Syntax::{MySql, Postgres, Sqlite};
        loop {
            self.skip_space();
            if self.begins_line_comment() {
                self.line_comment();
            } else if self.rest().starts_with(b"/*") {
                if !self.block_comment() {
                    return Some(Token::Suspect);
                }
            } else {
                break;
            }
        }
        Some(match (self.syntax, self.peek(0)?) {
            (MySql, b'@') if self.peek(1) == Some(b'@') => {
                self.at += 2;
                Token::Other
            }
            (_, 0) | (MySql, b'@') => self.one(Token::Suspect),
            (_, b';') => self.one(Token::Semicolon),
            (_, b'(') => self.one(Token::Open),
            (_, b'\'') => {
                self.string(matches!(self.escapes, Escapes::SingleQuoted | Escapes::BothQuoted))
            }
            (_, b'"') | (MySql | Sqlite, b'`') => self.name(),
            (Sqlite, b'[') => match self.rest().iter().position(|byte| *byte == b']') {
                Some(end) => {
                    let name = self.rest().get(1..end).unwrap_or_default();
                    self.at += end + 1;
                    Token::Name(name)
                }
                None => self.one(Token::Suspect),
            },
            (Postgres, b'$') => self.dollar(),
            (_, b'_' | b'a'..=b'z' | b'A'..=b'Z' | 0x80..) => self.word(),
            _ => self.one(Token::Other),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    const MYSQL: PlainStatements = PlainStatements::new(
        Syntax::MySql,
        &["SELECT", "INSERT", "COMMIT"],
        &["TEMPORARY", "GET_LOCK"],
    );
    const POSTGRES: PlainStatements = PlainStatements::new(
        Syntax::Postgres,
        &["SELECT", "INSERT", "CREATE"],
        &["TEMP", "SET_CONFIG", "PG_ADVISORY_LOCK*"],
    );
    const SQLITE: PlainStatements =
        PlainStatements::new(Syntax::Sqlite, &["SELECT", "INSERT", "CREATE"], &["TEMP"]);
    const ALL: [PlainStatements; 3] = [MYSQL, POSTGRES, SQLITE];

    #[track_caller]
    fn plain(statements: &PlainStatements, texts: &[&str]) {
        for sql in texts {
            assert!(statements.contains(sql.as_bytes()), "{:?}: {sql}", statements.syntax);
        }
    }

    #[track_caller]
    fn suspect(statements: &PlainStatements, texts: &[&str]) {
        for sql in texts {
            assert!(!statements.contains(sql.as_bytes()), "{:?}: {sql}", statements.syntax);
        }
    }

    #[test]
    fn what_every_database_reads_alike() {
        for statements in &ALL {
            plain(
                statements,
                &[
                    "SELECT 1",
                    "  select 1;\n",
                    "SELECT 1; -- and no more\n",
                    "/* why */ -- because\n SELECT 1",
                    "(SELECT 1) UNION ((SELECT 2))",
                    "SELECT attempts, template, temperature FROM t WHERE x = 'temp'",
                    "SELECT 'set_config', ';', 'it''s get_lock', '/*', '--'",
                    "INSERT INTO t VALUES ('ann@example.com', 'a;b', ?)",
                    "SELECT 2 - -1, 4 / 2 /* temp; get_lock */",
                    "SELECT \"a;b\" FROM t",
                ],
            );
            suspect(
                statements,
                &[
                    "",
                    ";",
                    "-- SELECT 1",
                    "/* SELECT 1",
                    "SELECTED",
                    "\"SELECT\" 1",
                    "'SELECT' 1",
                    "SET x = 1",
                    "; SELECT 1",
                    "SELECT 1; SET x = 1",
                    "SELECT 1;;",
                    "SELECT 'a",
                    "SELECT \"a",
                    "SELECT 1 /* a",
                    "SELECT 'a' '; SET x = 1",
                    "SELECT 1\0",
                    "SELECT 'a'; SET x = 'b'",
                    "SELECT 'a'';'; SET x = 'b'",
                    "SELECT 1 -- a\n; SET x = 1",
                ],
            );
        }
    }

    #[test]
    fn mysql() {
        plain(
            &MYSQL,
            &[
                "SELECT 1 # get_lock; @x\n",
                "SELECT `a;b`, `it``s`, \"it\"\"s\"",
                "SELECT @@version, @@session.wait_timeout",
                r"SELECT 'it\\'",
                "SELECT 2--1",
                "SELECT /*+ MAX_EXECUTION_TIME(1000) */ 1",
            ],
        );
        suspect(
            &MYSQL,
            &[
                "SELECT @x := 1",
                "SELECT 1 INTO @`x`",
                "SELECT get_lock('a', 1)",
                "SELECT `get_lock`('a', 1)",
                "SELECT \"GET_LOCK\"('a', 1)",
                "SELECT /*!40101 @x := */ 1",
                "SELECT /*M! 1 */ 1",
                "SELECT 1--1; SET x = 1",
                "SELECT /*+ QB_NAME(`a*/ '`) */ ; SET x = 1; -- '",
                // With and without escapes, and with `ANSI_QUOTES`.
                r"SELECT '\'; SET x = 1; -- '",
                r"SELECT 'a\'; SET x = 1; -- b'",
                r#"SELECT "\"; SET x = 1; -- ""#,
                r#"SELECT '\'', "\"; SET x = 1; -- ""#,
            ],
        );
    }

    #[test]
    fn postgres() {
        plain(
            &POSTGRES,
            &[
                "SELECT $1, $$;temp$$, $a$ $b$ ; $a$",
                "SELECT 1 /* /* temp; */ */",
                r"SELECT E'it\'s;', e'\\', 'a'",
                "SELECT a[1], '@', x @> y, x::text FROM t",
                "SELECT pg_advisory_xact_lock(1)",
                "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$ SELECT 1; $$",
            ],
        );
        suspect(
            &POSTGRES,
            &[
                "SELECT set_config('a', 'b', false)",
                "SELECT \"set_config\"('a', 'b', false)",
                "SELECT U&\"\\0073et_config\"('a', 'b', false)",
                "SELECT pg_advisory_lock_shared(1)",
                "CREATE TEMP TABLE t (id INT)",
                "SELECT 1 /* /* */ ; SET x = 1 */ ; SET x = 1",
                "SELECT 1 -- a\r; SET x = 1",
                "SELECT $a$ $b$; SET x = 1",
                "SELECT $1$; SET x = 1; SELECT $1$",
                "SELECT a$$; SET x = 1; SELECT b$$",
                r"SELECT '\'; SET x = 1; --'",
                r"SELECT E'\\'; SET x = 1; --'",
                "SELECT E'a'\n'b\\'; SET x = 1; -- '",
            ],
        );
    }

    #[test]
    fn sqlite() {
        plain(&SQLITE, &["SELECT [a;b], `c;d` FROM t", "SELECT 'temp' FROM t", r"SELECT '\'"]);
        suspect(
            &SQLITE,
            &[
                "CREATE TABLE temp.t (id INT)",
                "CREATE TABLE [temp].t (id INT)",
                "CREATE TABLE `temp`.t (id INT)",
                "CREATE TABLE 'temp'.t (id INT)",
                "CREATE TABLE 'temp' /**/ .t (id INT)",
                r"SELECT '\'; SET x = 1; --'",
                "SELECT [a; SET x = 1",
            ],
        );
    }

    /// Pieces that are whole, whatever is in them, for every database.
    fn piece() -> impl Strategy<Value = String> {
        let text = "[a-z@;#\\[\\]$`?(): \n]{0,8}";
        prop_oneof![
            select(vec![" a ", " 1 ", "(", ")", ",", " = ", " ? ", "\n"]).prop_map(str::to_owned),
            text.prop_map(|text| format!("'{}'", text.replace('\'', "''"))),
            text.prop_map(|text| format!("\"{}\"", text.replace('"', "\"\""))),
            text.prop_map(|text| format!("/* {text} */")),
            "[a-z@;'\" ]{0,8}".prop_map(|text| format!("-- {text}\n")),
        ]
    }

    proptest! {
        #[test]
        fn literals_and_comments_do_not_count(pieces in prop::collection::vec(piece(), 0..8)) {
            let sql = format!("SELECT {}", pieces.join(" "));
            for statements in &ALL {
                prop_assert!(statements.contains(sql.as_bytes()), "{:?}: {sql}", statements.syntax);
            }
        }

        #[test]
        fn what_stands_between_them_does(
            before in prop::collection::vec(piece(), 0..6),
            after in prop::collection::vec(piece(), 0..6),
            dirt in select(vec!["; SET x = 1", "get_lock(1)", "temp", "temporary", "set_config()"]),
        ) {
            let sql = format!("SELECT {} {dirt} {}", before.join(" "), after.join(" "));
            for statements in &ALL {
                let counts = dirt.starts_with(';')
                    || statements.unless.iter().any(|word| {
                        let dirt = dirt.split('(').next().unwrap_or_default();
                        word.eq_ignore_ascii_case(dirt)
                    });
                prop_assert_eq!(statements.contains(sql.as_bytes()), !counts, "{}", sql);
            }
        }

        #[test]
        fn nothing_makes_it_panic(sql in prop::collection::vec(any::<u8>(), 0..64)) {
            let quoted = [b"SELECT ".as_slice(), &sql].concat();
            for statements in &ALL {
                let _ = (statements.contains(&sql), statements.contains(&quoted));
            }
        }

        #[test]
        fn nor_does_a_storm_of_quotes(sql in "[-/*'\"`$@;E\\\\\\[\\]#! \na]{0,40}") {
            for statements in &ALL {
                let _ = statements.contains(format!("SELECT {sql}").as_bytes());
            }
        }
    }
}
